"""Images as a map brings them to a grid: by slabs, so that what is needed beside the result stays small."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Optional

import numpy as np
import SimpleITK as sitk

from .constants import NOTHING_HU
from .geometry import Grid

if TYPE_CHECKING:
    from .field import DisplacementField

Report = Optional[Callable[[float], None]]
SLAB_VOXELS = 2_000_000


def warp_image(
    moving: sitk.Image,
    grid: Grid,
    transform: sitk.Transform,
    *,
    label: bool = False,
    default: float | None = None,
    report: Report = None,
) -> sitk.Image:
    """moving(T(x)) on a grid, in the moving image's type.

    Parameters
    ----------
    label : nearest neighbour instead of linear interpolation.
    default : value where T(x) lies outside the moving image; None: 0 for labels, and for images -1024 or the
        nearest to it that the image has room for (its own minimum).
    report : called with the share of the grid that is done, slab after slab; what it raises ends the work.
    """

    def part(slab: Grid, outside: float, pixel: int) -> sitk.Image:
        return sitk.Resample(
            moving,
            slab.size,
            transform,
            _interpolator(label),
            slab.origin,
            slab.spacing,
            slab.direction,
            outside,
            pixel,
        )

    return _by_slabs(moving, grid, part, label, default, report)


def warp_by_field(
    moving: sitk.Image,
    grid: Grid,
    field: DisplacementField,
    *,
    label: bool = False,
    default: float | None = None,
    report: Report = None,
) -> sitk.Image:
    """The same by a displacement field whose axes are the grid's, in half the time.

    ITK is given the displacement of every voxel, which is quick to find along the axes, and so need not look
    it up in a transform.
    """

    def part(slab: Grid, outside: float, pixel: int) -> sitk.Image:
        displacement = field.resample(slab).displacement
        met = _met(moving, slab, displacement)
        if met is None:
            return sitk.Image(slab.size, pixel) + outside
        vectors = slab.image(displacement)
        warp = sitk.WarpImageFilter()
        warp.SetOutputParameteresFromImage(vectors)
        warp.SetInterpolator(_interpolator(label))
        warp.SetEdgePaddingValue(outside)
        return warp.Execute(sitk.Cast(met, pixel), vectors)

    return _by_slabs(moving, grid, part, label, default, report)


def _by_slabs(
    moving: sitk.Image,
    grid: Grid,
    part: Callable[[Grid, float, int], sitk.Image],
    label: bool,
    default: float | None,
    report: Report,
) -> sitk.Image:
    """``part`` (of a slab of the grid, the value outside, the type to compute in), slab after slab."""
    if default is None:
        default = 0.0 if label else _background(moving)
    # ITK cuts fractions off when it writes whole numbers: round them ourselves
    rounding = not label and "integer" in moving.GetPixelIDTypeAsString()
    pixel = _room_for(moving) if rounding else moving.GetPixelID()
    out = sitk.Image(grid.size, moving.GetPixelID())
    out.SetSpacing(grid.spacing)
    out.SetOrigin(grid.origin)
    out.SetDirection(grid.direction)
    slices = max(1, SLAB_VOXELS // (grid.size[0] * grid.size[1]))
    for first in range(0, grid.size[2], slices):
        last = min(first + slices, grid.size[2])
        origin = grid.index_to_world([0, 0, first])
        slab = Grid((*grid.size[:2], last - first), grid.spacing, origin, grid.direction)
        values = part(slab, float(default), pixel)
        out[:, :, first:last] = sitk.Cast(sitk.Round(values), moving.GetPixelID()) if rounding else values
        if report is not None:
            report(last / grid.size[2])
    return out


def _met(moving: sitk.Image, slab: Grid, displacement: np.ndarray) -> sitk.Image | None:
    """The part of the moving image that may show in a slab, or None: all else need not be converted."""
    rows = displacement.reshape(slab.size[1] * slab.size[2], -1)  # numpy is quick along rows
    low, high = (end.reshape(-1, 3) for end in (rows.min(0), rows.max(0)))
    corners = slab.corners()
    ends = corners.min(0) + low.min(0), corners.max(0) + high.max(0)
    box = np.stack(np.meshgrid(*zip(*ends)), -1).reshape(-1, 3)  # LPS mm, all that T reaches from the slab
    index = Grid.from_image(moving).world_to_index(box)
    low = np.clip(np.floor(index.min(0)).astype(int) - 2, 0, moving.GetSize())
    high = np.clip(np.ceil(index.max(0)).astype(int) + 3, 0, moving.GetSize())
    if (low >= high).any():
        return None
    return sitk.RegionOfInterest(moving, (high - low).tolist(), low.tolist())


def _interpolator(label: bool) -> int:
    return sitk.sitkNearestNeighbor if label else sitk.sitkLinear


def _room_for(image: sitk.Image) -> int:
    """The smaller floating-point type that holds the image's whole numbers exactly."""
    wide = any(bits in image.GetPixelIDTypeAsString() for bits in ("32-bit", "64-bit"))
    return sitk.sitkFloat64 if wide else sitk.sitkFloat32


def _background(image: sitk.Image) -> float:
    """-1024, or the image's own minimum where that is higher (an unsigned or shifted image)."""
    statistics = sitk.MinimumMaximumImageFilter()
    statistics.Execute(image)
    return max(NOTHING_HU, statistics.GetMinimum())
