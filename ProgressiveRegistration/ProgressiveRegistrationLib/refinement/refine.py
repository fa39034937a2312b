"""Refine one pair's field: a short optimisation that starts from the
network's field (or from the box-to-box affine).

T(x) = A(x + w(x)): A is the affine map that the field has outside its grid (the box-to-box map), w is what is
optimised, in mm of the fixed frame. The moving image is seen through A, so that both images' features live on
lattices of one spacing. Stage by stage a finer lattice of nodes is added to w. The cost is the difference of
self-similarity features (``features.py``) at points in the dilated lung, more of them where the image is
distinct, plus the squared gradient of w. The nodes are control points of cubic B-splines.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from ..errors import InputError
from ..field import MAX_SPACING_MM, DisplacementField
from ..geometry import Box, Grid
from ..presets import DEFAULT, PRESETS, Settings, Stage
from ..progress import Progress, Stop, check
from .adam import Adam
from .ahead import Ahead, working_ahead
from .lattices import sent
from .matching import FeaturePair, LungPoints, mean_square, shuffled
from .splines import SplineAt, roughness, roughness_slope, separable, shaping
from .warp import Warp

FADE_MM = 30.0  # around the lungs: the correction fades to zero there
MOST_UNEXPLAINED = 0.25  # measured: one patient to 0.15, two patients 0.39 (REFINEMENT.md)
LEAST_SEEN = 0.2  # share of the lungs that the moving image must show
SLOPE_FLOOR = 0.01  # of the squared feature difference, per mm
START_SHARES = (1.0, 0.5, 0.0)  # of the incoming residual, of which the best is taken
PAYS = 0.1  # share of the data term that a round of a stage must take away, for another one to follow
BACK_MM = 4.0  # of the grid on which the way back begins
MEAN_MM, INVERSE_STEPS = 2.5, 8  # of the mean of both ways
SLAB_POINTS = 100_000  # of it at once
FINEST = 0.55  # voxels of the coarser image (geometric mean), of a stage's features: see REFINEMENT.md
MEETING = 10  # iterations' time that the mean takes, for the progress bar


def refine(
    fixed: sitk.Image,
    moving: sitk.Image,
    field: DisplacementField,
    *,
    preset: str | Settings = DEFAULT,
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
    field : the network's field, or any field to start from; its ``outside`` map (where it has one) is kept as
        it is.
    preset : a preset that refines, or ``Settings``.
    mask : above 0 in the fixed image's lungs, on any grid.
    device : torch device of the optimisation.
    seed : of the points that are drawn. Same seed, same field on a CPU; on a GPU sums differ in the last
        digits.
    progress : called with ("refinement", 0..1, text); cancelled : polled every iteration.
    convergence : a list that gets a dict for each stage: its settings and rounds; at its start and end the
        data term, the roughness (mean squared gradient of w) and ``unexplained``, the data term's share of
        what it is between places that have nothing to do with each other; seconds. ``direction``: forward, or
        backward where a preset goes both ways; ``start_share``: how much of the incoming residual was kept to
        start from.

    Returns
    -------
    A field on ``field``'s grid (or a finer one, where that is coarser than 2.5 mm), with the same map
    outside.

    Raises
    ------
    InputError : unknown preset, a mask without voxels, a field that does not reach the mask, or that leads
        out of the moving
    image. Cancelled.
    """
    settings = preset if isinstance(preset, Settings) else _settings(preset)
    settings = replace(settings, stages=_shown(settings.stages, fixed, moving))
    # what it needs of torch is not all there on mps
    target = torch.device("cpu" if device.startswith("mps") else device)
    steps = [] if convergence is None else convergence
    with working_ahead(target) as ahead:
        descent = _Descent(settings, target, seed, progress, cancelled, steps, ahead)
        warp, region = descent.run("forward", fixed, moving, field, mask, settings.stages)
        result = warp.result()
        if not settings.both_ways:
            return result
        back = result.resample(result.grid.with_spacing(BACK_MM)).inverse(cancelled=descent.alive)
        moving_mask = _carried(mask, back, moving)
        backward, _ = descent.run("backward", moving, fixed, back, moving_mask, settings.stages[1:])
        _meet_half_way(warp, backward, region, descent)
        descent.done = descent.total
        descent.report(0)
        return warp.result()


