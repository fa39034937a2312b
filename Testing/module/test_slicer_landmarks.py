"""Landmark errors on markups: any transform, any parents, matching, what is stored and drawn."""

from __future__ import annotations

import json

import numpy as np
import pytest
import slicer
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.landmarks import Landmarks, read_landmarks
from ProgressiveRegistrationLib.quality import tre
from ProgressiveRegistrationSlicer import mrml, mrml_landmarks
from slicer_harness.fixtures import (
    add_linear,
    add_points,
    field_of,
    fixed_points,
    motion,
    motion_lps,
    rotation,
    spline_file,
)

pytestmark = pytest.mark.usefixtures("scene")
FLIP = np.array([-1.0, -1.0, 1.0])
GRID = Grid((60, 60, 60), (3.5,) * 3, (-113.0, -83.0, -73.0))


def registered():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Result")
    mrml.set_transform(node, mrml.transform_data(field_of(motion_lps, GRID), GRID))
    mrml.mark_result(node)
    return node


def pair(noise=1.5):
    """Point lists with known errors: y = T(x) + e."""
    x = fixed_points(15)
    error = np.random.default_rng(8).normal(size=x.shape) * noise
    labels = [f"L{n}" for n in range(len(x))]
    return add_points(x, labels, "F"), add_points(motion(x) + error, labels, "M"), x, error


def test_errors_are_those_of_the_definition_and_of_the_engine():
    fixed, moving, x, error = pair()
    node = registered()
    errors = mrml_landmarks.landmark_errors(fixed, moving, node)
    np.testing.assert_allclose(errors.after, np.linalg.norm(error, axis=1), atol=0.05)  # 3.5 mm grid
    field = field_of(motion_lps, GRID)
    engine = tre(field, x * FLIP, (motion(x) + error) * FLIP)
    np.testing.assert_allclose(errors.after, engine, atol=1e-3)
    np.testing.assert_allclose(errors.before, np.linalg.norm(x - motion(x) - error, axis=1), atol=1e-9)


def test_the_same_error_whether_or_not_the_landmarks_are_under_the_transform():
    fixed, moving, _, _ = pair()
    node = registered()
    free = mrml_landmarks.landmark_errors(fixed, moving, node)
    mrml.place_under(moving, node)
    under = mrml_landmarks.landmark_errors(fixed, moving, node)
    np.testing.assert_allclose(under.after, free.after, atol=1e-9)
    np.testing.assert_allclose(under.before, free.before, atol=1e-9)


@pytest.mark.parametrize("result", [True, False])
def test_a_parent_of_the_measured_transform_counts_once(result):
    fixed, moving, x, error = pair()
    node = registered()
    if not result:
        node.RemoveAttribute(mrml.RESULT_ATTRIBUTE)
    node.SetAndObserveTransformNodeID(add_linear(np.array([[1, 0, 0, 4.0], *np.eye(4)[1:]])).GetID())
    expected = np.linalg.norm(motion(x - [4, 0, 0]) - motion(x) - error, axis=1)
    for under in (None, node.GetID()):
        moving.SetAndObserveTransformNodeID(under)
        errors = mrml_landmarks.landmark_errors(fixed, moving, node)
        np.testing.assert_allclose(errors.after, expected, atol=0.05)  # 3.5 mm grid
        np.testing.assert_allclose(errors.before, np.linalg.norm(x - motion(x) - error, axis=1), atol=1e-9)


def test_an_earlier_result_can_be_measured_while_the_landmarks_are_under_a_later_one():
    fixed, moving, _, _ = pair()
    first, second = registered(), registered()
    expected = mrml_landmarks.landmark_errors(fixed, moving, first)
    mrml.place_under(moving, second)
    found = mrml_landmarks.landmark_errors(fixed, moving, first)
    np.testing.assert_allclose(found.after, expected.after, atol=1e-9)
    np.testing.assert_allclose(found.before, expected.before, atol=1e-9)


