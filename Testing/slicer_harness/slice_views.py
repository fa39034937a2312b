"""Slice views without a window: Slicer's real slice logic and displayable managers, rendered off screen."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

ORIENTATIONS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}


class SliceView:
    """One view: ``logic``, ``mrmlSliceNode()``, and ``image()``, what the screen would show."""

    def __init__(self, application_logic, name, size=(360, 360), orientation=None) -> None:
        self.name, self.size = name, size
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application_logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        _known_logics(application_logic).AddItem(self.logic)
        node = self.logic.AddSliceNode(name)
        node.SetOrientation(orientation or ORIENTATIONS[name])
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
            "vtkMRMLTransformsDisplayableManager2D",
            "vtkMRMLColorLegendDisplayableManager",
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
        mapper = self._mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
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
        self._mapper.SetInputConnection(self.logic.GetImageDataConnection())  # another one after other layers
        return picture_of(self._window)


def _known_logics(application_logic):
    """Those that the application knows, without those of views that are gone with their scene or layout."""
    if application_logic.GetSliceLogics() is None:
        application_logic.SetSliceLogics(vtk.vtkCollection())
    known = application_logic.GetSliceLogics()
    for logic in [known.GetItemAsObject(n) for n in range(known.GetNumberOfItems())]:
        node = logic.GetSliceNode()
        if node is None or slicer.mrmlScene.GetNodeByID(node.GetID()) is not node:
            known.RemoveItem(logic)
    return known


def picture_of(window) -> np.ndarray:
    """(rows, columns, 3) uint8 of a render window."""
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
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

    def layoutLogic(self):
        return _LayoutLogic()

    @property
    def layout(self):
        return _LayoutLogic().GetLayoutNode().GetViewArrangement()

    def setLayout(self, number):
        """Slicer's own layouts are all the three usual views here; others make the views that they name."""
        node = _LayoutLogic().GetLayoutNode()
        if number > 100 and not node.IsLayoutDescription(number):
            raise ValueError(f"there is no layout {number}")
        node.SetViewArrangement(number)
        for name in self.sliceViewNames():
            self.sliceWidget(name)

    def _orientations(self):
        node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        if node is None or node.GetViewArrangement() <= 100:
            return ORIENTATIONS
        text = node.GetLayoutDescription(node.GetViewArrangement())
        views = ElementTree.fromstring(text).iter("view")
        return {v.get("singletontag"): v.findtext("property[@name='orientation']") for v in views}

    def sliceViewNames(self):
        return list(self._orientations())

    def mrmlSliceLogics(self):
        return _known_logics(self._logic)

    def sliceWidget(self, name):
        view = self._views.get(name)
        if view is None or slicer.mrmlScene.GetNodeByID(view.mrmlSliceNode().GetID()) is None:
            orientation = self._orientations().get(name)
            view = self._views[name] = SliceView(self._logic, name, orientation=orientation)
        return view

    def resetSliceViews(self):
        for name in self.sliceViewNames():
            self.sliceWidget(name).fit()

    def resetThreeDViews(self):
        pass


class _LayoutLogic:
    """The node that keeps the layout's number and descriptions."""

    def GetLayoutNode(self):
        node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        if node is None:
            node = slicer.mrmlScene.AddNode(slicer.vtkMRMLLayoutNode())
            node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)
        return node
