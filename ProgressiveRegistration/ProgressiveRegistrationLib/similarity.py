"""How alike two lungs are once they are registered, measured by what the refinement does not optimise: local correlation."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .features import WINDOW
from .field import DisplacementField
from .geometry import Box, Grid

LATTICE_MM = 3.0
PATCH = 5  # voxels: 15 mm
NOISE = 5e-4  # variance below which a patch has no structure; (20 HU)^2 in units of the window


def local_correlation(
    fixed: sitk.Image, moving: sitk.Image, field: DisplacementField, mask: sitk.Image
) -> float:
    """Mean correlation of fixed(x) and moving(T(x)) over patches of 15 mm in the lungs; 1 alike, 0 unrelated.

    Parameters
    ----------
    fixed, moving : CT in HU. mask : above 0 in the fixed lungs, on any grid.

    Returns
    -------
    The mean, weighted by the fixed patch's standard deviation; 0 where nothing in the lungs has structure.
    """
    inside = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)[:, ::-1]
    box = Box.around(Grid.from_image(mask).index_to_world(inside)).grown(LATTICE_MM * PATCH)
    grid = Grid((1, 1, 1), tuple(box.extent), tuple(box.centre)).with_spacing(LATTICE_MM)
    binary = sitk.Cast(mask > 0, sitk.sitkUInt8)
    lung = sitk.GetArrayFromImage(grid.resample(binary, interpolator=sitk.sitkNearestNeighbor)) > 0
    # smoothed to the lattice's resolution: else noise decides
    images = [_smoothed(fixed), _smoothed(moving)]
    a = _unit(grid.resample(images[0], default=WINDOW[0]))
    b = _unit(field.warp_image(images[1], grid, default=WINDOW[0]))

    def mean(values: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(values, PATCH)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    correlation = covariance / np.sqrt((var_a.clip(0) + NOISE) * (var_b.clip(0) + NOISE))
    weight = np.sqrt(var_a.clip(0)) * lung
    return float((weight * correlation).sum() / weight.sum()) if weight.sum() > 0 else 0.0


def _smoothed(image: sitk.Image) -> sitk.Image:
    sigma = [max(0.3 * s, LATTICE_MM / 2) for s in image.GetSpacing()]
    return sitk.SmoothingRecursiveGaussian(sitk.Cast(image, sitk.sitkFloat32), sigma)


def _unit(image: sitk.Image) -> np.ndarray:
    low, high = WINDOW
    return ((sitk.GetArrayFromImage(image).astype(np.float64) - low) / (high - low)).clip(0, 1)
