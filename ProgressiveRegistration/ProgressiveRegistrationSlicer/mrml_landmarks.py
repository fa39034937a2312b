"""Markups point lists: to and from the engine's landmarks, and their error under any transform node.

TRE of a fixed landmark x and a moving landmark y is |T(x) - y| in mm, continuous. T is the transform node's
*from parent* direction; y is where the moving landmark lies without that transform, whether or not it is
under the node now.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.landmarks import Landmarks
from vtk.util import numpy_support

from .i18n import _
from .mrml import is_result, parents, point_map, vtk_matrix

MEASUREMENT = "TRE"
SCALAR = "TRE_mm"
UNDEFINED = -1.0  # a point without a partner; JSON has no NaN
SUGGESTED = "suggested"  # description of a point that nobody has looked at yet: it does not count
_DEFINED = slicer.vtkMRMLMarkupsNode.PositionDefined


def landmarks_from_node(node, without=None) -> tuple[Landmarks, np.ndarray]:
    """The placed points of a point list in the world (LPS mm), and their control point indices (n,).

    Suggestions that nobody has looked at yet (see ``landmark_review``) count as not placed: InputError where
    there is nothing else.

    Left out is the effect of registration results above the list, and of the transform node ``without`` with
    all above it (``point_map`` of it counts those); the other parents may be of any kind.
    """
    placed = [_placed(node, i) for i in range(node.GetNumberOfControlPoints())]
    if not any(placed) and any(_suggested(node, i) for i in range(len(placed))):
        raise InputError(
            _("{name} has suggestions alone so far: accept them under Make landmarks.").format(
                name=node.GetName()
            )
        )
    index, undefined = np.flatnonzero(placed).tolist(), tuple(np.flatnonzero(np.logical_not(placed)).tolist())
    local = np.array([node.GetNthControlPointPosition(i) for i in index], float).reshape(-1, 3)
    general = _to_world(node, without)
    world = np.array([general.TransformPoint(p) for p in local.tolist()], float).reshape(-1, 3)
    labels = [node.GetNthControlPointLabel(i) for i in index]
    landmarks = Landmarks(world * [-1, -1, 1], labels, undefined=undefined, source=node.GetName())
    return landmarks, np.array(index, int)


def _placed(node, i: int) -> bool:
    placed = node.GetNthControlPointPositionStatus(i) == _DEFINED
    return placed and not _suggested(node, i)


def _suggested(node, i: int) -> bool:
    return node.GetNthControlPointDescription(i) == SUGGESTED


def _to_world(node, without) -> vtk.vtkGeneralTransform:
    """Local RAS -> world RAS with the parents' transforms below ``without``,
    registration results left out."""
    general = vtk.vtkGeneralTransform()
    general.PostMultiply()
    for parent in parents(node):
        if parent is without:
            break
        if is_result(parent):
            continue
        step = parent.GetTransformToParent()
        if step is not None:
            general.Concatenate(step)
    return general


def landmarks_to_node(landmarks: Landmarks, node) -> None:
    """Replace a point list's points by landmarks (world, LPS mm); the list must not be under a transform."""
    with slicer.util.NodeModify(node):
        node.RemoveAllControlPoints()
        for point, label in zip(landmarks.points * [-1, -1, 1], landmarks.labels):
            node.AddControlPoint(vtk.vtkVector3d(*point), label)


