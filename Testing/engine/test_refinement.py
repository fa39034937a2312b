"""Refinement on a made-up pair whose motion is an analytic function,
so that truth is exact at every point."""

from __future__ import annotations

import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from ProgressiveRegistrationLib.errors import Cancelled, InputError
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Affine, Grid
from ProgressiveRegistrationLib.presets import PRESETS, Settings, Stage
from ProgressiveRegistrationLib.quality import field_of_view, folding, inverse_consistency, mask_points
from ProgressiveRegistrationLib.refinement.adam import Adam
from ProgressiveRegistrationLib.refinement.ahead import Ahead, working_ahead
from ProgressiveRegistrationLib.refinement.features import FLAT, distinctness, mind_ssc, sample_mapped
from ProgressiveRegistrationLib.refinement.lattices import Lattice, RowsAt
from ProgressiveRegistrationLib.refinement.matching import LungPoints
from ProgressiveRegistrationLib.refinement.refine import doubts, refine
from ProgressiveRegistrationLib.refinement.splines import (
    SplineAt,
    roughness,
    roughness_slope,
    separable,
    shaping,
    spline_on,
)
from scipy import ndimage

GRID = Grid((60, 52, 56), (2.5, 2.5, 2.5), (-73.75, -63.75, -68.75))
WIDE = GRID.padded(14)  # the field's grid: reaches past where the correction fades
QUICK = Settings((Stage(5.0, 20.0, 25, points=8000), Stage(2.5, 10.0, 25, points=15000)))


