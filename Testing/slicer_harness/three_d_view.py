"""A 3D view without a window: Slicer's real displayable managers, rendered off screen."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from .slice_views import picture_of

MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLTransformsDisplayableManager3D",
    "vtkMRMLColorLegendDisplayableManager",
)


class ThreeDView:
    """Make it before what it is to show, as in the application: some managers look only at what is added."""

    def __init__(self, size=(400, 400)) -> None:
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        for manager in MANAGERS:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self._logic = slicer.vtkMRMLViewLogic()
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetSize(*size)
        self._renderer = vtk.vtkRenderer()
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._managers = factory.InstantiateDisplayableManagers(self._renderer)
        self._managers.SetMRMLDisplayableNode(self._logic.AddViewNode("1"))

    def image(self) -> np.ndarray:
        """(rows, columns, 3) uint8: all that is visible."""
        self._window.Render()
        self._renderer.ResetCamera()
        return picture_of(self._window)
