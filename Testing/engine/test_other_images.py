"""NRRD, MetaImage, DIR-Lab's raw files and time sequences: claims are checked first,
and what is missing is named."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.images import read_image
from ProgressiveRegistrationLib.landmarks import read_landmarks
from ProgressiveRegistrationLib.reading import dirlab

HU = (np.arange(14 * 12 * 10).reshape(14, 12, 10) - 900).astype(np.int16)
GRID = Grid((10, 12, 14), (1.5, 2.0, 2.5), (-20.0, 30.0, -100.0))


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("a.mha", False),
        ("a.mha", True),
        ("a.nrrd", False),
        ("a.nrrd", True),
        ("a.vtk", False),
        ("a.gipl", False),
    ],
)
def test_whole_files_are_read_and_cut_off_ones_refused(capfd, tmp_path, name, packed):
    path = tmp_path / name
    sitk.WriteImage(GRID.image(HU), str(path), packed)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(path)), HU)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(InputError, match=r"cannot be read as an image: .*cut off"):
        read_image(path)
    if not packed:
        assert capfd.readouterr().err == ""  # the libraries' own lines


@pytest.mark.parametrize(
    ("name", "packed"), [("a.mhd", False), ("a.mhd", True), ("a.nhdr", False), ("a.nhdr", True)]
)
def test_headers_with_a_file_of_their_own_for_the_voxels(tmp_path, name, packed):
    path = tmp_path / name
    sitk.WriteImage(GRID.image(HU), str(path), packed)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(path)), HU)
    (voxels,) = [p for p in tmp_path.iterdir() if p != path]
    if not packed:
        voxels.write_bytes(voxels.read_bytes()[:-99])
        with pytest.raises(InputError, match="cut off"):
            read_image(path)
    voxels.unlink()
    with pytest.raises(InputError, match=f"keeps its voxels in {voxels.name}, which is not there"):
        read_image(path)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.vtk"])
def test_a_header_that_claims_a_million_cubed_is_refused_first(tmp_path, name):
    path = tmp_path / name
    sitk.WriteImage(GRID.image(HU), str(path))
    million = b"1000000 1000000 1000000"
    path.write_bytes(path.read_bytes().replace(b"10 12 14", million, 1))
    with pytest.raises(InputError, match=r"1000000 x 1000000 x 1000000 values"):
        read_image(path)


def test_coordinates_in_another_unit_are_refused(tmp_path):
    sitk.WriteImage(GRID.image(HU), str(tmp_path / "a.nrrd"))
    data = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "a.nrrd").write_bytes(data.replace(b"endian", b'space units: "um" "um" "um"\nendian', 1))
    with pytest.raises(InputError, match="coordinates in um; save it in mm"):
        read_image(tmp_path / "a.nrrd")


SEQUENCE = """NRRD0005
type: short
dimension: 4
space: left-posterior-superior
sizes: {sizes}
space directions: {directions}
kinds: {kinds}
endian: little
encoding: raw
space origin: (-20,30,-100)

"""
AXES = "(1.5,0,0) (0,2,0) (0,0,2.5)"


@pytest.mark.parametrize("first", [True, False])
def test_a_sequence_of_slicers_asks_for_its_frame(tmp_path, first):
    frames = [HU + k for k in range(5)]
    parts = ("5 10 12 14", f"none {AXES}", "list domain domain domain")
    if not first:
        parts = ("10 12 14 5", f"{AXES} none", "domain domain domain list")
    header = SEQUENCE.format(sizes=parts[0], directions=parts[1], kinds=parts[2])
    path = tmp_path / "breath.seq.nrrd"
    path.write_bytes(header.encode() + np.stack(frames, -1 if first else 0).astype(np.int16).tobytes())
    with pytest.raises(
        InputError, match=r"time sequence of 5 volumes; choose a frame with --fixed-frame N, N from 0 to 4"
    ):
        read_image(path, option="--fixed-series (in a batch: fixed_series)")
    image = read_image(path, frame=3)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), HU + 3)
    assert Grid.from_image(image) == GRID


@pytest.mark.parametrize("name", ["four.nrrd", "four.mha", "four.nii"])
def test_a_4d_image_asks_for_its_frame(tmp_path, name):
    joined = sitk.JoinSeries([GRID.image((HU + k).astype(np.int16)) for k in range(3)])
    sitk.WriteImage(joined, str(tmp_path / name))
    with pytest.raises(InputError, match=r"time sequence of 3 volumes"):
        read_image(tmp_path / name)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(tmp_path / name, frame=1)), HU + 1)


def raw(path, case: str) -> np.ndarray:
    """DIR-Lab's way: int16, HU + 1024, head first. Returns HU as (z, y, x), feet first."""
    columns, rows, slices, _, _ = dirlab.CASES[case]
    hu = np.random.default_rng(0).integers(-1024, 400, (slices, rows, columns)).astype(np.int16)
    (hu[::-1] + 1024).astype("<i2").tofile(path)
    return hu


@pytest.mark.parametrize("name", ["case1_T00_s.img", "CASE1_T50.IMG", "T00.img"])
def test_dir_lab_images_are_known_by_name_or_length(tmp_path, name):
    hu = raw(tmp_path / name, "case1")
    notes: list[str] = []
    image = read_image(tmp_path / name, notes=notes)
    assert image.GetSize() == (256, 256, 94)
    assert image.GetSpacing() == (0.97, 0.97, 2.5)
    assert "DIR-Lab's case1" in notes[0]
    # Its axes go left, back and to the feet: turned to the head, the order is that of the body.
    upright = sitk.DICOMOrient(image, "LPS")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(upright), hu)
    # The landmarks count the voxels as they are stored.
    (tmp_path / "points.txt").write_text("11\t21\t31\n")
    point = read_landmarks(tmp_path / "points.txt", image).points[0]
    assert image.TransformPhysicalPointToIndex(point.tolist()) == (10, 20, 30)


def test_raw_files_that_are_none_of_dir_labs_say_what_helps(tmp_path):
    raw(tmp_path / "case2_T00_s.img", "case1")
    with pytest.raises(InputError, match="DIR-Lab's case2 takes 14680064"):
        read_image(tmp_path / "case2_T00_s.img")
    (tmp_path / "scan.img").write_bytes(bytes(12345))
    with pytest.raises(InputError, match=r"raw data without a header.*\.mhd"):
        read_image(tmp_path / "scan.img")
    raw(tmp_path / "six.img", "case6")  # 6, 8 and 9 are alike in all
    assert read_image(tmp_path / "six.img").GetSpacing() == (0.97, 0.97, 2.5)
    raw(tmp_path / "three.img", "copd3")  # copd3 and copd4 differ in their voxels
    with pytest.raises(InputError, match="raw data without a header"):
        read_image(tmp_path / "three.img")
