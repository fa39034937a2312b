"""Transforms of other programs: read by their own marks, compared with ITK,
or refused by the program's name."""

from __future__ import annotations

import gzip
import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from foreign_files import as_slicer_marks_it, patched
from ProgressiveRegistrationLib.coverage import covered
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.landmarks import Landmarks, write_landmarks
from ProgressiveRegistrationLib.transforms import map_points, read_transform
from small_pair import GRID as IMAGE_GRID
from small_pair import chest, run

TURN = sitk.Euler3DTransform((0, 0, 0), 0.1, -0.2, 0.15).GetMatrix()
GRID = Grid((14, 12, 16), (5.0, 6.0, 4.0), (-30.0, -35.0, -25.0), TURN)
POINTS = GRID.index_to_world(np.random.default_rng(1).uniform(0.5, 10.5, (40, 3)))


def smooth_vectors(grid: Grid = GRID) -> np.ndarray:
    """(z, y, x, 3) mm: a bump of a few mm."""
    x = grid.points().astype(float)
    return np.stack([3 * np.sin(x[..., 1] / 20), 2 * np.cos(x[..., 2] / 15), 4 * np.sin(x[..., 0] / 25)], -1)


def itk_transform(vectors: np.ndarray, grid: Grid = GRID) -> sitk.Transform:
    return sitk.DisplacementFieldTransform(grid.image(vectors.astype(np.float64)))


def by_itk(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(p) for p in points.tolist()])


@pytest.mark.parametrize(
    "name", ["u.nrrd", "u.nhdr", "u.mha", "deformationField.mhd", "1Warp.nii.gz", "u.nii"]
)
def test_fields_of_itk_ants_elastix_and_plastimatch_are_taken_as_itk_takes_them(tmp_path, name):
    vectors = smooth_vectors()
    sitk.WriteImage(GRID.image(vectors.astype(np.float32)), str(tmp_path / name))
    notes: list[str] = []
    mapping = read_transform(tmp_path / name, notes)
    np.testing.assert_allclose(map_points(mapping, POINTS), by_itk(itk_transform(vectors), POINTS), atol=1e-3)
    assert notes == []


@pytest.mark.parametrize("name", ["half.nrrd", "half.h5"])
def test_outside_its_grid_a_field_moves_nothing_as_in_itk(tmp_path, name):
    vectors = smooth_vectors() + 5
    transform = itk_transform(vectors)
    if name.endswith(".h5"):
        sitk.WriteTransform(transform, str(tmp_path / name))
    else:
        sitk.WriteImage(GRID.image(vectors), str(tmp_path / name))
    wide = GRID.padded(6)
    points = wide.index_to_world(np.random.default_rng(2).uniform(0, 1, (300, 3)) * (np.array(wide.size) - 1))
    mapping = read_transform(tmp_path / name)
    np.testing.assert_allclose(map_points(mapping, points), by_itk(transform, points), atol=1e-3)
    image = wide.image(np.random.default_rng(3).normal(size=wide.shape).astype(np.float32))
    ours = sitk.GetArrayFromImage(mapping.warp_image(image, wide, default=0))
    theirs = sitk.GetArrayFromImage(sitk.Resample(image, transform, sitk.sitkLinear, 0.0))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("turned", [False, True], ids=["along its axes", "across them"])
def test_on_a_larger_grid_a_field_ends_where_itk_ends_it(tmp_path, turned):
    vectors = smooth_vectors() + 5
    sitk.WriteImage(GRID.image(vectors.astype(np.float32)), str(tmp_path / "u.nrrd"))
    direction = GRID.direction if turned is False else np.eye(3).ravel()
    larger = Grid((21, 19, 23), (4.1, 4.7, 3.3), GRID.index_to_world((-2.3, -3.1, -2.7)), direction)
    ours = read_transform(tmp_path / "u.nrrd", []).resample(larger).displacement
    points = larger.points().reshape(-1, 3).astype(float)
    itk = (by_itk(itk_transform(vectors), points) - points).reshape(ours.shape)
    np.testing.assert_allclose(ours, itk, atol=1e-3)
    assert (itk == 0).all(-1).any()


def test_slicers_modeling_fields_are_inverted(tmp_path):
    image = GRID.image(smooth_vectors())
    image.SetMetaData("displacement field type", "modeling")
    sitk.WriteImage(image, str(tmp_path / "m.nrrd"))
    notes: list[str] = []
    mapping = read_transform(tmp_path / "m.nrrd", notes)
    there = by_itk(itk_transform(smooth_vectors()), POINTS)
    np.testing.assert_allclose(map_points(mapping, there), POINTS, atol=0.1)
    assert "its inverse was taken" in notes[0]
    image.SetMetaData("displacement field type", "resampling")
    sitk.WriteImage(image, str(tmp_path / "r.nrrd"))
    np.testing.assert_allclose(map_points(read_transform(tmp_path / "r.nrrd"), POINTS), there, atol=1e-3)


