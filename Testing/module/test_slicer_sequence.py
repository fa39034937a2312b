"""A registered sequence in the scene: one browser, transforms that follow it, and all of it again from a
file.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import SimpleITK as sitk
from ProgressiveRegistrationLib.errors import OutputError
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.landmarks import Landmarks
from ProgressiveRegistrationSlicer import mrml, sample_data, sequence_scene
from ProgressiveRegistrationSlicer.choices import Preset
from slicer_harness import process_events_until
from slicer_harness.fixtures import slicer, vtk

GRID = Grid((30, 26, 22), (6.0, 6.0, 7.0), (-87.0, -75.0, -73.0))
NAMES = ("inhale", "exhale", "middle")
POINTS = np.random.default_rng(2).uniform((-60, -50, -50), (60, 50, 50), (50, 3))


def moved(k: int) -> DisplacementField:
    points = GRID.points().astype(float)
    return DisplacementField(GRID, 5 * k * np.cos(points / 60) + (k, 0, -k))


@pytest.fixture
def nodes():
    slicer.mrmlScene.Clear()
    values = np.arange(GRID.points()[..., 0].size, dtype=np.int16).reshape(GRID.shape)
    phases = [(name, GRID.image(values + k)) for k, name in enumerate(NAMES)]
    doubt = GRID.image(np.where(np.abs(GRID.points()[..., 0]) < 40, 2.5, np.nan).astype(np.float32))
    fields = {0: moved(1), 2: moved(2)}
    marks = Landmarks(POINTS[:4], ["a", "b", "c", "d"])
    return sequence_scene.show("Chest", phases, 1, fields, {"uncertainty": doubt}, marks)


def mapped(transform) -> np.ndarray:
    """T of POINTS, LPS, by the node's own from-parent direction."""
    general = vtk.vtkGeneralTransform()
    general.Concatenate(transform.GetTransformFromParent())
    return np.array([general.TransformPoint(p) for p in POINTS * [-1, -1, 1]]) * [-1, -1, 1]


def check_browser(browser, volumes, transforms) -> None:
    assert browser.GetNumberOfItems() == 3
    for k, field in ((0, moved(1)), (1, None), (2, moved(2)), (0, moved(1))):
        browser.SetSelectedItemNumber(k)
        sequence_scene.logic().UpdateProxyNodesFromSequences(browser)
        volume, transform = browser.GetProxyNode(volumes), browser.GetProxyNode(transforms)
        assert volume.GetParentTransformNode().GetID() == transform.GetID()
        assert slicer.util.arrayFromVolume(volume)[0, 0, 0] == k
        wanted = POINTS if field is None else field.warp_points(POINTS)
        assert np.abs(mapped(transform) - wanted).max() < 0.1


def test_browser_leads_phase_and_transform_together(nodes):
    check_browser(nodes.browser, nodes.phases, nodes.transforms)


def test_map_has_its_colours_and_is_clear_beyond_the_lungs(nodes):
    display = nodes.maps["uncertainty"].GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0, 5)
    assert display.GetColorNode().GetName() == "ProgressiveRegistration yellow to red"
    assert display.GetApplyThreshold()
    assert display.GetLowerThreshold() > 0
    assert np.isfinite(slicer.util.arrayFromVolume(nodes.maps["uncertainty"])).all()
    assert nodes.landmarks.GetNumberOfControlPoints() == 4


def test_part_that_shrinks_is_shown_and_has_a_legend(nodes):
    values = np.full((4, 5, 6), np.nan, np.float32)
    values[1:3, 1:4, 1:4], values[1, 1, 1] = 0.2, -0.3
    node = sequence_scene.add_map("Chest air", sitk.GetImageFromArray(values), "turbo", (0.0, 0.5), "")
    display, shown = node.GetDisplayNode(), slicer.util.arrayFromVolume(node)
    seen = (shown >= display.GetLowerThreshold()) & (shown <= display.GetUpperThreshold())
    assert np.array_equal(seen, np.isfinite(values))
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)
    assert legend.GetTitleText() == "Chest air"
    assert slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(nodes.maps["uncertainty"]).GetTitleText() == (
        "Chest uncertainty (mm)"
    )


