"""The slice views and the 3D view: what they show, and what a click in one does to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.memory import trim
from ProgressiveRegistrationSlicer import mrml, overlays
from ProgressiveRegistrationSlicer.choices import FusionMode
from ProgressiveRegistrationSlicer.fusion import FLICKER_MS, SQUARE_MM, Fusion, alternated
from trame_server.utils.asynchronous import create_task
from trame_slicer.core import SlicerApp
from trame_slicer.views import SliceView, ViewLayoutDefinition

AXIAL, CORONAL, SAGITTAL, THREE_D = "Axial", "Coronal", "Sagittal", "3D"
SLICES = (AXIAL, CORONAL, SAGITTAL)
LETTER = {AXIAL: "S", CORONAL: "A", SAGITTAL: "R"}
DEFINITIONS = {
    AXIAL: ViewLayoutDefinition.axial_view(),
    CORONAL: ViewLayoutDefinition.coronal_view(),
    SAGITTAL: ViewLayoutDefinition.sagittal_view(),
    THREE_D: ViewLayoutDefinition.threed_view(background_color=("#15181c", "#2b3138")),
}
# window, level in HU
WINDOWS = {"Lung": (1400.0, -500.0), "Mediastinum": (400.0, 40.0), "Bone": (1800.0, 400.0)}
MAX_COMPARED = (
    12_000_000  # voxels of a checkerboard or difference: what a screen can show, and no more memory
)
FIRST = 10.0  # before Slicer's own interaction


class PageFusion(Fusion):
    """Flickers by the event loop's clock, and computes what a mode shows beside the page.

    ``registration`` gives the engine's ``Registration`` of the pair, or None; ``drawn`` is called when the
    views show something else: trame's views do not look at the slices' layers by themselves.
    """

    def __init__(self, registration: Callable, drawn: Callable) -> None:
        super().__init__()
        self._drawn = drawn
        self._registration = registration
        self._task = self._made = self._lattice = None

    def make(self, compute: Callable, then: Callable) -> None:
        async def run():
            then(await asyncio.to_thread(compute))
            self._drawn()
            await asyncio.to_thread(trim)

        self._made = create_task(run())

    def computation(self, mode: FusionMode, fixed, moving, transform) -> Callable:
        """As ``Fusion``'s, from the engine's field and with what lets go of Python's lock."""
        registration = self._registration()
        if mode is FusionMode.UNCERTAINTY:
            return super().computation(mode, fixed, moving, transform)
        if mode is FusionMode.JACOBIAN:
            field = None if registration is None else registration.field
            return lambda: None if field is None else (field.grid, field.jacobian_determinant())
        readers = [mrml.volume_reader(volume) for volume in (fixed, moving)]

        def compute():
            ours, theirs = (read() for read in readers)
            grid = Grid.from_image(ours)
            coarser = (float(np.prod(grid.size, dtype=float)) / MAX_COMPARED) ** (1 / 3)
            if coarser > 1:
                grid = grid.with_spacing(np.asarray(grid.spacing) * coarser)
                ours = grid.resample(ours)
            outside = _outside(theirs, mode)
            if registration is not None:
                theirs = registration.field.warp_image(theirs, grid, default=outside)
            else:
                theirs = grid.resample(theirs, default=outside)
            self._lattice = grid
            # Views: the images they look at must stay.
            here, there = sitk.GetArrayViewFromImage(ours), sitk.GetArrayViewFromImage(theirs)
            if mode is FusionMode.CHECKERBOARD:
                return alternated(here, there, grid.spacing, SQUARE_MM)
            return overlays.difference_of(here, there)

        return compute

    def _make_board(self, fixed, values):
        return self._placed(super()._make_board(fixed, values))

    def _make_difference(self, fixed, values):
        return self._placed(super()._make_difference(fixed, values))

    def _placed(self, board):
        """Large volumes are compared on a coarser lattice than the fixed one's: put the result there."""
        world = np.eye(4)
        world[:3, :3], world[:3, 3] = self._lattice.index_to_world_matrix, self._lattice.origin
        board.SetAndObserveTransformNodeID(None)
        board.SetIJKToRASMatrix(mrml.vtk_matrix(mrml.RAS_LPS @ world))
        return board

    def flicker(self) -> None:
        super().flicker()
        self._drawn()

    def set_opacity(self, opacity: float) -> None:
        super().set_opacity(opacity)
        self._drawn()

    def set_window(self, window: float, level: float) -> None:
        super().set_window(window, level)
        self._drawn()

    def show(self, *arguments) -> None:
        if self._made is not None:
            self._made.cancel()
        super().show(*arguments)

    def start_timer(self) -> None:
        self._task = create_task(self._run())

    def stop_timer(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLICKER_MS / 1000)
            self.flicker()


def _outside(image: sitk.Image, mode: FusionMode) -> float:
    """What a comparison has beyond the moving image; in a difference nothing, where its type can say so."""
    values = sitk.GetArrayViewFromImage(image)
    if mode is not FusionMode.DIFFERENCE:
        return float(values.min())
    least = np.iinfo(values.dtype).min if np.issubdtype(values.dtype, np.integer) else -np.inf
    return float(max(least, overlays.OUTSIDE_HU))


