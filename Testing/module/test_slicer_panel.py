"""The module's panel over PySide6 on the real MRML: states, running, cancelling, live landmark errors,
fusion."""

from __future__ import annotations

import importlib.machinery
import json
from pathlib import Path

import numpy as np
import pytest
import slicer
from ProgressiveRegistrationLib.errors import NoLungError
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationSlicer import mrml
from slicer_harness import close_module, open_module, process_events_until
from slicer_harness.fixtures import (
    FakeRegister,
    add_linear,
    add_pair,
    add_points,
    field_of,
    fixed_points,
    motion,
    motion_lps,
)

CARDS = sorted((Path(__file__).resolve().parents[2] / "Resources" / "Models").glob("*.json"))


def choose(panel, register=None):
    """A pair with landmarks chosen in the panel; registering answers with the true field."""
    fixed, moving = add_pair()
    x = fixed_points()
    labels = [f"L{n}" for n in range(len(x))]
    lists = (
        add_points(x, labels, "fixed points"),
        add_points(motion(x) + np.array([0, 0, 1.0]), labels, "moving points"),
    )
    panel.ui.fixedVolumeSelector.setCurrentNode(fixed)
    panel.ui.movingVolumeSelector.setCurrentNode(moving)
    panel.ui.fixedLandmarksSelector.setCurrentNode(lists[0])
    panel.ui.movingLandmarksSelector.setCurrentNode(lists[1])
    panel.logic._register = register or FakeRegister()
    return fixed, moving, *lists


def shifted(z):
    """The true field and z mm more; the landmarks' error under it is |z - 1| mm."""
    grid = Grid((60, 60, 60), (3.5,) * 3, (-113.0, -83.0, -73.0))
    return field_of(lambda points: motion_lps(points) + np.array([0, 0, z]), grid)


def finish(panel):
    assert process_events_until(lambda: panel._task is None)


def texts(table, column):
    return [table.item(row, column).text() for row in range(table.rowCount)]


# ---------- what the Register button says


def test_button_says_what_is_missing_step_by_step(panel):
    button = panel.ui.applyButton
    assert (button.text, button.enabled) == ("Select a fixed volume", False)
    fixed, moving = add_pair()
    assert button.text == "Select a fixed volume"
    panel.ui.fixedVolumeSelector.setCurrentNode(fixed)
    assert (button.text, button.enabled) == ("Select a moving volume", False)
    panel.ui.movingVolumeSelector.setCurrentNode(fixed)
    assert (button.text, button.enabled) == ("Fixed and moving are the same", False)
    panel.ui.movingVolumeSelector.setCurrentNode(moving)
    assert (button.text, button.enabled) == ("Register", True)
    panel.ui.transformCheckBox.click()
    assert (button.text, button.enabled) == ("Choose at least one output", False)
    panel.ui.jacobianCheckBox.click()
    assert (button.text, button.enabled) == ("Register", True)


def test_button_follows_what_happens_to_the_volumes(panel):
    fixed, moving, *_ = choose(panel)
    warp = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Warp")
    grid = Grid((6, 6, 6), (40.0,) * 3, (-100.0,) * 3)
    mrml.set_transform(warp, mrml.transform_data(field_of(motion_lps, grid), grid))
    moving.SetAndObserveTransformNodeID(warp.GetID())
    assert panel.ui.applyButton.text == "Moving volume cannot be used"
    assert "harden it" in panel.ui.applyButton.toolTip
    moving.SetAndObserveTransformNodeID(None)
    assert panel.ui.applyButton.enabled
    panel.ui.warpedCheckBox.click()
    panel.ui.warpedVolumeSelector.setCurrentNode(fixed)
    assert panel.ui.applyButton.text == "An output is also an input"


def test_volume_without_voxels_cannot_be_used_until_it_has_some(panel):
    _fixed, _moving, *_ = choose(panel)
    hollow = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Hollow")
    panel.ui.fixedVolumeSelector.setCurrentNode(hollow)
    assert panel.ui.applyButton.text == "Fixed volume cannot be used"
    slicer.util.updateVolumeFromArray(hollow, np.zeros((5, 5, 5), np.int16))
    assert panel.ui.applyButton.enabled


def test_volume_deleted_while_selected(panel):
    _fixed, moving, *_ = choose(panel)
    slicer.mrmlScene.RemoveNode(moving)
    assert panel._parameterNode.movingVolume is None
    assert panel.ui.applyButton.text == "Select a moving volume"


# ---------- running


def test_registering_places_the_volume_and_shows_the_result(panel):
    _fixed, moving, _, moving_points = choose(panel)
    panel.ui.applyButton.click()
    assert panel.ui.applyButton.text == "Cancel"
    assert moving.GetParentTransformNode() is None
    finish(panel)
    p = panel._parameterNode
    assert p.evaluatedTransform is moving.GetParentTransformNode()
    assert moving_points.GetParentTransformNode() is p.evaluatedTransform
    assert panel.ui.applyButton.text == "Register"
    assert not panel.ui.progressFrame.visible
    assert panel.ui.messageLabel.text.startswith("Registered in 0.2 s on cpu.")
    assert "A note from the engine." in panel.ui.messageLabel.text
    assert "Folding in the field of view: 0.000 %" in panel.ui.qualityLabel.text
    np.testing.assert_allclose([float(t) for t in texts(panel.ui.treTable, 2)], 1.0, atol=0.15)
    panel.ui.undoButton.click()
    assert moving.GetParentTransformNode() is None
    assert not panel.ui.undoButton.enabled
    assert not slicer.util.getNodesByClass("vtkMRMLGridTransformNode")


