"""Errors of a field apart by scale: the smooth part, which T2,1's control points can follow, and the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .deformation import TABLE_I, Lattice, evaluate, nearest_control
from .losses import EVALUATION_SIDE
from .network import image_side, pool_to
from .samples import Sample, SampleStream

POINTS = TABLE_I["t21"].grid


def smooth_part(u: torch.Tensor, weight: torch.Tensor, points: int = POINTS) -> torch.Tensor:
    """The field (c, s, s, s) of ``nearest_control``: what of ``u`` so few control points can follow."""
    return evaluate(nearest_control(u, weight, points), Lattice(u.shape[-1]))


@dataclass(frozen=True)
class Scales:
    """Mean lengths in mm inside the fixed lung, (n,) each, of n deformations: the error and what a zero field
    would have, whole, and of each its smooth and its rough part."""

    error: np.ndarray
    smooth: np.ndarray
    rough: np.ndarray
    zero: np.ndarray
    zero_smooth: np.ndarray
    zero_rough: np.ndarray

    def summary(self) -> dict[str, float]:
        """Means, and the shares of the smooth and the rough part that are left."""
        means = {f"{name}_mm": float(np.mean(values)) for name, values in vars(self).items()}
        for part in ("smooth", "rough"):
            means[f"{part}_left"] = means[f"{part}_mm"] / max(means[f"zero_{part}_mm"], 1e-9)
        return means


def scales_of(field: torch.Tensor, sample: Sample) -> tuple[float, ...]:
    """One deformation's figures, in the order of ``Scales``; field in voxels of the 128 grid."""
    scale = torch.tensor(sample.spacing).view(3, 1, 1, 1)
    lung = sample.lung[0, 0]
    truth = sample.target[0] * scale

    def figures(u: torch.Tensor) -> list[float]:
        smooth = smooth_part(u, lung)
        total = lung.sum().clamp_min(1e-6)
        return [float((part.norm(dim=0) * lung).sum() / total) for part in (u, smooth, u - smooth)]

    return (*figures(field[0].float().cpu() * scale - truth), *figures(truth))


def held_out_scales(
    predict: Callable[[torch.Tensor, int], torch.Tensor],
    stream: SampleStream,
    samples: int,
    finest: int,
    size: int,
) -> Scales:
    """``evaluation.held_out_errors`` apart by scale; the same parameters and the same deformations."""
    rows = []
    scans = len(stream.store)
    for number in range(samples * scans):
        sample = stream.sample(number, image_side(finest, size), EVALUATION_SIDE, scan=number % scans)
        field = predict(sample.images, max(EVALUATION_SIDE, finest))
        rows.append(scales_of(pool_to(field, EVALUATION_SIDE), sample))
    return Scales(*np.array(rows).T)