class Views:
    """The four views of the page, by name.

    Parameters
    ----------
    app : trame-slicer's application, whose view factories are registered.
    picked : called with world RAS mm when the user clicks or drags in a slice view while ``picking``.
    moved : called with a view's name when its slice was moved.
    registration : gives the engine's ``Registration`` of the pair, or None.
    """

    def __init__(self, app: SlicerApp, picked: Callable, moved: Callable, registration: Callable) -> None:
        self._picked = picked
        self.picking = True
        self.views = {name: app.view_manager.create_view(d) for name, d in DEFINITIONS.items()}
        app.view_manager.set_current_view_ids([d.singleton_tag for d in DEFINITIONS.values()])
        # Depth peeling draws the translucent lungs; with multisampling it shows nothing in software.
        self.views[THREE_D].render_window().SetMultiSamples(0)
        self.views[THREE_D].renderer().SetUseFXAA(True)
        self.fusion = PageFusion(registration, self.render_slices)
        self._down: str | None = None
        self._tags: dict = {}
        for name in SLICES:
            view = self.views[name]
            view.modified.connect(lambda *_, name=name: moved(name))
            self._listen(name, view)
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        crosshair.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.ShowBasic)
        crosshair.SetCrosshairThickness(slicer.vtkMRMLCrosshairNode.Fine)
        self.crosshair = crosshair

    def _listen(self, name: str, view: SliceView) -> None:
        interactor = view.interactor()
        for event, then in (
            ("LeftButtonPressEvent", self._press),
            ("MouseMoveEvent", self._drag),
            ("LeftButtonReleaseEvent", self._release),
        ):

            def heard(caller, _event, name=name, then=then, event=event):
                if then(name, caller):
                    # nothing else shall act on it
                    caller.GetCommand(self._tags[name, event]).SetAbortFlag(1)

            self._tags[name, event] = interactor.AddObserver(event, heard, FIRST)

    def _press(self, name: str, interactor) -> bool:
        if not self.picking:
            return False
        self._down = name
        self._picked(self._ras(name, interactor), True)
        return True

    def _drag(self, name: str, interactor) -> bool:
        if self._down != name:
            return False
        self._picked(self._ras(name, interactor), False)
        return True

    def _release(self, name: str, _interactor) -> bool:
        was, self._down = self._down, None
        return was is not None

    def _ras(self, name: str, interactor) -> tuple[float, float, float]:
        x, y = interactor.GetEventPosition()
        return tuple(self.node(name).GetXYToRAS().MultiplyPoint((x, y, 0.0, 1.0))[:3])

    def node(self, name: str):
        """The MRML slice node of a view."""
        return self.views[name].get_view_node()

    def jump(self, ras) -> None:
        """All slice views to a point, which the crosshair marks."""
        self.crosshair.SetCrosshairRAS(*map(float, ras))
        slicer.vtkMRMLSliceNode.JumpAllSlices(
            slicer.mrmlScene, *map(float, ras), slicer.vtkMRMLSliceNode.OffsetJumpSlice
        )

    def at(self) -> tuple[float, float, float]:
        """World RAS mm of the crosshair."""
        return tuple(self.crosshair.GetCrosshairRAS())

    def offset(self, name: str) -> tuple[float, float, float, float]:
        """(position, first, last, step) of a slice view, mm."""
        view = self.views[name]
        first, last = view.get_slice_range()
        return view.get_slice_value(), first, last, max(view.get_slice_step(), 0.1)

    def position(self, name: str) -> float:
        """Where a slice is along the patient's axis that its legend names, RAS mm."""
        matrix = self.node(name).GetSliceToRAS()
        return matrix.GetElement((SAGITTAL, CORONAL, AXIAL).index(name), 3)

    def set_offset(self, name: str, value: float) -> None:
        self.views[name].set_slice_value(float(value))

    def show_alone(self, volume) -> None:
        """One volume in grey, or nothing."""
        for name in SLICES:
            self.views[name].set_background_volume_id(volume.GetID() if volume is not None else None)
            self.views[name].set_foreground_volume_id(None)
        if volume is not None:
            display = volume.GetDisplayNode()
            display.SetAutoWindowLevel(False)
            display.SetWindowLevel(*self.fusion.window)

    def set_window(self, window: float, level: float) -> None:
        """Window and level of all that is shown, HU."""
        self.fusion.set_window(window, level)
        for name in SLICES:
            volume = slicer.mrmlScene.GetNodeByID(self.views[name].get_background_volume_id() or "")
            if volume is not None and volume.GetDisplayNode() is not None:
                volume.GetDisplayNode().SetWindowLevel(window, level)

    def fit(self) -> None:
        """All of the fixed volume and of the models in the views; the crosshair in the middle."""
        for name in SLICES:
            self.views[name].fit_view_to_content()
        middle = [0.0, 0.0, 0.0]
        for name, axis in ((SAGITTAL, 0), (CORONAL, 1), (AXIAL, 2)):
            middle[axis] = self.views[name].get_slice_value()
        self.crosshair.SetCrosshairRAS(*middle)
        self.fit_3d()

    def fit_3d(self) -> None:
        """All models and landmarks in the 3D view, seen from the front.

        trame-slicer's own way counts the crosshair, too, which is as large as the view is far: each time
        it goes farther away.
        """
        box = vtk.vtkBoundingBox()
        for kind in ("vtkMRMLModelNode", "vtkMRMLMarkupsNode"):
            for node in slicer.util.getNodesByClass(kind):
                display, bounds = node.GetDisplayNode(), [1.0, -1.0] * 3
                if display is not None and display.GetVisibility() and display.GetVisibility3D():
                    node.GetRASBounds(bounds)
                if vtk.vtkMath.AreBoundsInitialized(bounds):
                    box.AddBounds(bounds)
        view = self.views[THREE_D]
        view.fit_view_to_content()
        if box.IsValid():
            bounds = [0.0] * 6
            box.GetBounds(bounds)
            view.renderer().ResetCameraScreenSpace(bounds)
            view.schedule_render()

    def render_slices(self) -> None:
        """Draw the slice views again; the 3D view looks at its models by itself."""
        for name in SLICES:
            self.views[name].schedule_render()
