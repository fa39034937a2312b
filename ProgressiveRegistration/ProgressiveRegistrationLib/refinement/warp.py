"""The map while it is being refined: T(x) = A(x + w(x)); w is on the field's grid, stages add to it."""

from __future__ import annotations

import numpy as np
import torch

from ..field import DisplacementField
from ..geometry import Affine, Grid
from .lattices import Lattice, RowsAt
from .splines import spline_on

SLICES = 32  # of the result that a GPU computes at a time


class Warp:
    """w(x), mm: (D*H*W, 3) rows on the incoming field's grid, trilinear between its voxels."""

    def __init__(self, field: DisplacementField, device: torch.device) -> None:
        self.field, self.device = field, device
        self.affine = field.outside or _fitted(field)
        self.lattice = Lattice(field.grid, device)
        self.w = torch.from_numpy(field.residual(self.affine).reshape(-1, 3)).to(device)
        self.share = 1.0  # of the incoming residual that was kept

    def at(self, points: torch.Tensor) -> torch.Tensor:
        """w (n, 3) at LPS points (n, 3)."""
        return RowsAt(self.lattice, points).value(self.w)

    def mapped(self, points: torch.Tensor) -> torch.Tensor:
        """T(x) (n, 3) of LPS points (n, 3)."""
        matrix, offset = (
            torch.tensor(v, dtype=torch.float32, device=self.device)
            for v in (self.affine.matrix, self.affine.offset)
        )
        return (points + self.at(points)) @ matrix.T + offset

    def scale(self, share: float) -> None:
        """Keep only this share of w."""
        self.share = share
        self.w *= share

    def add(self, nodes: torch.Tensor, grid: Grid) -> None:
        """Add the cubic B-splines of nodes (3, d, h, w) on the lattice ``grid``."""
        self.w += spline_on(nodes, grid, self.field.grid).reshape(3, -1).T

    def add_values(self, values: np.ndarray, grid: Grid) -> None:
        """Add values (d, h, w, 3) on ``grid``, trilinear, 0 past it."""
        added = DisplacementField(grid, values, Affine.identity()).resample(self.field.grid)
        self.w += torch.from_numpy(added.displacement.reshape(-1, 3)).to(self.device)

    def result(self) -> DisplacementField:
        """The refined field, on the incoming one's grid and with its map outside."""
        w = self.w.cpu().numpy().reshape(*self.field.grid.shape, 3)
        return DisplacementField.from_residual(self.field.grid, w, self.affine, self.field.outside)


def _fitted(field: DisplacementField) -> Affine:
    """For a field without an outer map: the mean shift of it."""
    return Affine(np.eye(3), field.displacement.reshape(-1, 3).mean(0))
