"""One field out of a field per level, by concatenation instead of a sum (paper, section IV-F, eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def at_displaced(field: torch.Tensor, u: torch.Tensor, extent: Sequence[int]) -> torch.Tensor:
    """(n, c, D, H, W): linear values of ``field`` (n, c, d, h, w) at x + u(x), x a cell centre of ``u``.

    Both cover the same box, cell-centred; beyond it the border value continues. u : (n, 3, D, H, W), channels
    x, y, z, in voxels of a grid of ``extent`` (D, H, W) cells over that box.
    """
    lines = [(torch.arange(s, device=u.device, dtype=u.dtype) + 0.5) * (2 / s) - 1 for s in u.shape[2:]]
    z, y, x = torch.meshgrid(*lines, indexing="ij")
    scale = torch.tensor([2 / e for e in reversed(extent)], device=u.device, dtype=u.dtype)
    at = torch.stack([x, y, z], -1) + u.permute(0, 2, 3, 4, 1) * scale
    return F.grid_sample(field.to(u.dtype), at, mode="bilinear", padding_mode="border", align_corners=False)


def concatenated(fields: Sequence[torch.Tensor], extent: Sequence[int]) -> list[torch.Tensor]:
    """The displacements of T_0, T_0 o T_1, T_0 o T_1 o T_2 ... for the levels' fields, coarsest first.

    T_k(x) = x + u_k(x), so that the finest transform is applied to a point first. Each result is on its
    finest level's grid; units and ``extent`` as in ``at_displaced``.
    """
    out = [fields[0]]
    for u in fields[1:]:
        out.append(u + at_displaced(out[-1], u, extent))
    return out
