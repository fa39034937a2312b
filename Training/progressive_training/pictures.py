"""What TensorBoard shows of a run: the field of every level (paper, Fig. 7)
and an overlay before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from .deformation import FINE, Lattice, identity, look_up
from .network import pool_to, resize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .samples import Sample


def warp(moving: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """moving(i + u(i)) for (D, H, W) and u (3, D, H, W) in fine voxels, on moving's own lattice."""
    x, y, z = moving.shape[::-1]
    lattice = Lattice((x, y, z))
    return look_up(moving[None], lattice, identity(lattice) + u)[0]


def overlay(fixed: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(h, w, 3): fixed in orange, other in blue, as in the paper's Fig. 8; grey where they agree."""
    top = max(float(np.percentile(fixed, 99.5)), 1e-6)
    f, o = np.clip(fixed / top, 0, 1), np.clip(other / top, 0, 1)
    return np.stack([f, (f + o) / 2, o], -1)


def level_maps(
    sample: Sample, fields: dict[int, torch.Tensor], total: torch.Tensor, iteration: int
) -> Figure:
    """A figure of u_z, true, estimated and per level, in a coronal slice, and the overlay of the images.

    ``fields``: level -> (1, 3, s, s, s); ``total``: their weighted sum. All in voxels of the 128 grid.
    ``sample`` needs images and truth of one side.
    """
    from matplotlib.figure import Figure

    side = tuple(sample.images.shape[2:])
    total = (
        resize(total.float().cpu(), side)
        if total.shape[-1] < side[-1]
        else pool_to(total.float().cpu(), side)
    )
    fixed, moving = sample.images[0]
    warped = warp(moving, total[0])
    count = max(4, len(fields))
    figure = Figure(figsize=(2.6 * count, 5.4))
    axes = figure.subplots(2, count)
    for row in axes:
        for axis in row:
            axis.axis("off")

    def coronal(volume: torch.Tensor) -> np.ndarray:
        return volume[:, volume.shape[1] // 2].flip(0).numpy()

    limit = float(sample.target.abs().max())
    entries = [("true u_z", sample.target[0, 2]), ("estimated u_z", total[0, 2])]
    for axis, (title, field) in zip(axes[0], entries):
        axis.imshow(coronal(field), cmap="RdBu", vmin=-limit, vmax=limit)
        axis.set_title(title)
    for axis, (title, image) in zip(axes[0][2:], (("before", moving), ("after", warped))):
        axis.imshow(overlay(coronal(fixed), coronal(image)))
        axis.set_title(f"{title}: fixed orange")
    for axis, (level, field) in zip(axes[1], sorted(fields.items())):
        axis.imshow(coronal(field[0, 2].float().cpu()), cmap="RdBu", vmin=-limit, vmax=limit)
        axis.set_title(f"level {level}: {field.shape[-1]}$^3$ of {FINE}$^3$")
    figure.suptitle(f"iteration {iteration}")
    figure.tight_layout()
    return figure