def spline() -> sitk.BSplineTransform:
    """A B-spline of a few mm over a box around the points, turned against the axes."""
    corner = tuple(GRID.index_to_world([-4.0, -4.0, -4.0]))
    mesh, sides = (6, 6, 6), tuple(float(n * s) for n, s in zip((22, 20, 24), GRID.spacing))
    out = sitk.BSplineTransform(3, 3)
    out.SetTransformDomainOrigin(corner)
    out.SetTransformDomainPhysicalDimensions(sides)
    out.SetTransformDomainDirection(TURN)
    out.SetTransformDomainMeshSize(mesh)
    count = len(out.GetParameters())
    out.SetParameters(np.random.default_rng(5).normal(0, 2, count).tolist())
    return out


@pytest.mark.parametrize("ending", [".tfm", ".h5", ".txt"])
def test_inverse_transforms_of_slicers_are_inverted(tmp_path, ending):
    field, affine = itk_transform(smooth_vectors()), sitk.AffineTransform(3)
    affine.SetMatrix((1.1, 0.1, 0, -0.1, 0.95, 0, 0, 0.05, 1.02))
    affine.SetTranslation((3, -4, 5))
    # What ITK applies last comes first; each part of the file was to parent, or not.
    cases = {
        "field": (field, ["DisplacementField"], lambda y: by_itk(field, y)),
        "spline": (spline(), ["BSpline"], lambda y: by_itk(spline(), y)),
        "affine after inverse field": (
            sitk.CompositeTransform([affine, field]),
            ["DisplacementField"],
            lambda y: by_itk(field, by_itk(affine.GetInverse(), y)),
        ),
        "inverse field after affine": (
            sitk.CompositeTransform([field, affine]),
            ["DisplacementField"],
            lambda y: by_itk(affine.GetInverse(), by_itk(field, y)),
        ),
        "inverse spline and inverse field": (
            sitk.CompositeTransform([spline(), field]),
            ["DisplacementField", "BSpline"],
            lambda y: by_itk(field, by_itk(spline(), y)),
        ),
    }
    y = GRID.index_to_world(np.random.default_rng(1).uniform(3.5, 8.5, (40, 3)))
    for name, (transform, marked, back) in cases.items():
        path = as_slicer_marks_it(tmp_path / f"t{ending}", transform, *marked)
        notes: list[str] = []
        # T^-1 of each part: T(x) = y exactly where back(y) = x
        np.testing.assert_allclose(
            map_points(read_transform(path, notes), back(y)), y, atol=0.05, err_msg=name
        )
        assert "set to parent" in notes[0]


def test_an_inverse_that_folds_is_told(tmp_path):
    steep = np.zeros((*GRID.shape, 3))
    steep[..., 2] = 25 * np.sin(GRID.points()[..., 2] / 6)
    path = as_slicer_marks_it(tmp_path / "t.tfm", itk_transform(steep), "DisplacementField")
    notes: list[str] = []
    read_transform(path, notes)
    assert "cannot be inverted in" in notes[1]


def test_transforms_that_itk_passes_over_are_refused(tmp_path):
    one = "Transform: TranslationTransform_double_3_3\nParameters: 1 2 3\nFixedParameters:\n"
    head = "#Insight Transform File V1.0\n"
    (tmp_path / "two.tfm").write_text(f"{head}#Transform 0\n{one}#Transform 1\n{one}")
    with pytest.raises(InputError, match="holds 2 transforms that are not joined"):
        read_transform(tmp_path / "two.tfm")
    kernel = one.replace("Translation", "ThinPlateSplineKernel")
    for name in ("plate", "Inverse"):
        text = kernel.replace("Thin", "InverseThin") if name == "Inverse" else kernel
        (tmp_path / f"{name}.tfm").write_text(f"{head}#Transform 0\n{text}")
        with pytest.raises(InputError, match=r"ThinPlateSpline.*only Slicer .* save that as \.nrrd"):
            read_transform(tmp_path / f"{name}.tfm")


def test_niftis_displacement_intent_is_in_ras(tmp_path):
    """As ITK itself reads and writes it; Slicer saves every grid so."""
    path = tmp_path / "u.nii"
    sitk.WriteImage(GRID.image((smooth_vectors() * (-1, -1, 1)).astype(np.float32)), str(path))
    path.write_bytes(patched(path.read_bytes(), intent=1006))
    theirs = sitk.DisplacementFieldTransform(sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkVectorFloat64))
    ours = map_points(read_transform(path), POINTS)
    np.testing.assert_allclose(ours, by_itk(theirs, POINTS), atol=1e-3)
    np.testing.assert_allclose(ours, by_itk(itk_transform(smooth_vectors()), POINTS), atol=1e-3)