def test_landmarks_under_linear_parents_count_in_the_world():
    fixed, moving, x, _ = pair()
    place = np.eye(4)
    place[:3, :3], place[:3, 3] = rotation(0, 15), (12, -70, 4)
    expected = mrml_landmarks.landmark_errors(fixed, moving, registered())
    back = np.linalg.inv(place)
    local = add_points(x @ back[:3, :3].T + back[:3, 3], [f"L{n}" for n in range(len(x))], "local")
    local.SetAndObserveTransformNodeID(add_linear(place).GetID())
    node = registered()
    errors = mrml_landmarks.landmark_errors(local, moving, node)
    np.testing.assert_allclose(errors.after, expected.after, atol=1e-6)
    y = mrml_landmarks.landmarks_from_node(moving)[0].points * FLIP
    under = add_points(y @ back[:3, :3].T + back[:3, 3], [f"L{n}" for n in range(len(y))], "under")
    under.SetAndObserveTransformNodeID(add_linear(place).GetID())
    mrml.place_under(under, node)
    np.testing.assert_allclose(
        mrml_landmarks.landmark_errors(fixed, under, node).after, expected.after, atol=1e-6
    )


def test_transform_of_another_program_is_measured_as_simpleitk_measures_it(tmp_path):
    fixed, moving, x, error = pair()
    transform = spline_file(tmp_path / "spline.h5", (-120.0, -90.0, -80.0), 220.0, 4, 6.0)
    node = slicer.util.loadTransform(str(tmp_path / "spline.h5"))
    assert node.IsA("vtkMRMLBSplineTransformNode")
    y = motion(x) + error
    expected = [
        np.linalg.norm(np.subtract(transform.TransformPoint((p * FLIP).tolist()), q * FLIP))
        for p, q in zip(x, y)
    ]
    np.testing.assert_allclose(mrml_landmarks.landmark_errors(fixed, moving, node).after, expected, atol=1e-4)


def matched(fixed_labels, moving_labels):
    a = Landmarks(np.zeros((len(fixed_labels), 3)), fixed_labels, source="A")
    b = Landmarks(np.zeros((len(moving_labels), 3)), moving_labels, source="B")
    return mrml_landmarks.match(a, b)


def test_matching_by_label_leaves_out_what_has_no_partner():
    pairs, how = matched(["a", "b", "c"], ["c", "x", "a"])
    assert pairs == [(0, 2), (2, 0)]
    assert how == "2 landmarks matched by label; 2 without a partner left out."


@pytest.mark.parametrize(
    "labels", [(["F-1", "F-2"], ["M-1", "M-2"]), (["", ""], ["", ""]), (["a", "a"], ["a", "b"])]
)
def test_matching_by_order_where_labels_do_not_tell(labels):
    pairs, how = matched(*labels)
    assert pairs == [(0, 0), (1, 1)]
    assert how == "2 landmarks matched by order."


def test_different_counts_without_common_labels_are_refused():
    with pytest.raises(InputError, match="A has 2 points, B has 3, and they share no label"):
        matched(["F-1", "F-2"], ["M-1", "M-2", "M-3"])


@pytest.mark.parametrize("labels", [(["a", "b", ""], ["a", "b"]), (["a", "b"], ["a", "b", "b"])])
def test_labels_that_do_not_tell_are_not_said_to_be_missing(labels):
    words = (
        f"A has {len(labels[0])} points, B has {len(labels[1])}, and some of their labels are empty or repe"
    )
    with pytest.raises(InputError, match=words):
        matched(*labels)


def test_empty_list_is_named():
    fixed, _, _, _ = pair()
    empty = add_points(np.empty((0, 3)), name="Empty list")
    with pytest.raises(InputError, match="Empty list has no placed point"):
        mrml_landmarks.landmark_errors(fixed, empty)


def test_points_that_were_never_placed_do_not_count():
    fixed, moving, _, _ = pair()
    moving.UnsetNthControlPointPosition(4)
    errors = mrml_landmarks.landmark_errors(fixed, moving)
    assert "L4" not in errors.labels
    assert 4 not in errors.moving_index
    assert len(errors.after) == 14


def test_points_matched_by_order_keep_their_partners_when_one_was_never_placed():
    x = fixed_points(6)
    fixed, moving = add_points(x, name="F"), add_points(motion(x), name="M")
    for node in (fixed, moving):
        for n in range(6):
            node.SetNthControlPointLabel(n, f"{node.GetName()}-{n}")
    fixed.UnsetNthControlPointPosition(1)
    expected = np.linalg.norm(x - motion(x), axis=1)
    errors = mrml_landmarks.landmark_errors(fixed, moving)
    np.testing.assert_allclose(errors.before, expected[[0, 2, 3, 4, 5]], atol=1e-9)
    assert errors.how == "5 landmarks matched by order; 1 without a partner left out."
    moving.UnsetNthControlPointPosition(4)
    errors = mrml_landmarks.landmark_errors(fixed, moving)
    np.testing.assert_allclose(errors.before, expected[[0, 2, 3, 5]], atol=1e-9)
    assert errors.fixed_index.tolist() == errors.moving_index.tolist() == [0, 2, 3, 5]
    for n in (0, 2, 3, 5):
        moving.UnsetNthControlPointPosition(n)
    with pytest.raises(InputError, match="F and M have no landmark that is placed in both"):
        mrml_landmarks.landmark_errors(fixed, moving)


