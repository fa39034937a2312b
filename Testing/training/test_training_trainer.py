"""The training loop: it learns, resumes exactly, stops cleanly, and says what is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from progressive_training import checkpoint
from progressive_training.config import Config, Hardware, changed_settings, config_from_dict, read_config
from progressive_training.export import described_data, export
from progressive_training.hardware import build_fabric
from progressive_training.losses import lung_error, weighted_loss
from progressive_training.network import ProgressiveUNet
from progressive_training.trainer import Trainer, TrainingStopped
from ProgressiveRegistrationLib.errors import InputError, ModelError, OutputError
from ProgressiveRegistrationLib.network.model import ModelCard, load_model
from training_helpers import small_chest, write_chests

BASE = {
    "data": {
        "train": ["data"],
        "cache": "cache",
        "training_data": [{"name": "made", "licence": "none", "scans": 1}],
    },
    "network": {"width": 2},
    "schedule": {"plateau": [3, 3, 3, 3, 3], "transition": [2, 2, 2, 2], "iterations": 23},
    "hardware": {"accelerator": "cpu", "precision": "32-true", "threads": 1, "prefetch": False},
    "validation": {"every": 0},
    "output": {"folder": "runs", "pictures_every": 0, "log_every": 1},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with one chest to train on, prepared once for all tests."""
    folder = tmp_path_factory.mktemp("training")
    write_chests(folder / "data")
    return folder


def configure(place: Path, name: str, **changes) -> Path:
    """Write a configuration; ``changes`` are merged into its sections."""
    values = json.loads(json.dumps({**BASE, "name": name}))
    for section, entries in changes.items():
        if isinstance(entries, dict) and isinstance(values.get(section), dict):
            values[section].update(entries)
        else:
            values[section] = entries
    path = place / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def trainer(place: Path, name: str, **changes) -> Trainer:
    return Trainer(read_config(configure(place, name, **changes)), report=lambda text: None)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    groups, _ = checkpoint.load(checkpoint.checkpoints(folder / "checkpoints")[-1])
    return {f"{g}/{k}": v for g, members in groups.items() for k, v in members.items()}


def run_cli(config: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "progressive_training.cli", str(config), *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=240,
        check=False,
        **options,
    )


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_resuming_gives_the_same_weights_as_going_through(place, name):
    options = {"name": name, "learning_rate": 1e-3}
    trainer(place, f"whole-{name}", optimiser=options).run(until=9)
    trainer(place, f"parts-{name}", optimiser=options).run(until=4)
    # The second part draws its samples ahead in a thread: that must make no difference either.
    trainer(place, f"parts-{name}", optimiser=options, hardware={**BASE["hardware"], "prefetch": True}).run(
        resume=True, until=9
    )
    whole, parts = weights(place / "runs" / f"whole-{name}"), weights(place / "runs" / f"parts-{name}")
    assert whole.keys() == parts.keys()
    assert any(k.startswith("optimiser/") for k in whole)
    for key, value in whole.items():
        assert torch.equal(value, parts[key]), key


