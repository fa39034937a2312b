"""Grids and boxes in the world frame: LPS, mm, as ITK.
Slicer's RAS is converted in the module's ``mrml.py`` alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from .along_axes import linear
from .errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

ASTRAY = 1e-4  # voxels, of a lattice's far corner: what it may leave another's axes by and still run along
COVER_TOLERANCE = 1e-6  # voxels: what rounding makes of a point on a face
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Grid:
    """A lattice of voxels: where index (i, j, k) lies in the world.

    Attributes
    ----------
    size : number of voxels along x, y, z. Arrays on this grid have ``shape`` = (z, y, x).
    spacing : mm between voxel centres along x, y, z.
    origin : LPS mm of the centre of voxel (0, 0, 0).
    direction : 3x3 matrix, row-major; its columns are the index axes in LPS.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...] = IDENTITY

    if TYPE_CHECKING:  # given as any numbers, kept as tuples

        def __init__(
            self, size: ArrayLike, spacing: ArrayLike, origin: ArrayLike, direction: ArrayLike = IDENTITY
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(int(v) for v in self.size))
        for name, count in (("spacing", 3), ("origin", 3), ("direction", 9)):
            values = tuple(float(v) for v in np.ravel(getattr(self, name)))
            if len(values) != count:
                raise InputError(f"A grid needs {count} numbers for its {name}; got {len(values)}.")
            object.__setattr__(self, name, values)
        if len(self.size) != 3 or min(self.size) < 1:
            raise InputError(f"A grid needs three sizes of at least 1; got {self.size}.")
        if not all(np.isfinite(self.spacing)) or min(self.spacing) <= 0:
            raise InputError(f"A grid's spacing must be positive; got {self.spacing} mm.")

    @classmethod
    def from_image(cls, image: sitk.Image) -> Grid:
        """The grid of a 3D image.

        Examples
        --------
        >>> import SimpleITK as sitk
        >>> image = sitk.Image(40, 30, 20, sitk.sitkInt16)
        >>> image.SetSpacing((1.0, 1.0, 2.5))
        >>> grid = Grid.from_image(image)
        >>> grid.size, grid.shape
        ((40, 30, 20), (20, 30, 40))
        >>> grid.index_to_world([39, 0, 19]).tolist()
        [39.0, 0.0, 47.5]
        """
        if image.GetDimension() != 3:
            raise InputError(f"A 3D image is needed; this one has {image.GetDimension()} dimensions.")
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x): the shape of an array on this grid."""
        return self.size[::-1]

    @property
    def index_to_world_matrix(self) -> np.ndarray:
        """(3, 3): maps index steps (x, y, z) to mm in LPS."""
        return np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing)

    def index_to_world(self, indices: ArrayLike) -> np.ndarray:
        """Continuous indices (..., 3) in x, y, z -> LPS mm (..., 3)."""
        return np.asarray(indices, float) @ self.index_to_world_matrix.T + np.asarray(self.origin)

    def world_to_index(self, points: ArrayLike) -> np.ndarray:
        """LPS mm (..., 3) -> continuous indices (..., 3) in x, y, z."""
        inverse = np.linalg.inv(self.index_to_world_matrix)
        return (np.asarray(points, float) - np.asarray(self.origin)) @ inverse.T

    def contains(self, points: ArrayLike, margin: float = 0.5) -> np.ndarray:
        """(...,) bool: are LPS points (..., 3) inside the voxels' extent
        (``margin`` voxels past the centres)?"""
        index = self.world_to_index(points)
        upper = np.asarray(self.size) - 1 + margin
        return np.all((index >= -margin) & (index <= upper), axis=-1)

    def points(self) -> np.ndarray:
        """(z, y, x, 3) float32: the LPS mm of every voxel centre."""
        matrix = self.index_to_world_matrix.astype(np.float32)
        x, y, z = (np.arange(n, dtype=np.float32) for n in self.size)
        out = np.empty((*self.shape, 3), np.float32)
        for axis in range(3):
            out[..., axis] = (
                np.float32(self.origin[axis])
                + matrix[axis, 0] * x[None, None, :]
                + matrix[axis, 1] * y[None, :, None]
                + matrix[axis, 2] * z[:, None, None]
            )
        return out

    def corners(self) -> np.ndarray:
        """(8, 3): LPS mm of the outer corners of the corner voxels."""
        ends = [(-0.5, n - 0.5) for n in self.size]
        return self.index_to_world(np.array([(x, y, z) for z in ends[2] for y in ends[1] for x in ends[0]]))

    def padded(self, voxels: ArrayLike) -> Grid:
        """The same lattice with ``voxels`` more on every side (per x, y, z)."""
        pad = np.broadcast_to(voxels, 3)
        return Grid(
            tuple(np.asarray(self.size) + 2 * pad), self.spacing, self.index_to_world(-pad), self.direction
        )

    def with_spacing(self, spacing: ArrayLike) -> Grid:
        """A grid of another spacing over the same extent; the outer faces of the first voxels coincide."""
        spacing = np.broadcast_to(np.asarray(spacing, float), 3)
        extent = np.asarray(self.size) * np.asarray(self.spacing)
        size = np.maximum(1, np.ceil(extent / spacing - 1e-6)).astype(int)
        first = (-0.5 * np.asarray(self.spacing) + 0.5 * spacing) / np.asarray(self.spacing)
        return Grid(tuple(size), tuple(spacing), self.index_to_world(first), self.direction)

    def part(self, axis: int, first: int, stop: int) -> Grid:
        """The voxels from ``first`` up to ``stop`` along an axis (x, y, z = 0, 1, 2)."""
        start, size = np.zeros(3), list(self.size)
        start[axis], size[axis] = first, stop - first
        return Grid(size, self.spacing, self.index_to_world(start), self.direction)

    def places_in(self, other: Grid, affine: Affine | None = None) -> list[np.ndarray] | None:
        """Indices of ``other`` along x, y, z at which this grid's voxels lie, or where ``affine`` leads from
        there; None where they do not run along the other's axes."""
        step, start = self.index_to_world_matrix, np.asarray(self.origin)
        if affine is not None:
            step, start = affine.matrix @ step, affine(start)
        step, start = np.linalg.solve(other.index_to_world_matrix, step), other.world_to_index(start)
        astray = np.abs(step - np.diag(np.diag(step))) @ np.asarray(self.size)
        if astray.max() > ASTRAY:
            return None
        return [start[a] + step[a, a] * np.arange(self.size[a]) for a in range(3)]

    def image(self, array: np.ndarray) -> sitk.Image:
        """An image on this grid from (z, y, x) values, or a vector image from (z, y, x, c)."""
        if array.shape[:3] != self.shape:
            raise InputError(
                f"An array of shape {array.shape[:3]} does not fit a grid of shape {self.shape}."
            )
        out = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
        out.SetSpacing(self.spacing)
        out.SetOrigin(self.origin)
        out.SetDirection(self.direction)
        return out

    def resample(
        self, image: sitk.Image, *, interpolator: int = sitk.sitkLinear, default: float = 0.0, pixel: int = 0
    ) -> sitk.Image:
        """``image`` sampled at this grid's voxels; ``default`` outside it,
        ``pixel`` type 0 = the image's own."""
        return sitk.Resample(
            image,
            self.size,
            sitk.Transform(3, sitk.sitkIdentity),
            interpolator,
            self.origin,
            self.spacing,
            self.direction,
            default,
            pixel or image.GetPixelID(),
        )

    def sample(
        self,
        image: sitk.Image,
        *,
        shrink: list[int] | None = None,
        transform: Affine | sitk.Transform | None = None,
        default: float | None = None,
    ) -> np.ndarray:
        """(z, y, x) float32: the image, linear, at this grid's voxels,
        or where ``transform`` leads from there.

        The image is first averaged over ``shrink`` voxels along its axes, so that nothing aliases. Past its
        edge lies ``default``; None: its border voxels continue.
        """
        if shrink is not None and max(shrink) > 1:
            image = sitk.BinShrink(image, shrink)
        if not isinstance(transform, sitk.Transform):
            places = self.places_in(Grid.from_image(image), transform)
            if places is not None:
                return _along(image, places, default)
            transform = None if transform is None else transform.to_transform()
        resampler = sitk.ResampleImageFilter()
        resampler.SetSize(self.size)
        resampler.SetOutputSpacing(self.spacing)
        resampler.SetOutputOrigin(self.origin)
        resampler.SetOutputDirection(self.direction)
        if transform is not None:
            resampler.SetTransform(transform)
        resampler.SetInterpolator(sitk.sitkLinear)
        if default is None:
            resampler.SetUseNearestNeighborExtrapolator(True)
        else:
            resampler.SetDefaultPixelValue(default)
        resampler.SetOutputPixelType(sitk.sitkFloat32)
        return sitk.GetArrayFromImage(resampler.Execute(image))


