"""Training without known displacements (paper, section IV-F): the moving image is warped and compared.

The images are the network's input, so that what two phases share is compared: edges, not densities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from ProgressiveRegistrationLib.network.compose import at_displaced
from ProgressiveRegistrationLib.refinement.features import mind_ssc

from .network import UNIT, resize
from .values import Count, Number, one_of

FLAT = 0.05  # of the mean variance, added to the local one


@dataclass(frozen=True)
class Similarity:
    """``measure``: "lncc", 1 - the local normalised cross-correlation over windows of 2 ``radius`` + 1
    voxels, or "mind", the squared differences of MIND-SSC. ``smoothness``: weight of the field's mean squared
    gradient (voxels a voxel).
    """

    measure: Annotated[str, one_of("lncc", "mind")] = "lncc"
    radius: Count = 2
    smoothness: Number = 0.5


def local_dissimilarity(a: torch.Tensor, b: torch.Tensor, radius: int) -> torch.Tensor:
    """1 - local normalised cross-correlation (1, 1, D, H, W) of two such images; 1 where one is flat."""

    def mean(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool3d(x, 2 * radius + 1, 1, radius, count_include_pad=False)

    def variance(x: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        v = (mean(x * x) - m * m).clamp_min(0)
        return v + FLAT * v.mean().detach() + 1e-12

    mean_a, mean_b = mean(a), mean(b)
    together = mean(a * b) - mean_a * mean_b
    return 1 - together / torch.sqrt(variance(a, mean_a) * variance(b, mean_b))


def _mind(image: torch.Tensor) -> torch.Tensor:
    """(1, 12, D, H, W) float32 of (1, 1, D, H, W)."""
    return mind_ssc(image[0, 0]).float().permute(3, 0, 1, 2)[None]


def dissimilarity(
    images: torch.Tensor, field: torch.Tensor | None, weight: torch.Tensor, options: Similarity
) -> torch.Tensor:
    """Weighted mean of what remains unlike once the moving image is warped (``field`` None: as it is).

    images : (1, 2, S, S, S). field : (1, 3, s, s, s), voxels of the 128 grid. weight : (1, 1, t, t, t).
    """
    fixed, moving = images[:, :1].float(), images[:, 1:].float()
    side = images.shape[-1]
    if field is not None:
        field = resize(field.float(), side)
    weight = resize(weight, side)

    def warped(x: torch.Tensor) -> torch.Tensor:
        return x if field is None else at_displaced(x, field, (UNIT,) * 3)

    if options.measure == "mind":
        unlike = (_mind(fixed) - warped(_mind(moving))).square().sum(1, keepdim=True)
    else:
        unlike = local_dissimilarity(fixed, warped(moving), options.radius)
    return (unlike * weight).sum() / weight.sum().clamp_min(1e-6)


def roughness(field: torch.Tensor) -> torch.Tensor:
    """Mean squared gradient of (1, 3, s, s, s), voxels of the 128 grid a voxel of it."""
    step = UNIT / field.shape[-1]
    parts = [field.diff(dim=axis).div(step).square().sum(1).mean() for axis in (2, 3, 4)]
    return parts[0] + parts[1] + parts[2]


def unsupervised_loss(
    field: torch.Tensor, images: torch.Tensor, weight: torch.Tensor, options: Similarity
) -> torch.Tensor:
    """What training lowers; shapes as in ``dissimilarity``. Gradients flow through the warp (an STN)."""
    unlike = dissimilarity(images, field, weight, options)
    return unlike + options.smoothness * roughness(field.float())
