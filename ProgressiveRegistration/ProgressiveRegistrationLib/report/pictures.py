"""The pictures of a report: overlays and Jacobian maps. In memory: no files, no display."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..field import DisplacementField
from ..geometry import Box, Grid
from ..quality import jacobian_determinant
from ..transforms import Transform
from .charts import colours

SHOWN_HU = (-1000.0, 400.0)
PIXEL_MM = 1.0
VIEW_MARGIN_MM = 15.0
# Fixed and moving add up to grey where they agree (the paper's Fig. 8).
FIXED_RGB = np.array([1.0, 0.55, 0.1])
MOVING_RGB = 1.0 - FIXED_RGB
FIXED_COLOUR = "#d9731a"
MOVING_COLOUR = "#2f7fc4"
JACOBIAN_RANGE = 2.0  # colours span 1/2 to 2 times the volume


@dataclass(frozen=True)
class Plane:
    """One slice through the patient: ``grid`` has a single voxel along ``axis`` (x, y, z = 0, 1, 2)."""

    name: str
    axis: int
    grid: Grid

    @property
    def position_mm(self) -> float:
        """LPS mm along the axis."""
        return self.grid.origin[self.axis]

    def upright(self, values: np.ndarray) -> np.ndarray:
        """(z, y, x) values of the plane as (h, w): head or front up, the patient's right on the left."""
        picture = np.squeeze(values, axis=2 - self.axis)
        return picture if self.axis == 2 else picture[::-1]


def choose_planes(fixed: sitk.Image, lung_mask: sitk.Image | None) -> list[Plane]:
    """Coronal, axial and sagittal planes with the most lung in them (the image's middle without a mask)."""
    bounds = Box.around(Grid.from_image(fixed).corners())
    box, centre = bounds, bounds.centre
    if lung_mask is not None:
        inside = sitk.GetArrayViewFromImage(lung_mask) > 0
        if inside.any():
            grid = Grid.from_image(lung_mask)
            voxels = np.argwhere(inside)[:, ::-1]
            box = Box.around(grid.index_to_world(voxels)).grown(VIEW_MARGIN_MM)
            box = Box(np.maximum(box.lower, bounds.lower), np.minimum(box.upper, bounds.upper))
            centre = grid.index_to_world(np.array([_fullest(voxels[:, axis]) for axis in range(3)]))
    planes = []
    for name, axis in (("coronal", 1), ("axial", 2), ("sagittal", 0)):
        size = np.maximum(1, np.round(box.extent / PIXEL_MM)).astype(int)
        origin = np.asarray(box.lower) + PIXEL_MM / 2
        size[axis], origin[axis] = 1, centre[axis]
        planes.append(Plane(name, axis, Grid(tuple(size), (PIXEL_MM,) * 3, tuple(origin))))
    return planes


def _fullest(index: np.ndarray) -> float:
    """The middle of the slices that hold (nearly) the most voxels."""
    counts = np.bincount(index)
    return float(np.flatnonzero(counts >= 0.98 * counts.max()).mean())


def windowed(image: sitk.Image, grid: Grid, transform: Transform | None = None) -> np.ndarray:
    """(z, y, x) in [0, 1]: ``image`` in the pictures' window on a grid; with T, as T brings it there."""
    low, high = SHOWN_HU
    if isinstance(transform, DisplacementField):
        out = sitk.GetArrayFromImage(transform.warp_image(image, grid, default=low)).astype(np.float32)
    else:
        out = grid.sample(image, transform=transform, default=low)
    out -= low  # in place: the page's volumes are large
    out /= high - low
    return np.clip(out, 0, 1, out=out)


def slice_of(image: sitk.Image, plane: Plane, transform: Transform | None = None) -> np.ndarray:
    """(h, w) in [0, 1]: ``image`` on a plane; with T, the moving image as T brings it there."""
    return plane.upright(windowed(image, plane.grid, transform))


def quick_map(transform: Transform, planes: list[Plane]) -> Transform:
    """The map in the form that is quickest on all of the planes; made once, as a field is large."""
    return quick_map_on(transform, [plane.grid for plane in planes])


def quick_map_on(transform: Transform, grids: list[Grid]) -> Transform:
    """The map in the form that is quickest on all of the grids: a field along their axes stays as it is."""
    if isinstance(transform, sitk.Transform) or all(map(transform.runs_along, grids)):
        return transform
    box = Box.around(np.concatenate([grid.corners() for grid in grids]))
    return transform.transform_over(box.grid(8))


def overlay(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8: fixed in orange plus moving in blue; grey where they agree."""
    # Square root: lung's dim vessels stay visible beside the bright body.
    colour = np.sqrt(fixed)[..., None] * FIXED_RGB + np.sqrt(moving)[..., None] * MOVING_RGB
    return np.round(255 * np.clip(colour, 0, 1)).astype(np.uint8)


def jacobian_picture(fixed: np.ndarray, determinant: np.ndarray, inside: np.ndarray | None) -> np.ndarray:
    """(h, w, 3) uint8: volume change in colour on the dimmed fixed slice; folded voxels in yellow.

    ``inside`` (h, w) bool: outside it (not lung) the colours are faint.
    """
    folded = determinant <= 0
    log = np.log2(np.where(folded, 1.0, determinant)) / np.log2(JACOBIAN_RANGE)
    colour = colours(np.clip((log + 1) / 2, 0, 1))
    grey = np.repeat((0.15 + 0.85 * np.sqrt(fixed))[..., None], 3, axis=-1)
    strength = np.where(inside, 0.85, 0.3)[..., None] if inside is not None else 0.7
    out = (1 - strength) * grey + strength * colour * (0.6 + 0.4 * grey)
    out[folded] = (1.0, 0.9, 0.0)
    return np.round(255 * np.clip(out, 0, 1)).astype(np.uint8)


def jacobian_slice(transform: Transform, plane: Plane) -> np.ndarray:
    """(h, w) determinant of dT/dx on a plane."""
    values = jacobian_determinant(transform, plane.grid.padded(1))  # neighbours for the derivative
    return plane.upright(values[1:-1, 1:-1, 1:-1])


def mask_slice(mask: sitk.Image, plane: Plane) -> np.ndarray:
    """(h, w) bool."""
    sampled = plane.grid.resample(mask, interpolator=sitk.sitkNearestNeighbor)
    return plane.upright(sitk.GetArrayFromImage(sampled)) > 0


def png_uri(picture: np.ndarray) -> str:
    """A PNG as a ``data:`` address; ``picture`` (h, w, 3) uint8."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG", compress_level=3)  # a tenth larger, for a third of the time
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