def texture(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """HU at LPS points: bright threads and sheets in lung, a function of position alone."""
    rng = np.random.default_rng(seed)
    wave = rng.standard_normal((40, 3)) * 0.16
    phase = rng.uniform(0, 2 * np.pi, 40)
    values = np.zeros(points.shape[:-1])
    for k, p in zip(wave, phase):
        values += np.cos(points @ k + p)
    values /= np.sqrt(20)
    return -850 + 700 / (1 + np.exp(-6 * (np.abs(values) - 1.4)))


def motion(points: np.ndarray) -> np.ndarray:
    """T(x): up to 7 mm, smooth."""
    x, y, z = np.moveaxis(points / 60.0, -1, 0)
    u = np.stack([2.5 * np.sin(y + 0.4), 3 * np.cos(x + z), 6 * np.cos(0.8 * z - 0.5) * np.cos(x)], -1)
    return points + u


def motion_inverse(points: np.ndarray) -> np.ndarray:
    """T^-1(y) by fixed-point iteration."""
    out = points.copy()
    for _ in range(30):
        out += points - motion(out)
    return out


def inside(points: np.ndarray) -> np.ndarray:
    return (points / np.array([55.0, 45.0, 50.0])) ** 2 @ np.ones(3) < 1


class Pair:
    def __init__(self) -> None:
        points = GRID.points().astype(float)
        noise = np.random.default_rng(1).normal(0, 15, (2, *GRID.shape))
        self.fixed = GRID.image((texture(motion(points)) + noise[0]).astype(np.float32))
        self.moving = GRID.image((texture(points) + noise[1]).astype(np.float32))
        self.mask = GRID.image(inside(points).astype(np.uint8))
        self.start = DisplacementField.identity(WIDE)
        self.points = mask_points(self.mask, 4000)

    def error(self, field: DisplacementField) -> float:
        return float(np.linalg.norm(field.warp_points(self.points) - motion(self.points), axis=1).mean())


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Such small problems are no faster on two, and far slower where other work shares the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair()


@pytest.fixture(scope="module")
def refined(pair) -> tuple[DisplacementField, list]:
    steps: list = []
    field = refine(pair.fixed, pair.moving, pair.start, preset=QUICK, mask=pair.mask, convergence=steps)
    return field, steps


# ---- accuracy ----------------------------------------------------------------------------------------------


def test_a_known_motion_is_recovered_without_folding(pair, refined):
    field, _ = refined
    assert pair.error(pair.start) > 4.0
    assert pair.error(field) < 0.5
    assert folding(field, pair.mask, field_of_view(pair.fixed))["lung_percent"] == 0


def test_frames_apart_and_other_densities_do_not_matter(pair):
    """The moving scan lies 40 mm away, its voxels are turned, and its lungs are denser by a third."""
    shift = np.array([25.0, -20.0, 30.0])
    hu = sitk.GetArrayFromImage(pair.moving) * 0.8 - 50
    turned = sitk.PermuteAxes(GRID.image(hu), (2, 0, 1))
    turned.SetOrigin(np.asarray(turned.GetOrigin()) + shift)
    start = DisplacementField.from_affine(WIDE, Affine(np.eye(3), shift))
    field = refine(pair.fixed, turned, start, preset=QUICK, mask=pair.mask)
    error = np.linalg.norm(field.warp_points(pair.points) - shift - motion(pair.points), axis=1)
    assert error.mean() < 0.6


def test_both_ways_agree_better_and_are_as_close_to_the_truth(pair, refined):
    steps: list = []
    both = replace(QUICK, both_ways=True)
    field = refine(pair.fixed, pair.moving, pair.start, preset=both, mask=pair.mask, convergence=steps)
    assert [s["direction"] for s in steps] == ["forward", "forward", "backward"]
    assert pair.error(field) < 1.05 * pair.error(refined[0])
    assert folding(field, pair.mask, field_of_view(pair.fixed))["lung_percent"] == 0
    # A one-way field and the refinement of the swapped pair agree less than two that each went both ways.
    warped = GRID.image(inside(motion_inverse(GRID.points().astype(float))).astype(np.uint8))

    def gap(settings: Settings, there: DisplacementField) -> float:
        back = refine(pair.moving, pair.fixed, pair.start, preset=settings, mask=warped)
        return inverse_consistency(there, back, pair.mask)["mean"]

    assert gap(both, field) < 0.9 * gap(QUICK, refined[0])


def test_the_start_counts(pair):
    """From the true motion the result stays at least as good as from nothing."""
    points = WIDE.points().astype(float)
    start = DisplacementField(WIDE, motion(points) - points)
    field = refine(pair.fixed, pair.moving, start, preset=QUICK, mask=pair.mask)
    assert pair.error(start) < 0.05
    assert pair.error(field) < 0.4


def test_a_start_that_does_harm_is_dropped(pair):
    """A network can be wrong: from the opposite of the true motion the result is that from nothing."""
    points = WIDE.points().astype(float)
    field = DisplacementField(WIDE, points - motion(points), Affine.identity())
    steps: list = []
    refined = refine(pair.fixed, pair.moving, field, preset=QUICK, mask=pair.mask, convergence=steps)
    assert steps[0]["start_share"] == 0
    assert pair.error(field) > 8.0
    assert pair.error(refined) < 0.5


def test_a_stage_is_run_again_while_it_pays(pair):
    """With steps too short for the way in one round: a start near by takes one, a start from afar several."""
    first, last = (replace(stage, iterations=6) for stage in QUICK.stages)
    points = WIDE.points().astype(float)
    near = DisplacementField(WIDE, 0.9 * (motion(points) - points))

    def ended(start: DisplacementField, repeats: int) -> tuple[float, list[int]]:
        steps: list = []
        short = Settings((replace(first, repeats=repeats), last))
        field = refine(pair.fixed, pair.moving, start, preset=short, mask=pair.mask, convergence=steps)
        assert steps[0]["data"][1] < steps[0]["data"][0]
        return pair.error(field), [step["rounds"] for step in steps]

    assert ended(near, 5)[1] == [1, 1]
    once, rounds = ended(pair.start, 0)
    assert rounds == [1, 1]
    again, rounds = ended(pair.start, 5)
    assert 2 <= rounds[0] <= 6
    assert again < 0.7 * once


def test_half_of_a_start_is_kept_where_half_is_right(pair):
    points = WIDE.points().astype(float)
    field = DisplacementField(WIDE, 2 * (motion(points) - points), Affine.identity())
    steps: list = []
    refined = refine(pair.fixed, pair.moving, field, preset=QUICK, mask=pair.mask, convergence=steps)
    assert steps[0]["start_share"] == 0.5
    assert pair.error(refined) < 0.4


def test_identical_images_stay_where_they_are(pair):
    field = refine(pair.fixed, pair.fixed, pair.start, preset=QUICK, mask=pair.mask)
    assert np.linalg.norm(field.sample(pair.points), axis=1).mean() < 0.05


def test_presets_are_ordered_by_effort():
    def points(settings: Settings) -> int:
        stages = settings.stages + settings.stages[1:] * settings.both_ways
        return sum(s.iterations * s.points for s in stages)

    effort = {name: points(p.refinement) for name, p in PRESETS.items() if p.refinement is not None}
    assert set(effort) == {"balanced", "accurate"}
    assert effort["accurate"] > 1.5 * effort["balanced"]


# ---- the field's shape -------------------------------------------------------------------------------------


def test_the_map_outside_is_kept_and_met_without_a_jump(pair, refined):
    field, _ = refined
    assert field.outside is pair.start.outside
    assert field.grid == WIDE
    assert field.displacement_is_affine_at_border(1e-5)
    far = np.any(np.abs(WIDE.points()) > np.array([55.0, 45.0, 50.0]) + 40, axis=-1)
    assert np.abs(field.displacement[far]).max() < 1e-5
    steps = [np.abs(np.diff(field.displacement, axis=a)).max() for a in range(3)]
    assert max(steps) < 0.6 * 2.5  # of a voxel: no jump anywhere


def test_a_coarse_field_without_a_map_outside_comes_back_on_a_fine_grid(pair):
    coarse = DisplacementField(GRID.with_spacing(8.0), np.zeros((*GRID.with_spacing(8.0).shape, 3)))
    field = refine(pair.fixed, pair.moving, coarse, preset=QUICK, mask=pair.mask)
    assert max(field.grid.spacing) <= 2.5
    assert field.outside is None
    assert pair.error(field) < 0.6


def test_one_seed_one_field(pair, refined):
    again = refine(pair.fixed, pair.moving, pair.start, preset=QUICK, mask=pair.mask)
    other = refine(pair.fixed, pair.moving, pair.start, preset=QUICK, mask=pair.mask, seed=1)
    assert np.array_equal(again.displacement, refined[0].displacement)
    gap = np.linalg.norm(other.sample(pair.points) - again.sample(pair.points), axis=1).mean()
    assert 0 < gap < 0.3


NODES = Grid((9, 10, 11), (5.0, 6.0, 4.0), (-20.0, 3.0, 7.0))


def control_values() -> torch.Tensor:
    out = np.zeros((3, *NODES.shape), np.float32)
    inner = (slice(None), *[slice(1, -1)] * 3)
    out[inner] = np.random.default_rng(0).normal(size=out[inner].shape)
    return torch.from_numpy(out)


def spline_by_scipy(control: torch.Tensor, points: np.ndarray) -> np.ndarray:
    """(n, 3); a node past an end is the opposite of the one as far inside (nodes on the ends are 0)."""
    padded = np.pad(control.numpy(), [(0, 0), *[(1, 1)] * 3], mode="reflect", reflect_type="odd")
    at = NODES.world_to_index(points).T[::-1] + 1
    found = [ndimage.map_coordinates(c, at, order=3, prefilter=False) for c in padded]
    return np.where(NODES.contains(points, margin=0), found, 0).T


def test_splines_at_points_and_on_grids_are_scipy_s():
    control = control_values()
    box = np.array([NODES.index_to_world((-1, -1, -1)), NODES.index_to_world(NODES.size)])
    points = np.random.default_rng(1).uniform(*box, (500, 3))
    found = SplineAt(NODES, torch.from_numpy(points.astype(np.float32))).value(control)
    np.testing.assert_allclose(found, spline_by_scipy(control, points), atol=1e-4)
    for turn in (np.eye(3), np.reshape(sitk.Euler3DTransform((0, 0, 0), 0.2, 0, 0.1).GetMatrix(), (3, 3))):
        grid = Grid((7, 8, 9), (4.1, 3.7, 3.3), (-15.0, 8.0, 10.0), turn.ravel())
        on_grid = np.moveaxis(spline_on(control, NODES, grid).numpy(), 0, -1)
        wanted = spline_by_scipy(control, grid.points().reshape(-1, 3).astype(float))
        np.testing.assert_allclose(on_grid.reshape(-1, 3), wanted, atol=1e-4)


@pytest.mark.parametrize("sparse", [True, False])
def test_the_adjoint_carries_slopes_back_to_the_nodes(sparse):
    """<S c, g> = <c, S^T g>, on the road for the CPU and on the one for other devices."""
    control = control_values()
    rng = np.random.default_rng(2)
    points = torch.from_numpy(NODES.index_to_world(rng.uniform(-1, 9, (300, 3))).astype(np.float32))
    slopes = torch.from_numpy(rng.normal(size=(300, 3)).astype(np.float32))
    splines = SplineAt(NODES, points, sparse=sparse)
    ours = float((splines.value(control) * slopes).sum())
    assert ours == pytest.approx(float((control * splines.adjoint(slopes)).sum()), rel=1e-4)


def test_the_slope_of_the_roughness_is_autograd_s():
    w = control_values().requires_grad_()
    roughness(w, NODES).backward()
    torch.testing.assert_close(roughness_slope(w.detach(), NODES), w.grad)


def test_shaping_smooths_nodes_and_holds_the_border_at_0():
    control = control_values()
    shaped = separable(control, shaping(NODES, 15.0, torch.device("cpu"))).numpy()
    box = ndimage.uniform_filter
    for axis in range(3):
        twice = box(box(control[axis].numpy(), 3, mode="constant"), 3, mode="constant")
        np.testing.assert_allclose(shaped[axis][4:-4, 3:-3, 3:-3], twice[4:-4, 3:-3, 3:-3], atol=1e-5)
        for end in (0, -1):
            assert all(np.abs(shaped.take(end, along)).max() < 1e-6 for along in (1, 2, 3))


# ---- what it tells -----------------------------------------------------------------------------------------


def test_coarse_images_are_not_refined_on_what_they_cannot_show(pair):
    """Voxels of 5 mm: the stages with features of 6 and 4 mm, not those of 2 and 1.5 mm."""
    coarse = [GRID.with_spacing(5.0).resample(image) for image in (pair.fixed, pair.moving)]
    balanced = PRESETS["balanced"].refinement
    quick = replace(balanced, stages=tuple(replace(s, iterations=2, points=500) for s in balanced.stages))
    used: dict = {}
    for name, images in (("fine", (pair.fixed, pair.moving)), ("coarse", coarse)):
        steps: list = []
        refine(*images, pair.start, preset=quick, mask=pair.mask, convergence=steps)
        used[name] = [(step["voxel_mm"], step["node_mm"]) for step in steps]
    assert [node for _, node in used["fine"]] == [24.0, 16.0, 8.0, 5.0]
    assert used["coarse"] == used["fine"][:2]


def test_every_stage_reports_its_terms(refined):
    _, steps = refined
    assert [s["stage"] for s in steps] == [1, 2]
    for step in steps:
        assert step["data"][1] < step["data"][0]
        assert step["roughness"][1] > 0
        assert step["iterations"] == 25
        assert step["seconds"] > 0
        assert len(step["nodes"]) == 3
    before, after = steps[-1]["unexplained"]
    assert 0 < after < before < 1
    assert steps[0]["unexplained"][0] > after + 0.1
    assert after < 0.15
    assert doubts(steps) == []
    json.dumps(steps)


def test_another_patient_is_not_to_be_trusted(pair):
    other = GRID.image(texture(GRID.points().astype(float), seed=7).astype(np.float32))
    steps: list = []
    refine(pair.fixed, other, pair.start, preset=QUICK, mask=pair.mask, convergence=steps)
    assert len(doubts(steps)) == 1
    assert "not to be trusted" in doubts(steps)[0]


@pytest.mark.parametrize("both_ways", [False, True])
def test_progress_rises_to_one(pair, both_ways):
    seen: list[float] = []
    short = replace(QUICK, stages=tuple(replace(s, iterations=3) for s in QUICK.stages), both_ways=both_ways)
    refine(
        pair.fixed,
        pair.moving,
        pair.start,
        preset=short,
        mask=pair.mask,
        progress=lambda stage, fraction, text: seen.append(fraction),
    )
    assert len(set(seen)) >= 7  # every iteration and the start; long steps repeat themselves
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, 1)


