"""The module with the real engine: on real CT against the command line's figures, and its own self-test."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from ProgressiveRegistrationLib.images import read_image
from ProgressiveRegistrationLib.jobs import evaluate_files
from ProgressiveRegistrationLib.landmarks import read_landmarks
from ProgressiveRegistrationLib.network.model import available_models
from ProgressiveRegistrationLib.options import PairFiles
from ProgressiveRegistrationLib.quality import tre
from ProgressiveRegistrationSlicer import mrml, mrml_landmarks
from slicer_harness import process_events_until

SUSPECT = "35"


def load_pair(folder, moving="followup"):
    """Volumes by Slicer's own reader, landmarks of the CSV;
    in the scanner frame the pair lies 35 mm apart."""
    nodes = [slicer.util.loadVolume(str(folder / f"{name}.nrrd")) for name in ("baseline", moving)]
    for columns in ("baseline", moving):
        landmarks = read_landmarks(folder / "landmarks51_lps_mm.csv", columns=columns).without([SUSPECT])
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", f"{columns} landmarks")
        mrml_landmarks.landmarks_to_node(landmarks, node)
        nodes.append(node)
    return nodes


def test_table_on_real_ct_equals_the_command_lines_figures(panel, shared, tmp_path):
    folder = shared / "pairs" / "elastix_lung"
    fixed, moving, fixed_list, moving_list = load_pair(folder)
    p = panel._parameterNode
    p.fixedVolume, p.movingVolume, p.fixedLandmarks, p.movingLandmarks = (
        fixed,
        moving,
        fixed_list,
        moving_list,
    )
    p.preset = next(v for v in type(p.preset) if v.value == "fast")
    p.modelName = "" if available_models() else "none"
    p.device = "cpu"
    panel.ui.applyButton.click()
    assert process_events_until(lambda: panel._task is None, 300)
    transform = p.evaluatedTransform
    assert transform is moving.GetParentTransformNode(), panel.ui.messageLabel.text

    image = read_image(folder / "baseline.nrrd")
    np.testing.assert_allclose(mrml.image_from_volume(fixed).GetOrigin(), image.GetOrigin(), atol=1e-3)
    errors = panel.tre.errors
    assert len(errors.after) == 50
    engine = tre(panel._results[-1][0].registration.field, errors.fixed, errors.moving)
    np.testing.assert_allclose(errors.after, engine, atol=0.01)

    path = tmp_path / "slicer.h5"
    assert slicer.util.saveNode(transform, str(path))
    files = PairFiles(
        folder / "baseline.nrrd",
        None,
        folder / "landmarks51_lps_mm.csv",
        folder / "landmarks51_lps_mm.csv",
        fixed_columns="baseline",
        moving_columns="followup",
        exclude_landmarks=(SUSPECT,),
    )
    report = evaluate_files(path, files, html=False)
    by_label = {row["label"]: row for row in report["landmarks"]}
    table = panel.ui.treTable
    for row in range(table.rowCount):
        expected = by_label[table.item(row, 0).text()]
        assert float(table.item(row, 1).text()) == pytest.approx(expected["before_mm"], abs=0.01)
        assert float(table.item(row, 2).text()) == pytest.approx(expected["after_mm"], abs=0.01)
    s = report["tre_mm"]["after"]
    shown = panel.ui.treSummaryLabel.text
    for value in (
        f"{s['mean']:.2f}",
        f"{s['sd']:.2f}",
        f"{s['median']:.2f}",
        f"{s['p95']:.2f}",
        f"{s['max']:.2f}",
    ):
        assert value in shown
    assert report["tre_mm"]["before"]["mean"] == pytest.approx(34.99, abs=0.01)  # of the CSV itself, by hand
    assert s["mean"] < 10


def test_cancelling_the_real_engine_on_real_ct_changes_nothing(panel, shared):
    fixed, moving, *_ = load_pair(shared / "pairs" / "elastix_lung")
    p = panel._parameterNode
    p.fixedVolume, p.movingVolume, p.modelName, p.device = fixed, moving, "none", "cpu"
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    panel.ui.applyButton.click()
    assert process_events_until(lambda: panel.ui.stageLabel.text.startswith("Refining"), 120)
    panel.ui.applyButton.click()
    assert process_events_until(lambda: panel._task is None, 60)
    assert panel.ui.messageLabel.text == "Cancelled; the scene is as it was."
    assert (slicer.mrmlScene.GetNumberOfNodes(), moving.GetParentTransformNode()) == (nodes, None)


def test_volume_without_lungs_is_said_in_the_panel(panel):
    rng = np.random.default_rng(0)
    matrix = np.diag([-6.0, -6.0, 6.0, 1.0])
    for name in ("fixedVolume", "movingVolume"):
        values = rng.normal(40, 10, (30, 40, 40)).astype(np.int16)
        setattr(panel._parameterNode, name, slicer.util.addVolumeFromArray(values, matrix, name))
    panel._parameterNode.modelName = "none"
    panel.ui.applyButton.click()
    assert process_events_until(lambda: panel._task is None, 60)
    assert "No lung was found in the fixed image" in panel.ui.messageLabel.text


def test_self_test_of_the_module(scene, module):
    """What "Reload and Test" and CTest run; needs the shipped weights."""
    if not available_models():
        pytest.skip("no weights are in Resources/Models")
    slicer.selfTests["ProgressiveRegistration"]()
