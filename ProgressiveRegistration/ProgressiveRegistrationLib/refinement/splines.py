"""Cubic B-splines on lattices of nodes: at points, with the adjoint, and on grids; how nodes are shaped."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csc_matrix

from ..geometry import Grid

SLAB_POINTS = 200_000


class SplineAt:
    """The cubic B-splines of an LPS-aligned node lattice at LPS points (n, 3): a sparse matrix.

    64 nodes a point: 16 rows of 4 neighbours along x, 12 numbers that lie side by side. 0 past the lattice,
    and at its border where the nodes there are 0. ``sparse``: the CPU's libraries do the sums; None: on a
    CPU.
    """

    def __init__(self, grid: Grid, points: torch.Tensor, *, sparse: bool | None = None) -> None:
        device = points.device
        self._sparse = device.type == "cpu" if sparse is None else sparse
        origin = torch.tensor(grid.origin, dtype=torch.float32, device=device)
        spacing = torch.tensor(grid.spacing, dtype=torch.float32, device=device)
        last = torch.tensor(grid.size, dtype=torch.float32, device=device) - 1
        weights, low = _weights((points - origin) / spacing, last)
        self._along_x, wy, wz = weights.unbind(1)
        self._across = (wz[:, :, None] * wy[:, None]).view(-1)
        self._wide = d, h, w = [n + 2 for n in grid.shape]
        self._rows = (
            d * h * w - 3
        )  # each begins at a node of the wider lattice, and goes on through the next 3
        x, y, z = low.to(torch.int32).T
        taps = torch.arange(4, dtype=torch.int32, device=device)
        rows = (z[:, None] + taps)[:, :, None] * h + (y[:, None] + taps)[:, None]
        self._index = (rows.view(-1, 16) * w + x[:, None]).view(-1)
        self._count = len(points)
        self._ends = torch.arange(0, 16 * self._count + 1, 16, dtype=torch.int32, device=device)
        if self._sparse:
            parts = self._across.numpy(), self._index.numpy(), self._ends.numpy()
            self._back = csc_matrix(parts, (self._rows, self._count))

    def value(self, nodes: torch.Tensor) -> torch.Tensor:
        """(n, 3) of nodes (3, D, H, W)."""
        rows = (
            _wider(nodes).permute(1, 2, 3, 0).contiguous().as_strided((self._rows, 12), (3, 1)).contiguous()
        )
        if self._sparse:
            found = F.embedding_bag(
                self._index,
                rows,
                self._ends,
                mode="sum",
                per_sample_weights=self._across,
                include_last_offset=True,
            )
        else:
            found = (rows[self._index] * self._across[:, None]).view(self._count, 16, 12).sum(1)
        return torch.bmm(self._along_x[:, None], found.view(-1, 4, 3))[:, 0]

    def adjoint(self, slopes: torch.Tensor) -> torch.Tensor:
        """(3, D, H, W): by nodes, the gradient of a cost whose gradient by ``value`` is ``slopes`` (n, 3)."""
        spread = torch.bmm(self._along_x[:, :, None], slopes[:, None]).view(-1, 12)
        if self._sparse:
            by_row = torch.from_numpy(self._back @ spread.numpy())
        else:
            # float64, as a GPU adds up in any order: in float32 the last digits of a slope move a field by
            # up to 0.1 mm from run to run
            by_row = torch.zeros((self._rows, 12), dtype=torch.float64, device=slopes.device)
            each = spread[:, None].expand(-1, 16, 12).reshape(-1, 12) * self._across[:, None]
            by_row = by_row.index_add(0, self._index, each.double()).float()
        out = by_row.new_zeros((self._rows + 3, 3))
        for k in range(4):
            out[k : k + self._rows] += by_row[:, 3 * k : 3 * k + 3]
        return _narrower(out.view(*self._wide, 3).permute(3, 0, 1, 2).contiguous())


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


def _weights(at: torch.Tensor, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the cubic B-splines at indices (...), 0 to ``last``: weights (..., 4) and the second of the nodes
    that they belong to (...), a float. Past an end all are 0."""
    inside = (at >= 0) & (at <= last)
    low = torch.minimum(at.floor().clamp(min=0), last - 1)
    f = torch.where(inside, at - low, 0)
    g = 1 - f
    first, fourth = g**3 / 6, f**3 / 6
    second = 2 / 3 - f * f * (1 - f / 2)
    weights = torch.stack([first, second, 1 - first - second - fourth, fourth], -1)
    return weights * inside[..., None], low


def _wider(nodes: torch.Tensor) -> torch.Tensor:
    """Nodes (3, d, h, w) with one more past each end, the opposite of the one as far inside: splines are 0 on
    an end whose node is 0."""
    for axis in (1, 2, 3):
        n = nodes.shape[axis]
        ends = -nodes.narrow(axis, 1, 1), -nodes.narrow(axis, n - 2, 1)
        nodes = torch.cat([ends[0], nodes, ends[1]], axis)
    return nodes


def _narrower(slopes: torch.Tensor) -> torch.Tensor:
    """The adjoint of ``_wider``."""
    for axis in (3, 2, 1):
        n = slopes.shape[axis] - 2
        inner = slopes.narrow(axis, 1, n)
        inner.narrow(axis, 1, 1).sub_(slopes.narrow(axis, 0, 1))
        inner.narrow(axis, n - 2, 1).sub_(slopes.narrow(axis, n + 1, 1))
        slopes = inner
    return slopes.contiguous()


def _spline_matrix(at: np.ndarray, count: int) -> torch.Tensor:
    """(n, count): the cubic B-splines of ``count`` nodes at continuous indices (n,)."""
    weights, low = _weights(torch.from_numpy(at), torch.tensor(float(count - 1)))
    wide = torch.zeros((len(at), count + 2), dtype=torch.float64)
    wide.scatter_add_(1, low.long()[:, None] + torch.arange(4), weights.double())
    out = wide[:, 1:-1]  # what stands past an end counts for the opposite of the node as far inside
    out[:, 1] -= wide[:, 0]
    out[:, -2] -= wide[:, -1]
    return out.float()
