"""Scans that are stored mirrored, turned or upside down: what their lungs' shape tells of it.

A single scan tells head from feet: the shadow that lungs cast along the body's axis is filled by their apices
in its middle, and by the rim around the diaphragm's domes at its edge. Right from left, and front from back,
it does not tell surely: hearts and scarred lungs vary too much. A pair does, where one of two is flipped;
where both are mirrored alike, the registration is as good as in the mirror.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .geometry import Box, Grid
from .lungs import Lungs

MIRROR_GRID, MIRROR_GAIN = 32, 0.06  # overlap gained by a flip, from which on the user is told
DOWN_SLOPE = -0.25  # mm a mm; measured in 18 scans: 0.54 to 1.22 as they are, and as much below 0 flipped
FLIPS = {
    "left to right": (slice(None), slice(None), slice(None, None, -1)),
    "front to back": (slice(None), slice(None, None, -1), slice(None)),
    "head to feet": (slice(None, None, -1), slice(None), slice(None)),
    "by half a turn about the body's axis": (slice(None), slice(None, None, -1), slice(None, None, -1)),
}


def upside_down(lungs: Lungs) -> bool:
    """Do these lungs stand on their apices? False where top or bottom is cut: then it cannot be known."""
    if {"top", "bottom"} & set(lungs.cut):
        return False
    mask = sitk.GetArrayViewFromImage(lungs.mask)[::2, ::2, ::2] > 0
    shadow = mask.any(0)
    spacing = 2 * np.asarray(Grid.from_image(lungs.mask).spacing)
    depth = ndimage.distance_transform_edt(np.pad(shadow, 1), sampling=spacing[1::-1])[1:-1, 1:-1]
    lowest, highest = mask.argmax(0), len(mask) - 1 - mask[::-1].argmax(0)
    middle = 0.5 * spacing[2] * (lowest + highest)
    inside, height = depth[shadow], middle[shadow]
    if inside.std() < 1e-6:
        return False
    return bool(np.polyfit(inside, height, 1)[0] < DOWN_SLOPE)


def mirrored(fixed: Lungs, moving: Lungs) -> str | None:
    """How the moving lungs must be flipped to fit the fixed ones clearly better (see ``FLIPS``); or None.

    Both are looked at in their own boxes, so that neither place nor size matters.
    """
    shapes = []
    for lungs in (fixed, moving):
        (mean, sd) = lungs.moments()
        grid = Box(mean - 2.5 * sd, mean + 2.5 * sd).grid(MIRROR_GRID)
        shapes.append(sitk.GetArrayFromImage(grid.resample(sitk.Cast(lungs.mask, sitk.sitkFloat32))) > 0.5)
    a, b = shapes

    def overlap(other: np.ndarray) -> float:
        return 2 * float((a & other).sum()) / max(1, int(a.sum() + other.sum()))

    plain = overlap(b)
    gains = {name: overlap(b[flip]) - plain for name, flip in FLIPS.items()}
    best = max(gains, key=lambda name: gains[name])
    return best if gains[best] > MIRROR_GAIN else None