def test_the_two_files_of_ants_are_joined(tmp_path):
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((1.05, 0.1, 0, -0.1, 0.95, 0, 0, 0.05, 1.02))
    affine.SetTranslation((30, -4, 5))
    sitk.WriteTransform(affine, str(tmp_path / "out0GenericAffine.mat"))
    field = itk_transform(smooth_vectors())
    for name in ("out1Warp.nii.gz", "out1InverseWarp.nii.gz", "other1Warp.nii.gz"):
        sitk.WriteImage(GRID.image(smooth_vectors()), str(tmp_path / name))
    notes: list[str] = []
    both = read_transform(tmp_path / "out1Warp.nii.gz", notes)
    expected = by_itk(affine, by_itk(field, POINTS))  # antsApplyTransforms -t 1Warp -t 0GenericAffine
    np.testing.assert_allclose(map_points(both, POINTS), expected, atol=1e-3)
    assert "it was applied after the field, as ANTs does" in notes[0]
    back = read_transform(tmp_path / "out1InverseWarp.nii.gz", notes)
    np.testing.assert_allclose(map_points(back, by_itk(affine, POINTS)), by_itk(field, POINTS), atol=1e-3)
    alone = read_transform(tmp_path / "other1Warp.nii.gz")
    np.testing.assert_allclose(map_points(alone, POINTS), by_itk(field, POINTS), atol=1e-3)


def niftyreg(tmp_path, vectors: np.ndarray, kind: int):
    """NiftyReg's 5D file: RAS, its intent and its kind."""
    path = tmp_path / f"n{kind}.nii.gz"
    sitk.WriteImage(GRID.image(vectors.astype(np.float32)), str(path))
    data = patched(gzip.decompress(path.read_bytes()), intent=1007, p1=float(kind), intent_name=b"NREG_TRANS")
    path.write_bytes(gzip.compress(data))
    return path


def test_fields_of_niftyreg_are_turned_into_lps_displacements(tmp_path):
    ras, vectors = np.array([-1, -1, 1]), smooth_vectors()
    expected = by_itk(itk_transform(vectors), POINTS)
    for kind, stored in ((1, vectors * ras), (0, (GRID.points() + vectors) * ras)):
        notes: list[str] = []
        mapping = read_transform(niftyreg(tmp_path, stored, kind), notes)
        np.testing.assert_allclose(map_points(mapping, POINTS), expected, atol=2e-3)
        assert "NiftyReg" in notes[0]
    for kind in (2, 3, 4, 5):
        with pytest.raises(InputError, match="reg_transform -def"):
            read_transform(niftyreg(tmp_path, vectors, kind))


@pytest.mark.parametrize("sign", [(1, 1, 1), (-1, -1, 1)])
def test_positions_are_told_from_displacements_whatever_the_format(tmp_path, sign):
    grid = Grid(GRID.size, GRID.spacing, GRID.origin)
    positions = (grid.points() + smooth_vectors(grid)) * sign
    for name in ("p.mha", "p.nii.gz", "p.nrrd"):
        sitk.WriteImage(grid.image(positions.astype(np.float32)), str(tmp_path / name))
        with pytest.raises(InputError, match="holds positions, not displacements"):
            read_transform(tmp_path / name)


def test_other_programs_kinds_are_refused_by_name(tmp_path):
    (tmp_path / "TransformParameters.0.txt").write_text(
        '(Transform "BSplineTransform")\n(NumberOfParameters 3)\n'
    )
    (tmp_path / "Transform.toml").write_text('NumberOfParameters = 3\nTransform = "BSplineTransform"\n')
    (tmp_path / "spline.txt").write_text("MGH_GPUIT_BSP <experimental>\nimg_origin = 0 0 0\n")
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 8, 3), np.float32), np.eye(4)), tmp_path / "l2r.nii.gz")
    sitk.WriteImage(GRID.image(smooth_vectors().astype(np.float32)), str(tmp_path / "a.nii"))
    data = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "fnirt.nii").write_bytes(patched(data, intent=2006))
    (tmp_path / "y_spm.nii").write_bytes(patched(data, intent_name=b"Mapping", description=b"Deformation"))
    for name, words in {
        "TransformParameters.0.txt": "elastix.*transformix -def all",
        "Transform.toml": "elastix.*transformix -def all",
        "spline.txt": "plastimatch xf-convert",
        "l2r.nii.gz": "fourth axis",
        "fnirt.nii": "FSL",
        "y_spm.nii": "SPM",
    }.items():
        with pytest.raises(InputError, match=words):
            read_transform(tmp_path / name)


