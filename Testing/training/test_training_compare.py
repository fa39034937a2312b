"""The study: variants in step are the runs that they would be alone, at the compute that is stated."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from progressive_training.compare import (
    _Samples,
    level_cost,
    merged,
    read_study,
    run_study,
    study_table,
    total_cost,
    write_study,
)
from progressive_training.network import pool_to
from progressive_training.pairs import UnlabelledPair
from progressive_training.trainer import Trainer
from ProgressiveRegistrationLib.errors import InputError
from training_helpers import write_chests

BASE = {
    "data": {"train": ["data"], "validation": ["data"], "cache": "cache"},
    "network": {"width": 2, "levels": 2},
    "schedule": {"plateau": [2, 1], "transition": [1], "iterations": 4},
    "hardware": {"precision": "32-true"},
    "validation": {"every": 2, "samples": 1},
    "output": {"folder": "runs", "pictures_every": 0},
}
BASELINE = {"schedule": {"plateau": None, "transition": None, "baseline": True}}


def write(folder, variants, size=32, **more):
    path = folder / "study.yaml"
    path.write_text(json.dumps({"size": size, "base": BASE, "variants": variants, **more}))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("study")
    write_chests(path / "data", 1)
    return path


def test_changes_are_put_into_the_base_and_none_takes_out():
    base = {"a": {"x": 1, "y": 2}, "b": 3}
    assert merged(base, {"a": {"y": 5, "x": None}, "c": {"z": 1}}) == {"a": {"y": 5}, "b": 3, "c": {"z": 1}}
    assert base == {"a": {"x": 1, "y": 2}, "b": 3}


@pytest.fixture(scope="module")
def study(folder):
    intensity = {"against": "ours", "changes": {"sampling": {"input": "intensity"}}}
    variants, _ = read_study(
        write(
            folder,
            {
                "ours": None,
                "twin": {"against": "ours"},
                "baseline": {"against": "ours", "changes": BASELINE},
                "intensity": intensity,
            },
        )
    )
    return variants, run_study(variants, report=lambda _: None)


def test_variants_in_step_are_the_runs_that_they_would_be_alone(study):
    variants, result = study
    ours, twin, baseline, intensity = result["rows"]
    assert ours["held_out_mm"] == twin["held_out_mm"]
    assert twin["worse_than_partner"]["held_out"]["p"] == 1
    assert [e["iteration"] for e in ours["curve"]] == [2, 4]
    # The same deformations for all, whatever is shown of them.
    assert len({row["zero_field_mm"] for row in result["rows"]}) == 1
    assert len({row["held_out_mm"] for row in result["rows"]}) == 3
    for variant, row in zip(variants[2:], (baseline, intensity)):
        trainer = Trainer(variant.config, lambda _: None)
        trainer.run()
        alone = trainer.validate()
        # Adam's first steps enlarge rounding errors.
        assert row["held_out_mm"] == pytest.approx(alone["lung_error_mm"], rel=1e-3)
        assert row["zero_field_mm"] == pytest.approx(alone["zero_field_mm"], rel=1e-6)


def test_a_sample_is_the_trainers_own_and_a_pool_repeats_it(folder, study):
    variants, _ = study
    trainer = Trainer(variants[0].config, lambda _: None)
    trainer._open_data()
    samples = _Samples(32, pool=2)
    for side in (16, 32):
        shared, own = samples.get(trainer.stream, 3, side), trainer.stream.sample(1, 64, side)
        torch.testing.assert_close(shared.images, pool_to(own.images, 32))
        for part in ("target", "weight", "lung"):
            torch.testing.assert_close(getattr(shared, part), getattr(own, part), rtol=1e-4, atol=1e-4)


def test_a_variant_with_real_pairs_gets_samples_of_its_own(folder, study):
    variants, _ = study
    trainer = Trainer(variants[0].config, lambda _: None)
    trainer._open_data()
    images, lungs = torch.rand(1, 2, 64, 64, 64), torch.ones(2, 64, 64, 64)
    real = copy.copy(trainer.stream)
    real.pairs, real.pair_share = [UnlabelledPair("breath", images, lungs, ((1.0,) * 3,) * 2)], 1.0
    samples = _Samples(32)
    made, paired = samples.get(trainer.stream, 0, 32), samples.get(real, 0, 32)
    assert made.scan != paired.scan == "breath"
    # As prepared: the network's input, of which no gradient is taken again.
    assert paired.images.mean() == pytest.approx(images.mean())
    torch.testing.assert_close(made.images, samples.get(trainer.stream, 0, 32).images)


def test_equal_compute_counts_operations(folder):
    variants, _ = read_study(
        write(folder, {"ours": None, "cut": {"equal_compute_to": "ours", "changes": BASELINE}})
    )
    ours, cut = (v.config for v in variants)
    coarse, fine = level_cost(ours)
    # Level 0 alone for two iterations, then both.
    assert total_cost(ours) == pytest.approx(3 * coarse + fine)
    assert cut.schedule.iterations == round(total_cost(ours) / fine)
    assert abs(total_cost(cut) - total_cost(ours)) <= fine / 2
    # The first convolution alone: 2 x 32^3 x 27 x (maps in) x (maps out), forward.
    assert fine > 2 * 32**3 * 27 * 2 * 2
    correlated = replace(ours, network=replace(ours.network, correlated=(1,)))
    assert level_cost(correlated)[0] > coarse
    with pytest.raises(InputError, match="must be a baseline"):
        read_study(write(folder, {"ours": None, "cut": {"equal_compute_to": "ours"}}))


def test_a_variant_that_diverges_ends_and_the_others_go_on(folder, study):
    steep = {
        "optimiser": {"name": "sgd", "learning_rate": 1e30, "momentum": 0.0, "final_learning_rate": None}
    }
    variants, _ = read_study(write(folder, {"steep": {"changes": steep}, "ours": {"against": "steep"}}))
    said = []
    result = run_study(variants, report=said.append)
    lost, ours = result["rows"]
    assert lost["diverged_at"] in range(1, 4)
    assert any(f"steep: the loss is not finite at iteration {lost['diverged_at']}" in text for text in said)
    assert "worse_than_partner" not in ours
    assert ours["held_out_mm"] == study[1]["rows"][0]["held_out_mm"]
    assert f"| steep | 4 | {lost['tflop']:.1f} | diverged at {lost['diverged_at']} |" in study_table(result)


def test_the_study_is_written_as_a_table_and_curves(study, tmp_path):
    _, result = study
    write_study(result, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"study.json", "study.md", "study.png", "study.svg"}
    stored = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert stored["rows"][0]["held_out_mm"] == result["rows"][0]["held_out_mm"]
    table = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert table == study_table(result)
    assert f"| zero field |  |  | {result['rows'][0]['zero_field_mm']:.2f} |" in table
    difference = result["rows"][2]["held_out_mm"] - result["rows"][0]["held_out_mm"]
    assert f"| ours | {difference:+.2f} |" in table


def test_the_table_shows_the_tests_on_the_pairs_where_there_are_any():
    def row(name, **more):
        figures = {"held_out_mm": 3.0, "held_out_sd_mm": 1.0, "zero_field_mm": 9.0, "tre_mm": {"lung": 2.0}}
        return {"name": name, "against": "", "iterations": 5, "tflop": 1.0, **figures, **more}

    def test(difference, w, p):
        return {"mean_difference_mm": difference, "W": w, "p": p}

    tests = {"held_out": test(0.5, 10.0, 0.25), "lung": test(-0.125, 700.0, 0.0625)}
    rows = [row("ours"), row("other", against="ours", worse_than_partner=tests)]
    rows.append(row("older", against="ours", worse_than_partner={"held_out": tests["held_out"]}))
    steep = {"name": "steep", "against": "ours", "iterations": 5, "tflop": 1.0, "diverged_at": 3}
    table = study_table({"rows": [*rows, steep], "before_mm": {"lung": 8.0}})
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()]
    assert {len(line) for line in cells} == {9}
    assert [line[-1] for line in cells[2:]] == ["", "", "-0.12; 700, 0.062", "", ""]
    assert cells[4][-4:-1] == ["ours", "+0.50", "10, 0.25"]


BAD = {
    "size": ({"size": 48}, "must be 32, 64 or 128"),
    "pool": ({"pool": -1}, "number of samples"),
    "levels": ({"base": {**BASE, "network": {"levels": 5}, **BASELINE}}, "5 levels do not fit in 32"),
    "partner": ({"variants": {"a": {"against": "b"}}}, "names b, which is none"),
    "key": ({"variants": {"a": {"colour": 1}}}, "unknown key colour"),
    "config": ({"variants": {"a": {"changes": {"netwrok": {}}}}}, "did you mean 'network'"),
    "empty": ({"variants": None}, "needs the keys base and variants"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_study_is_named_in_one_sentence(folder, name):
    changes, sentence = BAD[name]
    path = folder / "bad.yaml"
    path.write_text(json.dumps({"size": 32, "base": BASE, "variants": {"a": None}, **changes}))
    with pytest.raises(InputError, match=sentence) as caught:
        read_study(path)
    assert "\n" not in str(caught.value)
