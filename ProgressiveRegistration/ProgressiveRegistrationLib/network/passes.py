"""Let a network look again: at the moving image as warped so far, at the pair's mirror image, and at the pair
with fixed and moving exchanged.

What a network misses in a first pass it sees in a second, if it was trained on small motion too; the mean of
the fields of a pair and of its mirror image has less of its noise; and of the fields there and back, only
what they agree on is kept, so that a scan lies on itself exactly. What a model gains by, its card says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from ..geometry import Grid
from .compose import at_displaced
from .field import smoothed_field
from .input import gradient_magnitude, network_input, sample_on_grid, window_to_unit


def first_input(card: Any, fixed: sitk.Image, moving: sitk.Image, grids: tuple[Grid, Grid]) -> torch.Tensor:
    """(1, 2, D, H, W): what the network of ``card`` sees of a pair, each image on its own grid."""
    pair = [network_input(im, g, card.window, card.sigma) for im, g in zip((fixed, moving), grids)]
    return torch.stack(pair)[None]


def answer(network: Any, images: torch.Tensor) -> np.ndarray:
    """(3, D, H, W) voxels: the network's field for ``images`` (1, 2, D, H, W), or where its card says so,
    what that and the fields of the mirror image and of the exchanged pair have in common."""
    found = _mirrored_too(network, images)
    if not getattr(network.card, "symmetric", False):
        return found
    return symmetric_field(found, _mirrored_too(network, images.flip(1)))


def _mirrored_too(network: Any, images: torch.Tensor) -> np.ndarray:
    """The mean of the fields of a pair and of its mirror image, where the card asks for it."""
    found = network.predict(images)
    if not getattr(network.card, "mirrored", False):
        return found
    mirrored = (
        network.predict(images.flip(-1))[..., ::-1] * np.array([-1, 1, 1], np.float32)[:, None, None, None]
    )
    return (found + mirrored) / 2


def symmetric_field(there: np.ndarray, back: np.ndarray, iterations: int = 3) -> np.ndarray:
    """The u with u(x) = (there(x) - back(x + u(x))) / 2, all (3, D, H, W) in voxels, by iteration.

    With the arguments exchanged it gives the inverse transform, and of one scan with itself nothing.
    """
    first, second = (torch.from_numpy(np.ascontiguousarray(f, np.float32))[None] for f in (there, back))
    u = first
    for _ in range(iterations):
        u = (first - at_displaced(second, u, first.shape[2:])) / 2
    return u[0].numpy()


def later_passes(
    network: Any, u: np.ndarray, fixed: sitk.Image, moving: sitk.Image, grids: tuple[Grid, Grid]
) -> np.ndarray:
    """The field ``u`` (3, D, H, W) of the first pass, in voxels, after those that the card asks for too.

    Each sees the moving image warped by the field so far (smoothed). Both images are averaged from a grid
    twice as fine, so that warping blurs little. A pass's own field is applied first: T_1 o T_2.
    """
    card = network.card
    if getattr(card, "passes", 1) < 2:
        return u
    fixed_grid = grids[0]
    fine = []
    for image, grid in zip((fixed, moving), grids):
        x, y, z = grid.spacing
        hu = sample_on_grid(image, grid.with_spacing((x / 2, y / 2, z / 2)))
        fine.append(window_to_unit(torch.from_numpy(hu), card.window))
    field = torch.from_numpy(np.array(u, np.float32))[None]
    for _ in range(card.passes - 1):
        field = torch.from_numpy(smoothed_field(field[0].numpy(), fixed_grid))[None]
        finer = F.interpolate(field, scale_factor=2, mode="trilinear", align_corners=False)
        warped = at_displaced(fine[1][None, None], finer, field.shape[2:])
        both = F.avg_pool3d(torch.cat([fine[0][None, None], warped], 1), 2)
        rest = torch.from_numpy(answer(network, gradient_magnitude(both, card.sigma)))[None]
        field = rest + at_displaced(field, rest, field.shape[2:])
    return field[0].numpy()
