"""One volume's values at another volume's voxels, with both placed in the scene as they are."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support


def resampled(moving, fixed, outside: float | None = None) -> np.ndarray:
    """(z, y, x): the moving volume at the fixed volume's voxels with both placed as they are now (linear).

    ``outside`` : the value beyond the moving volume, and float32 then; None: the moving volume's smallest.
    """
    through = vtk.vtkGeneralTransform()
    through.PostMultiply()
    matrix = vtk.vtkMatrix4x4()
    fixed.GetIJKToRASMatrix(matrix)
    through.Concatenate(matrix)
    between = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        fixed.GetParentTransformNode(), moving.GetParentTransformNode(), between
    )
    through.Concatenate(between)
    back = vtk.vtkMatrix4x4()
    moving.GetRASToIJKMatrix(back)
    through.Concatenate(back)
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(moving.GetImageData())
    reslice.SetResliceTransform(through)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputSpacing(1, 1, 1)
    size = fixed.GetImageData().GetDimensions()
    reslice.SetOutputExtent(0, size[0] - 1, 0, size[1] - 1, 0, size[2] - 1)
    reslice.SetInterpolationModeToLinear()
    if outside is None:
        reslice.SetBackgroundLevel(moving.GetImageData().GetScalarRange()[0])
    else:
        reslice.SetOutputScalarType(vtk.VTK_FLOAT)
        reslice.SetBackgroundLevel(outside)
    reslice.Update()
    return numpy_support.vtk_to_numpy(reslice.GetOutput().GetPointData().GetScalars()).reshape(size[::-1])
