"""The command line from files to files: results, figures, and how they agree with ITK."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from ProgressiveRegistrationLib import cli, jobs, registration
from ProgressiveRegistrationLib.errors import Cancelled, InputError
from ProgressiveRegistrationLib.geometry import Box, Grid
from ProgressiveRegistrationLib.landmarks import read_landmarks, write_landmarks
from ProgressiveRegistrationLib.network import model
from ProgressiveRegistrationLib.options import Options, PairFiles, parse_lung_boxes
from ProgressiveRegistrationLib.phantom import pair as phantom
from ProgressiveRegistrationLib.presets import PRESETS
from small_pair import (
    GRID,
    SHIFT,
    fast_job,
    landmark_options,
    model_options,
    pair,
    run,
    write_dicom,
    write_small_pair,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_small_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def result(folder, tmp_path_factory) -> Path:
    """One full registration that several tests look at."""
    out = tmp_path_factory.mktemp("out") / "result"
    arguments = ["register", *pair(folder), "-o", out, *landmark_options(folder), *model_options(folder)]
    arguments += ["--moving-labels", folder / "labels.nrrd", "--inverse-consistency", "--quiet"]
    for ending in (".h5", "tfm", ".nrrd", ".nii.gz", ".mha"):
        arguments += ["--transform-format", ending]
    assert cli.main([str(a) for a in arguments]) == 0
    return out


def test_register_writes_what_it_promises(folder, result):
    assert sorted(p.name for p in result.iterdir()) == [
        "displacement.mha",
        "displacement.nii.gz",
        "displacement.nrrd",
        "report.html",
        "report.json",
        "transform.h5",
        "transform.tfm",
        "warped.nrrd",
        "warped_labels.nrrd",
        "warped_landmarks.mrk.json",
    ]
    assert [p.name for p in result.parent.iterdir()] == ["result"]
    report = json.loads((result / "report.json").read_text(encoding="utf-8"))
    assert report["tre_mm"]["before"]["mean"] == pytest.approx(np.linalg.norm(SHIFT), abs=1e-6)
    assert report["tre_mm"]["after"]["mean"] < 0.05
    assert report["folding"]["lung_percent"] == report["folding"]["field_of_view_percent"] == 0
    assert report["inverse_consistency_mm"]["mean"] < 0.05
    assert report["displacement_mm"]["mean"] == pytest.approx(np.linalg.norm(SHIFT), abs=0.1)
    assert (report["preset"], report["lung_boxes"], report["device"]) == ("fast", "own", "cpu")
    assert (report["model"]["name"], report["inputs"]["landmark_pairing"]) == ("zero", "label")
    assert report["seconds"]["total"] >= sum(s for k, s in report["seconds"].items() if k != "total") - 0.1
    for paths in report["outputs"].values():
        for path in paths if isinstance(paths, list) else [paths]:
            assert Path(path).is_file()
            assert Path(path).parent == result
    assert "progressive-registration register" in report["command"]
    assert str(folder / "fixed.nrrd") in report["command"]


def test_every_transform_file_and_the_warped_image_agree_in_itk(folder, result):
    fixed, moving = (sitk.ReadImage(str(p)) for p in pair(folder))
    transforms = [sitk.ReadTransform(str(result / name)) for name in ("transform.h5", "transform.tfm")]
    for name in ("displacement.nrrd", "displacement.nii.gz", "displacement.mha"):
        image = sitk.Cast(sitk.ReadImage(str(result / name)), sitk.sitkVectorFloat64)
        transforms.append(sitk.DisplacementFieldTransform(image))
    points = read_landmarks(folder / "fixed.mrk.json").points
    for transform in transforms:
        mapped = np.array([transform.TransformPoint(p) for p in points.tolist()])
        np.testing.assert_allclose(mapped, points + SHIFT, atol=0.05)
    warped = sitk.ReadImage(str(result / "warped.nrrd"))
    assert warped.GetPixelID() == moving.GetPixelID() == sitk.sitkInt16
    assert (warped.GetSize(), warped.GetOrigin()) == (fixed.GetSize(), fixed.GetOrigin())
    expected = sitk.Resample(moving, fixed, transforms[0], sitk.sitkLinear, -1000.0)
    inner = (slice(5, -5),) * 3
    difference = sitk.GetArrayFromImage(warped).astype(int) - sitk.GetArrayFromImage(expected)
    assert np.abs(difference[inner]).max() <= 2
    labels = sitk.ReadImage(str(result / "warped_labels.nrrd"))
    assert set(np.unique(sitk.GetArrayFromImage(labels))) == {0, 7}
    tissue = sitk.GetArrayFromImage(fixed)[inner] > -500
    assert np.mean((sitk.GetArrayFromImage(labels)[inner] == 7) == tissue) > 0.999
    marked = read_landmarks(result / "warped_landmarks.mrk.json")
    np.testing.assert_allclose(marked.points, points + SHIFT, atol=0.05)
    kept = json.loads((result / "warped_landmarks.mrk.json").read_text(encoding="utf-8"))["markups"][0][
        "measurements"
    ][0]
    assert (kept["name"], len(kept["controlPointValues"])) == ("TRE", 4)


def test_json_on_standard_output_is_report_json(capsys, folder, tmp_path):
    out = tmp_path / "out"
    options = ["--json", "--no-report", "--lung-boxes", "shared", "--image-format", "mha"]
    code, printed, told = run(capsys, "register", *pair(folder), "-o", out, *model_options(folder), *options)
    assert code == 0
    assert json.loads(printed) == json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert sorted(p.name for p in out.iterdir()) == ["report.json", "transform.h5", "warped.mha"]
    assert "100 %" in told
    report = json.loads(printed)
    assert report["tre_mm"] is None
    assert report["lung_boxes"] == "shared"
    # One shared box and a zero network: nothing moves.
    assert report["displacement_mm"]["max"] < 1e-3


def test_given_boxes_move_one_box_onto_the_other(capsys, folder, tmp_path):
    lower, upper = np.array([-85.0, -60, -85]), np.array([85.0, 60, 85])
    numbers = ",".join(f"{v:.1f}" for v in [*lower, *upper, *(lower + SHIFT), *(upper + SHIFT)])
    options = [*landmark_options(folder), *model_options(folder), "--json", "-q", "--no-report"]
    code, printed, told = run(
        capsys, "register", *pair(folder), "-o", tmp_path / "o", *options, f"--lung-boxes={numbers}"
    )
    assert (code, told) == (0, "")
    report = json.loads(printed)
    assert report["lung_boxes"] == "explicit"
    for name, shift in (("fixed", 0), ("moving", SHIFT)):
        np.testing.assert_allclose(report["boxes_lps_mm"][name], [lower + shift, upper + shift], atol=0.05)
    assert report["tre_mm"]["after"]["max"] < 1e-3


def test_results_replace_their_namesakes_and_nothing_else(capsys, folder, tmp_path):
    (tmp_path / "report.json").write_text("old")
    (tmp_path / "mine.txt").write_text("mine")
    options = [*model_options(folder), "-q", "--no-report"]
    assert run(capsys, "register", *pair(folder), "-o", tmp_path, *options)[0] == 0
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "mine"
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["preset"] == "fast"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "mine.txt",
        "report.json",
        "transform.h5",
        "warped.nrrd",
    ]


def test_human_summary_names_the_figures(capsys, folder, tmp_path):
    options = [*landmark_options(folder), *model_options(folder), "--no-report", "--exclude-landmark", "c"]
    code, printed, _ = run(capsys, "register", *pair(folder), "-o", tmp_path / "o", *options)
    assert code == 0
    for part in ("before", "42.06", "lung boxes aligned", "after", "Folding: lung 0 %", "preset fast"):
        assert part in printed
    assert (
        json.loads((tmp_path / "o" / "report.json").read_text(encoding="utf-8"))["tre_mm"]["after"]["count"]
        == 3
    )


def test_series_are_chosen_in_a_dicom_folder(capsys, folder, tmp_path):
    series = ["1.2.826.0.1.3680043.2.1.1", "1.2.826.0.1.3680043.2.1.2"]
    for path, uid in zip(pair(folder), series):
        write_dicom(sitk.ReadImage(str(path)), tmp_path / "dicom", uid)
    images = [tmp_path / "dicom"] * 2
    options = [*model_options(folder), "-q", "--no-report", "--json"]
    code, printed, told = run(capsys, "register", *images, "-o", tmp_path / "out", *options)
    assert (code, printed) == (3, "")
    assert "several series" in told
    assert "--fixed-series" in told
    assert not (tmp_path / "out").exists()
    code, _, told = run(capsys, "register", pair(folder)[0], images[0], "-o", tmp_path / "out", *options)
    assert code == 3
    assert "--moving-series" in told
    options += ["--fixed-series", series[0], "--moving-series", series[1]]
    code, printed, _ = run(capsys, "register", *images, "-o", tmp_path / "out", *options)
    assert code == 0
    report = json.loads(printed)
    assert report["displacement_mm"]["mean"] == pytest.approx(np.linalg.norm(SHIFT), abs=0.1)
    assert report["inputs"]["fixed"]["origin_lps_mm"] == pytest.approx(GRID.origin)
    options = [*model_options(folder), "-q", "--no-report", "--json", "--series", series[1]]
    code, printed, _ = run(capsys, "register", *images, "-o", tmp_path / "out", *options)
    assert code == 0
    assert json.loads(printed)["displacement_mm"]["max"] < 1e-3


def programs_transforms(folder: Path, path: Path) -> list[Path]:
    """Transform files as other programs write them."""
    fixed = sitk.ReadImage(str(folder / "fixed.nrrd"))
    affine = sitk.AffineTransform(3)
    affine.SetTranslation(SHIFT.tolist())
    bspline = sitk.BSplineTransformInitializer(fixed, (4, 4, 4), 3)
    bspline.SetParameters(np.repeat(SHIFT, len(bspline.GetParameters()) // 3))
    half = sitk.BSplineTransformInitializer(fixed, (4, 4, 4), 3)
    half.SetParameters(np.repeat(SHIFT / 2, len(half.GetParameters()) // 3))
    shift = sitk.TranslationTransform(3, (SHIFT / 2).tolist())
    composite = sitk.CompositeTransform([shift, half])
    made = {"affine.tfm": affine, "bspline.h5": bspline, "composite.h5": composite, "euler.txt": affine}
    for name, transform in made.items():
        sitk.WriteTransform(transform, str(path / name))
    vectors = np.broadcast_to(SHIFT, (*GRID.shape, 3)).astype(np.float32)
    sitk.WriteImage(GRID.image(vectors), str(path / "field.mha"))
    return [path / name for name in (*made, "field.mha")]


def test_evaluate_measures_transforms_of_other_programs(capsys, folder, result, tmp_path):
    ours = [result / name for name in ("transform.h5", "transform.tfm", "displacement.nii.gz")]
    for transform in [*programs_transforms(folder, tmp_path), *ours]:
        code, printed, _ = run(
            capsys,
            "evaluate",
            transform,
            "--fixed",
            folder / "fixed.nrrd",
            *landmark_options(folder),
            "--json",
        )
        assert code == 0, transform
        report = json.loads(printed)
        assert report["tre_mm"]["before"]["mean"] == pytest.approx(np.linalg.norm(SHIFT), abs=1e-6)
        assert report["tre_mm"]["after"]["max"] < 0.1, transform
        assert report["folding"]["lung_percent"] == 0
        assert report["folding"]["lung"]["mean"] == pytest.approx(1, abs=0.01)
        assert report["model"]["name"] is None
        assert report["transform"] == str(transform)


def test_evaluate_writes_a_report_and_measures_inverse_consistency(capsys, folder, tmp_path):
    forward = programs_transforms(folder, tmp_path)[0]
    back = sitk.TranslationTransform(3, (-SHIFT + (0, 0, 2)).tolist())
    sitk.WriteTransform(back, str(tmp_path / "back.tfm"))
    code, printed, _ = run(
        capsys,
        "evaluate",
        forward,
        *("--fixed", folder / "fixed.nrrd", "--moving", folder / "moving.nii.gz"),
        *("--inverse", tmp_path / "back.tfm", "-o", tmp_path / "out", "--json"),
    )
    assert code == 0
    assert json.loads(printed)["inverse_consistency_mm"]["mean"] == pytest.approx(2.0)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]


def test_apply_warps_images_labels_and_landmarks(capsys, folder, result, tmp_path):
    transform = result / "transform.h5"
    reference = ["--reference", folder / "fixed.nrrd"]
    out = tmp_path / "warped.nrrd"
    assert run(capsys, "apply", transform, "--moving", pair(folder)[1], *reference, "-o", out)[0] == 0
    values = [sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (out, result / "warped.nrrd")]
    np.testing.assert_array_equal(*values)
    labels = ["--moving", folder / "labels.nrrd", "--label"]
    assert run(capsys, "apply", transform, *labels, *reference, "-o", tmp_path / "labels.mha")[0] == 0
    values = [
        sitk.GetArrayFromImage(sitk.ReadImage(str(p)))
        for p in (tmp_path / "labels.mha", result / "warped_labels.nrrd")
    ]
    np.testing.assert_array_equal(*values)
    points = ["--landmarks", folder / "fixed.mrk.json", "-o", tmp_path / "points.fcsv"]
    assert run(capsys, "apply", transform, *points)[0] == 0
    moved = read_landmarks(tmp_path / "points.fcsv")
    np.testing.assert_allclose(moved.points, read_landmarks(folder / "moving.csv").points, atol=0.05)
    affine = programs_transforms(folder, tmp_path)[0]
    assert run(capsys, "apply", affine, "--moving", pair(folder)[1], *reference, "-o", out)[0] == 0
    expected = sitk.Resample(
        sitk.ReadImage(str(pair(folder)[1]), sitk.sitkFloat64),
        sitk.ReadImage(str(pair(folder)[0])),
        sitk.ReadTransform(str(affine)),
        sitk.sitkLinear,
        -1000.0,
    )
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(out))), sitk.GetArrayFromImage(sitk.Round(expected))
    )
    code, _, told = run(capsys, "apply", transform, "-o", out)
    assert code == 3
    assert "either --moving" in told


def test_applied_landmarks_count_the_voxels_of_the_image_that_they_lie_in(capsys, folder, result, tmp_path):
    moving = sitk.ReadImage(str(pair(folder)[1]))[::2, 3:, 5:]  # another grid than the fixed image's
    sitk.WriteImage(moving, str(tmp_path / "moving.nrrd"))
    fixed = read_landmarks(folder / "fixed.mrk.json")
    write_landmarks(fixed, tmp_path / "fixed.txt", GRID)
    arguments = ["apply", result / "transform.h5", "--landmarks", tmp_path / "fixed.txt"]
    reference, images = ["--reference", folder / "fixed.nrrd"], ["--moving", tmp_path / "moving.nrrd"]
    assert run(capsys, *arguments, *reference, *images, "-o", tmp_path / "out.txt")[0] == 0
    moved = read_landmarks(tmp_path / "out.txt", moving)
    np.testing.assert_allclose(moved.points, fixed.points + SHIFT, atol=0.05)
    assert run(capsys, *arguments, *reference, "-o", tmp_path / "out.csv")[0] == 0
    np.testing.assert_allclose(read_landmarks(tmp_path / "out.csv").points, moved.points, atol=1e-5)
    for given, missing in ((reference, "out2.txt counts voxels"), (images, "fixed.txt counts voxels")):
        code, _, told = run(capsys, *arguments, *given, "-o", tmp_path / "out2.txt")
        assert code == 3
        assert missing in told
        assert ("--moving" if given is reference else "--reference") in told
        assert not (tmp_path / "out2.txt").exists()


def test_every_command_chooses_series_by_the_options_it_names(capsys, folder, result, tmp_path):
    uids = ["1.2.826.0.1.3680043.2.1.1", "1.2.826.0.1.3680043.2.1.2"]
    dicom = tmp_path / "dicom"
    for path, uid in zip(pair(folder), uids):
        write_dicom(sitk.ReadImage(str(path)), dicom, uid)
    transform, out = result / "transform.h5", ["-o", tmp_path / "warped.nrrd"]
    commands = {
        "evaluate": ["evaluate", transform, "--fixed", dicom],
        "apply": ["apply", transform, "--reference", dicom, "--moving", dicom, *out],
    }
    chosen = {"--fixed-series": uids[0], "--reference-series": uids[0], "--moving-series": uids[1]}
    for name, arguments in commands.items():
        for _ in range(3):  # as a user does who follows the sentences
            code, _, told = run(capsys, *arguments)
            option = next((o for o in chosen if f"choose one with {o}" in told), None)
            if code == 0 or option is None:
                break
            arguments = [*arguments, option, chosen[option]]
        assert code == 0, (name, told)
    values = [sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (out[1], result / "warped.nrrd")]
    np.testing.assert_array_equal(*values)


def test_masks_and_labels_may_have_one_value_everywhere(capsys, folder, tmp_path):
    inside = Grid((7, 11, 17), (5, 5, 5), (-60, -25, -40))  # a block of the right lung
    for name, grid in (("mask", inside), ("label", GRID)):
        ones = grid.image(np.ones(grid.shape, np.uint8))
        sitk.WriteImage(ones, str(tmp_path / f"fixed_{name}.nrrd"))
        ones.SetOrigin(np.asarray(grid.origin) + SHIFT)
        sitk.WriteImage(ones, str(tmp_path / f"moving_{name}.nrrd"))
    masks = ["--fixed-mask", tmp_path / "fixed_mask.nrrd", "--moving-mask", tmp_path / "moving_mask.nrrd"]
    labels = ["--moving-labels", tmp_path / "moving_label.nrrd"]
    out = tmp_path / "out"
    options = [*model_options(folder), "--no-report", *masks, *labels]
    assert run(capsys, "register", *pair(folder), "-o", out, *options)[0] == 0
    warped = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "warped_labels.nrrd")))
    assert warped.mean() > 0.9


def test_inverse_consistency_loads_the_model_once_and_keeps_its_notes(folder, tmp_path, monkeypatch):
    loaded, load, register = [], model.load_model, registration.register

    def count(*options):
        loaded.append(load(*options))
        return loaded[-1]

    def register_with_notes(*images, **options):
        found = register(*images, **options)
        way = ["Forth.", "Back."][len(asked)]
        asked.append(options["model"].result())
        dark, bright = options["names"] if way == "Forth." else options["names"][::-1]
        return dataclasses.replace(found, notes=[way, f"Here {dark} is dark and {bright} is bright."])

    asked: list = []
    monkeypatch.setattr(model, "load_model", count)
    monkeypatch.setattr(registration, "register", register_with_notes)
    job = fast_job(folder, tmp_path / "out", inverse_consistency=True, report=False)
    notes = jobs.register_files(job)["notes"]
    assert len(loaded) == 1
    assert asked == loaded * 2
    assert notes == [
        "Forth.",
        "Here the fixed image {} is dark and the moving image {} is bright.".format(*pair(folder)),
        "Registering back, for inverse consistency: Back.",
    ]


def test_folding_in_the_lung_is_noted(capsys, folder, tmp_path):
    vectors = np.zeros((*GRID.shape, 3), np.float32)
    vectors[20:, :, :, 2] = -30  # jumps down by six slices
    sitk.WriteImage(GRID.image(vectors), str(tmp_path / "folded.mha"))
    code, printed, _ = run(capsys, "evaluate", tmp_path / "folded.mha", "--fixed", folder / "fixed.nrrd")
    assert code == 0
    assert "Note: The transform folds in" in " ".join(printed.split())
    sitk.WriteImage(GRID.image(vectors * 0), str(tmp_path / "still.mha"))
    _, printed, _ = run(capsys, "evaluate", tmp_path / "still.mha", "--fixed", folder / "fixed.nrrd")
    assert "Note" not in printed


def test_evaluate_says_why_it_draws_no_page_and_looks_at_the_folder_first(capsys, folder, result, tmp_path):
    arguments = ["evaluate", result / "transform.h5", "--fixed", folder / "fixed.nrrd", "--json"]
    code, printed, _ = run(capsys, *arguments, "-o", tmp_path / "out")
    assert code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.json"]
    assert any("no report.html" in note and "--moving" in note for note in json.loads(printed)["notes"])
    _, printed, _ = run(capsys, *arguments, "-o", tmp_path / "out", "--no-report")
    assert json.loads(printed)["notes"] == []
    (tmp_path / "file").write_text("mine")
    code, _, told = run(capsys, "evaluate", "none.h5", "--fixed", "none.nrrd", "-o", tmp_path / "file")
    assert code == 7
    assert "it is a file" in told


CARDS = sorted((Path(__file__).resolve().parents[2] / "Resources" / "Models").glob("*.json"))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_models_are_listed_with_what_they_learnt_and_what_was_measured(capsys, path):
    code, printed, _ = run(capsys, "models")
    assert code == 0
    card = json.loads(path.read_text(encoding="utf-8"))
    row = next(line.split() for line in printed.splitlines() if line.startswith(card["name"]))
    sizes = [str(card["width"]), str(card["levels"])]
    assert row == [
        card["name"],
        card["version"],
        *sizes,
        str(card["training_steps"]["total"]),
        card["sha256"][:12],
    ]
    assert f"licence {card['licence']}" in printed
    for data in card["training_data"]:
        assert f"{data['name']} (scans: {data['scans']}; {data['licence']})" in printed
    for protocol, figures in card["metrics"].items():
        assert protocol in printed
        if "lung_error_mm" in figures:
            assert f"lung error {figures['lung_error_mm']:.2f} mm" in printed
    code, printed, _ = run(capsys, "models", "--json")
    assert code == 0
    listed = next(c for c in json.loads(printed) if c["name"] == card["name"])
    assert {key: listed[key] for key in card} == card


@pytest.fixture
def small_phantom(monkeypatch):
    small = {"size": (96, 76, 66), "spacing": (3.4, 3.4, 4.6), "tips": 1600, "landmarks": 120}
    monkeypatch.setattr(phantom, "breathing_thorax", functools.partial(phantom.breathing_thorax, **small))


def test_demo_registers_a_phantom_and_reports(capsys, folder, tmp_path, small_phantom, monkeypatch):
    out = tmp_path / "demo"
    code, printed, _ = run(capsys, "demo", "-o", out, *model_options(folder), "--json")
    assert code == 0
    report = json.loads(printed)
    assert report["tre_mm"]["before"]["mean"] > 5
    assert report["tre_mm"]["after"]["count"] == report["tre_mm"]["before"]["count"] > 100
    for name in ("fixed.nrrd", "moving.nrrd", "report.html", "transform.h5", "true_transform.h5"):
        assert (out / name).is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]
    # The report names files where they are now.
    assert report == json.loads((out / "report.json").read_text(encoding="utf-8"))
    inputs = report["inputs"]
    paths = [inputs["fixed"]["path"], inputs["moving"]["path"], inputs["fixed_landmarks"]]
    for path in [*paths, inputs["moving_landmarks"], inputs["moving_labels"], *report["outputs"].values()]:
        assert Path(path).parent == out
        assert Path(path).is_file()
    # A second demo that is stopped, or fails, leaves the first as it was.
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    code, _, told = run(capsys, "demo", "-o", out, "--seed", "1", "--model", "no-such-model")
    assert (code, "no-such-model" in told) == (5, True)

    def stopped(*images, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(registration, "register", stopped)
    assert run(capsys, "demo", "-o", out, "--seed", "1", *model_options(folder))[0] == 130
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_a_demo_that_fails_leaves_my_own_files_alone(capsys, tmp_path, small_phantom):
    (tmp_path / "fixed.nrrd").write_text("mine")
    assert run(capsys, "demo", "-o", tmp_path, "--model", "no-such-model")[0] == 7
    assert [(p.name, p.read_text(encoding="utf-8")) for p in tmp_path.iterdir()] == [("fixed.nrrd", "mine")]
    assert run(capsys, "demo", "-o", tmp_path / "new", "--model", "no-such-model")[0] == 5
    assert [p.name for p in tmp_path.iterdir()] == ["fixed.nrrd"]


def test_help_documents_every_exit_code(capsys):
    code, printed, _ = run(capsys, "--help")
    assert code == 0
    for number in (0, 1, 2, 3, 4, 5, 6, 7, 130):
        assert f"{number} " in printed
    for command in ("register", "evaluate", "apply", "models", "phantom", "demo"):
        assert command in printed
    assert run(capsys, "register", "--help")[0] == 0
    assert run(capsys, "register")[0] == 2
    assert run(capsys, "register", "a", "b", "-o", "c", "--no-such-option")[0] == 2
    assert run(capsys, "no-such-command")[0] == 2


def test_progress_only_grows(folder, tmp_path):
    fractions: list[float] = []
    jobs.register_files(
        fast_job(folder, tmp_path / "out", inverse_consistency=True),
        progress=lambda stage, fraction, text: fractions.append(fraction),
    )
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)


def test_lung_boxes_from_text():
    assert parse_lung_boxes("own") == "own"
    one = parse_lung_boxes("1,2,3,4,5,6")
    assert one == (Box((1, 2, 3), (4, 5, 6)),) * 2
    two = parse_lung_boxes("1,2,3,4,5,6;0,0,0,1,1,1")
    assert two == (Box((1, 2, 3), (4, 5, 6)), Box((0, 0, 0), (1, 1, 1)))
    with pytest.raises(InputError, match="own, shared"):
        parse_lung_boxes("mine")


def test_presets_choose_the_refinement(folder, tmp_path, monkeypatch):
    asked = []

    def listen(*images, preset, **options):
        asked.append(preset)
        raise Cancelled()

    monkeypatch.setattr(registration, "register", listen)
    for preset in PRESETS:
        job = jobs.Job(PairFiles(*pair(folder)), Options(preset=preset, model="none"), tmp_path / "out")
        with pytest.raises(Cancelled):
            jobs.register_files(job)
    assert asked == list(PRESETS)
