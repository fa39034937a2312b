"""The module's logic as scripts use it: what it leaves in the scene, undoing, saving, errors; no window."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from ProgressiveRegistrationLib.errors import Cancelled, InputError
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Affine, Box, Grid
from ProgressiveRegistrationLib.options import Options
from ProgressiveRegistrationSlicer import mrml
from ProgressiveRegistrationSlicer.measuring import folding_text
from ProgressiveRegistrationSlicer.session import SceneRegistration
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
    spline_file,
)

pytestmark = pytest.mark.usefixtures("scene")
FLIP = np.array([-1.0, -1.0, 1.0])


@pytest.fixture
def logic(module):
    return module.ProgressiveRegistrationLogic(register=FakeRegister())


def snapshot():
    """Everything about the scene's transformable nodes that a registration could change."""
    out = {}
    for n in range(slicer.mrmlScene.GetNumberOfNodes()):
        node = slicer.mrmlScene.GetNthNode(n)
        if node.IsA("vtkMRMLDisplayNode") or node.IsA("vtkMRMLSubjectHierarchyNode"):
            continue
        content = None
        if node.IsA("vtkMRMLVolumeNode") and node.GetImageData():
            content = slicer.util.arrayFromVolume(node).tobytes()
        if node.IsA("vtkMRMLTransformNode"):
            content = mrml.point_map(node)(fixed_points(5)).round(6).tobytes()
        parent = node.GetTransformNodeID() if node.IsA("vtkMRMLTransformableNode") else None
        out[node.GetID()] = (node.GetName(), parent, content)
    return out


def test_by_default_one_new_transform_that_aligns_the_pair(logic):
    fixed, moving = add_pair()
    points = add_points(motion(fixed_points()), name="moving points")
    result = logic.register(fixed, moving, moving_landmarks=[points])
    assert result.transform.IsA("vtkMRMLGridTransformNode")
    assert result.warped is None
    assert result.jacobian is None
    assert moving.GetParentTransformNode() is result.transform
    assert points.GetParentTransformNode() is result.transform
    found = slicer.util.arrayFromMarkupsControlPoints(points, world=True)
    np.testing.assert_allclose(found, fixed_points(), atol=0.2)
    role = result.transform.GetNodeReference
    assert role(slicer.vtkMRMLTransformNode.GetFixedNodeReferenceRole()) is fixed
    assert role(slicer.vtkMRMLTransformNode.GetMovingNodeReferenceRole()) is moving
    assert result.notes == ["A note from the engine."]


def test_the_engine_gets_the_volumes_and_options(logic):
    fixed, moving = add_pair()
    logic.register(fixed, moving, preset="fast", device="cpu", lung_boxes="shared", model="x")
    call = logic._register.calls[0]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(call["fixed"]), slicer.util.arrayFromVolume(fixed))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(call["moving"]), slicer.util.arrayFromVolume(moving))
    assert (call["preset"], call["device"], call["lung_boxes"], call["model"]) == (
        "fast",
        "cpu",
        "shared",
        "x",
    )
    logic.register(fixed, moving)
    assert logic._register.calls[1]["preset"] == "balanced"


def test_warped_volume_lies_on_the_fixed_lattice_and_equals_simpleitks(logic):
    fixed, moving = add_pair()
    result = logic.register(fixed, moving, transform=None, warped=True)
    assert result.transform is None
    assert moving.GetParentTransformNode() is None
    ours = slicer.util.arrayFromVolume(result.warped)
    image = mrml.image_from_volume(fixed)
    field = field_of(motion_lps, Grid.from_image(image))
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(mrml.image_from_volume(moving), image, field.to_transform(), sitk.sitkLinear, -1024.0)
    )
    inner = (slice(5, -5),) * 3
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=0.5)
    truth = slicer.util.arrayFromVolume(fixed)[inner]
    assert np.sqrt(((ours[inner] - truth) ** 2).mean()) < 0.05 * truth.std()
    for getter in ("GetOrigin", "GetSpacing"):
        np.testing.assert_allclose(getattr(result.warped, getter)(), getattr(fixed, getter)(), atol=1e-6)