def test_window_stays_alive_and_progress_is_shown(panel):
    choose(panel, FakeRegister(wait=True, steps=2))
    seen = []
    timer = __import__("qt").QTimer()
    timer.setInterval(5)
    timer.connect("timeout()", lambda: seen.append(panel.ui.progressBar.value))
    timer.start()
    panel.ui.applyButton.click()
    assert process_events_until(lambda: len(seen) > 5 and panel.ui.progressBar.value > 0)
    timer.stop()
    assert panel._task is not None
    assert panel.ui.stageLabel.text.startswith("Running the network")
    panel.ui.applyButton.click()
    finish(panel)


def test_cancelling_changes_nothing(panel):
    _fixed, moving, *_ = choose(panel, FakeRegister(wait=True))
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    panel.ui.applyButton.click()
    slicer.app.processEvents()
    panel.ui.applyButton.click()
    finish(panel)
    assert panel.ui.messageLabel.text == "Cancelled; the scene is as it was."
    assert (moving.GetParentTransformNode(), slicer.mrmlScene.GetNumberOfNodes()) == (None, nodes)
    assert panel.ui.applyButton.text == "Register"
    panel.logic._register = FakeRegister()
    panel.ui.applyButton.click()
    finish(panel)
    assert moving.GetParentTransformNode() is not None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NoLungError("No lung was found in Fixed: give a chest CT."), "No lung was found in Fixed"),
        (MemoryError("too big"), "too big"),
        (ValueError("surprise"), "surprise"),
    ],
)
def test_failing_is_said_in_the_panel(panel, error, words):
    _, moving, *_ = choose(panel, FakeRegister(error=error))
    panel.ui.applyButton.click()
    finish(panel)
    assert words in panel.ui.messageLabel.text
    assert panel.ui.messageLabel.styleSheet == "color: #b71c1c"  # on this light window
    assert moving.GetParentTransformNode() is None
    assert panel.ui.applyButton.enabled


def test_problem_found_before_starting_is_said_too(panel):
    choose(panel)
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Unplaced")
    panel.ui.fixedRegionSelector.setCurrentNode(roi)
    panel.ui.applyButton.click()
    assert "Unplaced is empty" in panel.ui.messageLabel.text
    assert panel._task is None


def test_scene_closed_while_running(panel):
    choose(panel, FakeRegister(wait=True))
    panel.ui.applyButton.click()
    slicer.app.processEvents()
    task = panel._task
    slicer.mrmlScene.Clear(0)
    assert panel._task is None
    assert task.join(10)
    assert panel.ui.applyButton.text == "Select a fixed volume"
    assert panel.ui.treTable.rowCount == 0
    _fixed, moving, *_ = choose(panel)  # the next scene
    panel.ui.applyButton.click()
    finish(panel)
    assert moving.GetParentTransformNode() is panel._parameterNode.evaluatedTransform


@pytest.mark.parametrize("which", ["fixed", "moving", "transform", "landmarks"])
def test_node_deleted_while_running(panel, which):
    register = FakeRegister()
    fixed, moving, _, points = choose(panel, register)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "mine")
    panel.ui.outputTransformSelector.setCurrentNode(transform)
    panel.ui.applyButton.click()
    victim = {"fixed": fixed, "moving": moving, "transform": transform, "landmarks": points}[which]
    slicer.mrmlScene.RemoveNode(victim)
    finish(panel)
    if which in ("fixed", "moving"):
        assert "was deleted while it was being registered" in panel.ui.messageLabel.text
        assert panel._parameterNode.evaluatedTransform is None
    else:
        result = panel._parameterNode.evaluatedTransform
        assert slicer.mrmlScene.IsNodePresent(result)
        assert moving.GetParentTransformNode() is result


def test_module_closed_while_running(scene, module):
    widget = open_module(module)
    choose(widget, FakeRegister(wait=True))
    widget.ui.applyButton.click()
    task = widget._task
    close_module(widget)
    assert task.join(10)


def test_undo_goes_back_one_registration_at_a_time(panel):
    _fixed, moving, _, points = choose(panel)
    evaluated, errors, stored = [], [], []

    def note():
        evaluated.append(panel._parameterNode.evaluatedTransform)
        errors.append(texts(panel.ui.treTable, 2))
        kept = points.GetMeasurement("TRE")
        stored.append(None if kept is None else kept.GetValue())

    note()
    for z in (0, 4):
        panel.logic._register = FakeRegister(shifted(z))
        panel.ui.applyButton.click()
        finish(panel)
        note()
    for _ in range(2):
        panel.ui.undoButton.click()
        note()
    assert evaluated[1] is not evaluated[2]
    assert errors[1] != errors[2]
    for seen in (evaluated, errors, stored):
        assert seen[:2][::-1] == seen[3:]
    assert (evaluated[0], stored[0]) == (None, None)
    assert moving.GetParentTransformNode() is None