@pytest.fixture
def pair(tmp_path):
    """A fixed chest, and landmarks that lie 12 mm higher in the moving one."""
    sitk.WriteImage(IMAGE_GRID.image(chest()), str(tmp_path / "fixed.nrrd"))
    points = np.array([[-45.0, 0, 0], [45, 10, -40], [40, -20, 30], [-50, 10.3, 41.7]])
    write_landmarks(Landmarks(points, list("abcd")), tmp_path / "f.csv")
    write_landmarks(Landmarks(points + np.array([0, 0, 12]), list("abcd")), tmp_path / "m.csv")
    return [
        "--fixed",
        tmp_path / "fixed.nrrd",
        "--fixed-landmarks",
        tmp_path / "f.csv",
        "--moving-landmarks",
        tmp_path / "m.csv",
    ]


def test_a_transform_the_other_way_round_is_asked_about(capsys, tmp_path, pair):
    sitk.WriteTransform(sitk.TranslationTransform(3, (0, 0, -12)), str(tmp_path / "back.tfm"))
    code, out, _ = run(capsys, "evaluate", tmp_path / "back.tfm", *pair, "-q", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["tre_mm"]["after"]["mean"] == pytest.approx(24)
    (note,) = [n for n in report["notes"] if "other way round" in n]
    assert "(12.00 to 24.00 mm); read the other way round, moving to fixed, it leaves 0.00 mm" in note
    sitk.WriteTransform(sitk.TranslationTransform(3, (0, 0, 12)), str(tmp_path / "right.tfm"))
    _, out, _ = run(capsys, "evaluate", tmp_path / "right.tfm", *pair, "-q", "--json")
    assert not [n for n in json.loads(out)["notes"] if "other way" in n]


def test_landmarks_and_lungs_that_a_field_does_not_cover_are_counted(capsys, tmp_path, pair):
    lower = Grid((46, 36, 20), (5.0, 5.0, 5.0), (-112.5, -87.5, -97.5))
    DisplacementField(lower, np.full((*lower.shape, 3), (0, 0, 12.0))).write(tmp_path / "low.nrrd")
    _, out, _ = run(capsys, "evaluate", tmp_path / "low.nrrd", *pair, "-q", "--json")
    report = json.loads(out)
    (note,) = [n for n in report["notes"] if "does not cover" in n]
    assert "2 of 4 landmarks and" in note
    assert sorted(row["after_mm"] for row in report["landmarks"]) == pytest.approx([0, 0, 12, 12])
    image = pair[1]
    code, out, _ = run(
        capsys,
        "apply",
        tmp_path / "low.nrrd",
        "--moving",
        image,
        "--reference",
        image,
        "-o",
        tmp_path / "w.nrrd",
    )
    assert (code, "does not cover 50 % of the reference image" in out) == (0, True)


def test_what_a_composites_fields_do_not_cover_is_counted_where_its_parts_bring_it(capsys, tmp_path, pair):
    """The field covers the lower half; the shift before it brings one landmark more there."""
    lower = Grid((46, 36, 20), (5.0, 5.0, 5.0), (-112.5, -87.5, -97.5))  # z up to 0 mm
    field = sitk.DisplacementFieldTransform(lower.image(np.full((*lower.shape, 3), (0, 0, 12.0))))
    for shift, left_out in ((0, 2), (-35, 1), (-60, 0)):  # landmarks at z = 0, -40, 30, 41.7
        both = sitk.CompositeTransform([field, sitk.TranslationTransform(3, (0, 0, shift))])
        sitk.WriteTransform(both, str(tmp_path / "both.h5"))
        _, out, _ = run(capsys, "evaluate", tmp_path / "both.h5", *pair, "-q", "--json")
        said = [n for n in json.loads(out)["notes"] if "does not cover" in n]
        assert [f"{left_out} of 4 landmarks" in n for n in said if "landmarks" in n] == [True] * bool(
            left_out
        )
    image = pair[1]
    options = ["--moving", image, "--reference", image, "-o", tmp_path / "w.nrrd"]
    sitk.WriteTransform(sitk.CompositeTransform([field]), str(tmp_path / "one.h5"))
    _, out, _ = run(capsys, "apply", tmp_path / "one.h5", *options)
    assert "does not cover 50 % of the reference image" in out


def test_points_outside_a_splines_domain_are_counted():
    transform = spline()
    moved = by_itk(transform, POINTS) - POINTS
    assert covered(transform, POINTS).all()
    assert np.abs(moved).max() > 0.5
    far = GRID.index_to_world([[60.0, 5, 5], [5, 5, -20]])
    assert not covered(transform, far).any()
    np.testing.assert_allclose(by_itk(transform, far), far)  # ITK moves nothing there
