"""Suggested landmarks on a made-up chest whose motion is known exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.landmarks import read_landmarks
from ProgressiveRegistrationLib.phantom.pair import breathing_thorax
from ProgressiveRegistrationLib.suggest import find_partners, suggest_landmarks
from scipy import ndimage
from scipy.spatial import cKDTree
from small_pair import run


@pytest.fixture(scope="module")
def pair():
    return breathing_thorax(seed=4)


@pytest.fixture(scope="module")
def suggested(pair):
    return suggest_landmarks(pair.fixed, pair.fixed_lungs, 40)


def test_points_lie_in_the_lungs_away_from_the_pleura_and_from_each_other(pair, suggested):
    assert len(suggested) == 40
    assert suggested.labels == [f"S{n + 1}" for n in range(40)]
    grid = Grid.from_image(pair.fixed_lungs)
    inside = sitk.GetArrayViewFromImage(pair.fixed_lungs) > 0
    depth = ndimage.distance_transform_edt(inside, sampling=grid.spacing[::-1])
    index = np.rint(grid.world_to_index(suggested.points)).astype(int)
    assert min(depth[tuple(i[::-1])] for i in index) > 3
    assert cKDTree(suggested.points).query(suggested.points, 2)[0][:, 1].min() > 15


def test_points_are_spread_over_both_lungs_and_all_heights(pair, suggested):
    grid = Grid.from_image(pair.fixed_lungs)
    lung = grid.index_to_world(np.argwhere(sitk.GetArrayViewFromImage(pair.fixed_lungs) > 0)[:, ::-1])
    left = (suggested.points[:, 0] > np.median(lung[:, 0])).mean()
    assert 0.3 < left < 0.7
    thirds = np.quantile(lung[:, 2], (1 / 3, 2 / 3))
    shares = np.bincount(np.searchsorted(thirds, suggested.points[:, 2]), minlength=3) / 40
    assert shares.min() > 0.15


def test_points_are_more_distinct_than_chance(pair, suggested):
    """Independent of the measure: shifted in any direction, the image differs most at distinct points."""
    values = sitk.GetArrayFromImage(pair.fixed).clip(-1000, -100).astype(float)
    grid = Grid.from_image(pair.fixed)
    change = np.min([np.abs(values - np.roll(values, 1, axis)) for axis in range(3)], axis=0)
    change = ndimage.uniform_filter(change, 3)
    index = np.rint(grid.world_to_index(suggested.points)).astype(int)
    here = [change[tuple(i[::-1])] for i in index]
    lung = change[sitk.GetArrayViewFromImage(pair.fixed_lungs) > 0]
    assert np.median(here) > 2 * np.median(lung)


@pytest.mark.parametrize("error_mm", [0.0, 5.0])
def test_partners_are_found_where_the_truth_has_them_whatever_the_transform_errs(pair, suggested, error_mm):
    truth = pair.motion.lung(suggested.points)
    direction = np.random.default_rng(0).normal(size=truth.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    partners = find_partners(pair.fixed, pair.moving, suggested.points, truth + error_mm * direction)
    assert partners.matched.mean() > 0.9
    errors = np.linalg.norm(partners.points - truth, axis=1)[partners.matched]
    assert np.median(errors) < 0.8  # the images have voxels of 1.8 x 1.8 x 2.5 mm
    assert np.mean(errors < 2.5) > 0.95


def test_where_there_is_no_clear_match_the_prediction_is_kept_and_said(pair, suggested):
    noise = Grid.from_image(pair.moving).image(
        np.random.default_rng(1).normal(-700, 200, Grid.from_image(pair.moving).shape).astype(np.float32)
    )
    partners = find_partners(pair.fixed, noise, suggested.points, suggested.points)
    assert not partners.matched.any()
    np.testing.assert_array_equal(partners.points, suggested.points)
    far = find_partners(pair.fixed, pair.moving, suggested.points[:1], suggested.points[:1] + 5000)
    assert not far.matched.any()
    assert np.isnan(far.correlation).all()


def test_density_change_does_not_disturb_the_match(pair, suggested):
    """The same chest with half of the contrast between lung and vessels; nothing moved."""
    faint = sitk.Cast(pair.fixed, sitk.sitkFloat32) * 0.5 - 300
    partners = find_partners(pair.fixed, faint, suggested.points, suggested.points + np.array([3.0, 0, 0]))
    errors = np.linalg.norm(partners.points - suggested.points, axis=1)[partners.matched]
    assert partners.matched.mean() > 0.9
    assert np.median(errors) < 0.6


def test_bad_requests_get_a_sentence(pair):
    with pytest.raises(InputError, match="at least 1"):
        suggest_landmarks(pair.fixed, pair.fixed_lungs, 0)
    with pytest.raises(InputError, match="lung region is empty"):
        suggest_landmarks(pair.fixed, pair.fixed_lungs * 0)


def test_command_writes_both_lists_and_says_what_was_only_predicted(pair, tmp_path, capsys):
    sitk.WriteImage(pair.fixed, str(tmp_path / "fixed.nrrd"))
    sitk.WriteImage(pair.moving, str(tmp_path / "moving.nrrd"))
    pair.field.write(tmp_path / "truth.nrrd")
    code, out, _ = run(
        capsys,
        "suggest",
        tmp_path / "fixed.nrrd",
        "-o",
        tmp_path / "f.mrk.json",
        "--count",
        12,
        "--moving",
        tmp_path / "moving.nrrd",
        "--transform",
        tmp_path / "truth.nrrd",
        "--moving-output",
        tmp_path / "m.mrk.json",
    )
    assert code == 0
    assert "12 landmarks in" in out
    assert "only predicted" in out
    fixed, moving = read_landmarks(tmp_path / "f.mrk.json"), read_landmarks(tmp_path / "m.mrk.json")
    assert fixed.labels == moving.labels
    errors = np.linalg.norm(pair.field.warp_points(fixed.points) - moving.points, axis=1)
    assert np.median(errors) < 0.8
    measured = json.loads((tmp_path / "m.mrk.json").read_text())["markups"][0]["measurements"][0]
    assert measured["name"] == "match"
    assert len(measured["controlPointValues"]) == 12
    code, _, err = run(
        capsys,
        "suggest",
        tmp_path / "fixed.nrrd",
        "-o",
        tmp_path / "x.csv",
        "--moving",
        tmp_path / "moving.nrrd",
    )
    assert code == 3
    assert "Partners need both" in err
    assert not (tmp_path / "x.csv").exists()
