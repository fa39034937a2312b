"""DICOM: positions decide; what one series mixes is told apart by name;
uneven and tilted scans are put straight."""

from __future__ import annotations

import json

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from foreign_files import ramp, write_enhanced, write_series, write_slice
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.images import read_image, read_volume
from small_pair import run

COUNT = 14
HEIGHTS = -30.0 + 2.5 * np.arange(COUNT)


def array(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def test_slices_are_stacked_by_position_whatever_their_names_and_numbers(tmp_path):
    order = np.random.default_rng(0).permutation(COUNT)
    hu = ramp(COUNT)
    notes: list[str] = []
    folder = write_series(tmp_path / "a", hu[order], HEIGHTS[order], InstanceNumber=[7] * COUNT)
    image = read_image(folder, notes=notes)
    np.testing.assert_array_equal(array(image), hu)
    assert image.GetOrigin() == pytest.approx((-5, 7, -30))
    assert image.GetSpacing() == pytest.approx((1.5, 2.0, 2.5))
    assert notes == []
    # as ITK reads the same files when it is given their order
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(folder / f"I{k:04d}.dcm") for k in np.argsort(order)])
    theirs = reader.Execute()
    np.testing.assert_array_equal(array(theirs), array(image))
    assert theirs.GetDirection() == image.GetDirection()


def test_each_slice_has_its_own_rescaling_and_bits_that_are_no_pixels_are_cut_off(tmp_path):
    hu = np.full((COUNT, 12, 10), -100.0)
    folder = write_series(tmp_path / "a", hu, HEIGHTS, RescaleSlope=[1 + k % 2 for k in range(COUNT)])
    path = folder / "I0000.dcm"
    overlaid = pydicom.dcmread(path)
    overlaid.PixelData = (np.frombuffer(overlaid.PixelData, np.uint16) | 0x4000).tobytes()
    overlaid.save_as(path)
    values = array(read_volume(folder))
    assert {int(v) for v in np.unique(values[::2])} == {-100}
    assert {int(v) for v in np.unique(values[1::2])} == {2 * 924 - 1024}
    folder = write_series(tmp_path / "b", ramp(COUNT), HEIGHTS, RescaleSlope=0.5)
    assert array(read_image(folder)).dtype == np.float32


def test_uneven_spacing_is_interpolated_with_a_note(tmp_path):
    heights = np.concatenate([np.arange(0, 20, 2.5), 17.5 + 3.6 * np.arange(1, 9)])
    # linear in height, so that linear interpolation is exact
    z, y, x = np.meshgrid(heights, np.arange(12), np.arange(10), indexing="ij")
    notes: list[str] = []
    image = read_image(write_series(tmp_path / "a", -900 + 20 * z + y + x, heights), notes=notes)
    assert len(notes) == 1
    assert "2.5 to 3.6 mm apart; they were interpolated to even 2.5 mm" in notes[0]
    expected = -900 + 20 * 2.5 * np.arange(image.GetSize()[2])
    np.testing.assert_allclose(array(image)[:, 0, 0], expected, atol=0.5)
    assert image.GetSpacing()[2] == pytest.approx(2.5)
    assert heights[-1] - 2.5 < 2.5 * (image.GetSize()[2] - 1) <= heights[-1]


def test_rounded_positions_are_even(tmp_path):
    notes: list[str] = []
    heights = [round(v, 1) for v in 0.625 * np.arange(COUNT)]
    image = read_image(write_series(tmp_path / "a", ramp(COUNT), heights), notes=notes)
    np.testing.assert_array_equal(array(image), ramp(COUNT))
    assert notes == []


@pytest.mark.parametrize(("gone", "about", "after"), [([5], 1, 4), ([5, 6], 2, 4), ([3, 9], 2, 2)])
def test_missing_slices_are_named_with_the_spacings(tmp_path, gone, about, after):
    folder = write_series(tmp_path / "a", ramp(COUNT), HEIGHTS)
    for k in gone:
        (folder / f"I{k:04d}.dcm").unlink()
    wide = 7.5 if gone == [5, 6] else 5
    with pytest.raises(
        InputError,
        match=rf"misses about {about} slice.*2\.5 mm apart, but {wide:g} mm after I{after:04d}\.dcm",
    ):
        read_image(folder)


