"""The displacement field: what a registration gives. It maps fixed to moving, T(x) = x + u(x), LPS mm.

Stored as u on a grid. Past the grid's outermost voxel centres it goes on as an affine map, if the field has
one (it was then built to meet that map at its border), or else with its border value. ITK's displacement
transform returns 0 there instead: ``to_transform`` and ``warp_image`` see to it that ITK computes the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .along_axes import linear
from .errors import InputError, OutputError, memory_errors
from .files import replacing
from .formats import READ_FIELD_ENDINGS, transform_ending
from .geometry import Affine, Box, Grid, continued, steps_to_cover
from .itk import itk_message
from .itk_hdf5 import write_hdf5
from .progress import Stop, check
from .warping import Report, warp_by_field, warp_image

FADE_MM = 40.0
MAX_SPACING_MM = 2.5
FILE_STEP_MM = 1 / 128  # files hold multiples of it: what is smaller is noise that does not compress


@dataclass(frozen=True)
class DisplacementField:
    """T(x) = x + u(x) from fixed to moving.

    Attributes
    ----------
    grid : where u is stored.
    displacement : (z, y, x, 3) float32, mm, vectors x, y, z in LPS; trilinear between voxels.
    outside : the map past the grid, or None: then u keeps the value of the nearest border voxel.
    Examples
    --------
    >>> import numpy as np
    >>> grid = Grid((8, 8, 8), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    >>> field = DisplacementField(grid, np.full((8, 8, 8, 3), (0.0, 0.0, 5.0)))
    >>> field.warp_points([[4.0, 4.0, 4.0]]).tolist()
    [[4.0, 4.0, 9.0]]
    >>> field.inverse().warp_points([[4.0, 4.0, 9.0]]).round(3).tolist()
    [[4.0, 4.0, 4.0]]
    """

    grid: Grid
    displacement: np.ndarray
    outside: Affine | None = None

    def __post_init__(self) -> None:
        u = np.ascontiguousarray(self.displacement, np.float32)
        if u.shape != (*self.grid.shape, 3):
            raise InputError(
                f"A displacement field of shape {u.shape} does not fit a grid of shape "
                f"{self.grid.shape} + (3,)."
            )
        if not np.isfinite(u).all():
            raise InputError("The displacement field holds NaN or infinite values; it cannot be used.")
        object.__setattr__(self, "displacement", u)

    # ---- construction --------------------------------------------------------------------------------------

    @classmethod
    def identity(cls, grid: Grid) -> DisplacementField:
        """u = 0."""
        return cls(grid, np.zeros((*grid.shape, 3), np.float32), Affine.identity())

    @classmethod
    def from_affine(cls, grid: Grid, affine: Affine) -> DisplacementField:
        """The affine map, on a grid."""
        return cls(grid, _affine_displacement(grid, affine), affine)

    @classmethod
    def from_voxels(cls, u: np.ndarray, fixed_grid: Grid, moving_grid: Grid) -> DisplacementField:
        """From the network's output.

        Parameters
        ----------
        u : (3, D, H, W), channels x, y, z: index i of the fixed grid lies at index i + u(i) of the moving
            grid.
        fixed_grid, moving_grid : of one size; the boxes that the network saw.

        Returns
        -------
        A field on ``fixed_grid`` without a map outside; see ``faded``.
        """
        u = np.moveaxis(np.asarray(u, np.float32), 0, -1)
        if u.shape[:3] != fixed_grid.shape or fixed_grid.size != moving_grid.size:
            raise InputError(
                f"A field of shape {u.shape[:3]} does not fit a grid of shape {fixed_grid.shape}."
            )
        millimetres = u @ moving_grid.index_to_world_matrix.T.astype(np.float32)
        millimetres += _affine_displacement(fixed_grid, box_to_box(fixed_grid, moving_grid))
        return cls(fixed_grid, millimetres)

    @classmethod
    def from_transform(cls, transform: sitk.Transform, grid: Grid) -> DisplacementField:
        """Any ITK transform sampled on a grid."""
        image = sitk.TransformToDisplacementField(
            transform, sitk.sitkVectorFloat64, grid.size, grid.origin, grid.spacing, grid.direction
        )
        outside = Affine.identity() if transform.IsLinear() else None
        if outside is not None:
            offset = np.asarray(transform.TransformPoint((0.0, 0.0, 0.0)))
            columns = [np.asarray(transform.TransformPoint(tuple(axis))) - offset for axis in np.eye(3)]
            outside = Affine(np.stack(columns, 1), offset)
        return cls(grid, sitk.GetArrayFromImage(image), outside)

    @classmethod
    def of(cls, transform: DisplacementField | sitk.Transform, grid: Grid) -> DisplacementField:
        """A field as it is, any other transform sampled on ``grid``."""
        return transform if isinstance(transform, DisplacementField) else cls.from_transform(transform, grid)

    # ---- points and images ---------------------------------------------------------------------------------

    def sample(self, points: np.ndarray) -> np.ndarray:
        """u at LPS points (..., 3), mm (..., 3), trilinear; past the grid as the class says."""
        points = np.asarray(points, float)
        flat = points.reshape(-1, 3)
        index = self.grid.world_to_index(flat).T[::-1]
        out = np.empty_like(flat)
        for axis in range(3):
            out[:, axis] = ndimage.map_coordinates(
                self.displacement[..., axis], index, output=np.float64, order=1, mode="nearest"
            )
        if self.outside is not None:
            beyond = ~self.grid.contains(flat, margin=1e-6)
            out[beyond] = self.outside(flat[beyond]) - flat[beyond]
        return out.reshape(points.shape)

    def warp_points(self, points: np.ndarray) -> np.ndarray:
        """T(x) of LPS points (..., 3): where fixed points lie in the moving image."""
        return np.asarray(points, float) + self.sample(points)

    def warp_image(
        self,
        moving: sitk.Image,
        reference: Grid | sitk.Image,
        *,
        label: bool = False,
        default: float | None = None,
        report: Report = None,
    ) -> sitk.Image:
        """moving(T(x)) on the reference's grid, in the moving image's type; see ``warping.warp_image``."""
        grid = reference if isinstance(reference, Grid) else Grid.from_image(reference)
        if self.runs_along(grid):
            return warp_by_field(moving, grid, self, label=label, default=default, report=report)
        whole = self.transform_over(grid)
        return warp_image(moving, grid, whole, label=label, default=default, report=report)

    def runs_along(self, grid: Grid) -> bool:
        """Is ``resample(grid)`` quick, and the same as what ITK makes of ``transform_over(grid)``?"""
        along = np.abs(np.subtract(grid.direction, self.grid.direction)).max() < 1e-9
        return bool(along) and self.displacement_is_affine_at_border()

    # ---- algebra -------------------------------------------------------------------------------------------

    def resample(self, grid: Grid) -> DisplacementField:
        """The same map on another grid."""
        if grid == self.grid:
            return self
        if np.abs(np.subtract(grid.direction, self.grid.direction)).max() < 1e-9:
            return DisplacementField(grid, self._along_axes(grid), self.outside)
        u = np.empty((*grid.shape, 3), np.float32)
        points = grid.points()
        for k in range(grid.shape[0]):  # by slice: bounded memory
            u[k] = self.sample(points[k])
        return DisplacementField(grid, u, self.outside)

    def _along_axes(self, grid: Grid) -> np.ndarray:
        """(z, y, x, 3) float32: u on a grid whose axes are this one's, interpolated axis after axis."""
        first = self.grid.world_to_index(np.asarray(grid.origin))
        step = np.asarray(grid.spacing) / self.grid.spacing
        places = [first[a] + step[a] * np.arange(grid.size[a]) for a in range(3)]
        u = linear(self.displacement, places)
        if self.outside is not None:
            for axis, (index, count) in enumerate(zip(places, self.grid.size)):
                below, beyond = (index < -1e-6).sum(), (index > count - 1 + 1e-6).sum()
                for low, high in ((0, below), (grid.size[axis] - beyond, grid.size[axis])):
                    if low < high:
                        part = [slice(None)] * 3
                        part[2 - axis] = slice(low, high)
                        u[tuple(part)] = _affine_displacement(grid.part(axis, low, high), self.outside)
        return u

    def covering(self, grid: Grid) -> DisplacementField:
        """The same map on this lattice, made larger so that it reaches over ``grid``."""
        low, high = steps_to_cover(self.grid, grid)
        if not low.any() and not high.any():
            return self
        if self.outside is not None and not (self.displacement_is_affine_at_border()):
            raise InputError("The displacement field does not meet its outer affine map at its border.")
        larger = continued(self.grid, grid)
        pad = [(int(a), int(b)) for a, b in zip(low[::-1], high[::-1])]
        if self.outside is None:
            u = np.pad(self.displacement, [*pad, (0, 0)], mode="edge")
        else:
            u = DisplacementField.from_affine(larger, self.outside).displacement.copy()
            inner = tuple(slice(a, a + n) for (a, _), n in zip(pad, self.grid.shape))
            u[inner] = self.displacement
        return DisplacementField(larger, u, self.outside)

    def displacement_is_affine_at_border(self, tolerance: float = 0.05) -> bool:
        """Does u meet the outer map at the border, within ``tolerance`` mm?
        Always true where there is none."""
        if self.outside is None:
            return True
        for axis in range(3):  # of the array: z, y, x
            for end in (0, -1):
                corner, size = np.zeros(3), np.array(self.grid.size)
                corner[2 - axis], size[2 - axis] = (self.grid.shape[axis] - 1) * -end, 1
                nx, ny, nz = size.tolist()
                x, y, z = self.grid.index_to_world(corner).tolist()
                face = Grid((nx, ny, nz), self.grid.spacing, (x, y, z), self.grid.direction)
                there = self.displacement.take([end], axis)
                gap = _affine_displacement(face, self.outside) - there
                if np.abs(gap).max() > tolerance:
                    return False
        return True

    def faded(self, affine: Affine, margin: float = FADE_MM) -> DisplacementField:
        """A field on a larger grid that goes over smoothly into ``affine``, within ``margin`` mm."""
        residual = self.displacement - _affine_displacement(self.grid, affine)
        return DisplacementField.around(self.grid, residual, affine, margin)

    @classmethod
    def around(
        cls, grid: Grid, residual: np.ndarray, affine: Affine, margin: float = FADE_MM
    ) -> DisplacementField:
        """T(x) = affine(x) + residual(x), fading to the affine map within ``margin`` mm of the grid's border.

        ``residual`` (z, y, x, 3) float32 mm, on ``grid``; the field lies on a larger one.
        """
        pad = np.ceil(margin / np.asarray(grid.spacing)).astype(int)
        larger = grid.padded(tuple(pad))
        u = np.pad(residual, [*((int(p), int(p)) for p in pad[::-1]), (0, 0)], mode="edge")
        away = np.zeros(larger.shape, np.float32)
        for axis, (n, p) in enumerate(zip(grid.size, pad)):
            i = np.arange(-p, n + p)
            steps = np.maximum(np.maximum(-i, i - (n - 1)), 0) / p
            shape = [1, 1, 1]
            shape[2 - axis] = -1
            lost = 0.5 - 0.5 * np.cos(np.pi * steps)
            away = np.maximum(away, lost.reshape(shape).astype(np.float32))
        u *= (1 - away)[..., None]
        u += _affine_displacement(larger, affine)
        return cls(larger, u, affine)

    def compose(self, inner: DisplacementField) -> DisplacementField:
        """x -> self(inner(x)), on inner's grid."""
        u = np.empty_like(inner.displacement)
        points = inner.grid.points()
        for k in range(inner.grid.shape[0]):
            middle = points[k] + inner.displacement[k].astype(float)
            u[k] = self.warp_points(middle) - points[k]
        out = DisplacementField(inner.grid, u)
        if self.outside is not None and inner.outside is not None:
            both = Affine(
                self.outside.matrix @ inner.outside.matrix,
                self.outside.matrix @ inner.outside.offset + self.outside.offset,
            )
            closed = DisplacementField(inner.grid, u, both)
            if closed.displacement_is_affine_at_border():
                return closed
        return out

    def inverse(
        self,
        grid: Grid | None = None,
        *,
        tolerance: float = 0.01,
        iterations: int = 100,
        cancelled: Stop = None,
    ) -> DisplacementField:
        """The map from moving to fixed, see ``inverse_points``.

        Parameters
        ----------
        grid : where the inverse is wanted; None: this lattice's spacing around the image of this grid.
        tolerance : mm; iteration stops when no point moves more. cancelled : polled at every slice.
        """
        if grid is None:
            box = Box.around(self.warp_points(self.grid.corners())).grown(max(self.grid.spacing))
            grid = box.grid(1).with_spacing(self.grid.spacing)
        points = grid.points()
        u = np.empty((*grid.shape, 3), np.float32)
        for k in range(grid.shape[0]):
            check(cancelled)
            y = points[k].reshape(-1, 3).astype(float)
            x = self.inverse_points(y, tolerance=tolerance, iterations=iterations)
            u[k] = (x - y).reshape(*grid.shape[1:], 3)
        back = None if self.outside is None else self.outside.inverse()
        inverted = DisplacementField(grid, u, back)
        return inverted if inverted.displacement_is_affine_at_border() else DisplacementField(grid, u)

    def inverse_points(
        self, points: np.ndarray, *, tolerance: float = 0.01, iterations: int = 100
    ) -> np.ndarray:
        """x with T(x) = y of LPS points y (n, 3): where moving points lie in the fixed image.

        By fixed-point iteration x <- A^-1(y) - w(x), with T = A(x + w(x)); it stops where a point moves by no
        more than ``tolerance`` mm.
        """
        affine = self.outside or Affine(np.eye(3), self.displacement.reshape(-1, 3).mean(0))
        back = affine.inverse()
        start = back(np.asarray(points, float))
        x = start.copy()
        moving = np.arange(len(x))
        for step in range(iterations):
            current = x[moving]
            residual = back(self.warp_points(current)) - current
            # undamped while it contracts; where it does not (steep fields), half steps converge
            update = start[moving] - residual
            if step > 20:
                update = 0.5 * (update + current)
            change = np.abs(update - current).max(1)
            x[moving] = update
            moving = moving[change > tolerance]
            if not moving.size:
                break
        return x

    def jacobian_determinant(self) -> np.ndarray:
        """(z, y, x) float32: det(dT/dx), central differences (one-sided at the border), no unit."""
        to_index = np.linalg.inv(self.grid.index_to_world_matrix).astype(np.float32)
        rows = []
        for component in range(3):
            u = self.displacement[..., component]
            slopes = [np.gradient(u, axis=2 - k) if n > 1 else None for k, n in enumerate(self.grid.size)]
            row = []
            for axis in range(3):  # the chain rule: along the index axes, then to mm
                slope = np.full(u.shape, np.float32(component == axis))
                for k in range(3):
                    if slopes[k] is not None and abs(to_index[k, axis]) > 1e-12:
                        slope += slopes[k] * to_index[k, axis]
                row.append(slope)
            rows.append(row)
        (a, b, c), (d, e, f), (g, h, i) = rows
        return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)

    # ---- ITK and files -------------------------------------------------------------------------------------

    def to_image(self) -> sitk.Image:
        """Vector image of u (float32, mm, LPS) on the field's grid."""
        return self.grid.image(self.displacement)

    def to_transform(self) -> sitk.Transform:
        """The same map as an ITK transform.

        With an outer affine map A it is the composite A(x + w(x)), w being 0 at the border, so that ITK too
        is continuous there. Without one it is a displacement field transform, which ITK takes as 0 outside
        its grid.
        """
        return self._transform

    @cached_property
    def _transform(self) -> sitk.Transform:
        if self.outside is None:
            return sitk.DisplacementFieldTransform(self.grid.image(self.displacement.astype(np.float64)))
        w = self.residual(self.outside).astype(np.float64)
        residual = sitk.DisplacementFieldTransform(self.grid.image(w))
        return sitk.CompositeTransform([self.outside.to_transform(), residual])

    def residual(self, affine: Affine) -> np.ndarray:
        """w (z, y, x, 3) float32 mm of T(x) = A(x + w(x)) on this grid, A an affine map."""
        # A^-1(x + u) - x = M^-1 (u - (A(x) - x)): differences of small numbers, so single precision will do
        back = np.linalg.inv(affine.matrix).T.astype(np.float32)
        return (self.displacement - _affine_displacement(self.grid, affine)) @ back

    @classmethod
    def from_residual(
        cls, grid: Grid, w: np.ndarray, affine: Affine, outside: Affine | None
    ) -> DisplacementField:
        """T(x) = A(x + w(x)) of w (z, y, x, 3) float32 mm on a grid, A an affine map."""
        u = w @ affine.matrix.T.astype(np.float32)
        u += _affine_displacement(grid, affine)
        return cls(grid, u, outside)

    def transform_over(self, grid: Grid) -> sitk.Transform:
        """An ITK transform that is this map at every point of ``grid``, past the field's own grid too."""
        if self.outside is not None and self.displacement_is_affine_at_border():
            return self.to_transform()
        return self.covering(grid).to_transform()

    def write(self, path: str | os.PathLike) -> None:
        """Write as displacement field (.nrrd, .nii.gz, .mha) or transform file (.h5, .tfm),
        as ITK and Slicer read them.

        A displacement field file has no map outside its grid (ITK: 0); ``covering(grid)`` first makes it
        reach over an image.

        Raises
        ------
        OutputError : unknown format, or the file cannot be written.
        """
        path = Path(path)
        ending = transform_ending(path)
        with replacing(path) as temporary:
            try:
                with memory_errors():
                    if ending in READ_FIELD_ENDINGS:
                        image = self.grid.image(rounded(self.displacement))
                        sitk.WriteImage(image, str(temporary), ending != ".nii")
                    elif ending == ".h5":
                        w = self.displacement if self.outside is None else self.residual(self.outside)
                        write_hdf5(temporary, self.grid, rounded(w), self.outside)
                    else:
                        sitk.WriteTransform(self.to_transform(), str(temporary))
            except RuntimeError as error:
                raise OutputError(f"{path} cannot be written: {itk_message(error)}.") from error

    @classmethod
    def read(cls, path: str | os.PathLike, grid: Grid | None = None) -> DisplacementField:
        """Read a displacement field or any ITK transform file.

        Parameters
        ----------
        grid : where to sample a transform that brings no grid of its own (affine, B-spline, composite); not
            used otherwise.

        Raises
        ------
        InputError : the file is missing, is neither, or needs a grid.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path} does not exist; give a transform or displacement field file.")
        if path.name.lower().endswith(READ_FIELD_ENDINGS):
            try:
                with memory_errors():
                    image = sitk.ReadImage(str(path))
            except RuntimeError as error:
                raise InputError(
                    f"{path} cannot be read as a displacement field: {itk_message(error)}."
                ) from error
            if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 3:
                raise InputError(f"{path} is not a displacement field: it needs 3D vectors on a 3D grid.")
            return cls(Grid.from_image(image), sitk.GetArrayFromImage(image))
        try:
            with memory_errors():
                transform = sitk.ReadTransform(str(path))
        except RuntimeError as error:
            raise InputError(f"{path} cannot be read as a transform: {itk_message(error)}.") from error
        own = _as_written_here(transform)
        if own is not None:
            return own
        if grid is None:
            raise InputError(f"{path} brings no grid of its own; give the fixed image too.")
        return cls.from_transform(transform, grid)


def rounded(u: np.ndarray) -> np.ndarray:
    """Displacements as files hold them: multiples of 1/128 mm, so at most 0.004 mm off along an axis."""
    return np.rint(u * np.float32(1 / FILE_STEP_MM)) * np.float32(FILE_STEP_MM)


def _affine_displacement(grid: Grid, affine: Affine) -> np.ndarray:
    """(z, y, x, 3) float32: A(x) - x at the grid's voxels, built axis by axis."""
    slope = (affine.matrix - np.eye(3)) @ grid.index_to_world_matrix
    start = affine(np.asarray(grid.origin)) - grid.origin
    x, y, z = (np.arange(n) for n in grid.size)
    out = np.empty((*grid.shape, 3), np.float32)
    for axis in range(3):
        plane = (start[axis] + slope[axis, 0] * x)[None] + (slope[axis, 1] * y)[:, None]
        np.add(
            plane.astype(np.float32), (slope[axis, 2] * z)[:, None, None].astype(np.float32), out[..., axis]
        )
    return out


