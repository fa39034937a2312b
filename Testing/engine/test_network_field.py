"""The network's field: smoothed, and carried on around the lungs, where training says nothing about it."""

import numpy as np
import pytest
import SimpleITK as sitk
from ProgressiveRegistrationLib.constants import NETWORK_FADE_MM as FADE_MM
from ProgressiveRegistrationLib.constants import NETWORK_SMOOTH_MM as SMOOTH_MM
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.network.field import extended_from, smoothed_field
from scipy import ndimage

SPACING = (2.0, 2.5, 3.0)
GONE_MM = FADE_MM + 4 * max(SPACING)
SHAPE = (56, 64, 71)
GRID = Grid(SHAPE[::-1], SPACING, (5.0, -7.0, 11.0))


def lungs() -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[12:26, 16:34, 10:22] = mask[12:26, 16:34, 30:42] = True
    return mask


def distance() -> np.ndarray:
    return ndimage.distance_transform_edt(~lungs(), sampling=SPACING[::-1])


def smooth_field() -> np.ndarray:
    z, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in SHAPE), indexing="ij")
    return np.stack([np.sin(3 * z + x), 2 * np.cos(2 * y), 4 * z * z]).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_smoothing_damps_waves_as_a_gaussian_of_that_many_millimetres_does(axis):
    """Analytic: a wave of length l loses the factor exp(-(2 pi sigma / l)^2 / 2)."""
    length = 40.0
    at = np.arange(SHAPE[2 - axis]) * SPACING[axis]
    wave = np.cos(2 * np.pi * at / length).reshape([-1 if k == 2 - axis else 1 for k in range(3)])
    u = np.broadcast_to(wave, (3, *SHAPE)).astype(np.float32)
    inner = (slice(None), *(slice(8, -8) for _ in range(3)))
    factor = np.exp(-0.5 * (2 * np.pi * SMOOTH_MM / length) ** 2)
    np.testing.assert_allclose(smoothed_field(u, GRID)[inner], factor * u[inner], atol=0.01)


def test_smoothing_onto_another_lattice_is_smoothing_and_then_interpolating():
    u = np.random.default_rng(4).normal(size=(3, *SHAPE)).astype(np.float32)
    lattice = Grid((40, 45, 50), (2.5, 2.5, 2.5), (15.0, 8.0, 20.0))
    fine = Grid(tuple(4 * n for n in GRID.size), tuple(s / 4 for s in SPACING), GRID.origin)
    image = fine.image(np.moveaxis(smoothed_field(u, GRID, fine), 0, -1))  # as good as continuous
    wanted = sitk.GetArrayFromImage(lattice.resample(image))
    np.testing.assert_allclose(np.moveaxis(smoothed_field(u, GRID, lattice), 0, -1), wanted, atol=5e-3)


def test_smoothing_leaves_a_linear_field_alone_away_from_the_border():
    z, y, x = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    u = np.stack([0.1 * x, 0.2 * y - z, 0.3 * z]).astype(np.float32)
    inner = (slice(None), *(slice(8, -8) for _ in range(3)))
    np.testing.assert_allclose(smoothed_field(u, GRID)[inner], u[inner], atol=1e-3)


def test_the_field_stays_as_it_is_in_the_lungs():
    u = smooth_field()
    np.testing.assert_allclose(extended_from(lungs(), u, SPACING)[:, lungs()], u[:, lungs()], atol=1e-3)


def test_a_constant_field_is_carried_on_everywhere():
    u = np.broadcast_to(np.array([1.0, -2.0, 3.0], np.float32)[:, None, None, None], (3, *SHAPE))
    np.testing.assert_allclose(extended_from(lungs(), u, SPACING), u, atol=1e-5)


def test_what_the_network_says_far_from_the_lungs_does_not_count():
    u, rng = smooth_field(), np.random.default_rng(5)
    far = distance() > GONE_MM
    assert far.mean() > 0.1
    wild = np.where(far, rng.normal(0, 50, u.shape), u).astype(np.float32)
    np.testing.assert_array_equal(extended_from(lungs(), wild, SPACING), extended_from(lungs(), u, SPACING))


def test_a_checkerboard_in_the_air_does_not_fold():
    i = np.indices(SHAPE).sum(0) % 2
    u = smooth_field() + np.where(distance() > GONE_MM, 40.0 * i, 0).astype(np.float32)

    def least_determinant(voxels: np.ndarray) -> float:
        image = Grid(SHAPE[::-1], (1, 1, 1), (0, 0, 0)).image(np.moveaxis(voxels, 0, -1).astype(np.float64))
        return float(
            sitk.GetArrayViewFromImage(sitk.DisplacementFieldJacobianDeterminant(image))[
                1:-1, 1:-1, 1:-1
            ].min()
        )

    assert least_determinant(u) < -1
    assert least_determinant(extended_from(lungs(), u, SPACING)) > 0.3


def test_values_stay_within_those_of_the_lungs_surroundings():
    u = smooth_field()
    near = u[:, distance() < GONE_MM]
    out = extended_from(lungs(), u, SPACING)
    for axis in range(3):
        assert near[axis].min() - 1e-4 <= out[axis].min()
        assert out[axis].max() <= near[axis].max() + 1e-4


def test_without_lungs_in_the_box_nothing_changes():
    u = smooth_field()
    np.testing.assert_array_equal(extended_from(np.zeros(SHAPE, bool), u, SPACING), u)
