"""Suggesting landmarks in Slicer's scene and deciding on each; the truth is known on a made-up chest."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.phantom.pair import breathing_thorax
from ProgressiveRegistrationSlicer import landmark_review as reviews
from ProgressiveRegistrationSlicer import mrml
from slicer_harness import process_events_until
from slicer_harness.fixtures import add_linear, add_points, fixed_points


@pytest.fixture(scope="module")
def thorax():
    return breathing_thorax(seed=4, size=(128, 128, 88), spacing=(2.7, 2.7, 3.6), tips=3000, landmarks=5)


@pytest.fixture
def pair(scene, thorax):
    """Volumes of the chest, a transform that is the truth and 4 mm more, two empty lists."""
    nodes = []
    for name, image in (("exhale", thorax.fixed), ("inhale", thorax.moving)):
        nodes.append(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name))
        mrml.update_volume(nodes[-1], image)
    field = thorax.field
    off = type(field)(field.grid, field.displacement + np.float32([0, 0, 4]), field.outside)
    transform = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "4 mm off")
    mrml.set_transform(transform, mrml.transform_data(off, Grid.from_image(thorax.fixed)))
    return (*nodes, transform, reviews.new_list("fixed"), reviews.new_list("moving"))


def suggest(pair, count=12):
    fixed, moving, transform, fixed_list, moving_list = pair
    work = reviews.Suggestion(fixed, moving, transform, count=count)
    return work.finish(work.compute(), fixed_list, moving_list, transform)


def errors(pair):
    from ProgressiveRegistrationSlicer.mrml_landmarks import landmark_errors

    return landmark_errors(pair[3], pair[4], pair[2])


def test_accepting_all_measures_the_error_that_the_transform_has(pair, thorax):
    _fixed, _moving, _transform, fixed_list, moving_list = pair
    labels = suggest(pair)
    assert labels == [f"S{n + 1}" for n in range(12)]
    with pytest.raises(InputError, match="has suggestions alone so far"):  # none is a landmark yet
        errors(pair)
    review = reviews.Review(fixed_list, moving_list)
    for expected in labels:
        assert review.current == expected
        review.accept()
    assert review.current is None
    x = slicer.util.arrayFromMarkupsControlPoints(fixed_list) * [-1, -1, 1]
    y = slicer.util.arrayFromMarkupsControlPoints(moving_list) * [-1, -1, 1]
    truth = thorax.motion.lung(x)
    matched = [known[3] is not None for known in reviews.suggestions(moving_list).values()]
    assert np.mean(matched) > 0.8
    assert np.median(np.linalg.norm(y - truth, axis=1)[matched]) < 1.2  # voxels of 2.7 x 2.7 x 3.6 mm
    measured = errors(pair).after[matched]
    assert np.median(measured) == pytest.approx(4.0, abs=0.8)  # what the transform errs, not what it says


def test_moving_rejecting_and_leaving_are_told_apart(pair):
    _fixed, _moving, _transform, fixed_list, moving_list = pair
    suggest(pair, 6)
    review = reviews.Review(fixed_list, moving_list)
    moving_list.SetNthControlPointPosition(0, *(np.array(moving_list.GetNthControlPointPosition(0)) + 2.0))
    review.accept()
    review.reject()
    known = reviews.suggestions(moving_list)
    known["S3"][3] = None  # as if the images had not matched there
    moving_list.SetAttribute(reviews.ATTRIBUTE, __import__("json").dumps(known))
    assert review.current == "S3"
    assert review.correlation() is None
    review.accept()
    review.skip()
    assert review.pending() == ["S5", "S6", "S4"]
    review.accept()
    counts = reviews.tally(fixed_list, moving_list)
    assert counts == {"pending": 2, "accepted": 3, "matched": 1, "moved": 1, "predicted": 1}
    text = reviews.tally_text(counts)
    for words in (
        "2 suggestions wait",
        "1 where the images match, 1 moved",
        "1 were left where the transform",
    ):
        assert words in text
    assert fixed_list.GetNumberOfControlPoints() == moving_list.GetNumberOfControlPoints() == 5
    assert errors(pair).labels == ["S1", "S3", "S5"]


def test_suggestions_are_added_to_what_is_there_and_survive_saving(pair, tmp_path):
    _fixed, _moving, _transform, fixed_list, moving_list = pair
    for node in (fixed_list, moving_list):
        node.AddControlPoint(0, 0, 0, "S1")
    assert suggest(pair, 3) == ["S2", "S3", "S4"]
    assert errors(pair).labels == ["S1"]
    paths = [tmp_path / "f.mrk.json", tmp_path / "m.mrk.json"]
    for node, path in zip((fixed_list, moving_list), paths):
        assert slicer.util.saveNode(node, str(path))
    loaded = [slicer.util.loadMarkups(str(path)) for path in paths]
    review = reviews.Review(*loaded)
    assert review.pending() == ["S2", "S3", "S4"]
    review.accept()
    assert review.pending() == ["S3", "S4"]


def test_lists_under_the_transform_and_poses_get_points_at_the_same_anatomy(pair, thorax):
    """The moving list goes under the result with its volume: what is stored must not change by that."""
    _fixed, moving, transform, fixed_list, moving_list = pair
    suggest(pair, 6)
    before = slicer.util.arrayFromMarkupsControlPoints(moving_list).copy()
    moving_list.RemoveAllControlPoints()
    fixed_list.RemoveAllControlPoints()
    for node in (moving, moving_list):
        node.SetAndObserveTransformNodeID(transform.GetID())
    shift = np.eye(4)
    shift[:3, 3] = (7, -3, 2)
    fixed_list.SetAndObserveTransformNodeID(add_linear(shift, "pose of the list").GetID())
    suggest(pair, 6)
    np.testing.assert_allclose(slicer.util.arrayFromMarkupsControlPoints(moving_list), before, atol=0.02)
    review = reviews.Review(fixed_list, moving_list)
    here, there = review.places()
    assert np.linalg.norm(here - there) == pytest.approx(4.0, abs=2.5)  # both shown in the fixed frame


def test_two_observers_are_compared(scene):
    x = fixed_points()
    labels = [f"L{n}" for n in range(len(x))]
    first, second = (
        add_points(x, labels, "anna"),
        add_points(x[::-1] + np.array([0, 3, 4]), labels[::-1], "bert"),
    )
    distances, names, how = reviews.observer_differences(first, second)
    np.testing.assert_allclose(distances, 5.0)
    assert (names, how) == (labels, "12 landmarks matched by label.")
    with pytest.raises(InputError, match="they are the same"):
        reviews.observer_differences(first, first)


# ---------- through the panel


@pytest.fixture
def chosen(panel, pair):
    """The panel with the chest chosen, the off transform to be measured, and no lists yet."""
    from slicer_harness.fixtures import FakeRegister

    fixed, moving, transform, *lists = pair
    for node in lists:
        slicer.mrmlScene.RemoveNode(node)
    p = panel._parameterNode
    p.fixedVolume, p.movingVolume, p.evaluatedTransform, p.suggestCount = fixed, moving, transform, 8
    panel.logic._register = FakeRegister()
    return panel


def press(panel, name):
    getattr(panel.ui, name).click()
    assert process_events_until(lambda: panel._task is None, 120)


def test_ten_minutes_of_a_clinician(chosen):
    """Suggest, look at each in two rows of views, move one, reject one, accept the rest, read the error."""
    panel, p = chosen, chosen._parameterNode
    press(panel, "suggestButton")
    assert p.fixedLandmarks.GetNumberOfControlPoints() == 8
    assert panel.ui.messageLabel.text.startswith("8 landmarks suggested")
    assert "8 suggestions wait" in panel.ui.reviewLabel.text
    assert panel.ui.treTable.rowCount == 0  # nothing counts yet
    assert process_events_until(lambda: "accept them" in panel.ui.treSummaryLabel.text, 10)
    assert panel.ui.twoUpButton.checked
    assert slicer.app.layoutManager().layout == 5516
    nodes = {n.GetLayoutName(): n for n in slicer.util.getNodesByClass("vtkMRMLSliceNode")}
    for name, node in (("Red", p.fixedLandmarks), ("MovingCoronal", p.movingLandmarks)):
        centre = [nodes[name].GetSliceToRAS().GetElement(r, 3) for r in range(3)]
        place = [0.0] * 3
        node.GetNthControlPointPositionWorld(0, place)
        np.testing.assert_allclose(centre, place, atol=1e-6)
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    shown = {c.GetLayoutName(): c.GetBackgroundVolumeID() for c in composites}
    assert (shown["Red"], shown["MovingAxial"]) == (p.fixedVolume.GetID(), p.movingVolume.GetID())
    panel.ui.laterButton.click()
    panel.ui.rejectButton.click()
    label = panel.review._review.current
    position = np.array(p.movingLandmarks.GetNthControlPointPosition(1))
    p.movingLandmarks.SetNthControlPointPosition(1, *(position + np.array([0, 0, 3.0])))
    assert p.movingLandmarks.GetNthControlPointLabel(1) == label
    while panel.ui.acceptButton.enabled:
        panel.ui.acceptButton.click()
    assert p.fixedLandmarks.GetNumberOfControlPoints() == 7
    panel.tre.update()
    assert panel.ui.treTable.rowCount == 7
    assert "1 moved by hand" in panel.ui.reviewLabel.text
    assert 2.0 < np.median(panel.tre.errors.after) < 6.0  # the transform is 4 mm off
    panel.ui.twoUpButton.click()
    assert slicer.app.layoutManager().layout != 5516


def test_fusion_and_side_by_side_take_turns(chosen):
    panel = chosen
    panel.ui.fusionComboBox.setCurrentText("Fixed orange, moving blue")
    panel.ui.twoUpButton.click()
    assert panel.ui.fusionComboBox.currentText == "Off"
    panel.ui.fusionComboBox.setCurrentText("Difference in HU")
    assert not panel.ui.twoUpButton.checked
    assert slicer.app.layoutManager().layout != 5516


def test_second_observer_is_compared_in_the_panel(chosen):
    panel, p = chosen, chosen._parameterNode
    x = fixed_points(6)
    p.movingLandmarks, p.secondObserver = (
        add_points(x, name="a"),
        add_points(x + np.array([1, 2, 2]), name="b"),
    )
    panel.update()
    assert "differ by 3.00 ± 0.00 mm" in panel.ui.observerLabel.text
    p.secondObserver = p.movingLandmarks
    panel.update()
    assert "they are the same" in panel.ui.observerLabel.text


def test_letters_decide_only_while_the_landmark_is_shown(chosen):
    panel = chosen
    press(panel, "suggestButton")
    p = panel._parameterNode

    def key(letter):
        import qt

        for shortcut in panel.shortcuts._keys:
            if shortcut.key == qt.QKeySequence(letter) and shortcut.enabled:
                shortcut.activated.emit()

    key("R")
    assert p.fixedLandmarks.GetNumberOfControlPoints() == 7
    panel.ui.twoUpButton.click()  # not shown any more
    key("R")
    assert p.fixedLandmarks.GetNumberOfControlPoints() == 7
    key("F")
    assert panel.ui.fusionComboBox.currentText == "Fixed orange, moving blue"
    key("F")
    assert panel.ui.fusionComboBox.currentText == "Off"
    panel.exit()
    key("F")
    assert panel.ui.fusionComboBox.currentText == "Off"


def test_scene_closed_in_the_middle_of_a_review(chosen):
    panel = chosen
    press(panel, "suggestButton")
    slicer.mrmlScene.Clear(0)
    assert not panel.ui.twoUpButton.checked
    assert not panel.ui.acceptButton.enabled
    assert panel.review._review is None