def test_jacobian_volume_holds_the_determinant(logic):
    fixed, moving = add_pair()
    scale = np.diag([1.1, 0.9, 1.2])
    logic._register.field = field_of(
        lambda p: p @ scale, Grid((20, 20, 20), (10.0,) * 3, (-100.0, -100.0, -80.0))
    )
    result = logic.register(fixed, moving, transform=None, jacobian=True)
    np.testing.assert_allclose(slicer.util.arrayFromVolume(result.jacobian), 1.1 * 0.9 * 1.2, rtol=1e-3)


def test_chosen_nodes_are_overwritten_and_undo_gives_them_back(logic):
    fixed, moving = add_pair()
    points = add_points(motion(fixed_points()), name="moving points")
    shift = Grid((5, 5, 5), (50.0,) * 3, (-100.0,) * 3)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "mine")
    mrml.set_transform(
        transform, mrml.transform_data(field_of(lambda p: p + np.array([1.0, 2, 3]), shift), shift)
    )
    warped = slicer.util.addVolumeFromArray(
        np.full((3, 4, 5), 7, np.int16), np.diag([2.0, 2, 2, 1]), "my volume"
    )
    before = snapshot()
    result = logic.register(
        fixed, moving, transform=transform, warped=warped, jacobian=True, moving_landmarks=[points]
    )
    assert result.transform is transform
    assert result.warped is warped
    assert snapshot() != before
    assert result.can_undo
    result.undo()
    assert snapshot() == before
    assert not result.can_undo


def test_linear_parents_stay_and_the_moving_volume_lands_on_the_fixed_one(logic):
    place = np.eye(4)
    place[:3, :3], place[:3, 3] = rotation(2, 20), (40, 10, -30)
    fixed, moving = add_pair(place)
    parent = add_linear(place, "scanner")
    moving.SetAndObserveTransformNodeID(parent.GetID())
    other = add_points([[1, 2, 3]], name="bystander")
    other.SetAndObserveTransformNodeID(parent.GetID())
    before = snapshot()
    result = logic.register(fixed, moving)
    assert other.GetParentTransformNode() is parent
    assert parent.GetParentTransformNode() is None
    assert result.transform in mrml.parents(moving)
    volumes = slicer.app.logics["volumes"]
    shown = slicer.util.arrayFromVolume(volumes.ResampleVolumeToReferenceVolume(moving, fixed))
    truth = slicer.util.arrayFromVolume(fixed)
    inner = (slice(5, -5),) * 3
    assert np.sqrt(((shown - truth)[inner] ** 2).mean()) < 0.05 * truth.std()
    slicer.mrmlScene.RemoveNode(
        slicer.mrmlScene.GetNodeByID(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")[-1].GetID())
    )
    result.undo()
    assert snapshot() == before


def test_fixed_volume_with_a_parent_gives_the_registered_volume_the_same_parent(logic):
    fixed, moving = add_pair()
    place = np.eye(4)
    place[:3, 3] = (15, -5, 8)
    parent = add_linear(place)
    fixed.SetAndObserveTransformNodeID(parent.GetID())
    result = logic.register(fixed, moving, warped=True)
    assert result.warped.GetParentTransformNode() is parent
    call = logic._register.calls[0]
    np.testing.assert_allclose(
        np.array(call["fixed"].GetOrigin()) * FLIP - fixed.GetOrigin(), (15, -5, 8), atol=1e-9
    )


def test_registering_twice_starts_from_the_original_pose(logic):
    fixed, moving = add_pair()
    logic.register(fixed, moving)
    second = logic.register(fixed, moving)
    first_call, second_call = logic._register.calls
    assert first_call["moving"].GetOrigin() == second_call["moving"].GetOrigin()
    assert moving.GetParentTransformNode() is second.transform


def test_swapping_the_roles_takes_the_new_fixed_volume_and_its_landmarks_out(logic):
    fixed, moving = add_pair()
    x = fixed_points()
    fixed_list, moving_list = add_points(x, name="F"), add_points(motion(x), name="M")
    first = logic.register(fixed, moving, moving_landmarks=[moving_list], fixed_landmarks=[fixed_list])
    assert fixed_list.GetParentTransformNode() is None
    logic._register.field = field_of(lambda p: p, Grid((5, 5, 5), (50.0,) * 3, (-100.0,) * 3))
    second = logic.register(moving, fixed, moving_landmarks=[fixed_list], fixed_landmarks=[moving_list])
    assert moving.GetParentTransformNode() is None
    world = slicer.util.arrayFromMarkupsControlPoints(moving_list, world=True)
    np.testing.assert_allclose(world, motion(x), atol=1e-9)  # where the moving volume lies again
    assert fixed.GetParentTransformNode() is fixed_list.GetParentTransformNode() is second.transform
    second.undo()
    for node in (moving, moving_list):
        assert node.GetParentTransformNode() is first.transform


def test_new_volumes_go_beside_the_fixed_one_in_the_subject_hierarchy(logic):
    fixed, moving = add_pair()
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    folder = tree.CreateFolderItem(tree.GetSceneItemID(), "Study")
    tree.CreateItem(folder, fixed)
    result = logic.register(fixed, moving, warped=True)
    assert tree.GetItemParent(tree.GetItemByDataNode(result.warped)) == folder


def test_scene_saved_and_loaded_keeps_the_result(logic, tmp_path):
    fixed, moving = add_pair()
    x = fixed_points()
    fixed_list = add_points(x, name="fixed points")
    moving_list = add_points(motion(x) + np.array([0, 0, 2.0]), name="moving points")
    result = logic.register(fixed, moving, warped=True, moving_landmarks=[moving_list])
    errors = logic.landmarkErrors(fixed_list, moving_list, result.transform)
    logic.storeLandmarkErrors(errors, moving_list)
    warped = slicer.util.arrayFromVolume(result.warped).copy()
    name = result.transform.GetName()
    for node in (fixed, moving, result.warped, result.transform, fixed_list, moving_list):
        node.AddDefaultStorageNode()
    path = tmp_path / "saved.mrb"
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(path))
    transform = slicer.util.getNode(name)
    moving, fixed = slicer.util.getNode("Moving"), slicer.util.getNode("Fixed")
    moving_list, fixed_list = slicer.util.getNode("moving points"), slicer.util.getNode("fixed points")
    assert moving.GetParentTransformNode() is transform
    assert mrml.is_result(transform)
    assert transform.GetNodeReference(slicer.vtkMRMLTransformNode.GetFixedNodeReferenceRole()) is fixed
    again = logic.landmarkErrors(fixed_list, moving_list, transform)
    # Slicer reads a grid transform with cubic interpolation; the landmark file keeps three decimals
    np.testing.assert_allclose(again.after, errors.after, atol=0.05)
    stored = slicer.util.arrayFromMarkupsControlPointData(moving_list, "TRE")
    np.testing.assert_allclose(stored, errors.after, atol=1e-4)
    kept = slicer.util.arrayFromVolume(slicer.util.getNode("Moving registered"))
    np.testing.assert_allclose(kept, warped, atol=1e-4)


