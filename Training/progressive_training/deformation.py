"""Random deformations with known truth: third-order B-splines on coarse grids (paper, Table I).

Positions and displacements are in voxels of the network's fine grid (128), with vector components x, y, z and
arrays (z, y, x). A transform maps an index i to i + u(i). The B-splines are those of gryds: control values
are *interpolated*, the edge is mirrored, and control point k of n lies at index ``size * k / (n - 1)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from .values import ThreeNumbers, Whole

FINE = 128
CPU = torch.device("cpu")


@dataclass(frozen=True)
class SplineSpec:
    """A row of Table I: ``grid`` control points an axis, uniform within ``ranges`` (x, y, z) fine voxels."""

    grid: Annotated[Whole, Field(ge=2)]
    ranges: ThreeNumbers

    def scaled(self, amplitude: float) -> SplineSpec:
        """The same on the average ``amplitude`` times as far."""
        x, y, z = self.ranges
        return SplineSpec(self.grid, (x * amplitude, y * amplitude, z * amplitude))


TABLE_I = {
    "t1": SplineSpec(2, (6.4, 6.4, 6.4)),
    "t21": SplineSpec(4, (3.2, 6.4, 12.8)),
    "t22": SplineSpec(8, (3.2, 3.2, 3.2)),
}


@dataclass(frozen=True)
class Lattice:
    """Cells of a grid of ``size`` cells over the fine grid, with ``pad`` more on each side.

    Cell k has its centre at fine index ``(k + 0.5) * FINE / size - 0.5``: the mean of the fine centres in it.
    ``size``: one number, or one along each axis (x, y, z).
    """

    size: int | tuple[int, int, int]
    pad: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) and len(set(self.size)) == 1:
            object.__setattr__(self, "size", int(self.size[0]))

    def along(self, axis: int) -> Lattice:
        """The cells along an axis (0 is x), as a lattice of as many along each."""
        return self if isinstance(self.size, int) else Lattice(int(self.size[axis]), self.pad)

    @property
    def step(self) -> float:
        """Fine voxels between cells, along the axis where they are nearest each other."""
        return FINE / (self.size if isinstance(self.size, int) else max(self.size))

    @property
    def count(self) -> int:
        """Cells along each axis; of a lattice that has as many along each."""
        assert isinstance(self.size, int)
        return self.size + 2 * self.pad

    def positions(self) -> np.ndarray:
        """(count,): fine indices of the cells' centres."""
        assert isinstance(self.size, int)
        return (np.arange(-self.pad, self.size + self.pad) + 0.5) * self.step - 0.5

    def cell(self, positions: torch.Tensor) -> torch.Tensor:
        """Fine index -> continuous cell number, 0 at the first padded cell."""
        return (positions + 0.5) / self.step - 0.5 + self.pad


@lru_cache(maxsize=64)
def basis(points: int, lattice: Lattice, device: torch.device = CPU) -> torch.Tensor:
    """(lattice.count, points) float32: values of the interpolating cubic B-splines at a lattice's positions.

    Columns are the cardinal splines, so a dense field is three matrix products with a control grid.
    """
    from scipy.ndimage import map_coordinates

    where = lattice.positions()[None] / FINE * (points - 1)
    unit = np.eye(points)
    columns = [map_coordinates(unit[k], where, order=3, mode="mirror") for k in range(points)]
    return torch.from_numpy(np.stack(columns, 1).astype(np.float32)).to(device)


def evaluate(control: torch.Tensor, lattice: Lattice) -> torch.Tensor:
    """Displacements (3, D, H, W) at a lattice's cells.

    ``control``: values (3, n, n, n) [component, z, y, x].
    """
    bx, by, bz = (basis(control.shape[-1], lattice.along(axis), control.device) for axis in range(3))
    out = torch.einsum("czyx,wx->czyw", control, bx)
    out = torch.einsum("czyw,hy->czhw", out, by)
    # One plain matrix product for the last, largest axis.
    c, z, h, w = out.shape
    return torch.matmul(bz, out.reshape(c, z, h * w)).reshape(c, -1, h, w)


def nearest_control(u: torch.Tensor, weight: torch.Tensor, points: int) -> torch.Tensor:
    """Control values (c, n, n, n) float32 of the B-spline field nearest to ``u``, by weighted least squares.

    u : (c, s, s, s). weight : (s, s, s), not negative and somewhere positive. n is ``points``.
    ``evaluate`` gives the field.
    """
    b = basis(points, Lattice(u.shape[-1])).double()
    w = weight.double()
    pairs = torch.einsum("xi,xj->xij", b, b).reshape(len(b), -1)
    normal = torch.einsum("zyx,xa->zya", w, pairs)
    normal = torch.einsum("zya,yb->zba", normal, pairs)
    normal = torch.einsum("zba,zc->cba", normal, pairs).reshape(*(points,) * 6)
    count = points**3
    # From (zz', yy', xx') to (zyx, z'y'x').
    normal = normal.permute(0, 2, 4, 1, 3, 5).reshape(count, count)
    right = torch.einsum("czyx,zi,yj,xk->ijkc", u.double() * w, b, b, b).reshape(count, -1)
    # Control points far from any weight are not determined: a little holds them near 0.
    normal = normal + 1e-6 * normal.diagonal().mean() * torch.eye(count, dtype=torch.float64)
    return torch.linalg.solve(normal, right).T.reshape(-1, *(points,) * 3).float()


