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
from ..geometry import Grid


def smoothed_field(u: np.ndarray, grid: Grid, lattice: Grid | None = None) -> np.ndarray:
    """The field ``u`` (3, D, H, W) of ``grid`` at ``lattice``, after a Gaussian of ``NETWORK_SMOOTH_MM``.

    ``lattice`` (None: the grid itself) has the grid's axes; past the grid's border its values go on.
    """
    lattice = lattice or grid
    first = grid.world_to_index(np.asarray(lattice.origin))
    out = torch.from_numpy(np.ascontiguousarray(u, np.float32))
    for axis in range(3):
        centres = (first[axis] * grid.spacing[axis]) + lattice.spacing[axis] * np.arange(lattice.size[axis])
        weights = torch.from_numpy(_gaussian_at(centres, grid.size[axis], grid.spacing[axis]))
        out = torch.movedim(torch.movedim(out, 3 - axis, -1) @ weights.T, -1, 3 - axis)
    return out.contiguous().numpy()


def _gaussian_at(centres: np.ndarray, count: int, spacing: float) -> np.ndarray:
    """(n, count) float32: weights around ``centres`` (n,) mm of ``count`` samples ``spacing`` mm apart."""
    reach = int(np.ceil(3 * NETWORK_SMOOTH_MM / spacing)) + 1
    offsets = np.arange(-reach, reach + 1)
    nearest = np.rint(centres / spacing).astype(int)
    index = nearest[:, None] + offsets
    away = index * spacing - centres[:, None]
    values = np.where(
        np.abs(away) <= 3 * NETWORK_SMOOTH_MM + spacing, np.exp(-0.5 * (away / NETWORK_SMOOTH_MM) ** 2), 0.0
    )
    values /= values.sum(1, keepdims=True)
    out = np.zeros((len(centres), count))
    np.add.at(out, (np.arange(len(centres))[:, None], np.clip(index, 0, count - 1)), values)
    return out.astype(np.float32)


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
