"""What the network sees, against SciPy and SimpleITK."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
from ProgressiveRegistrationLib.geometry import Box, Grid
from ProgressiveRegistrationLib.network.input import gradient_magnitude, network_input, sample_on_grid
from scipy import ndimage


def ramp_image(direction=None) -> tuple[sitk.Image, np.ndarray]:
    """HU that rises linearly along a world direction: sampling it is exact wherever the image lies."""
    image = sitk.Image([40, 36, 30], sitk.sitkInt16)
    image.SetSpacing((1.1, 1.3, 2.0))
    image.SetOrigin((-20.0, -25.0, -330.0))
    if direction is not None:
        image.SetDirection(direction)
    slope = np.array([3.0, -2.0, 4.0])
    return Grid.from_image(image).image((Grid.from_image(image).points() @ slope).astype(np.float32)), slope


def test_gradient_magnitude_is_scipys_gaussian_gradient_magnitude():
    values = np.random.default_rng(1).random((18, 19, 20), np.float32)
    ours = gradient_magnitude(torch.from_numpy(values)[None, None], 1.0)[0, 0].numpy()
    theirs = ndimage.gaussian_gradient_magnitude(values, 1.0, mode="nearest")
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_ramp_has_its_slope_as_gradient_magnitude_at_the_papers_sigma():
    z, y, x = np.mgrid[:12, :12, :12].astype(np.float32)
    ramp = torch.from_numpy(0.03 * x - 0.04 * y + 0.12 * z)[None, None]
    inner = gradient_magnitude(ramp, 0.5)[0, 0, 3:-3, 3:-3, 3:-3].numpy()
    np.testing.assert_allclose(inner, 0.13, rtol=1e-4)


def test_sampling_is_exact_on_a_ramp_also_from_an_oblique_image():
    turn = sitk.Euler3DTransform((0, 0, 0), 0.2, 0.1, -0.3).GetMatrix()
    for direction in (None, turn):
        image, slope = ramp_image(direction)
        middle = Grid.from_image(image).index_to_world([20, 18, 15])
        grid = Box(middle - 8, middle + 8).grid(16)
        np.testing.assert_allclose(sample_on_grid(image, grid), grid.points() @ slope, atol=0.02)


def test_a_grid_coarser_than_the_image_takes_averages_and_shifts_nothing():
    image, slope = ramp_image()
    middle = Grid.from_image(image).index_to_world([20, 18, 15])
    grid = Box(middle - 15, middle + 15).grid(6)
    np.testing.assert_allclose(sample_on_grid(image, grid), grid.points() @ slope, atol=0.02)


def test_beyond_the_image_its_border_continues_and_makes_no_edge():
    image = sitk.Image([20, 20, 20], sitk.sitkInt16) - 500
    grid = Box((-30.0, -30.0, -30.0), (50.0, 50.0, 50.0)).grid(32)
    assert float(network_input(image, grid).abs().max()) < 1e-5


def test_what_lies_beyond_the_window_has_no_edges():
    """Padding below -1000 HU, contrast agent and bone above -100 HU."""
    for low, high in ((-3000, -1001), (-99, 3000)):
        values = np.random.default_rng(4).integers(low, high, (20, 20, 20)).astype(np.int16)
        grid = Box((2.0, 2.0, 2.0), (18.0, 18.0, 18.0)).grid(16)
        assert float(network_input(sitk.GetImageFromArray(values), grid).abs().max()) < 1e-6
