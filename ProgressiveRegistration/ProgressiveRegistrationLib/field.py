"""The displacement field: what a registration gives. It maps fixed to moving, T(x) = x + u(x), LPS mm.

Stored as u on a grid. Past the grid's outermost voxel centres it goes on as an affine map, if the field has
one (it was then built to meet that map at its border), or else with its border value. ITK's displacement
transform returns 0 there instead: ``to_transform`` and ``warp_image`` see to it that ITK computes the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .errors import InputError, OutputError, memory_errors
from .files import replacing
from .formats import READ_FIELD_ENDINGS, transform_ending
from .geometry import Affine, Box, Grid, continued, steps_to_cover
from .images import itk_message, warp_image
from .progress import Stop, check

FADE_MM = 40.0
MAX_SPACING_MM = 2.5


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
    ) -> sitk.Image:
        """moving(T(x)) on the reference's grid, in the moving image's type; see ``images.warp_image``."""
        grid = reference if isinstance(reference, Grid) else Grid.from_image(reference)
        return warp_image(moving, grid, self.covering(grid).to_transform(), label=label, default=default)

    # ---- algebra -------------------------------------------------------------------------------------------

    def resample(self, grid: Grid) -> DisplacementField:
        """The same map on another grid."""
        u = np.empty((*grid.shape, 3), np.float32)
        points = grid.points()
        for k in range(grid.shape[0]):  # by slice: bounded memory
            u[k] = self.sample(points[k])
        return DisplacementField(grid, u, self.outside)

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
        points = self.grid.points()
        for axis in range(3):
            for end in (0, -1):
                x = points.take(end, axis).astype(float)
                gap = self.outside(x) - x - self.displacement.take(end, axis)
                if np.abs(gap).max() > tolerance:
                    return False
        return True

    def faded(self, affine: Affine, margin: float = FADE_MM) -> DisplacementField:
        """A field on a larger grid that goes over smoothly into ``affine`` within
        ``margin`` mm of this grid's border."""
        pad = np.ceil(margin / np.asarray(self.grid.spacing)).astype(int)
        grid = self.grid.padded(tuple(pad))
        residual = self.displacement - _affine_displacement(self.grid, affine)
        residual = np.pad(residual, [*((int(p), int(p)) for p in pad[::-1]), (0, 0)], mode="edge")
        away = np.zeros(grid.shape, np.float32)
        for axis, (n, p) in enumerate(zip(self.grid.size, pad)):
            i = np.arange(-p, n + p)
            steps = np.maximum(np.maximum(-i, i - (n - 1)), 0) / p
            shape = [1, 1, 1]
            shape[2 - axis] = -1
            away = np.maximum(away, steps.reshape(shape).astype(np.float32))
        residual *= (0.5 + 0.5 * np.cos(np.pi * away))[..., None]
        residual += _affine_displacement(grid, affine)
        return DisplacementField(grid, residual, affine)

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
        """The map from moving to fixed, by fixed-point iteration x <- A^-1(y) - w(x), with T = A(x + w(x)).

        Parameters
        ----------
        grid : where the inverse is wanted; None: this lattice's spacing around the image of this grid.
        tolerance : mm; iteration stops when no point moves more. cancelled : polled at every slice.
        """
        affine = self.outside or Affine(np.eye(3), self.displacement.reshape(-1, 3).mean(0))
        back = affine.inverse()
        if grid is None:
            box = Box.around(self.warp_points(self.grid.corners())).grown(max(self.grid.spacing))
            grid = box.grid(1).with_spacing(self.grid.spacing)
        points = grid.points()
        u = np.empty((*grid.shape, 3), np.float32)
        for k in range(grid.shape[0]):
            check(cancelled)
            y = points[k].reshape(-1, 3).astype(float)
            start = back(y)
            x = start.copy()
            moving = np.arange(len(y))
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
            u[k] = (x - y).reshape(*grid.shape[1:], 3)
        inverted = DisplacementField(grid, u, back if self.outside is not None else None)
        return inverted if inverted.displacement_is_affine_at_border() else DisplacementField(grid, u)

    def jacobian_determinant(self) -> np.ndarray:
        """(z, y, x) float32: det(dT/dx), central differences (one-sided at the border), no unit."""
        to_world = np.linalg.inv(self.grid.index_to_world_matrix)
        # rows: d u_c / d index axis, then to mm by the chain rule
        gradient = np.empty((*self.grid.shape, 3, 3), np.float32)
        for component in range(3):
            for axis in range(3):
                if self.grid.size[axis] == 1:
                    gradient[..., component, axis] = 0
                else:
                    gradient[..., component, axis] = np.gradient(
                        self.displacement[..., component], axis=2 - axis
                    )
        jacobian = gradient @ to_world.astype(np.float32)
        del gradient
        for axis in range(3):
            jacobian[..., axis, axis] += 1
        a, b, c = (jacobian[..., row, :] for row in range(3))
        return np.einsum("...i,...i->...", a, np.cross(b, c)).astype(np.float32)

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
        u = self.displacement.astype(np.float64)
        if self.outside is None:
            return sitk.DisplacementFieldTransform(self.grid.image(u))
        points = self.grid.points().astype(float)
        w = self.outside.inverse()(points + u) - points
        residual = sitk.DisplacementFieldTransform(self.grid.image(w))
        return sitk.CompositeTransform([self.outside.to_transform(), residual])

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
                        sitk.WriteImage(self.to_image(), str(temporary), ending != ".nii")
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


def _affine_displacement(grid: Grid, affine: Affine) -> np.ndarray:
    """(z, y, x, 3) float32: A(x) - x at the grid's voxels, built axis by axis."""
    slope = (affine.matrix - np.eye(3)) @ grid.index_to_world_matrix
    start = affine(np.asarray(grid.origin)) - grid.origin
    x, y, z = (np.arange(n) for n in grid.size)
    out = np.empty((*grid.shape, 3), np.float32)
    for axis in range(3):
        out[..., axis] = (start[axis] + slope[axis, 0] * x)[None, None] + (
            (slope[axis, 1] * y)[None, :, None] + (slope[axis, 2] * z)[:, None, None]
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
    points = grid.points().astype(float)
    field = DisplacementField(grid, affine(points + sitk.GetArrayViewFromImage(image)) - points, affine)
    return field if field.displacement_is_affine_at_border() else None
