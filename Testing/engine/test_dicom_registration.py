"""Fields as DICOM Deformable Spatial Registration; dose and structures along them."""

from __future__ import annotations

import json

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from ProgressiveRegistrationLib.contours import read_structures, warp_structure, write_structures
from ProgressiveRegistrationLib.dicom_registration import (
    first_of_series,
    headers_of_series,
    read_registration,
    write_registration,
)
from ProgressiveRegistrationLib.dose import PhaseDose, read_dose, sum_doses, warp_dose
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Affine, Grid
from ProgressiveRegistrationLib.rtdose import write_rtdose
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from small_pair import GRID, chest, run, write_dicom

TILT = tuple(np.ravel(sitk.VersorTransform((0.2, 0.5, 0.8), 0.4).GetMatrix()))
LEFT_HANDED = (1.0, 0, 0, 0, 1, 0, 0, 0, -1)


def wavy(direction=TILT) -> DisplacementField:
    grid = Grid((21, 18, 15), (5.0, 6.0, 7.0), (-40.123456789, 12.5, 1000.0625), direction)
    points = grid.points().astype(float)
    return DisplacementField(grid, 4 * np.sin(points / 23) + (3, -2, 1))


@pytest.mark.parametrize("direction", [TILT, LEFT_HANDED])
def test_field_comes_back_as_simpleitk_maps_it(tmp_path, direction):
    field = wavy(direction)
    write_registration(field, tmp_path / "reg.dcm")
    back = read_registration(tmp_path / "reg.dcm")
    inner = field.grid.index_to_world(
        np.random.default_rng(0).uniform(0, np.asarray(field.grid.size) - 1, (500, 3))
    )
    itk = field.to_transform()
    wanted = np.array([itk.TransformPoint(p.tolist()) for p in inner])
    assert np.abs(back.warp_points(inner) - wanted).max() < 1e-3
    mine = back.to_transform()
    assert np.abs(np.array([mine.TransformPoint(p.tolist()) for p in inner]) - wanted).max() < 1e-3


def test_object_has_the_series_patient_study_and_frames(tmp_path):
    for name, uid in (("a", "1.2.3.1"), ("b", "1.2.3.2")):
        write_dicom(GRID.image(chest()), tmp_path / name, uid)
    headers = [first_of_series(tmp_path / name) for name in ("a", "b")]
    for header, frame in zip(headers, ("1.9.1", "1.9.2")):
        header.PatientID, header.PatientName, header.FrameOfReferenceUID = "p7", "Made^Up", frame
    write_registration(wavy(), tmp_path / "reg.dcm", fixed=headers[0], moving=headers[1], reach=GRID)
    data = pydicom.dcmread(tmp_path / "reg.dcm")
    assert data.Modality == "REG"
    assert data.SOPClassUID.name == "Deformable Spatial Registration Storage"
    assert (data.PatientID, data.FrameOfReferenceUID, data.StudyInstanceUID) == (
        "p7",
        "1.9.1",
        headers[0].StudyInstanceUID,
    )
    assert data.DeformableRegistrationSequence[0].SourceFrameOfReferenceUID == "1.9.2"
    back = read_registration(tmp_path / "reg.dcm")
    assert back.grid.contains(GRID.corners(), margin=0.51).all()
    headers[1].PatientID = "p8"
    with pytest.raises(InputError, match="two patients, p7 and p8"):
        write_registration(wavy(), tmp_path / "other.dcm", fixed=headers[0], moving=headers[1])


