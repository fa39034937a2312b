"""Downloads from The Cancer Imaging Archive: checked against its metadata, remembered, bounded in memory."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from progressive_training import dicom_index, tcia
from progressive_training.cache import ScanStore
from progressive_training.cli import main
from progressive_training.dataset import find_scans
from progressive_training.dicom_index import DicomIndex, walk
from progressive_training.samples import SampleStream, Sampling
from ProgressiveRegistrationLib.batch.table import read_pairs
from ProgressiveRegistrationLib.errors import InputError
from training_helpers import prepared_chest

pydicom = pytest.importorskip("pydicom")

COLUMNS = (
    "Series UID,Collection,Subject ID,Study UID,Series Description,Modality,Number of Images,File Size,"
    "File Location"
)


def quiet(_text: str) -> None:
    """Reports that a test does not look at."""


def write_series(
    folder: Path, uid: str, patient: str, count: int = 22, modality: str = "CT", description: str = ""
) -> None:
    """Tiny slices 2 mm apart in a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"{uid}.{k + 1}"
        slice_ = pydicom.Dataset()
        slice_.file_meta = meta
        slice_.SOPClassUID, slice_.SOPInstanceUID = pydicom.uid.CTImageStorage, f"{uid}.{k + 1}"
        slice_.SeriesInstanceUID, slice_.StudyInstanceUID = uid, uid.rsplit(".", 1)[0]
        slice_.PatientID, slice_.Modality, slice_.SeriesDescription = patient, modality, description
        slice_.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        slice_.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        slice_.ImagePositionPatient = [0, 0, 2.0 * k]
        slice_.PixelSpacing, slice_.SliceThickness, slice_.InstanceNumber = [2, 2], 2, k + 1
        slice_.RescaleSlope, slice_.RescaleIntercept = 1, -1024
        slice_.Rows = slice_.Columns = 8
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 16, 16, 15
        slice_.SamplesPerPixel, slice_.PixelRepresentation = 1, 0
        slice_.PhotometricInterpretation = "MONOCHROME2"
        slice_.PixelData = np.full((8, 8), k, np.uint16).tobytes()
        slice_.save_as(folder / f"1-{k + 1:03d}.dcm", enforce_file_format=True)


