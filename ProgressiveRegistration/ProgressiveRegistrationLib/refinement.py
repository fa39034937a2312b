"""Refine one pair's field: a short optimisation that starts from the network's field (or from the box-to-box affine).

T(x) = A(x + w(x)): A is the affine map that the field has outside its grid (the box-to-box map), w is what is optimised, in mm of
the fixed frame. The moving image is seen through A, so that both images' features live on lattices of one spacing. Stage by
stage a finer lattice of nodes is added to w. The cost is the difference of self-similarity features (``features.py``) at points in
the dilated lung, plus the squared gradient of w.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from .errors import InputError
from .features import CHANNELS, mind_ssc, sample_mapped
from .field import MAX_SPACING_MM, DisplacementField
from .geometry import Affine, Box, Grid
from .progress import Progress, Stop, check

MARGIN_MM = 30.0  # around the lungs: the correction fades to zero there
MOVING_MARGIN_MM = 12.0  # of the moving lattice, beyond where the incoming field leads
MOST_UNEXPLAINED = 0.25  # measured: one patient 0.1, two patients 0.35 (REFINEMENT.md)
SLOPE_FLOOR = 0.01  # of the squared feature difference, per mm
START_SHARES = (1.0, 0.5, 0.0)  # of the incoming residual, of which the best is taken
MAX_VOXELS = 9_000_000  # of a feature lattice: 216 MB


@dataclass(frozen=True)
class Stage:
    """One stage. voxel_mm: of the feature lattice; node_mm: of the node lattice; step_mm: Adam's first and last step.

    smoothness: weight of the mean squared gradient of w (mm/mm) beside the mean squared feature difference (a sum of 12).
    """

    voxel_mm: float
    node_mm: float
    iterations: int
    smoothness: float = 0.6
    points: int = 40_000
    step_mm: tuple[float, float] = (1.0, 0.3)


@dataclass(frozen=True)
class Settings:
    """Everything that a preset sets. REFINEMENT.md has what each was weighed against.

    dilation_mm : of the lung mask in which data counts.
    noise : see ``mind_ssc``; 2e-3 is the variance of 40 HU.
    redraw : iterations after which other points are drawn, so that no set of them is fitted.
    average : share of a stage's last iterations whose mean is its result.
    """

    stages: tuple[Stage, ...]
    dilation_mm: float = 4.0
    noise: float = 2e-3
    redraw: int = 4
    average: float = 0.33


# 24 mm nodes and 2 mm steps catch what the network missed: from no map at all, 23 mm off, to 0.7 mm (REFINEMENT.md)
_WIDE = Stage(6.0, 24.0, 40, step_mm=(2.0, 0.5))
PRESETS = {
    "balanced": Settings((_WIDE, Stage(4.0, 16.0, 40), Stage(2.0, 8.0, 50), Stage(1.5, 5.0, 40))),
    "accurate": Settings(
        (
            _WIDE,
            Stage(4.0, 16.0, 60),
            Stage(2.0, 8.0, 60),
            Stage(1.5, 5.0, 60),
            Stage(1.25, 4.0, 80, points=80_000),
        )
    ),
}


def refine(
    fixed: sitk.Image,
    moving: sitk.Image,
    field: DisplacementField,
    *,
    preset: str | Settings = "balanced",
    mask: sitk.Image,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress = None,
    cancelled: Stop = None,
    convergence: list[dict[str, Any]] | None = None,
) -> DisplacementField:
    """Refine ``field`` so that ``moving`` fits ``fixed`` inside the lungs.

    Parameters
    ----------
    fixed, moving : CT in HU.
    field : the network's field, or any field to start from; its ``outside`` map (where it has one) is kept as it is.
    preset : "balanced", "accurate", or ``Settings``.
    mask : above 0 in the fixed image's lungs, on any grid.
    device : torch device of the optimisation.
    seed : of the points that are drawn. Same seed, same field on a CPU; on a GPU sums differ in the last digits.
    progress : called with ("refinement", 0..1, text); cancelled : polled every iteration.
    convergence : a list that gets a dict for each stage: its settings; at its start and end the data term, the
        roughness (mean squared gradient of w) and ``unexplained``, the data term's share of what it is between places that
        have nothing to do with each other; seconds. ``start_share``: how much of the incoming residual was kept to start from.

    Returns
    -------
    A field on ``field``'s grid (or a finer one, where that is coarser than 2.5 mm), with the same map outside.

    Raises
    ------
    InputError : unknown preset, a mask without voxels, or a field that does not reach the mask. Cancelled.
    """
    settings = preset if isinstance(preset, Settings) else PRESETS.get(preset)
    if settings is None:
        raise InputError(f"The refinement {preset!r} is unknown; use {' or '.join(map(repr, PRESETS))}.")
    start = _start(field, mask, MARGIN_MM + settings.dilation_mm + 4.0)
    # torch has no 3D grid_sample for mps
    target = torch.device("cpu" if device.startswith("mps") else device)
    generator = torch.Generator().manual_seed(seed)
    warp = Warp(start, target)
    total = sum(s.iterations for s in settings.stages)
    done = 0
    pair: FeaturePair | None = None
    asked = 0.0
    lung = LungPoints(mask, settings.dilation_mm)
    for number, stage in enumerate(settings.stages, 1):
        began = time.perf_counter()

        def report(iteration: int, number=number, done=done) -> None:
            check(cancelled)
            if progress is not None:
                text = f"Refining, stage {number} of {len(settings.stages)}"
                progress("refinement", (done + iteration) / total, text)

        report(0)
        if pair is None or asked != stage.voxel_mm:
            pair = None  # frees the last one first
            pair = FeaturePair(fixed, moving, warp, lung, stage.voxel_mm, settings.noise, cancelled)
            asked = stage.voxel_mm
        if number == 1:
            share = _best_share(pair, warp, lung, stage, generator)
        result = _optimise(pair, warp, lung, stage, settings, generator, report)
        done += stage.iterations
        if convergence is not None:
            row = {
                "stage": number,
                **asdict(stage),
                "voxel_mm": pair.voxel_mm,
                "start_share": share,
                **result,
            }
            convergence.append({**row, "seconds": time.perf_counter() - began})
    return warp.result()


def doubts(convergence: list[dict[str, Any]]) -> list[str]:
    """Sentences for a user whose pair the refinement could not line up; empty when nothing speaks against the result."""
    left = convergence[-1]["unexplained"][1] if convergence else 0.0
    if left <= MOST_UNEXPLAINED:
        return []
    return [
        f"After the refinement the lungs still differ by {100 * left:.0f} % of what unrelated places differ by (scans of one "
        f"patient: below {100 * MOST_UNEXPLAINED:.0f} %): the result is not to be trusted; check that both images show "
        f"one patient's lungs."
    ]


def _start(field: DisplacementField, mask: sitk.Image, margin: float) -> DisplacementField:
    """The incoming field on a fine enough grid that covers the lungs; raises where the two cannot belong together."""
    values = sitk.GetArrayViewFromImage(mask) > 0
    if not values.any():
        raise InputError(
            "The lung mask has no voxel above 0; give a mask that covers the lungs of the fixed image."
        )
    inside = Grid.from_image(mask).index_to_world(np.argwhere(values)[:, ::-1])
    if not field.grid.contains(inside).any():
        raise InputError(
            "The displacement field lies elsewhere than the lung mask; give a field and a mask of the same fixed image."
        )
    if max(field.grid.spacing) > MAX_SPACING_MM:
        field = field.resample(field.grid.with_spacing(np.minimum(field.grid.spacing, MAX_SPACING_MM)))
    box = Box.around(inside).grown(margin)
    return field.covering(Grid((1, 1, 1), tuple(box.extent), tuple(box.centre)))


class LungPoints:
    """Where the data term looks: the dilated lung mask, LPS mm."""

    def __init__(self, mask: sitk.Image, dilation_mm: float) -> None:
        grid = Grid.from_image(mask)
        radius = [round(dilation_mm / s) for s in grid.spacing]
        pad = [r + 1 for r in radius]
        wide = sitk.ConstantPad(sitk.Cast(mask > 0, sitk.sitkUInt8), pad, pad, 0)
        if max(radius) > 0:
            wide = sitk.BinaryDilate(wide, radius, sitk.sitkBall)
        self.grid = Grid.from_image(wide)
        self.index = np.argwhere(sitk.GetArrayViewFromImage(wide) > 0)[:, ::-1]
        self.box = Box.around(self.grid.index_to_world(self.index))

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """(count, 3) float32 LPS mm, uniformly in the mask's voxels."""
        chosen = torch.randint(len(self.index), (count,), generator=generator).numpy()
        jitter = torch.rand((count, 3), generator=generator).numpy() - 0.5
        return torch.from_numpy(self.grid.index_to_world(self.index[chosen] + jitter).astype(np.float32))


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
    found = F.grid_sample(values[None], where, padding_mode="border", align_corners=True)
    return found[0, :, 0, 0].T


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

    def result(self) -> DisplacementField:
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
        for k in range(len(points)):
            x = torch.from_numpy(np.ascontiguousarray(points[k]).reshape(-1, 3)).to(self.device)
            correction = torch.zeros_like(x)
            for lattice, nodes in self.added:
                correction += look_up(nodes, lattice.normalised(x))
            moved = correction.cpu().numpy().reshape(points[k].shape).astype(float) @ self.affine.matrix.T
            u[z0 + k, y0:y1, x0:x1] += moved.astype(np.float32)
        return DisplacementField(grid, u, self.field.outside)


