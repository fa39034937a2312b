"""Readers of the landmark test sets: files in their formats, the real landmarks, the published errors."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from progressive_training import benchmarks
from progressive_training.benchmarks import read_raw
from progressive_training.tables import mean_sd
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.geometry import Grid

SMALL = Grid((10, 9, 8), (0.97656, 0.97656, 2), (0, 0, 0))
SIZE, SPACING = (7, 6, 5), (0.97, 1.1, 2.5)
# Table II of the paper, "before": mean and standard deviation, mm.
PUBLISHED = {
    1: (3.89, 2.78),
    2: (4.34, 3.90),
    3: (6.94, 4.05),
    4: (9.83, 4.85),
    5: (7.48, 5.50),
    6: (10.89, 6.96),
    7: (11.03, 7.42),
    8: (14.99, 9.00),
    9: (7.92, 3.97),
    10: (7.30, 6.34),
}


def write_raw(path, size=SIZE, seed=0) -> np.ndarray:
    """A file of random tissue as DIR-Lab's: int16 little-endian, HU + 1024, (z, y, x) head first."""
    stored = np.random.default_rng(seed).integers(0, 2000, size[::-1]).astype("<i2")
    path.parent.mkdir(parents=True, exist_ok=True)
    stored.tofile(path)
    return stored


def write_points(path, voxels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{x}\t{y}\t{z}\t\r\n" for x, y, z in voxels))


def test_a_raw_file_lies_in_the_world_as_itk_puts_it_with_the_head_first(tmp_path):
    write_raw(tmp_path / "a.img")
    # The same file through ITK's own reader: its third axis points to the feet.
    (tmp_path / "a.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"TransformMatrix = 1 0 0 0 1 0 0 0 -1\nOffset = 0 0 {2.5 * (SIZE[2] - 1)}\n"
        f"ElementSpacing = {SPACING[0]} {SPACING[1]} {SPACING[2]}\n"
        f"DimSize = {SIZE[0]} {SIZE[1]} {SIZE[2]}\nElementType = MET_SHORT\nElementDataFile = a.img\n"
    )
    stored = sitk.ReadImage(str(tmp_path / "a.mhd"))
    image = read_raw(tmp_path / "a.img", SIZE, SPACING)
    assert np.linalg.det(np.reshape(image.GetDirection(), (3, 3))) == pytest.approx(1)
    for x, y, z in np.ndindex(SIZE):
        there = image.TransformPhysicalPointToIndex(stored.TransformIndexToPhysicalPoint((x, y, z)))
        assert image[there] == stored[x, y, z] - 1024
        assert there == (x, y, SIZE[2] - 1 - z)


def test_a_landmark_lies_on_the_voxel_that_the_file_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "DIRLAB_4DCT", {1: (SIZE, SPACING)})
    voxels = np.array([[1, 1, 1], [7, 6, 5], [3, 2, 4]])
    stored = [
        write_raw(tmp_path / f"Case1Pack/Images/case1_T{p}_s.img", seed=k) for k, p in enumerate(("00", "50"))
    ]
    write_points(tmp_path / "Case1Pack/ExtremePhases/Case1_300_T00_xyz.txt", voxels)
    write_points(tmp_path / "Case1Pack/ExtremePhases/Case1_300_T50_xyz.txt", voxels[::-1])
    (pair,), notes = benchmarks.dirlab_4dct(tmp_path)
    data = pair.load()
    assert notes == []
    for image, points, numbers, raw in (
        (data.fixed, data.fixed_points, voxels, stored[0]),
        (data.moving, data.moving_points, voxels[::-1], stored[1]),
    ):
        for point, (x, y, z) in zip(points, numbers):
            index = image.TransformPhysicalPointToContinuousIndex(point.tolist())
            np.testing.assert_allclose(index, np.round(index), atol=1e-6)
            assert image[tuple(round(i) for i in index)] == raw[z - 1, y - 1, x - 1] - 1024
    # The first slice of the file is the patient's head: a small z lies high in LPS.
    assert data.fixed_points[0, 2] > data.fixed_points[1, 2]
    back = data.swapped()
    np.testing.assert_array_equal(back.fixed_points, data.moving_points)
    assert back.fixed is data.moving