def match(fixed: Landmarks, moving: Landmarks) -> tuple[list[tuple[int, int]], str]:
    """Pairs of positions in the two lists, and a sentence on how they were paired.

    By label where the lists share labels (points that only one list names are left out), else by their place
    in the list, where points that were never placed count (and are left out, with their partners).

    Raises
    ------
    InputError : a list without a placed point, labels that do not tell and different counts, or no pair.
    """
    for landmarks in (fixed, moving):
        if not len(landmarks):
            raise InputError(
                _("{name} has no placed point: place landmarks or choose another list.").format(
                    name=landmarks.source
                )
            )
    unique = all(len(set(l.labels)) == len(l) and "" not in l.labels for l in (fixed, moving))
    shared = set(fixed.labels) & set(moving.labels) - {""}
    by_label = bool(unique and shared)
    counts = [len(landmarks) + len(landmarks.undefined) for landmarks in (fixed, moving)]
    if not by_label and counts[0] != counts[1]:
        why = (
            "some of their labels are empty or repeated: give each landmark a name of its own, the same"
            if shared
            else "they share no label: name the same landmarks alike"
        )
        raise InputError(
            _(
                "{fixed} has {fixed_count} points, {moving} has {moving_count}, and {why} in both lists."
            ).format(
                fixed=fixed.source,
                fixed_count=counts[0],
                moving=moving.source,
                moving_count=counts[1],
                why=why,
            )
        )
    names = [l.labels if by_label else l.places.tolist() for l in (fixed, moving)]
    partner = {name: j for j, name in enumerate(names[1])}
    pairs = [(i, partner[name]) for i, name in enumerate(names[0]) if name in partner]
    if not pairs:
        raise InputError(
            _("{fixed} and {moving} have no landmark that is placed in both: place them.").format(
                fixed=fixed.source, moving=moving.source
            )
        )
    left = len(fixed) + len(moving) - 2 * len(pairs)
    rest = f"; {left} without a partner left out" if left else ""
    return pairs, f"{len(pairs)} landmarks matched by {'label' if by_label else 'order'}{rest}."


@dataclass(frozen=True)
class LandmarkErrors:
    """TRE of matched landmarks; arrays run over the pairs. Points in LPS mm, errors in mm.

    ``fixed`` x, ``mapped`` T(x), ``moving`` y; ``before`` |x - y|, ``after`` |T(x) - y| (equal to ``before``
    without a transform); ``*_index`` the control points; ``how`` a sentence on how they were matched.
    """

    labels: list[str]
    fixed: np.ndarray
    mapped: np.ndarray
    moving: np.ndarray
    before: np.ndarray
    after: np.ndarray
    fixed_index: np.ndarray
    moving_index: np.ndarray
    how: str

    def worst_first(self) -> np.ndarray:
        """(n,) int: the pairs by their error after, largest first."""
        return np.argsort(-self.after, kind="stable")


def landmark_errors(fixed_node, moving_node, transform_node=None) -> LandmarkErrors:
    """TRE of two point lists under a transform node of any kind, from this module or another one."""
    fixed, fixed_index = landmarks_from_node(fixed_node)
    moving, moving_index = landmarks_from_node(moving_node, without=transform_node)
    pairs, how = match(fixed, moving)
    i, j = (np.array(column, int) for column in zip(*pairs))
    x, y = fixed.points[i], moving.points[j]
    mapped = x if transform_node is None else point_map(transform_node)(x)
    return LandmarkErrors(
        [fixed.labels[n] or str(n + 1) for n in i],
        x,
        mapped,
        y,
        np.linalg.norm(x - y, axis=1),
        np.linalg.norm(mapped - y, axis=1),
        fixed_index[i],
        moving_index[j],
        how,
    )


def store_measurement(errors: LandmarkErrors, moving_node) -> None:
    """Keep the TRE of every control point in the list itself, so that it is written to its .mrk.json file.

    Points without a partner get -1. The mean is the measurement's value.
    """
    values = vtk.vtkDoubleArray()
    values.SetName(MEASUREMENT)
    values.SetNumberOfTuples(moving_node.GetNumberOfControlPoints())
    values.Fill(UNDEFINED)
    for index, error in zip(errors.moving_index, errors.after):
        values.SetValue(int(index), float(error))
    measurement = moving_node.GetMeasurement(MEASUREMENT)
    if measurement is None:
        measurement = slicer.vtkMRMLStaticMeasurement()
        measurement.SetName(MEASUREMENT)
        measurement.SetUnits("mm")
        measurement.SetPrintFormat("%-#4.2f %s")
        measurement.SetEnabled(True)
        moving_node.AddMeasurement(measurement)
    measurement.SetControlPointValues(values)
    measurement.SetValue(float(errors.after.mean()))