def test_it_learns_a_deformation_it_sees_again_and_again(place):
    still = {"t1": {"grid": 2, "ranges": [0, 0, 0]}}
    still["t21"] = {"grid": 4, "ranges": [3.0, 3.0, 3.0]}
    still["t22"] = {"grid": 8, "ranges": [0, 0, 0]}
    one = trainer(
        place,
        "learns",
        network={"width": 4},
        schedule={"plateau": [200, 1, 1, 1, 1], "transition": [1, 1, 1, 1], "iterations": 60},
        optimiser={"learning_rate": 3e-3},
        sampling={"table": still},
    )
    one._draw = lambda iteration, draw=one._draw: draw(0)  # one sample
    one.run()
    lines = [
        json.loads(t)
        for t in (place / "runs" / "learns" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert lines[-1]["loss"] < 0.3 * lines[-1]["zero_loss"]


def test_the_loss_is_equation_4():
    predicted, target = torch.randn(1, 3, 4, 4, 4), torch.randn(1, 3, 4, 4, 4)
    mask = (torch.rand(1, 1, 4, 4, 4) > 0.5).float()
    total = sum(
        float(((predicted - target)[0, :, z, y, x] ** 2).sum())
        for z in range(4)
        for y in range(4)
        for x in range(4)
        if mask[0, 0, z, y, x]
    )
    assert float(weighted_loss(predicted, target, mask)) == pytest.approx(total / float(mask.sum()), rel=1e-5)


def test_the_distance_loss_is_the_mean_length_of_the_errors():
    predicted, target = 5 * torch.randn(1, 3, 4, 4, 4), torch.randn(1, 3, 4, 4, 4)
    weight = torch.rand(1, 1, 4, 4, 4)
    lengths = np.linalg.norm((predicted - target).numpy()[0], axis=0)
    expected = np.average(lengths, weights=weight.numpy()[0, 0])
    # It is rounded off near zero, so that it has a slope there.
    assert float(weighted_loss(predicted, target, weight, "distance")) == pytest.approx(expected, abs=0.1)
    assert float(weighted_loss(target, target, weight, "distance")) == pytest.approx(0, abs=1e-6)


def test_the_relative_loss_weighs_small_and_large_motion_alike():
    target = torch.randn(1, 3, 4, 4, 4)
    weight = torch.ones(1, 1, 4, 4, 4)
    losses = [float(weighted_loss(0.5 * t, t, weight, "relative")) for t in (20 * target, 80 * target)]
    assert losses == pytest.approx([0.25, 0.25], rel=0.02)
    assert float(weighted_loss(0 * target, 0.01 * target, weight, "relative")) < 1e-3


def test_only_the_active_levels_weights_change(place):
    run = trainer(place, "active")
    run.run(until=2)
    before = ProgressiveUNet(2, seed=0).state_dict()
    after = run.plain.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert any(k.startswith("unet.down.4") for k in changed)
    assert all(k.startswith(("unet.down.4", "inputs.0", "outputs.0")) for k in changed)


def test_the_average_starts_at_the_weights_and_lags_behind_them(place):
    run = trainer(place, "average", optimiser={"learning_rate": 1e-2, "ema": 0.9})
    run.run(until=3)
    key = "unet.down.4.0.conv.weight"
    start = ProgressiveUNet(2, seed=0).state_dict()[key]
    now, mean = run.plain.state_dict()[key], run.average.state_dict()[key]
    assert 0 < (mean - start).abs().sum() < (now - start).abs().sum()


def test_baseline_and_progressive_see_the_same_samples_from_the_same_weights(place):
    progressive = trainer(place, "progressive")
    baseline = trainer(
        place, "baseline", schedule={"baseline": True, "iterations": 2}, output={**BASE["output"]}
    )
    for run in (progressive, baseline):
        run._open_data()
        run._build_network()
    for a, b in zip(progressive.plain.unet.parameters(), baseline.plain.unet.parameters()):
        assert torch.equal(a, b)
    first, second = progressive._draw(1), baseline._draw(1)
    assert second.target.shape[-1] == 128
    pooled = torch.nn.functional.avg_pool3d(second.target, 16)
    assert torch.allclose(first.target, pooled, atol=0.3)
    assert torch.corrcoef(torch.stack([first.target.flatten(), pooled.flatten()]))[0, 1] > 0.999
    assert baseline.schedule.alpha(0) == [0, 0, 0, 0, 1]


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(place):
    run = trainer(place, "nan", output={**BASE["output"], "checkpoint_every": 1})
    draw = run._draw

    def spoilt(iteration):
        sample = draw(iteration)
        return dataclasses.replace(sample, target=sample.target * float("nan")) if iteration == 2 else sample

    run._draw = spoilt
    with pytest.raises(TrainingStopped, match=r"loss is nan at iteration 2.*iteration-0000002"):
        run.run()
    kept = weights(place / "runs" / "nan")
    assert all(torch.isfinite(v).all() for v in kept.values())


def test_a_full_disk_keeps_the_old_checkpoint_and_training_goes_on(place):
    """The limit on file size makes the write fail half-way, as a full disk does."""
    run = trainer(place, "disk")
    run.run(until=1)
    old = checkpoint.checkpoints(run.checkpoint_folder)
    content = old[-1].read_bytes()
    said = []
    again = Trainer(run.config, report=said.append)
    step = again._step
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def full_disk(t, sample):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) // 2, limits[1]))
        return step(t, sample)

    again._step = full_disk
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            again.run(resume=True, until=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert checkpoint.checkpoints(run.checkpoint_folder) == old
    assert old[-1].read_bytes() == content
    assert not list(run.checkpoint_folder.glob(".writing*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(again, "save", lambda: (_ for _ in ()).throw(OutputError("full")))
        again._or_warn("checkpoint", again.save)
    assert any("no checkpoint at iteration" in text for text in said)


def test_snapshots_and_logs_that_cannot_be_written_do_not_end_training(place):
    said = []
    plan = configure(place, "full", output={**BASE["output"], "snapshot_every": 1})
    run = Trainer(read_config(plan), report=said.append)
    run.config.run_folder.mkdir(parents=True)
    (run.config.run_folder / "metrics.jsonl").symlink_to("/dev/full")  # every write fails, as on a full disk
    (run.config.run_folder / "snapshots").write_text("not a folder")
    assert run.run(until=3) == 3
    assert sum("no snapshot at iteration" in text for text in said) == 3
    assert sum("metrics.jsonl cannot be written at iteration 1: No space left" in text for text in said) == 1
    assert checkpoint.checkpoints(run.checkpoint_folder)


def test_a_tensorboard_that_cannot_be_written_is_given_up_and_the_report_may_fail(place, monkeypatch):
    from torch.utils.tensorboard import SummaryWriter

    said = []

    def report(text):
        said.append(text)
        raise OSError(28, "No space left on device")

    def full(*_):
        raise OSError(28, "No space left on device")

    run = Trainer(read_config(configure(place, "board")), report=report)
    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    assert run.run(until=3) == 3
    assert sum("nothing more for TensorBoard from iteration 1 on" in text for text in said) == 1
    assert len((run.config.run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_sigterm_leaves_a_checkpoint_that_can_be_continued(place):
    config = configure(
        place,
        "stopped",
        schedule={"plateau": [900, 1, 1, 1, 1], "transition": [1, 1, 1, 1], "iterations": 900},
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "progressive_training.cli", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    metrics = place / "runs" / "stopped" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    assert "signal received" in text
    (path,) = checkpoint.checkpoints(place / "runs" / "stopped" / "checkpoints")
    _, state = checkpoint.load(path)
    assert 0 < state["iteration"] < 900
    result = run_cli(config, "--resume", "--until", str(state["iteration"] + 1))
    assert result.returncode == 0, result.stderr
    assert f"Continuing at iteration {state['iteration']}" in result.stdout


@pytest.mark.parametrize("when", ["in the step", "while validating"])
def test_a_signal_does_not_wait_for_a_validation_that_is_due(place, when):
    """Validation has 60 samples in every iteration; of one that has begun only what is whole is kept."""
    name = f"hurried-{when.split()[0]}"
    data = {**BASE["data"], "validation": ["data"]}
    run = trainer(place, name, data=data, validation={"every": 1, "samples": 60})
    drawn = []
    step, validate = run._step, run.validate

    def hit(t, sample):
        if when == "in the step" and t == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(t, sample)

    def measure():
        draw = run.held_out.sample

        def counted(*args, **options):
            drawn.append(run.iteration)
            if when == "while validating" and drawn.count(2) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return draw(*args, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run.held_out, "sample", counted)
            return validate()

    run._step, run.validate = hit, measure
    assert run.run() == 2
    assert drawn.count(1) == 60
    assert drawn.count(2) == (0 if when == "in the step" else 2)
    _, state = checkpoint.load(checkpoint.checkpoints(run.checkpoint_folder)[-1])
    assert state["iteration"] == 2
    assert [entry["iteration"] for entry in state["history"]] == [1]


def test_two_processes_average_the_gradients_of_two_samples(place):
    """One step of SGD over two CPU processes against the same step by hand."""
    options = {"name": "sgd", "learning_rate": 1e-2, "momentum": 0.0}
    config = configure(
        place,
        "pair",
        optimiser=options,
        hardware={**BASE["hardware"], "devices": 2},
        schedule={**BASE["schedule"], "iterations": 1},
    )
    result = run_cli(config)
    assert result.returncode == 0, result.stderr
    by_two = weights(place / "runs" / "pair")

    single = trainer(place, "single", optimiser=options)
    single._open_data()
    single._build_network()
    gradients: dict[str, torch.Tensor] = {}
    for number in range(2):
        network = ProgressiveUNet(2, seed=0).train()
        sample = single.stream.sample(number, 64, 8)
        weighted_loss(network(sample.images, [1, 0, 0, 0, 0]), sample.target, sample.weight).backward()
        for name, p in network.named_parameters():
            if p.grad is not None:
                gradients[name] = gradients.get(name, 0) + p.grad / 2
    for name, start in ProgressiveUNet(2, seed=0).named_parameters():
        moved = start.detach() - 1e-2 * gradients[name] if name in gradients else start.detach()
        found = by_two[f"network/{name}"]
        assert torch.allclose(found, moved, rtol=1e-3, atol=1e-5), name


NAN_IN_THE_SECOND = """
import dataclasses, sys
from progressive_training.config import read_config
from progressive_training.trainer import Trainer

run = Trainer(read_config(sys.argv[1]))
draw = run._draw

def spoilt(iteration):
    sample = draw(iteration)
    bad = run.fabric.global_rank == 1
    return dataclasses.replace(sample, target=sample.target * float("nan")) if bad else sample

run._draw = spoilt
run.run()
"""


def test_a_loss_that_is_no_number_in_one_process_stops_all(place, tmp_path):
    config = configure(place, "nan-pair", hardware={**BASE["hardware"], "devices": 2})
    script = tmp_path / "script.py"
    script.write_text(NAN_IN_THE_SECOND, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, str(script), str(config)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert result.returncode != 0
    assert "TrainingStopped: The loss is nan at iteration 0" in result.stderr
    assert "TrainingStopped: The loss of another process is not finite at iteration 0" in result.stderr


def test_an_existing_run_is_not_overwritten_which_is_told_before_data_are_prepared(place):
    trainer(place, "twice").run(until=1)
    with pytest.raises(InputError, match="--resume"):
        trainer(place, "twice", data={**BASE["data"], "train": ["absent"]}).run(until=1)


def test_a_place_for_runs_that_cannot_be_is_told_before_data_are_prepared(place):
    (place / "file").write_text("no folder")
    output = {**BASE["output"], "folder": "file"}
    with pytest.raises(OutputError, match=r"folder .*file.unplaced cannot be made"):
        trainer(place, "unplaced", output=output, data={**BASE["data"], "train": ["absent"]}).run()


def test_a_checkpoint_of_another_architecture_is_refused(place):
    trainer(place, "wide", network={"width": 4}).run(until=1)
    found = checkpoint.checkpoints(place / "runs" / "wide" / "checkpoints")[-1]
    with pytest.raises(ModelError, match=r"another architecture \(width 4 instead of 2\)"):
        trainer(place, "narrow").run(start_from=found)


def test_another_optimiser_is_refused_on_resume_and_begins_anew_in_another_run(place):
    sgd = {"name": "sgd", "learning_rate": 1e-3}
    trainer(place, "optimiser", optimiser=sgd).run(until=2)
    with pytest.raises(InputError, match=r"trained with optimiser.name sgd instead of adam.*--start-from"):
        trainer(place, "optimiser").run(resume=True, until=3)
    found = checkpoint.checkpoints(place / "runs" / "optimiser" / "checkpoints")[-1]
    run = trainer(place, "optimiser-anew")
    assert run.run(start_from=found, until=3) == 3
    steps = [v for k, v in run._optimiser_tensors().items() if k.endswith("|step")]
    assert steps
    assert all(float(v) == 1 for v in steps)


def test_resuming_tells_which_settings_that_decide_what_is_learned_have_changed(place):
    def said(**changes):
        out = []
        plan = read_config(configure(place, "changed", **changes))
        Trainer(plan, report=out.append).run(resume=True, until=1)
        return [text for text in out if "other values" in text]

    assert not said()
    silent = {"schedule": {**BASE["schedule"], "iterations": 24}, "optimiser": {"learning_rate": 0.5}}
    assert not said(**silent, output={**BASE["output"], "log_every": 2}, validation={"every": 5})
    (text,) = said(seed=5, optimiser={"loss": "distance"}, sampling={"augmentation": {"density": 0.1}})
    assert text.endswith("other values of seed, optimiser.loss, sampling.augmentation.density.")


def test_settings_that_an_old_checkpoint_does_not_know_count_as_their_defaults(place):
    config = read_config(configure(place, "old"))
    stored = config.to_dict()
    del stored["sampling"]["augmentation"]["small_share"], stored["optimiser"]["loss"]
    assert changed_settings(config, stored) == []
    other = dataclasses.replace(config, optimiser=dataclasses.replace(config.optimiser, loss="distance"))
    assert changed_settings(other, stored) == ["optimiser.loss"]
    moved = dataclasses.replace(config, data=dataclasses.replace(config.data, train=("b",), training_data=()))
    assert changed_settings(moved, stored) == ["data.train"]


def test_a_damaged_checkpoint_is_named(place, tmp_path):
    (tmp_path / "iteration-0000001.safetensors").write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match=r"iteration-0000001.safetensors cannot be read"):
        trainer(place, "damaged").run(start_from=tmp_path / "iteration-0000001.safetensors")


def test_only_the_last_checkpoints_are_kept_and_one_is_mirrored(place):
    run = trainer(
        place, "kept", output={**BASE["output"], "checkpoint_every": 1, "keep": 2, "mirror": "second"}
    )
    run.run(until=4)
    paths = checkpoint.checkpoints(run.checkpoint_folder)
    assert [p.stem for p in paths] == ["iteration-0000003", "iteration-0000004"]
    assert (place / "second" / "kept" / "latest.safetensors").read_bytes() == paths[-1].read_bytes()


def test_a_run_that_takes_over_another_ones_mirror_does_not_overwrite_it():
    folder = CONFIGS[0].parent
    names = ("shipped-width8", "shipped-width16", "width8-baseline")
    mirrors = [read_config(folder / f"{name}.yaml").mirror_folder for name in names]
    assert mirrors[0].parts[-2:] == ("training", "shipped-width8")
    assert mirrors[1:] == [mirrors[0] / "shipped-width16", mirrors[0] / "width8-baseline"]


def test_export_gives_a_model_that_predicts_what_the_trained_network_does(place, tmp_path):
    run = trainer(place, "exported", schedule={"plateau": [1] * 5, "transition": [1] * 4, "iterations": 10})
    run.run()
    path = checkpoint.checkpoints(run.checkpoint_folder)[-1]
    card = export(path, "tiny", tmp_path, config=run.config)
    model = load_model(card.path, device="cpu")
    images = run.stream.sample(0, 128, 128).images
    with torch.no_grad():
        expected = run.average.eval()(images, [0, 0, 0, 0, 1])[0].numpy()
    scale = abs(expected).max()
    assert abs(model.predict(images) - expected).max() < 0.05 * scale
    assert card.training_steps == {"8": 2, "16": 2, "32": 2, "64": 2, "128": 2, "total": 10}
    assert card.training_data == [{"name": "made", "licence": "none", "scans": 1}]
    assert ModelCard.read(tmp_path / "tiny.json") == card


BASELINE_TO_5 = {"plateau": None, "transition": None, "baseline": True, "iterations": 5}


def test_export_states_the_scans_and_the_steps_that_were_trained_not_those_described(place, tmp_path):
    """Three iterations at 8^3 on one chest, then two at 128^3 on another,
    in a run that describes one chest."""
    trainer(place, "coarse").run(until=3)
    found = checkpoint.checkpoints(place / "runs" / "coarse" / "checkpoints")[-1]
    (place / "more").mkdir()
    sitk.WriteImage(small_chest(1), str(place / "more" / "another.nrrd"))
    run = trainer(place, "fine", data={**BASE["data"], "train": ["more"]}, schedule=BASELINE_TO_5)
    run.run(start_from=found)
    path = checkpoint.checkpoints(run.checkpoint_folder)[-1]
    assert checkpoint.load(path)[1]["scans"] == ["another.nrrd", "chest0.nrrd"]
    said = []
    card = export(path, "both", tmp_path, report=said.append)
    assert card.training_steps == {"8": 3, "16": 0, "32": 0, "64": 0, "128": 2, "total": 5}
    assert card.training_data == [{"name": "made", "licence": "none", "scans": 2}]
    assert card.extra["training_scans"] == 2
    assert any("trained for 3, 0, 0, 0, 2 iterations" in text for text in said)
    assert any("describes 1 training scan(s) and the checkpoint was trained on 2" in text for text in said)


@pytest.mark.parametrize("changed", [False, True])
def test_a_checkpoint_without_a_record_is_continued_and_exported_by_its_schedule(place, tmp_path, changed):
    name = f"recordless-{changed}"
    baseline = {**BASE["schedule"], **BASELINE_TO_5}
    run = trainer(place, name, schedule=baseline)
    run.run(until=1)
    path = checkpoint.checkpoints(run.checkpoint_folder)[-1]
    groups, state = checkpoint.load(path)
    del state["steps"], state["scans"]
    checkpoint.save(path, groups, state)
    said = []
    steps = {"8": 0, "16": 0, "32": 0, "64": 0, "128": 1, "total": 1}
    card = export(path, "old", tmp_path, report=said.append)
    assert (card.training_steps, card.training_data[0]["scans"]) == (steps, 1)
    assert "training_scans" not in card.extra
    # Of other scans, before the record began, only the description knows.
    data = {**BASE["data"], "train": ["data", "data/chest0.nrrd"]} if changed else BASE["data"]
    trainer(place, name, schedule=baseline, data=data).run(resume=True, until=2)
    card = export(checkpoint.checkpoints(run.checkpoint_folder)[-1], "old", tmp_path, report=said.append)
    assert card.training_steps == {**steps, "128": 2, "total": 2}
    assert card.extra.get("training_scans") == (None if changed else 1)
    assert not said


def test_export_refuses_a_network_whose_last_level_is_not_alone(place, tmp_path):
    trainer(place, "early").run(until=1)
    path = checkpoint.checkpoints(place / "runs" / "early" / "checkpoints")[-1]
    with pytest.raises(ModelError, match=r"iteration 1, where the last level has a weight of 0\.00"):
        export(path, "early", tmp_path)


@pytest.mark.parametrize("held_out", [["data"], []])
def test_pictures_and_scalars_reach_tensorboard(place, held_out):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trainer(
        place,
        f"pictures-{len(held_out)}",
        data={**BASE["data"], "validation": held_out},
        validation={"every": 2, "samples": 1},
        output={**BASE["output"], "pictures_every": 2},
    )
    run.run(until=2)
    events = EventAccumulator(str(run.config.run_folder / "tensorboard"))
    events.Reload()
    assert "levels" in events.Tags()["images"]
    assert "train/loss" in events.Tags()["scalars"]
    if not held_out:
        return
    error, zero = (events.Scalars(f"validation/{n}")[0].value for n in ("lung_error_mm", "zero_field_mm"))
    assert error > 0
    assert 2 < zero < 40


def test_a_lung_error_of_zero_and_of_the_whole_field(place):
    run = trainer(place, "error")
    run._open_data()
    sample = run.stream.sample(0, 64, 64)
    assert lung_error(sample.target, sample)[0] == 0
    assert lung_error(torch.zeros_like(sample.target), sample)[0] == lung_error(sample.target, sample)[1]
    shifted = sample.target + torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1, 1)
    assert lung_error(shifted, sample)[0] == pytest.approx(sample.spacing[0], rel=1e-4)


NO_STAGES = {"plateau": None, "transition": None}
TABLE = {name: {"grid": 2, "ranges": [1, 1, 1]} for name in ("t1", "t21", "t22")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {}}, "unknown key 'optimizer': did you mean 'optimiser'"),
        ({"optimiser": {"learningrate": 1}}, "did you mean 'learning_rate'"),
        ({"network": {"width": "wide"}}, "width must be int"),
        ({"network": {"norm": "group"}}, "must be one of renorm, batch"),
        ({"schedule": {"plateau": [1, 1], "transition": [1], "iterations": 5}}, "5 numbers"),
        (
            {
                "schedule": {
                    "plateau": None,
                    "transition": None,
                    "tau": [0, 1, 9, 20, 30],
                    "Delta": 6,
                    "delta": 2,
                }
            },
            "overlap|gap",
        ),
        ({"schedule": {"plateau": [1] * 5, "transition": [-1] * 4}}, "negative"),
        ({"optimiser": {"learning_rate": [1, 2]}}, "one per level"),
        ({"sampling": {"table": {"t1": {"grid": 2, "ranges": [1, 1, 1]}}}}, "t1, t21 and t22"),
        ({"schedule": []}, "must hold keys and values"),
        ({"schedule": {"plateau": [600, "x", 1, 1, 1]}}, "plateau must be a number; got 'x'"),
        ({"schedule": {"plateau": [1] * 5, "transition": "abc"}}, "transition must be a number; got 'abc'"),
        ({"schedule": {**NO_STAGES, "Delta": "abc"}}, "schedule.Delta must be a number; got 'abc'"),
        ({"schedule": {**NO_STAGES, "Delta": 6, "delta": {}}}, "schedule.delta must be a number; got {}"),
        ({"schedule": {**NO_STAGES, "tau": [0, 1, 2, 3, None]}}, "tau must be a number; got None"),
        ({"optimiser": {"learning_rate": float("nan")}}, "optimiser.learning_rate must be a number; got nan"),
        ({"sampling": {"augmentation": {"box_margin": [0.1]}}}, r"box_margin must be 2 numbers; got \[0.1\]"),
        ({"data": {"window": [-1000]}}, r"window must be 2 numbers; got \[-1000\]"),
        ({"data": {"window": [-100, -1000]}}, r"data.window must rise.*got \[-100, -1000\]"),
        ({"data": {"training_data": ["LIDC"]}}, "data.training_data must be a list of .*; got 'LIDC'"),
        ({"sampling": {"table": {"t1": {"grid": 2, "ranges": [1, 1]}}}}, "t1.ranges must be 3 numbers"),
        ({"sampling": {"table": {**TABLE, "t21": {"grid": 1, "ranges": [1, 1, 1]}}}}, "t21.grid must be at"),
        ({"sampling": {"table": 5}}, "table must hold keys and values; got 5"),
        ({"validation": {"pairs": 5}}, "pairs must be a list; got 5"),
        (
            {"validation": {"pairs": [{"fixd": "a"}]}},
            "pairs: 0 has an unknown key 'fixd': did you mean 'fixed'",
        ),
        ({"validation": {"pairs": [{"name": "a"}]}}, r"wrong.yaml: validation.pairs.fixed is missing\."),
        ({"sampling": {"table": {"t1": {"gird": 2}}}}, "t1 has an unknown key 'gird': did you mean 'grid'"),
        ({"folder": "elsewhere"}, r"wrong.yaml has an unknown key 'folder': it may hold name, seed, .*\."),
        ({"network": {1: 2}}, "network has an unknown key '1': it may hold width, levels"),
        ({"network": {"width": True}}, "network.width must be int; got True"),
        ({"sampling": {"augmentation": {"flip": "no"}}}, "augmentation.flip must be true or false; got 'no'"),
        ({"data": {"pair_share": 2}}, r"data.pair_share must be in \[0, 1\]; got 2"),
        ({"network": {"levels": 9}, "schedule": NO_STAGES}, "network.levels must be at most 6.*got 9"),
    ],
)
def test_a_wrong_configuration_is_told_in_one_sentence(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as error:
        read_config(configure(tmp_path, "wrong", **changes))
    assert "\n" not in str(error.value)


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    config = read_config(configure(tmp_path, "text", data={"window": ["-1e3", -100]}))
    assert config.data.window == (-1000, -100)


@pytest.mark.parametrize("nothing", [None, "", []])
def test_training_data_need_not_be_described(tmp_path, nothing):
    config = read_config(configure(tmp_path, "undescribed", data={"training_data": nothing}))
    assert described_data(config_from_dict(config.to_dict()).data.training_data, None) == []


@pytest.mark.parametrize(
    ("hardware", "message"),
    [
        ({"accelerator": "cup"}, r"accelerator cup, devices 1.*cannot be used.*invalid accelerator"),
        ({"devices": "two"}, "devices two"),
        ({"devices": 0}, "devices 0"),
        ({"nodes": 0}, "positive integer, but got 0"),
        ({"precision": "half"}, "Precision 'half' is invalid"),
        ({"threads": -1}, "threads -1"),
        ({"accelerator": "tpu"}, "accelerator tpu"),
    ],
)
def test_hardware_that_is_not_there_is_told_in_one_line(tmp_path, hardware, message):
    config = read_config(configure(tmp_path, "hardware", hardware={**BASE["hardware"], **hardware}))
    with pytest.raises(InputError, match=message) as error:
        Trainer(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_cpu_trains_in_bfloat16_only_where_it_multiplies_it(monkeypatch, native, precision):
    monkeypatch.setattr("ProgressiveRegistrationLib.network.device._cpu_has_bfloat16", lambda: native)
    fabric, chosen = build_fabric(Hardware(accelerator="cpu"))
    assert chosen == precision
    with fabric.autocast():
        assert torch.is_autocast_enabled("cpu") is native


def test_a_missing_gryds_is_told_before_training(tmp_path, monkeypatch):
    config = read_config(configure(tmp_path, "gryds", sampling={"generator": "gryds"}))
    monkeypatch.setitem(sys.modules, "gryds", None)
    with pytest.raises(InputError, match="gryds, which is not installed: pip install gryds, or choose fast"):
        Trainer(config)


def test_configurations_that_are_no_yaml_or_absent(tmp_path):
    (tmp_path / "bad.yaml").write_text("name: [1, 2")
    with pytest.raises(InputError, match="not valid YAML near line"):
        read_config(tmp_path / "bad.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read_config(tmp_path / "absent.yaml")


def test_the_command_prints_an_error_as_one_line(tmp_path):
    config = configure(tmp_path, "empty")
    (tmp_path / "data").mkdir()
    result = run_cli(config)
    assert result.returncode == InputError.exit_code
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1
    assert "no usable chest CT" in errors[0]
    assert "Traceback" not in result.stderr


def test_a_schedule_without_transitions_warns_when_training_starts(place):
    said = []
    config = read_config(
        configure(
            place,
            "square",
            schedule={"plateau": None, "transition": None, "Delta": 4000, "delta": 0, "iterations": 1},
        )
    )
    Trainer(config, report=said.append).run()
    assert any("explodes" in text for text in said)
    assert any("schedule.iterations = 1 ends training where the last level" in text for text in said)


CONFIGS = sorted((Path(__file__).parents[2] / "Training" / "configs").glob("*.yaml"))
RUNS = [p for p in CONFIGS if "variants" not in yaml.safe_load(p.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.stem)
def test_the_shipped_configurations_are_valid_and_survive_a_checkpoint(path):
    config = read_config(path)
    again = config_from_dict(config.to_dict(), config.folder)
    assert isinstance(again, Config)
    assert again.build_schedule() == config.build_schedule()
    assert again.to_dict() == config.to_dict()


def test_a_configuration_takes_over_its_base_key_by_key(tmp_path):
    configure(tmp_path, "first", optimiser={"learning_rate": 0.5, "ema": 0.5})
    (tmp_path / "second.yaml").write_text("base: first.yaml\noptimiser: {ema: 0.25}\n")
    config = read_config(tmp_path / "second.yaml")
    assert (config.name, config.optimiser.learning_rate, config.optimiser.ema) == ("second", 0.5, 0.25)
    (tmp_path / "loop.yaml").write_text("base: loop.yaml")
    with pytest.raises(InputError, match="comes back to itself"):
        read_config(tmp_path / "loop.yaml")


def test_table_4s_rows_are_configurations():
    folder = CONFIGS[0].parent
    rows = {
        name: read_config(folder / f"{name}.yaml").build_schedule()
        for name in (
            "paper",
            "paper-short",
            "paper-triangular",
            "paper-long",
            "paper-square",
            "paper-baseline",
        )
    }
    settings = {n: (s.Delta[0], s.delta[0]) for n, s in rows.items()}
    assert settings == {
        "paper": (6000, 2000),
        "paper-short": (3000, 1000),
        "paper-triangular": (4000, 2000),
        "paper-long": (12000, 4000),
        "paper-square": (4000, 0),
        "paper-baseline": (0, 0),
    }
    assert rows["paper-baseline"].is_baseline
