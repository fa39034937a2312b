"""What training minimises, and the error that is reported in mm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .samples import Sample

EVALUATION_SIDE = 64  # held-out errors are taken on this grid
SOFT, SMALL = 0.1, 2.0


def weighted_loss(
    predicted: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, kind: str = "squared"
) -> torch.Tensor:
    """The weighted mean error of (n, 3, ...) fields, weights (n, 1, ...).

    ``kind`` "squared": eq. 4, squared vector errors, voxel^2. "distance": lengths of the error vectors,
    voxels (rounded off at 0.1), for which small motion counts as much as large: what TRE measures.
    "relative": the squared errors over the sample's mean squared displacement (plus that of 2 voxels).
    """
    total = weight.sum().clamp_min(1e-6)
    error = (predicted - target).square().sum(1, keepdim=True)
    if kind == "distance":
        error = torch.sqrt(error + SOFT**2) - SOFT
    mean = (error * weight).sum() / total
    if kind == "relative":
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