def remove_measurement(moving_node) -> None:
    """Take away what ``store_measurement`` added."""
    for n in reversed(range(moving_node.GetNumberOfMeasurements())):
        if moving_node.GetNthMeasurement(n).GetName() == MEASUREMENT:
            moving_node.RemoveNthMeasurement(n)


def update_table(errors: LandmarkErrors, table_node) -> None:
    """One row a landmark, worst first: label, fixed position in RAS mm, error before and after in mm."""
    order = errors.worst_first()
    table = vtk.vtkTable()
    labels = vtk.vtkStringArray()
    labels.SetName("Landmark")
    for n in order:
        labels.InsertNextValue(errors.labels[n])
    table.AddColumn(labels)
    ras = errors.fixed * [-1, -1, 1]
    columns = {
        "R_mm": ras[:, 0],
        "A_mm": ras[:, 1],
        "S_mm": ras[:, 2],
        "Before_mm": errors.before,
        "After_mm": errors.after,
    }
    for name, values in columns.items():
        column = numpy_support.numpy_to_vtk(np.ascontiguousarray(values[order], float), deep=True)
        column.SetName(name)
        table.AddColumn(column)
    table_node.SetAndObserveTable(table)
    table_node.SetUseColumnNameAsColumnHeader(True)


def update_error_model(errors: LandmarkErrors, model_node, sphere_mm: float = 1.5) -> None:
    """Draw each error in the fixed frame: a ball at x and the vector y - T(x) from it, as long as the TRE.

    Both are coloured by the error through the point scalar ``TRE_mm``.
    """
    ras = np.array([-1.0, -1.0, 1.0])
    append = vtk.vtkAppendPolyData()
    for x, vector, error in zip(errors.fixed * ras, (errors.moving - errors.mapped) * ras, errors.after):
        ball = vtk.vtkSphereSource()
        ball.SetCenter(*x)
        ball.SetRadius(sphere_mm)
        ball.SetThetaResolution(12)
        ball.SetPhiResolution(8)
        parts = [ball]
        if error > 1e-3:
            arrow = vtk.vtkArrowSource()
            arrow.SetTipRadius(0.12)
            arrow.SetShaftRadius(0.05)
            placed = vtk.vtkTransformPolyDataFilter()
            placed.SetInputConnection(arrow.GetOutputPort())
            transform = vtk.vtkTransform()
            transform.SetMatrix(vtk_matrix(_along(x, vector)))
            placed.SetTransform(transform)
            parts.append(placed)
        for part in parts:
            part.Update()
            mesh = vtk.vtkPolyData()
            mesh.DeepCopy(part.GetOutput())
            scalars = numpy_support.numpy_to_vtk(np.full(mesh.GetNumberOfPoints(), error), deep=True)
            scalars.SetName(SCALAR)
            mesh.GetPointData().AddArray(scalars)
            append.AddInputData(mesh)
    append.Update()
    model_node.SetAndObservePolyData(append.GetOutput())


def _along(start: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """(4, 4): carries the unit x axis onto ``vector`` from ``start``; all axes are scaled alike."""
    length = np.linalg.norm(vector)
    first = vector / length
    helper = np.eye(3)[np.argmin(np.abs(first))]
    second = np.cross(first, helper)
    second /= np.linalg.norm(second)
    out = np.eye(4)
    out[:3, :3] = length * np.stack([first, second, np.cross(first, second)], axis=1)
    out[:3, 3] = start
    return out


def show_error_model(model_node, largest: float) -> None:
    """Colour the error model from cyan (0) over yellow to red (``largest`` mm),
    in 3D and in the slice views."""
    from .overlays import add_legend, distance_table  # it needs this module's sister

    model_node.CreateDefaultDisplayNodes()
    display = model_node.GetDisplayNode()
    display.SetActiveScalarName(SCALAR)
    display.SetAndObserveColorNodeID(distance_table().GetID())
    display.SetScalarVisibility(True)
    display.SetAutoScalarRange(False)
    display.SetScalarRange(0.0, max(largest, 1e-3))
    display.SetVisibility2D(True)
    display.SetSliceIntersectionThickness(2)
    add_legend(model_node, _("Landmark error (mm)"))