def _along(image: sitk.Image, places: list[np.ndarray], default: float | None) -> np.ndarray:
    """(z, y, x) float32: a scalar image at places along its axes x, y, z, as ITK's filter for resampling
    does it."""
    values = sitk.GetArrayViewFromImage(image)
    out = linear(values, places, np.float64)  # as ITK: thresholds then give the same
    outside = [(at < -0.5) | (at >= n - 0.5) for at, n in zip(places, image.GetSize())]
    # there ITK takes the nearest voxel, along the other axes too
    x, y, z = (np.clip(np.floor(at + 0.5).astype(int), 0, n - 1) for at, n in zip(places, image.GetSize()))
    for axis, beyond in enumerate(outside):
        if beyond.any():
            there = [slice(None)] * 3
            there[2 - axis] = beyond
            if default is not None:
                out[tuple(there)] = default
            else:
                out[tuple(there)] = values[np.ix_(*(v[t] for v, t in zip((z, y, x), there)))]
    return out


def steps_to_cover(lattice: Grid, cover: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (3,) x, y, z that ``lattice`` lacks below its first and above its
    last voxel to reach over ``cover``."""
    index = lattice.world_to_index(cover.corners())
    below = np.ceil(-index.min(0) - COVER_TOLERANCE)
    above = np.ceil(index.max(0) - (np.asarray(lattice.size) - 1) - COVER_TOLERANCE)
    return np.maximum(0, below).astype(int), np.maximum(0, above).astype(int)


def continued(lattice: Grid, cover: Grid) -> Grid:
    """``lattice`` continued by whole steps until it covers the voxels' extent of ``cover``."""
    below, above = steps_to_cover(lattice, cover)
    size = np.asarray(lattice.size) + below + above
    return Grid(tuple(size), lattice.spacing, lattice.index_to_world(-below), lattice.direction)


@dataclass(frozen=True)
class Box:
    """An axis-aligned box in LPS mm: ``lower`` and ``upper`` corners (x, y, z)."""

    lower: tuple[float, float, float]
    upper: tuple[float, float, float]

    if TYPE_CHECKING:  # given as any numbers, kept as tuples

        def __init__(self, lower: ArrayLike, upper: ArrayLike) -> None: ...

    def __post_init__(self) -> None:
        for name in ("lower", "upper"):
            values = tuple(float(v) for v in np.ravel(getattr(self, name)))
            if len(values) != 3 or not all(np.isfinite(values)):
                raise InputError(f"A box needs three finite numbers for its {name} corner; got {values}.")
            object.__setattr__(self, name, values)
        if any(u <= l for l, u in zip(self.lower, self.upper)):
            raise InputError(
                f"A box's upper corner {self.upper} must lie above its lower corner {self.lower}."
            )

    @classmethod
    def around(cls, points: ArrayLike) -> Box:
        """The smallest box around LPS points (n, 3)."""
        points = np.asarray(points).reshape(-1, 3)
        return cls(points.min(0), points.max(0))

    @property
    def extent(self) -> np.ndarray:
        """(3,): mm along x, y, z."""
        return np.asarray(self.upper) - np.asarray(self.lower)

    @property
    def centre(self) -> np.ndarray:
        """(3,): LPS mm."""
        return (np.asarray(self.upper) + np.asarray(self.lower)) / 2

    def grown(self, margin: ArrayLike) -> Box:
        """The box with ``margin`` mm more on every side."""
        margin = np.broadcast_to(np.asarray(margin, float), 3)
        return Box(np.asarray(self.lower) - margin, np.asarray(self.upper) + margin)

    def union(self, other: Box) -> Box:
        """The smallest box around both."""
        return Box(np.minimum(self.lower, other.lower), np.maximum(self.upper, other.upper))

    def grid(self, size: ArrayLike = 128) -> Grid:
        """Cell-centred grid of ``size`` cells that fill the box:
        no half-voxel shift when cells are pooled.

        Examples
        --------
        >>> Box((0, 0, 0), (256, 128, 64)).grid(64).spacing
        (4.0, 2.0, 1.0)
        """
        size = np.broadcast_to(size, 3)
        spacing = self.extent / size
        return Grid(tuple(size), tuple(spacing), tuple(np.asarray(self.lower) + spacing / 2))

    def to_list(self) -> list[list[float]]:
        """[[x, y, z], [x, y, z]]: lower and upper corner, LPS mm, for JSON."""
        return [[round(v, 4) for v in self.lower], [round(v, 4) for v in self.upper]]


@dataclass(frozen=True)
class Affine:
    """x -> matrix @ x + offset, LPS mm. ``matrix`` (3, 3), ``offset`` (3,)."""

    matrix: np.ndarray
    offset: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", np.asarray(self.matrix, float).reshape(3, 3))
        object.__setattr__(self, "offset", np.asarray(self.offset, float).reshape(3))

    @classmethod
    def identity(cls) -> Affine:
        return cls(np.eye(3), np.zeros(3))

    @classmethod
    def between_boxes(cls, fixed: Box, moving: Box) -> Affine:
        """Scale and shift that carry the fixed box onto the moving box."""
        scale = moving.extent / fixed.extent
        return cls(np.diag(scale), np.asarray(moving.lower) - scale * np.asarray(fixed.lower))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Map LPS points (..., 3)."""
        points = np.asarray(points)
        return points @ self.matrix.T.astype(points.dtype) + self.offset.astype(points.dtype)

    def inverse(self) -> Affine:
        inverse = np.linalg.inv(self.matrix)
        return Affine(inverse, -inverse @ self.offset)

    def to_transform(self) -> sitk.AffineTransform:
        out = sitk.AffineTransform(3)
        out.SetMatrix(self.matrix.ravel())
        out.SetTranslation(self.offset)
        return out
