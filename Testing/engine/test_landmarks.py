"""Landmark files: every format in and out, frames, DIR-Lab's published errors, Slicer's own reader."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import SimpleITK as sitk
from ProgressiveRegistrationLib.errors import InputError, OutputError
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.landmarks import (
    Landmarks,
    read_landmarks,
    write_landmarks,
)
from ProgressiveRegistrationLib.pairing import match_landmarks, outside_notes

POINTS = np.array([[-36.351, -36.974, -1204.5], [12.0625, 180.123456, 3.0], [0.1, -0.2, 1e-3]])
LABELS = ["carina", 'a "b", c', "Ä3"]
# Rotated, anisotropic: mixed-up axes, spacing or frame would show.
GRID = Grid((40, 50, 60), (0.97, 1.1, 2.5), (-100.0, 20.0, -1300.0), (0, 1, 0, -1, 0, 0, 0, 0, -1))

DIRLAB = {
    1: ((256, 256, 94), 0.97, 3.89),
    2: ((256, 256, 112), 1.16, 4.34),
    3: ((256, 256, 104), 1.15, 6.94),
    4: ((256, 256, 99), 1.13, 9.83),
    5: ((256, 256, 106), 1.10, 7.48),
    6: ((512, 512, 128), 0.97, 10.89),
    7: ((512, 512, 136), 0.97, 11.03),
    8: ((512, 512, 128), 0.97, 14.99),
    9: ((512, 512, 128), 0.97, 7.92),
    10: ((512, 512, 120), 0.97, 7.30),
}


def _landmarks() -> Landmarks:
    return Landmarks(POINTS, LABELS)


@pytest.mark.parametrize("ending", [".mrk.json", ".fcsv", ".csv", ".txt", ".pts"])
def test_a_written_file_reads_back_as_the_same_points(tmp_path, ending):
    path = tmp_path / f"points{ending}"
    write_landmarks(_landmarks(), path, GRID)
    back = read_landmarks(path, GRID)
    np.testing.assert_allclose(back.points, POINTS, atol=1e-6)
    if ending in (".txt", ".pts"):
        assert back.labels == ["1", "2", "3"]
        assert not back.labelled
    else:
        assert back.labels == LABELS
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("case", DIRLAB)
def test_dirlab_landmarks_give_the_published_initial_error(shared, case):
    size, spacing, published = DIRLAB[case]
    grid = Grid(size, (spacing, spacing, 2.5), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, -1))
    folder = shared / "landmarks" / "dirlab_4dct"
    lists = [read_landmarks(folder / f"case{case}_300_{phase}_xyz.txt", grid) for phase in ("T00", "T50")]
    fixed, moving, how = match_landmarks(*lists)
    assert len(fixed) == 300
    assert how == "order"
    assert grid.contains(fixed.points).all()
    assert np.linalg.norm(fixed.points - moving.points, axis=1).mean() == pytest.approx(published, abs=0.01)


def test_dirlab_voxels_are_one_based_and_follow_the_stored_slices(tmp_path):
    path = tmp_path / "case.txt"
    path.write_text(" 1\t 1\t 1\t\n 40 50 60\n")
    image = GRID.image(np.zeros(GRID.shape, np.uint8))
    expected = [image.TransformIndexToPhysicalPoint(index) for index in ((0, 0, 0), (39, 49, 59))]
    np.testing.assert_allclose(read_landmarks(path, image).points, expected, atol=1e-9)
    expected = [image.TransformIndexToPhysicalPoint(index) for index in ((0, 0, 59), (39, 49, 0))]
    np.testing.assert_allclose(read_landmarks(path, image, slices_reversed=True).points, expected, atol=1e-9)
    with pytest.raises(InputError, match="give the image"):
        read_landmarks(path)


def test_popi_points_are_taken_as_mm_of_their_images(shared):
    folder = shared / "landmarks" / "popi"
    first = read_landmarks(folder / "00-Landmarks.pts")
    last = read_landmarks(folder / "90-Landmarks.pts")
    assert len(first) == len(last) == 41
    np.testing.assert_array_equal(first.points[0], (295, 178.75, 194))
    # POPI's own header: origin 0, 482 x 360 x 141 voxels of 0.976562 x 0.976562 x 2 mm.
    assert Grid((482, 360, 141), (0.976562, 0.976562, 2), (0, 0, 0)).contains(first.points).all()


def _markups(points, **more) -> dict:
    return {"@schema": "x", "markups": [{"type": "Fiducial", "controlPoints": points, **more}]}


def test_markups_frame_status_and_measurements(tmp_path):
    path = tmp_path / "F.mrk.json"
    points = [
        {"label": "F-1", "position": [1, 2, 3]},
        {"label": "F-2", "position": "", "positionStatus": "undefined"},
        {"label": "F-3", "position": [4, 5, 6], "positionStatus": "defined"},
        {"label": "F-4", "position": [0, 0, 0], "positionStatus": "preview"},
    ]
    path.write_text(json.dumps(_markups(points, coordinateSystem="RAS")))
    landmarks = read_landmarks(path)
    np.testing.assert_array_equal(landmarks.points, [[-1, -2, 3], [-4, -5, 6]])
    assert landmarks.labels == ["F-1", "F-3"]
    assert landmarks.undefined == (1, 3)
    np.testing.assert_array_equal(landmarks.places, [0, 2])
    path.write_text(json.dumps(_markups(points[:1])))
    np.testing.assert_array_equal(read_landmarks(path).points, [[1, 2, 3]])


@pytest.mark.parametrize(
    ("header", "sign"),
    [
        ("# Markups fiducial file version = 4.10\n# CoordinateSystem = 0\n", -1),
        ("# Markups fiducial file version = 4.11\n# CoordinateSystem = RAS\n", -1),
        ("# Markups fiducial file version = 4.11\n# CoordinateSystem = 1\n", 1),
        ("# Markups fiducial file version = 5.11\n# CoordinateSystem = LPS\n", 1),
        ("# Markups fiducial file version = 4.3\n", -1),
    ],
)
def test_fcsv_coordinate_systems(tmp_path, header, sign):
    path = tmp_path / "F.fcsv"
    path.write_text(
        f"{header}# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        '1,1,2,3,0,0,0,1,1,1,0,"a ""q"",b",,,2,0\n2,7,8,9,0,0,0,1,1,1,0,c,,,0,0\n3,4,5,6,0,0,0,1,1,1,0,d,,\n'
    )
    landmarks = read_landmarks(path)
    np.testing.assert_array_equal(landmarks.points, np.array([[1, 2, 3], [4, 5, 6]]) * (sign, sign, 1))
    assert landmarks.labels == ['a "q",b', "d"]
    assert landmarks.undefined == (1,)


def test_fcsv_of_slicer_3_is_read_as_slicer_reads_it(tmp_path):
    path = tmp_path / "old.fcsv"
    path.write_text("# name = F\nL1,1,2,3,1,1\n")
    landmarks = read_landmarks(path)
    assert landmarks.labels == ["L1"]
    np.testing.assert_array_equal(landmarks.points, [[-1, -2, 3]])


def test_a_spreadsheet_with_decimal_commas_is_read(tmp_path):
    path = tmp_path / "de.csv"
    path.write_text("label;r;a;s\na;-92,272;29,5;18\nb;1,5;-2;-3,25\n")
    found = read_landmarks(path)
    np.testing.assert_allclose(found.points, [[92.272, -29.5, 18], [-1.5, 2, -3.25]])
    path.write_text("1,5;2;3\n-4,25;5;6\n")
    np.testing.assert_allclose(read_landmarks(path, columns="lps").points, [[1.5, 2, 3], [-4.25, 5, 6]])


def test_csv_headers_and_column_choice(tmp_path, shared):
    path = tmp_path / "points.csv"
    path.write_text("Label;X_RAS;Y_RAS;Z_RAS\na;1;2;3\n\nb;4;5;6\n")
    np.testing.assert_array_equal(read_landmarks(path).points, [[-1, -2, 3], [-4, -5, 6]])
    path.write_text("\ufeffx_lps,y_lps,z_lps,note\n1,2,3,hello\n", encoding="utf-8")
    landmarks = read_landmarks(path)
    assert landmarks.labels == ["1"]
    assert not landmarks.labelled
    np.testing.assert_array_equal(landmarks.points, [[1, 2, 3]])
    both = shared / "pairs" / "elastix_lung" / "landmarks51_lps_mm.csv"
    fixed = read_landmarks(both, columns="baseline").without(["35"])
    moving = read_landmarks(both, columns="followup_centred").without(["35"])
    fixed, moving, how = match_landmarks(fixed, moving)
    assert (len(fixed), how) == (50, "label")
    assert np.linalg.norm(fixed.points - moving.points, axis=1).mean() == pytest.approx(4.47, abs=0.01)
    with pytest.raises(InputError, match="label,x_lps,y_lps,z_lps or label,x_ras,y_ras,z_ras"):
        read_landmarks(both)
    with pytest.raises(InputError, match="phase3_x_lps"):
        read_landmarks(both, columns="phase3")
    with pytest.raises(InputError, match="no landmark 999"):
        fixed.without(["999"])


BAD_FILES = {
    "empty.csv": ("", "empty"),
    "header_only.csv": ("label,x_lps,y_lps,z_lps\n", "no landmarks"),
    "word.csv": ("label,x_lps,y_lps,z_lps\na,1,two,3\n", "landmark a needs three finite numbers"),
    "short.csv": ("label,x_lps,y_lps,z_lps\na,1\n", "landmark a"),
    "nan.csv": ("label,x_lps,y_lps,z_lps\na,1,nan,3\n", "finite"),
    "damaged.mrk.json": ('{"markups": [{"controlPoints": [', "damaged"),
    "other.json": ('{"a": 1}', "no Slicer Markups file"),
    "empty.mrk.json": (json.dumps(_markups([])), "no landmarks"),
    "curve.mrk.json": (json.dumps(_markups([], type="Curve")), "holds a Curve"),
    "line.mrk.json": (json.dumps({"markups": _markups([])["markups"] * 2}), "2 Markups lists"),
    "inch.mrk.json": (json.dumps(_markups([], coordinateUnits="in")), "in mm"),
    "ijk.mrk.json": (json.dumps(_markups([], coordinateSystem="IJK")), "frame IJK"),
    "hole.mrk.json": (json.dumps(_markups([{"label": "q", "position": [1, None, 2]}])), "landmark q"),
    "null.mrk.json": (json.dumps(_markups(None)), "no Slicer Markups file"),
    "number.mrk.json": (json.dumps(_markups(3)), "no Slicer Markups file"),
    "deep.mrk.json": ("[" * 100_000, "no Slicer Markups file"),
    "digits.mrk.json": (json.dumps(_markups([{"label": "q", "position": "123"}])), "landmark q"),
    "keys.mrk.json": (
        json.dumps(_markups([{"label": "q", "position": {"1": 0, "2": 0, "3": 0}}])),
        "landmark q",
    ),
    "huge.mrk.json": (json.dumps(_markups([{"label": "q", "position": [10**400, 2, 3]}])), "landmark q"),
    "long.csv": ("label,x_lps,y_lps,z_lps\n" + "a" * 200_000 + ",1,2,3\n", "no table of landmarks"),
    "long.fcsv": ("a" * 200_000 + ",1,2,3\n", "no table of landmarks"),
    "ijk.fcsv": ("# CoordinateSystem = 2\n1,2,3,4\n", "frame 2"),
    "short.fcsv": ("# Markups fiducial file version = 5\n1,2\n", "landmark 1"),
    "two.pts": ("#X Y Z\n1 2\n", "line 2"),
    "word.txt": ("1 2 x\n", "line 1"),
    "image.nrrd": ("NRRD", "not a landmark file"),
    "binary.csv": (b"\xff\xfe\x00\x81", "as text"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_named_in_one_sentence(tmp_path, name):
    content, sentence = BAD_FILES[name]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=sentence) as caught:
        read_landmarks(path, GRID)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_bad_requests(tmp_path):
    with pytest.raises(InputError, match="There is no landmark file"):
        read_landmarks(tmp_path / "none.csv")
    with pytest.raises(InputError, match="2 values for 3"):
        write_landmarks(_landmarks(), tmp_path / "a.csv", measurements={"TRE": [1, 2]})
    with pytest.raises(InputError, match="room for measurements"):
        write_landmarks(_landmarks(), tmp_path / "a.fcsv", measurements={"TRE": [1, 2, 3]})
    with pytest.raises(OutputError, match="no folder"):
        write_landmarks(_landmarks(), tmp_path / "none" / "a.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        write_landmarks(_landmarks(), tmp_path / "folder.csv")
    assert os.listdir(tmp_path) == ["folder.csv"]


def test_pairs_by_label_or_by_order():
    fixed = Landmarks(POINTS, ["a", "b", "c"], source="f.csv")
    shuffled = Landmarks(POINTS[::-1] + 1, ["c", "b", "a"], source="m.csv")
    one, other, how = match_landmarks(fixed, shuffled)
    assert how == "label"
    assert one.labels == other.labels
    np.testing.assert_allclose(other.points - one.points, 1)
    one, other, how = match_landmarks(fixed, Landmarks(POINTS + 1, ["m1", "m2", "m3"]))
    assert how == "order"
    np.testing.assert_allclose(other.points - one.points, 1)
    with pytest.raises(InputError, match="share only some labels"):
        match_landmarks(fixed, Landmarks(POINTS, ["a", "b", "d"], source="m.csv"))
    with pytest.raises(
        InputError, match=r"f\.csv has 3 landmarks and m\.csv has 2 \(only in one of them: c\)"
    ):
        match_landmarks(fixed, Landmarks(POINTS[:2], ["a", "b"], source="m.csv"))
    with pytest.raises(InputError, match="has 3 landmarks and"):
        match_landmarks(fixed, Landmarks(POINTS[:2], ["1", "2"], labelled=False))


def test_points_without_a_position_leave_their_pair_out():
    fixed = Landmarks(POINTS[:2], ["F-1", "F-3"], undefined=(1,))
    moving = Landmarks(POINTS + 2, ["M-1", "M-2", "M-3"])
    one, other, how = match_landmarks(fixed, moving)
    assert (one.labels, other.labels, how) == (["F-1", "F-3"], ["M-1", "M-3"], "order")
    moving = Landmarks(POINTS + 2, ["F-1", "F-2", "F-3"])
    one, other, how = match_landmarks(fixed, moving)
    assert (other.labels, how) == (["F-1", "F-3"], "label")
    with pytest.raises(InputError, match="position in both"):
        match_landmarks(
            Landmarks(POINTS[:1], ["a"], undefined=(1,)), Landmarks(POINTS[:1], ["b"], undefined=(0,))
        )


@pytest.mark.parametrize("ending", [".mrk.json", ".fcsv"])
def test_slicer_reads_what_we_write_and_we_read_what_it_writes(tmp_path, ending):
    slicer = pytest.importorskip("slicer", reason="needs slicer-core")
    vtk = pytest.importorskip("vtk")
    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerMarkupsLogic()
    logic.SetMRMLScene(scene)
    kind = "Json" if ending == ".mrk.json" else "Fiducial"

    def storage(path):
        node = scene.AddNewNodeByClass(f"vtkMRMLMarkups{kind}StorageNode")
        node.SetFileName(str(path))
        return node

    ours = tmp_path / f"ours{ending}"
    measurements = {"TRE": [0.5, 1.5, 2.5]} if kind == "Json" else None
    write_landmarks(_landmarks(), ours, measurements=measurements)
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "read")
    assert storage(ours).ReadData(node)
    ras = np.array([node.GetNthControlPointPositionWorld(i) for i in range(node.GetNumberOfControlPoints())])
    np.testing.assert_allclose(ras * (-1, -1, 1), POINTS, atol=1e-9)
    assert [node.GetNthControlPointLabel(i) for i in range(3)] == LABELS
    if measurements:
        measured = node.GetMeasurement("TRE")
        assert measured.GetUnits() == "mm"
        assert [measured.GetControlPointValues().GetValue(i) for i in range(3)] == measurements["TRE"]

    theirs = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "written")
    for point, label in zip(POINTS, LABELS):
        theirs.AddControlPoint(vtk.vtkVector3d(*(point * (-1, -1, 1))), label)
    theirs.AddControlPoint(vtk.vtkVector3d(0, 0, 0), "unset")
    theirs.UnsetNthControlPointPosition(3)
    path = tmp_path / f"theirs{ending}"
    assert storage(path).WriteData(theirs)
    back = read_landmarks(path)
    np.testing.assert_allclose(back.points, POINTS, atol=1e-9)
    assert back.labels == LABELS
    assert back.undefined == (3,)


def test_an_image_can_stand_in_for_its_grid(tmp_path):
    image = sitk.Image((8, 8, 8), sitk.sitkInt16)
    image.SetSpacing((1, 2, 3))
    write_landmarks(Landmarks([[1, 2, 3]], ["a"]), tmp_path / "a.txt", image)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8").split() == ["2.0000000"] * 3


def test_landmarks_outside_the_image_are_noted_and_all_outside_is_an_error():
    grid = Grid((10, 10, 10), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    inside = [[0, 0, 0], [18, 18, 18], [-0.9, 5, 5]]  # half a voxel past a centre is still in the image
    assert outside_notes(Landmarks(inside, ["a", "b", "c"]), grid, "fixed image") == []
    some = Landmarks([*inside, [-1.1, 5, 5]], ["a", "b", "c", "d"], source="f.csv")
    assert outside_notes(some, grid, "fixed image") == [
        "1 of 4 landmarks of f.csv lie outside the fixed image: d."
    ]
    with pytest.raises(InputError, match=r"All 1 landmarks of f.csv lie outside the fixed image"):
        outside_notes(some.subset([3]), grid, "fixed image")


# ---------- tables of other programs


def test_slicers_table_of_points_is_read_in_its_frame_without_undefined_points(tmp_path):
    table = tmp_path / "points.csv"
    table.write_text(
        "label,r,a,s,defined,selected,visible,locked,description\n"
        "carina,2.5,-31,-118,1,1,1,0,\nlater,0,0,0,0,1,1,0,\nhilum,4,5,6,1,1,1,0,left\n"
    )
    landmarks = read_landmarks(table)
    assert landmarks.labels == ["carina", "hilum"]
    np.testing.assert_array_equal(landmarks.points, [[-2.5, 31, -118], [-4, -5, 6]])
    assert len(landmarks.undefined) == 1
    table.write_text("label,l,p,s\na,1,2,3\n")
    np.testing.assert_array_equal(read_landmarks(table).points, [[1, 2, 3]])


def test_numbers_without_a_header_need_a_word_on_what_they_are(tmp_path):
    """Learn2Reg's: voxels from 0, fixed and moving side by side."""
    table = tmp_path / "case_001.csv"
    table.write_text("1,2,3,4,5,6\n7,8,9,10,11,12\n")
    with pytest.raises(InputError, match=r"no header.*voxels"):
        read_landmarks(table)
    grid = Grid((20, 30, 40), (0.5, 1.5, 2.0), (-3.0, 10.0, 7.0))
    first = read_landmarks(table, grid, columns="voxels")
    np.testing.assert_allclose(first.points[0], [-3 + 0.5, 10 + 3.0, 7 + 6.0])
    np.testing.assert_allclose(read_landmarks(table, grid, columns="voxels-2").points[1], [2, 26.5, 31])
    np.testing.assert_array_equal(read_landmarks(table, columns="ras").points[0], [-1, -2, 3])
    with pytest.raises(InputError, match="give the image"):
        read_landmarks(table, columns="voxels")