def test_swapping_the_roles_in_the_panel_moves_the_landmarks_with_their_volumes(panel):
    fixed, moving, fixed_list, moving_list = choose(panel)
    panel.ui.applyButton.click()
    finish(panel)
    for name, node in (
        ("fixedVolume", moving),
        ("movingVolume", fixed),
        ("fixedLandmarks", moving_list),
        ("movingLandmarks", fixed_list),
    ):
        getattr(panel.ui, f"{name}Selector").setCurrentNode(node)
    panel.ui.applyButton.click()
    finish(panel)
    assert (moving.GetParentTransformNode(), moving_list.GetParentTransformNode()) == (None, None)
    assert fixed.GetParentTransformNode() is fixed_list.GetParentTransformNode() is not None


def test_undo_leaves_another_evaluated_transform_chosen(panel):
    choose(panel)
    panel.ui.applyButton.click()
    finish(panel)
    other = add_linear(np.eye(4), "By hand")
    panel.ui.evaluatedTransformSelector.setCurrentNode(other)
    panel.ui.undoButton.click()
    assert panel._parameterNode.evaluatedTransform is other


# ---------- landmark errors


def test_measurement_in_the_moving_list_goes_when_it_is_no_longer_true(panel):
    _, _, _, points = choose(panel)
    hand = add_linear(np.eye(4), "By hand")
    panel.ui.evaluatedTransformSelector.setCurrentNode(hand)
    assert points.GetMeasurement("TRE") is not None
    panel.ui.evaluatedTransformSelector.setCurrentNode(None)
    assert points.GetMeasurement("TRE") is None
    panel.ui.evaluatedTransformSelector.setCurrentNode(hand)
    assert points.GetMeasurement("TRE") is not None
    points.RemoveNthControlPoint(0)
    for n in range(11):
        points.SetNthControlPointLabel(n, f"other {n}")
    assert process_events_until(lambda: "share no label" in panel.ui.treSummaryLabel.text)
    assert points.GetMeasurement("TRE") is None


def test_every_press_of_make_table_is_answered(panel):
    button, message = panel.ui.tableButton, panel.ui.messageLabel
    button.click()
    assert message.text == "Select fixed and moving landmarks to see their error."
    _, _, _, points = choose(panel)
    button.click()
    assert message.text.startswith("Landmark errors follows the landmarks")
    table = panel._parameterNode.errorTable
    position = np.array(points.GetNthControlPointPosition(4))
    points.SetNthControlPointPosition(4, *(position + np.array([0, 0, 50.0])))
    button.click()
    assert message.text.startswith("Landmark errors is up to date")
    assert panel._parameterNode.errorTable is table
    assert table.GetTable().GetValue(0, 0).ToString() == "L4"


def test_before_registering_only_before_is_shown(panel):
    choose(panel)
    assert panel.ui.treTable.rowCount == 12
    assert "Before" in panel.ui.treSummaryLabel.text
    assert "After" not in panel.ui.treSummaryLabel.text
    assert "12 landmarks matched by label." in panel.ui.treSummaryLabel.text


def test_rows_are_sorted_and_a_click_jumps_there(panel):
    choose(panel)
    views = [slicer.app.layoutManager().sliceWidget(name) for name in ("Red", "Yellow", "Green")]
    values = [float(t) for t in texts(panel.ui.treTable, 1)]
    assert values == sorted(values, reverse=True)
    labels = texts(panel.ui.treTable, 0)
    for row in (3, 0):
        panel.ui.treTable.setCurrentCell(row, 0)
        point = fixed_points()[int(labels[row][1:])]
        for view in views:
            normal = np.array([view.mrmlSliceNode().GetSliceToRAS().GetElement(r, 2) for r in range(3)])
            origin = np.array([view.mrmlSliceNode().GetSliceToRAS().GetElement(r, 3) for r in range(3)])
            assert abs(normal @ (point - origin)) < 1e-6


def test_moving_a_landmark_updates_table_measurement_and_nodes(panel):
    _, _, _, points = choose(panel)
    panel.ui.applyButton.click()
    finish(panel)
    panel.ui.tableButton.click()
    panel.ui.vectorsButton.click()
    p = panel._parameterNode
    assert p.errorTable.GetNumberOfRows() == 12
    before = slicer.util.arrayFromModelPoints(p.errorModel).max(0)
    position = np.array(points.GetNthControlPointPosition(4))
    points.SetNthControlPointPosition(4, *(position + np.array([0, 0, 30.0])))
    assert process_events_until(lambda: texts(panel.ui.treTable, 0)[0] == "L4")
    assert float(texts(panel.ui.treTable, 2)[0]) == pytest.approx(31.0, abs=0.3)
    assert slicer.util.arrayFromMarkupsControlPointData(points, "TRE")[4] == pytest.approx(31.0, abs=0.3)
    assert p.errorTable.GetTable().GetValue(0, 0).ToString() == "L4"
    assert not np.allclose(slicer.util.arrayFromModelPoints(p.errorModel).max(0), before)
    panel.ui.vectorsButton.click()
    assert p.errorModel is None
    assert not slicer.util.getNodesByClass("vtkMRMLModelNode") or all(
        "error vectors" not in n.GetName() for n in slicer.util.getNodesByClass("vtkMRMLModelNode")
    )


