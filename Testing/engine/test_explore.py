"""The volumes in a report: what its script decodes is what SimpleITK resamples, and the page stays small."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.report import explore
from ProgressiveRegistrationLib.report.pictures import SHOWN_HU
from scipy.ndimage import gaussian_filter


def scan(size: int, spacing: float, seed: int = 0) -> sitk.Image:
    """Smooth made-up tissue with noise, HU."""
    rng = np.random.default_rng(seed)
    values = gaussian_filter(rng.normal(size=(size,) * 3), 4)
    values = -600 + 500 * values / values.std() + rng.normal(size=values.shape) * 20
    half = (size - 1) * spacing / 2
    return Grid((size,) * 3, (spacing,) * 3, (-half,) * 3).image(values.astype(np.int16))


def decoded(data: dict, name: str) -> np.ndarray:
    """(z, y, x): as the page's script does it."""
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(data[name].split(",")[1]))))
    nx, ny, nz = data["size"]
    tiles = [divmod(z, data["columns"]) for z in range(nz)]
    return np.stack([sheet[r * ny : (r + 1) * ny, c * nx : (c + 1) * nx] for r, c in tiles])


@pytest.fixture(scope="module")
def moved():
    """A scan, the same one 9 mm further on, and the transform between them."""
    fixed = scan(64, 3.0)
    shift = np.array([0.0, 9.0, 0.0])
    moving = sitk.Image(fixed)
    moving.SetOrigin(np.asarray(fixed.GetOrigin()) + shift)
    return fixed, moving, sitk.TranslationTransform(3, shift.tolist())


def test_volumes_are_what_resampling_gives(moved):
    fixed, moving, transform = moved
    data = explore.explorer(transform, fixed, moving)
    low, high = SHOWN_HU
    grid = Grid(tuple(data["size"]), tuple(data["spacing"]), tuple(data["origin"]))
    for name, image in (("fixed", fixed), ("before", moving)):
        expected = sitk.GetArrayFromImage(grid.resample(image, default=low, pixel=sitk.sitkFloat32))
        expected = 255 * np.sqrt(np.clip((expected - low) / (high - low), 0, 1))
        assert np.abs(decoded(data, name).astype(float) - expected).mean() < 4, name
    inner = (slice(None), slice(None, -8), slice(None))
    difference = decoded(data, "after")[inner].astype(float) - decoded(data, "fixed")[inner]
    assert np.abs(difference).mean() < 4
    apart = decoded(data, "before")[inner].astype(float) - decoded(data, "fixed")[inner]
    assert np.abs(apart).mean() > 20


def test_volumes_lie_around_the_lungs(moved):
    fixed, moving, transform = moved
    mask = np.zeros((64, 64, 64), np.uint8)
    mask[20:40, 24:44, 10:30] = 1
    data = explore.explorer(transform, fixed, moving, Grid.from_image(fixed).image(mask))
    first, last = (
        np.array(data["origin"]),
        np.array(data["origin"]) + np.array(data["spacing"]) * (np.array(data["size"]) - 1),
    )
    corner = np.array(fixed.TransformIndexToPhysicalPoint((10, 24, 20)))
    assert np.all(first > corner - 15 - 3)
    assert np.all(first < corner - 10)
    assert np.all(last - first < 20 * 3 + 2 * 15 + 3)


def test_a_pair_of_256_cubed_stays_below_its_share_of_five_megabytes():
    fixed, moving = scan(256, 1.4), scan(256, 1.4, 1)
    field = DisplacementField(Grid((8, 8, 8), (50.0,) * 3, (-175.0,) * 3), np.zeros((8, 8, 8, 3), np.float32))
    data = explore.explorer(field, fixed, moving)
    assert sum(len(data[name]) for name in ("fixed", "before", "after")) <= explore.MAX_BYTES
    assert 1.0e6 < np.prod(data["size"]) <= explore.MAX_VOXELS
