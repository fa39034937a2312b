"""Samples made ahead, in threads and in processes; training in pieces; what an iteration costs."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from progressive_training import checkpoint, profiling
from progressive_training.cache import ScanStore
from progressive_training.config import config_from_dict
from progressive_training.feed import Draws, from_processes, from_threads
from progressive_training.samples import Sample, SampleStream, Sampling
from progressive_training.schedule import Schedule
from progressive_training.trainer import Trainer
from ProgressiveRegistrationLib.errors import InputError, ProgressiveRegistrationError
from training_helpers import prepared_chest, write_chests

WINDOW = (-1000.0, -100.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in the processes, so that sums have the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    return prepared_chest(tmp_path_factory.mktemp("prepared") / "0")


@pytest.fixture
def draws(scan) -> Draws:
    """The first level, then its transition to the second."""
    schedule = Schedule.stages([3, 2, 1, 1, 1], [2, 1, 1, 1])
    return Draws(SampleStream(ScanStore([scan], WINDOW), Sampling(), 1), schedule, (8, 16, 32, 64, 128))


def same(one: Sample, other: Sample) -> bool:
    return all(
        torch.equal(getattr(one, n), getattr(other, n)) for n in ("images", "target", "weight", "lung")
    )


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_threads_hand_out_the_samples_in_order(draws, threads):
    with from_threads(draws.__getitem__, 1, 6, threads) as samples:
        found = list(samples)
    assert len(found) == 5
    assert all(same(sample, draws[t]) for t, sample in enumerate(found, 1))


def test_processes_make_the_samples_that_this_one_would(draws):
    with from_processes(draws, 1, 6, 2) as samples:
        found = list(samples)
    assert [s.target.shape[-1] for s in found] == [8, 8, 8, 16, 16]
    assert all(same(sample, draws[t]) for t, sample in enumerate(found, 1))


def test_each_of_several_processes_keeps_its_part_of_the_scans_in_memory(draws):
    draws.stream.share(4)
    assert draws.stream.store.limit == 1e9


def test_a_scan_that_a_process_cannot_read_is_told_in_one_sentence(tmp_path):
    gone = Draws(
        SampleStream(ScanStore([tmp_path / "gone"], WINDOW), Sampling(), 1), Schedule.baseline(5), (8,) * 5
    )
    with from_processes(gone, 0, 3, 1) as samples, pytest.raises(ProgressiveRegistrationError) as error:
        next(samples)
    assert str(error.value).startswith(f"The prepared scan in {tmp_path / 'gone'} cannot be read")
    assert len(str(error.value).splitlines()) == 1


class _Dies(Draws):
    def __getitem__(self, iteration: int) -> Sample:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_told_with_what_to_do(draws):
    dying = _Dies(draws.stream, draws.schedule, draws.sides)
    told = pytest.raises(ProgressiveRegistrationError, match=r"was lost .* lower hardware\.workers")
    with from_processes(dying, 0, 3, 1) as samples, told:
        next(samples)


# ---- whole runs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_chests(folder / "data")
    return folder


def trainer(place: Path, name: str, **hardware) -> Trainer:
    values = {
        "name": name,
        "data": {"train": ["data"], "cache": "cache"},
        "network": {"width": 2},
        "schedule": {"plateau": [4, 1, 1, 1, 1], "transition": [2, 2, 2, 2], "iterations": 6},
        "hardware": {"accelerator": "cpu", "precision": "32-true", "threads": 1, **hardware},
        "validation": {"every": 0},
        "output": {"folder": "runs", "pictures_every": 0, "log_every": 1},
    }
    return Trainer(config_from_dict(values, place), report=lambda text: None)


def weights(place: Path, name: str) -> dict[str, torch.Tensor]:
    groups, _ = checkpoint.load(checkpoint.checkpoints(place / "runs" / name / "checkpoints")[-1])
    return {f"{g}/{k}": v for g, members in groups.items() for k, v in members.items()}


@pytest.fixture(scope="module")
def whole(place) -> dict[str, torch.Tensor]:
    trainer(place, "whole").run()
    return weights(place, "whole")


def test_training_on_samples_from_processes_gives_the_same_weights(place, whole):
    assert trainer(place, "processes", workers=2).run() == 6
    found = weights(place, "processes")
    assert all(torch.equal(value, found[key]) for key, value in whole.items())


def test_training_in_pieces_of_time_gives_the_same_weights(place, whole):
    """Each piece makes an iteration at least and leaves a checkpoint, even with a deadline that is over."""
    reached = []
    while not reached or reached[-1] < 6:
        piece = trainer(place, "pieces")
        reached.append(piece.run(resume=True, deadline=time.monotonic()))
        assert "--resume" in piece.stop_reason or reached[-1] == 6
    assert reached == [1, 2, 3, 4, 5, 6]
    found = weights(place, "pieces")
    assert all(torch.equal(value, found[key]) for key, value in whole.items())


def test_a_deadline_that_is_far_does_not_stop_training(place, whole):
    run = trainer(place, "far")
    assert run.run(deadline=time.monotonic() + 1e6) == 6
    assert not run.stop_reason


def test_a_profile_measures_every_level_and_leaves_the_run_alone(place, whole, monkeypatch):
    monkeypatch.setattr(profiling, "WARM_UP", 0)
    told: list[str] = []
    run = trainer(place, "whole")
    run._report = told.append
    levels = profiling.profile(run, 1)
    assert [level["side"] for level in levels] == [8, 16, 32, 64, 128]
    assert [level["iterations"] for level in levels] == run.config.build_schedule().steps(6)
    assert all(0 <= level["waiting"] < level["seconds"] and level["sampling"] > 0 for level in levels)
    expected = sum(level["seconds"] * level["iterations"] for level in levels) / 3600
    assert f"6 iterations would take {expected:.1f} hours" in told[-1]
    stored = json.loads((place / "runs" / "whole" / "profile.json").read_text(encoding="utf-8"))
    assert stored["levels"] == levels
    found = weights(place, "whole")
    assert all(torch.equal(value, found[key]) for key, value in whole.items())


def test_a_negative_number_of_processes_is_refused(place):
    with pytest.raises(InputError, match=r"hardware\.workers must not be negative; got -1"):
        trainer(place, "negative", workers=-1)
