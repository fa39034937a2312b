"""A displacement field as a cubic B-spline, for programs that read no fields."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Grid
from vtk.util import numpy_support

from . import mrml

KNOT_MM = 8.0
PAD = 3  # knots beyond the volume: a cubic needs two


@dataclass(frozen=True)
class BSpline:
    """Control lattice (LPS), coefficients (z, y, x, 3) mm RAS, and how far it is from the field.

    ``error_p95_mm``, ``error_max_mm`` : |spline - field| at the field's points inside the fixed volume.
    """

    lattice: Grid
    coefficients: np.ndarray
    error_p95_mm: float
    error_max_mm: float


def bspline_of(field: DisplacementField, cover: Grid, knot_mm: float = KNOT_MM) -> BSpline:
    """The spline that agrees with the field at knots ``knot_mm`` apart over ``cover``; in any thread."""
    lattice = cover.with_spacing(knot_mm).padded(PAD)
    values = field.sample(lattice.points().reshape(-1, 3).astype(float)).reshape(*lattice.shape, 3)
    parts = [
        sitk.GetArrayFromImage(sitk.BSplineDecomposition(lattice.image(np.ascontiguousarray(values[..., c]))))
        for c in range(3)
    ]
    coefficients = mrml._ras(np.stack(parts, -1).astype(np.float32)).astype(np.float64)
    made = BSpline(lattice, coefficients, 0.0, 0.0)
    probe = vtk_bspline(made)
    points = cover.with_spacing(np.maximum(cover.spacing, 6.0)).points().reshape(-1, 3).astype(float)
    given, found = vtk.vtkPoints(), vtk.vtkPoints()
    for p in (given, found):
        p.SetDataTypeToDouble()
    given.SetData(numpy_support.numpy_to_vtk(np.ascontiguousarray(points * [-1, -1, 1]), deep=True))
    probe.TransformPoints(given, found)
    mapped = numpy_support.vtk_to_numpy(found.GetData()) * [-1, -1, 1]
    errors = np.linalg.norm(mapped - field.warp_points(points), axis=1)
    return BSpline(lattice, coefficients, float(np.percentile(errors, 95)), float(errors.max()))


def vtk_bspline(spline: BSpline):
    """As VTK and MRML keep it: displacement in mm RAS, fixed -> moving."""
    grid = spline.lattice
    image = vtk.vtkImageData()
    image.SetDimensions(*grid.size)
    image.SetOrigin(*(mrml.RAS_LPS[:3, :3] @ np.asarray(grid.origin)))
    image.SetSpacing(*grid.spacing)
    image.GetPointData().SetScalars(
        numpy_support.numpy_to_vtk(np.ascontiguousarray(spline.coefficients.reshape(-1, 3)), deep=True)
    )
    direction = np.eye(4)
    direction[:3, :3] = mrml.RAS_LPS[:3, :3] @ np.reshape(grid.direction, (3, 3))
    transform = slicer.vtkOrientedBSplineTransform()
    transform.SetGridDirectionMatrix(mrml.vtk_matrix(direction))
    transform.SetCoefficientData(image)
    transform.SetBorderModeToZero()
    return transform