def test_padding_stays_padding_and_a_wrong_file_is_told_apart(tmp_path):
    path = tmp_path / "case1_T00_s.img"
    stored = write_raw(path)
    stored[:, 0] = -2000
    stored.tofile(path)
    values = sitk.GetArrayFromImage(read_raw(path, SIZE, SPACING))
    assert (values[:, 0] == -2048).all()
    assert values[:, 1:].min() >= -1024
    with pytest.raises(InputError, match="420 bytes, but 7 x 6 x 6 voxels of two bytes are 504"):
        read_raw(path, (7, 6, 6), SPACING)
    (stored[:, 1:] - 1024).astype("<i2").tofile(path)
    with pytest.raises(InputError, match=r"does not hold HU \+ 1024"):
        read_raw(path, (7, 5, 5), SPACING)
    with pytest.raises(InputError, match="cannot be read"):
        read_raw(tmp_path / "none.img", SIZE, SPACING)


@pytest.fixture
def dirlab(tmp_path, shared, monkeypatch):
    """The ten cases under the names of the distribution; images of the true size without content."""
    for case in range(1, 11):
        folder = tmp_path / ("Case8Deploy" if case == 8 else f"Case{case}Pack")
        late = case > 5
        suffix = "" if late else "_s" if case == 1 else "-ssm"
        points = folder / ("extremePhases" if late else "ExtremePhases")
        (folder / "Images").mkdir(parents=True)
        points.mkdir()
        for phase in ("00", "50"):
            (folder / "Images" / f"case{case}_T{phase}{suffix}.img").touch()
            name = f"case{case}_dirLab300" if late else f"Case{case}_300"
            source = shared / "landmarks" / "dirlab_4dct" / f"case{case}_300_T{phase}_xyz.txt"
            shutil.copy(source, points / f"{name}_T{phase}_xyz.txt")

    def empty(path, size, spacing):
        assert path.is_file()
        return Grid(size, spacing, (0, 0, 0)).image(np.zeros(size[::-1], np.uint8))

    monkeypatch.setattr(benchmarks, "read_raw", empty)
    return tmp_path


def test_the_ten_dirlab_cases_give_the_papers_errors_before_registration(dirlab):
    pairs, notes = benchmarks.dirlab_4dct(dirlab)
    assert [p.name for p in pairs] == [str(c) for c in range(1, 11)]
    assert notes == []
    for pair in pairs:
        data = pair.load()
        before = np.linalg.norm(data.fixed_points - data.moving_points, axis=1)
        assert len(before) == 300
        assert mean_sd(before) == pytest.approx(PUBLISHED[int(pair.name)], abs=0.006)
        # Breathing out lifts the lungs: T00 is inhale, so the moving landmarks lie higher.
        assert (data.moving_points - data.fixed_points)[:, 2].mean() > 1
        assert Grid.from_image(data.fixed).contains(data.fixed_points).all()


def test_an_incomplete_case_is_reported_and_the_others_are_used(dirlab):
    (dirlab / "Case8Deploy" / "Images" / "case8_T50.img").unlink()
    (dirlab / "Case3Pack" / "ExtremePhases" / "Case3_300_T00_xyz.txt").unlink()
    pairs, notes = benchmarks.dirlab_4dct(dirlab)
    assert len(pairs) == 8
    assert notes == [
        "DIR-Lab 4DCT 3 is left out: its fixed landmarks cannot be found.",
        "DIR-Lab 4DCT 8 is left out: its moving image cannot be found.",
    ]


def test_copdgene_pairs_inhale_with_exhale(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "DIRLAB_COPDGENE", {1: (SIZE, SPACING), 10: (SIZE, SPACING)})
    stored = {}
    for case in (1, 10):
        folder = tmp_path / f"copd{case}" / f"copd{case}"
        for phase in "ie":
            stored[case, phase] = write_raw(folder / f"copd{case}_{phase}BHCT.img", seed=case + ord(phase))
            voxels = [[2, 3, 4]] if phase == "i" else [[2, 3, 2]]
            write_points(folder / f"copd{case}_300_{phase}BH_xyz_r1.txt", voxels)
    pairs, _ = benchmarks.dirlab_copdgene(tmp_path)
    assert [p.name for p in pairs] == ["1", "10"]
    for pair in pairs:
        data = pair.load()
        np.testing.assert_allclose(data.moving_points - data.fixed_points, [[0, 0, 2 * 2.5]])
        case = int(pair.name)
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(data.fixed)[::-1], stored[case, "i"].astype(int) - 1024
        )
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(data.moving)[::-1], stored[case, "e"].astype(int) - 1024
        )