def test_a_tilted_gantry_is_put_straight(tmp_path):
    """A tilted scan of a known function of the world: the straight volume shows the same function."""
    tilt = np.deg2rad(15)
    axis_y = np.array([0, np.cos(tilt), np.sin(tilt)])
    count, rows, columns = 20, 30, 10
    y, x = np.mgrid[:rows, :columns]
    planes, positions = [], []
    for k in range(count):
        position = np.array([-5.0, 7.0, 3.0 * k])
        world = position + x[..., None] * np.array([1.5, 0, 0]) + y[..., None] * 2.0 * axis_y
        planes.append(-800 + world @ np.array([2.0, 3.0, 4.0]))
        positions.append(tuple(position))
    notes: list[str] = []
    orientation = [1.0, 0.0, 0.0, *(round(float(v), 8) for v in axis_y)]
    folder = write_series(
        tmp_path / "a",
        np.array(planes),
        np.zeros(count),
        position=positions,
        ImageOrientationPatient=[orientation] * count,
    )
    image = read_image(folder, notes=notes)
    assert any("tilted gantry" in note for note in notes)
    values = array(image).astype(float)
    inside = values > -2000
    assert 0.6 < inside.mean() < 1
    index = np.argwhere(inside)[::7]
    world = np.array([image.TransformIndexToPhysicalPoint([int(v) for v in i[::-1]]) for i in index])
    np.testing.assert_allclose(values[tuple(index.T)], -800 + world @ np.array([2.0, 3.0, 4.0]), atol=1.5)


def test_slices_of_different_places_are_no_volume(tmp_path):
    positions = [(-5.0 + (20 if k in (4, 5) else 0), 7.0, 2.5 * k) for k in range(COUNT)]
    with pytest.raises(InputError, match="do not lie over one another"):
        read_image(write_series(tmp_path / "a", ramp(COUNT), HEIGHTS, position=positions))


def test_interleaved_phases_are_told_apart_and_can_be_chosen(tmp_path):
    folder = tmp_path / "a"
    write_series(folder, ramp(COUNT), 6.0 * np.arange(COUNT), SliceThickness=6, AcquisitionNumber=1)
    write_series(
        folder,
        ramp(COUNT, offset=50),
        3 + 6.0 * np.arange(COUNT),
        prefix="J",
        SliceThickness=6,
        AcquisitionNumber=2,
    )
    with pytest.raises(
        InputError, match=r"several volumes in one series, which AcquisitionNumber tells apart"
    ):
        read_image(folder)
    np.testing.assert_array_equal(array(read_image(folder, "AcquisitionNumber=2")), ramp(COUNT, offset=50))
    with pytest.raises(InputError, match="0 series that AcquisitionNumber=3 names; it has"):
        read_image(folder, "AcquisitionNumber=3")


@pytest.mark.parametrize(
    ("tag", "values", "typed"),
    [
        ("TriggerTime", (100, 600), ("TriggerTime=100", "triggertime=600.0")),
        ("SeriesDescription", ("Ausatmung Ä", "Einatmung ü"), ("Ausatmung Ä", "einatmung")),
        ("AcquisitionDateTime", ("20200101101010", "20200101101110"), (None, None)),
    ],
)
def test_a_phase_is_chosen_as_a_user_types_it(tmp_path, tag, values, typed):
    """A number without its decimals, a description of its own."""
    for k, (value, shift) in enumerate(zip(values, (0.0, 1.25))):
        own = {tag: value, "SpecificCharacterSet": "ISO_IR 192"}
        hu = ramp(COUNT, offset=100 * k)
        write_series(tmp_path, hu, np.add(HEIGHTS, shift), prefix=f"P{k}", start=1 + k, **own)
    with pytest.raises(InputError, match=f"which {tag} tells apart"):
        read_image(tmp_path)
    for k, (value, text) in enumerate(zip(values, typed)):
        found = read_image(tmp_path, text or f"{tag}={value}")
        np.testing.assert_array_equal(array(found), ramp(COUNT, offset=100 * k))


def test_interleaved_slices_of_one_scan_are_one_volume(tmp_path):
    """As thick as the gap between all of them: every second one alone would be half a scan."""
    even_and_odd = [1 + k % 2 for k in range(2 * COUNT)]
    folder = write_series(
        tmp_path / "a",
        ramp(2 * COUNT),
        3.0 * np.arange(2 * COUNT),
        SliceThickness=3,
        AcquisitionNumber=even_and_odd,
    )
    assert read_image(folder).GetSize()[2] == 2 * COUNT


