"""What a transform does, drawn: difference of the volumes, volume change, the warped grid; with legends."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.uncertainty import DISTRUST_MM

from . import mrml
from .i18n import _
from .resampling import resampled

DIFFERENCE_HU = 500.0  # gets the deepest colour
JACOBIAN = (0.0, 2.0)  # 1, no change, lies in the middle
TRUST_MM = (0.0, 2 * DISTRUST_MM)  # what is not to be trusted begins in the middle
OUTSIDE_HU = -1e6  # in a difference: beyond the moving volume
MOST_HU = 2e4  # what a difference can be
OVERLAY_MM = 3.0  # lattice of the Jacobian overlay; the Jacobian volume has the field's own
GRID_MM = 15.0
LEGEND_SIZE = (0.12, 0.45)  # of the view's width and height; upright
LEGEND_PLACES = (  # right, left, below: the first that is free is taken
    (0.95, 0.5, "Vertical"),
    (0.05, 0.5, "Vertical"),
    (0.5, 0.05, "Horizontal"),
)
DIVERGING = "ProgressiveRegistration blue to red"
DISTANCE = "ProgressiveRegistration error"
TRUST = "ProgressiveRegistration trust"
DISPLACEMENT = "ProgressiveRegistration displacement"
DISTANCE_COLOURS = [(0.0, 0.8, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0)]


def difference(fixed, moving) -> np.ndarray:
    """(z, y, x) float32 HU: moving minus fixed on the fixed lattice, both placed as they are now;
    ``OUTSIDE_HU`` beyond the moving volume."""
    return difference_of(slicer.util.arrayFromVolume(fixed), resampled(moving, fixed, OUTSIDE_HU))


def difference_of(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """float32 ``theirs`` minus ``ours``, ``OUTSIDE_HU`` where ``theirs`` is that."""
    beyond = theirs < -MOST_HU
    out = np.subtract(theirs, ours, dtype=np.float32)
    out[beyond] = OUTSIDE_HU
    return out


def jacobian(transform, fixed) -> tuple[Grid, np.ndarray]:
    """Lattice over the fixed volume and (z, y, x) float32: the transform's Jacobian determinant on it.

    The volume's non-linear parents, if it has any, are not part of the lattice.
    """
    cover = mrml.volume_grid(fixed, without=transform)
    lattice = cover.with_spacing(np.maximum(cover.spacing, OVERLAY_MM))
    field = mrml.sampled(mrml.point_map(transform), lattice)
    return lattice, field.jacobian_determinant()


def diverging_table():
    """Blue over white to red, made once a scene: white is no difference, or a Jacobian of 1."""
    return _table(DIVERGING, [(0.13, 0.27, 0.75), (1.0, 1.0, 1.0), (0.75, 0.10, 0.13)])


def distance_table():
    """Cyan over yellow to red, made once a scene. Slicer's rainbows start with red."""
    return _table(DISTANCE, DISTANCE_COLOURS)


def trust_table():
    """From blue-green to yellow where an error is small enough, then red: not to be trusted."""
    colours = [(0.10, 0.45, 0.60), (0.97, 0.90, 0.45), (0.90, 0.15, 0.10), (0.45, 0.0, 0.25)]
    return _table(TRUST, colours, (0.0, 127 / 255, 128 / 255, 1.0))


def show_between(node, low: float, high: float) -> None:
    """Nothing is seen of a volume where its values lie beyond these."""
    display = node.GetDisplayNode()
    display.SetAutoThreshold(False)
    display.SetThreshold(low, high)
    display.SetApplyThreshold(True)


def _table(name: str, stops: list, at: tuple = (0.0, 0.5, 1.0)):
    node = slicer.mrmlScene.GetFirstNodeByName(name)
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", name)
        node.SetTypeToUser()
        node.SetHideFromEditors(True)
        node.SetNumberOfColors(256)
        node.GetLookupTable().SetTableRange(0, 255)
        colours = np.array(stops)
        for i in range(256):
            colour = [np.interp(i / 255, at, colours[:, channel]) for channel in range(3)]
            node.SetColor(i, str(i), *colour, 1.0)
    return node


def add_legend(node, title: str):
    """A colour bar in all views for a node with a colour table; None where this Slicer has none."""
    logic = getattr(slicer, "vtkSlicerColorLogic", None)
    if logic is None or node.GetDisplayNode() is None:
        return None
    legend = logic.AddDefaultColorLegendDisplayNode(node.GetDisplayNode())
    if legend is None:
        return None
    legend.SetTitleText(title)
    legend.SetLabelFormat("%.1f")
    legend.SetNumberOfLabels(5)
    legend.SetSize(*LEGEND_SIZE)
    _place_legend(legend)
    legend.SetVisibility(True)
    legend.SetSaveWithScene(node.GetDisplayNode().GetSaveWithScene())
    return legend