def write_mhd(path, value=0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(np.prod(SMALL.shape), dtype=np.int16).reshape(SMALL.shape) + np.int16(value)
    image = SMALL.image(values)
    sitk.WriteImage(image, str(path))


def test_popi_gives_the_papers_error_between_the_extreme_phases(tmp_path, shared):
    for phase in ("00", "10", "60"):
        write_mhd(tmp_path / "4DCT_MetaImage" / f"{phase}-P.mhd", int(phase))
        shutil.copy(shared / "landmarks" / "popi" / f"{phase}-Landmarks.pts", tmp_path)
    (pair,), _ = benchmarks.popi(tmp_path)
    data = pair.load()
    assert (data.fixed[0, 0, 0], data.moving[0, 0, 0]) == (10, 60)
    before = np.linalg.norm(data.fixed_points - data.moving_points, axis=1)
    assert len(before) == 41
    assert mean_sd(before) == pytest.approx((6.29, 3.13), abs=0.006)
    with pytest.raises(InputError, match="moving image, moving landmarks cannot be found"):
        benchmarks.popi(tmp_path, ("00", "50"))


def test_creatis_patients_use_their_published_exhale_phase(tmp_path):
    for patient, exhale in (("bl", "60"), ("ng", "50"), ("bh", "50")):
        for phase in ("00", exhale):
            write_mhd(tmp_path / "MedPhys11" / patient / "mhd" / f"{phase}.mhd", int(phase))
            points = tmp_path / "MedPhys11" / patient / "pts" / f"{phase}.pts"
            points.parent.mkdir(exist_ok=True)
            points.write_text(f"1.5 2 3\n4 5.25 {6 + int(phase) / 10}\n")
    (tmp_path / "MedPhys11" / "ng" / "pts" / "50.pts").unlink()
    pairs, notes = benchmarks.creatis(tmp_path)
    assert [p.name for p in pairs] == ["1 (bl)", "6 (bh)"]
    assert notes == ["CREATIS 2 (ng) is left out: its moving landmarks cannot be found."]
    data = pairs[0].load()
    assert (data.fixed[0, 0, 0], data.moving[0, 0, 0]) == (0, 60)
    np.testing.assert_allclose(data.fixed_points, [[1.5, 2, 3], [4, 5.25, 6]])
    np.testing.assert_allclose(data.moving_points, [[1.5, 2, 3], [4, 5.25, 12]])


def test_a_csv_lists_pairs_of_any_kind(tmp_path, shared):
    for name in ("a", "b"):
        write_mhd(tmp_path / f"{name}.mhd")
    mask = SMALL.image((np.indices(SMALL.shape)[2] > 4).astype(np.uint8))
    sitk.WriteImage(mask, str(tmp_path / "mask.nrrd"))
    shutil.copy(shared / "pairs" / "elastix_lung" / "landmarks51_lps_mm.csv", tmp_path / "points.csv")
    (tmp_path / "list.csv").write_text(
        "id,fixed,moving,fixed_landmarks,moving_landmarks,fixed_mask,exclude\n"
        "one,a.mhd,b.mhd,points.csv#baseline,points.csv#followup_centred,mask.nrrd,35\n"
        ",a.mhd,b.mhd,points.csv#baseline,points.csv#followup,,\n"
    )
    pairs, _ = benchmarks.csv_pairs(tmp_path / "list.csv")
    assert [(p.data_set, p.name) for p in pairs] == [("list", "one"), ("list", "2")]
    data = pairs[0].load()
    assert len(data.labels) == 50
    assert "35" not in data.labels
    assert np.linalg.norm(data.fixed_points - data.moving_points, axis=1).mean() == pytest.approx(
        4.47, abs=0.01
    )
    np.testing.assert_array_equal(sitk.GetArrayFromImage(data.fixed_mask), sitk.GetArrayFromImage(mask))
    assert data.moving_mask is None
    assert len(pairs[1].load().labels) == 51


BAD_LISTS = {
    "fixed,moving,fixed_landmarks\na,b,c\n": "missing: moving_landmarks",
    "": "needs rows and the columns",
    "fixed,moving,fixed_landmarks,moving_landmarks,colour\na,b,c,d,e\n": "unknown column colour",
    "fixed,moving,fixed_landmarks,moving_landmarks\na,,c,d\n": "Row 1 .* has no moving",
}


@pytest.mark.parametrize("content", BAD_LISTS)
def test_a_bad_list_is_named_in_one_sentence(tmp_path, content):
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(InputError, match=BAD_LISTS[content]) as caught:
        benchmarks.csv_pairs(tmp_path / "list.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "read", [benchmarks.dirlab_4dct, benchmarks.dirlab_copdgene, benchmarks.popi, benchmarks.creatis]
)
def test_a_folder_without_the_test_set_says_so(tmp_path, read):
    with pytest.raises(InputError, match="There is no whole pair"):
        read(tmp_path)
    with pytest.raises(InputError, match="There is no folder"):
        read(tmp_path / "nothing")
