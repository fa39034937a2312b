"""The lungs as a surface for the 3D view."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from ProgressiveRegistrationLib.geometry import Grid
from vtk.util import numpy_support

from .mrml import RAS_LPS, vtk_matrix

SURFACE_MM = 5.0  # translucent, drawn in software: finer takes 0.3 s a picture
LUNG_COLOUR = (0.72, 0.80, 0.86)


def lung_surface(mask: sitk.Image) -> vtk.vtkPolyData:
    """The border of a lung mask as a smooth surface, RAS mm, on a lattice of 5 mm; in any thread."""
    grid = Grid.from_image(mask)
    grid = grid.with_spacing(np.maximum(grid.spacing, SURFACE_MM)).padded(2)
    inside = sitk.SmoothingRecursiveGaussian(
        sitk.Cast(grid.resample(sitk.Cast(mask > 0, sitk.sitkFloat32), default=0.0), sitk.sitkFloat32),
        SURFACE_MM,
    )
    values = sitk.GetArrayFromImage(inside)
    image = vtk.vtkImageData()
    image.SetDimensions(*grid.size)
    image.GetPointData().SetScalars(numpy_support.numpy_to_vtk(values.ravel(), deep=True))
    edges = vtk.vtkFlyingEdges3D()
    edges.SetInputData(image)
    edges.SetValue(0, 0.5)
    edges.ComputeNormalsOff()
    edges.ComputeScalarsOff()
    smooth = vtk.vtkWindowedSincPolyDataFilter()
    smooth.SetInputConnection(edges.GetOutputPort())
    smooth.SetNumberOfIterations(25)
    smooth.SetPassBand(0.02)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = grid.index_to_world_matrix, grid.origin
    transform = vtk.vtkTransform()
    transform.SetMatrix(vtk_matrix(RAS_LPS @ matrix))
    placed = vtk.vtkTransformPolyDataFilter()
    placed.SetInputConnection(smooth.GetOutputPort())
    placed.SetTransform(transform)
    normals = vtk.vtkPolyDataNormals()
    normals.SetInputConnection(placed.GetOutputPort())
    normals.SplittingOff()
    normals.AutoOrientNormalsOn()
    normals.Update()
    return normals.GetOutput()


def show_surface(surface: vtk.vtkPolyData, name: str, opacity: float = 0.25):
    """A new model node with a surface, seen in 3D alone."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", slicer.mrmlScene.GenerateUniqueName(name))
    node.SetAndObservePolyData(surface)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetColor(*LUNG_COLOUR)
    display.SetOpacity(opacity)
    display.SetVisibility2D(False)
    return node
