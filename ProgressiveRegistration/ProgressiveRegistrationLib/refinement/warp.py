"""The map while it is being refined: T(x) = A(x + w(x)),
with w the sum of the incoming field and what was added stage by stage."""

from __future__ import annotations

import numpy as np
import torch

from ..field import DisplacementField
from ..geometry import Affine
from ..progress import Stop, check
from .lattices import Lattice, look_up

SLICES = 32  # of the result that a GPU computes at a time


class Warp:
    """w(x), mm: the incoming residual on its grid, plus the nodes of the stages that are done."""

    def __init__(self, field: DisplacementField, device: torch.device) -> None:
        self.field, self.device = field, device
        self.affine = field.outside or _fitted(field)
        points = field.grid.points()
        back = self.affine.inverse()
        w = np.empty_like(field.displacement)
        for k in range(len(w)):  # by slice: float64 only there
            w[k] = back(points[k].astype(float) + field.displacement[k]) - points[k]
        self.lattice = Lattice(field.grid, device)
        self.start = torch.from_numpy(np.ascontiguousarray(np.moveaxis(w, -1, 0))).to(device)
        self.share = 1.0  # of the incoming residual in ``start``
        self.added: list[tuple[Lattice, torch.Tensor]] = []

    def at(self, points: torch.Tensor) -> torch.Tensor:
        """w (n, 3) at LPS points (n, 3)."""
        out = look_up(self.start, self.lattice.normalised(points))
        for lattice, nodes in self.added:
            out = out + look_up(nodes, lattice.normalised(points))
        return out

    def result(self, cancelled: Stop = None) -> DisplacementField:
        """The refined field, on the incoming one's grid and with its map outside."""
        grid = self.field.grid
        u = self.field.displacement.copy()
        if self.share != 1:
            straight = DisplacementField.from_affine(grid, self.affine).displacement
            u = straight + self.share * (u - straight)
        # nodes are 0 on their lattice's border, so past it nothing is added
        corners = np.concatenate([lattice.grid.corners() for lattice, _ in self.added] or [grid.corners()])
        index = grid.world_to_index(corners)
        low = np.clip(np.floor(index.min(0)), 0, grid.size).astype(int)
        high = np.clip(np.ceil(index.max(0)) + 1, 0, grid.size).astype(int)
        (x0, y0, z0), (x1, y1, z1) = low, high
        points = grid.points()[z0:z1, y0:y1, x0:x1]
        # by slice, so that stops are heard; a GPU is waited for only now and then
        step = 1 if self.device.type == "cpu" else SLICES
        for k in range(0, len(points), step):
            check(cancelled)
            some = points[k : k + step]
            x = torch.from_numpy(np.ascontiguousarray(some).reshape(-1, 3)).to(self.device)
            correction = torch.zeros_like(x)
            for lattice, nodes in self.added:
                correction += look_up(nodes, lattice.normalised(x))
            moved = correction.cpu().numpy().reshape(some.shape).astype(float) @ self.affine.matrix.T
            u[z0 + k : z0 + k + len(some), y0:y1, x0:x1] += moved.astype(np.float32)
        return DisplacementField(grid, u, self.field.outside)


def _fitted(field: DisplacementField) -> Affine:
    """For a field without an outer map: the mean shift of it."""
    return Affine(np.eye(3), field.displacement.reshape(-1, 3).mean(0))
