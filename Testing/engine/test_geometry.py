"""Grids, boxes and affine maps against SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.geometry import Affine, Box, Grid


def oblique_image() -> sitk.Image:
    image = sitk.Image([11, 7, 5], sitk.sitkInt16)
    image.SetSpacing((0.7, 1.3, 2.5))
    image.SetOrigin((-30.0, 12.5, -400.0))
    rotation = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.3, 0.5)
    image.SetDirection(rotation.GetMatrix())
    return image


def test_index_to_world_is_itks():
    image = oblique_image()
    grid = Grid.from_image(image)
    rng = np.random.default_rng(1)
    for index in rng.uniform(-3, 12, (20, 3)):
        expected = image.TransformContinuousIndexToPhysicalPoint(index.tolist())
        np.testing.assert_allclose(grid.index_to_world(index), expected, atol=1e-9)
        np.testing.assert_allclose(grid.world_to_index(expected), index, atol=1e-9)


def test_points_are_the_voxel_centres_of_an_array_in_z_y_x():
    image = oblique_image()
    points = Grid.from_image(image).points()
    assert points.shape == (5, 7, 11, 3)
    np.testing.assert_allclose(points[4, 2, 9], image.TransformIndexToPhysicalPoint((9, 2, 4)), atol=1e-4)


def test_resampling_onto_an_images_own_grid_changes_nothing():
    image = oblique_image()
    values = np.random.default_rng(2).integers(-1000, 1000, (5, 7, 11)).astype(np.int16)
    filled = Grid.from_image(image).image(values)
    again = sitk.GetArrayFromImage(Grid.from_image(image).resample(filled))
    inner = (
        slice(1, -1),
    ) * 3  # ITK takes some outermost centres of an oblique grid for outside, by rounding
    np.testing.assert_allclose(again[inner], values[inner], atol=1)  # ITK cuts fractions off


def test_another_spacing_keeps_the_outer_faces():
    grid = Grid.from_image(oblique_image())
    finer = grid.with_spacing(np.asarray(grid.spacing) / 2)
    np.testing.assert_allclose(np.sort(finer.corners(), 0), np.sort(grid.corners(), 0), atol=1e-6)


def test_a_boxs_grid_is_cell_centred_so_that_pooling_shifts_nothing():
    box = Box((-10.0, 0.0, 5.0), (30.0, 50.0, 105.0))
    fine, coarse = box.grid(128).points(), box.grid(64).points()
    pooled = fine.reshape(64, 2, 64, 2, 64, 2, 3).mean((1, 3, 5))
    np.testing.assert_allclose(pooled, coarse, atol=1e-4)


def test_affine_between_boxes_carries_corners_and_inverts():
    fixed, moving = Box((0, 0, 0), (10, 20, 30)), Box((-5, 7, 100), (9, 29, 133))
    affine = Affine.between_boxes(fixed, moving)
    np.testing.assert_allclose(affine(np.array([[10.0, 20, 30]])), [[9, 29, 133]])
    x = np.random.default_rng(3).normal(size=(10, 3)) * 50
    np.testing.assert_allclose(affine.inverse()(affine(x)), x, atol=1e-9)
    np.testing.assert_allclose(affine.to_transform().TransformPoint(x[0]), affine(x[0]), atol=1e-9)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Grid((0, 4, 4), (1, 1, 1), (0, 0, 0)), "sizes of at least 1"),
        (lambda: Grid((4, 4, 4), (1, 0, 1), (0, 0, 0)), "spacing must be positive"),
        (lambda: Grid((4, 4, 4), (1, float("nan"), 1), (0, 0, 0)), "spacing must be positive"),
        (lambda: Box((0, 0, 0), (1, 0, 1)), "must lie above"),
        (lambda: Box((0, 0, float("inf")), (1, 1, 1)), "finite"),
        (lambda: Grid.from_image(sitk.Image([4, 4], sitk.sitkInt16)), "2 dimensions"),
    ],
)
def test_impossible_grids_and_boxes_are_refused(build, sentence):
    with pytest.raises(InputError, match=sentence):
        build()


FLIPS = [(1, 1, 1), (-1, -1, 1), (1, -1, -1)]


@pytest.mark.parametrize("flips", FLIPS, ids=str)
@pytest.mark.parametrize("default", [None, -1000.0])
@pytest.mark.parametrize("spacing", [(0.4, 3.1, 1.0), (2.9, 0.9, 7.0)], ids=str)
def test_sampling_along_the_axes_is_itks_resampling(flips, default, spacing):
    values = np.random.default_rng(2).integers(-1000, 1000, (9, 14, 12)).astype(np.int16)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((1.1, 2.0, 3.0))
    image.SetOrigin((-7.0, 5.0, 11.0))
    image.SetDirection(np.diag(flips).astype(float).ravel().tolist())
    extent = Box.around(Grid.from_image(image).corners()).grown(4.3)  # past the image on every side
    grid = extent.grid(1).with_spacing(spacing)
    affine = Affine(np.diag([1.05, 0.9, 1.2]), [0.7, -1.3, -2.0])
    assert grid.places_in(Grid.from_image(image), affine) is not None
    sampler = sitk.ResampleImageFilter()
    sampler.SetSize(grid.size)
    sampler.SetOutputSpacing(grid.spacing)
    sampler.SetOutputOrigin(grid.origin)
    sampler.SetTransform(affine.to_transform())
    sampler.SetOutputPixelType(sitk.sitkFloat32)
    sampler.SetUseNearestNeighborExtrapolator(default is None)
    sampler.SetDefaultPixelValue(default or 0.0)
    expected = sitk.GetArrayFromImage(sampler.Execute(image))
    found = grid.sample(image, transform=affine, default=default)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_an_oblique_image_is_sampled_too():
    image = oblique_image() + 40
    grid = Grid((4, 4, 4), (1.0, 1.0, 1.0), Grid.from_image(image).index_to_world([4, 3, 2]))
    assert grid.places_in(Grid.from_image(image)) is None
    assert np.all(grid.sample(image) == 40)


def test_a_part_of_a_grid_lies_where_it_lay():
    grid = Grid.from_image(oblique_image())
    for axis in range(3):
        part = grid.part(axis, 1, 4)
        kept = [slice(None)] * 3
        kept[2 - axis] = slice(1, 4)
        np.testing.assert_allclose(part.points(), grid.points()[tuple(kept)], atol=1e-4)