def test_matrices_before_and_after_and_undefined_vectors_count(tmp_path):
    field = wavy()
    write_registration(field, tmp_path / "reg.dcm")
    data = pydicom.dcmread(tmp_path / "reg.dcm")
    item = data.DeformableRegistrationSequence[0]
    turn = np.eye(4)
    turn[:3, :3], turn[:3, 3] = np.reshape(TILT, (3, 3)), (7, 8, 9)
    shift = np.eye(4)
    shift[:3, 3] = (1, -2, 3)
    for name, matrix in (("Pre", shift), ("Post", turn)):
        entry = Dataset()
        entry.FrameOfReferenceTransformationMatrix = [f"{v:.12g}" for v in matrix.ravel()]
        entry.FrameOfReferenceTransformationMatrixType = "RIGID"
        setattr(item, f"{name}DeformationMatrixRegistrationSequence", Sequence([entry]))
    lattice = item.DeformableRegistrationGridSequence[0]
    vectors = np.frombuffer(lattice.VectorGridData, "<f4").copy().reshape(-1, 3)
    vectors[0] = np.nan
    lattice.VectorGridData = vectors.tobytes()
    data.save_as(tmp_path / "both.dcm")
    back = read_registration(tmp_path / "both.dcm")
    points = field.grid.points().astype(float)
    wanted = (points + field.displacement + np.array([1, -2, 3])) @ turn[:3, :3].T + (7, 8, 9)
    assert np.abs(points + back.displacement - wanted)[1:].max() < 1e-3
    assert np.isfinite(back.displacement).all()