def test_a_stop_is_heard_at_the_next_iteration(pair):
    seen: list[float] = []
    with pytest.raises(Cancelled):
        refine(
            pair.fixed,
            pair.moving,
            pair.start,
            preset=QUICK,
            mask=pair.mask,
            progress=lambda stage, fraction, text: seen.append(fraction),
            cancelled=lambda: len(seen) >= 5,
        )
    assert len(seen) == 5


# ---- what cannot be refined --------------------------------------------------------------------------------


def test_the_field_meets_its_outer_map_wherever_the_lungs_lie(pair):
    """A field that just covers the lungs is made larger, so that no correction is cut off at its border."""
    for lower, upper in (((0, 0, 0), (20, 20, 20)), ((40, 32, 36), (60, 52, 56))):
        mask = np.zeros(GRID.shape, np.uint8)
        mask[tuple(slice(a, b) for a, b in zip(lower[::-1], upper[::-1]))] = 1
        tight = DisplacementField.from_affine(GRID, Affine(np.eye(3), np.zeros(3)))
        field = refine(pair.fixed, pair.moving, tight, preset=QUICK, mask=GRID.image(mask))
        assert field.displacement_is_affine_at_border(1e-4)
        assert np.abs(field.displacement).max() > 2


@pytest.mark.parametrize("both_ways", [False, True])
def test_nothing_is_matched_past_the_end_of_the_moving_scan(pair, both_ways):
    """The moving scan ends inside the lung: what is left of it is matched as well as before."""
    cut = pair.moving[:, :, 24:]
    points = pair.points[(motion(pair.points)[:, 2] > GRID.index_to_world((0, 0, 26))[2])]

    def error(moving: sitk.Image) -> float:
        settings = replace(QUICK, both_ways=both_ways)
        field = refine(pair.fixed, moving, pair.start, preset=settings, mask=pair.mask)
        return float(np.linalg.norm(field.warp_points(points) - motion(points), axis=1).mean())

    assert error(cut) < 1.3 * error(pair.moving) + 0.05