def _fitted(field: DisplacementField) -> Affine:
    """For a field without an outer map: the mean shift of it."""
    return Affine(np.eye(3), field.displacement.reshape(-1, 3).mean(0))


class FeaturePair:
    """Features of both images on lattices of one spacing; the moving one seen through the affine map."""

    def __init__(
        self,
        fixed: sitk.Image,
        moving: sitk.Image,
        warp: Warp,
        lung: LungPoints,
        voxel_mm: float,
        noise: float,
        cancelled: Stop,
    ) -> None:
        sample = torch.from_numpy(lung.grid.index_to_world(lung.index[::7]).astype(np.float32)).to(
            warp.device
        )
        w = warp.at(sample)
        reach = torch.stack(
            [sample.amin(0), sample.amax(0), (sample + w).amin(0), (sample + w).amax(0)]
        ).cpu()
        reach = reach.numpy().astype(float)
        outer = Box(np.minimum(reach[0], reach[2]), np.maximum(reach[1], reach[3])).grown(MOVING_MARGIN_MM)
        self.voxel_mm = max(voxel_mm, float(np.prod(outer.extent / MAX_VOXELS ** (1 / 3)) ** (1 / 3)))
        self.device = warp.device
        box = lung.box.grown(2 * self.voxel_mm)
        grid = Grid((1, 1, 1), tuple(box.extent), tuple(box.centre)).with_spacing(self.voxel_mm)
        # one lattice goes on in the other: were they shifted, interpolation would pull even identical images 0.2 mm apart
        low = np.floor(grid.world_to_index(np.asarray(outer.lower))).astype(int)
        high = np.ceil(grid.world_to_index(np.asarray(outer.upper))).astype(int)
        larger = Grid(tuple(high - low + 1), grid.spacing, grid.index_to_world(low))
        self.fixed, self.fixed_rows = self._features(fixed, grid, Affine.identity(), noise, cancelled)
        self.moving, self.moving_rows = self._features(moving, larger, warp.affine, noise, cancelled)

    def _features(
        self, image: sitk.Image, grid: Grid, affine: Affine, noise: float, cancelled: Stop
    ) -> tuple[Lattice, torch.Tensor]:
        check(cancelled)
        values = sample_mapped(image, grid, affine).to(self.device)
        return Lattice(grid, self.device), mind_ssc(values, noise=noise, cancelled=cancelled).view(
            -1, CHANNELS
        )

    def fixed_at(self, points: torch.Tensor) -> torch.Tensor:
        """(n, 12) float32."""
        return _trilinear(self.fixed, self.fixed_rows, points)[:, 0]

    def moving_at(self, points: torch.Tensor) -> torch.Tensor:
        """(n, 4, 12) float32: the features and their derivatives along x, y, z per mm."""
        return _trilinear(self.moving, self.moving_rows, points)