def test_what_is_no_registration_is_refused(tmp_path):
    (tmp_path / "text.dcm").write_text("nothing", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read as DICOM"):
        read_registration(tmp_path / "text.dcm")
    write_dicom(GRID.image(chest()), tmp_path / "ct", "1.2.3.4")
    with pytest.raises(InputError, match="but CT Image Storage"):
        read_registration(next((tmp_path / "ct").iterdir()))


# ---- dose ------------------------------------------------------------------------------------------------

BOX = Grid((24, 24, 24), (4.0, 4.0, 4.0), (-46.0, -46.0, -46.0))


def ramp(shift=(0.0, 0.0, 0.0)) -> sitk.Image:
    return BOX.image((50 + (BOX.points() - np.asarray(shift)) @ (0.1, 0.2, 0.05)).astype(np.float32))


def shifted(by) -> DisplacementField:
    return DisplacementField(BOX, np.broadcast_to(by, (*BOX.shape, 3)))


INNER = (slice(4, -4),) * 3


def test_doses_of_moving_tissue_add_up_on_the_reference():
    moves = [(0.0, 0.0, 0.0), (6.0, -3.0, 5.0), (-2.0, 1.0, 8.0)]
    parts = [PhaseDose(ramp(m), shifted(m) if any(m) else None) for m in moves]
    total = sitk.GetArrayFromImage(sum_doses(parts, BOX))
    assert np.abs(total - sitk.GetArrayFromImage(ramp()))[INNER].max() < 1e-3
    first = sitk.GetArrayFromImage(
        sum_doses(
            [
                PhaseDose(ramp(), None, weight=3.0),
                PhaseDose(BOX.image(np.zeros(BOX.shape, np.float32)), None),
            ],
            BOX,
        )
    )
    assert np.abs(first - 0.75 * sitk.GetArrayFromImage(ramp())).max() < 1e-4


def test_mass_weighs_what_lies_in_one_voxel_by_its_density():
    water = BOX.image(np.zeros(BOX.shape, np.float32))
    plain = warp_dose(PhaseDose(ramp(), shifted((3, 0, 0)), water), BOX)
    mass = warp_dose(PhaseDose(ramp(), shifted((3, 0, 0)), water), BOX, "mass")
    assert np.abs(plain - mass)[INNER].max() < 1e-3  # even density: the same
    fine = Grid((48, 24, 24), (2.0, 4.0, 4.0), (-47.0, -46.0, -46.0))
    left = np.broadcast_to(np.arange(48) % 2 == 0, fine.shape)
    dose = fine.image(np.where(left, 10.0, 20.0).astype(np.float32))
    image = fine.image(np.where(left, -750.0, 0.0).astype(np.float32))  # a quarter of the mass gets 10 Gy
    found = warp_dose(PhaseDose(dose, None, image), BOX, "mass")
    assert found[INNER] == pytest.approx((0.25 * 10 + 20) / 1.25, abs=1e-4)
    with pytest.raises(InputError, match="needs the phase's CT"):
        warp_dose(PhaseDose(dose, None), BOX, "mass")


def test_rtdose_is_read_in_gray_at_its_place(tmp_path):
    dose = ramp()
    values = sitk.GetArrayFromImage(dose)
    scale = float(values.max()) / 60000
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.2"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.Modality, data.DoseUnits, data.DoseType, data.DoseGridScaling = (
        "RTDOSE",
        "GY",
        "PHYSICAL",
        f"{scale:.12g}",
    )
    data.Rows, data.Columns, data.NumberOfFrames = BOX.size[1], BOX.size[0], BOX.size[2]
    data.PixelSpacing, data.ImagePositionPatient = ["4", "4"], [str(v) for v in BOX.origin]
    data.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    data.GridFrameOffsetVector = [str(4 * k) for k in range(BOX.size[2])]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.PixelData = np.rint(values / scale).astype("<u2").tobytes()
    data.save_as(tmp_path / "dose.dcm", enforce_file_format=True)
    found = read_dose(tmp_path / "dose.dcm")
    assert Grid.from_image(found) == BOX
    assert np.abs(sitk.GetArrayFromImage(found) - values).max() < scale
    data.DoseUnits = "RELATIVE"
    data.save_as(tmp_path / "relative.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="RELATIVE"):
        read_dose(tmp_path / "relative.dcm")


@pytest.mark.parametrize("direction", [TILT, LEFT_HANDED, (-1.0, 0, 0, 0, -1, 0, 0, 0, 1)])
def test_dose_written_as_rtdose_is_where_simpleitk_sees_it(tmp_path, direction):
    grid = Grid((31, 22, 17), (3.0, 2.5, 4.0), (-40.5, 12.0, 1000.0625), direction)
    dose = grid.image((30 + np.sin(grid.points() / 9).sum(-1) * 9).astype(np.float32))
    write_rtdose(dose, tmp_path / "dose.dcm", comment="mean of 10 phases")
    data = pydicom.dcmread(tmp_path / "dose.dcm")
    assert (data.DoseUnits, data.SpatialTransformOfDose, data.DoseComment) == (
        "GY",
        "NON_RIGID",
        "mean of 10 phases",
    )
    # ITK knows the geometry of an RTDOSE, but not its scaling
    levels = sitk.Cast(sitk.ReadImage(str(tmp_path / "dose.dcm")), sitk.sitkFloat64)
    for found in (levels * float(data.DoseGridScaling), sitk.Cast(read_dose(tmp_path / "dose.dcm"), 9)):
        there = sitk.Resample(found, dose, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
        assert np.abs(sitk.GetArrayFromImage(there) - sitk.GetArrayFromImage(dose)).max() < 1e-4


@pytest.mark.parametrize(
    ("offsets", "lowest"),
    [
        (lambda k: 4.0 * k, 0),  # relative
        (lambda k: -4.0 * k, -23),  # and downwards
        (lambda k: -46.0 + 4 * k, 0),  # places along z, one of them 2, none 0
        (lambda k: -46.0 - 4 * k, -23),
    ],
)
def test_planes_of_a_dose_follow_their_offsets(tmp_path, offsets, lowest):
    write_rtdose(ramp(), tmp_path / "dose.dcm")
    data = pydicom.dcmread(tmp_path / "dose.dcm")
    data.GridFrameOffsetVector = [offsets(k) for k in range(24)]
    data.save_as(tmp_path / "other.dcm")
    found = read_dose(tmp_path / "other.dcm")
    assert found.GetOrigin() == pytest.approx((-46, -46, -46 + 4 * lowest), abs=1e-4)
    values, first = sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(ramp())
    assert values[0] == pytest.approx(first[0 if lowest == 0 else -1], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"GridFrameOffsetVector": [0.0], "NumberOfFrames": 1}, "one dose plane only"),
        ({"GridFrameOffsetVector": [0.0, 4, 9, *range(12, 33)]}, "uneven dose planes"),
        ({"Modality": "CT"}, "no RTDOSE but CT"),
        ({"PixelSpacing": None}, "lacks something"),
    ],
)
def test_dose_that_is_no_even_volume_is_refused(tmp_path, change, words):
    write_rtdose(ramp(), tmp_path / "dose.dcm")
    data = pydicom.dcmread(tmp_path / "dose.dcm")
    for keyword, value in change.items():
        setattr(data, keyword, value)
    data.save_as(tmp_path / "other.dcm")
    with pytest.raises(InputError, match=words):
        read_dose(tmp_path / "other.dcm")


