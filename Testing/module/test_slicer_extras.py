"""Initial transforms, B-splines, hardened copies, lungs, the run log, overlays, sequences, own settings."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Affine, Grid
from ProgressiveRegistrationSlicer import initial, lung_nodes, mrml, overlays, run_log, sequence_frames
from ProgressiveRegistrationSlicer.session import SceneRegistration
from ProgressiveRegistrationSlicer.user_settings import UserSettings
from slicer_harness.fixtures import (
    FakeRegister,
    add_linear,
    add_pair,
    add_points,
    field_of,
    fixed_points,
    motion,
    motion_lps,
    rotation,
)
from slicer_harness.three_d_view import ThreeDView


def register(fixed, moving, answer=None, **options):
    session = SceneRegistration(fixed, moving, register=answer or FakeRegister(), **options)
    return session.finish(session.compute())


# ---------- initial transforms


def shifted_pair(shift):
    """The pair with its moving volume ``shift`` mm (RAS) away, and the node that brings it back."""
    back, away = np.eye(4), np.eye(4)
    back[:3, 3], away[:3, 3] = -np.asarray(shift), shift
    fixed, moving = add_pair()
    matrix = vtk.vtkMatrix4x4()
    moving.GetIJKToRASMatrix(matrix)
    moving.SetIJKToRASMatrix(mrml.vtk_matrix(away @ mrml.array_from_matrix(matrix)))
    return fixed, moving, add_linear(back, "by hand")


class RegisterBrought(FakeRegister):
    """Keeps the moving image as it is given."""

    def __call__(self, fixed, moving, **options):
        self.given = moving
        return super().__call__(fixed, moving, **options)


def test_linear_initial_transform_is_part_of_the_result(scene):
    fixed, moving, start = shifted_pair((0, 0, 150.0))
    answer = RegisterBrought()
    result = register(fixed, moving, answer, initial_transform=start)
    placed = Grid.from_image(answer.given)
    untouched = Grid.from_image(mrml.image_from_volume(add_pair()[1]))
    np.testing.assert_allclose(placed.corners(), untouched.corners(), atol=1e-6)
    assert answer.calls[0]["lung_boxes"] == "shared"
    x = fixed_points()
    found = mrml.point_map(result.transform)(x * [-1, -1, 1]) * [-1, -1, 1]
    np.testing.assert_allclose(found, motion(x) + np.array([0, 0, 150.0]), atol=0.1)
    assert moving.GetParentTransformNode() is result.transform
    assert run_log.read(result.transform)["start"] == "by hand"


def test_rotated_and_sheared_initial_transforms_are_part_of_the_result(scene):
    x = fixed_points()
    turned, sheared = np.eye(4), np.eye(4)
    turned[:3, :3] = rotation(2, 20)
    sheared[0, 2] = 0.15
    for matrix in (turned, sheared):
        fixed, moving = add_pair()
        start = add_linear(np.linalg.inv(matrix))
        result = register(fixed, moving, initial_transform=start)
        found = mrml.point_map(result.transform)(x * [-1, -1, 1]) * [-1, -1, 1]
        expected = motion(x) @ matrix[:3, :3].T
        np.testing.assert_allclose(found, expected, atol=0.1)


def test_non_linear_initial_transform_is_part_of_the_result(scene):
    fixed, moving = add_pair()
    grid = Grid((60, 60, 60), (3.5,) * 3, (-113.0, -83.0, -73.0))
    start = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "warp")
    mrml.set_transform(start, mrml.transform_data(field_of(motion_lps, grid), grid))
    identity = field_of(lambda p: np.array(p), Grid.from_image(mrml.image_from_volume(fixed)))
    answer = RegisterBrought(identity)
    result = register(fixed, moving, answer, initial_transform=start)
    # brought by the true motion, the moving image is the fixed one
    ours = sitk.GetArrayFromImage(mrml.image_from_volume(fixed))
    theirs = sitk.GetArrayFromImage(answer.given)
    inner = (slice(6, -6),) * 3
    assert np.abs(ours - theirs)[inner].mean() < 0.15 * ours.std()
    x = fixed_points()
    found = mrml.point_map(result.transform)(x * [-1, -1, 1]) * [-1, -1, 1]
    np.testing.assert_allclose(found, motion(x), atol=0.2)


def test_volume_that_is_under_its_initial_transform_already_is_explained(scene):
    fixed, moving, start = shifted_pair((0, 0, 20.0))
    moving.SetAndObserveTransformNodeID(start.GetID())
    with pytest.raises(InputError, match="is under by hand already"):
        register(fixed, moving, initial_transform=start)


@pytest.mark.parametrize("count", [4, 12])
def test_fit_to_landmarks_brings_the_moving_ones_to_the_fixed_ones(scene, count):
    x = fixed_points(count)
    turn = rotation(2, 25) @ rotation(0, 10)
    y = x @ turn.T + [5.0, -30, 60]
    labels = [str(n) for n in range(count)]
    fixed_list, moving_list = add_points(x, labels), add_points(y, labels)
    node, sentence = initial.fit_to_landmarks(fixed_list, moving_list)
    assert sentence.startswith("Rigid" if count < 6 else "Affine")
    assert "0.0 mm left on average" in sentence
    moving_list.SetAndObserveTransformNodeID(node.GetID())
    for n in range(count):
        place = [0.0] * 3
        moving_list.GetNthControlPointPositionWorld(n, place)
        np.testing.assert_allclose(place, x[n], atol=1e-6)


def test_fit_never_mirrors_and_says_what_it_lacks():
    x = np.array([[0.0, 0, 0], [10, 0, 0], [0, 10, 0], [0, 0, 10]])
    affine, kind = initial.fitted(x, x * [-1, 1, 1])
    assert kind == "rigid"
    assert np.linalg.det(affine.matrix) == pytest.approx(1.0)
    with pytest.raises(InputError, match="at least 3"):
        initial.fitted(x[:2], x[:2])
    with pytest.raises(InputError, match="on a line"):
        initial.fitted(np.outer(np.arange(5), [1, 2, 3]), np.outer(np.arange(5), [1, 2, 3]))


# ---------- other outputs


def test_bspline_is_the_field_within_what_it_says_and_survives_a_file(scene, tmp_path):
    fixed, moving = add_pair()
    result = register(fixed, moving, bspline=True, transform=None)
    assert result.bspline.GetClassName() == "vtkMRMLBSplineTransformNode"
    said = float(result.notes[-1].split("by ")[1].split(" mm")[0])
    x = fixed_points() * [-1, -1, 1]
    errors = np.linalg.norm(mrml.point_map(result.bspline)(x) - motion_lps(x), axis=1)
    assert errors.max() < max(0.3, 3 * said)
    path = tmp_path / "spline.h5"
    assert slicer.util.saveNode(result.bspline, str(path))
    itk = sitk.ReadTransform(str(path))  # another program's view of it: fixed -> moving, LPS
    there = np.array([itk.TransformPoint(p) for p in x.tolist()])
    np.testing.assert_allclose(there, mrml.point_map(result.bspline)(x), atol=0.02)
    assert result.transform is None
    result.undo()
    assert not slicer.util.getNodesByClass("vtkMRMLBSplineTransformNode")


def test_hardened_copies_lie_in_the_fixed_frame_and_the_originals_stay(scene):
    pose = np.eye(4)
    pose[:3, 3] = (4, 5, -6)
    fixed, moving = add_pair(moving_to_world=pose)
    moving.SetAndObserveTransformNodeID(add_linear(pose, "pose").GetID())
    x = fixed_points()
    points = add_points(motion(x), name="moving points")
    nodes = scene.GetNumberOfNodes()
    result = register(fixed, moving, transform=None, hardened=True, moving_landmarks=[points])
    volume, landmarks = result.hardened
    assert (volume.GetName(), landmarks.GetName()) == ("Moving hardened", "moving points hardened")
    assert volume.GetParentTransformNode() is None
    np.testing.assert_allclose(slicer.util.arrayFromMarkupsControlPoints(landmarks), x, atol=0.15)
    from ProgressiveRegistrationSlicer.resampling import resampled

    ours, theirs = slicer.util.arrayFromVolume(fixed), resampled(volume, fixed)
    inner = (slice(6, -6),) * 3
    assert np.abs(ours - theirs)[inner].mean() < 0.2 * ours.std()
    assert moving.GetParentTransformNode().GetName() == "pose"
    result.undo()
    assert scene.GetNumberOfNodes() == nodes


# ---------- lungs


def test_lung_segmentations_are_the_engines_masks_and_can_be_used_as_regions(scene, tmp_path):
    from ProgressiveRegistrationLib.lungs import find_lungs
    from small_pair import GRID, chest

    turn = np.eye(4)
    turn[:3, :3] = rotation(2, 10)
    volumes = []
    for name in ("first", "second"):
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        mrml.update_volume(node, GRID.image(chest()))
        volumes.append(node)
    volumes[1].SetAndObserveTransformNodeID(add_linear(turn).GetID())
    work = lung_nodes.LungSegmentations(volumes)
    nodes = work.finish(work.compute())
    assert [n.GetName() for n in nodes] == ["first lungs", "second lungs"]
    for node, volume in zip(nodes, volumes):
        expected = find_lungs(mrml.image_from_volume(volume)).mask
        grid = Grid.from_image(expected)
        back = sitk.GetArrayFromImage(
            grid.resample(mrml.mask_from_node(node), interpolator=sitk.sitkNearestNeighbor)
        )
        ours = sitk.GetArrayFromImage(expected) > 0
        assert (back.astype(bool) == ours).mean() > 0.9999
    answer = FakeRegister()
    register(*volumes, answer, fixed_region=nodes[0], moving_region=nodes[1])
    assert answer.calls[0]["fixed_mask"] is not None
    assert answer.calls[0]["moving_mask"] is not None


# ---------- the run log


def test_run_is_kept_with_the_transform_and_survives_a_scene_file(scene, tmp_path):
    fixed, moving = add_pair()
    points = [add_points(fixed_points()), add_points(motion(fixed_points()))]
    result = register(fixed, moving, moving_landmarks=points[1:])
    from ProgressiveRegistrationSlicer.mrml_landmarks import landmark_errors

    errors = landmark_errors(*points, result.transform)
    run_log.note_errors(result.transform, errors)
    entry = run_log.read(result.transform)
    assert (entry["fixed"], entry["moving"], entry["model"], entry["preset"]) == (
        "Fixed",
        "Moving",
        "fake 0",
        "fast",
    )
    assert entry["tre"]["mean_mm"] == pytest.approx(errors.after.mean(), abs=1e-3)
    assert entry["versions"]["SimpleITK"]
    for node in (fixed, moving, *points, result.transform):
        node.AddDefaultStorageNode()
    path = tmp_path / "run.mrb"
    assert slicer.util.saveScene(str(path))
    scene.Clear(0)
    slicer.util.loadScene(str(path))
    loaded = slicer.util.getNode("Moving to Fixed")
    assert run_log.read(loaded) == entry
    for words in ("Moving to Fixed", "Preset fast, model fake 0, cpu", "TRE", "12 landmarks"):
        assert words in run_log.text(loaded)
    assert loaded.GetDescription() == run_log.text(loaded)
    loaded.SetAttribute(run_log.ATTRIBUTE, "{damaged")
    assert run_log.text(loaded) == ""


def test_undo_gives_an_overwritten_transform_its_earlier_run_back(scene):
    fixed, moving = add_pair()
    mine = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "mine")
    register(fixed, moving, transform=mine)
    first = mine.GetAttribute(run_log.ATTRIBUTE)
    entry = json.loads(first)
    mine.SetAttribute(run_log.ATTRIBUTE, json.dumps({**entry, "preset": "an earlier one"}))
    second = register(fixed, moving, transform=mine)
    assert run_log.read(mine)["preset"] == "fast"
    second.undo()
    assert run_log.read(mine)["preset"] == "an earlier one"


# ---------- overlays


def test_difference_and_jacobian_are_what_they_say(scene):
    fixed, moving = add_pair()
    result = register(fixed, moving)
    left = overlays.difference(fixed, moving)
    inner = (slice(6, -6),) * 3
    assert np.abs(left[inner]).mean() < 0.15 * slicer.util.arrayFromVolume(fixed).std()
    scale = Affine(np.diag([1.2, 1.0, 0.9]), np.zeros(3))
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    grid = Grid.from_image(mrml.image_from_volume(fixed))
    mrml.set_transform(node, mrml.transform_data(DisplacementField.from_affine(grid, scale), grid))
    _lattice, values = overlays.jacobian(node, fixed)
    np.testing.assert_allclose(values, 1.2 * 0.9, atol=1e-3)
    result.undo()


def bars(picture, without) -> list[str]:
    """Where a view has a colour bar that another picture of it lacks: an upright one has columns of at least
    30 changed pixels in the outer quarter of its side."""
    columns = (np.abs(picture.astype(int) - without).max(-1) > 60).sum(0)
    quarter = len(columns) // 4
    sides = {"left": columns[:quarter], "right": columns[-quarter:]}
    return [side for side, part in sides.items() if (part > 30).any()]


def hide_legends(shown: bool) -> None:
    for legend in slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode"):
        legend.SetVisibility(shown)


def test_warped_grid_has_a_legend_and_goes_again(scene):
    fixed, moving = add_pair()
    result = register(fixed, moving)
    nodes = scene.GetNumberOfNodes()
    overlays.show_grid(result.transform, fixed, overlays.displacements(result.transform, fixed))
    display = result.transform.GetDisplayNode()
    assert overlays.grid_shown(result.transform)
    assert display.GetScalarRange() == (0.0, pytest.approx(10, abs=3))
    legends = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
    assert [legend.GetTitleText() for legend in legends] == ["Displacement (mm)"]
    overlays.hide_grid(result.transform)
    assert not overlays.grid_shown(result.transform)
    assert not slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
    scene.RemoveNode(display)
    assert scene.GetNumberOfNodes() == nodes


def test_warped_grid_is_drawn_in_3d_in_the_colours_of_its_bar(scene):
    fixed, moving = add_pair()
    view = ThreeDView()
    result = register(fixed, moving)
    empty = view.image()
    overlays.show_grid(result.transform, fixed, (2.0, 12.0))
    with_bar = view.image()
    hide_legends(False)
    without_bar = view.image()
    assert (np.abs(without_bar.astype(int) - empty).max(-1) > 30).mean() > 0.02, "the grid is drawn"
    assert bars(with_bar, without_bar) == ["right"], "its bar, too"
    colours = result.transform.GetDisplayNode().GetColorMap()  # what the grid is drawn with
    assert colours.GetRange() == (2.0, 12.0)
    np.testing.assert_allclose(colours.GetColor(7.0), overlays.DISTANCE_COLOURS[1], atol=0.01)


def test_displacements_of_a_pair_far_apart_are_coloured_from_the_least_to_the_most(scene):
    fixed, _moving = add_pair()
    grid = Grid.from_image(mrml.image_from_volume(fixed))
    far = DisplacementField.from_affine(grid, Affine(np.diag([1.3, 1.0, 1.0]), np.array([0.0, 0.0, 35.0])))
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    mrml.set_transform(node, mrml.transform_data(far, grid))
    low, high = overlays.displacements(node, fixed)
    assert 34.9 < low < high - 1.0 < 45.0


# ---------- sequences


def sequence_of(scene, count=4):
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "4DCT")
    sequence.SetIndexName("phase")
    sequence.SetIndexUnit("%")
    for n in range(count):
        frame = slicer.vtkMRMLScalarVolumeNode()
        frame.SetName("frame")
        frame.SetSpacing(2, 3, 4)
        image = vtk.vtkImageData()
        image.SetDimensions(5, 6, 7)
        image.AllocateScalars(vtk.VTK_SHORT, 1)
        image.GetPointData().GetScalars().Fill(100 * n)
        frame.SetAndObserveImageData(image)
        sequence.SetDataNodeAtValue(frame, str(10 * n))
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    return browser


def test_frames_of_a_sequence_become_volumes(scene):
    browser = sequence_of(scene)
    assert sequence_frames.frame_count(browser) == 4
    fixed, moving = sequence_frames.two_frames(browser, 0, 3)
    assert moving.GetName() == "4DCT frame 3 (phase 30 %)"
    assert slicer.util.arrayFromVolume(fixed).max() == 0
    assert slicer.util.arrayFromVolume(moving).min() == 300
    assert moving.GetSpacing() == (2, 3, 4)
    slicer.util.arrayFromVolume(moving)[:] = 7  # a copy: the sequence keeps its own
    data = sequence_frames.volume_sequence(browser).GetNthDataNode(3)
    assert slicer.util.arrayFromVolume(data).min() == 300
    nodes = scene.GetNumberOfNodes()
    for frames, words in (((1, 1), "the same"), ((0, 9), "there is no frame 9")):
        with pytest.raises(InputError, match=words):
            sequence_frames.two_frames(browser, *frames)
    assert scene.GetNumberOfNodes() == nodes
    empty = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "empty")
    assert sequence_frames.frame_count(empty) == 0
    with pytest.raises(InputError, match="empty has no volumes"):
        sequence_frames.two_frames(empty, 0, 1)


# ---------- settings of one's own


class Store(dict):
    def value(self, key):
        return self.get(key)

    def setValue(self, key, text):
        self[key] = text


def test_settings_are_kept_by_name_and_unknown_ones_do_no_harm(scene):
    from ProgressiveRegistrationSlicer.parameter_node import ProgressiveRegistrationParameterNode

    p = ProgressiveRegistrationParameterNode(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    store = Store()
    settings = UserSettings(store)
    Preset = type(p.preset)
    p.preset, p.wantWarped, p.suggestCount, p.device = Preset("accurate"), True, 12, "cpu"
    settings.save(" night run ", p)
    p.preset, p.wantWarped, p.suggestCount, p.device = Preset("fast"), False, 30, "auto"
    settings.save("quick", p)
    assert UserSettings(store).names() == ["night run", "quick"]
    UserSettings(store).apply("night run", p)
    assert (p.preset.value, p.wantWarped, p.suggestCount, p.device) == ("accurate", True, 12, "cpu")
    kept = json.loads(next(iter(store.values())))
    kept["quick"]["preset"], kept["quick"]["suggestCount"] = "of another version", 99999
    store[next(iter(store))] = json.dumps(kept)
    settings.apply("quick", p)
    assert (p.preset.value, p.suggestCount, p.wantWarped) == ("accurate", 12, False)
    settings.delete("night run")
    assert settings.names() == ["quick"]
    with pytest.raises(InputError, match="no settings named night run"):
        settings.apply("night run", p)
    with pytest.raises(InputError, match="Type a name"):
        settings.save("  ", p)
    store[next(iter(store))] = "damaged"
    assert settings.names() == []


# ---------- through the panel


@pytest.fixture
def filled(panel):
    """The panel with the pair and its landmarks; registering answers with the true field."""
    fixed, moving = add_pair()
    x = fixed_points()
    p = panel._parameterNode
    p.fixedVolume, p.movingVolume = fixed, moving
    p.fixedLandmarks, p.movingLandmarks = add_points(x, name="f"), add_points(motion(x), name="m")
    panel.logic._register = FakeRegister()
    return panel


def finish(panel):
    from slicer_harness import process_events_until

    assert process_events_until(lambda: panel._task is None, 60)


def test_panel_makes_every_output_and_keeps_the_run(filled):
    panel, p = filled, filled._parameterNode
    p.wantWarped = p.wantJacobian = p.wantBSpline = p.wantHardened = True
    panel.ui.applyButton.click()
    finish(panel)
    result = panel._results[-1][0]
    assert None not in (result.transform, result.warped, result.jacobian, result.bspline)
    assert [n.GetName() for n in result.hardened] == ["Moving hardened", "m hardened"]
    assert "B-spline differs from the field by" in panel.ui.messageLabel.text
    panel.tre.update()
    panel.update()
    entry = run_log.read(result.transform)
    assert entry["tre"]["landmarks"] == 12
    assert "TRE" in panel.ui.evaluatedTransformSelector.toolTip
    panel.ui.gridButton.click()
    assert overlays.grid_shown(result.transform)
    panel.ui.gridButton.click()
    assert not overlays.grid_shown(result.transform)
    panel.ui.undoButton.click()
    assert not slicer.util.getNodesByClass("vtkMRMLBSplineTransformNode")


def test_result_of_a_loaded_scene_cannot_be_undone_and_that_is_said(filled, tmp_path):
    panel, p = filled, filled._parameterNode
    panel.ui.applyButton.click()
    finish(panel)
    for node in (p.fixedVolume, p.movingVolume, p.fixedLandmarks, p.movingLandmarks, p.evaluatedTransform):
        node.AddDefaultStorageNode()
    path = tmp_path / "scene.mrb"
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(path))
    assert not panel.ui.undoButton.enabled
    assert "there is nothing to undo" in panel.ui.undoButton.toolTip
    assert panel.ui.treTable.rowCount == 12
    assert "Preset fast" in panel.ui.evaluatedTransformSelector.toolTip


def test_start_from_landmarks_through_the_panel(filled):
    panel, p = filled, filled._parameterNode
    panel.ui.fitButton.click()
    assert p.initialTransform.GetName() == "Fit to landmarks"
    assert panel.ui.messageLabel.text.startswith("Affine fit of 12 landmarks")
    panel.ui.applyButton.click()
    finish(panel)
    assert run_log.read(p.evaluatedTransform)["start"] == "Fit to landmarks"


def test_colour_bars_lie_beside_each_other(filled):
    panel = filled
    view = slicer.app.layoutManager().sliceWidget("Red")
    view.image()
    panel.ui.applyButton.click()
    finish(panel)
    panel.ui.fusionComboBox.setCurrentText("Difference in HU")
    panel.ui.gridButton.click()
    panel.ui.vectorsButton.click()
    legends = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
    assert len({legend.GetPosition() for legend in legends}) == len(legends) == 3
    shown = view.image()
    hide_legends(False)
    assert bars(shown, view.image()) == ["left", "right"]
    panel.ui.undoButton.click()
    colours = slicer.util.getNodesByClass("vtkMRMLProceduralColorNode")
    assert not [node for node in colours if node.GetName().startswith(overlays.DISPLACEMENT)]


def test_lungs_that_are_not_there_are_said_and_leave_nothing_behind(filled):
    panel = filled
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    panel.ui.lungsButton.click()
    finish(panel)
    assert "No lung was found in Fixed" in panel.ui.messageLabel.text
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes


@pytest.mark.parametrize(
    ("mode", "title"),
    [("Difference in HU", "Moving - fixed (HU)"), ("Local volume change", "Jacobian (1: none)")],
)
def test_overlays_have_a_colour_bar_and_leave_nothing_behind(filled, mode, title):
    panel = filled
    panel.ui.applyButton.click()
    finish(panel)
    panel.ui.fusionComboBox.setCurrentText("Off")
    volumes = len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"))
    panel.ui.fusionComboBox.setCurrentText(mode)
    legends = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
    assert [legend.GetTitleText() for legend in legends] == [title]
    view = slicer.app.layoutManager().sliceWidget("Red")
    shown = view.image()
    hide_legends(False)
    assert bars(shown, view.image()) == ["right"], "the bar is drawn"
    assert panel.ui.opacitySlider.enabled == (mode == "Local volume change")
    panel.ui.fusionComboBox.setCurrentText("Off")
    assert not slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == volumes


def test_own_settings_through_the_panel(filled):
    panel, p = filled, filled._parameterNode
    p.wantWarped = True
    panel.ui.settingsComboBox.setEditText("with image")
    panel.ui.saveSettingsButton.click()
    assert panel.ui.messageLabel.text == "The settings with image are kept on this computer."
    p.wantWarped = False
    panel.ui.settingsComboBox.activated.emit(0)
    assert p.wantWarped
    panel.ui.deleteSettingsButton.click()
    assert panel.ui.settingsComboBox.count == 0


def test_frames_through_the_panel(filled):
    panel, p = filled, filled._parameterNode
    assert not panel.ui.framesButton.enabled
    p.sequenceBrowser = sequence_of(slicer.mrmlScene)
    assert (panel.ui.fixedFrameSpinBox.maximum, panel.ui.movingFrameSpinBox.value) == (3, 2)
    panel.ui.framesButton.click()
    assert p.movingVolume.GetName() == "4DCT frame 2 (phase 20 %)"
    panel.ui.fixedFrameSpinBox.value = 2
    panel.ui.framesButton.click()
    assert "the same" in panel.ui.messageLabel.text


def test_enter_registers(filled):
    panel = filled
    keys = [s for s in panel.shortcuts._keys if s.key.toString() in ("Return", "Enter") and s.enabled]
    assert keys
    keys[0].activated.emit()
    assert panel._task is not None
    keys[0].activated.emit()  # a second press does not cancel
    finish(panel)
    assert panel.ui.messageLabel.text.startswith("Registered")