def identity(lattice: Lattice, device: torch.device = CPU) -> torch.Tensor:
    """(3, D, H, W): the fine indices x, y, z of a lattice's cells."""
    x, y, z = (
        torch.from_numpy(lattice.along(axis).positions().astype(np.float32)).to(device) for axis in range(3)
    )
    shape = (len(z), len(y), len(x))
    return torch.stack(
        [x.view(1, 1, -1).expand(shape), y.view(1, -1, 1).expand(shape), z.view(-1, 1, 1).expand(shape)]
    )


def look_up(field: torch.Tensor, lattice: Lattice, positions: torch.Tensor) -> torch.Tensor:
    """Trilinear values (C, d, h, w) of ``field`` (C, D, H, W), given on ``lattice``, at fine indices (3, d,
    h, w).

    Beyond the (padded) lattice the border value continues.
    """
    if isinstance(lattice.size, int):
        n = lattice.count
        where = lattice.cell(positions) * (2 / n) + (1 / n - 1)
    else:
        lines = [lattice.along(axis) for axis in range(3)]
        where = torch.stack([a.cell(p) * (2 / a.count) + (1 / a.count - 1) for a, p in zip(lines, positions)])
    grid = where.permute(1, 2, 3, 0)[None]
    return F.grid_sample(field[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]


@dataclass(frozen=True)
class Deformation:
    """One draw of T1 and T2 = box o T2,1 o T2,2.

    ``t1``, ``t21``, ``t22``: control values (3, n, n, n) in fine voxels. ``box_scale``, ``box_shift`` (3,) x,
    y, z: what a moving box that differs from the fixed one adds; ``(1, 1, 1)`` and ``(0, 0, 0)`` in the
    paper.
    """

    t1: torch.Tensor
    t21: torch.Tensor
    t22: torch.Tensor
    box_scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    box_shift: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def to(self, device: torch.device) -> Deformation:
        """The same, evaluated on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in ("t1", "t21", "t22")})

    def t1_field(self, lattice: Lattice) -> torch.Tensor:
        """u1 = T1 - id, (3, D, H, W) fine voxels at the lattice's cells."""
        return evaluate(self.t1, lattice)

    def t2_field(self, lattice: Lattice) -> torch.Tensor:
        """u = T2 - id, (3, D, H, W) fine voxels at the lattice's cells: the network's target (eq. 4)."""
        inner = evaluate(self.t22, lattice)
        points = identity(lattice, inner.device)
        reach = int(np.ceil(float(inner.abs().max()) / lattice.step)) + 1
        wide = Lattice(lattice.size, lattice.pad + reach)
        u = inner + look_up(evaluate(self.t21, wide), wide, points + inner)
        if self.box_scale != (1.0, 1.0, 1.0) or self.box_shift != (0.0, 0.0, 0.0):
            scale = torch.tensor(self.box_scale, device=u.device).view(3, 1, 1, 1)
            shift = torch.tensor(self.box_shift, device=u.device).view(3, 1, 1, 1)
            u = (points + u) * scale + shift - points
        return u

    def t1_of_t2(self, u: torch.Tensor, lattice: Lattice) -> torch.Tensor:
        """T1(T2(i)) as fine indices (3, D, H, W), for u on the lattice; T1 is smooth enough for a look-up."""
        points = identity(lattice, u.device) + u
        wide = Lattice(FINE // 2, FINE // 4)
        return points + look_up(evaluate(self.t1, wide), wide, points)


def draw_control(
    rng: np.random.Generator, spec: SplineSpec, amplitude: float = 1.0, zero_border: bool = False
) -> torch.Tensor:
    """Control values (3, n, n, n) [component x y z; z, y,
    x] uniform within the spec's ranges times ``amplitude``."""
    n = spec.grid
    values = rng.uniform(-1, 1, (3, n, n, n)).astype(np.float32)
    values *= (np.asarray(spec.ranges, np.float32) * np.float32(amplitude))[:, None, None, None]
    return torch.from_numpy(values)


def draw_breathing(
    rng: np.random.Generator, spec: SplineSpec, amplitude: float = 1.0, modes: np.ndarray | None = None
) -> torch.Tensor:
    """Control values as ``draw_control``'s, of a motion like breathing's once lung boxes are matched.

    Its shape is a combination of ``modes`` (k, 3, n, n, n), normally distributed; without any ``_breath``'s.
    At most an eighth to three eighths of the z range (3 to 8 mm for Table I and a usual chest) goes with an
    irregular part of up to a quarter of the ranges.
    """
    if modes is None:
        values = _breath(rng, spec.grid)
    else:
        values = np.tensordot(rng.standard_normal(len(modes)), modes, 1)
    size = np.abs(values).max()
    values *= rng.choice([-1, 1]) * rng.uniform(0.125, 0.375) * spec.ranges[2] / max(size, 1e-6)
    values += rng.uniform(0, 0.25) * draw_control(rng, spec).numpy()
    return torch.from_numpy((values * amplitude).astype(np.float32))


def _breath(rng: np.random.Generator, n: int) -> np.ndarray:
    """(3, n, n, n): a made-up breath. The diaphragm moves most, more at the back; ribs move outwards and the
    front wall forwards; box matching has taken most of the mean and of the linear part along each axis away.
    """
    z, y, x = np.meshgrid(*(np.linspace(0, 1, n),) * 3, indexing="ij")
    rise = (1 - z) ** rng.uniform(0.7, 3.0) * (1 + rng.uniform(-0.3, 1.0) * (y - 0.5))
    widen = rng.uniform(-0.4, 0.4) * (x - 0.5) * 2 * np.sin(np.pi * (0.2 + 0.6 * z))
    forward = rng.uniform(-0.4, 0.4) * (1 - y) * np.sin(np.pi * (0.1 + 0.7 * z))
    # One side often moves more than the other.
    rise = rise * (1 + rng.uniform(-0.3, 0.3) * (x - 0.5))
    matched = rng.uniform(0.7, 1.0)
    parts = []
    for part, along in ((widen, x), (forward, y), (rise, z)):
        centred = along - along.mean()
        slope = (part * centred).sum() / (centred**2).sum()
        parts.append(part - matched * (part.mean() + slope * centred))
    return np.stack(parts)


def jacobian_determinant(u: torch.Tensor, step: float) -> torch.Tensor:
    """(D-1, H-1, W-1): determinant of i + u(i) by forward differences;
    ``step`` = fine voxels between cells."""
    dx = (u[:, :-1, :-1, 1:] - u[:, :-1, :-1, :-1]) / step
    dy = (u[:, :-1, 1:, :-1] - u[:, :-1, :-1, :-1]) / step
    dz = (u[:, 1:, :-1, :-1] - u[:, :-1, :-1, :-1]) / step
    a, d, g = dx[0] + 1, dx[1], dx[2]
    b, e, h = dy[0], dy[1] + 1, dy[2]
    c, f, i = dz[0], dz[1], dz[2] + 1
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def folds(deformation: Deformation) -> bool:
    """Does T1 or T2 fold anywhere on a 32^3 lattice (every fourth fine voxel)?"""
    lattice = Lattice(32)
    return any(
        float(jacobian_determinant(u, lattice.step).min()) <= 0
        for u in (deformation.t1_field(lattice), deformation.t2_field(lattice))
    )


def draw(
    rng: np.random.Generator,
    table: dict[str, SplineSpec] | None = None,
    amplitude: tuple[float, float, float] = (1.0, 1.0, 1.0),
    box_scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
    box_shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
    attempts: int = 20,
    smooth: Callable[[np.random.Generator, SplineSpec, float], torch.Tensor] | None = None,
) -> Deformation:
    """Draw T1, T2,1, T2,2; a draw that folds is drawn again, and shrunk a little each time so that it ends.

    ``amplitude`` multiplies the ranges of t1, t2,1 and t2,2. ``smooth`` draws t2,1 instead of
    ``draw_control``.
    """
    table = table or TABLE_I
    ways = (draw_control, smooth or draw_control, draw_control)
    shrink = 1.0
    for _ in range(attempts):
        t1, t21, t22 = (
            way(rng, table[name], shrink * a) for way, name, a in zip(ways, ("t1", "t21", "t22"), amplitude)
        )
        out = Deformation(t1, t21, t22, box_scale, box_shift)
        if not folds(out):
            return out
        shrink *= 0.95
    raise ValueError(
        f"No deformation without folding in {attempts} draws: make the displacement ranges smaller."
    )


class GrydsDeformation(Deformation):
    """The same transforms evaluated by gryds itself (GPL-3.0; slow): ``generator: gryds``,
    and a check of ours."""

    def _dense(self, lattice: Lattice, *controls: torch.Tensor) -> torch.Tensor:
        import gryds

        # gryds works in fractions of the image and puts components and axes in array order (z, y, x).
        lines = [lattice.along(axis).positions().astype(np.float32) / FINE for axis in (2, 1, 0)]
        points = np.array(np.meshgrid(*lines, indexing="ij"), np.float32)
        out = points.reshape(3, -1)
        for control in controls:
            spline = gryds.BSplineTransformation(control.cpu().numpy()[::-1] / FINE, order=3, mode="mirror")
            out = spline.transform(out)
        u = (out.reshape(points.shape) - points)[::-1] * FINE
        return torch.from_numpy(np.ascontiguousarray(u, np.float32)).to(controls[0].device)

    def t1_field(self, lattice: Lattice) -> torch.Tensor:
        return self._dense(lattice, self.t1)

    def t2_field(self, lattice: Lattice) -> torch.Tensor:
        u = self._dense(lattice, self.t22, self.t21)
        points = identity(lattice, u.device)
        scale = torch.tensor(self.box_scale, device=u.device).view(3, 1, 1, 1)
        shift = torch.tensor(self.box_shift, device=u.device).view(3, 1, 1, 1)
        return (points + u) * scale + shift - points
