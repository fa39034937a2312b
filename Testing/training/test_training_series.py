"""Errors apart by scale, and runs that are trained in turn, in several sittings, and compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from progressive_training import checkpoint
from progressive_training.deformation import Lattice, evaluate
from progressive_training.samples import Sample, SampleStream, Sampling
from progressive_training.scales import Scales, scales_of, smooth_part
from progressive_training.series import _Judge, measure_series, read_series, run_series, series_table
from progressive_training.series import _tests as compared
from ProgressiveRegistrationLib.errors import InputError
from training_helpers import write_chests

STUDY = {
    "size": 32,
    "series": {"seeds": [1, 2], "chunk": 2, "amplitudes": [0.3, 1.5], "samples": 2, "phantom_mm": []},
    "base": {
        "data": {"train": ["data"], "validation": ["data"], "cache": "cache"},
        "network": {"width": 2, "levels": 2},
        "schedule": {"plateau": [2, 2], "transition": [2], "iterations": 5},
        "hardware": {"accelerator": "cpu", "precision": "32-true", "threads": 1, "prefetch": False},
        "validation": {"every": 0},
        "output": {"pictures_every": 0},
    },
    "variants": {
        "progressive": {},
        "baseline": {
            "against": "progressive",
            "changes": {"schedule": {"plateau": None, "transition": None, "baseline": True}},
        },
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    write_chests(folder / "data")
    return folder


def written(place: Path, **changes) -> Path:
    path = place / "series.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
    return path


def test_what_coarse_control_points_can_follow_is_smooth_and_the_rest_is_rough():
    rng = torch.Generator().manual_seed(1)
    lattice = Lattice(32)
    smooth = evaluate(torch.randn(3, 4, 4, 4, generator=rng), lattice)
    weight = torch.rand(32, 32, 32, generator=rng)
    assert torch.allclose(smooth_part(smooth, weight), smooth, atol=1e-3)
    # Weighted least squares leaves what is orthogonal to all that it could have followed.
    rough = evaluate(torch.randn(3, 8, 8, 8, generator=rng), lattice)
    rest = rough - smooth_part(rough, weight)
    other = evaluate(torch.randn(3, 4, 4, 4, generator=rng), lattice)
    product = (rest * other * weight).sum() / ((rough * weight).norm() * (other * weight).norm())
    assert abs(product) < 1e-3
    assert rest.norm() > 0.3 * rough.norm()


def test_figures_by_scale_are_mean_lengths_in_mm_inside_the_lung():
    smooth = evaluate(torch.full((3, 4, 4, 4), 2.0), Lattice(64))  # 2 voxels along each axis
    lung = torch.zeros(1, 1, 64, 64, 64)
    lung[..., 10:50, 10:50, 10:50] = 1
    sample = Sample(torch.zeros(1), smooth[None], lung, lung, (1.0, 2.0, 2.0))
    names = ("error", "smooth", "rough", "zero", "zero_smooth", "zero_rough")
    found = dict(zip(names, scales_of(0.5 * smooth[None], sample)))
    assert found["zero"] == pytest.approx(6.0, abs=1e-3)  # |(2, 4, 4)| mm
    assert [found["error"], found["smooth"]] == pytest.approx([3.0, 3.0], abs=1e-3)
    assert found["rough"] < 0.01
    summary = Scales(*(np.array([found[n]]) for n in names)).summary()
    assert summary["smooth_left"] == pytest.approx(0.5, abs=1e-3)


def test_held_out_deformations_grow_with_the_amplitude():
    class Store:
        folders = ()

    sizes = []
    for amplitude in (0.3, 1.0, 1.5):
        table = SampleStream.held_out(Store(), Sampling(), amplitude).sampling.table
        assert table["t1"].ranges == (6.4, 6.4, 6.4)
        sizes.append(table["t21"].ranges[2])
    assert sizes == pytest.approx([3.84, 12.8, 19.2])


def test_runs_take_turns_go_on_after_a_stop_and_are_compared(place, monkeypatch):
    series = read_series(written(place))
    names = [name for name, _, _ in series.runs()]
    assert names == ["progressive-seed1", "baseline-seed1", "progressive-seed2", "baseline-seed2"]
    said: list[str] = []
    # No time at all: the first sitting ends at once, with a checkpoint.
    assert not run_series(series, place / "out", minutes=1e-6, report=said.append)
    assert run_series(series, place / "out", report=said.append)
    turns = [line.split(":")[0] for line in said if ": iteration" in line]
    assert set(turns[-8:-4]) == set(names)
    last = {n: checkpoint.checkpoints(place / "out" / "runs" / n / "checkpoints")[-1] for n in names}
    assert {checkpoint.load(p)[1]["iteration"] for p in last.values()} == {5}
    # In one sitting the weights would be the same.
    again = read_series(written(place, series={**STUDY["series"], "chunk": 5, "seeds": [1]}))
    assert run_series(again, place / "whole", report=said.append)
    whole = checkpoint.checkpoints(place / "whole" / "runs" / names[0] / "checkpoints")[-1]
    for a, b in zip(
        checkpoint.load(whole)[0]["network"].values(), checkpoint.load(last[names[0]])[0]["network"].values()
    ):
        assert torch.equal(a, b)

    result = measure_series(series, place / "out", report=said.append)
    assert [row["run"] for row in result["rows"]] == names
    for row in result["rows"]:
        zero = [row["held_out"][a]["zero_mm"] for a in ("0.3", "1.5")]
        assert zero[1] > 2 * zero[0]
    assert [t["on"] for t in result["tests"]] == ["held-out, 0.3 x Table I", "held-out, 1.5 x Table I"]
    # Two seeds of two deformations.
    assert result["tests"][0]["n"] == 4
    assert series_table(result) == (place / "out" / "series.md").read_text()
    assert "| baseline | progressive | held-out, 0.3 x Table I |" in series_table(result)

    # What is measured already is not measured again, unless the weights or the protocol have changed.
    judged = []
    figures = _Judge.figures
    monkeypatch.setattr(_Judge, "figures", lambda self, p: judged.append(p) or figures(self, p))
    assert measure_series(series, place / "out", report=said.append) == result
    assert judged == []
    fewer = measure_series(replace(series, samples=1), place / "out", report=said.append)
    assert judged == [last[name] for name in names]
    assert fewer["tests"][0]["n"] == 2


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"seed": [1]}, "unknown key seed"),
        ({"chunk": 0}, "at least 1"),
        ({"seeds": "one"}, "lists of numbers"),
    ],
)
def test_a_series_that_cannot_be_run_is_refused(place, section, sentence):
    with pytest.raises(InputError, match=sentence):
        read_series(written(place, series=section))


def test_some_runs_of_a_series_can_go_first(place):
    series = read_series(written(place))
    output = place / "first"
    assert run_series(series, output, report=lambda text: None, only=["baseline-seed2"])
    assert [run.name for run in (output / "runs").iterdir()] == ["baseline-seed2"]
    assert [name for name, _, _ in series.runs(["progressive"])] == ["progressive-seed1", "progressive-seed2"]
    with pytest.raises(InputError, match="no run or variant other; it has progressive-seed1"):
        series.runs(["other"])


def test_runs_of_other_lengths_are_not_held_against_each_other():
    def row(variant: str, iteration: int, errors: list[float]) -> dict:
        against = "progressive" if variant == "baseline" else None
        at = {"variant": variant, "against": against, "seed": 1, "iteration": iteration, "of": 9}
        return {**at, "errors": {"phantoms": errors}}

    whole = [row("progressive", 9, [1.0, 2.0, 3.0]), row("baseline", 9, [1.5, 2.7, 3.1])]
    assert [test["n"] for test in compared(whole)] == [3]
    assert compared([whole[0], row("baseline", 8, [1.5, 2.7, 3.1])]) == []
