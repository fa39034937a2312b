"""Evaluation: errors of known transforms, the paper's test, held-out error, tables, and the command."""

from __future__ import annotations

import csv
import json
import shutil
from itertools import product

import numpy as np
import pytest
import torch
from progressive_training import checkpoint
from progressive_training.benchmarks import BenchmarkPair, csv_pairs
from progressive_training.cli import app
from progressive_training.config import config_from_dict
from progressive_training.evaluation import (
    CheckpointModel,
    compare,
    evaluate,
    held_out_errors,
    held_out_stream,
    open_model,
    snapshot_errors,
    wilcoxon,
)
from progressive_training.evaluation_job import EvaluationJob, run_job
from progressive_training.export import export
from progressive_training.network import ProgressiveUNet
from progressive_training.tables import table, to_markdown, write_results
from progressive_training.trainer import Trainer
from ProgressiveRegistrationLib.errors import InputError, ModelError
from ProgressiveRegistrationLib.network.model import load_model
from small_pair import write_small_pair
from training_helpers import write_chests
from typer.testing import CliRunner

# Mean TRE of the paper's Table II, mm: baseline and progressive, 17 pairs.
BASELINE = [
    2.16,
    1.65,
    1.91,
    2.70,
    2.42,
    4.15,
    4.53,
    10.26,
    3.57,
    2.17,
    2.34,
    4.72,
    1.74,
    2.55,
    2.31,
    2.14,
    2.63,
]
PROGRESSIVE = [
    1.65,
    1.52,
    1.77,
    2.20,
    2.28,
    3.17,
    2.82,
    4.10,
    2.70,
    2.06,
    1.83,
    3.25,
    1.62,
    1.96,
    2.10,
    1.83,
    2.44,
]


def test_wilcoxon_on_table_ii_gives_the_papers_statistic():
    test = wilcoxon(np.array(BASELINE), np.array(PROGRESSIVE))
    assert test["W"] == 153
    assert test["p"] < 0.0003
    assert test["better_in"] == test["n"] == 17


def test_wilcoxon_is_the_share_of_sign_patterns_at_least_as_extreme():
    worse, better = np.array([1.0, 2.5, 3.0, 4.2, 1.9, 0.6]), np.array([0.9, 2.1, 3.3, 3.5, 1.7, 0.1])
    difference = worse - better
    ranks = np.argsort(np.argsort(np.abs(difference))) + 1
    statistic = ranks[difference > 0].sum()
    sums = [sum(r for r, sign in zip(ranks, signs) if sign) for signs in product((0, 1), repeat=6)]
    test = wilcoxon(worse, better)
    assert test["W"] == statistic
    assert test["p"] == pytest.approx(np.mean(np.array(sums) >= statistic))
    assert wilcoxon(better, worse)["p"] > 0.5
    assert wilcoxon(worse, worse)["p"] == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = write_small_pair(tmp_path_factory.mktemp("pair"))
    (path / "list.csv").write_text(
        "id,fixed,moving,fixed_landmarks,moving_landmarks\n"
        "apart,fixed.nrrd,moving.nii.gz,fixed.mrk.json,moving.csv\n"
        "same,fixed.nrrd,fixed.nrrd,fixed.mrk.json,fixed.mrk.json\n"
    )
    return path


@pytest.fixture(scope="module")
def results(folder):
    def broken():
        raise InputError("The image x cannot be read.")

    (apart, same), _ = csv_pairs(folder / "list.csv")
    models = {"affine": "none", "network": open_model(folder / "zero" / "zero.json", "cpu")}
    pairs = [apart, BenchmarkPair("list", "bad", broken), same]
    return evaluate(pairs, models, report=lambda _: None)


def test_errors_of_a_known_transform_are_known(results):
    apart, same = results[0]
    np.testing.assert_allclose(apart.before, np.linalg.norm([12.0, -20, 35]), rtol=1e-6)
    for method in apart.methods.values():
        # A network of zeros leaves the map between the lung boxes, here the shift itself.
        assert method.errors.max() < 1.0
        assert method.folding["lung_percent"] == method.folding["field_of_view_percent"] == 0
        assert method.lung_boxes == "own"
        np.testing.assert_allclose(method.errors, np.linalg.norm(method.mapped - apart.moving_points, axis=1))
    np.testing.assert_allclose(same.before, 0)
    picture = apart.pictures
    assert set(picture) == {"fixed", "before", "affine", "network"}
    after = np.abs(picture["network"] - picture["fixed"]).mean()
    assert after < 0.5 * np.abs(picture["before"] - picture["fixed"]).mean()