def _settings(preset: str) -> Settings:
    known = {name: p.refinement for name, p in PRESETS.items() if p.refinement is not None}
    if preset not in known:
        raise InputError(f"The refinement {preset!r} is unknown; use {' or '.join(map(repr, known))}.")
    return known[preset]


def _shown(stages: tuple[Stage, ...], *images: sitk.Image) -> tuple[Stage, ...]:
    """The stages whose features both images can show, and the first two always.

    On finer ones there is nothing but interpolation to fit: they cost time and make the map uneven.
    """
    coarsest = max(float(np.prod(image.GetSpacing())) ** (1 / 3) for image in images)
    return (*stages[:2], *(s for s in stages[2:] if s.voxel_mm >= FINEST * coarsest))


def doubts(convergence: list[dict[str, Any]]) -> list[str]:
    """Sentences for a user whose pair the refinement could not line up;
    empty when nothing speaks against the result."""
    left = convergence[-1]["unexplained"][1] if convergence else 0.0
    if left <= MOST_UNEXPLAINED:
        return []
    return [
        f"After the refinement the lungs still differ by {100 * left:.0f} % of what unrelated places differ "
        f"by (scans of one patient: below {100 * MOST_UNEXPLAINED:.0f} %): the result is not to be trusted; "
        f"check that both images show one patient's lungs."
    ]


def _check(field: DisplacementField, mask: sitk.Image) -> None:
    """InputError where mask and field cannot belong together."""
    values = sitk.GetArrayViewFromImage(mask) > 0
    if not values.any():
        raise InputError(
            "The lung mask has no voxel above 0; give a mask that covers the lungs of the fixed image."
        )
    inside = Grid.from_image(mask).index_to_world(np.argwhere(values)[:, ::-1])
    if not field.grid.contains(inside).any():
        raise InputError(
            "The displacement field lies elsewhere than the lung mask; give a field and a mask of the same "
            "fixed image."
        )


def _start(field: DisplacementField, region: Box) -> DisplacementField:
    """The incoming field on a fine enough grid that covers the region which is to be refined."""
    if max(field.grid.spacing) > MAX_SPACING_MM:
        field = field.resample(field.grid.with_spacing(np.minimum(field.grid.spacing, MAX_SPACING_MM)))
    region = region.grown(max(field.grid.spacing))
    return field.covering(region.grid(1))


def _carried(mask: sitk.Image, back: DisplacementField, moving: sitk.Image) -> sitk.Image:
    """The moving image's lungs: where the fixed image's go, as far as the moving image shows them."""
    carried = back.warp_image(mask, back.grid, label=True)
    shown = Grid.from_image(moving).contains(back.grid.points())
    return back.grid.image((sitk.GetArrayViewFromImage(carried) > 0).astype(np.uint8) * shown)


def _lattice(region: Box, spacing_mm: float) -> Grid:
    """A grid of about this spacing whose first and last voxel centres lie on the region's faces."""
    size = np.maximum(4, np.ceil(np.asarray(region.extent) / spacing_mm).astype(int) + 1)
    return Grid(tuple(size.tolist()), tuple(region.extent / (size - 1)), tuple(region.lower))


