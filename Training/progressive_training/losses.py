"""What training minimises, and the error that is reported in mm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .samples import Sample

EVALUATION_SIDE = 64  # held-out errors are taken on this grid
SOFT, SMALL = 0.1, 2.0


@dataclass(frozen=True)
class Loss:
    """label : for figures. lengths : lengths of the error vectors instead of their squares.
    relative : over the sample's mean squared displacement (plus that of 2 voxels)."""

    label: str
    lengths: bool = False
    relative: bool = False


# "squared": eq. 4. "distance": for it small motion counts as much as large, which is what TRE measures.
LOSSES = {
    "squared": Loss("training loss (voxel²)"),
    "distance": Loss("training loss (voxels)", lengths=True),
    "relative": Loss("training loss (relative)", relative=True),
}


def weighted_loss(
    predicted: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, kind: str = "squared"
) -> torch.Tensor:
    """The weighted mean error of (n, 3, ...) fields in voxels, weights (n, 1, ...); ``kind``: of ``LOSSES``.

    Lengths are rounded off at 0.1 voxel.
    """
    loss = LOSSES[kind]
    total = weight.sum().clamp_min(1e-6)
    error = (predicted - target).square().sum(1, keepdim=True)
    if loss.lengths:
        error = torch.sqrt(error + SOFT**2) - SOFT
    mean = (error * weight).sum() / total
    if loss.relative:
        mean = mean / ((target.square().sum(1, keepdim=True) * weight).sum() / total + SMALL**2)
    return mean


def lung_error(field: torch.Tensor, sample: Sample) -> tuple[float, float]:
    """Mean |u - û| inside the fixed lung in mm, and the same for a zero field."""
    field, sample = field.float().cpu(), sample.to(torch.device("cpu"))
    scale = torch.tensor(sample.spacing).view(1, 3, 1, 1, 1)
    lung = sample.lung
    error = ((field - sample.target) * scale).norm(dim=1, keepdim=True)
    zero = (sample.target * scale).norm(dim=1, keepdim=True)
    total = lung.sum().clamp_min(1e-6)
    return float((error * lung).sum() / total), float((zero * lung).sum() / total)