def test_shared_lung_boxes_are_the_papers_mode(folder):
    pairs, _ = csv_pairs(folder / "list.csv")
    (result,), _ = evaluate(pairs[1:], {"network": "none"}, lung_boxes="shared", report=lambda _: None)
    assert result.methods["network"].lung_boxes == "shared"
    np.testing.assert_allclose(result.methods["network"].errors, 0, atol=1e-4)


def test_the_table_pools_landmarks_and_averages_folding_over_pairs(results):
    found, _ = results
    rows = table(found)
    assert [(r["data_set"], r["pair"]) for r in rows] == [("list", "apart"), ("list", "same"), ("All", "")]
    errors = np.concatenate([r.methods["network"].errors for r in found])
    assert rows[-1]["landmarks"] == 8
    assert rows[-1]["network_mean"] == pytest.approx(errors.mean())
    assert rows[-1]["network_sd"] == pytest.approx(np.sqrt(((errors - errors.mean()) ** 2).mean()))
    assert rows[-1]["network_folding_fov"] == 0
    assert compare(found, "affine", "network")["pairs"]["n"] == 2


def test_results_are_written_as_csv_json_and_markdown(results, tmp_path):
    found, _ = results
    content = write_results(found, tmp_path, "own")
    assert json.loads((tmp_path / "table.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(content)
    )
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert float(rows[0]["before_mean"]) == pytest.approx(found[0].before.mean())
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == to_markdown(content)
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| list | apart | 4 | 42.06 ± 0.00 |" in text
    assert "Lung boxes: own." in text
    assert "not snapped to voxels" in text
    landmarks = list(csv.DictReader((tmp_path / "landmarks.csv").read_text(encoding="utf-8").splitlines()))
    assert len(landmarks) == 8
    for row in landmarks:
        mapped, moving = (
            np.array([float(row[f"{name}_{c}_lps"]) for c in "xyz"]) for name in ("network", "moving")
        )
        assert np.linalg.norm(mapped - moving) == pytest.approx(float(row["network_mm"]), abs=2e-3)


def test_a_pair_that_cannot_be_used_is_reported_and_the_others_count(results):
    found, notes = results
    assert [r.name for r in found] == ["apart", "same"]
    assert notes == ["list bad is left out: The image x cannot be read."]

    def broken():
        raise InputError("The image x cannot be read.")

    with pytest.raises(InputError, match="No pair of the test set could be evaluated: list bad"):
        evaluate([BenchmarkPair("list", "bad", broken)], {"network": "none"}, report=lambda _: None)


def test_what_is_done_without_a_network_is_done_on_the_device_asked_for(folder):
    pairs, _ = csv_pairs(folder / "list.csv")
    with pytest.raises(InputError, match=r"list same is left out: .*device .*abacus"):
        evaluate(pairs[1:], {"affine": "none"}, device="abacus", report=lambda _: None)


# Runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A configuration with a held-out chest, and what a few iterations of it leave behind."""
    folder = tmp_path_factory.mktemp("run")
    write_chests(folder / "data", 1)
    values = {
        "name": "tiny",
        "data": {"train": ["data"], "validation": ["data"], "cache": "cache"},
        "network": {"width": 2, "levels": 5},
        "schedule": {"plateau": [2, 1, 1, 1, 1], "transition": [2, 1, 1, 1], "iterations": 3},
        "hardware": {"precision": "32-true", "prefetch": False},
        "validation": {"every": 3, "samples": 2},
        "output": {"folder": "runs", "log_every": 1, "snapshot_every": 1, "pictures_every": 0},
    }
    config = config_from_dict(values, folder)
    trainer = Trainer(config, lambda _: None)
    trainer.run()
    return config, trainer


def test_held_out_error_is_the_trainers_own(run):
    config, trainer = run
    stream = held_out_stream(config, lambda _: None)
    finest = trainer.plain.side(trainer.schedule.finest(trainer.iteration - 1))
    errors, zeros = held_out_errors(trainer.predict, stream, 2, finest)
    result = trainer.validate()
    assert errors.shape == (2,)
    assert errors.mean() == pytest.approx(result["lung_error_mm"], rel=1e-5)
    assert zeros.mean() == pytest.approx(result["zero_field_mm"], rel=1e-5)
    nothing, zeros = held_out_errors(lambda _, side: torch.zeros(1, 3, side, side, side), stream, 2, 8)
    np.testing.assert_allclose(nothing, zeros)
    assert zeros.min() > 1


def test_the_truth_has_no_held_out_error(run):
    config, _ = run
    stream = held_out_stream(config, lambda _: None)
    truths = iter([stream.sample(k, 64, 64, scan=0).target for k in range(2)])
    errors, _ = held_out_errors(lambda *_: next(truths), stream, 2, 8)
    np.testing.assert_allclose(errors, 0, atol=1e-5)


def test_a_snapshot_predicts_what_the_run_predicted(run):
    config, trainer = run
    path = checkpoint.checkpoints(config.run_folder / "snapshots")[-1]
    model = CheckpointModel(path, "cpu")
    assert model.iteration == trainer.iteration == 3
    images = trainer.held_out.sample(0, 64, 64, scan=0).images
    expected = trainer.predict(images, 64)
    # Weights of a snapshot are halves.
    scale = float(expected.abs().max())
    assert float((model.predict_tensor(images, 64) - expected).abs().max()) < 0.02 * scale
    (config.run_folder / "config.json").rename(config.run_folder / "hidden.json")
    try:
        with pytest.raises(ModelError, match="needs its run's configuration"):
            CheckpointModel(path, "cpu")
    finally:
        (config.run_folder / "hidden.json").rename(config.run_folder / "config.json")


def finished_checkpoint(path, config, zero=False):
    """A checkpoint at the end of the schedule, with random or zero weights."""
    network = ProgressiveUNet(config.network.width, config.network.levels, seed=3)
    weights = network.state_dict()
    if zero:
        weights = {k: v if k.endswith("running_var") else torch.zeros_like(v) for k, v in weights.items()}
    state = {
        "iteration": 100,
        "seconds": 1.0,
        "architecture": config.architecture(),
        "alpha": [0.0] * (config.network.levels - 1) + [1.0],
        "config": config.to_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, {"network": weights, "average": weights}, state)
    return path


def test_a_checkpoint_and_its_export_register_alike(run, tmp_path):
    config, _ = run
    path = finished_checkpoint(tmp_path / "checkpoints" / "iteration-0000100.safetensors", config)
    card = export(path, "small", tmp_path)
    images = torch.rand(1, 2, 128, 128, 128, generator=torch.Generator().manual_seed(0))
    ours = open_model(path, "cpu").predict(images)
    theirs = load_model(card.path, "cpu").predict(images)
    assert np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()
    with pytest.raises(ModelError):
        open_model(tmp_path / "none.safetensors", "cpu")


def test_snapshots_of_zeros_leave_the_map_between_lung_boxes(run, folder, tmp_path, results):
    config, _ = run
    for iteration in (50, 100):
        file = tmp_path / "snapshots" / f"iteration-{iteration:07d}.safetensors"
        finished_checkpoint(file, config, zero=True)
    pairs, _ = csv_pairs(folder / "list.csv")

    def broken():
        raise InputError("The image x cannot be read.")

    bad, said = BenchmarkPair("list", "bad", broken), []
    rows = snapshot_errors(tmp_path, [bad, *pairs], device="cpu", report=said.append)
    assert len(rows) == 2
    assert said[0] == "list bad is left out: The image x cannot be read."
    with pytest.raises(InputError, match="No pair of the test set could be evaluated: list bad"):
        snapshot_errors(tmp_path, [bad], device="cpu", report=said.append)
    expected = {f"list {r.name}": r.methods["affine"].errors.mean() for r in results[0]}
    for row in rows:
        assert row["pairs"] == pytest.approx(expected, abs=0.02)
        assert row["tre_mm"] == pytest.approx(np.mean(list(expected.values())), abs=0.02)
    with pytest.raises(InputError, match="no snapshots"):
        snapshot_errors(tmp_path / "checkpoints", pairs)


def test_the_command_writes_tables_and_figures(folder, tmp_path):
    arguments = ["evaluate", "--pairs", folder / "list.csv", "--output", tmp_path / "out", "--device", "cpu"]
    arguments += ["--model", folder / "zero" / "zero.json", "--baseline", folder / "zero" / "zero.json"]
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names >= {"table.csv", "table.json", "table.md", "landmarks.csv"}
    assert names >= {f"figure{n}.{e}" for n in ("8-overlays", "9-correlations") for e in ("png", "svg")}
    content = json.loads((tmp_path / "out" / "table.json").read_text(encoding="utf-8"))
    assert content["methods"] == ["baseline", "progressive"]
    assert content["wilcoxon"]["pairs"]["p"] == 1


def test_the_command_shows_a_run_through_its_levels(run, tmp_path):
    config, _ = run
    plan = config.folder / "tiny.yaml"
    plan.write_text(json.dumps(config.to_dict()))
    path = finished_checkpoint(tmp_path / "checkpoints" / "iteration-0000100.safetensors", config, zero=True)
    arguments = [
        "evaluate",
        "--output",
        tmp_path / "out",
        "--run",
        config.run_folder,
        "--baseline-run",
        config.run_folder,
    ]
    arguments += ["--held-out", plan, "--held-out-samples", "1", "--model", path, "--device", "cpu"]
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"figure5-training.png", "figure6-snapshots.svg", "figure7-levels.png", "held_out.json"} <= names
    content = json.loads((tmp_path / "out" / "held_out.json").read_text(encoding="utf-8"))
    assert content["models"]["network"]["mean_mm"] == pytest.approx(content["zero_field_mm"])


