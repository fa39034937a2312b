"""Two volumes in the slice views: fixed in orange, moving in blue, so that what lines up looks grey."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import slicer
import vtk

from . import mrml, overlays
from .choices import FusionMode
from .i18n import _
from .resampling import resampled

ORANGE, BLUE = (1.0, 0.65, 0.3), (0.3, 0.65, 1.0)  # half of each is grey
NAMES = {ORANGE: "ProgressiveRegistration orange", BLUE: "ProgressiveRegistration blue"}
LUNG_WINDOW, LUNG_LEVEL = 1400.0, -500.0
FLICKER_MS = 450
SQUARE_MM = 25.0
BOARD_ATTRIBUTE = "ProgressiveRegistration.Checkerboard"


class Fusion:
    """Sets the slice views' layers and the volumes' colours; gives back what was there when switched off."""

    def __init__(self) -> None:
        self.mode = FusionMode.OFF
        self._volumes: tuple = ()
        self._displays: dict = {}
        self._layers: dict = {}
        self._board_id = None
        self._opacity = 0.5
        self.trust = None  # the engine's ``Uncertainty`` that ``UNCERTAINTY`` shows
        self.window = (LUNG_WINDOW, LUNG_LEVEL)

    def start_timer(self) -> None:
        """Call ``flicker`` every ``FLICKER_MS`` from now on; a subclass has the clock."""

    def stop_timer(self) -> None:
        """No longer."""

    def show(self, mode: FusionMode, fixed, moving, opacity: float = 0.5, transform=None) -> None:
        """Show the pair in this mode; ``FusionMode.OFF`` or a missing volume restores the views.

        ``transform`` : whose volume change ``JACOBIAN`` shows; None: the one that the moving volume is under.
        """
        if mode is FusionMode.OFF or fixed is None or moving is None or fixed is moving:
            self.restore()
            return
        if self._volumes != (fixed.GetID(), moving.GetID()):
            self.restore()
            self._volumes = (fixed.GetID(), moving.GetID())
            self._remember(fixed, moving)
        self.mode, self._opacity = mode, opacity
        self.stop_timer()
        self._remove_board()
        coloured = mode in (FusionMode.OVERLAY, FusionMode.FLICKER)
        colours = (ORANGE, BLUE) if coloured else (None, None)
        for volume, colour in zip((fixed, moving), colours):
            self._colour(volume, colour)
        if not coloured:
            self._set_layers(fixed.GetID(), None, 0.0)
            transform = transform or moving.GetParentTransformNode()
            self.make(
                self.computation(mode, fixed, moving, transform),
                lambda made: self._show_made(mode, fixed, made),
            )
        else:
            self._set_layers(fixed.GetID(), moving.GetID(), opacity)
        if mode is FusionMode.FLICKER:
            self.start_timer()

    def make(self, compute: Callable, then: Callable) -> None:
        """``then(compute())``; a subclass may compute elsewhere, and forget it when another mode is shown."""
        then(compute())

    def computation(self, mode: FusionMode, fixed, moving, transform) -> Callable:
        """What a mode shows: a function that gives (z, y, x) values on the fixed lattice, for ``JACOBIAN``
        and ``UNCERTAINTY`` a lattice and values on it, or None where there is nothing to show."""
        if mode is FusionMode.UNCERTAINTY:
            found = self.trust
            return lambda: None if found is None else (found.grid, found.expected)
        if mode is FusionMode.CHECKERBOARD:
            return lambda: checkerboard(fixed, moving, SQUARE_MM)
        if mode is FusionMode.DIFFERENCE:
            return lambda: overlays.difference(fixed, moving)
        return lambda: None if transform is None else overlays.jacobian(transform, fixed)

    def _show_made(self, mode: FusionMode, fixed, made) -> None:
        if made is None or not _exists(fixed.GetID()):
            return
        self._remove_board()
        if mode is FusionMode.CHECKERBOARD:
            self._set_layers(self._make_board(fixed, made).GetID(), None, 0.0)
        elif mode is FusionMode.DIFFERENCE:
            # beyond the moving volume there is none, and the fixed one is seen
            self._set_layers(fixed.GetID(), self._make_difference(fixed, made).GetID(), 1.0)
        elif mode is FusionMode.JACOBIAN:
            self._set_layers(fixed.GetID(), self._make_jacobian(*made).GetID(), self._opacity)
        else:
            self._set_layers(fixed.GetID(), self._make_trust(*made).GetID(), self._opacity)

    def set_opacity(self, opacity: float) -> None:
        """0 shows the fixed volume alone, 1 the moving one (or what is coloured)."""
        self._opacity = opacity
        if self.mode.lies_over_fixed:
            self._set_opacities(opacity)

    def set_window(self, window: float, level: float) -> None:
        """Show both volumes, and what is made of them, with this window and level, HU."""
        self.window = (window, level)
        board = self._board_id if self.mode is FusionMode.CHECKERBOARD else None
        for identifier in (*self._volumes, board):
            if _exists(identifier):
                slicer.mrmlScene.GetNodeByID(identifier).GetDisplayNode().SetWindowLevel(window, level)

    def restore(self) -> None:
        """Give the views and volumes back their colours and layers, as far as those still exist."""
        self.stop_timer()
        self._remove_board()
        scene = slicer.mrmlScene
        for identifier, (colour, window, level, auto) in self._displays.items():
            display = scene.GetNodeByID(identifier)
            if display is not None:
                display.SetAndObserveColorNodeID(colour)
                display.SetAutoWindowLevel(auto)
                if not auto:
                    display.SetWindowLevel(window, level)
        for identifier, (background, foreground, opacity, compositing) in self._layers.items():
            node = scene.GetNodeByID(identifier)
            if node is not None:
                node.SetBackgroundVolumeID(background if _exists(background) else None)
                node.SetForegroundVolumeID(foreground if _exists(foreground) else None)
                node.SetForegroundOpacity(opacity)
                node.SetCompositing(compositing)
        self.forget()

    def forget(self) -> None:
        """Restore nothing: the scene is closing."""
        self.stop_timer()
        self.mode = FusionMode.OFF
        self._volumes, self._displays, self._layers, self._board_id = (), {}, {}, None

    def _remember(self, fixed, moving) -> None:
        for volume in (fixed, moving):
            volume.CreateDefaultDisplayNodes()
            display = volume.GetDisplayNode()
            colour = display.GetColorNode()
            if colour is None or colour.GetName() in NAMES.values():  # a scene that was saved while fused
                colour = slicer.mrmlScene.GetNodeByID("vtkMRMLColorTableNodeGrey")
            self._displays[display.GetID()] = (
                colour.GetID(),
                display.GetWindow(),
                display.GetLevel(),
                display.GetAutoWindowLevel(),
            )
        for node in _composites():
            self._layers[node.GetID()] = (
                node.GetBackgroundVolumeID(),
                node.GetForegroundVolumeID(),
                node.GetForegroundOpacity(),
                node.GetCompositing(),
            )

    def _colour(self, volume, colour) -> None:
        display = volume.GetDisplayNode()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(*self.window)
        if colour is None:
            display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
        else:
            display.SetAndObserveColorNodeID(colour_node(colour).GetID())

    @staticmethod
    def _set_layers(background, foreground, opacity: float) -> None:
        for node in _composites():
            node.SetCompositing(slicer.vtkMRMLSliceCompositeNode.Alpha)
            node.SetBackgroundVolumeID(background)
            node.SetForegroundVolumeID(foreground)
            node.SetForegroundOpacity(opacity)
        overlays.update_legends()

    @staticmethod
    def _set_opacities(opacity: float) -> None:
        for node in _composites():
            node.SetForegroundOpacity(opacity)

    def flicker(self) -> None:
        """Show the other volume; stops when one is gone."""
        if not all(_exists(identifier) for identifier in self._volumes):
            self.stop_timer()
            return
        for node in _composites():
            node.SetForegroundOpacity(0.0 if node.GetForegroundOpacity() > 0.5 else 1.0)

    def _make_board(self, fixed, values):
        """Squares of the fixed volume and of the moving one as it is placed now, on the fixed lattice."""
        board = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Checkerboard")
        board.SetAttribute(BOARD_ATTRIBUTE, "1")
        board.SetSaveWithScene(False)
        board.CopyOrientation(fixed)
        slicer.util.updateVolumeFromArray(board, values)
        board.SetAndObserveTransformNodeID(fixed.GetTransformNodeID())
        board.CreateDefaultDisplayNodes()
        display = board.GetDisplayNode()
        display.SetSaveWithScene(False)
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(*self.window)
        self._board_id = board.GetID()
        return board

    def _make_difference(self, fixed, values):
        """Moving minus fixed in HU on the fixed lattice, blue to red, with a colour bar."""
        matrix = vtk.vtkMatrix4x4()
        fixed.GetIJKToRASMatrix(matrix)
        board = overlays.temporary_volume(_("Difference"), values, mrml.array_from_matrix(matrix))
        board.SetAndObserveTransformNodeID(fixed.GetTransformNodeID())
        limit = overlays.DIFFERENCE_HU
        overlays.show_between(board, -overlays.MOST_HU, overlays.MOST_HU)
        return self._coloured_board(board, -limit, limit, _("Moving - fixed (HU)"))

    def _make_jacobian(self, lattice, values):
        """The Jacobian determinant over the fixed volume: blue shrinks, red grows from fixed to moving."""
        board = overlays.temporary_volume(_("Local volume change"), values, _index_to_ras(lattice))
        return self._coloured_board(board, *overlays.JACOBIAN, _("Jacobian (1: none)"))

    def _make_trust(self, lattice, expected):
        """The expected error over the fixed volume, mm; red is not to be trusted, beyond the lungs clear."""
        values = np.where(np.isfinite(expected), expected, -1).astype(np.float32)
        board = overlays.temporary_volume(_("Expected error"), values, _index_to_ras(lattice))
        overlays.show_between(board, 0.0, 1e4)
        board.GetDisplayNode().SetInterpolate(False)  # nothing in between lung and no lung
        return self._coloured_board(
            board, *overlays.TRUST_MM, _("Expected error (mm)"), overlays.trust_table()
        )

    def _coloured_board(self, board, low: float, high: float, title: str, table=None):
        board.SetAttribute(BOARD_ATTRIBUTE, "1")
        display = board.GetDisplayNode()
        display.SetAndObserveColorNodeID((table or overlays.diverging_table()).GetID())
        display.SetWindowLevelMinMax(low, high)
        overlays.add_legend(board, title)
        self._board_id = board.GetID()
        return board

    def _remove_board(self) -> None:
        board = slicer.mrmlScene.GetNodeByID(self._board_id) if self._board_id else None
        if board is not None:
            overlays.remove_legend(board)
            slicer.mrmlScene.RemoveNode(board)
        self._board_id = None


def _index_to_ras(lattice) -> np.ndarray:
    """(4, 4): a ``Grid``'s voxel index -> world RAS mm."""
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = lattice.index_to_world_matrix, lattice.origin
    return mrml.RAS_LPS @ world