@pytest.mark.parametrize("numbers", [lambda k: 1 + k // COUNT, lambda k: k])
def test_several_acquisition_numbers_alone_are_no_error(tmp_path, numbers):
    folder = write_series(
        tmp_path / "a",
        ramp(2 * COUNT),
        2.5 * np.arange(2 * COUNT),
        AcquisitionNumber=[numbers(k) for k in range(2 * COUNT)],
    )
    assert read_image(folder).GetSize()[2] == 2 * COUNT


def test_overlapping_acquisitions_are_offered_by_name(tmp_path):
    folder = tmp_path / "a"
    write_series(folder, ramp(COUNT), 2.5 * np.arange(COUNT), AcquisitionNumber=1)
    write_series(folder, ramp(COUNT, offset=9), 20 + 2.5 * np.arange(COUNT), prefix="J", AcquisitionNumber=2)
    with pytest.raises(InputError, match=r"AcquisitionNumber tells apart: 1 \(14 images\), 2 \(14 images\)"):
        read_image(folder)
    assert read_image(folder, "acquisitionnumber=2").GetOrigin()[2] == 20


def test_two_passes_without_any_tag_are_told_by_their_instance_numbers(tmp_path):
    folder = tmp_path / "a"
    write_series(folder, ramp(COUNT), HEIGHTS)
    write_series(folder, ramp(COUNT, offset=9), HEIGHTS, prefix="J", start=COUNT + 1)
    with pytest.raises(InputError, match=r"InstanceNumber tells apart: 1-14 \(14 images\), 15-28"):
        read_image(folder)
    np.testing.assert_array_equal(array(read_image(folder, "InstanceNumber=15-28")), ramp(COUNT, offset=9))


def test_a_stray_repeated_slice_with_its_own_acquisition_does_not_spoil_the_scan(tmp_path):
    folder = write_series(tmp_path / "a", ramp(COUNT), HEIGHTS, AcquisitionNumber=1)
    write_slice(folder / "test.dcm", ramp(1)[0], (-5, 7, HEIGHTS[3]), AcquisitionNumber=2)
    np.testing.assert_array_equal(array(read_image(folder)), ramp(COUNT))


def test_copies_scouts_other_views_and_other_kinds_of_file_do_not_matter(tmp_path):
    folder = write_series(tmp_path / "a", ramp(COUNT), HEIGHTS)
    (folder / "copy.dcm").write_bytes((folder / "I0003.dcm").read_bytes())
    write_slice(folder / "scout.dcm", ramp(1)[0], (0, 0, 0), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    across = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
    write_slice(folder / "coronal.dcm", ramp(1)[0], (0, 0, 0), **across)
    write_slice(folder / "small.dcm", ramp(1, 6, 5)[0], (0, 0, 0))
    write_slice(
        folder / "structures.dcm", ramp(1)[0], (0, 0, 0), Modality="RTSTRUCT", SeriesInstanceUID="1.9"
    )
    (folder / "readme.txt").write_text("hello")
    np.testing.assert_array_equal(array(read_image(folder)), ramp(COUNT))


def test_series_are_chosen_by_number_description_and_uid(tmp_path):
    folder = tmp_path / "a"
    for k in range(3):
        write_series(
            folder,
            ramp(COUNT, offset=k),
            HEIGHTS,
            prefix=f"S{k}",
            SeriesInstanceUID=f"1.2.3.{500 + k}",
            SeriesNumber=10 + k,
            SeriesDescription=f"Gated {k}0%",
        )
    with pytest.raises(InputError, match="several series of like size") as caught:
        read_image(folder, option="--fixed-series")
    for k in range(3):
        assert f'{10 + k} "Gated {k}0%" ({COUNT} slices, UID' in str(caught.value)
    for wanted in ("11", "Gated 10%", "gated 1", "1.2.3.501", ".501"):
        np.testing.assert_array_equal(array(read_image(folder, wanted)), ramp(COUNT, offset=1))
    with pytest.raises(InputError, match="3 series that gated names; they are"):
        read_image(folder, "gated")


def test_the_list_of_a_tree_tells_number_description_slices_spacing_and_phase(capsys, tmp_path):
    write_series(
        tmp_path / "t" / "one", ramp(COUNT), HEIGHTS, SeriesNumber=4, SeriesDescription="Chest 2.5 [B30f]"
    )
    for k in (1, 2):
        write_series(
            tmp_path / "t" / "two",
            ramp(COUNT, offset=k),
            HEIGHTS,
            prefix=f"P{k}",
            TemporalPositionIdentifier=k,
            SeriesNumber=5,
        )
    (tmp_path / "t" / "two" / "I0001.dcm").write_bytes(bytes(128) + b"DICM")
    code, out, err = run(capsys, "dicom", tmp_path / "t")
    assert (code, err) == (0, "")
    assert "Chest 2.5 [B30f]" in out
    code, out, _ = run(capsys, "dicom", tmp_path / "t", "--json")
    listed = json.loads(out)
    assert [row["number"] for row in listed["volumes"]] == [4, 5, 5]
    assert listed["volumes"][0]["spacing_mm"] == [1.5, 2.0, 2.5]
    assert [row["phase"] for row in listed["volumes"]][1:] == [
        f"TemporalPositionIdentifier={k}" for k in (1, 2)
    ]
    assert "I0001.dcm" in listed["notes"][0]
    assert run(capsys, "dicom", tmp_path / "nothing")[0] == 3


@pytest.mark.parametrize("order", ["reversed", "odd then even", "halves swapped"])
def test_frames_of_an_enhanced_ct_are_stacked_by_position(tmp_path, order):
    k = np.arange(COUNT)
    order = {
        "reversed": k[::-1],
        "odd then even": np.r_[k[1::2], k[::2]],
        "halves swapped": np.r_[k[7:], k[:7]],
    }[order]
    path = write_enhanced(tmp_path / "ct" / "one.dcm", ramp(COUNT)[order], list(HEIGHTS[order]))
    for place in (path, path.parent):
        image = read_image(place)
        np.testing.assert_array_equal(array(image), ramp(COUNT))
        assert image.GetSpacing() == pytest.approx((1.5, 2.0, 2.5))
        assert image.GetOrigin() == pytest.approx((-5, 7, -30))


def test_phases_in_an_enhanced_ct_are_told_apart(tmp_path):
    hu = np.concatenate([ramp(COUNT), ramp(COUNT, offset=40)])
    path = write_enhanced(tmp_path / "one.dcm", hu, [*HEIGHTS, *HEIGHTS], temporal=[1] * COUNT + [2] * COUNT)
    with pytest.raises(InputError, match="TemporalPositionIndex tells apart"):
        read_image(path)
    np.testing.assert_array_equal(array(read_image(path, "TemporalPositionIndex=2")), hu[COUNT:])


def test_a_multi_frame_file_without_positions_is_refused(tmp_path):
    path = write_enhanced(tmp_path / "one.dcm", ramp(COUNT), list(HEIGHTS))
    dataset = pydicom.dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence
    dataset.save_as(path)
    with pytest.raises(InputError, match="does not say where its 14 frames lie"):
        read_image(path)


def test_a_single_slice_asks_for_the_folder_and_other_objects_are_named(tmp_path):
    write_slice(tmp_path / "one.dcm", ramp(1)[0], (0, 0, 0))
    with pytest.raises(InputError, match="for DICOM, give the folder"):
        read_image(tmp_path / "one.dcm")
    write_slice(tmp_path / "plan.dcm", ramp(1)[0], (0, 0, 0), Modality="RTPLAN")
    with pytest.raises(InputError, match="of the kind RTPLAN"):
        read_image(tmp_path / "plan.dcm")


def test_files_without_a_preamble_and_compressed_ones_are_read(tmp_path):
    folder = write_series(tmp_path / "a", ramp(COUNT), HEIGHTS)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[132:])  # as old archives have them: no mark, meta group first
    np.testing.assert_array_equal(array(read_image(folder)), ramp(COUNT))
    folder = write_series(tmp_path / "b", ramp(COUNT), HEIGHTS)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(pydicom.uid.RLELossless)
        dataset.save_as(path)
    np.testing.assert_array_equal(array(read_image(folder)), ramp(COUNT))


def test_a_slice_cut_off_is_named(tmp_path):
    folder = write_series(tmp_path / "a", ramp(COUNT), HEIGHTS)
    whole = (folder / "I0005.dcm").read_bytes()
    (folder / "I0005.dcm").write_bytes(whole[: len(whole) - 50])
    with pytest.raises(InputError, match=r"I0005\.dcm cannot be read as DICOM: it is damaged or cut off"):
        read_image(folder)
