"""Finding scans: a real DICOM series, trees built from it as TCIA serves LIDC-IDRI,
and folders of volumes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from progressive_training.cache import VERSION, cache_key, load, prepare
from progressive_training.config import config_from_dict
from progressive_training.dataset import find_scans, is_held_out, prepare_data, prepare_scans
from progressive_training.dicom_tree import find_series
from progressive_training.evaluation import held_out_stream
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
    folders, _, skipped = prepare_scans([tree], tmp_path / "cache", quiet)
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
    first, _, _ = prepare_scans([tmp_path / "data"], tmp_path / "cache", said.append)
    again, _, _ = prepare_scans([tmp_path / "data"], tmp_path / "cache", said.append)
    assert first == again
    assert len(first) == 1
    assert sum("Preparing" in text for text in said) == 1


def test_a_replaced_volume_is_prepared_anew(tmp_path):
    data = write_chests(tmp_path / "data")
    (first,), _, _ = prepare_scans([data], tmp_path / "cache", quiet)
    sitk.WriteImage(small_chest(3), str(data / "chest0.nrrd"))
    (second,), _, _ = prepare_scans([data], tmp_path / "cache", quiet)
    assert first != second


def test_a_volume_without_lungs_and_a_damaged_one_are_skipped_and_reported(tmp_path):
    data = write_chests(tmp_path / "data")
    sitk.WriteImage(sitk.Image([40, 40, 40], sitk.sitkInt16) + 40, str(data / "flat.nrrd"))
    (data / "damaged.mha").write_text("ObjectType = Image")
    said = []
    folders, _, skipped = prepare_scans([data], tmp_path / "cache", said.append)
    assert len(folders) == 1
    assert {s.path.name for s in skipped} == {"flat.nrrd", "damaged.mha"}
    assert all(s.reason.endswith(".") for s in skipped)
    assert sum(text.startswith("Skipped") for text in said) == 2


def test_a_stable_share_of_patients_is_held_out():
    patients = [f"LIDC-IDRI-{number:04d}" for number in range(1, 1001)]
    some = {p for p in patients if is_held_out(p, 0.05)}
    more = {p for p in patients if is_held_out(p, 0.2)}
    assert 30 < len(some) < 70
    assert 150 < len(more) < 250
    assert some < more
    assert not any(is_held_out(p, 0.0) for p in patients)
    # The same in every version, or a network could be judged on what it was trained on.
    assert sorted(some)[:3] == ["LIDC-IDRI-0019", "LIDC-IDRI-0063", "LIDC-IDRI-0083"]


def test_a_patient_is_held_out_with_all_series(tree, tmp_path):
    """Two patients in one folder, of whom one has two series."""
    kept, apart = "LIDC-IDRI-0306", "LIDC-IDRI-0019"
    assert not is_held_out(kept, 0.05)
    for patient, series in ((apart, "1.2.3"), (apart, "1.2.4")):
        for number, path in enumerate(sorted((tree / "LIDC-IDRI-0306").rglob("series/*.dcm"))):
            values = {"SeriesInstanceUID": series, "SOPInstanceUID": f"{series}.{number + 1}"}
            change(path, path.parents[1] / series / path.name, PatientID=patient, **values)
    cache = tmp_path / "cache"
    train, held_out, _ = prepare_scans([tree], cache, quiet, hold_out=0.05)
    assert [load(f, (-1000, -100)).name.split("/")[0] for f in train] == [kept]
    assert [load(f, (-1000, -100)).name.split("/")[0] for f in held_out] == [apart, apart]
    # Evaluation finds the same without preparing what was trained on.
    shutil.rmtree(cache)
    assert prepare_scans([tree], cache, quiet, hold_out=0.05, only_held_out=True)[:2] == ([], held_out)
    assert not train[0].exists()


def test_a_volume_is_a_patient_of_its_files_name(tmp_path):
    for name in ("LIDC-IDRI-0010.nii.gz", "LIDC-IDRI-0306.nrrd", "1.3.6.1.mha"):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / name).write_text("found by its name")
    sources, _ = find_scans([tmp_path])
    assert {s.patient for s in sources} == {"LIDC-IDRI-0010", "LIDC-IDRI-0306", "1.3.6.1"}


def test_volumes_of_one_name_are_patients_of_their_folders_names(tmp_path):
    def patients(*places):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for place in places:
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            (root / place).write_text("found by its name")
        return [s.patient for s in find_scans([root])[0]]

    assert patients("p1/ct.nrrd", "p2/ct.nrrd", "p3.nrrd") == ["p1", "p2", "p3"]
    assert patients("p1/in.nrrd", "p1/out.nrrd", "p2/in.nrrd", "p2/out.nrrd") == ["p1", "p1", "p2", "p2"]
    # Two reconstructions of each patient stay together.
    kernels = [f"{kernel}/p{k}.nrrd" for kernel in ("sharp", "soft") for k in (1, 2, 3)]
    assert patients(*kernels) == ["p1", "p2", "p3"] * 2
    assert find_scans([tmp_path / "0", tmp_path / "0" / "p1"])[0][-1].patient == "p1"


@pytest.mark.parametrize("order", [("p1", "p2"), ("p2", "p1")])
@pytest.mark.parametrize("ending", [".nrrd", ".mhd"])
def test_files_of_one_name_size_and_time_in_two_folders_are_two_scans(tmp_path, ending, order):
    """Whichever was prepared first, also when the other comes later or the first one goes."""
    for seed, folder in enumerate(("p1", "p2")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        sitk.WriteImage(small_chest(seed), str(tmp_path / "data" / folder / f"ct{ending}"), False)
        for file in (tmp_path / "data" / folder).iterdir():
            os.utime(file, (10**9, 10**9))
    sizes = [sorted(f.stat().st_size for f in (tmp_path / "data" / p).iterdir()) for p in ("p1", "p2")]
    assert sizes[0] == sizes[1]
    cache = tmp_path / "cache"
    alone = {p: prepare_scans([tmp_path / "data" / p], cache, quiet)[0] for p in order}
    assert alone["p1"] != alone["p2"]
    both, _, _ = prepare_scans([tmp_path / "data"], cache, quiet)
    assert both == alone["p1"] + alone["p2"]
    for seed, place in enumerate(both):
        prepare(small_chest(seed), tmp_path / "truth", "truth")
        assert torch.equal(load(place, (-1000, -100)).volume, load(tmp_path / "truth", (-1000, -100)).volume)
    shutil.rmtree(tmp_path / "data" / order[0])
    assert prepare_scans([tmp_path / "data"], cache, quiet)[0] == alone[order[1]]


def test_one_file_in_two_listed_folders_is_one_scan_and_a_moved_one_stays_prepared(tmp_path):
    data = write_chests(tmp_path / "data")
    cache = tmp_path / "cache"
    (place,), _, _ = prepare_scans([tmp_path, data, data / "chest0.nrrd"], cache, quiet)
    stat = (data / "chest0.nrrd").stat()
    # The key of every cache until now.
    assert place.name == cache_key(VERSION, [("chest0.nrrd", stat.st_size, stat.st_mtime_ns)])
    data.rename(tmp_path / "elsewhere")
    assert prepare_scans([tmp_path / "elsewhere"], cache, lambda text: pytest.fail(text))[0] == [place]


@pytest.mark.parametrize(
    ("ending", "old", "new"),
    [
        (".mhd", "", ""),
        (".mhd", "ElementDataFile = ct.raw", "ElementDataFile = LIST\nct.raw"),
        (".nhdr", "", ""),
        (".nhdr", "data file: ct.raw", "data file: %s.raw 1 1 1"),
    ],
)
def test_new_voxels_behind_the_same_header_are_noticed(tmp_path, ending, old, new):
    header = tmp_path / f"ct{ending}"
    sitk.WriteImage(small_chest(), str(header), False)
    text = header.read_text(encoding="utf-8").replace(old, new.replace("%s", "%02d"))
    header.write_text(text, encoding="utf-8")
    if "%s" in new:
        (tmp_path / "ct.raw").rename(tmp_path / "01.raw")
    keys = [find_scans([tmp_path])[0][0].key for _ in range(2)]
    raw = next(tmp_path.glob("*.raw"))
    raw.write_bytes(raw.read_bytes()[::-1])
    os.utime(raw, (10**9, 10**9))
    changed = find_scans([tmp_path])[0][0].key
    raw.unlink()
    assert keys[0] == keys[1]
    assert len({keys[0], changed, find_scans([tmp_path])[0][0].key}) == 3


def test_held_out_patients_are_validated_on_with_the_validation_scans(tmp_path):
    write_chests(tmp_path / "train", 3)
    write_chests(tmp_path / "other", 1)
    names = {"chest0", "chest1", "chest2"}
    share = next(k / 100 for k in range(1, 100) if any(is_held_out(n, k / 100) for n in names))
    data = {"train": ["train"], "validation": ["other"], "cache": "cache", "hold_out": share}
    config = config_from_dict({"name": "apart", "data": data}, tmp_path)
    trained, validated = prepare_data(config, quiet)
    apart = {n for n in names if is_held_out(n, share)}
    assert {load(f, (-1000, -100)).name for f in trained} == {f"{n}.nrrd" for n in names - apart}
    assert [load(f, (-1000, -100)).name for f in validated] == [
        "chest0.nrrd",
        *(f"{n}.nrrd" for n in sorted(apart)),
    ]
    assert held_out_stream(config, quiet).store.folders == validated


def test_a_share_that_holds_out_nobody_or_everybody_is_told(tmp_path):
    write_chests(tmp_path / "data")
    said = []
    prepare_scans([tmp_path / "data"], tmp_path / "cache", said.append, hold_out=1e-6)
    assert said[-1] == "Warning: data.hold_out = 1e-06 sets none of 1 patient(s) apart."
    with pytest.raises(InputError, match=r"data.hold_out = 0.999999 leaves no scan to train on"):
        prepare_scans([tmp_path / "data"], tmp_path / "cache", quiet, hold_out=0.999999)
    with pytest.raises(InputError, match=r"data.hold_out must be in \[0, 1\); got 1"):
        config_from_dict({"name": "all", "data": {"hold_out": 1}})


def test_an_empty_folder_and_a_missing_one_say_so(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no usable chest CT in .*empty"):
        prepare_scans([tmp_path / "empty"], tmp_path / "cache", quiet)
    with pytest.raises(InputError, match="no data folder"):
        prepare_scans([tmp_path / "absent"], tmp_path / "cache", quiet)
    with pytest.raises(InputError, match="an empty list"):
        prepare_scans([], tmp_path / "cache", quiet)