# ---------- errors and cancelling


def test_cancelling_leaves_the_scene_as_it_was(logic):
    fixed, moving = add_pair()
    before = snapshot()
    with pytest.raises(Cancelled):
        logic.register(fixed, moving, warped=True, jacobian=True, cancelled=lambda: True)
    assert snapshot() == before


def test_failing_leaves_the_scene_as_it_was(logic):
    fixed, moving = add_pair()
    logic._register.error = InputError("The engine does not like it.")
    before = snapshot()
    with pytest.raises(InputError, match="The engine does not like it"):
        logic.register(fixed, moving, warped=True)
    assert snapshot() == before


def test_failing_half_way_through_changing_the_scene_takes_it_back(logic, monkeypatch):
    fixed, moving = add_pair()
    before = snapshot()

    def full(*_, **__):
        raise MemoryError("no room for the volume")

    monkeypatch.setattr(mrml, "update_volume", full)
    with pytest.raises(MemoryError):
        logic.register(fixed, moving, warped=True)
    assert snapshot() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (lambda f, m: ((None, m), {}), "Select a fixed volume"),
        (lambda f, m: ((f, None), {}), "Select a moving volume"),
        (lambda f, m: ((f, f), {}), "Fixed and moving are the same"),
        (lambda f, m: ((f, m), {"transform": None}), "Nothing would be kept"),
        (lambda f, m: ((f, m), {"warped": m}), "Moving is an input"),
        (lambda f, m: ((f, m), {"preset": "turbo"}), "There is no preset turbo"),
        (
            lambda f, m: ((f, m), {"transform": add_linear(np.eye(4), "Flat")}),
            "Flat cannot hold a displacement",
        ),
    ],
)
def test_wrong_calls_say_what_to_do(logic, arguments, words):
    positional, named = arguments(*add_pair())
    with pytest.raises(InputError, match=words):
        logic.register(*positional, **named)
    assert not logic._register.calls