def test_editing_the_transform_updates_the_errors(panel):
    _, _, fixed_list, moving_list = choose(panel)
    linear = add_linear(np.eye(4), "By hand")
    panel.ui.evaluatedTransformSelector.setCurrentNode(linear)
    assert texts(panel.ui.treTable, 1) == texts(panel.ui.treTable, 2)
    matrix = np.eye(4)
    matrix[2, 3] = -1.0
    linear.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    assert process_events_until(lambda: texts(panel.ui.treTable, 1) != texts(panel.ui.treTable, 2))
    x, y = (slicer.util.arrayFromMarkupsControlPoints(n) for n in (fixed_list, moving_list))
    expected = np.sort(np.linalg.norm(x + np.array([0, 0, 1.0]) - y, axis=1))[::-1]
    np.testing.assert_allclose([float(t) for t in texts(panel.ui.treTable, 2)], expected, atol=0.006)


def test_statistics_are_those_of_the_engine(panel):
    from ProgressiveRegistrationLib.statistics import statistics

    _, _, fixed_list, moving_list = choose(panel)
    x, y = (slicer.util.arrayFromMarkupsControlPoints(n) for n in (fixed_list, moving_list))
    s = statistics(np.linalg.norm(x - y, axis=1))
    for value in (
        f"{s['mean']:.2f}",
        f"{s['sd']:.2f}",
        f"{s['median']:.2f}",
        f"{s['p95']:.2f}",
        f"{s['max']:.2f}",
    ):
        assert f"&nbsp;{value}<" in panel.ui.treSummaryLabel.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f, m: m.RemoveAllControlPoints(), "moving points has no placed point"),
        (lambda f, m: [m.SetNthControlPointLabel(n, "") for n in range(12)], "12 landmarks matched by order"),
        (lambda f, m: m.RemoveNthControlPoint(3), "11 landmarks matched by label; 1 without a partner"),
    ],
)
def test_odd_landmark_lists_are_explained(panel, change, words):
    _, _, fixed_list, moving_list = choose(panel)
    change(fixed_list, moving_list)
    assert process_events_until(lambda: words in panel.ui.treSummaryLabel.text)


def test_landmark_list_deleted_while_shown(panel):
    _, _, _, moving_list = choose(panel)
    slicer.mrmlScene.RemoveNode(moving_list)
    assert panel.ui.treTable.rowCount == 0
    assert "Select fixed and moving landmarks" in panel.ui.treSummaryLabel.text


# ---------- the slice views


def pixels(view="Red"):
    return slicer.app.layoutManager().sliceWidget(view).image().reshape(-1, 3).astype(float)


def show_pair(panel):
    fixed, moving, fixed_list, moving_list = choose(panel)
    for markups in (fixed_list, moving_list):
        markups.SetDisplayVisibility(0)
    layout = slicer.app.layoutManager()
    for name in layout.sliceViewNames():
        layout.sliceWidget(name)
    slicer.util.setSliceViewerLayers(background=fixed)
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, 10, -20, 30, 0)
    layout.resetSliceViews()
    return fixed, moving


def test_fusion_is_orange_for_fixed_and_blue_for_moving(panel):
    show_pair(panel)
    panel.ui.fusionComboBox.setCurrentText("Fixed orange, moving blue")
    panel.ui.opacitySlider.value = 0.0
    red, _, blue = pixels().mean(0)
    assert red > 1.5 * blue
    panel.ui.opacitySlider.value = 1.0
    red, _, blue = pixels().mean(0)
    assert blue > 1.5 * red
    assert panel._parameterNode.fusionOpacity == 1.0


def test_switching_fusion_off_gives_everything_back(panel):
    fixed, moving = show_pair(panel)

    def state():
        out = [(v.GetDisplayNode().GetColorNodeID(), v.GetDisplayNode().GetWindow()) for v in (fixed, moving)]
        for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            out.append(
                (node.GetBackgroundVolumeID(), node.GetForegroundVolumeID(), node.GetForegroundOpacity())
            )
        return out

    before, image = state(), pixels()
    for mode in ("Fixed orange, moving blue", "Checkerboard", "Flicker"):
        panel.ui.fusionComboBox.setCurrentText(mode)
        assert state() != before
    panel.ui.fusionComboBox.setCurrentText("Off")
    assert state() == before
    np.testing.assert_array_equal(pixels(), image)
    assert not [
        n for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if n.GetName() == "Checkerboard"
    ]


def test_scene_saved_while_fused_can_be_switched_back_after_loading(panel, tmp_path):
    for node in show_pair(panel):
        node.AddDefaultStorageNode()
    panel.ui.fusionComboBox.setCurrentText("Fixed orange, moving blue")
    path = tmp_path / "fused.mrb"
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(path))
    assert panel.ui.fusionComboBox.currentText == "Fixed orange, moving blue"
    panel.ui.opacitySlider.value = 0.0
    red, _, blue = pixels().mean(0)
    assert red > 1.5 * blue
    panel.ui.fusionComboBox.setCurrentText("Off")
    for name in ("Fixed", "Moving"):
        assert slicer.util.getNode(name).GetDisplayNode().GetColorNodeID() == "vtkMRMLColorTableNodeGrey"


