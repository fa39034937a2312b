"""Quality figures against ITK, analytic fields and plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from ProgressiveRegistrationLib import quality
from ProgressiveRegistrationLib.errors import Cancelled, InputError
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Affine, Grid
from ProgressiveRegistrationLib.statistics import statistics

GRID = Grid((24, 20, 18), (3.0, 2.5, 4.0), (-30.0, 10.0, -100.0))
RNG = np.random.default_rng(3)


def smooth_field(grid: Grid = GRID, size: float = 4.0) -> DisplacementField:
    p = grid.points()
    x, y, z = p[..., 0], p[..., 1], p[..., 2]
    u = np.stack([np.sin(y / 9 + z / 21), np.cos(x / 11 + z / 17), np.sin(x / 13 - y / 8)], -1)
    return DisplacementField(grid, (size * u).astype(np.float32))


def folded_field(grid: Grid, fold: slice) -> DisplacementField:
    """x is mirrored (dT/dx = -0.5) in the columns ``fold``; elsewhere the identity."""
    x = np.arange(grid.size[0]) * grid.spacing[0]
    u = np.zeros(grid.size[0])
    u[fold] = -1.5 * (x[fold] - x[fold].mean())
    return DisplacementField(
        grid, np.stack(np.broadcast_arrays(u, 0, np.zeros(grid.shape)), -1).astype(np.float32)
    )


def mask_of(grid: Grid, inside: tuple) -> sitk.Image:
    values = np.zeros(grid.shape, np.uint8)
    values[inside] = 1
    return grid.image(values)


def inner_points(count: int = 40) -> np.ndarray:
    return GRID.index_to_world(RNG.uniform(1, np.asarray(GRID.size) - 2, (count, 3)))


def bspline() -> sitk.BSplineTransform:
    transform = sitk.BSplineTransformInitializer(GRID.image(np.zeros(GRID.shape, np.uint8)), (5, 5, 5), 3)
    transform.SetParameters(RNG.uniform(-4, 4, len(transform.GetParameters())))
    return transform


def test_tre_agrees_with_itk_for_a_field_and_for_any_transform():
    fixed, moving = inner_points(), inner_points()
    field = smooth_field()
    itk = sitk.DisplacementFieldTransform(sitk.Cast(field.to_image(), sitk.sitkVectorFloat64))
    affine = sitk.AffineTransform(3)
    affine.SetMatrix([1.1, 0.1, 0, 0, 0.9, 0, 0.05, 0, 1])
    affine.SetTranslation((3, -4, 50))
    for ours, theirs in ((field, itk), (itk, itk), (affine, affine), (bspline(),) * 2):
        mapped = np.array([theirs.TransformPoint(p) for p in fixed.tolist()])
        expected = np.sqrt(((mapped - moving) ** 2).sum(1))
        np.testing.assert_allclose(quality.tre(ours, fixed, moving), expected, atol=1e-3)
    composite = sitk.CompositeTransform([affine, bspline()])
    mapped = np.array([composite.TransformPoint(p) for p in fixed.tolist()])
    np.testing.assert_allclose(quality.tre(composite, fixed, mapped), 0, atol=1e-9)


def test_tre_is_continuous_and_directed():
    field = DisplacementField.from_affine(GRID, Affine(np.eye(3), (0.3, 0.0, -0.4)))
    points = inner_points()
    np.testing.assert_allclose(quality.tre(field, points, points), 0.5, atol=1e-4)
    np.testing.assert_allclose(quality.tre(field, points, points + np.array([0.3, 0, -0.4])), 0, atol=1e-4)
    np.testing.assert_allclose(quality.tre(field, points, points - np.array([0.3, 0, -0.4])), 1.0, atol=1e-4)


def test_statistics_are_those_of_the_field():
    values = [1.0, 2.0, 3.0, 4.0, 10.0]
    assert statistics(values) == {
        "mean": 4.0,
        "sd": pytest.approx(np.sqrt(50 / 4)),
        "median": 3.0,
        "p95": pytest.approx(8.8),
        "max": 10.0,
        "count": 5,
    }
    assert statistics([2.5])["sd"] == 0.0
    with pytest.raises(InputError):
        statistics([])


def test_jacobian_of_an_affine_is_its_determinant():
    matrix = np.array([[1.1, 0.2, 0.0], [0.0, 0.8, 0.1], [0.1, 0.0, 1.3]])
    field = DisplacementField.from_affine(GRID, Affine(matrix, (1, 2, 3)))
    figures = quality.folding(field, None, mask_of(GRID, ...))
    spread = figures["field_of_view"]
    assert spread["mean"] == pytest.approx(np.linalg.det(matrix), abs=1e-4)
    assert spread["sd"] < 1e-4
    assert spread["sd_log"] < 1e-4
    assert figures["field_of_view_percent"] == 0
    assert figures["lung_percent"] is None
    assert figures["lung"] is None


def test_jacobian_agrees_with_itk():
    field = smooth_field()
    ours = quality.jacobian_determinant(field, GRID)
    image = sitk.Cast(field.to_image(), sitk.sitkVectorFloat64)
    itk = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image))
    inner = (slice(1, -1),) * 3  # ITK treats the border differently
    np.testing.assert_allclose(ours[inner], itk[inner], atol=1e-4)
    assert ours[inner].std() > 0.1


def test_jacobian_is_the_analytic_one_also_on_a_rotated_grid():
    # ITK's own filter leaves the direction out, so the formula is the judge here.
    grid = Grid((14, 12, 10), (0.5, 0.4, 0.6), (5.0, -8.0, 3.0), (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))
    x, y, z = np.moveaxis(grid.points().astype(float), -1, 0)
    one, zero = np.ones_like(x), np.zeros_like(x)
    a, b, c = y / 9 + z / 21, x / 11 + z / 17, x / 13 - y / 8
    rows = [
        [one, 4 * np.cos(a) / 9, 4 * np.cos(a) / 21],
        [-4 * np.sin(b) / 11, one, -4 * np.sin(b) / 17],
        [4 * np.cos(c) / 13, -4 * np.cos(c) / 8, one + zero],
    ]
    exact = np.linalg.det(np.stack([np.stack(row, -1) for row in rows], -2))
    ours = quality.jacobian_determinant(smooth_field(grid), grid)
    inner = (slice(1, -1),) * 3
    np.testing.assert_allclose(ours[inner], exact[inner], atol=2e-3)
    assert np.ptp(exact) > 0.1


def test_folding_is_counted_where_it_is():
    field = folded_field(GRID, slice(8, 14))
    half = (slice(None), slice(None), slice(0, 12))
    figures = quality.folding(field, mask_of(GRID, half), mask_of(GRID, ...))
    image = sitk.Cast(field.to_image(), sitk.sitkVectorFloat64)
    itk = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image))
    assert figures["lung_percent"] == pytest.approx(100 * np.mean(itk[half] <= 0))
    assert figures["field_of_view_percent"] == pytest.approx(100 * np.mean(itk <= 0))
    assert figures["lung_percent"] > figures["field_of_view_percent"] > 10
    assert figures["lung"]["min"] == pytest.approx(itk[half].min(), abs=1e-5)
    assert figures["lung"]["count"] == 24 * 20 * 18 / 2


def test_folding_does_not_depend_on_how_it_is_cut_into_slabs(monkeypatch):
    field = smooth_field(size=12.0)
    lung = mask_of(GRID, (slice(4, 15), slice(5, 15), slice(3, 20)))
    whole = quality.folding(field, lung, mask_of(GRID, ...))
    monkeypatch.setattr(quality, "SLAB_VOXELS", 24 * 20 * 4)
    assert quality.folding(field, lung, mask_of(GRID, ...)) == whole
    assert whole["field_of_view_percent"] > 0


def test_folding_outside_the_field_grid_is_counted_over_the_whole_image():
    larger = Grid((20, 20, 20), (5.7, 4.9, 6.7), (-50.0, -20.0, -130.0))
    figures = quality.folding(folded_field(GRID, slice(8, 14)), None, mask_of(larger, ...))
    grid = quality.evaluation_grid(folded_field(GRID, slice(8, 14)), mask_of(larger, ...))
    assert grid.spacing == GRID.spacing
    inside = np.abs(grid.world_to_index(GRID.origin) - np.round(grid.world_to_index(GRID.origin)))
    assert inside.max() < 1e-6
    assert larger.contains(grid.points().reshape(-1, 3)).sum() == figures["field_of_view"]["count"]


def test_another_program_s_bspline_is_measured_like_a_fine_field():
    transform = bspline()
    fov = mask_of(GRID, ...)
    figures = quality.folding(transform, None, fov)
    grid = quality.evaluation_grid(transform, fov)
    assert max(grid.spacing) <= 4.0
    points = grid.points()[5, 6, 7].astype(float)
    jacobian = np.empty((3, 3))
    for axis in range(3):
        step = np.eye(3)[axis] * 0.01
        ends = [np.array(transform.TransformPoint(points + s)) for s in (step, -step)]
        jacobian[:, axis] = (ends[0] - ends[1]) / 0.02
    ours = quality.jacobian_determinant(transform, grid)[5, 6, 7]
    assert ours == pytest.approx(np.linalg.det(jacobian), abs=0.05)
    assert figures["field_of_view"]["sd"] > 0.02


def test_field_of_view_leaves_padding_out():
    values = np.full((4, 4, 4), -1024, np.int16)
    values[0] = -2048
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(quality.field_of_view(sitk.GetImageFromArray(values))), values > -2000
    )


def test_inverse_consistency_is_zero_for_inverses_and_the_shift_otherwise():
    matrix = Affine(np.diag([1.1, 0.9, 1.0]), (2, 3, -4))
    mask = mask_of(GRID, (slice(5, 10), slice(5, 10), slice(5, 10)))
    forward = matrix.to_transform()
    figures = quality.inverse_consistency(forward, forward.GetInverse(), mask)
    assert figures["max"] < 1e-9
    assert figures["count"] == 125
    shift = sitk.TranslationTransform(3, (0.0, 3.0, 4.0))
    identity = sitk.Transform(3, sitk.sitkIdentity)
    assert quality.inverse_consistency(shift, identity, mask)["mean"] == pytest.approx(5.0)
    with pytest.raises(InputError, match="no voxel above 0"):
        quality.inverse_consistency(shift, identity, mask_of(GRID, slice(0, 0)))


def test_quality_figures_hold_the_keys_that_others_rely_on():
    image = GRID.image(np.zeros(GRID.shape, np.int16))
    fixed = inner_points(6)
    field = DisplacementField.from_affine(GRID, Affine(np.eye(3), (1.0, 0, 0)))
    figures = quality.quality_figures(
        field,
        image,
        lung_mask=mask_of(GRID, (slice(4, 12), slice(4, 12), slice(4, 12))),
        fixed_points=fixed,
        moving_points=fixed + np.array([4.0, 0, 0]),
        labels=list("abcdef"),
        backward=sitk.TranslationTransform(3, (-1.0, 0.0, 0.5)),
    )
    assert figures["tre_mm"]["before"]["mean"] == pytest.approx(4.0)
    assert figures["tre_mm"]["after"]["mean"] == pytest.approx(3.0, abs=1e-4)
    assert set(figures["tre_mm"]["after"]) == {"mean", "sd", "median", "p95", "max", "count"}
    assert figures["displacement_mm"]["mean"] == pytest.approx(1.0, abs=1e-5)
    assert figures["inverse_consistency_mm"]["mean"] == pytest.approx(0.5, abs=1e-4)
    assert [row["label"] for row in figures["landmarks"]] == list("abcdef")
    assert figures["landmarks"][0]["moving_lps"] == pytest.approx(fixed[0] + np.array([4, 0, 0]))
    assert figures["folding"]["lung_percent"] == figures["folding"]["field_of_view_percent"] == 0


def test_the_box_alignment_alone_is_given_where_the_field_knows_it():
    boxes = Affine(np.diag([1.0, 1.0, 1.0]), (0.0, 3.0, 0.0))
    field = DisplacementField(GRID, np.zeros((*GRID.shape, 3), np.float32), outside=boxes)
    points = inner_points(5)
    figures = quality.quality_figures(
        field, mask_of(GRID, ...), fixed_points=points, moving_points=points + np.array([0, 3, 4])
    )
    assert figures["tre_mm"]["before"]["mean"] == pytest.approx(5.0)
    assert figures["tre_mm"]["lung_boxes"]["mean"] == pytest.approx(4.0)


def test_folding_can_be_cancelled():
    with pytest.raises(Cancelled):
        quality.folding(smooth_field(), None, mask_of(GRID, ...), cancelled=lambda: True)