@pytest.fixture
def download(tmp_path) -> Path:
    """Three patients of a scan each and an X-ray, as the Data Retriever leaves them, with its metadata."""
    root = tmp_path / "manifest-1" / "LIDC-IDRI"
    rows = [COLUMNS]
    for n in (1, 2, 3):
        write_series(root / f"LIDC-IDRI-000{n}" / "study" / "ct", f"1.2.{n}.1", f"LIDC-IDRI-000{n}")
        rows.append(f'1.2.{n}.1,LIDC-IDRI,LIDC-IDRI-000{n},1.2.{n},"CT, chest",CT,22,1 MB,./x')
    write_series(root / "LIDC-IDRI-0001" / "xray" / "dx", "1.2.1.9", "LIDC-IDRI-0001", 1, "DX")
    rows.append("1.2.1.9,LIDC-IDRI,LIDC-IDRI-0001,1.2.1,,DX,1,1 MB,./x")
    (root.parent / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    return root


def checked(download: Path, index: Path | None = None) -> tcia.Check:
    return tcia.check_download(download, tcia.read_metadata(tcia.find_metadata(download)), index, quiet)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


# ---- checks ------------------------------------------------------------------------------------------------


def test_a_whole_download_has_nothing_against_it(download, tmp_path, capsys):
    found = checked(download)
    assert (len(found.usable), found.patients, found.expected, found.complete) == (3, 3, 3, 3)
    assert found.problems == []
    assert found.again == []
    assert found.beside == {"DX": 1}
    assert run("data", "lidc-idri", download, "--cache", tmp_path / "cache") == 0
    told = capsys.readouterr().out
    assert "3 usable CT series of 3 patient(s)" in told
    assert "3 of the 3 CT series of the metadata are here whole" in told
    assert "0.1 GB" in told


def test_missing_slices_missing_series_and_copies_are_told_and_can_be_fetched_again(
    download, tmp_path, capsys
):
    cut = download / "LIDC-IDRI-0001" / "study" / "ct"
    (cut / "1-010.dcm").unlink()
    shutil.rmtree(download / "LIDC-IDRI-0002")
    whole = download / "LIDC-IDRI-0003" / "study" / "ct"
    shutil.copy(whole / "1-004.dcm", whole / "1-004 (1).dcm")
    retry = tmp_path / "again.tcia"
    assert run("data", "LIDC-IDRI", download, "--cache", tmp_path / "cache", "--retry", retry) == 1
    told = capsys.readouterr().out
    assert "LIDC-IDRI-0001, series 1.2.1.1" in told
    assert "has 21 of 22 images" in told
    assert "misses about 1 slice(s)" in told
    assert "LIDC-IDRI-0002 1.2.2.1: no file of it is here" in told
    assert "LIDC-IDRI-0003, series 1.2.3.1" in told
    assert "has 1 file(s) twice" in told
    assert "1 of the 3 CT series of the metadata are here whole" in told
    assert list(tcia.read_metadata(retry)) == ["1.2.1.1", "1.2.2.1"]


def test_without_metadata_it_says_what_cannot_be_said(download, tmp_path, capsys):
    (download.parent / "metadata.csv").unlink()
    assert run("data", "lidc-idri", download, "--cache", tmp_path / "cache") == 0
    assert "whether series are missing cannot be said" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "images"),
    [
        ("metadata.csv", COLUMNS + "\n1.2.3,C,P,1.2,d,CT,17,1 MB,./x", 17),
        ("series.csv", 'Patient ID,Series Instance UID,Modality,Image Count\nP,1.2.3,CT,"1,700"', 1700),
        ("series.json", json.dumps([{"SeriesInstanceUID": "1.2.3", "Modality": "CT", "ImageCount": 17}]), 17),
        ("m.tcia", "manifestVersion=3.0\nListOfSeriesToDownload=\n1.2.3\n", None),
    ],
)
def test_every_form_of_the_archives_lists_is_read(tmp_path, name, text, images):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    (entry,) = tcia.read_metadata(path).values()
    assert (entry.uid, entry.images) == ("1.2.3", images)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("a,b\n1,2", "names no series"), ("[1, 2", "cannot be read"), ("", "names no series")],
)
def test_a_file_that_is_no_list_of_series_is_refused(tmp_path, text, sentence):
    path = tmp_path / "metadata.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=sentence):
        tcia.read_metadata(path)


def test_what_a_collection_needs_is_told_without_a_download(capsys):
    assert run("data", "LIDC-IDRI") == 0
    told = capsys.readouterr().out
    assert "1,010 patients" in told
    assert "CC BY 3.0" in told
    assert "metadata.csv" in told
    assert "25.4 GB" in told
    with pytest.raises(SystemExit):
        main(["data", "LIDC"])
    assert "known: lidc-idri, 4d-lung" in capsys.readouterr().err


# ---- phases ------------------------------------------------------------------------------------------------


def test_phases_become_a_table_that_a_batch_reads(tmp_path, capsys):
    root = tmp_path / "4D-Lung"
    for percent in (0, 50, 90):
        described = f"P4^P100^S300^I000{percent}, Gated, {percent}.0%A"
        write_series(
            root / "100" / f"phase{percent}", f"1.3.1.{percent + 1}", "100_HM10395", description=described
        )
    write_series(root / "101" / "phase0", "1.3.2.1", "101_HM10395", description="Gated, 0.0%")
    table = tmp_path / "pairs.csv"
    assert run("data", "4d-lung", root, "--cache", tmp_path / "cache", "--pairs", table) == 0
    (pair,), _ = read_pairs(table)
    assert Path(pair.files.fixed).name == "phase50"
    assert Path(pair.files.moving).name == "phase0"
    assert (pair.files.fixed_series, pair.files.moving_series) == ("1.3.1.51", "1.3.1.1")
    shutil.rmtree(root / "100")
    with pytest.raises(InputError, match=r"No study in .* has usable phases"):
        tcia.write_pairs(root, table, None, quiet)