def test_checkerboard_alternates_fixed_and_moving_where_they_are_placed(scene):
    from ProgressiveRegistrationSlicer.fusion import checkerboard

    fixed, moving = add_pair()
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    grid = Grid((60, 60, 60), (3.5,) * 3, (-113.0, -83.0, -73.0))
    mrml.set_transform(transform, mrml.transform_data(field_of(motion_lps, grid), grid))
    moving.SetAndObserveTransformNodeID(transform.GetID())
    values = checkerboard(fixed, moving, 20.0)
    ours = slicer.util.arrayFromVolume(fixed)
    same = values == ours
    assert 0.4 < same.mean() < 0.7
    volumes = slicer.app.logics["volumes"]
    theirs = slicer.util.arrayFromVolume(volumes.ResampleVolumeToReferenceVolume(moving, fixed))
    inner = np.zeros(values.shape, bool)
    inner[5:-5, 5:-5, 5:-5] = True
    np.testing.assert_allclose(values[~same & inner], theirs[~same & inner], atol=1.0)


def test_flicker_alternates_and_stops(panel):
    show_pair(panel)
    panel.ui.fusionComboBox.setCurrentText("Flicker")
    composite = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")[0]
    seen = set()
    assert process_events_until(lambda: seen.add(composite.GetForegroundOpacity()) or {0.0, 1.0} <= seen, 10)
    panel.ui.fusionComboBox.setCurrentText("Off")
    assert not panel.fusion._timer.active


def test_flicker_pauses_while_another_module_is_open(panel):
    show_pair(panel)
    panel.ui.fusionComboBox.setCurrentText("Flicker")
    composite = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")[0]
    panel.ui.applyButton.click()
    panel.exit()
    assert (panel.fusion._timer.active, composite.GetForegroundOpacity()) == (False, 0.5)
    finish(panel)  # shows the result, and yet nothing blinks
    assert (panel.fusion._timer.active, composite.GetForegroundOpacity()) == (False, 0.5)
    panel.enter()
    seen = set()
    assert process_events_until(lambda: seen.add(composite.GetForegroundOpacity()) or {0.0, 1.0} <= seen, 10)
    panel.ui.fusionComboBox.setCurrentText("Off")
    panel.exit()
    panel.enter()
    assert not panel.fusion._timer.active


def test_registered_volume_is_shown_when_no_transform_was_asked_for(panel):
    fixed, moving = show_pair(panel)
    panel.ui.transformCheckBox.click()
    panel.ui.warpedCheckBox.click()
    panel.ui.applyButton.click()
    finish(panel)
    warped = slicer.util.getNode("Moving registered")
    composite = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")[0]
    assert panel.ui.fusionComboBox.currentText == "Fixed orange, moving blue"
    layers = composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()
    assert layers == (fixed.GetID(), warped.GetID())
    slicer.mrmlScene.RemoveNode(warped)
    assert composite.GetForegroundVolumeID() == moving.GetID()
    panel.ui.applyButton.click()
    finish(panel)
    assert composite.GetForegroundVolumeID() == slicer.util.getNode("Moving registered_1").GetID()
    panel.ui.undoButton.click()
    assert panel.ui.fusionComboBox.currentText == "Off"
    assert composite.GetBackgroundVolumeID() == fixed.GetID()
    panel.ui.fusionComboBox.setCurrentText("Checkerboard")
    panel.ui.fusionComboBox.setCurrentText("Fixed orange, moving blue")
    assert composite.GetForegroundVolumeID() == moving.GetID()


def test_volume_deleted_while_fused(panel):
    fixed, moving = show_pair(panel)
    panel.ui.fusionComboBox.setCurrentText("Flicker")
    slicer.mrmlScene.RemoveNode(moving)
    assert panel.ui.fusionComboBox.currentText == "Off"
    assert not panel.fusion._timer.active
    assert fixed.GetDisplayNode().GetColorNodeID() == "vtkMRMLColorTableNodeGrey"


# ---------- state


def test_choices_are_saved_with_the_scene(panel, tmp_path):
    fixed, moving, fixed_list, moving_list = choose(panel)
    panel.ui.applyButton.click()
    finish(panel)
    panel.ui.fusionComboBox.setCurrentText("Off")
    shown = panel.ui.presetComboBox.currentIndex
    panel.ui.presetComboBox.setCurrentIndex(0)
    panel.ui.lungBoxesComboBox.setCurrentIndex(1)
    panel.ui.warpedCheckBox.click()
    panel._parameterNode.device = "cpu"
    for node in (fixed, moving, fixed_list, moving_list, panel._parameterNode.evaluatedTransform):
        node.AddDefaultStorageNode()
    path = tmp_path / "saved.mrb"
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear(0)
    assert panel.ui.presetComboBox.currentIndex == shown != 0
    slicer.util.loadScene(str(path))
    p = panel._parameterNode
    assert p.fixedVolume.GetName() == "Fixed"
    assert panel.ui.movingVolumeSelector.currentNode().GetName() == "Moving"
    assert (p.preset.value, p.lungBoxes.value, p.wantWarped, p.device) == ("fast", "shared", True, "cpu")
    assert panel.ui.presetComboBox.currentIndex == 0
    assert panel.ui.treTable.rowCount == 12
    assert p.evaluatedTransform is slicer.util.getNode("Moving").GetParentTransformNode()
    assert panel.ui.applyButton.text == "Register"