def test_measurement_survives_the_markups_file_and_a_second_update(tmp_path):
    fixed, moving, _, _ = pair()
    moving.UnsetNthControlPointPosition(2)
    for transform in (None, registered()):
        errors = mrml_landmarks.landmark_errors(fixed, moving, transform)
        mrml_landmarks.store_measurement(errors, moving)
    assert [moving.GetNthMeasurement(n).GetName() for n in range(moving.GetNumberOfMeasurements())].count(
        "TRE"
    ) == 1
    path = tmp_path / "moving.mrk.json"
    assert slicer.util.saveNode(moving, str(path))
    stored = json.loads(path.read_text(encoding="utf-8"))["markups"][0]["measurements"]
    values = next(m for m in stored if m["name"] == "TRE")["controlPointValues"]
    assert values[2] == -1
    np.testing.assert_allclose(np.delete(values, 2), errors.after, atol=1e-4)
    again = slicer.util.loadMarkups(str(path))
    np.testing.assert_allclose(slicer.util.arrayFromMarkupsControlPointData(again, "TRE"), values, atol=1e-6)
    np.testing.assert_allclose(
        read_landmarks(path).points * FLIP,
        np.delete(slicer.util.arrayFromMarkupsControlPoints(moving), 2, 0),
        atol=1e-3,
    )
    mrml_landmarks.remove_measurement(moving)
    assert moving.GetMeasurement("TRE") is None


def test_table_has_the_worst_landmark_first():
    fixed, moving, x, _ = pair()
    errors = mrml_landmarks.landmark_errors(fixed, moving, registered())
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode")
    mrml_landmarks.update_table(errors, node)
    table = node.GetTable()
    after = slicer.util.arrayFromTableColumn(node, "After_mm")
    np.testing.assert_allclose(after, np.sort(errors.after)[::-1])
    worst = int(np.argmax(errors.after))
    assert table.GetValueByName(0, "Landmark").ToString() == errors.labels[worst]
    position = [table.GetValueByName(0, f"{axis}_mm").ToDouble() for axis in "RAS"]
    np.testing.assert_allclose(position, x[worst], atol=1e-9)


def test_error_vectors_are_as_long_as_the_errors():
    fixed, moving, x, error = pair(noise=4.0)
    node = registered()
    errors = mrml_landmarks.landmark_errors(fixed, moving, node)
    model = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode")
    mrml_landmarks.update_error_model(errors, model, sphere_mm=0.01)
    mrml_landmarks.show_error_model(model, 10.0)
    points = slicer.util.arrayFromModelPoints(model)
    scalars = slicer.util.arrayFromModelPointData(model, mrml_landmarks.SCALAR)
    assert len(points) == len(scalars)
    for n in range(len(x)):
        mine = points[np.isclose(scalars, errors.after[n], atol=1e-9)]
        reach = np.linalg.norm(mine - x[n], axis=1)
        assert reach.max() == pytest.approx(errors.after[n], abs=0.02)
        tip = mine[np.argmax(reach)]
        np.testing.assert_allclose(tip - x[n], error[n], atol=0.1)
    display = model.GetDisplayNode()
    assert display.GetScalarVisibility()
    table = display.GetColorNode().GetLookupTable()
    np.testing.assert_allclose(table.GetTableValue(0)[:3], (0, 0.8, 1), atol=0.01)
    np.testing.assert_allclose(table.GetTableValue(255)[:3], (1, 0, 0), atol=0.01)
    assert display.GetVisibility2D()


def test_landmarks_round_trip_through_a_node():
    landmarks = Landmarks(np.random.default_rng(0).normal(size=(5, 3)) * 50, ["a", "b", "c", "d", "e"])
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    mrml_landmarks.landmarks_to_node(landmarks, node)
    back, index = mrml_landmarks.landmarks_from_node(node)
    np.testing.assert_allclose(back.points, landmarks.points, atol=1e-9)
    assert back.labels == landmarks.labels
    assert index.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(
        slicer.util.arrayFromMarkupsControlPoints(node), landmarks.points * FLIP, atol=1e-9
    )