def test_written_dose_belongs_to_the_ct_and_names_the_plan(tmp_path):
    write_dicom(GRID.image(chest()), tmp_path / "ct", "1.2.3.1")
    image = first_of_series(tmp_path / "ct")
    image.PatientID, image.FrameOfReferenceUID = "p7", "1.9.1"
    write_rtdose(ramp(), tmp_path / "in.dcm")
    source = pydicom.dcmread(tmp_path / "in.dcm")
    plan = Dataset()
    plan.ReferencedSOPClassUID, plan.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.5", "1.2.3.77"
    source.ReferencedRTPlanSequence, source.DoseSummationType = Sequence([plan]), "FRACTION"
    write_rtdose(ramp(), tmp_path / "out.dcm", image=image, source=source)
    data = pydicom.dcmread(tmp_path / "out.dcm")
    assert (data.PatientID, data.FrameOfReferenceUID, data.StudyInstanceUID) == (
        "p7",
        "1.9.1",
        image.StudyInstanceUID,
    )
    assert data.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == "1.2.3.77"
    assert data.DoseSummationType == "FRACTION"
    source.PatientID = "p8"
    with pytest.raises(InputError, match="two patients, p7 and p8"):
        write_rtdose(ramp(), tmp_path / "no.dcm", image=image, source=source)


def test_mass_in_slabs_is_the_mass_at_once(monkeypatch):
    uneven = DisplacementField(BOX, 3 * np.sin(BOX.points().astype(float) / 11) + (3, -2, 1))
    image = BOX.image((BOX.points() @ (4.0, -3.0, 5.0) - 500).astype(np.float32))
    slabs = warp_dose(PhaseDose(ramp(), uneven, image), BOX, "mass")
    monkeypatch.setattr("ProgressiveRegistrationLib.dose.SLAB", 1000)
    assert np.abs(slabs - warp_dose(PhaseDose(ramp(), uneven, image), BOX, "mass")).max() < 1e-4


# ---- structures ------------------------------------------------------------------------------------------


def ball(centre, radius: float, grid: Grid = BOX) -> sitk.Image:
    return grid.image((np.linalg.norm(grid.points() - np.asarray(centre), axis=-1) < radius).astype(np.uint8))


def dice(a: sitk.Image, b: sitk.Image) -> float:
    measure = sitk.LabelOverlapMeasuresImageFilter()
    measure.Execute(sitk.Cast(a > 0, sitk.sitkUInt8), sitk.Cast(b > 0, sitk.sitkUInt8))
    return measure.GetDiceCoefficient()


def test_structures_written_as_contours_are_read_the_same(tmp_path):
    ring = sitk.And(ball((5, 0, 0), 30), sitk.Not(ball((5, 0, 0), 14)) & 1)  # a hole in it
    masks = {"Target": ball((-10, 5, 3), 22), "Ring": ring}
    write_structures(masks, tmp_path / "rs.dcm")
    found = read_structures(tmp_path / "rs.dcm", BOX)
    assert list(found) == ["Target", "Ring"]
    for name, mask in masks.items():
        assert dice(found[name], mask) > 0.995