def test_scene_opened_again_is_the_same(nodes, tmp_path):
    sequence_scene.save_scene(tmp_path / "scene.mrb")
    assert [p.name for p in tmp_path.iterdir()] == ["scene.mrb"]
    slicer.mrmlScene.Clear()
    assert slicer.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    browser = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSequenceBrowserNode")
    found = {n.GetName(): n for n in slicer.util.getNodesByClass("vtkMRMLSequenceNode")}
    check_browser(browser, found["Chest phases"], found["Chest transforms"])
    shown = slicer.mrmlScene.GetFirstNodeByName("Chest uncertainty")
    assert shown.GetDisplayNode().GetColorNode().GetName() == "ProgressiveRegistration yellow to red"
    assert slicer.util.arrayFromVolume(shown).max() == 2.5


def test_scene_that_cannot_be_written_is_told(nodes, tmp_path):
    with pytest.raises(OutputError, match="there is no folder"):
        sequence_scene.save_scene(tmp_path / "missing" / "scene.mrb")


def written_by_the_command(capsys, tmp_path: Path) -> None:
    """``tmp_path / "out"``: what ``sequence`` makes of a chest and the same 8 mm higher."""
    from small_pair import GRID as CHEST
    from small_pair import chest, run

    for k in range(2):
        image = CHEST.image(chest())
        image.SetOrigin(np.add(CHEST.origin, (0, 0, 8.0 * k)))
        sitk.WriteImage(image, str(tmp_path / f"p{k}.nrrd"))
    phases = [tmp_path / "p0.nrrd", tmp_path / "p1.nrrd"]
    options = ["--reference", "p0", "--model", "none", "--preset", "fast", "--no-warped", "-q"]
    assert run(capsys, "sequence", *phases, "-o", tmp_path / "out", *options)[0] == 0


def test_result_of_the_command_is_loaded_as_it_was_written(capsys, tmp_path):
    slicer.mrmlScene.Clear()
    written_by_the_command(capsys, tmp_path)
    nodes = sequence_scene.load_result(tmp_path / "out")
    nodes.browser.SetSelectedItemNumber(1)
    sequence_scene.logic().UpdateProxyNodesFromSequences(nodes.browser)
    assert np.abs(mapped(nodes.transform) - POINTS - (0, 0, 8)).max() < 0.05
    assert "amplitude" in nodes.maps


# ---- from the panel --------------------------------------------------------------------------------------

SHIFTS = ((0, 0, 6.0), (0, 0, 0), (3, 0, 9))


def add_browser(name="4DCT"):
    """A browser of one chest at three places."""
    from small_pair import GRID as CHEST
    from small_pair import chest

    sequence_scene.logic()
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    for k, shift in enumerate(SHIFTS):
        image = CHEST.image(chest())
        image.SetOrigin(np.add(CHEST.origin, shift))
        node = slicer.vtkMRMLScalarVolumeNode()
        mrml.update_volume(node, image)
        sequence.SetDataNodeAtValue(node, f"{10 * k} %")
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{name} browser")
    browser.AddSynchronizedSequenceNode(sequence)
    return browser