def test_more_points_are_drawn_where_there_is_something_to_see(pair):
    smooth = sitk.Image(pair.fixed)
    values = sitk.GetArrayFromImage(smooth)
    values[:, :, : GRID.size[0] // 2] = -850.0
    smooth = GRID.image(values)
    drawn = LungPoints(pair.mask, 0.0, smooth).draw(20_000, torch.Generator().manual_seed(0)).numpy()
    assert inside(drawn).mean() > 0.95
    left, right = (drawn[:, 0] < -5).mean(), (drawn[:, 0] > 5).mean()
    assert 0.02 < left < 0.5 * right


def test_distinctness_is_what_the_structure_tensor_says():
    """Against numpy's inverse of scipy's tensor; analytic on a ramp, which says nothing across its slope."""
    image = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(12, 13, 14)), 1.0).astype(
        np.float32
    )
    slopes = np.gradient(image)
    tensor = [[ndimage.uniform_filter(a * b, 3, mode="constant") for b in slopes] for a in slopes]
    tensor = np.moveaxis(np.array(tensor, float), (0, 1), (-2, -1)) + FLAT * np.eye(3)
    wanted = np.trace(np.linalg.inv(tensor), axis1=-2, axis2=-1) ** -0.5
    index = np.argwhere(np.ones_like(image))[:, ::-1]
    inside = ((index > 0) & (index < np.array(image.shape[::-1]) - 1)).all(1)
    found = distinctness(torch.from_numpy(image), index[inside])
    np.testing.assert_allclose(found, wanted.ravel()[inside], rtol=1e-4)

    ramp = torch.arange(9.0).expand(9, 9, 9) * 0.1
    found = distinctness(ramp, np.array([[4, 4, 4]]))
    np.testing.assert_allclose(found, (1 / (0.1**2 + FLAT) + 2 / FLAT) ** -0.5, rtol=1e-4)


