"""Ventilation where it is known: a lung that grows evenly, and the breathing thorax."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Affine, Grid
from ProgressiveRegistrationLib.phantom.pair import breathing_thorax
from ProgressiveRegistrationLib.ventilation import ventilation
from ProgressiveRegistrationLib.zones import NAMES, lung_zones

GRID = Grid((80, 60, 60), (4.0, 4.0, 4.0), (-158.0, -118.0, -118.0))


def lungs(scale: float = 1.0) -> np.ndarray:
    x, y, z = np.moveaxis(GRID.points() / scale, -1, 0)
    return sum((((x - s * 60) / 40) ** 2 + (y / 60) ** 2 + (z / 80) ** 2 < 1) for s in (-1, 1)).astype(bool)


def chest(scale: float, hu: float) -> sitk.Image:
    return GRID.image(np.where(lungs(scale), hu, 40.0).astype(np.float32))


def test_even_growth_gives_its_volume_change_and_its_change_of_air():
    scale = 1.1
    inhale_hu = 300 / scale**3 - 1000  # the same mass in more room
    field = DisplacementField.from_affine(GRID, Affine(np.eye(3) * scale, np.zeros(3)))
    mask = GRID.image(lungs().astype(np.uint8))
    found = ventilation(chest(1, -700), chest(scale, inhale_hu), field, mask)
    deep = found.grid.sample(sitk.SignedMaurerDistanceMap(mask, True, False, True)) > 12
    assert found.jacobian[deep] == pytest.approx(scale**3 - 1, abs=1e-3)
    assert found.hu[deep] == pytest.approx((scale**3 - 1) / 0.7, abs=0.02)
    assert found.figures["mass_factor"] == pytest.approx(1, abs=0.03)
    assert found.figures["lungs"]["jacobian"]["defect_percent"] == 0
    assert set(found.figures["zones"]) == {NAMES[key] for key in range(1, 7)}
    # blood that comes with the breath: a tenth more mass is corrected for
    heavier = chest(scale, 1.1 * 300 / scale**3 - 1000)
    corrected = ventilation(chest(1, -700), heavier, field, mask)
    assert corrected.hu[deep] == pytest.approx((scale**3 - 1) / 0.7, abs=0.03)
    plain = ventilation(chest(1, -700), heavier, field, mask, mass_correction=False)
    assert plain.hu[deep].mean() < 0.8 * corrected.hu[deep].mean()


def test_way_over_a_third_image_is_the_same_ventilation():
    mask = GRID.image(lungs().astype(np.uint8))
    empty, full = (
        DisplacementField.from_affine(GRID, Affine(np.eye(3) * s, np.zeros(3))) for s in (0.95, 1.1)
    )
    found = ventilation(chest(0.95, -700), chest(1.1, -800), full, mask, to_exhale=empty)
    assert np.nanmedian(found.jacobian) == pytest.approx((1.1 / 0.95) ** 3 - 1, abs=2e-3)


def test_part_that_does_not_grow_is_a_defect_of_its_zone():
    mask = GRID.image(lungs().astype(np.uint8))
    points = GRID.points().astype(float)
    u = 0.1 * points * (points[..., 2:] > 30)  # only the upper part of the lungs grows, outwards
    u[..., 2] = 0.1 * np.maximum(points[..., 2] - 30, 0)
    found = ventilation(chest(1, -700), chest(1, -700), DisplacementField(GRID, u), mask)
    assert "do not agree" in " ".join(found.figures["notes"])  # the HU know of no such growth
    zones = found.figures["zones"]
    assert zones["right upper"]["jacobian"]["mean"] > 0.2
    assert zones["right lower"]["jacobian"]["mean"] == pytest.approx(0, abs=1e-3)
    assert zones["left lower"]["jacobian"]["defect_percent"] in (None, 100)


def test_breathing_thorax_is_found_again_by_its_true_field():
    pair = breathing_thorax(4, size=(96, 80, 80), spacing=(3.5, 3.5, 4.0), tips=2000, landmarks=50, noise=8.0)
    found = ventilation(pair.exhale, pair.inhale, pair.field, pair.exhale_lungs, jacobian_smoothing_mm=0)
    inside = found.grid.sample(sitk.SignedMaurerDistanceMap(pair.exhale_lungs, True, False, True)) > 9
    true = pair.motion.jacobian_determinant(found.grid.points()[inside].astype(float)) - 1
    assert np.abs(found.jacobian[inside] - true).mean() < 0.01
    known = np.isfinite(found.hu[inside])
    assert known.mean() > 0.9
    assert np.corrcoef(found.hu[inside][known], true[known])[0, 1] > 0.8


def test_maps_are_smoothed_by_two_voxels_where_these_are_large():
    mask = GRID.image(lungs().astype(np.uint8))
    field = DisplacementField.from_affine(GRID, Affine(np.eye(3) * 1.1, np.zeros(3)))
    coarse = GRID.with_spacing(6.0)
    for grid, wanted in ((GRID, 8.0), (coarse, 12.0)):
        images = [grid.resample(chest(scale, hu)) for scale, hu in ((1.0, -700), (1.1, -775))]
        figures = ventilation(*images, field, mask).figures
        assert figures["smoothing_mm"] == figures["jacobian_smoothing_mm"] == pytest.approx(wanted, rel=0.02)


def test_rim_and_airway_do_not_leak_into_the_lungs():
    """The same mass in more room everywhere; an airway through it, and the body around it."""
    scale = 1.1
    field = DisplacementField.from_affine(GRID, Affine(np.eye(3) * scale, np.zeros(3)))
    mask = GRID.image(lungs().astype(np.uint8))

    def image(s: float, hu: float) -> sitk.Image:
        x, y, _ = np.moveaxis(GRID.points() / s, -1, 0)
        values = sitk.GetArrayFromImage(chest(s, hu))
        values[np.hypot(x + 60, y) < 13] = -1000
        return GRID.image(values)

    found = ventilation(image(1, -700), image(scale, 300 / scale**3 - 1000), field, mask)
    x, y, _ = np.moveaxis(found.grid.points(), -1, 0)
    assert np.isnan(found.hu[(np.hypot(x + 60, y) < 6) & (np.abs(found.grid.points()[..., 2]) < 60)]).all()
    known = np.isfinite(found.hu) & (np.hypot(x + 60, y) > 20)
    assert np.abs(found.hu[known] - (scale**3 - 1) / 0.7).mean() < 0.02


def test_shallow_and_reversed_breaths_are_told():
    mask = GRID.image(lungs().astype(np.uint8))

    def notes(scale: float) -> str:
        field = DisplacementField.from_affine(GRID, Affine(np.eye(3) * scale, np.zeros(3)))
        image = chest(scale, 300 / scale**3 - 1000)
        return " ".join(ventilation(chest(1, -700), image, field, mask).figures["notes"])

    assert "shallow" in notes(1.005)
    assert "wrong way round" in notes(0.9)
    assert notes(1.1) == ""


@pytest.mark.parametrize("joined", [False, True])
def test_zones_are_right_and_left_in_three_heights(joined):
    values = lungs()
    if joined:
        values |= (np.abs(GRID.points()[..., 0]) < 30) & (np.abs(GRID.points()[..., 1:]).max(-1) < 5)
    zones = lung_zones(GRID.image(values.astype(np.uint8)))
    x, _, z = np.moveaxis(GRID.points(), -1, 0)
    assert set(np.unique(zones)) == {0, 1, 2, 3, 4, 5, 6}
    assert x[(zones > 0) & (zones < 4)].max() <= x[zones > 3].min()
    for first in (1, 4):  # upper lies above middle above lower: towards the head, LPS z grows
        assert z[zones == first].min() > z[zones == first + 1].max() > z[zones == first + 2].max()


def test_side_of_a_single_lung_is_told_only_where_the_image_shows_it():
    """A crop around one lung (as of ``elastix_lung``, a right one) was once said to be a left lung."""
    x = GRID.points()[..., 0]
    right = GRID.image((lungs() & (x < 0)).astype(np.uint8))
    middle = float(x[lungs() & (x < 0)].mean())
    assert set(np.unique(lung_zones(right))) == {0, 1, 2, 3}
    assert set(np.unique(lung_zones(right, middle + 6))) == {0, 7, 8, 9}
    assert set(np.unique(lung_zones(right, middle - 6))) == {0, 7, 8, 9}
    assert set(np.unique(lung_zones(right, middle - 60))) == {0, 4, 5, 6}
    assert [NAMES[key] for key in (7, 8, 9)] == ["upper", "middle", "lower"]