def box_to_box(fixed_grid: Grid, moving_grid: Grid) -> Affine:
    """The affine map that carries index i of the fixed grid to index i of the moving grid."""
    matrix = moving_grid.index_to_world_matrix @ np.linalg.inv(fixed_grid.index_to_world_matrix)
    return Affine(matrix, np.asarray(moving_grid.origin) - matrix @ np.asarray(fixed_grid.origin))


def _as_written_here(transform: sitk.Transform) -> DisplacementField | None:
    """The field of a displacement transform, or of the composite that ``to_transform`` makes;
    None for anything else."""
    if transform.GetTransformEnum() == sitk.sitkDisplacementField:
        image = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
        return DisplacementField(Grid.from_image(image), sitk.GetArrayFromImage(image))
    if transform.GetTransformEnum() != sitk.sitkComposite:
        return None
    composite = sitk.CompositeTransform(transform)
    if composite.GetNumberOfTransforms() != 2:
        return None
    first, second = composite.GetNthTransform(0), composite.GetNthTransform(1)
    if first.GetTransformEnum() != sitk.sitkAffine or second.GetTransformEnum() != sitk.sitkDisplacementField:
        return None
    matrix = sitk.AffineTransform(first)
    centre = np.asarray(matrix.GetCenter())
    linear = np.reshape(matrix.GetMatrix(), (3, 3))
    affine = Affine(linear, np.asarray(matrix.GetTranslation()) + centre - linear @ centre)
    image = sitk.DisplacementFieldTransform(second).GetDisplacementField()
    grid = Grid.from_image(image)
    w = sitk.GetArrayViewFromImage(image).astype(np.float32)
    field = DisplacementField(
        grid, w @ linear.T.astype(np.float32) + _affine_displacement(grid, affine), affine
    )
    return field if field.displacement_is_affine_at_border() else None