def test_options_object_of_the_engine_is_taken_whole_and_by_its_fields(logic):
    """The same object as a pair's on the command line: a new field needs no line here."""
    options = Options(preset="fast", model="none", device="cpu", lung_boxes="shared")
    logic.register(*add_pair(), options=options)
    assert options.of_register().items() <= logic._register.calls[-1].items()
    logic.register(*add_pair(), options=options, preset="accurate", model="")
    assert logic._register.calls[-1]["preset"] == "accurate"
    assert logic._register.calls[-1]["model"] == "none", "an empty text says nothing"
    with pytest.raises(TypeError, match="speed"):
        logic.register(*add_pair(), speed=2)


def test_every_option_of_register_is_one_of_its_keywords():
    from ProgressiveRegistrationLib.registration import register as of_the_engine

    assert set(Options().of_register()) <= set(inspect.signature(of_the_engine).parameters)
    boxes = Box((0.0, 0, 0), (1.0, 1, 1)), Box((2.0, 0, 0), (3.0, 1, 1))
    assert Options(lung_boxes=boxes).the_other_way().lung_boxes == boxes[::-1]
    assert Options().the_other_way() == Options()


def test_parameters_named_as_options_reach_the_engine(scene):
    from ProgressiveRegistrationSlicer import options
    from ProgressiveRegistrationSlicer.parameter_node import ProgressiveRegistrationParameterNode

    p = ProgressiveRegistrationParameterNode(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    p.preset, p.device, p.inverseConsistency = type(p.preset)("accurate"), "cuda:1", True
    chosen = options.chosen_options(p)
    assert set(Options().of_register()) <= set(chosen), "the panel has all that decides on the result"
    assert (chosen["preset"], chosen["device"], chosen["inverse_consistency"]) == ("accurate", "cuda:1", True)
    assert chosen["lung_boxes"] == "own"


def test_there_and_back_is_measured_and_the_other_way_is_registered_as_such(scene):
    """With the true inverse it misses by nothing; with a shift of 2 mm by 2 mm, wherever it started from."""
    fixed, moving = add_pair()
    grid = Grid.from_image(mrml.image_from_volume(fixed))
    mask = grid.image(np.ones(grid.shape, np.uint8))

    def register(one, other, *, fixed_mask, moving_mask, **options):
        calls.append((one.GetSize(), other.GetSize(), options["lung_boxes"]))
        way = 1 if len(calls) % 2 else -1
        shift = np.array([0.0, 0.0, 5.0 if way > 0 else -3.0])
        answer = FakeRegister(
            field=DisplacementField.from_affine(Grid.from_image(one), Affine(np.eye(3), shift)),
            lungs=SimpleNamespace(mask=mask),
        )
        return answer(one, other)

    for start in (None, add_linear(np.diag([1.0, 1, 1, 1]) + np.eye(4, k=3) * 7, "Seven")):
        calls = []
        session = SceneRegistration(
            fixed, moving, register=register, inverse_consistency=True, initial_transform=start
        )
        result = session.finish(session.compute())
        assert calls[0][:2] == calls[1][1::-1], "the images change places"
        assert result.figures["inverse_consistency_mm"]["mean"] == pytest.approx(2.0, abs=1e-3)
        assert "misses by 2.00 mm" in folding_text(result.figures)
        result.undo()


def test_progress_goes_from_0_to_1_without_a_step_back(logic):
    seen = []
    logic.register(*add_pair(), warped=True, jacobian=True, progress=lambda *message: seen.append(message))
    fractions = [fraction for _, fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert fractions[0] < 0.05
    assert fractions[-1] == 1.0
    assert {"network", "warping", "jacobian", "quality"} <= {stage for stage, _, _ in seen}


@pytest.mark.parametrize("which", [0, 1])
def test_volume_deleted_while_computing_changes_nothing(logic, which):
    pair = add_pair()
    session = logic.session(*pair, warped=True)
    computed = session.compute()
    slicer.mrmlScene.RemoveNode(pair[which])
    before = snapshot()
    with pytest.raises(InputError, match="was deleted while it was being registered"):
        session.finish(computed)
    assert snapshot() == before


def test_output_node_deleted_while_computing_is_replaced_by_a_new_one(logic):
    fixed, moving = add_pair()
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "mine")
    session = logic.session(fixed, moving, transform=transform)
    computed = session.compute()
    slicer.mrmlScene.RemoveNode(transform)
    result = session.finish(computed)
    assert slicer.mrmlScene.IsNodePresent(result.transform)
    assert moving.GetParentTransformNode() is result.transform
    assert any("was deleted meanwhile" in note for note in result.notes)


def test_two_scenes_in_a_row(logic):
    for _ in range(2):
        slicer.mrmlScene.Clear(0)
        fixed, moving = add_pair()
        result = logic.register(fixed, moving)
        assert moving.GetParentTransformNode() is result.transform


def test_missing_packages_are_an_exception_with_the_command_to_run(module, monkeypatch):
    from ProgressiveRegistrationSlicer import installer

    monkeypatch.setattr(installer, "missing", lambda torch: ["torch>=2.4", "safetensors>=0.4"])
    with pytest.raises(installer.MissingPackagesError, match=r'pip install "torch>=2.4" "safetensors>=0.4"'):
        module.ProgressiveRegistrationLogic().register(*add_pair())


# ---------- regions


def test_roi_becomes_the_lungs_inside_it(logic):
    from ProgressiveRegistrationSlicer import sample_data

    fixed, moving, *_ = sample_data.load(size=(64, 64, 44), spacing=(5.4, 5.4, 7.0), tips=300, landmarks=5)
    from ProgressiveRegistrationLib.lungs import find_lungs

    everything = find_lungs(mrml.image_from_volume(fixed))
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "right half")
    box = everything.box
    centre = (box.centre - np.array([box.extent[0] / 4, 0, 0])) * FLIP
    roi.SetCenter(*centre)
    roi.SetSize(box.extent[0] / 2, box.extent[1] * 1.2, box.extent[2] * 1.2)
    logic._register.field = field_of(lambda p: p, Grid((5, 5, 5), (80.0,) * 3, (-160.0,) * 3))
    logic.register(fixed, moving, fixed_region=roi)
    mask = logic._register.calls[0]["fixed_mask"]
    share = sitk.GetArrayViewFromImage(mask).sum() / sitk.GetArrayViewFromImage(everything.mask).sum()
    assert 0.35 < share < 0.65
    assert logic._register.calls[0]["moving_mask"] is None


