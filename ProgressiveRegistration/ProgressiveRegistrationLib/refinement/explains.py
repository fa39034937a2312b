"""How well a field explains a pair of images, before anything is refined: for choosing between fields to
start from.
"""

from __future__ import annotations

import SimpleITK as sitk
import torch

from ..field import DisplacementField
from ..progress import Stop
from .matching import FeaturePair, LungPoints, mean_square, shuffled
from .warp import Warp

VOXEL_MM = 4.0
POINTS = 40_000
NOISE = 2e-3
DILATION_MM = 4.0


def unexplained(
    fixed: sitk.Image,
    moving: sitk.Image,
    field: DisplacementField,
    mask: sitk.Image,
    *,
    device: str = "cpu",
    seed: int = 0,
    cancelled: Stop = None,
) -> float:
    """The squared feature difference that a field leaves in the lungs, as a share of what unrelated places
    differ by.

    0: the images are the same after it; 1: no better than chance. Points that it leads out of the moving
    image count as chance, so that nothing is gained by them. ``mask``: above 0 in the fixed image's lungs.
    """
    target = torch.device("cpu" if device.startswith("mps") else device)
    generator = torch.Generator().manual_seed(seed)
    lung = LungPoints(mask, DILATION_MM, fixed)
    warp = Warp(field, target)
    pair = FeaturePair(fixed, moving, warp, lung, VOXEL_MM, NOISE, cancelled)
    points = lung.draw(POINTS, generator).to(target)
    wanted = pair.fixed_at(points)
    difference, seen = pair.difference(points + warp.at(points), wanted)
    other = shuffled(len(wanted), generator, target)
    chance = float((wanted - wanted[other]).square().sum(1).mean())
    unseen = 1 - float(seen.mean())
    return (1 - unseen) * float(mean_square(difference, seen)) / max(chance, 1e-9) + unseen