def test_a_study_with_a_phase_twice_is_left_out(tmp_path):
    facts = [
        dicom_index.SeriesFacts(f"1.{k}", "CT", "p", "study", f"Gated, {percent}%")
        for k, percent in enumerate((0, 50, 0))
    ]
    assert tcia.phases(facts) == {}
    assert list(tcia.phases(facts[:2])[("p", "study")]) == [0.0, 50.0]


# ---- what is remembered ------------------------------------------------------------------------------------


def test_headers_are_read_once_and_again_where_a_file_has_changed(download, tmp_path, monkeypatch):
    index = tmp_path / "index"
    first, _ = find_scans([download], index, quiet)
    read = []
    real = dicom_index.find_series
    monkeypatch.setattr(dicom_index, "find_series", lambda files: read.append(files) or real(files))
    monkeypatch.setattr(pydicom, "dcmread", counted(pydicom.dcmread, read))
    again, _ = find_scans([download], index, quiet)
    assert read == []
    assert [(s.name, s.patient, s.files, s.key) for s in again] == [
        (s.name, s.patient, s.files, s.key) for s in first
    ]
    assert again[0].read().GetSize() == (8, 8, 22)
    read.clear()
    changed = download / "LIDC-IDRI-0002" / "study" / "ct" / "1-001.dcm"
    os.utime(changed, ns=(1, 1))
    third, _ = find_scans([download], index, quiet)
    assert read
    unnamed = [item for item in read if isinstance(item, io.BytesIO)]  # a file's beginning
    assert all("LIDC-IDRI-0002" in str(item) for item in read if item not in unnamed)
    assert len(unnamed) <= 2 * 22  # of that series' files, not of all
    assert third[1].key != first[1].key
    assert third[0].key == first[0].key


def counted(real, seen: list):
    def read(path, *args, **kwargs):
        seen.append(path)
        return real(path, *args, **kwargs)

    return read


def test_a_series_in_two_folders_is_one(download):
    place = download / "LIDC-IDRI-0003" / "study"
    (place / "rest").mkdir()
    for path in sorted((place / "ct").iterdir())[11:]:
        path.rename(place / "rest" / path.name)
    contents = DicomIndex(download, None, quiet).contents(walk(download))
    assert [len(s.files) for s in contents.series] == [22, 22, 22]


def test_an_index_that_is_damaged_is_made_anew(download, tmp_path):
    index = tmp_path / "index"
    first, _ = find_scans([download], index, quiet)
    (store,) = index.iterdir()
    store.write_text('{"format"', encoding="utf-8")
    again, _ = find_scans([download], index, quiet)
    assert [s.key for s in again] == [s.key for s in first]


# ---- memory ------------------------------------------------------------------------------------------------


def test_of_300_scans_no_more_are_in_memory_than_was_allowed(tmp_path):
    """Links to one prepared scan stand in for 300: each is read and kept as a scan of its own."""
    prepared_chest(tmp_path / "one")
    folders = [tmp_path / f"{n:03d}" for n in range(300)]
    for folder in folders:
        folder.symlink_to(tmp_path / "one")
    size = ScanStore(folders[:1], (-1000.0, -100.0))[0].bytes
    store = ScanStore(folders, (-1000.0, -100.0), gigabytes=6.5 * size / 1e9)
    stream = SampleStream(store, Sampling(), 0)
    seen, most = set(), 0
    for number in range(300):
        rng = np.random.default_rng([*stream.key, number])
        index = int(rng.integers(300))
        seen.add(store[index].name and index)
        most = max(most, store.bytes)
    assert len(seen) > 150
    assert 6 * size == most
    assert stream.sample(0, 64, 8).scan == "chest 0"