def test_options_list_models_devices_and_segments(panel):
    _fixed, *_ = choose(panel)
    panel.ui.optionsCollapsibleButton.collapsed = False
    devices = [panel.ui.deviceComboBox.itemText(n) for n in range(panel.ui.deviceComboBox.count)]
    assert devices[:2] == ["Auto", "CPU"]
    panel.ui.deviceComboBox.setCurrentIndex(1)
    assert panel._parameterNode.device == "cpu"
    panel._parameterNode.device = "cuda:7"
    assert "cuda:7 (not available here)" in panel.ui.deviceComboBox.currentText
    models = [panel.ui.modelComboBox.itemText(n) for n in range(panel.ui.modelComboBox.count)]
    panel.ui.modelComboBox.setCurrentIndex(models.index("No network"))
    assert panel._parameterNode.modelName == "none"
    lungs = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Lungs")
    identifier = lungs.GetSegmentation().AddEmptySegment("left", "left lung")
    panel.ui.fixedRegionSelector.setCurrentNode(lungs)
    assert [panel.ui.fixedSegmentComboBox.itemText(n) for n in range(2)] == ["All segments", "left lung"]
    panel.ui.fixedSegmentComboBox.setCurrentIndex(1)
    assert panel._parameterNode.fixedSegment == identifier


@pytest.mark.parametrize("name", ["fixed", "moving"])
def test_another_region_starts_with_all_its_segments(panel, name, tmp_path):
    choose(panel)
    regions = []
    for title in ("Lungs", "Other"):
        regions.append(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", title))
        regions[-1].GetSegmentation().AddEmptySegment("Segment_1", "left")
    selector = getattr(panel.ui, f"{name}RegionSelector")
    combo = getattr(panel.ui, f"{name}SegmentComboBox")
    selector.setCurrentNode(regions[0])
    combo.setCurrentIndex(1)
    assert getattr(panel._parameterNode, f"{name}Segment") == "Segment_1"
    panel.exit()
    panel.enter()
    path = tmp_path / "saved.mrb"
    regions[0].AddDefaultStorageNode()
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(path))
    assert getattr(panel._parameterNode, f"{name}Region").GetName() == "Lungs"
    assert getattr(panel._parameterNode, f"{name}Segment") == "Segment_1"
    selector.setCurrentNode(slicer.util.getNode("Other"))
    assert getattr(panel._parameterNode, f"{name}Segment") == ""
    assert combo.currentText == "All segments"


def test_card_of_an_installed_model_is_shown(panel, tmp_path, monkeypatch):
    from small_pair import write_zero_model

    write_zero_model(tmp_path / "models")
    monkeypatch.setenv("PROGRESSIVE_REGISTRATION_MODELS", str(tmp_path / "models"))
    panel._parameterNode.modelName = "zero"
    panel.ui.optionsCollapsibleButton.collapsed = False
    assert panel.ui.modelComboBox.currentText == "zero 1.0"
    for words in ("zero 1.0", "nothing (0)", "Apache-2.0"):
        assert words in panel.ui.modelCardLabel.text


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_card_of_a_shipped_model_says_how_long_it_learnt_and_what_was_measured(panel, path):
    card = json.loads(path.read_text(encoding="utf-8"))
    panel._parameterNode.modelName = card["name"]
    panel.ui.optionsCollapsibleButton.collapsed = False
    shown = panel.ui.modelCardLabel.text
    assert f"<b>Iterations:</b> {card['training_steps']['total']}<br>" in shown
    ((protocol, figures),) = card["metrics"].items()
    assert f"<b>Measured:</b> {protocol}: " in shown
    for name, value in figures.items():
        assert f"{name.removesuffix('_mm').replace('_', ' ')} {value:.2f} mm" in shown


def test_damaged_model_card_does_not_break_the_panel(panel, tmp_path, monkeypatch):
    (tmp_path / "broken.json").write_text("{")
    monkeypatch.setenv("PROGRESSIVE_REGISTRATION_MODELS", str(tmp_path))
    panel.ui.optionsCollapsibleButton.collapsed = False
    assert panel.ui.modelComboBox.currentText == "Default"
    assert panel.ui.modelCardLabel.text == ""


