"""From the network's answer to a field: smoothed, and carried on from the lungs into what lies around them.

Neighbouring voxels of the answer differ by more than breathing makes them, so it is smoothed: real and
phantom pairs come out 4 % better, and a refinement ends 3 to 12 % better from there (REFINEMENT.md).

Training weighs the lungs and, far less, the rest of the body; air around the body not at all, so what the
network says there means nothing and may fold. Near the lungs its answer is kept; away from them each voxel
takes an average of the nearest lung's displacement, over the wider a neighbourhood the farther away it lies
(pull-push: Gortler et al., "The Lumigraph", 1996).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from ..constants import NETWORK_FADE_MM, NETWORK_SMOOTH_MM


def smoothed_field(u: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """The field ``u`` (3, D, H, W) after a Gaussian of ``NETWORK_SMOOTH_MM``; ``spacing``: (x, y, z)
    mm of the lattice."""
    sigma = (0.0, *(NETWORK_SMOOTH_MM / s for s in spacing[::-1]))
    return ndimage.gaussian_filter(np.asarray(u, np.float32), sigma, mode="nearest", truncate=3.0)


def extended_from(mask: np.ndarray, u: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """The field ``u`` where the lungs are near, carried on smoothly elsewhere.

    Parameters
    ----------
    mask : (D, H, W) bool, the lungs. u : (3, D, H, W), any unit. spacing : (x, y, z) mm of the lattice.

    Returns
    -------
    (3, D, H, W) float32; ``u`` itself in the lungs (and everywhere if the mask is empty), nothing of it
    farther from them than ``NETWORK_FADE_MM`` and four voxels.
    """
    if not mask.any():
        return np.asarray(u, np.float32)
    # half the lattice is fine enough for distances; by its voxel less, so that lung voxels stay as they are
    coarse = F.max_pool3d(torch.from_numpy(mask.astype(np.float32))[None], 2, ceil_mode=True)[0].numpy() > 0
    voxel = 2 * np.asarray(spacing[::-1])
    away = np.clip(
        (ndimage.distance_transform_edt(~coarse, sampling=voxel) - voxel.max()) / NETWORK_FADE_MM, 0, 1
    )
    trust = torch.from_numpy((0.5 + 0.5 * np.cos(np.pi * away)).astype(np.float32))[None, None]
    trust = F.interpolate(trust, size=mask.shape, mode="trilinear", align_corners=False)
    return _filled(torch.from_numpy(np.array(u, np.float32))[None], trust)[0].numpy()


def _filled(values: torch.Tensor, trust: torch.Tensor) -> torch.Tensor:
    """(1, c, D, H, W) values where ``trust`` (1, 1, D, H, W) is 1,
    and where it is 0 those of a coarser lattice."""
    sides = values.shape[2:]
    if max(sides) <= 2:
        return (
            (values * trust).sum((2, 3, 4), keepdim=True)
            / trust.sum().clamp(min=1e-6)
            * torch.ones_like(trust)
        )
    known = F.avg_pool3d(trust, 2, ceil_mode=True)
    means = F.avg_pool3d(values * trust, 2, ceil_mode=True) / known.clamp(min=1e-6)
    coarse = _filled(means, known)
    around = F.interpolate(coarse, size=sides, mode="trilinear", align_corners=False)
    return torch.lerp(around, values, trust)