def _trilinear(lattice: Lattice, rows: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """(n, 4, c): value and gradient (per mm) of rows (D*H*W, c) at LPS points; past the border its value, gradient 0.

    The lattice is LPS-aligned.
    """
    index = lattice.index(points)
    inside = ((index >= 0) & (index <= lattice.last)).float()
    index = torch.minimum(index.clamp(min=0), lattice.last)
    base = torch.minimum(index.floor(), (lattice.last - 1).clamp(min=0))
    f = index - base
    nx, ny, nz = lattice.grid.size
    sx, sy, sz = (0 if n == 1 else s for n, s in ((nx, 1), (ny, nx), (nz, nx * ny)))
    corners = torch.tensor(
        [x * sx + y * sy + z * sz for z in (0, 1) for y in (0, 1) for x in (0, 1)], device=points.device
    )
    i = base.long()
    first = i[:, 0] + nx * (i[:, 1] + ny * i[:, 2])
    found = rows.index_select(0, (first[:, None] + corners).view(-1)).view(len(points), 8, -1).float()
    # weights (n, 8) as z, y, x products; derivative of one factor: -1, +1 per voxel
    both = torch.stack([1 - f, f], -1)
    slope = torch.stack([-inside, inside], -1) * lattice.inverse.diagonal()[:, None]
    wx, wy, wz = both.unbind(1)
    dx, dy, dz = slope.unbind(1)

    def product(z: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return (z[:, :, None, None] * y[:, None, :, None] * x[:, None, None, :]).view(-1, 8)

    weights = torch.stack(
        [product(wz, wy, wx), product(wz, wy, dx), product(wz, dy, wx), product(dz, wy, wx)], 1
    )
    return torch.bmm(weights, found)


def _best_share(
    pair: FeaturePair, warp: Warp, lung: LungPoints, stage: Stage, generator: torch.Generator
) -> float:
    """Scale the incoming residual (in place) by whichever of ``START_SHARES`` explains the images best; returns that.

    A network can do harm, on images that are unlike its training or where there is next to no motion.
    """
    points = lung.draw(stage.points, generator).to(warp.device)
    w, wanted = warp.at(points), pair.fixed_at(points)
    if float(w.abs().max()) < 1e-3:
        return 1.0
    costs = []
    for share in START_SHARES:
        found = pair.moving_at(points + share * w)[:, 0]
        costs.append(float((found - wanted).square().sum(1).mean()))
    share = START_SHARES[int(np.argmin(costs))]
    warp.start *= share
    warp.share = share
    return share


def _optimise(
    pair: FeaturePair,
    warp: Warp,
    lung: LungPoints,
    stage: Stage,
    settings: Settings,
    generator: torch.Generator,
    report: Callable[[int], None],
) -> dict[str, Any]:
    """One stage: adds its nodes to ``warp``. Returns their number and the terms at start and end."""
    region = lung.box.grown(MARGIN_MM)
    grid = Grid((1, 1, 1), tuple(region.extent), tuple(region.centre)).with_spacing(stage.node_mm)
    lattice = Lattice(grid, warp.device)
    fade = _fade(grid, warp.device)
    nodes_at = torch.from_numpy(grid.points().reshape(-1, 3)).to(warp.device)
    before = warp.at(nodes_at).T.reshape(3, *grid.shape)
    nodes = torch.zeros((3, *grid.shape), device=warp.device, requires_grad=True)
    mean, kept = torch.zeros_like(nodes, requires_grad=False), 0
    # eps is a node's share of a slope that is mere rounding: Adam would else take full steps along it
    optimiser = torch.optim.Adam([nodes], lr=stage.step_mm[0], eps=SLOPE_FLOOR / nodes[0].numel())
    first, last = stage.step_mm
    terms = []
    for iteration in range(stage.iterations):
        if iteration % settings.redraw == 0:
            points = lung.draw(stage.points, generator).to(warp.device)
            where, start, wanted = lattice.normalised(points), points + warp.at(points), pair.fixed_at(points)
        share = iteration / max(1, stage.iterations - 1)
        optimiser.param_groups[0]["lr"] = first * (last / first) ** share
        smooth = smoothed(nodes) * fade
        moved = look_up(smooth, where)
        with torch.no_grad():
            found = pair.moving_at(start + moved)
            difference = found[:, 0] - wanted
            data = difference.square().sum(1).mean()
            gradient = torch.bmm(found[:, 1:], difference[:, :, None])[:, :, 0] * (2 / len(points))
        roughness = _roughness(before + smooth, grid)
        if iteration == 0:
            terms.append((float(data), float(roughness.detach())))
        optimiser.zero_grad()
        torch.autograd.backward([moved, stage.smoothness * roughness], [gradient, torch.ones_like(roughness)])
        optimiser.step()
        if iteration >= (1 - settings.average) * stage.iterations or iteration == stage.iterations - 1:
            mean += nodes.detach()
            kept += 1
        report(iteration + 1)
    with torch.no_grad():
        smooth = smoothed(mean / kept) * fade
        found = pair.moving_at(start + look_up(smooth, where))[:, 0]
        difference = found - wanted
        # points are drawn in random order: the next one in the list lies anywhere
        chance = float((found.roll(1, 0) - wanted).square().sum(1).mean())
        terms.append((float(difference.square().sum(1).mean()), float(_roughness(before + smooth, grid))))
    warp.added.append((lattice, smooth))
    return {
        "nodes": list(grid.size),
        "data": [data for data, _ in terms],
        "unexplained": [data / max(chance, 1e-9) for data, _ in terms],
        "roughness": [roughness for _, roughness in terms],
    }


def smoothed(nodes: torch.Tensor) -> torch.Tensor:
    """Nodes (3, D, H, W) smoothed twice by a 3^3 box; zeros outside."""
    out = nodes[None]
    for _ in range(2):
        out = F.avg_pool3d(out, 3, 1, 1)
    return out[0]


def _fade(grid: Grid, device: torch.device) -> torch.Tensor:
    """(D, H, W): 1 inside, 0 on the lattice's outermost nodes, a cosine between over ``MARGIN_MM`` / 2."""
    out = torch.ones(grid.shape, device=device)
    for axis, (n, s) in enumerate(zip(grid.size, grid.spacing)):
        i = torch.arange(n, device=device)
        away = torch.minimum(i, n - 1 - i) * s / (MARGIN_MM / 2)
        shape = [1, 1, 1]
        shape[2 - axis] = -1
        out = out * (0.5 - 0.5 * torch.cos(torch.pi * away.clamp(max=1))).view(shape)
    return out


def _roughness(w: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Mean squared gradient of w (3, D, H, W), mm per mm."""
    total = 0.0
    for axis in range(3):
        total = total + (w.diff(dim=1 + axis) / grid.spacing[2 - axis]).square().sum(0).mean()
    return total