def test_outlines_through_the_outermost_voxels_hold_these_voxels(tmp_path):
    """As cv2 and tools built on it trace a mask: a hole's outline lies on the voxels around the hole."""
    write_structures({"Ring": ball((0, 0, 0), 20)}, tmp_path / "rs.dcm")
    data = pydicom.dcmread(tmp_path / "rs.dcm")
    contour = data.ROIContourSequence[0].ContourSequence[0]
    z = BOX.origin[2] + 4.0 * 5
    outlines = []
    for low, high in ((4, 18), (8, 13)):
        item = Dataset()
        item.ContourGeometricType = contour.ContourGeometricType
        corners = [(low, low), (high, low), (high, high), (low, high)]
        item.ContourData = [v for i, j in corners for v in (-46.0 + 4 * i, -46.0 + 4 * j, z)]
        outlines.append(item)
    data.ROIContourSequence[0].ContourSequence = Sequence(outlines)
    data.save_as(tmp_path / "traced.dcm")
    found = sitk.GetArrayFromImage(read_structures(tmp_path / "traced.dcm", BOX)["Ring"])
    wanted = np.zeros(BOX.shape, np.uint8)
    wanted[5, 4:19, 4:19] = 1
    wanted[5, 9:13, 9:13] = 0
    assert np.array_equal(found, wanted)


def test_every_contour_names_its_slice(tmp_path):
    write_dicom(sitk.Cast(ball((0, 0, 0), 20), sitk.sitkInt16), tmp_path / "ct", "1.2.3.4")
    headers = headers_of_series(tmp_path / "ct")
    assert [float(h.ImagePositionPatient[2]) for h in headers] == [-46.0 + 4 * k for k in range(24)]
    write_structures({"Ball": ball((0, 0, 0), 20)}, tmp_path / "rs.dcm", images=headers)
    data = pydicom.dcmread(tmp_path / "rs.dcm")
    places = {h.SOPInstanceUID: float(h.ImagePositionPatient[2]) for h in headers}
    contours = data.ROIContourSequence[0].ContourSequence
    assert len(contours) == 10
    for contour in contours:
        named = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
        assert places[named] == pytest.approx(float(contour.ContourData[2]), abs=1e-3)
    study = data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    assert len(study.RTReferencedSeriesSequence[0].ContourImageSequence) == 24


def test_structure_follows_its_tissue():
    fine = Grid((48, 48, 48), (2.0, 2.0, 2.0), (-47.0, -47.0, -47.0))
    wanted = ball((0, 0, 0), 20, fine)
    warped = warp_structure(ball((7.3, -4.9, 5.2), 20, fine), shifted((7.3, -4.9, 5.2)), fine)
    assert dice(warped, wanted) > 0.97
    grown = DisplacementField.from_affine(fine, Affine(np.eye(3) * 1.2, np.zeros(3)))
    assert dice(warp_structure(ball((0, 0, 0), 24, fine), grown, fine), wanted) > 0.97


def test_contours_off_the_slices_are_told(tmp_path):
    write_structures({"Target": ball((0, 0, 0), 20)}, tmp_path / "rs.dcm")
    between = Grid(BOX.size, BOX.spacing, np.add(BOX.origin, (0, 0, 2.0)), BOX.direction)
    with pytest.raises(InputError, match="Target: a contour lies off"):
        read_structures(tmp_path / "rs.dcm", between)


# ---- the commands ----------------------------------------------------------------------------------------