def test_roi_around_everything_measures_the_lungs_as_no_roi_does(logic):
    from ProgressiveRegistrationSlicer import sample_data

    fixed, moving, *_ = sample_data.load(size=(64, 64, 44), spacing=(5.4, 5.4, 7.0), tips=300, landmarks=5)
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "everything")
    roi.SetCenter(0, 0, 0)
    roi.SetSize(600, 600, 600)
    grid = Grid((40, 40, 40), (10.0,) * 3, (-195.0,) * 3)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "From elsewhere")
    wave = field_of(lambda p: p + 8 * np.sin(p / 30), grid)
    mrml.set_transform(node, mrml.transform_data(wave, grid))
    found = [
        logic.measurement(node, fixed, moving, region=region).compute()["folding"] for region in (None, roi)
    ]
    assert found[0] == found[1]
    assert found[0]["lung"]["mean"] != pytest.approx(found[0]["field_of_view"]["mean"], abs=1e-4)


# ---------- measuring a transform from elsewhere


def warp_from_elsewhere():
    grid = Grid((50, 50, 50), (4.0,) * 3, (-110.0, -80.0, -70.0))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Warp")
    mrml.set_transform(node, mrml.transform_data(field_of(motion_lps, grid), grid))
    return node


def shift_from_elsewhere():
    return add_linear(np.array([[1, 0, 0, 0.0], [0, 1, 0, 9], [0, 0, 1, -6], [0, 0, 0, 1]]), "Shift")