def test_panel_registers_what_a_browser_plays(panel):
    section = panel.sequence
    assert not section.button.enabled
    browser = add_browser()
    section.selector.setCurrentNode(browser)
    assert section.button.enabled
    panel._parameterNode.preset = Preset.FAST
    panel._parameterNode.modelName = "none"
    panel._parameterNode.device = "cpu"
    section.button.click()
    assert not section.button.enabled  # one thing at a time
    assert process_events_until(lambda: panel._task is None, 300)
    assert "Registered 3 phases" in panel.ui.messageLabel.text
    nodes = section.nodes
    assert nodes.browser.GetNumberOfItems() == 3
    reference = [nodes.reference.GetName().endswith(f"{k:02d}_{10 * k}__") for k in range(3)].index(True)
    for k, shift in enumerate(SHIFTS):
        nodes.browser.SetSelectedItemNumber(k)
        sequence_scene.logic().UpdateProxyNodesFromSequences(nodes.browser)
        wanted = np.subtract(shift, SHIFTS[reference])
        assert np.abs(mapped(nodes.transform) - POINTS - wanted).max() < 0.05
    assert {"amplitude", "uncertainty"} <= set(nodes.maps)
    shown = nodes.maps["uncertainty"]
    clear = slicer.util.arrayFromVolume(shown) < shown.GetDisplayNode().GetLowerThreshold()
    assert clear[0].all()  # beyond the lungs
    assert 0.2 < clear.mean() < 0.95


def test_browser_without_volumes_is_told(panel):
    sequence_scene.logic()
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Empty")
    panel.sequence.selector.setCurrentNode(browser)
    panel.sequence.button.click()
    assert panel._task is None
    assert "Empty plays no volumes" in panel.ui.messageLabel.text


def test_sample_data_is_a_breath_that_the_panel_takes(panel):
    sample_data.register()
    assert sample_data.NAME_4D in [
        s.sampleName for s in slicer.modules.sampleDataSources[sample_data.CATEGORY]
    ]
    small = {"phases": 3, "size": (64, 64, 44), "spacing": (5.4, 5.4, 7.0), "tips": 300, "landmarks": 5}
    browser, sequence, shown = sample_data.load_cycle(**small)
    assert [sequence.GetNthIndexValue(k) for k in range(3)] == ["phase00", "phase33", "phase67"]
    panel.sequence.selector.setCurrentNode(browser)
    assert panel.sequence.button.enabled
    first = slicer.util.arrayFromVolume(shown).copy()
    browser.SetSelectedItemNumber(1)
    sequence_scene.logic().UpdateProxyNodesFromSequences(browser)
    assert not np.array_equal(slicer.util.arrayFromVolume(shown), first)


@pytest.mark.parametrize(("breath", "high"), [(0.09, 0.1), (0.31, 0.4)])
def test_colours_of_maps_reach_as_far_as_the_breath(breath, high):
    share = np.linspace(0.5, 1.2, GRID.points()[..., 0].size, dtype=np.float32).reshape(GRID.shape)
    maps = {
        "ventilation_jacobian": GRID.image(breath * share),
        "ventilation_hu": GRID.image(3 * breath * share),
        "amplitude": GRID.image(30 * breath * share),
        "uncertainty": GRID.image(share),
    }
    ranges = {key: sequence_scene.colour_range(key, maps) for key in maps}
    assert ranges["ventilation_jacobian"] == ranges["ventilation_hu"] == (0.0, pytest.approx(high))
    assert ranges["amplitude"] == (0.0, np.ceil(30 * breath * 1.18))
    assert ranges["uncertainty"] == (0.0, 5.0)


def test_script_writes_a_scene_whose_views_show_reference_and_phase(capsys, tmp_path):
    import subprocess
    import sys
    import zipfile

    written_by_the_command(capsys, tmp_path)
    script = Path(__file__).parents[2] / "ProgressiveRegistration" / "Scripts" / "sequence_scene.py"
    given = [sys.executable, str(script), str(tmp_path / "out"), str(tmp_path / "scene.mrb")]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "scene.mrb") as packed:
        name = next(n for n in packed.namelist() if n.endswith(".mrml"))
        nodes = ElementTree.fromstring(packed.read(name))
    names = {node.get("id"): node.get("name") for node in nodes.iter()}
    views = list(nodes.iter("SliceComposite"))
    assert sorted(view.get("layoutName") for view in views) == ["Green", "Red", "Yellow"]
    for view in views:
        references = dict(part.split(":") for part in view.get("references").rstrip(";").split(";"))
        assert names[references["backgroundVolume"]] == "out reference p0"
        assert names[references["foregroundVolume"]] == "out phases"