def test_commands_carry_fields_dose_and_structures(capsys, tmp_path):
    shift = np.array([8.0, -4.0, 6.0])
    field = DisplacementField(BOX, np.broadcast_to(shift, (*BOX.shape, 3)))
    field.write(tmp_path / "there.nrrd")
    for name, place in (("fixed", (0, 0, 0)), ("moving", shift)):
        image = sitk.Cast(ball(place, 20), sitk.sitkInt16) * 900 - 900
        write_dicom(image, tmp_path / name, f"1.2.3.{len(name)}")
    ct = ["--fixed", tmp_path / "fixed", "--moving", tmp_path / "moving"]
    assert run(capsys, "convert", tmp_path / "there.nrrd", "-o", tmp_path / "reg.dcm", *ct)[0] == 0
    assert run(capsys, "convert", tmp_path / "reg.dcm", "-o", tmp_path / "back.nrrd")[0] == 0
    assert (
        np.abs(DisplacementField.read(tmp_path / "back.nrrd").sample(np.zeros((1, 3))) - shift).max() < 1e-4
    )

    write_structures({"Target": ball(shift, 20)}, tmp_path / "rs.dcm")
    given = ["contours", tmp_path / "rs.dcm", tmp_path / "reg.dcm", *ct, "-o"]
    assert run(capsys, *given, tmp_path / "moved.dcm")[0] == 0
    assert run(capsys, *given, tmp_path / "moved.nrrd")[0] == 0
    labels = sitk.ReadImage(str(tmp_path / "moved.nrrd"))
    assert dice(labels, ball((0, 0, 0), 20)) > 0.9
    assert dice(labels, read_structures(tmp_path / "moved.dcm", BOX)["Target"]) > 0.99
    data = pydicom.dcmread(tmp_path / "moved.dcm")
    assert data.StudyInstanceUID == first_of_series(tmp_path / "fixed").StudyInstanceUID

    # one structure within another: a label map cannot hold both, and says so; contours can
    write_structures({"Lung": ball(shift, 24), "Target": ball(shift, 12)}, tmp_path / "rs.dcm")
    code, printed, _ = run(capsys, *given, tmp_path / "both.nrrd")
    assert code == 0
    assert "Some structures overlap" in printed
    labels = sitk.ReadImage(str(tmp_path / "both.nrrd"))
    assert dice(labels == 2, ball((0, 0, 0), 12)) > 0.85
    assert dice(labels > 0, ball((0, 0, 0), 24)) > 0.9
    code, printed, _ = run(capsys, *given, tmp_path / "both.dcm")
    assert (code, "overlap" in printed) == (0, False)
    assert dice(read_structures(tmp_path / "both.dcm", BOX)["Lung"], ball((0, 0, 0), 24)) > 0.9

    # a sequence of two phases, as far as its dose needs it
    result = tmp_path / "result"
    result.mkdir()
    entry = {"frame": None, "series": None, "landmarks": None, "mask": None}
    report = {
        "reference": "a",
        "phases": [{"name": "a"}, {"name": "b"}],
        "inputs": [{"path": str(tmp_path / side), **entry} for side in ("fixed", "moving")],
    }
    (result / "sequence.json").write_text(json.dumps(report), encoding="utf-8")
    field.write(result / "field_b.nrrd")
    sitk.WriteImage(ramp(), str(tmp_path / "a.nrrd"))
    sitk.WriteImage(ramp(shift), str(tmp_path / "b.nrrd"))
    for mode in ("plain", "mass"):
        out = tmp_path / f"{mode}.nrrd"
        both = [tmp_path / "a.nrrd", tmp_path / "b.nrrd"]
        assert run(capsys, "dose", result, *both, "--mode", mode, "-o", out)[0] == 0
        gap = np.abs(sitk.GetArrayFromImage(sitk.ReadImage(str(out))) - sitk.GetArrayFromImage(ramp()))
        assert gap[INNER].max() < (0.2 if mode == "mass" else 1e-3)
    code, _, err = run(capsys, "dose", result, *both, both[0], "-o", tmp_path / "no.nrrd")
    assert code == 3
    assert "3 doses were given for 2 phases" in err
    out = tmp_path / "total.dcm"
    assert run(capsys, "dose", result, *both, "-o", out)[0] == 0
    assert np.abs(sitk.GetArrayFromImage(read_dose(out)) - sitk.GetArrayFromImage(ramp()))[INNER].max() < 2e-3
    assert pydicom.dcmread(out).StudyInstanceUID == first_of_series(tmp_path / "fixed").StudyInstanceUID
    # one dose along one transform
    pair = ["dose", tmp_path / "reg.dcm", both[1], "-o", tmp_path / "one.dcm"]
    code, _, err = run(capsys, *pair)
    assert (code, "give its image too: --fixed" in err) == (3, True)
    assert run(capsys, *pair, "--fixed", tmp_path / "fixed")[0] == 0
    one = sitk.GetArrayFromImage(read_dose(tmp_path / "one.dcm"))
    assert np.abs(one - sitk.GetArrayFromImage(ramp()))[INNER].max() < 2e-3