@pytest.mark.parametrize("make", [warp_from_elsewhere, shift_from_elsewhere])
def test_measuring_gives_the_same_with_the_moving_volume_under_the_transform(logic, tmp_path, make):
    fixed, moving = add_pair()
    node = make()
    pages = []
    for under in (None, node.GetID()):
        moving.SetAndObserveTransformNodeID(under)
        report = logic.measurement(node, fixed, moving).compute(tmp_path)
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        pages.append((report["inputs"], report["folding"], re.findall(r"data:image/png[^\"]*", page)))
    assert len(pages[0][2]) >= 9
    assert pages[0] == pages[1]


def fine_spline(path):
    spline_file(path, (-120.0, -110.0, -110.0), 240.0, 16, 16.0)


def grid_file(path):
    grid = Grid((100, 95, 90), (2.3, 2.4, 2.5), (-120.0, -105.0, -110.0))
    field_of(lambda p: p + 6 * np.sin(p[..., ::-1] / 4), grid).write(path)


@pytest.mark.parametrize("write", [fine_spline, grid_file])
def test_figures_are_those_of_the_command_line_and_of_the_landmark_table(logic, tmp_path, write):
    from ProgressiveRegistrationLib.jobs import evaluate_files
    from ProgressiveRegistrationLib.options import PairFiles

    fixed, moving = add_pair()
    x = fixed_points(20)
    lists = add_points(x, name="F"), add_points(motion(x), name="M")
    write(tmp_path / "other.h5")
    for node, name in zip((fixed, *lists), ("fixed.nrrd", "F.mrk.json", "M.mrk.json")):
        assert slicer.util.saveNode(node, str(tmp_path / name))
    theirs = evaluate_files(
        tmp_path / "other.h5",
        PairFiles(tmp_path / "fixed.nrrd", None, tmp_path / "F.mrk.json", tmp_path / "M.mrk.json"),
    )
    node = slicer.util.loadTransform(str(tmp_path / "other.h5"))
    if node.IsA("vtkMRMLGridTransformNode"):
        node.GetTransformFromParent().SetInterpolationModeToLinear()  # as ITK; Slicer's reader chooses cubic
    errors = logic.landmarkErrors(*lists, node)
    ours = logic.measurement(node, fixed, moving, errors=errors).compute()
    assert [row["after_mm"] for row in ours["landmarks"]] == errors.after.tolist()
    assert ours["tre_mm"]["after"]["mean"] == pytest.approx(theirs["tre_mm"]["after"]["mean"], abs=1e-3)
    np.testing.assert_allclose(ours["folding"]["spacing_mm"], theirs["folding"]["spacing_mm"], rtol=1e-6)
    assert ours["folding"]["field_of_view"]["count"] == theirs["folding"]["field_of_view"]["count"]
    percent = theirs["folding"]["field_of_view_percent"]
    assert percent > 1
    assert ours["folding"]["field_of_view_percent"] == pytest.approx(percent, rel=0.01)


def test_sampling_a_transform_can_be_cancelled(logic):
    measurement = logic.measurement(shift_from_elsewhere(), *add_pair())
    with pytest.raises(Cancelled):
        measurement.compute(cancelled=lambda: True)


def test_report_names_the_packages_it_needs_before_it_measures(logic, monkeypatch, tmp_path):
    from ProgressiveRegistrationSlicer import installer

    find = importlib.util.find_spec
    lacking = ("torch", "jinja2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in lacking else find(name))
    measurement = logic.measurement(shift_from_elsewhere(), *add_pair())
    with pytest.raises(installer.MissingPackagesError, match=r'missing or too old: jinja2.*"jinja2>=3.1"\.$'):
        measurement.compute(tmp_path)
    assert measurement.compute()["folding"]["field_of_view_percent"] == 0
    assert not list(tmp_path.iterdir())


# ---------- loading the module


def test_module_loads_without_torch_and_without_network_or_pop_up():
    """In a fresh Python: PyTorch must not be imported by opening the module."""
    import subprocess
    from pathlib import Path

    code = (
        "import sys; sys.path.insert(0, 'Testing'); import slicer_harness as h; h.install(); "
        "m = h.load_module(); w = h.open_module(m); "
        "assert 'torch' not in sys.modules, 'torch was imported'; "
        "assert w.ui.applyButton.text == 'Select a fixed volume'; h.close_module(w); print('opened')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert "opened" in done.stdout, done.stderr[-2000:]