def test_points_prefer_a_place_that_is_fixed_in_all_directions():
    """A ball has it, a rod may slide along itself, a wall along two directions."""
    z, y, x = np.mgrid[:40, :40, :40].astype(np.float32)
    ball = np.exp(-((x - 8) ** 2 + (y - 8) ** 2 + (z - 8) ** 2) / 8)
    rod = np.exp(-((x - 30) ** 2 + (y - 8) ** 2) / 8)
    wall = 1 / (1 + np.exp(-(y - 28)))
    image = torch.from_numpy(np.maximum(np.maximum(ball, rod), wall))
    at = np.array([[8, 10, 8], [30, 10, 25], [20, 28, 25]])
    found = distinctness(image, at)
    assert found[0] > 5 * found[1] > 6 * found[2] > 0


def test_bad_input_is_refused_in_one_sentence(pair):
    elsewhere = DisplacementField.identity(replace(WIDE, origin=(900.0, 0.0, 0.0)))
    astray = DisplacementField.from_affine(GRID, Affine(np.eye(3), np.array([0.0, 700.0, 0.0])))
    cases = [
        ("no voxel above 0", {"field": pair.start, "mask": GRID.image(np.zeros(GRID.shape, np.uint8))}),
        ("lies elsewhere", {"field": elsewhere, "mask": pair.mask}),
        ("leads out of the moving image: only 0 %", {"field": astray, "mask": pair.mask}),
        ("'quick' is unknown", {"field": pair.start, "mask": pair.mask, "preset": "quick"}),
    ]
    for message, options in cases:
        with pytest.raises(InputError, match=message):
            refine(pair.fixed, pair.moving, **options)