class _Descent:
    """The stages of a refinement, in one direction or both: counts iterations, reports, polls for a stop."""

    def __init__(
        self,
        settings: Settings,
        device: torch.device,
        seed: int,
        progress: Progress,
        cancelled: Stop,
        convergence: list[dict[str, Any]],
        ahead: Ahead,
    ) -> None:
        self.settings, self.device, self.seed, self.ahead = settings, device, seed, ahead
        self.progress, self.cancelled, self.convergence = progress, cancelled, convergence
        stages = settings.stages + settings.stages[1:] * settings.both_ways
        self.total, self.done = sum(s.iterations for s in stages) + MEETING * settings.both_ways, 0
        self.count, self.number = len(stages), 0

    def report(self, done: float, text: str = "") -> None:
        """Say how many iterations of the stage are done; raises Cancelled."""
        check(self.cancelled)
        if self.progress is not None:
            text = text or f"Refining, stage {max(1, self.number)} of {self.count}"
            self.progress("refinement", (self.done + done) / self.total, text)

    def alive(self) -> bool:
        """What long steps poll in place of ``cancelled``: shows that it goes on, too."""
        self.report(0)
        return False

    def run(
        self,
        direction: str,
        fixed: sitk.Image,
        moving: sitk.Image,
        field: DisplacementField,
        mask: sitk.Image,
        stages: tuple[Stage, ...],
    ) -> tuple[Warp, Box]:
        """The refined map, and the box in which it differs from the incoming one."""
        settings = self.settings
        generator = torch.Generator().manual_seed(self.seed)
        _check(field, mask)
        self.report(0)
        lung = LungPoints(mask, settings.dilation_mm, fixed)
        region = lung.box.grown(FADE_MM)
        self.report(0)
        warp = Warp(_start(field, region), self.device)
        self.report(0)
        pair: FeaturePair | None = None
        asked = 0.0
        for stage in stages:
            began = time.perf_counter()
            self.number += 1
            self.report(0)
            if pair is None or asked != stage.voxel_mm:
                first, pair = pair is None, None  # frees the last one first
                pair = FeaturePair(
                    fixed, moving, warp, lung, stage.voxel_mm, settings.noise, self.alive, self.ahead
                )
                asked = stage.voxel_mm
                if first and direction == "forward":
                    _keep_best_share(pair, warp, lung, stage, generator)
                    _check_seen(pair, warp, lung, stage, generator)
            rounds: list[dict[str, Any]] = []
            for _ in range(stage.repeats + 1):
                rounds.append(
                    _optimise(pair, warp, lung, region, stage, settings, generator, self.report, self.ahead)
                )
                before, after = rounds[-1]["data"]
                if after > (1 - PAYS) * before:
                    break
            result = _joined(rounds)
            self.done += stage.iterations
            about = {"stage": self.number, "direction": direction, **asdict(stage)}
            about.update({"voxel_mm": pair.voxel_mm, "start_share": warp.share, **result})
            self.convergence.append({**about, "seconds": time.perf_counter() - began})
        return warp, region


def _keep_best_share(
    pair: FeaturePair, warp: Warp, lung: LungPoints, stage: Stage, generator: torch.Generator
) -> None:
    """Scale the incoming residual (in place) by whichever of ``START_SHARES`` explains the images best.

    A network can do harm, on images that are unlike its training or where there is next to no motion.
    """
    points = sent(lung.draw(stage.points, generator), warp.device)
    w, wanted = warp.at(points), pair.fixed_at(points)
    if float(w.abs().max()) < 1e-3:
        return
    other = shuffled(len(wanted), generator, warp.device)
    chance = float((wanted - wanted[other]).square().sum(1).mean())
    costs = []
    for share in START_SHARES:
        difference, seen = pair.difference(points + share * w, wanted)
        # a share that leads points out of the moving image must not gain by it
        unseen = 1 - float(seen.mean())
        costs.append((1 - unseen) * float(mean_square(difference, seen)) + unseen * chance)
    warp.scale(START_SHARES[int(np.argmin(costs))])


def _check_seen(
    pair: FeaturePair, warp: Warp, lung: LungPoints, stage: Stage, generator: torch.Generator
) -> None:
    """InputError where next to nothing of the lungs arrives in the moving image: there is nothing to fit."""
    points = sent(lung.draw(stage.points, generator), warp.device)
    seen = float(pair.seen(points + warp.at(points)).mean())
    if seen < LEAST_SEEN:
        raise InputError(
            f"The displacement field leads out of the moving image: only {100 * seen:.0f} % of the fixed "
            f"image's lungs arrive in it; give a field of this pair."
        )