def test_widgets_of_a_left_module_change_nothing(panel):
    preset, shown = panel._parameterNode.preset, panel.ui.presetComboBox.currentIndex
    panel.exit()
    panel.ui.presetComboBox.setCurrentIndex(2 - shown // 2)
    assert panel._parameterNode.preset is preset
    panel.enter()
    assert panel.ui.presetComboBox.currentIndex == shown
    panel.ui.presetComboBox.setCurrentIndex(2 - shown // 2)
    assert panel._parameterNode.preset is not preset


def test_leaving_and_entering_the_module_keeps_it_working(panel):
    choose(panel)
    panel.exit()
    panel.enter()
    panel.ui.transformCheckBox.click()
    assert panel.ui.applyButton.text == "Choose at least one output"


# ---------- folding and report


def test_report_of_a_transform_from_elsewhere(panel, tmp_path):
    _fixed, _moving, fixed_list, moving_list = choose(panel)
    matrix = np.eye(4)
    matrix[:3, 3] = (0, 4, -1)
    panel.ui.evaluatedTransformSelector.setCurrentNode(add_linear(matrix, "By hand"))
    panel.ui.reportFolder.currentPath = str(tmp_path)
    panel.ui.reportButton.click()
    finish(panel)
    assert "The report is in" in panel.ui.messageLabel.text, panel.ui.messageLabel.text
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    errors = panel.logic.landmarkErrors(fixed_list, moving_list, slicer.util.getNode("By hand"))
    assert report["tre_mm"]["after"]["mean"] == pytest.approx(errors.after.mean(), abs=1e-3)
    assert report["transform"] == "By hand"
    assert (tmp_path / "report.html").stat().st_size > 10_000


def report_of(panel, folder):
    panel.ui.reportFolder.currentPath = str(folder)
    panel.ui.reportButton.click()
    finish(panel)
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_report_after_registering_twice_into_one_node_is_of_the_second(panel, tmp_path):
    choose(panel)
    panel.ui.outputTransformSelector.setCurrentNode(
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "mine")
    )
    for z in (0, 4):
        panel.logic._register = FakeRegister(shifted(z))
        panel.ui.applyButton.click()
        finish(panel)
    for expected in (3.0, 1.0):
        report = report_of(panel, tmp_path)
        assert report["model"]["name"] == "fake"  # the engine's own field, not samples of the node
        assert report["tre_mm"]["after"]["mean"] == pytest.approx(expected, abs=0.1)
        assert panel.tre.errors.after.mean() == pytest.approx(expected, abs=0.1)
        panel.ui.undoButton.click()


def put_under_another(node):
    matrix = np.eye(4)
    matrix[2, 3] = 5.0
    node.SetAndObserveTransformNodeID(add_linear(matrix).GetID())


def edit_the_grid(node):
    slicer.util.arrayFromGridTransform(node)[..., 2] += 5.0
    slicer.util.arrayFromGridTransformModified(node)
    node.TransformModified()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (put_under_another, lambda x: motion(x - [0, 0, 5]) - motion(x) - [0, 0, 1]),
        (edit_the_grid, lambda x: np.full_like(x, [0, 0, 5]) - [0, 0, 1]),
    ],
)
def test_report_of_a_result_changed_by_hand_is_of_the_node(panel, tmp_path, change, error):
    choose(panel)
    panel.ui.applyButton.click()
    finish(panel)
    change(panel._parameterNode.evaluatedTransform)
    expected = np.linalg.norm(error(fixed_points()), axis=1).mean()
    assert process_events_until(lambda: abs(panel.tre.errors.after.mean() - expected) < 0.1)
    report = report_of(panel, tmp_path)
    assert report["tre_mm"]["after"]["mean"] == pytest.approx(panel.tre.errors.after.mean(), abs=0.1)
    assert report["transform"] == panel._parameterNode.evaluatedTransform.GetName()


def test_report_for_another_pair_is_of_the_node(panel, tmp_path):
    choose(panel)
    panel.ui.applyButton.click()
    finish(panel)
    panel.ui.fixedVolumeSelector.setCurrentNode(add_pair()[0])
    assert report_of(panel, tmp_path)["model"]["name"] is None


def test_folding_of_a_transform_that_folds_is_found(panel):
    choose(panel)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Folded")
    grid = Grid((50, 50, 50), (4.0,) * 3, (-110.0, -80.0, -70.0))

    def fold(points):
        out = np.array(points)
        out[..., 0] = np.where(np.abs(points[..., 0]) < 20, -points[..., 0], points[..., 0])
        return out

    mrml.set_transform(node, mrml.transform_data(field_of(fold, grid), grid))
    panel.ui.evaluatedTransformSelector.setCurrentNode(node)
    panel.ui.measureButton.click()
    finish(panel)
    percent = float(panel.ui.qualityLabel.text.split("field of view: ")[1].split(" %")[0])
    assert 10 < percent < 60


def test_report_without_a_folder_says_so(panel):
    choose(panel)
    panel.ui.evaluatedTransformSelector.setCurrentNode(add_linear(np.eye(4)))
    panel.ui.reportButton.click()
    assert panel.ui.messageLabel.text == "Choose a folder for the report."
    panel.ui.reportFolder.currentPath = "/nowhere/at/all"
    panel.ui.reportButton.click()
    finish(panel)
    assert "there is no folder" in panel.ui.messageLabel.text


# ---------- installing


@pytest.fixture
def without_torch(monkeypatch):
    """As if torch were not installed: what is missing, what is asked, what is installed."""
    import types

    from ProgressiveRegistrationSlicer import installer

    log = {"asked": [], "answer": True, "installed": [], "missing": ["torch>=2.4", "safetensors>=0.4"]}
    utils = types.ModuleType("PyTorchUtils")

    class PyTorchUtilsLogic:
        def installTorch(self, askConfirmation, torchVersionRequirement):
            log["installed"].append(("torch", askConfirmation, torchVersionRequirement))
            log["missing"] = log["missing"][1:]

    def pip(packages):
        log["installed"].append(packages)
        log["missing"] = []

    def ask(text, **_):
        log["asked"].append(text)
        return log["answer"]

    utils.PyTorchUtilsLogic = PyTorchUtilsLogic
    utils.__spec__ = importlib.machinery.ModuleSpec("PyTorchUtils", None)
    monkeypatch.setitem(__import__("sys").modules, "PyTorchUtils", utils)

    def missing(torch=True):
        return [name for name in log["missing"] if torch or not name.startswith("torch")]

    monkeypatch.setattr(installer, "missing", missing)
    monkeypatch.setattr(installer, "_pip", pip)
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", ask)
    return log