# ---- parts -------------------------------------------------------------------------------------------------


def test_features_are_those_of_the_definition():
    """Against a plain reading of Heinrich 2013 with scipy: shifts, box means, exp(-(d - min) / mean)."""
    image = ndimage.gaussian_filter(np.random.default_rng(0).random((14, 13, 12)), 1.0)
    neighbours = [(-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1)]

    def at(offset):
        return ndimage.shift(image, [-o for o in offset], order=0, mode="nearest")

    distances = []
    for i, p in enumerate(neighbours):
        for q in neighbours[i + 1 :]:
            if sum((a - b) ** 2 for a, b in zip(p, q)) == 2:
                distances.append(ndimage.uniform_filter((at(p) - at(q)) ** 2, 3))
    stack = np.stack(distances, -1)
    stack -= stack.min(-1, keepdims=True)
    expected = np.exp(-stack / (stack.mean(-1, keepdims=True) + 1e-4))
    made = mind_ssc(torch.from_numpy(image.astype(np.float32)), noise=1e-4).float().numpy()
    assert made.shape == (14, 13, 12, 12)
    middle = (slice(3, -3),) * 3
    assert np.allclose(np.sort(made[middle]), np.sort(expected[middle]), atol=2e-3)


def test_features_do_not_depend_on_where_slabs_end(monkeypatch):
    image = torch.rand((20, 9, 8), generator=torch.Generator().manual_seed(0))
    whole = mind_ssc(image, noise=1e-3)
    monkeypatch.setattr("ProgressiveRegistrationLib.refinement.features.SLAB_VOXELS", 72 * 3)
    assert torch.equal(whole, mind_ssc(image, noise=1e-3))


