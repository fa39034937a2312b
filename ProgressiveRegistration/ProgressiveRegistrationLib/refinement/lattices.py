"""Values on regular lattices in LPS space, as torch sees them: look-up at points, smoothing, subdivision,
roughness."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..geometry import Grid


class Lattice:
    """A Grid aligned with LPS, as torch sees it: values (c, D, H, W) looked up at LPS points."""

    def __init__(self, grid: Grid, device: torch.device) -> None:
        self.grid = grid
        self.origin = torch.tensor(grid.origin, dtype=torch.float32, device=device)
        self.inverse = torch.tensor(
            np.linalg.inv(grid.index_to_world_matrix), dtype=torch.float32, device=device
        )
        self.last = torch.tensor(grid.size, dtype=torch.float32, device=device) - 1

    def index(self, points: torch.Tensor) -> torch.Tensor:
        """LPS mm (n, 3) -> continuous index (n, 3)."""
        return (points - self.origin) @ self.inverse.T

    def normalised(self, points: torch.Tensor) -> torch.Tensor:
        """(1, 1, 1, n, 3): as grid_sample with align_corners=True wants them."""
        return (self.index(points) / self.last.clamp(min=1) * 2 - 1)[None, None, None]


def look_up(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """(n, c): values (c, D, H, W) at normalised points, trilinear; past the border its value."""
    exact = in_any_order(values)
    found = F.grid_sample(exact[None], where.to(exact.dtype), padding_mode="border", align_corners=True)
    return found[0, :, 0, 0].T.to(values.dtype)


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """What was drawn on the CPU, on a device; a GPU fetches it without being waited for."""
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def in_any_order(values: torch.Tensor) -> torch.Tensor:
    """Nodes in float64 where a GPU adds up their gradients in any order, so that none of it reaches float32.

    In float32 the last digits of a slope would move a refined field by up to 0.1 mm from run to run.
    """
    return values.double() if values.device.type != "cpu" and values.requires_grad else values


class RowsAt:
    """Rows (D*H*W, c) of an LPS-aligned lattice at LPS points (n, 3), trilinear; past the border its value,
    slope 0."""

    def __init__(self, lattice: Lattice, rows: torch.Tensor, points: torch.Tensor) -> None:
        index = lattice.index(points)
        inside = ((index >= 0) & (index <= lattice.last)).float()
        index = torch.minimum(index.clamp(min=0), lattice.last)
        base = torch.minimum(index.floor(), (lattice.last - 1).clamp(min=0))
        f = index - base
        self._per_mm = inside * lattice.inverse.diagonal()
        self._x, self._y, self._z = torch.stack([1 - f, f], -1).unbind(1)
        nx, ny, nz = lattice.grid.size
        sx, sy, sz = (0 if n == 1 else s for n, s in ((nx, 1), (ny, nx), (nz, nx * ny)))
        corners = torch.tensor(
            [x * sx + y * sy + z * sz for z in (0, 1) for y in (0, 1) for x in (0, 1)], device=points.device
        )
        i = base.long()
        first = i[:, 0] + nx * (i[:, 1] + ny * i[:, 2])
        found = rows.index_select(0, (first[:, None] + corners).view(-1))
        self._corners = found.view(len(points), 8, -1).float()

    def value(self) -> torch.Tensor:
        """(n, c)."""
        zy = self._z[:, :, None] * self._y[:, None]
        weights = (zy[..., None] * self._x[:, None, None]).view(-1, 1, 8)
        return torch.bmm(weights, self._corners)[:, 0]

    def slope(self, along: torch.Tensor) -> torch.Tensor:
        """(n, 3) per mm: the gradient of ``value() @ along`` with ``along`` (n, c) held."""
        v = torch.bmm(self._corners, along[:, :, None]).view(-1, 2, 2, 2)  # at the corners (z, y, x)
        over_z = (v * self._z[:, :, None, None]).sum(1)  # (n, y, x)
        x = (over_z.diff(dim=2)[..., 0] * self._y).sum(1)
        y = (over_z.diff(dim=1)[:, 0] * self._x).sum(1)
        over_x = (v.diff(dim=1)[:, 0] * self._x[:, None]).sum(2)  # (n, y)
        z = (over_x * self._y).sum(1)
        return torch.stack([x, y, z], 1) * self._per_mm


def smoothed(nodes: torch.Tensor) -> torch.Tensor:
    """Nodes (3, D, H, W) smoothed twice by a 3^3 box; zeros outside."""
    out = in_any_order(nodes)[None]
    for _ in range(2):
        out = F.avg_pool3d(out, 3, 1, 1)
    return out[0].to(nodes.dtype)


def subdivided(nodes: torch.Tensor) -> torch.Tensor:
    """Control values (3, d, h, w) of cubic B-splines -> (3, 2d-1, 2h-1, 2w-1): one step of subdivision;
    ends stay.

    Trilinear look-up then follows the spline closely: a field that is trilinear between its own nodes has
    creases, which cost accuracy and show in the Jacobian determinant.
    """
    for axis in (1, 2, 3):
        n = nodes.shape[axis]
        middle = (nodes.narrow(axis, 0, n - 1) + nodes.narrow(axis, 1, n - 1)) / 2
        inner = (
            middle.narrow(axis, 0, n - 2) + 2 * nodes.narrow(axis, 1, n - 2) + middle.narrow(axis, 1, n - 2)
        ) / 4
        even = torch.cat([nodes.narrow(axis, 0, 1), inner], axis)
        pairs = torch.stack([even, middle], axis + 1).flatten(axis, axis + 1)
        nodes = torch.cat([pairs, nodes.narrow(axis, n - 1, 1)], axis)
    return nodes


def fade(grid: Grid, device: torch.device, width: float) -> torch.Tensor:
    """(D, H, W): 1 inside, 0 on the lattice's outermost nodes, a cosine between over ``width`` mm."""
    out = torch.ones(grid.shape, device=device)
    for axis, (n, s) in enumerate(zip(grid.size, grid.spacing)):
        i = torch.arange(n, device=device)
        away = torch.minimum(i, n - 1 - i) * s / width
        shape = [1, 1, 1]
        shape[2 - axis] = -1
        out = out * (0.5 - 0.5 * torch.cos(torch.pi * away.clamp(max=1))).view(shape)
    return out


def roughness(w: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Mean squared gradient of w (3, D, H, W), mm per mm."""
    total = 0.0
    for axis in range(3):
        total = total + (w.diff(dim=1 + axis) / grid.spacing[2 - axis]).square().sum(0).mean()
    return total