def test_held_out_scans_without_a_network_have_the_error_of_a_zero_field(run, tmp_path):
    config, _ = run
    plan = config.folder / "zero.yaml"
    plan.write_text(json.dumps(config.to_dict()))
    run_job(EvaluationJob(tmp_path / "out", model="none", held_out=plan, held_out_samples=2), lambda _: None)
    content = json.loads((tmp_path / "out" / "held_out.json").read_text(encoding="utf-8"))
    stream = held_out_stream(config, lambda _: None)
    expected = []
    for number in range(2):
        sample = stream.sample(number, 128, 64, scan=0)
        lengths = np.linalg.norm(sample.target[0].numpy() * np.reshape(sample.spacing, (3, 1, 1, 1)), axis=0)
        expected.append(np.average(lengths, weights=sample.lung[0, 0].numpy()))
    assert content["zero_field_mm"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert content["models"]["network"]["errors_mm"] == pytest.approx(expected, abs=1e-3)


def test_figure_5_names_the_unit_of_the_loss_that_was_trained_with(run, tmp_path):
    """Of two runs with different losses each has a panel of its own."""
    config, _ = run
    other = tmp_path / "other"
    other.mkdir()
    values = config.to_dict()
    values["optimiser"]["loss"] = "distance"
    (other / "config.json").write_text(json.dumps(values), encoding="utf-8")
    shutil.copy(config.run_folder / "metrics.jsonl", other)
    run_job(EvaluationJob(tmp_path / "one", run=other), lambda _: None)
    run_job(EvaluationJob(tmp_path / "two", run=config.run_folder, baseline_run=other), lambda _: None)
    one, two = ((tmp_path / n / "figure5-training.svg").read_text(encoding="utf-8") for n in ("one", "two"))
    assert "training loss (voxels)" in one
    assert "voxel²" not in one
    assert "training loss (voxels)" in two
    assert "training loss (voxel²)" in two


def test_the_command_says_when_there_is_nothing_to_do(tmp_path, capsys):
    from progressive_training.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--output", str(tmp_path / "out")])
    assert ended.value.code == InputError.exit_code
    assert "There is nothing to evaluate" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