def test_look_up_gives_values_and_their_slopes():
    grid = Grid((7, 8, 9), (1.5, 2.0, 2.5), (3.0, -4.0, 5.0))
    rows = np.random.default_rng(0).random((*grid.shape, 12)).astype(np.float16)
    points = grid.index_to_world(np.random.default_rng(1).uniform(0.1, 5.9, (50, 3)))

    def values(x):
        index = grid.world_to_index(x).T[::-1]
        found = [
            ndimage.map_coordinates(rows[..., c].astype(float), index, order=1, mode="nearest")
            for c in range(12)
        ]
        return np.stack(found, -1)

    lattice = Lattice(grid, torch.device("cpu"))
    made = RowsAt(lattice, torch.from_numpy(points.astype(np.float32)))
    table = torch.from_numpy(rows).view(-1, 12)
    value, slopes = made.value_and_slopes(table)
    assert np.allclose(value, values(points), atol=1e-3)  # half precision
    assert torch.equal(value, made.value(table))
    assert np.allclose(made.value(table.float()), values(points), atol=1e-5)
    along = np.random.default_rng(2).normal(size=(50, 12)).astype(np.float32)
    found = made.per_mm((slopes @ torch.from_numpy(along)[:, :, None])[:, :, 0])
    for axis in range(3):
        step = np.eye(3)[axis] * 1e-4
        slope = (values(points + step) - values(points - step)) / 2e-4
        off_kinks = np.abs(grid.world_to_index(points) % 1 - 0.5).max(1) < 0.49
        assert np.allclose(found[off_kinks, axis], (slope * along).sum(1)[off_kinks], atol=4e-3)


def test_steps_are_those_of_torch_s_adam():
    start = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32))
    ours, theirs = start.clone(), start.clone().requires_grad_()
    adam = Adam(ours, 1e-3)
    reference = torch.optim.Adam([theirs], eps=1e-3)
    for size in (0.5, 0.3, 0.1, 0.1):
        (theirs**2).sum().add((theirs[0] ** 3).sum()).backward()
        adam.step(2 * ours + torch.cat([3 * ours[:1] ** 2, torch.zeros_like(ours[1:])]), size)
        reference.param_groups[0]["lr"] = size
        reference.step()
        reference.zero_grad()
    torch.testing.assert_close(ours, theirs.detach())


def test_the_moving_image_is_seen_through_the_affine_map():
    """On an oblique image, against the map applied point by point."""
    turn = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.3)
    source = Grid((30, 28, 26), (3.0, 3.0, 3.0), (-40.0, -38.0, -35.0), turn.GetMatrix())
    image = source.image((source.points() @ np.array([3.0, -2.0, 4.0]) - 500).astype(np.float32))
    affine = Affine(np.diag([1.1, 0.9, 1.05]), (2.0, 1.0, -3.0))
    grid = Grid((8, 8, 8), (2.0, 2.0, 2.0), (-8.0, -8.0, -4.0))
    made = sample_mapped(image, grid, affine).numpy()
    hu = affine(grid.points().astype(float)) @ np.array([3.0, -2.0, 4.0]) - 500
    assert np.allclose(made, (hu + 1000) / 900, atol=1e-4)


def test_points_are_made_ahead_in_their_order_and_no_more_than_asked_for():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with working_ahead(torch.device("cpu")) as ahead:
            assert torch.get_num_threads() == 1
            numbers = itertools.count()
            threads: list[str] = []

            def make() -> int:
                threads.append(threading.current_thread().name)
                return next(numbers)

            assert list(ahead.each(make, 5)) == [0, 1, 2, 3, 4]
            assert next(numbers) == 5
            assert all(name.startswith("ahead") for name in threads)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_error_ahead_comes_when_its_turn_has_come():
    waiting = iter([lambda: 1, lambda: 1 / 0])
    with ThreadPoolExecutor(1) as pool:
        made = Ahead(pool).each(lambda: next(waiting)(), 2)
        assert next(made) == 1
        with pytest.raises(ZeroDivisionError):
            next(made)


def test_working_ahead_changes_nothing(pair):
    fields = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):  # the first alone, the second with one that works ahead
            torch.set_num_threads(threads)
            fields.append(refine(pair.fixed, pair.moving, pair.start, preset=QUICK, mask=pair.mask))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(fields[0].displacement, fields[1].displacement)
