"""How alike the fixed image is to the moving image's surroundings: an input of some networks (not in the
paper).

A cost volume as in optical flow (Dosovitskiy et al., "FlowNet", 2015), of local normalised
cross-correlations of the network's input instead of learned features: nothing of it is trained, and it does
not depend on the images' scale.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

RADIUS = 2
SHARPNESS = 20.0
FLAT = 0.05  # of the mean variance: where there is less, there is nothing to recognise


def shifts(radius: int = RADIUS) -> torch.Tensor:
    """((2 radius + 1)^3, 3): the shifts x, y, z in cells, in the order of ``correlation``'s maps."""
    line = torch.arange(-radius, radius + 1)
    return torch.cartesian_prod(line, line, line).flip(1)


def _window(x: torch.Tensor) -> torch.Tensor:
    """Means of (c, D, H, W) over cells of 2^3 voxels, and then twice over 3^3 cells: (c, D/2, H/2, W/2)."""
    x = F.avg_pool3d(x[None], 2)
    for _ in range(2):
        x = F.avg_pool3d(x, 3, 1, 1, count_include_pad=False)
    return x[0]


def _moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Local mean and variance, the latter kept from 0."""
    mean = _window(x)
    variance = (_window(x * x) - mean * mean).clamp_min(0)
    return mean, variance + FLAT * variance.mean() + 1e-20


@torch.no_grad()
def local_correlation(images: torch.Tensor, radius: int = RADIUS) -> torch.Tensor:
    """((2 radius + 1)^3, D/2, H/2, W/2): normalised cross-correlation of fixed and shifted moving image, in
    [-1, 1].

    images : (2, D, H, W) float32 with even sides. Shifts are whole cells of 2^3 voxels; what would come
    from outside the moving image correlates with nothing.
    """
    fixed, moving = images[:1], images[1:]
    mean, variance = _moments(fixed)
    moving_mean, moving_variance = _moments(moving)
    moving = F.pad(moving, (2 * radius,) * 6)
    moving_mean = F.pad(moving_mean, (radius,) * 6)
    moving_variance = F.pad(moving_variance, (radius,) * 6, value=float("inf"))
    depth, height, width = mean.shape[1:]
    out = []
    for z, y, x in torch.cartesian_prod(*(torch.arange(2 * radius + 1),) * 3).tolist():
        shifted = moving[:, 2 * z : 2 * (z + depth), 2 * y : 2 * (y + height), 2 * x : 2 * (x + width)]
        cells = (slice(None), slice(z, z + depth), slice(y, y + height), slice(x, x + width))
        together = _window(fixed * shifted) - mean * moving_mean[cells]
        out.append(together / torch.sqrt(variance * moving_variance[cells]))
    return torch.cat(out)


@torch.no_grad()
def correlation(images: torch.Tensor, side: tuple[int, int, int], radius: int = RADIUS) -> torch.Tensor:
    """Where around each cell of the fixed image the moving image looks like it.

    Parameters
    ----------
    images : (1, 2, D, H, W), fixed and moving, the network's input; sides twice ``side`` or a multiple of
        that.
    side : (d, h, w) cells. radius : shifts of up to so many cells along each axis.

    Returns
    -------
    (1, (2 radius + 1)^3, d, h, w) float32: a softmax over the shifts, times the root of their number. Its
    expectation is a displacement, so that a linear layer can read one off.
    """
    factor = images.shape[-1] // (2 * side[-1])
    fine = images.float()
    if factor > 1:
        fine = F.avg_pool3d(fine, factor)
    alike = local_correlation(fine[0], radius)
    return torch.softmax(SHARPNESS * alike, 0)[None] * len(alike) ** 0.5