def _place_legend(legend) -> None:
    """Where no other colour bar lies; beside the others, the last place is shared."""
    others = [each for each in _legends() if each is not legend and each.GetVisibility()]
    taken = {tuple(round(v, 2) for v in other.GetPosition()[:2]) for other in others}
    free = [place for place in LEGEND_PLACES if place[:2] not in taken]
    x, y, orientation = (free or LEGEND_PLACES[-1:])[0]
    legend.SetOrientation(getattr(slicer.vtkMRMLColorLegendDisplayNode, orientation))
    legend.SetPosition(x, y)


def update_legends() -> None:
    """Call it when the slice views got other layers: Slicer looks at a volume's colour bar only when the bar
    itself changes, or when a person changes the layers."""
    for legend in _legends():
        legend.Modified()


def _legends() -> list:
    return slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")


def remove_legend(node) -> None:
    """Take away what ``add_legend`` added."""
    logic = getattr(slicer, "vtkSlicerColorLogic", None)
    if logic is None or node is None or node.GetDisplayNode() is None:
        return
    legend = logic.GetColorLegendDisplayNode(node)
    if legend is not None:
        slicer.mrmlScene.RemoveNode(legend)


def grid_shown(transform) -> bool:
    display = transform.GetDisplayNode() if transform is not None else None
    return display is not None and bool(display.GetVisibility())


def show_grid(transform, region, between: tuple[float, float] = (0.0, 30.0)) -> None:
    """Show a transform as a warped grid in the slice views and, over the volume ``region``, in the 3D views,
    coloured by how far it moves: cyan to red ``between`` these mm."""
    transform.CreateDefaultDisplayNodes()
    display = transform.GetDisplayNode()
    display.SetVisualizationMode(slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GRID)
    display.SetGridSpacingMm(GRID_MM)
    display.SetGridShowNonWarped(False)
    display.SetAndObserveRegionNode(region)  # without one nothing is drawn in 3D
    display.SetAndObserveColorNodeID(_displacement_colours(transform, *between).GetID())
    display.SetScalarVisibility(True)
    display.SetAutoScalarRange(False)
    display.SetScalarRange(*between)
    for show in (display.SetVisibility, display.SetVisibility2D, display.SetVisibility3D):
        show(True)
    add_legend(transform, _("Displacement (mm)"))


def hide_grid(transform) -> None:
    """Take away what ``show_grid`` added."""
    display = transform.GetDisplayNode()
    if display is not None:
        for show in (display.SetVisibility, display.SetVisibility2D, display.SetVisibility3D):
            show(False)
        remove_legend(transform)
        slicer.mrmlScene.RemoveNode(slicer.mrmlScene.GetFirstNodeByName(_colours_name(transform)))


def _displacement_colours(transform, low: float, high: float):
    """The transform's own colours: those of a transform are a function of mm, not a table, which Slicer would
    replace by its own (``vtkMRMLTransformDisplayNode.GetColorMap``)."""
    name = _colours_name(transform)
    node = slicer.mrmlScene.GetFirstNodeByName(name)
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLProceduralColorNode", name)
        node.SetHideFromEditors(True)
    function = vtk.vtkColorTransferFunction()
    for share, colour in zip((0.0, 0.5, 1.0), DISTANCE_COLOURS):
        function.AddRGBPoint(low + share * (high - low), *colour)
    node.SetAndObserveColorTransferFunction(function)
    return node


def _colours_name(transform) -> str:
    return f"{DISPLACEMENT} {transform.GetID()}"


def displacements(transform, fixed) -> tuple[float, float]:
    """mm: between which a transform's displacements in the fixed volume lie (sampled coarsely), for colours:
    from 0 on, where they begin near it."""
    cover = mrml.volume_grid(fixed, without=transform)
    points = cover.with_spacing(np.maximum(cover.spacing, 20.0)).points().reshape(-1, 3).astype(float)
    moved = np.linalg.norm(mrml.point_map(transform)(points) - points, axis=1)
    low, high = float(moved.min()), max(1.0, float(moved.max()))
    return (low if low > high / 2 and high - low > 1.0 else 0.0), high


def temporary_volume(name: str, values: np.ndarray, ijk_to_ras: np.ndarray):
    """A volume node that is not saved with the scene."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetSaveWithScene(False)
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(ijk_to_ras, float).ravel())
    node.SetIJKToRASMatrix(matrix)
    slicer.util.updateVolumeFromArray(node, values)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetSaveWithScene(False)
    display.SetAutoWindowLevel(False)
    return node
