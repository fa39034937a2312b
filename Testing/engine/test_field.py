"""The displacement field against SimpleITK and analytic maps."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from ProgressiveRegistrationLib import warping
from ProgressiveRegistrationLib.errors import Cancelled, InputError, OutputError
from ProgressiveRegistrationLib.field import FILE_STEP_MM, DisplacementField, box_to_box
from ProgressiveRegistrationLib.geometry import Affine, Box, Grid
from scipy import ndimage

FIXED = Box((-60.0, -50.0, -400.0), (60.0, 40.0, -290.0))
IN_FILES = 0.6 * FILE_STEP_MM  # mm along an axis: half a step, and the boxes' scale
MOVING = Box((-50.0, -45.0, -365.0), (55.0, 50.0, -260.0))


def boxed_field(size: int = 32, amplitude: float = 60.0) -> DisplacementField:
    """As the network gives it: voxels on a box's grid, composed with the box-to-box affine, faded out."""
    rng = np.random.default_rng(5)
    u = np.stack([ndimage.gaussian_filter(rng.normal(size=(size,) * 3), size / 6) for _ in range(3)])
    fixed, moving = FIXED.grid(size), MOVING.grid(size)
    return DisplacementField.from_voxels(amplitude * u, fixed, moving).faded(box_to_box(fixed, moving), 30)


def somewhere(count: int = 400, box: Box = FIXED, margin: float = 100.0) -> np.ndarray:
    grown = box.grown(margin)
    return np.random.default_rng(6).uniform(grown.lower, grown.upper, (count, 3))


def itk_points(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(p) for p in points.tolist()])


def test_network_voxels_become_mm_between_the_two_boxes():
    """Index i of the fixed grid must land at index i + u(i) of the moving grid."""
    fixed, moving = FIXED.grid(8), MOVING.grid(8)
    u = np.random.default_rng(7).normal(size=(3, 8, 8, 8))
    field = DisplacementField.from_voxels(u, fixed, moving)
    index = np.array([3, 6, 1])
    landed = moving.world_to_index(field.warp_points(fixed.index_to_world(index)))
    np.testing.assert_allclose(landed, index + u[:, 1, 6, 3], atol=1e-4)


@pytest.mark.parametrize("ending", [".h5", ".tfm"])
def test_a_transform_file_means_the_same_to_itk_inside_and_far_outside(tmp_path, ending):
    field = boxed_field()
    field.write(tmp_path / f"t{ending}")
    points = somewhere()
    itk = sitk.ReadTransform(str(tmp_path / f"t{ending}"))
    np.testing.assert_allclose(itk_points(itk, points), field.warp_points(points), atol=IN_FILES)
    again = DisplacementField.read(tmp_path / f"t{ending}")
    np.testing.assert_allclose(again.warp_points(points), field.warp_points(points), atol=IN_FILES)


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".nii", ".mha"])
def test_a_displacement_field_file_means_the_same_to_itk_on_the_image_it_covers(tmp_path, ending):
    image = FIXED.grown(70).grid((40, 30, 35))
    field = boxed_field().covering(image)
    field.write(tmp_path / f"u{ending}")
    itk = sitk.DisplacementFieldTransform(
        sitk.ReadImage(str(tmp_path / f"u{ending}"), sitk.sitkVectorFloat64)
    )
    points = image.points().reshape(-1, 3)[::37].astype(float)
    np.testing.assert_allclose(itk_points(itk, points), boxed_field().warp_points(points), atol=IN_FILES)
    again = DisplacementField.read(tmp_path / f"u{ending}")
    np.testing.assert_allclose(again.warp_points(points), field.warp_points(points), atol=IN_FILES)


@pytest.mark.parametrize("ending", [".h5", ".tfm", ".nrrd", ".nii.gz", ".mha"])
def test_warping_equals_itks_resampling_with_the_written_transform(tmp_path, ending):
    rng = np.random.default_rng(8)
    moving = MOVING.grown(20).grid((45, 40, 38)).image(rng.normal(size=(38, 40, 45)).astype(np.float32) * 300)
    reference = FIXED.grown(30).grid((31, 29, 27)).image(np.zeros((27, 29, 31), np.int16))
    field = boxed_field()
    path = tmp_path / f"t{ending}"
    field.covering(Grid.from_image(reference)).write(path)
    if ending in (".h5", ".tfm"):
        transform = sitk.ReadTransform(str(path))
    else:
        transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    expected = sitk.Resample(moving, reference, transform, sitk.sitkLinear, -1024.0)
    warped = field.warp_image(moving, reference, default=-1024)
    difference = sitk.GetArrayFromImage(warped) - sitk.GetArrayFromImage(expected)
    # rounding in files moves a point by up to 0.007 mm, a value by as much of a gradient (300 HU in 3 mm); a
    # face of the moving image may then be missed by single voxels
    assert np.quantile(np.abs(difference), 0.999) < (0.05 if ending == ".tfm" else 1.5)


