"""NIfTI: the header's own numbers count, the bytes are all there, and nothing is made up."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from foreign_files import patched, ramp
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.images import read_image, read_volume

HU = ramp(14).astype(np.int16)
TURN = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.3).GetMatrix()
GRID = Grid((10, 12, 14), (1.5, 2.0, 2.5), (-20.0, 30.0, -100.0), TURN)


def array(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def written(path: Path, values: np.ndarray = HU, grid: Grid = GRID) -> Path:
    sitk.WriteImage(grid.image(values), str(path))
    return path


def patch(path: Path, **fields) -> Path:
    """The file with header fields replaced, packed as its name says."""
    packed = path.name.endswith(".gz")
    data = patched(gzip.decompress(path.read_bytes()) if packed else path.read_bytes(), **fields)
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".img", ".hdr"])
@pytest.mark.parametrize("kind", ["int16", "uint8", "int32", "float32", "float64", "uint16"])
def test_values_and_geometry_are_those_of_itk(tmp_path, ending, kind):
    values = (HU.astype(float) + 900).astype(kind)
    path = written(tmp_path / f"a{ending}", values)
    notes: list[str] = []
    image = read_image(path, notes=notes)
    theirs = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(array(image), values)
    assert array(image).dtype == values.dtype
    for what in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(image, what)(), getattr(theirs, what)(), atol=1e-4)
    assert notes == []


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".img"])
@pytest.mark.parametrize(
    ("slope", "intercept", "kind"),
    [(1, -1024, "int16"), (2, -1024, "int16"), (0.5, -1000, "float32"), (-1, 0, "int16"), (100, 0, "int32")],
)
def test_any_slope_and_intercept_is_applied(tmp_path, ending, slope, intercept, kind):
    path = written(tmp_path / f"a{ending}")
    header = path.with_suffix(".hdr") if ending == ".img" else path
    patch(header, slope=slope, intercept=intercept)
    values = array(read_image(path))
    assert values.dtype == kind
    np.testing.assert_allclose(values, HU * float(slope) + intercept)
    float_path = patch(written(tmp_path / "f.nii", HU.astype(np.float32)), slope=slope, intercept=intercept)
    np.testing.assert_allclose(array(read_image(float_path)), HU * float(slope) + intercept)


def test_a_slope_of_zero_means_unscaled_values_and_the_lost_intercept_is_told(tmp_path):
    path = patch(written(tmp_path / "a.nii"), slope=0.0, intercept=-1024.0)
    notes: list[str] = []
    np.testing.assert_array_equal(array(read_image(path, notes=notes)), HU)
    assert "scl_inter of -1024 was left out" in notes[0]


def test_nan_and_infinity_are_counted_and_refused(tmp_path):
    values = HU.astype(np.float32)
    values[2, 3, :4] = np.nan
    values[5, 5, 5] = np.inf
    for ending in (".nii", ".nii.gz"):
        with pytest.raises(InputError, match="has 5 NaN or infinite voxels"):
            read_image(written(tmp_path / f"a{ending}", values))


def test_what_gzip_holds_counts_and_not_the_name(tmp_path):
    plain = written(tmp_path / "a.nii").read_bytes()
    (tmp_path / "packed.nii").write_bytes(gzip.compress(plain))
    (tmp_path / "plain.nii.gz").write_bytes(plain)
    (tmp_path / "two.nii.gz").write_bytes(gzip.compress(plain[:1000]) + gzip.compress(plain[1000:]))
    (tmp_path / "more.nii").write_bytes(plain + bytes(999))
    for name in ("packed.nii", "plain.nii.gz", "two.nii.gz", "more.nii"):
        np.testing.assert_array_equal(array(read_image(tmp_path / name)), HU)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".img", ".hdr"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_cut_off_files_are_refused(tmp_path, ending, share):
    path = written(tmp_path / f"a{ending}")
    cut = path if path.suffix != ".hdr" else path.with_suffix(".img")
    data = cut.read_bytes()
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match="cut off"):
        read_image(path)


def test_half_of_a_pair_names_the_other_half(tmp_path):
    written(tmp_path / "a.img").unlink()
    with pytest.raises(InputError, match=r"a\.img, which belongs to it, is not there"):
        read_image(tmp_path / "a.hdr")


def test_sizes_that_the_file_cannot_hold_are_refused_before_any_memory_is_taken(tmp_path):
    for ending in (".nii", ".nii.gz"):
        path = patch(written(tmp_path / f"a{ending}"), dim=(3, 30000, 30000, 30000, 1, 1, 1, 1))
        with pytest.raises(InputError, match=r"5.4e\+07 MB of voxels, which .* cannot hold"):
            read_image(path)
    for dim in ((0,) * 8, (3, 10, -12, 14, 1, 1, 1, 1), (9, 10, 12, 14, 1, 1, 1, 1)):
        with pytest.raises(InputError, match="header is damaged"):
            read_image(patch(written(tmp_path / "b.nii"), dim=dim))


def sheared(grid: Grid, shear: float) -> list[float]:
    """srow_x, srow_y, srow_z (RAS) of a grid whose third axis leans along y."""
    matrix = np.diag([-1.0, -1.0, 1.0]) @ np.c_[grid.index_to_world_matrix, grid.origin]
    matrix[1, 2] += shear
    return [float(v) for v in matrix.ravel()]


def test_sheared_axes_are_refused_and_small_shears_are_rounding(tmp_path):
    plain = Grid((10, 12, 14), (1.5, 2.0, 2.5), (-20.0, 30.0, -100.0))
    path = patch(written(tmp_path / "a.nii", grid=plain), srow=sheared(plain, 0.8), qform=0, sform=1)
    with pytest.raises(InputError, match=r"not at right angles \(its sform shears the volume by \d\.\d mm"):
        read_image(path)
    path = patch(written(tmp_path / "b.nii", grid=plain), srow=sheared(plain, 1e-4), qform=0, sform=1)
    assert read_image(path).GetDirection() == pytest.approx(plain.direction, abs=1e-3)


def test_of_two_forms_the_straight_one_is_taken_and_the_distance_told(tmp_path):
    plain = Grid((10, 12, 14), (1.5, 2.0, 2.5), (-20.0, 30.0, -100.0))
    notes: list[str] = []
    path = patch(written(tmp_path / "a.nii", grid=plain), srow=sheared(plain, 0.8), qform=1, sform=1)
    image = read_image(path, notes=notes)
    assert image.GetOrigin() == pytest.approx(plain.origin)
    assert image.GetDirection() == pytest.approx(plain.direction)
    assert "up to 10.4 mm apart; the qform was taken (the sform is sheared)" in notes[0]  # 0.8 mm x 13 slices


@pytest.mark.parametrize(
    ("codes", "taken"), [((1, 1), "sform"), ((1, 4), "qform"), ((1, 2), "qform"), ((2, 1), "sform")]
)
def test_of_two_straight_forms_the_scanners_is_taken(tmp_path, codes, taken):
    moved = Grid((10, 12, 14), (1.5, 2.0, 2.5), (80.0, 30.0, -100.0))
    plain = Grid((10, 12, 14), (1.5, 2.0, 2.5), (-20.0, 30.0, -100.0))
    path = written(tmp_path / "a.nii", grid=plain)
    patch(path, srow=sheared(moved, 0), qform=codes[0], sform=codes[1])
    notes: list[str] = []
    image = read_image(path, notes=notes)
    assert image.GetOrigin()[0] == pytest.approx(80 if taken == "sform" else -20)
    assert f"100.0 mm apart; the {taken} was taken" in notes[0]


def test_a_file_without_position_is_taken_from_zero_as_itk_does_and_said(tmp_path):
    path = patch(written(tmp_path / "a.nii"), qform=0, sform=0)
    notes: list[str] = []
    image, theirs = read_image(path, notes=notes), sitk.ReadImage(str(path))
    for what in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(image, what)() == pytest.approx(getattr(theirs, what)(), abs=1e-5)
    assert "says nothing about position" in notes[0]
    analyze = nibabel.AnalyzeImage(HU.transpose(2, 1, 0), None)
    analyze.header.set_zooms((1.5, 2.0, 2.5))
    nibabel.save(analyze, tmp_path / "old.img")
    image = read_image(tmp_path / "old.hdr")
    np.testing.assert_array_equal(array(image), HU)
    assert image.GetSpacing() == pytest.approx((1.5, 2.0, 2.5))


@pytest.mark.parametrize(("unit", "factor"), [(1, 1000), (2, 1), (3, 0.001), (0, 1)])
def test_units_of_length_are_those_of_the_header(tmp_path, unit, factor):
    path = patch(written(tmp_path / "a.nii"), units=unit)
    image, theirs = read_image(path), sitk.ReadImage(str(path))
    assert image.GetSpacing() == pytest.approx(tuple(factor * s for s in GRID.spacing), rel=1e-5)
    assert image.GetOrigin() == pytest.approx(theirs.GetOrigin(), rel=1e-4)


def test_nifti_2_and_the_other_byte_order_are_read(tmp_path):
    affine = np.diag([-1.5, -2.0, 2.5, 1.0])
    affine[:3, 3] = (20, -30, -100)
    nibabel.save(nibabel.Nifti2Image(HU.transpose(2, 1, 0), affine), tmp_path / "two.nii")
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nibabel.save(nibabel.Nifti1Image(HU.transpose(2, 1, 0), affine, header), tmp_path / "big.nii")
    for name in ("two.nii", "big.nii"):
        image = read_image(tmp_path / name)
        np.testing.assert_array_equal(array(image), HU)
        assert image.GetOrigin() == pytest.approx((-20, 30, -100))


def test_colours_vectors_and_complex_values_are_named(tmp_path):
    sitk.WriteImage(GRID.image(np.zeros((14, 12, 10, 3), np.float32)), str(tmp_path / "v.nii"))
    with pytest.raises(InputError, match="3 values per voxel"):
        read_volume(tmp_path / "v.nii")
    nibabel.save(nibabel.Nifti1Image(HU.astype(np.complex64), np.eye(4)), tmp_path / "c.nii")
    with pytest.raises(InputError, match="complex values"):
        read_volume(tmp_path / "c.nii")


def test_a_time_sequence_asks_for_its_frame(tmp_path):
    frames = np.stack([HU + k for k in range(4)])
    nibabel.save(nibabel.Nifti1Image(frames.transpose(3, 2, 1, 0), np.eye(4)), tmp_path / "t.nii.gz")
    with pytest.raises(
        InputError, match="time sequence of 4 volumes; choose a frame with --moving-frame N, N from 0 to 3"
    ):
        read_image(tmp_path / "t.nii.gz", option="--moving-series")
    np.testing.assert_array_equal(array(read_image(tmp_path / "t.nii.gz", frame=2)), HU + 2)
    with pytest.raises(InputError, match="no frame 4"):
        read_image(tmp_path / "t.nii.gz", frame=4)
    with pytest.raises(InputError, match="single volume"):
        read_image(written(tmp_path / "a.nii"), frame=1)