def test_one_question_installs_everything(without_torch):
    from ProgressiveRegistrationSlicer import installer

    installer.ensure()
    assert len(without_torch["asked"]) == 1
    assert "torch, safetensors" in without_torch["asked"][0]
    assert without_torch["installed"] == [("torch", False, ">=2.4"), ["safetensors>=0.4"]]
    installer.ensure()
    assert len(without_torch["asked"]) == 1


def pretend_versions(monkeypatch, **versions):
    import importlib.metadata

    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: versions.get(name) or real(name))


def test_package_that_is_too_old_counts_as_missing_and_the_question_says_so(without_torch, monkeypatch):
    from ProgressiveRegistrationSlicer import installer

    monkeypatch.undo()  # the real missing()
    for version, expected in (("2.10.0+cu128", []), ("2.4.0a0", []), ("2.3.1+cu121", ["torch>=2.4"])):
        pretend_versions(monkeypatch, torch=version)
        assert installer.missing() == expected
    with pytest.raises(
        installer.MissingPackagesError, match=r"torch \(2\.3\.1\+cu121 is too old\); run once"
    ):
        installer.require()


def test_package_replaced_while_in_use_asks_for_a_restart(without_torch, monkeypatch):
    import types

    from ProgressiveRegistrationSlicer import installer

    monkeypatch.setitem(__import__("sys").modules, "torch", types.ModuleType("torch"))
    pretend_versions(monkeypatch, torch="2.3.1")
    with pytest.raises(installer.MissingPackagesError, match="torch was updated: restart Slicer"):
        installer.ensure()
    assert "torch (2.3.1 is too old), safetensors" in without_torch["asked"][0]
    assert without_torch["installed"][0] == ("torch", False, ">=2.4")


def test_saying_no_installs_nothing_and_the_panel_says_so(panel, without_torch):
    choose(panel)
    panel.logic._register = None  # the real engine
    without_torch["answer"] = False
    panel.ui.applyButton.click()
    assert without_torch["installed"] == []
    assert "were not installed" in panel.ui.messageLabel.text
    assert panel._task is None


def test_report_offers_to_install_what_it_needs_and_that_is_not_torch(panel, without_torch, tmp_path):
    choose(panel)
    panel.ui.evaluatedTransformSelector.setCurrentNode(add_linear(np.eye(4)))
    panel.ui.reportFolder.currentPath = str(tmp_path)
    without_torch["answer"] = False
    panel.ui.reportButton.click()
    assert panel.ui.messageLabel.text == "The report needs Python packages that were not installed."
    assert (panel._task, without_torch["installed"]) == (None, [])
    without_torch["answer"] = True
    panel.ui.reportButton.click()
    finish(panel)
    assert "safetensors. Install them now?" in without_torch["asked"][-1]
    assert without_torch["installed"] == [["safetensors>=0.4"]]
    assert (tmp_path / "report.html").is_file()


def test_without_the_pytorch_extension_its_installation_is_advised(without_torch, monkeypatch):
    from ProgressiveRegistrationSlicer import installer

    monkeypatch.delitem(__import__("sys").modules, "PyTorchUtils")
    with pytest.raises(
        installer.MissingPackagesError, match="install the PyTorch extension in the Extensions Manager"
    ):
        installer.ensure()
    assert not without_torch["asked"]


def test_requirements_are_read_from_the_file_and_found_here():
    from ProgressiveRegistrationSlicer import installer

    assert [installer._import_name(r) for r in installer.requirements()] == [
        "safetensors",
        "jinja2",
        "h5py",
        "matplotlib",
        "nibabel",
        "pydicom",
    ]
    assert installer.missing() == []


# ---------- sample data


def test_sample_data_makes_the_phantom_with_exact_landmarks(panel, monkeypatch):
    import SampleData
    from ProgressiveRegistrationSlicer import sample_data

    small = {"size": (48, 48, 32), "spacing": (7.2, 7.2, 10.0), "tips": 200, "landmarks": 6}
    load = sample_data.load
    source = slicer.modules.sampleDataSources["Progressive Registration"][0]
    monkeypatch.setattr(source, "customDownloader", lambda s: load(s, **small))
    fixed, _moving, fixed_list, moving_list = SampleData.click("BreathingThorax")
    assert fixed.GetImageData().GetDimensions() == (48, 48, 32)
    errors = panel.logic.landmarkErrors(fixed_list, moving_list)
    assert errors.how == "6 landmarks matched by label."
    assert errors.before.mean() > 2
    from ProgressiveRegistrationLib.phantom.pair import breathing_thorax

    pair = breathing_thorax(**small)
    np.testing.assert_allclose(
        errors.before,
        np.linalg.norm(pair.fixed_landmarks.points - pair.moving_landmarks.points, axis=1),
        atol=1e-6,
    )
