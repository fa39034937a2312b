"""DICOM series that hold more than one volume, copies of slices, and warping alike whatever the transform."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from ProgressiveRegistrationLib import images, warping
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.geometry import Grid

pydicom = pytest.importorskip("pydicom")

COUNT = 12


@pytest.fixture
def series(shared, tmp_path) -> Path:
    """A folder with the first slices of a real CT, in a row."""
    folder = tmp_path / "dicom"
    folder.mkdir()
    files = sorted((shared / "dicom" / "LIDC-IDRI-0306").glob("*.dcm"))
    files.sort(key=lambda f: float(pydicom.dcmread(f, stop_before_pixels=True).ImagePositionPatient[2]))
    for k, file in enumerate(files[:COUNT]):
        shutil.copy(file, folder / f"{k:02d}.dcm")
    return folder


def add_phase(folder: Path, name: str, *, brighter: int = 100, renamed: bool = True, **tags) -> None:
    """The slices once more, in the same series: other values, other instance UIDs and these tags."""
    for file in sorted(folder.glob("[0-9]*.dcm")):
        slice_ = pydicom.dcmread(file)
        slice_.PixelData = (slice_.pixel_array + brighter).astype(np.int16).tobytes()
        if renamed:
            slice_.SOPInstanceUID = pydicom.uid.generate_uid()
            slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
        for tag, value in tags.items():
            setattr(slice_, tag, value)
        slice_.save_as(folder / f"{name}-{file.name}")


def test_two_phases_in_one_series_are_refused_and_not_mixed(series):
    add_phase(series, "late")
    with pytest.raises(
        InputError, match=r"2 images at one position.*give a folder with one phase\."
    ) as caught:
        images.read_image(series)
    assert str(series) in str(caught.value)
    # A tag that each slice has of its own tells no volumes apart.
    for k, file in enumerate(sorted(series.glob("*.dcm"))):
        slice_ = pydicom.dcmread(file)
        slice_.AcquisitionNumber = k
        slice_.save_as(file)
    with pytest.raises(InputError, match=r"give a folder with one phase\."):
        images.read_image(series)


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("AcquisitionNumber", 2),
        ("TemporalPositionIdentifier", 10),
        ("TemporalPositionIndex", 3),
        ("TriggerTime", 500.0),
        ("ImageComments", "Gated, 50 %"),
        ("SeriesTime", "170000"),
    ],
)
def test_the_tag_that_tells_phases_apart_is_named_with_its_values(series, tag, value):
    for file in series.glob("*.dcm"):
        slice_ = pydicom.dcmread(file)
        if tag not in slice_:
            setattr(slice_, tag, {"ImageComments": "Gated, 0 %"}.get(tag, 1))
            slice_.save_as(file)
    first = str(getattr(slice_, tag))
    add_phase(series, "late", **{tag: value})
    with pytest.raises(InputError, match=f"which {tag} tells apart: ") as caught:
        images.read_image(series)
    for text in (f"{first} ({COUNT} images)", f"{value} ({COUNT} images)", f"{tag}=VALUE"):
        assert text in str(caught.value)
    # What the sentence says to do works.
    early, late = (sitk.GetArrayFromImage(images.read_image(series, f"{tag}={v}")) for v in (first, value))
    assert len(early) == COUNT
    np.testing.assert_array_equal(late.astype(int), early.astype(int) + 100)


@pytest.mark.parametrize("renamed", [False, True])
def test_copies_of_slices_are_dropped(series, renamed):
    expected = sitk.GetArrayFromImage(images.read_image(series))
    add_phase(series, "copy", brighter=0, renamed=renamed, AcquisitionNumber=2)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(images.read_image(series)), expected)


def test_every_transform_warps_alike_rounded_and_filled_with_air():
    values = np.random.default_rng(0).integers(-900, 400, (10, 12, 14)).astype(np.int16)
    values[0, 0, 0] = -3024  # padding is no air
    grid = Grid((14, 12, 10), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    shift = sitk.TranslationTransform(3, (0.5, 0.0, 6.0))
    warped = sitk.GetArrayFromImage(warping.warp_image(grid.image(values), grid, shift))
    assert warped.dtype == np.int16
    exact = 0.75 * values[3:, :, :-1] + 0.25 * values[3:, :, 1:]
    np.testing.assert_array_equal(warped[:-3, :, :-1], np.floor(exact + 0.5))
    assert (warped[-3:] == -1024).all()
    labels = sitk.GetArrayFromImage(warping.warp_image(grid.image(values), grid, shift, label=True))
    np.testing.assert_array_equal(labels[:-3], values[3:])
    assert (labels[-3:] == 0).all()


def test_a_folder_above_the_series_is_refused_with_the_folders_that_hold_them(series, capfd):
    study = series.parent
    (study / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (study / "notes").mkdir()
    (study / "notes" / "a.txt").write_text("no slice")
    with pytest.raises(InputError, match="holds no DICOM series") as caught:
        images.read_image(study)
    assert str(caught.value).endswith(f"give one of those below it: {series}.")
    with pytest.raises(InputError, match="give a folder of DICOM files or an image file"):
        images.read_image(study / "notes")
    assert capfd.readouterr().err == ""  # ITK says nothing of its own
    assert sitk.ProcessObject.GetGlobalWarningDisplay()
