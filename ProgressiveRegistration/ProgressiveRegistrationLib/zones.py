"""Six zones of the lungs without lobes: right and left, each in three parts of equal height."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .geometry import Grid

NAMES = {
    1: "right upper",
    2: "right middle",
    3: "right lower",
    4: "left upper",
    5: "left middle",
    6: "left lower",
    7: "upper",  # of one lung in an image that does not show on which side of the body it lies
    8: "middle",
    9: "lower",
}
UNKNOWN_SIDE = 7
SECOND_LUNG = 0.15  # share of the larger lung from which on a part is the other lung
ONE_LUNG_MM = 190.0  # a single part that is wider than this is both lungs, joined
OFF_MIDDLE_MM = 30.0  # as far from the middle a single lung must lie at least for its side to be told


def lung_zones(mask: sitk.Image, middle: float | None = None) -> np.ndarray:
    """(z, y, x) uint8 on the mask's grid, which is aligned with LPS: 0 outside the lungs, else a key of
    ``NAMES``.

    Parameters
    ----------
    middle : LPS x in mm of the body's middle, which says what side a single lung is on; None: 0. An image of
        one lung alone has its middle in that lung: then the side is not known.
    """
    lungs = sitk.GetArrayViewFromImage(mask) > 0
    grid = Grid.from_image(mask)
    x = grid.index_to_world(np.stack([np.arange(grid.size[0]), *np.zeros((2, grid.size[0]))], -1))[:, 0]
    z = grid.index_to_world(np.stack([*np.zeros((2, grid.size[2])), np.arange(grid.size[2])], -1))[:, 2]
    middle = 0.0 if middle is None else middle
    left = _left(lungs, x, middle)
    out = np.zeros(grid.shape, np.uint8)
    parts = [(lungs & ~left, 1), (left, 4)]
    if left.any() != (lungs & ~left).any():
        off = abs(np.average(x, weights=lungs.sum((0, 1))) - middle)
        if off < OFF_MIDDLE_MM:
            parts = [(lungs, UNKNOWN_SIDE)]
    for side, first in parts:
        if not side.any():
            continue
        heights = z[np.flatnonzero(side.any((1, 2)))]
        low, high = heights.min(), heights.max()
        part = np.clip(np.floor(3 * (high - z) / max(high - low, 1e-6)), 0, 2).astype(np.uint8)
        out[side] = np.broadcast_to((first + part)[:, None, None], out.shape)[side]
    return out


def _left(lungs: np.ndarray, x: np.ndarray, middle: float) -> np.ndarray:
    """(z, y, x) bool: the left lung, which lies at larger x."""
    labels, count = ndimage.label(lungs)
    if not count:
        return np.zeros_like(lungs)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    order = np.argsort(sizes)[::-1]
    centres = ndimage.center_of_mass(lungs, labels, range(1, count + 1))
    at = np.array([np.nan, *(np.interp(c[2], np.arange(len(x)), x) for c in centres)])
    if count > 1 and sizes[order[1]] > SECOND_LUNG * sizes[order[0]]:
        between = (at[order[0]] + at[order[1]]) / 2
        is_left = np.zeros(count + 1, bool)
        is_left[1:] = at[1:] > between
        return is_left[labels]
    across = lungs.sum((0, 1))
    reach = x[np.flatnonzero(across)]
    if reach.max() - reach.min() < ONE_LUNG_MM:
        return lungs & (np.average(x, weights=across) > middle)
    # joined somewhere: cut where they are thinnest, in the middle half of what they span
    inner = np.flatnonzero(np.abs(x - (reach.max() + reach.min()) / 2) < (reach.max() - reach.min()) / 4)
    smooth = ndimage.uniform_filter1d(across.astype(float), 5)
    return lungs & (x > x[inner[np.argmin(smooth[inner])]])