def checkerboard(fixed, moving, square_mm: float) -> np.ndarray:
    """(z, y, x): values of ``fixed`` and of ``moving`` (as displayed) in alternating cubes."""
    ours, theirs = slicer.util.arrayFromVolume(fixed), resampled(moving, fixed)
    return alternated(ours, theirs, fixed.GetSpacing(), square_mm)


def alternated(ours: np.ndarray, theirs: np.ndarray, spacing, square_mm: float) -> np.ndarray:
    """(z, y, x): two arrays on one lattice in alternating cubes; ``spacing`` x, y, z in mm."""
    out = ours.astype(np.float32)
    parity = np.zeros(ours.shape, bool)
    for axis, step in enumerate(tuple(spacing)[::-1]):
        cells = (np.arange(ours.shape[axis]) * step // square_mm).astype(int) % 2 == 1
        parity ^= cells.reshape([-1 if a == axis else 1 for a in range(3)])
    out[parity] = theirs[parity]
    return out


def colour_node(colour):
    """The colour table from black to ``colour``; made once a scene."""
    name = NAMES[colour]
    node = slicer.mrmlScene.GetFirstNodeByName(name)
    if node is not None:
        return node
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", name)
    node.SetTypeToUser()
    node.SetHideFromEditors(True)
    node.SetNumberOfColors(256)
    table = node.GetLookupTable()
    table.SetTableRange(0, 255)
    for i in range(256):
        node.SetColor(i, str(i), *(c * i / 255 for c in colour), 1.0)
    return node


def _composites() -> list:
    return slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")


def _exists(identifier) -> bool:
    return bool(identifier) and slicer.mrmlScene.GetNodeByID(identifier) is not None
