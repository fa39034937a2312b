"""Finding scans: a real DICOM series, trees built from it as TCIA serves LIDC-IDRI, and folders of volumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from progressive_training.cache import load
from progressive_training.dataset import find_scans, prepare_scans
from progressive_training.dicom_tree import find_series
from ProgressiveRegistrationLib.errors import InputError
from training_helpers import small_chest, write_chests

pydicom = pytest.importorskip("pydicom")


def quiet(_text: str) -> None:
    """Reports that a test does not look at."""


@pytest.fixture(scope="module")
def small_series(shared, tmp_path_factory) -> Path:
    """The real series with every fourth pixel of every fourth slice: the same headers, 1/64 of the voxels."""
    folder = tmp_path_factory.mktemp("series")
    for number, path in enumerate(sorted((shared / "dicom" / "LIDC-IDRI-0306").glob("*.dcm"))[::4]):
        dataset = pydicom.dcmread(path)
        pixels = dataset.pixel_array[::4, ::4]
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.PixelSpacing = [4 * float(s) for s in dataset.PixelSpacing]
        dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
        dataset.save_as(folder / f"{number:03d}.dcm")
    return folder


@pytest.fixture
def tree(small_series, tmp_path) -> Path:
    """LIDC-IDRI-0306/study/series/*.dcm"""
    root = tmp_path / "LIDC-IDRI"
    shutil.copytree(small_series, root / "LIDC-IDRI-0306" / "study" / "series")
    return root


def change(path: Path, target: Path, **values) -> None:
    dataset = pydicom.dcmread(path)
    for key, value in values.items():
        setattr(dataset, key, value)
        if key == "SOPInstanceUID":
            dataset.file_meta.MediaStorageSOPInstanceUID = value
    target.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(target)


def slices(tree: Path) -> list[Path]:
    return sorted(tree.rglob("series/*.dcm"))


def test_the_real_series_is_read_as_itk_reads_it(shared):
    folder = shared / "dicom" / "LIDC-IDRI-0306"
    (series,), left_out = find_series(sorted(folder.iterdir()))
    image = series.read()
    # Positions and spacing straight from the headers, by another reader.
    headers = [pydicom.dcmread(f, stop_before_pixels=True) for f in folder.iterdir()]
    heights = sorted(float(h.ImagePositionPatient[2]) for h in headers)
    assert not left_out
    assert image.GetSize() == (512, 512, 123)
    assert image.GetSpacing() == pytest.approx((0.617188, 0.617188, 2.5), abs=1e-4)
    assert image.GetOrigin()[2] == pytest.approx(heights[0])
    top = max(headers, key=lambda h: h.ImagePositionPatient[2])
    pixels = pydicom.dcmread(top.filename)
    hu = pixels.pixel_array * float(pixels.RescaleSlope) + float(pixels.RescaleIntercept)
    assert np.array_equal(sitk.GetArrayViewFromImage(image)[-1], hu)


def test_a_tree_of_one_series_gives_one_scan_that_can_be_prepared(tree, tmp_path):
    folders, skipped = prepare_scans([tree], tmp_path / "cache", quiet)
    assert len(folders) == 1
    assert not skipped
    scan = load(folders[0], (-1000, -100))
    assert scan.name.startswith("LIDC-IDRI-0306/")
    assert 2.0 < float(scan.masks[0].sum()) * 27e-6 < 8.0  # litres of lung at 3 mm


def test_two_series_in_one_folder_are_two_scans(tree):
    for number, path in enumerate(slices(tree)):
        change(
            path,
            path.with_name(f"second{number:03d}.dcm"),
            SeriesInstanceUID="1.2.3.4",
            SOPInstanceUID=f"1.2.3.4.{number + 1}",
        )
    sources, skipped = find_scans([tree])
    assert len(sources) == 2
    assert {len(s.files) for s in sources} == {len(slices(tree)) // 2}
    assert not skipped


def test_a_series_with_a_missing_slice_is_skipped_with_the_reason(tree):
    slices(tree)[10].unlink()
    sources, skipped = find_scans([tree])
    assert not sources
    assert "misses about 1 slice" in skipped[0].reason


def test_a_cr_image_among_the_series_is_left_out(tree):
    change(
        slices(tree)[0],
        tree / "LIDC-IDRI-0306" / "study" / "cr" / "1.dcm",
        Modality="CR",
        SeriesInstanceUID="9.9.9",
        SOPInstanceUID="9.9.9.1",
    )
    sources, skipped = find_scans([tree])
    assert len(sources) == 1
    assert len(skipped) == 1
    assert "CR, not CT" in skipped[0].reason


def test_duplicates_are_used_once(tree):
    count = len(slices(tree))
    shutil.copytree(tree / "LIDC-IDRI-0306", tree / "again")
    sources, skipped = find_scans([tree])
    assert [len(s.files) for s in sources] == [count]
    assert f"{count} file(s) twice" in skipped[0].reason


def test_a_file_cut_off_in_its_header_is_named(tree):
    broken = slices(tree)[5]
    whole = broken.read_bytes()
    (tree / "broken.dcm").write_bytes(whole[:200])
    sources, skipped = find_scans([tree])
    assert len(sources) == 1
    assert [(s.path.name, "cannot be read" in s.reason) for s in skipped] == [("broken.dcm", True)]


def test_a_series_with_a_slice_cut_off_in_its_pixels_is_skipped(tree, tmp_path):
    broken = slices(tree)[5]
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="no usable chest CT"):
        prepare_scans([tree], tmp_path / "cache", quiet)
    reasons = {
        e["path"]: e["reason"]
        for e in json.loads((tmp_path / "cache" / "skipped.json").read_text(encoding="utf-8"))
    }
    assert "cannot be read" in reasons.pop(str(broken))
    assert "misses about 1 slice" in "".join(reasons.values())


def test_other_files_do_not_matter(tree):
    (tree / "LICENSE").write_text("text")
    (tree / "LIDC-IDRI-0306" / "069.xml").write_text("<LidcReadMessage/>")
    (tree / "fake.dcm").write_text("not DICOM at all")
    sources, skipped = find_scans([tree])
    assert len(sources) == 1
    assert [s.path.name for s in skipped] == ["fake.dcm"]


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii.gz"])
def test_volume_files_are_found_and_prepared_once(tmp_path, ending):
    (tmp_path / "data" / "deeper").mkdir(parents=True)
    sitk.WriteImage(small_chest(), str(tmp_path / "data" / "deeper" / f"chest{ending}"))
    said = []
    first, _ = prepare_scans([tmp_path / "data"], tmp_path / "cache", said.append)
    again, _ = prepare_scans([tmp_path / "data"], tmp_path / "cache", said.append)
    assert first == again
    assert len(first) == 1
    assert sum("Preparing" in text for text in said) == 1


def test_a_replaced_volume_is_prepared_anew(tmp_path):
    data = write_chests(tmp_path / "data")
    (first,), _ = prepare_scans([data], tmp_path / "cache", quiet)
    sitk.WriteImage(small_chest(3), str(data / "chest0.nrrd"))
    (second,), _ = prepare_scans([data], tmp_path / "cache", quiet)
    assert first != second


def test_a_volume_without_lungs_and_a_damaged_one_are_skipped_and_reported(tmp_path):
    data = write_chests(tmp_path / "data")
    sitk.WriteImage(sitk.Image([40, 40, 40], sitk.sitkInt16) + 40, str(data / "flat.nrrd"))
    (data / "damaged.mha").write_text("ObjectType = Image")
    said = []
    folders, skipped = prepare_scans([data], tmp_path / "cache", said.append)
    assert len(folders) == 1
    assert {s.path.name for s in skipped} == {"flat.nrrd", "damaged.mha"}
    assert all(s.reason.endswith(".") for s in skipped)
    assert sum(text.startswith("Skipped") for text in said) == 2


def test_an_empty_folder_and_a_missing_one_say_so(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no usable chest CT in .*empty"):
        prepare_scans([tmp_path / "empty"], tmp_path / "cache", quiet)
    with pytest.raises(InputError, match="no data folder"):
        prepare_scans([tmp_path / "absent"], tmp_path / "cache", quiet)
    with pytest.raises(InputError, match="an empty list"):
        prepare_scans([], tmp_path / "cache", quiet)