def test_labels_keep_their_values_and_type():
    labels = (np.arange(38 * 40 * 45).reshape(38, 40, 45) // 9000).astype(np.uint8) * 7
    moving = MOVING.grid((45, 40, 38)).image(labels)
    warped = boxed_field().warp_image(moving, FIXED.grid((30, 30, 30)), label=True)
    assert warped.GetPixelID() == sitk.sitkUInt8
    assert set(np.unique(sitk.GetArrayFromImage(warped))) <= set(np.unique(labels))


@pytest.mark.parametrize("label", [False, True])
@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_warping_slab_by_slab_is_itks_resampling_by_the_transform(monkeypatch, label, kind):
    rng = np.random.default_rng(3)
    values = ndimage.gaussian_filter(rng.normal(size=(38, 40, 45)), 1) * 900
    moving = MOVING.grid((45, 40, 38)).image(values.astype(kind))
    grid = FIXED.grown(60).grid((31, 29, 27))  # past the field's grid, and past the moving image
    field = boxed_field()
    how = sitk.sitkNearestNeighbor if label else sitk.sitkLinear
    exact = sitk.GetArrayFromImage(
        sitk.Resample(
            moving,
            grid.image(np.zeros(grid.shape, np.uint8)),
            field.transform_over(grid),
            how,
            -1000.0,
            sitk.sitkFloat32,
        )
    )
    for voxels in (1, 5 * 31 * 29, 10**6):
        monkeypatch.setattr(warping, "SLAB_VOXELS", voxels)
        warped = field.warp_image(moving, grid, label=label, default=-1000)
        assert warped.GetPixelID() == moving.GetPixelID()
        assert Grid.from_image(warped) == grid
        found = sitk.GetArrayFromImage(warped)
        assert 0 < (found == -1000).mean() < 1
        away = np.abs(found - (np.round(exact) if kind is np.int16 else exact))
        # float32 displacements: a voxel may round the other way, or miss a face by a millionth of a mm
        assert np.quantile(away, 0.999) < 0.05
        assert (away > 1).mean() < 1e-4
    far = DisplacementField.from_affine(grid, Affine(np.eye(3), (5000.0, 0, 0)))
    assert (sitk.GetArrayFromImage(far.warp_image(moving, grid, label=label, default=7)) == 7).all()


def test_warping_tells_how_far_it_is_and_can_be_stopped(monkeypatch):
    monkeypatch.setattr(warping, "SLAB_VOXELS", 10 * 30 * 30)
    moving = MOVING.grid((45, 40, 38)).image(np.zeros((38, 40, 45), np.uint8))
    heard: list[float] = []
    boxed_field().warp_image(moving, FIXED.grid((30, 30, 30)), report=heard.append)
    assert heard == pytest.approx([1 / 3, 2 / 3, 1])

    def stop(share: float) -> None:
        heard.append(share)
        raise Cancelled

    heard.clear()
    with pytest.raises(Cancelled):
        boxed_field().warp_image(moving, FIXED.grid((30, 30, 30)), report=stop)
    assert heard == pytest.approx([1 / 3])


def test_the_field_is_continuous_at_the_boxs_border_and_at_the_grids():
    field = boxed_field()
    lines = somewhere(60, margin=20)
    for axis in range(3):
        t = np.linspace(-160, 160, 1601)
        path = np.repeat(lines[:, None, :], t.size, 1)
        path[..., axis] = FIXED.centre[axis] + t
        steps = np.linalg.norm(np.diff(field.sample(path), axis=1), axis=-1)
        assert steps.max() < 0.2  # per 0.2 mm: no jump
        far = np.concatenate([path[:, 0], path[:, -1]])
        np.testing.assert_allclose(field.warp_points(far), field.outside(far), atol=1e-6)


def test_without_an_outer_map_the_border_value_continues_on_every_path():
    grid = FIXED.grid(12)
    u = np.random.default_rng(9).normal(size=(*grid.shape, 3)).astype(np.float32) * 3
    field = DisplacementField(grid, u)
    beyond = np.array([[FIXED.upper[0] + 40, *grid.index_to_world([0, 4, 6])[1:]]])
    np.testing.assert_allclose(field.sample(beyond)[0], u[6, 4, -1], atol=1e-4)
    wide = field.covering(FIXED.grown(50).grid(20))
    np.testing.assert_allclose(wide.sample(beyond)[0], u[6, 4, -1], atol=1e-4)


def test_an_affine_map_is_itself_everywhere_and_composes_and_inverts():
    affine = Affine(np.diag([1.1, 0.9, 1.05]) + 0.03, (5, -30, 35))
    field = DisplacementField.from_affine(FIXED.grid(10), affine)
    points = somewhere()
    np.testing.assert_allclose(field.warp_points(points), affine(points), atol=1e-4)
    both = field.compose(field)
    np.testing.assert_allclose(both.warp_points(points), affine(affine(points)), atol=1e-3)
    back = field.inverse()
    np.testing.assert_allclose(back.warp_points(affine(points)), points, atol=0.02)


def test_composition_is_itks_composite():
    inner, outer = boxed_field(), boxed_field(24, 30.0)
    points = inner.grid.points().reshape(-1, 3)[::501].astype(float)
    composite = sitk.CompositeTransform([outer.to_transform(), inner.to_transform()])
    np.testing.assert_allclose(
        outer.compose(inner).warp_points(points), itk_points(composite, points), atol=1e-3
    )


def test_the_inverse_undoes_the_field():
    field = boxed_field()
    inverse = field.inverse()
    points = somewhere(margin=0)
    error = np.linalg.norm(inverse.warp_points(field.warp_points(points)) - points, axis=1)
    assert error.mean() < 0.1  # what trilinear interpolation on a 3.5 mm grid leaves
    finer = field.inverse(inverse.grid.with_spacing(1.5))
    error = np.linalg.norm(finer.warp_points(field.warp_points(points)) - points, axis=1)
    assert error.mean() < 0.03


def test_jacobian_determinant_is_itks_and_exact_for_an_affine_map():
    field = boxed_field()
    itk = sitk.DisplacementFieldJacobianDeterminant(sitk.Cast(field.to_image(), sitk.sitkVectorFloat64))
    inner = (slice(1, -1),) * 3
    np.testing.assert_allclose(
        field.jacobian_determinant()[inner], sitk.GetArrayFromImage(itk)[inner], atol=1e-4
    )
    rotated = Grid(
        (6, 7, 8), (1.0, 2.0, 3.0), (0, 0, 0), sitk.Euler3DTransform((0, 0, 0), 0.3, 0.1, 0.7).GetMatrix()
    )
    matrix = np.eye(3) + np.random.default_rng(10).normal(size=(3, 3)) * 0.1
    exact = DisplacementField.from_affine(rotated, Affine(matrix, (1, 2, 3)))
    np.testing.assert_allclose(exact.jacobian_determinant(), np.linalg.det(matrix), rtol=1e-4)


def test_a_b_spline_of_itk_is_read_and_evaluated(tmp_path):
    domain = FIXED.grid(20).image(np.zeros((20, 20, 20), np.int16))
    spline = sitk.BSplineTransformInitializer(domain, [4, 4, 4])
    rng = np.random.default_rng(11)
    spline.SetParameters((rng.normal(size=len(spline.GetParameters())) * 4).tolist())
    sitk.WriteTransform(spline, str(tmp_path / "spline.tfm"))
    field = DisplacementField.read(tmp_path / "spline.tfm", grid=FIXED.grid(60))
    points = somewhere(margin=-8)
    np.testing.assert_allclose(field.warp_points(points), itk_points(spline, points), atol=0.05)
    with pytest.raises(InputError, match="no grid of its own"):
        DisplacementField.read(tmp_path / "spline.tfm")


def test_unreadable_files_and_unknown_formats_are_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(OutputError, match="ending"):
        boxed_field(8).write(tmp_path / "field.xyz")
    (tmp_path / "bad.h5").write_bytes(b"no transform")
    with pytest.raises(InputError, match="cannot be read as a transform"):
        DisplacementField.read(tmp_path / "bad.h5")
    with pytest.raises(InputError, match="does not exist"):
        DisplacementField.read(tmp_path / "none.h5")
    sitk.WriteImage(sitk.Image([8, 8, 8], sitk.sitkInt16), str(tmp_path / "ct.nrrd"))
    with pytest.raises(InputError, match="not a displacement field"):
        DisplacementField.read(tmp_path / "ct.nrrd")
    with pytest.raises(InputError, match="NaN"):
        DisplacementField(FIXED.grid(4), np.full((4, 4, 4, 3), np.nan))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.h5", "ct.nrrd"]


def test_warping_by_the_identity_returns_the_image_and_its_type():
    values = np.random.default_rng(12).integers(-1000, 3000, (20, 21, 22))
    for kind in (np.int16, np.uint16, np.int32, np.float32):
        image = FIXED.grid((22, 21, 20)).image(np.abs(values).astype(kind))
        same = DisplacementField.identity(FIXED.grid(7)).warp_image(image, image)
        assert same.GetPixelID() == image.GetPixelID()
        np.testing.assert_allclose(sitk.GetArrayFromImage(same), sitk.GetArrayFromImage(image), atol=1e-2)
