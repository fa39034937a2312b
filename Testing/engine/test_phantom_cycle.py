"""The breathing thorax through a whole breath: exact from any phase to any other."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import SimpleITK as sitk
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.landmarks import read_landmarks
from ProgressiveRegistrationLib.phantom.cycle import ThoraxCycle, breathing_cycle, write_cycle
from ProgressiveRegistrationLib.phantom.pair import breathing_thorax

SMALL = {"size": (84, 64, 72), "spacing": (4.0, 4.0, 4.2), "tips": 1500, "landmarks": 100}


@pytest.fixture(scope="module")
def cycle() -> ThoraxCycle:
    return breathing_cycle(3, phases=6, hysteresis=0.05, **SMALL)


def litres(mask: sitk.Image) -> float:
    return sitk.GetArrayViewFromImage(mask).sum() * np.prod(mask.GetSpacing()) / 1e6


def test_full_inhale_and_full_exhale_are_those_of_the_pair():
    pair = breathing_thorax(3, **SMALL)
    cycle = breathing_cycle(3, phases=2, **SMALL)
    assert cycle.names == ("phase00", "phase50")
    assert cycle.exhale == 1
    for (image, lungs), (wanted, wanted_lungs) in zip(
        zip(cycle.images, cycle.lungs), ((pair.inhale, pair.inhale_lungs), (pair.exhale, pair.exhale_lungs))
    ):
        assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(wanted))
        assert np.array_equal(sitk.GetArrayFromImage(lungs), sitk.GetArrayFromImage(wanted_lungs))
    assert np.allclose(cycle.landmarks[1].points, pair.fixed_landmarks.points)


def test_lungs_empty_towards_the_middle_of_the_breath_and_fill_again(cycle):
    volumes = [litres(mask) for mask in cycle.lungs]
    assert cycle.exhale == 3
    assert volumes[0] > volumes[1] > volumes[2] > volumes[3] < volumes[4] < volumes[5] < volumes[0]


def test_landmarks_of_every_two_phases_belong_together(cycle):
    for first, second in ((3, 0), (1, 4), (5, 2)):
        start, end = cycle.landmarks[first].points, cycle.landmarks[second].points
        assert np.linalg.norm(cycle.map_points(start, first, second) - end, axis=1).max() < 1e-3
    field = cycle.field(3, 1)
    moved = field.warp_points(cycle.landmarks[3].points)
    assert np.linalg.norm(moved - cycle.landmarks[1].points, axis=1).max() < 0.05


def test_volume_change_is_the_derivative_of_the_map(cycle):
    x, step = cycle.landmarks[1].points[:30], 0.05
    columns = [
        (cycle.map_points(x + step * e, 1, 4) - cycle.map_points(x - step * e, 1, 4)) / (2 * step)
        for e in np.eye(3)
    ]
    wanted = np.linalg.det(np.stack(columns, -1))
    assert cycle.jacobian_determinant(x, 1, 4) == pytest.approx(wanted, abs=1e-3)
    assert np.abs(wanted - 1).max() > 0.02


def test_hysteresis_makes_the_way_back_another_one(cycle):
    there, back = cycle.landmarks[2].points, cycle.landmarks[4].points  # alike but for the hysteresis
    assert np.linalg.norm(there - back, axis=1).mean() > 0.3
    plain = breathing_cycle(3, phases=6, **SMALL)
    assert np.linalg.norm(plain.landmarks[2].points - plain.landmarks[4].points, axis=1).max() < 1e-3


def test_written_files_hold_what_the_phases_are(cycle, tmp_path):
    paths = write_cycle(cycle, tmp_path / "chest")
    assert all(path.is_file() for path in paths)
    with open(tmp_path / "chest" / "phases.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["id"] for row in rows] == list(cycle.names)
    for row, points, image in zip(rows, cycle.landmarks, cycle.images):
        assert read_landmarks(tmp_path / "chest" / row["landmarks"]).points == pytest.approx(
            points.points, abs=1e-6
        )
        read = sitk.ReadImage(str(tmp_path / "chest" / row["image"]))
        assert np.array_equal(sitk.GetArrayViewFromImage(read), sitk.GetArrayViewFromImage(image))
    true = DisplacementField.read(tmp_path / "chest" / "true_field_phase00.nrrd")
    moved = true.warp_points(cycle.landmarks[3].points)
    assert np.linalg.norm(moved - cycle.landmarks[0].points, axis=1).max() < 0.05


@pytest.mark.parametrize(
    ("options", "words"),
    [({"phases": 1}, "2 to 20 phases"), ({"phases": 4, "hysteresis": 0.4}, "hysteresis")],
)
def test_what_no_breath_can_be_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        breathing_cycle(0, **options, **SMALL)
