"""Values on regular lattices in LPS space, a row of numbers a voxel, looked up at points."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..geometry import Grid


class Lattice:
    """A Grid as torch sees it: LPS points to continuous indices."""

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


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """What was drawn on the CPU, on a device; a GPU fetches it without being waited for."""
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


class RowsAt:
    """LPS points (n, 3) at which rows (D*H*W, c) of a lattice are looked up.

    Trilinear; past the border its value, slope 0.
    """

    def __init__(self, lattice: Lattice, points: torch.Tensor) -> None:
        index = lattice.index(points)
        self._inside = ((index >= 0) & (index <= lattice.last)).float()
        self._inverse = lattice.inverse
        index = torch.minimum(index.clamp(min=0), lattice.last)
        base = torch.minimum(index.floor(), (lattice.last - 1).clamp(min=0))
        self._f = (index - base).T.contiguous()
        nx, ny, nz = lattice.grid.size
        sx, sy, sz = (0 if n == 1 else s for n, s in ((nx, 1), (ny, nx), (nz, nx * ny)))
        corners = torch.tensor(
            [x * sx + y * sy + z * sz for z in (0, 1) for y in (0, 1) for x in (0, 1)],
            dtype=torch.int32,
            device=points.device,
        )
        i = base.to(torch.int32)
        first = i[:, 0] + nx * (i[:, 1] + ny * i[:, 2])
        self._corners = first[:, None] + corners  # (n, 8), x fastest

    def value(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, c) float32."""
        return _sums(rows, self._corners, torch.stack(self._products()[0]))[:, 0]

    def value_and_slopes(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, c), and (n, 3, c): its derivatives along x, y, z in index steps."""
        value, (zy, zx, yx) = self._products()
        slopes_x = [w for p in zy for w in (-p, p)]
        slopes_y = [-zx[0], -zx[1], zx[0], zx[1], -zx[2], -zx[3], zx[2], zx[3]]
        slopes_z = [*(-p for p in yx), *yx]
        found = _sums(rows, self._corners, torch.stack([*value, *slopes_x, *slopes_y, *slopes_z]))
        return found[:, 0], found[:, 1:]

    def per_mm(self, slopes: torch.Tensor) -> torch.Tensor:
        """Slopes (n, 3) in index steps -> (n, 3) along x, y, z in LPS, per mm."""
        return (slopes * self._inside) @ self._inverse

    def _products(self) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
        """Trilinear weights of the 8 corners, each (n,), and products of two axes': zy, zx, yx."""
        x, y, z = ((1 - f, f) for f in self._f)
        zy, zx, yx = ([p * q for p in a for q in b] for a, b in ((z, y), (z, x), (y, x)))
        return [p * q for p in zy for q in x], [zy, zx, yx]


def _sums(rows: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(n, k, c) float32: of rows at ``index`` (n, 8), the sums that weights (k * 8, n) make."""
    n, k = weights.shape[1], len(weights) // 8
    weights = weights.to(rows.dtype).T.contiguous()
    if rows.device.type != "cpu":  # rounded as on the CPU: the same field comes out
        return (weights.view(n, k, 8).float() @ rows[index.long()].float()).to(rows.dtype).float()
    # gathered rows are summed as they come and never stored: four times faster
    bags = torch.arange(0, 8 * n * k + 1, 8, dtype=torch.int32)
    index = index[:, None].expand(n, k, 8).reshape(-1)
    summed = F.embedding_bag(
        index,
        rows,
        bags,
        mode="sum",
        per_sample_weights=weights.view(-1),
        include_last_offset=True,
    )
    return summed.view(n, k, -1).float()
