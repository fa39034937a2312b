"""Cubic B-splines on lattices of nodes: at points, with the adjoint, and on grids; how nodes are shaped."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix

from ..geometry import Grid

SLAB_POINTS = 200_000


class SplineAt:
    """The cubic B-splines of an LPS-aligned node lattice at LPS points (n, 3): a sparse matrix.

    64 nodes a point; 0 past the lattice, and at its border where the nodes there are 0. ``sparse``: scipy
    does the sums; None: on a CPU.
    """

    def __init__(self, grid: Grid, points: torch.Tensor, *, sparse: bool | None = None) -> None:
        self.shape, device = grid.shape, points.device
        self._sparse = device.type == "cpu" if sparse is None else sparse
        origin = torch.tensor(grid.origin, dtype=torch.float32, device=device)
        spacing = torch.tensor(grid.spacing, dtype=torch.float32, device=device)
        last = torch.tensor(grid.size, dtype=torch.float32, device=device) - 1
        weights, taps = _taps((points - origin) / spacing, last)
        wx, wy, wz = weights.unbind(1)
        nx, ny, _ = grid.size
        ix, iy, iz = taps.unbind(1)
        zy = (wz[:, :, None] * wy[:, None]).view(-1, 16, 1)
        rows = (iz[:, :, None] * ny + iy[:, None]).view(-1, 16, 1) * nx
        self._weights = (zy * wx[:, None]).view(-1)
        self._index = (rows + ix[:, None]).view(-1)
        self._count = len(points)
        if self._sparse:
            ends = np.arange(0, 64 * self._count + 1, 64, dtype=np.int32)
            parts = self._weights.numpy(), self._index.numpy(), ends
            self._matrix = csr_matrix(parts, (self._count, int(np.prod(grid.size))))

    def value(self, nodes: torch.Tensor) -> torch.Tensor:
        """(n, 3) of nodes (3, D, H, W)."""
        rows = nodes.reshape(3, -1).T.contiguous()
        if self._sparse:
            return torch.from_numpy(self._matrix @ rows.numpy())
        return (rows[self._index] * self._weights[:, None]).view(self._count, 64, 3).sum(1)

    def adjoint(self, slopes: torch.Tensor) -> torch.Tensor:
        """(3, D, H, W): by nodes, the gradient of a cost whose gradient by ``value`` is ``slopes`` (n, 3)."""
        if self._sparse:
            out = torch.from_numpy(self._matrix.T @ slopes.contiguous().numpy())
        else:
            # float64, as a GPU adds up in any order: in float32 the last digits of a slope move a field by
            # up to 0.1 mm from run to run
            out = torch.zeros((int(np.prod(self.shape)), 3), dtype=torch.float64, device=slopes.device)
            spread = slopes[:, None].expand(-1, 64, 3).reshape(-1, 3) * self._weights[:, None]
            out = out.index_add(0, self._index, spread.double()).float()
        return out.T.reshape(3, *self.shape)


def spline_on(nodes: torch.Tensor, grid: Grid, other: Grid) -> torch.Tensor:
    """(3, D, H, W) on ``other``: the splines of nodes (3, d, h, w) on the LPS-aligned lattice ``grid``."""
    if np.abs(np.subtract(other.direction, grid.direction)).max() < 1e-9:
        first = (np.asarray(other.origin) - grid.origin) / grid.spacing
        step = np.asarray(other.spacing) / grid.spacing
        matrices = [
            _spline_matrix(first[a] + step[a] * np.arange(other.size[a]), grid.size[a]).to(nodes.device)
            for a in range(3)
        ]
        return separable(nodes, matrices)
    points = torch.from_numpy(other.points().reshape(-1, 3)).to(nodes.device)
    found = [SplineAt(grid, part).value(nodes) for part in points.split(SLAB_POINTS)]
    return torch.cat(found).T.reshape(3, *other.shape)


def separable(values: torch.Tensor, matrices: list[torch.Tensor]) -> torch.Tensor:
    """Values (3, d, h, w) after ``matrices`` (n, size) along x, y, z."""
    mx, my, mz = matrices
    c, d = values.shape[:2]
    out = my @ (values @ mx.T)
    return (mz @ out.reshape(c, d, -1)).view(c, len(mz), len(my), len(mx))


def shaping(grid: Grid, width: float, device: torch.device) -> list[torch.Tensor]:
    """Matrices (n, n) along x, y, z for ``separable``: a box of 3 nodes twice, a fade to 0 at the border.

    The fade: a cosine over ``width`` mm. Free values that are shaped so move together: steps are smooth.
    """
    out = []
    for n, s in zip(grid.size, grid.spacing):
        i = torch.arange(n)
        box = ((i[:, None] - i).abs() <= 1).float() / 3
        away = torch.minimum(i, n - 1 - i) * s / width
        fade = 0.5 - 0.5 * torch.cos(torch.pi * away.clamp(max=1))
        out.append((fade[:, None] * (box @ box)).to(device))
    return out


def roughness(w: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Mean squared gradient of w (3, D, H, W), mm per mm."""
    total = torch.zeros((), device=w.device)
    for axis in range(3):
        total = total + (w.diff(dim=1 + axis) / grid.spacing[2 - axis]).square().sum(0).mean()
    return total


def roughness_slope(w: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The gradient of ``roughness`` by w."""
    out = torch.zeros_like(w)
    for axis in range(3):
        step = w.diff(dim=1 + axis)
        step *= 2 / (grid.spacing[2 - axis] ** 2 * step[0].numel())
        n = w.shape[1 + axis]
        out.narrow(1 + axis, 1, n - 1).add_(step)
        out.narrow(1 + axis, 0, n - 1).sub_(step)
    return out


def _taps(at: torch.Tensor, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (..., 4) and nodes (..., 4), int32, of the cubic B-splines at indices (...), 0 to ``last``.

    A node past an end is the opposite of the one as far inside, so that splines are 0 on an end whose node is
    0; past it they are 0.
    """
    inside = (at >= 0) & (at <= last)
    low = torch.minimum(at.floor().clamp(min=0), last - 1)
    f = torch.where(inside, at - low, 0)
    g = 1 - f
    first, fourth = g**3 / 6, f**3 / 6
    second = 2 / 3 - f * f * (1 - f / 2)
    weights = torch.stack([first, second, 1 - first - second - fourth, fourth], -1)
    nodes = low[..., None] + torch.arange(-1, 3, device=at.device)
    last = last[..., None]
    past = (nodes < 0) | (nodes > last)
    nodes = torch.where(nodes > last, 2 * last - nodes, nodes.abs())
    return weights * torch.where(past, -1, 1) * inside[..., None], nodes.to(torch.int32)


def _spline_matrix(at: np.ndarray, count: int) -> torch.Tensor:
    """(n, count): the cubic B-splines of ``count`` nodes at continuous indices (n,)."""
    weights, nodes = _taps(torch.from_numpy(at), torch.tensor(float(count - 1)))
    out = torch.zeros((len(at), count), dtype=torch.float64)
    return out.scatter_add_(1, nodes.long(), weights.double()).float()