def _optimise(
    pair: FeaturePair,
    warp: Warp,
    lung: LungPoints,
    region: Box,
    stage: Stage,
    settings: Settings,
    generator: torch.Generator,
    report: Callable[[float], None],
    ahead: Ahead,
) -> dict[str, Any]:
    """One stage: adds its nodes to ``warp``. Returns their number and the terms at start and end."""
    grid = _lattice(region, stage.node_mm)
    shape = shaping(grid, FADE_MM / 2, warp.device)
    back = [matrix.T.contiguous() for matrix in shape]
    nodes_at = torch.from_numpy(grid.points().reshape(-1, 3)).to(warp.device)
    before = warp.at(nodes_at).T.reshape(3, *grid.shape)
    nodes = torch.zeros((3, *grid.shape), device=warp.device)
    mean, kept = torch.zeros_like(nodes), 0
    # the floor is a node's share of a slope that is mere rounding: Adam would else take full steps along it
    optimiser = Adam(nodes, SLOPE_FLOOR / nodes[0].numel())
    first, last = stage.step_mm
    terms = []

    def drawn() -> tuple[SplineAt, torch.Tensor, torch.Tensor]:
        points = sent(lung.draw(stage.points, generator), warp.device)
        return SplineAt(grid, points), points + warp.at(points), pair.fixed_at(points)

    draws = ahead.each(drawn, -(-stage.iterations // settings.redraw))
    for iteration in range(stage.iterations):
        if iteration % settings.redraw == 0:
            splines, start, wanted = next(draws)
        share = iteration / max(1, stage.iterations - 1)
        smooth = separable(nodes, shape)
        data, pull = pair.pull(start + splines.value(smooth), wanted, settings.robust)
        smooth += before
        if iteration == 0:
            terms.append((float(data), float(roughness(smooth, grid))))
        slope = splines.adjoint(pull).add_(roughness_slope(smooth, grid), alpha=stage.smoothness)
        optimiser.step(separable(slope, back), first * (last / first) ** share)
        if iteration >= (1 - settings.average) * stage.iterations or iteration == stage.iterations - 1:
            mean += nodes
            kept += 1
        report(iteration + 1)
    smooth = separable(mean / kept, shape)
    difference, seen = pair.difference(start + splines.value(smooth), wanted)
    other = shuffled(len(wanted), generator, warp.device)
    chance = float(mean_square((difference + wanted)[other] - wanted, seen * seen[other]))
    terms.append((float(mean_square(difference, seen)), float(roughness(before + smooth, grid))))
    warp.add(smooth, grid)
    return {
        "nodes": list(grid.size),
        "data": [data for data, _ in terms],
        "unexplained": [data / max(chance, 1e-9) for data, _ in terms],
        "roughness": [roughness for _, roughness in terms],
    }


def _joined(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """What a stage's rounds did together: from the first's start to the last's end."""
    ends = {key: [rounds[0][key][0], rounds[-1][key][1]] for key in ("data", "unexplained", "roughness")}
    return {**rounds[-1], **ends, "rounds": len(rounds)}


def _meet_half_way(forward: Warp, backward: Warp, region: Box, descent: _Descent) -> None:
    """Change ``forward`` so that T becomes the mean of it and the inverse of ``backward``.

    The two err independently in part. Nothing changes where the inverse cannot be found, nor at the border.
    """
    grid = _lattice(region, MEAN_MM)
    linear = torch.tensor(forward.affine.matrix, dtype=torch.float32, device=forward.device)
    x = torch.from_numpy(grid.points().reshape(-1, 3)).to(forward.device)
    half = []
    for number, part in enumerate(x.split(SLAB_POINTS)):  # stops are heard
        descent.report(MEETING * number * SLAB_POINTS / len(x), "Refining, mean of both ways")
        ahead = forward.mapped(part)
        y = ahead.clone()
        for _ in range(INVERSE_STEPS):
            miss = backward.mapped(y) - part
            y -= miss @ linear.T
        found = miss.norm(dim=1, keepdim=True) < 0.1
        half.append(torch.where(found, (y - ahead) / 2, 0.0) @ torch.linalg.inv(linear).T)
    values = torch.cat(half).T.reshape(3, *grid.shape)
    # smoothed, since it may end abruptly where the inverse could not be found
    values = separable(values, shaping(grid, FADE_MM / 2, forward.device))
    forward.add_values(np.moveaxis(values.cpu().numpy(), 0, -1), grid)
