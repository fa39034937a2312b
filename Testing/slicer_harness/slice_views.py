"""Slice views without a window: Slicer's real slice logic and displayable managers, rendered off screen."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

ORIENTATIONS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}


class SliceView:
    """One view: ``logic``, ``mrmlSliceNode()``, and ``image()``, what the screen would show."""

    def __init__(self, application_logic, name, size=(360, 360)) -> None:
        self.name, self.size = name, size
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application_logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        logics = application_logic.GetSliceLogics()
        if logics is not None:
            logics.AddItem(self.logic)
        node = self.logic.AddSliceNode(name)
        node.SetOrientation(ORIENTATIONS[name])
        node.SetDimensions(*size, 1)
        node.SetLayoutName(name)
        self._application_logic = application_logic
        self._window = None

    # the names that PythonQt shows of qMRMLSliceWidget and its parts
    def sliceLogic(self):
        return self.logic

    def mrmlSliceNode(self):
        return self.logic.GetSliceNode()

    def sliceController(self):
        return self

    def fitSliceToBackground(self):
        self.logic.FitSliceToBackground(*self.size)

    def fit(self):
        self.logic.FitSliceToAll(*self.size)

    def _make_window(self):
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(self._application_logic)
        for manager in (
            "vtkMRMLModelSliceDisplayableManager",
            "vtkMRMLMarkupsDisplayableManager",
            "vtkMRMLSegmentationsDisplayableManager2D",
        ):
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetSize(*self.size)
        self._window.SetMultiSamples(4)
        self._renderer = vtk.vtkRenderer()
        self._renderer.SetBackground(0, 0, 0)
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        mapper.SetInputConnection(self.logic.GetImageDataConnection())
        actor = vtk.vtkActor2D()
        actor.SetMapper(mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(actor)
        self._managers = factory.InstantiateDisplayableManagers(self._renderer)
        self._managers.SetMRMLDisplayableNode(self.mrmlSliceNode())

    def image(self) -> np.ndarray:
        """(rows, columns, 3) uint8."""
        if self._window is None:
            self._make_window()
        self.mrmlSliceNode().SetDimensions(*self.size, 1)
        self.logic.UpdatePipeline()
        self._window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self._window)
        grab.ReadFrontBufferOff()
        grab.Update()
        out = grab.GetOutput()
        values = numpy_support.vtk_to_numpy(out.GetPointData().GetScalars())
        return values.reshape(out.GetDimensions()[1], out.GetDimensions()[0], -1)[::-1, :, :3].copy()


class LayoutManager:
    """``slicer.app.layoutManager()`` with the three usual slice views, made when first asked for."""

    threeDViewCount = tableViewCount = plotViewCount = 0

    def __init__(self, application_logic) -> None:
        self._logic = application_logic
        self._views = {}

    def sliceViewNames(self):
        return list(ORIENTATIONS)

    def sliceWidget(self, name):
        view = self._views.get(name)
        if view is None or slicer.mrmlScene.GetNodeByID(view.mrmlSliceNode().GetID()) is None:
            view = self._views[name] = SliceView(self._logic, name)
        return view

    def resetSliceViews(self):
        for name in self.sliceViewNames():
            self.sliceWidget(name).fit()
