"""From HU to what the network sees: intensity window, lung box on the network's grid,
Gaussian gradient magnitude.

The paper (section II-E) feeds the gradient magnitude because lung density changes with breathing, so that
edges are what two phases share. The window is ours: it takes bone and contrast agent out, and matches data
that come clipped.
"""

from __future__ import annotations

import math

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from ..constants import WINDOW_HU
from ..geometry import Grid

SIGMA = 0.5


def window_to_unit(hu: torch.Tensor, window: tuple[float, float] = WINDOW_HU) -> torch.Tensor:
    """HU -> [0, 1], clipped at both ends of the window."""
    low, high = window
    return ((hu - low) / (high - low)).clamp(0, 1)


def gaussian_derivative_kernels(sigma: float) -> tuple[list[float], list[float]]:
    """Sampled Gaussian and its derivative, 2 * ceil(4 sigma) + 1 taps;
    they sum to 1 and respond with 1 to a unit ramp."""
    radius = math.ceil(4 * sigma)
    x = np.arange(-radius, radius + 1, dtype=float)
    gauss = np.exp(-0.5 * (x / sigma) ** 2)
    gauss /= gauss.sum()
    derivative = x * gauss
    derivative /= np.sum(x * derivative)
    return gauss.tolist(), derivative.tolist()


def _filter(t: torch.Tensor, taps: list[float], axis: int) -> torch.Tensor:
    """Correlate along a spatial axis (2, 3 or 4) with edge replication, as shifted adds:
    faster than a convolution here."""
    radius = len(taps) // 2
    pad = [0] * 6
    pad[2 * (4 - axis)] = pad[2 * (4 - axis) + 1] = radius
    padded = F.pad(t, pad, mode="replicate")
    length = t.shape[axis]
    out: torch.Tensor | None = None
    for offset, tap in enumerate(taps):
        if abs(tap) < 1e-12:
            continue
        part = padded.narrow(axis, offset, length)
        out = part * tap if out is None else out.add_(part, alpha=tap)
    assert out is not None  # a kernel has a tap that counts
    return out


def gradient_magnitude(t: torch.Tensor, sigma: float = SIGMA) -> torch.Tensor:
    """Gaussian gradient magnitude (paper, section II-E), in intensity per voxel.

    Parameters
    ----------
    t : (n, c, D, H, W); channels are filtered one by one. sigma : voxels.
    """
    gauss, derivative = gaussian_derivative_kernels(sigma)
    smooth_x = _filter(t, gauss, 4)
    smooth_xy = _filter(smooth_x, gauss, 3)
    total = _filter(smooth_xy, derivative, 2).square_()
    total += _filter(_filter(smooth_x, derivative, 3), gauss, 2).square_()
    del smooth_x, smooth_xy
    total += _filter(_filter(_filter(t, derivative, 4), gauss, 3), gauss, 2).square_()
    return total.sqrt_()


def sample_on_grid(image: sitk.Image, grid: Grid) -> np.ndarray:
    """(z, y, x) float32 HU of ``image`` at the grid's voxels;
    past the image's edge its border voxels continue.

    Where the grid is coarser than the image, the image is first averaged over whole voxels, so that nothing
    aliases.
    """
    return grid.sample(image, shrink=_shrink_factors(image, grid))


def _shrink_factors(image: sitk.Image, grid: Grid) -> list[int]:
    """Whole factors per image axis by which it may be averaged and still be as fine as the grid."""
    to_grid = np.abs(
        np.linalg.inv(np.reshape(grid.direction, (3, 3))) @ np.reshape(image.GetDirection(), (3, 3))
    )
    spacing = np.asarray(grid.spacing) @ (to_grid**2)
    factors = np.floor(spacing / np.asarray(image.GetSpacing()) + 1e-6)
    return [int(max(1, min(f, n))) for f, n in zip(factors, image.GetSize())]


def network_input(
    image: sitk.Image, grid: Grid, window: tuple[float, float] = WINDOW_HU, sigma: float = SIGMA
) -> torch.Tensor:
    """(D, H, W) float32: the Gaussian gradient magnitude of the windowed image on the network's grid."""
    hu = torch.from_numpy(sample_on_grid(image, grid))
    return gradient_magnitude(window_to_unit(hu, window)[None, None], sigma)[0, 0]
