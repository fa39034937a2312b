"""The expected error of a result in the panel: where not to trust it."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed (extra slicer-tests)")
pytest.importorskip("PySide6", reason="PySide6 is not installed (extra slicer-tests)")

import numpy as np
import slicer
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.lungs import find_lungs
from ProgressiveRegistrationLib.phantom.pair import breathing_thorax
from ProgressiveRegistrationSlicer import overlays, sample_data
from ProgressiveRegistrationSlicer.trust import worst_place
from slicer_harness import process_events_until
from slicer_harness.fixtures import FakeRegister

WRONG_MM = 8.0


@pytest.fixture(scope="module")
def pair():
    return breathing_thorax(3, size=(96, 96, 80), spacing=(3.6, 3.6, 4.0), tips=600, landmarks=12)


@pytest.fixture(scope="module")
def wrong(pair):
    """(the true field with a bump in the middle of the right lung, the bump's place in LPS mm)."""
    lungs = np.argwhere(np.asarray(slicer_array(pair.fixed_lungs)) > 0)[:, ::-1]
    grid = pair.field.grid
    places = fixed_grid(pair).index_to_world(lungs.astype(float))
    right = places[places[:, 0] < np.median(places[:, 0])]
    place = right.mean(0)
    far = np.linalg.norm(grid.points() - place, axis=-1)
    bump = WRONG_MM * np.exp(-0.5 * (far / 18.0) ** 2)
    u = pair.field.displacement.copy()
    u[..., 2] += bump
    return DisplacementField(grid, u, pair.field.outside), place


def slicer_array(image):
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(image)


def fixed_grid(pair):
    from ProgressiveRegistrationLib.geometry import Grid

    return Grid.from_image(pair.fixed)


@pytest.fixture
def chosen(panel, pair, wrong):
    """The panel with the pair; registering answers with the wrong field."""
    p = panel._parameterNode
    p.fixedVolume, p.movingVolume, p.fixedLandmarks, p.movingLandmarks = sample_data.add_to_scene(pair)
    lungs = find_lungs(pair.fixed, mask=pair.fixed_lungs)
    for name in slicer.app.layoutManager().sliceViewNames():
        slicer.app.layoutManager().sliceWidget(name)
    panel.logic._register = FakeRegister(field=wrong[0], lungs=lungs)
    return panel


def finish(panel):
    assert process_events_until(lambda: panel._task is None, 120)


def overlay_values():
    """(z, y, x) mm of the overlay that the slice views show, and its node."""
    composite = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")[0]
    node = slicer.mrmlScene.GetNodeByID(composite.GetForegroundVolumeID())
    return slicer.util.arrayFromVolume(node), node


def test_map_is_made_on_demand_and_is_red_where_the_field_is_wrong(chosen, wrong):
    panel, place = chosen, wrong[1]
    panel.ui.applyButton.click()
    finish(panel)
    panel.ui.fusionComboBox.setCurrentText("Expected error")
    assert panel._task is not None, "it is estimated beside the window"
    assert panel.ui.applyButton.text == "Cancel"
    finish(panel)
    values, node = overlay_values()
    assert node.GetName() == "Expected error"
    display = node.GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == overlays.TRUST_MM
    assert display.GetApplyThreshold(), "clear beyond the lungs"
    assert (values < 0).any()
    legends = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
    assert [legend.GetTitleText() for legend in legends] == ["Expected error (mm)"]
    message = panel.ui.messageLabel.text.replace("\u200b", "")
    assert "Expected error in the lungs: mean" in message
    assert "Do not trust it where it is red: above 3 mm" in message
    assert "calibrated on voxels of 2 to 3 mm and these have 3.7 mm" in message
    # independent of the map: the bump's own place
    found = panel.fusion.trust
    near = np.linalg.norm(found.grid.points() - place, axis=-1) < 12
    lungs = np.isfinite(found.expected)
    assert found.expected[near & lungs].mean() > 2 * np.median(found.expected[~near & lungs])
    at_worst = found.at(np.array([worst_place(found) * [-1, -1, 1]]))
    assert at_worst == pytest.approx(found.figures["max_mm"])


def test_map_is_kept_until_the_transform_changes(chosen):
    panel, p = chosen, chosen._parameterNode
    panel.ui.applyButton.click()
    finish(panel)
    panel.ui.fusionComboBox.setCurrentText("Expected error")
    finish(panel)
    first = panel.fusion.trust
    panel.ui.fusionComboBox.setCurrentText("Checkerboard")
    panel.ui.fusionComboBox.setCurrentText("Expected error")
    assert panel._task is None
    assert panel.fusion.trust is first
    panel.ui.fusionComboBox.setCurrentText("Checkerboard")
    content = p.evaluatedTransform.GetTransformFromParent()
    content.Modified()  # what an edit of the grid does
    panel.ui.fusionComboBox.setCurrentText("Expected error")
    assert panel._task is not None
    finish(panel)
    assert panel.fusion.trust is not first


def test_without_a_transform_or_when_cancelled_the_overlay_stays(chosen):
    panel = chosen
    panel.ui.fusionComboBox.setCurrentText("Expected error")
    assert panel._task is None
    assert "There is no transform to judge yet" in panel.ui.messageLabel.text
    assert panel.ui.fusionComboBox.currentText == "Fixed orange, moving blue"
    panel.ui.applyButton.click()
    finish(panel)
    panel.ui.fusionComboBox.setCurrentText("Expected error")
    panel.ui.applyButton.click()
    finish(panel)
    assert "Cancelled" in panel.ui.messageLabel.text
    assert panel.ui.fusionComboBox.currentText == "Fixed orange, moving blue"
    assert not slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")


def test_report_has_the_map_that_was_made(chosen, tmp_path):
    panel = chosen
    panel.ui.applyButton.click()
    finish(panel)
    panel.ui.reportFolder.currentPath = str(tmp_path)
    panel.ui.reportButton.click()
    finish(panel)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")).get("uncertainty") is None
    panel.ui.fusionComboBox.setCurrentText("Expected error")
    finish(panel)
    panel.ui.reportButton.click()
    finish(panel)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["uncertainty"]["distrust_percent"] == panel.fusion.trust.figures["distrust_percent"]
    assert "expected error, mm" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_difference_is_clear_beyond_the_moving_volume(chosen):
    panel, p = chosen, chosen._parameterNode
    away = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = slicer.util.arrayFromTransformMatrix(away)
    matrix[0, 3] = 60.0
    slicer.util.updateTransformMatrixFromArray(away, matrix)
    p.movingVolume.SetAndObserveTransformNodeID(away.GetID())
    panel.ui.fusionComboBox.setCurrentText("Difference in HU")
    values, node = overlay_values()
    display = node.GetDisplayNode()
    beyond = values < display.GetLowerThreshold()
    columns = 60.0 / p.fixedVolume.GetSpacing()[0]
    assert beyond.mean() == pytest.approx(columns / values.shape[2], abs=0.02)
    assert np.abs(values[~beyond]).max() < 5000
