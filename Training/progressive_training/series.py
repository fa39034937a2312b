"""The paper's comparison at 64^3: runs of several configurations and initialisations, in turn.

Unlike ``compare`` it takes days, and so it may be stopped at any time: each run is one of the trainer's own,
and goes on from its last checkpoint. Runs of one seed see the same samples and begin with the same weights.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.files import write_text

from . import benchmarks, checkpoint
from .cache import ScanStore
from .compare import Variant, read_study
from .config import Config
from .deformation import FINE
from .evaluation import CheckpointModel, evaluate_pair, held_out_stream, predictor, wilcoxon
from .pairs import PreparedPair, prepare_pair
from .samples import SampleStream
from .scales import held_out_scales
from .trainer import Trainer


@dataclass(frozen=True)
class Series:
    """``variants`` of a study (see ``compare.read_study``), each trained once a seed.

    chunk : iterations of a run before the next one's turn. amplitudes : of the held-out deformations, times
    Table I's. samples : of each held-out scan and amplitude. phantom_mm : diaphragm motions of the phantoms;
    phantom_seeds : of each.
    """

    variants: list[Variant]
    seeds: tuple[int, ...] = (1, 2)
    chunk: int = 500
    amplitudes: tuple[float, ...] = (0.3, 1.0, 1.5)
    samples: int = 4
    phantom_mm: tuple[float, ...] = (10, 20, 40, 60)
    phantom_seeds: tuple[int, ...] = (100, 101)

    def runs(self, only: Sequence[str] = ()) -> list[tuple[str, int, Variant]]:
        """(run's name, seed, variant with the run's configuration) in the order of training.

        only : names of variants or runs; empty for all. InputError names those that there are.
        """
        out = []
        for seed in self.seeds:
            for variant in self.variants:
                name = f"{variant.name}-seed{seed}"
                config = replace(variant.config, name=name, seed=seed)
                out.append((name, seed, replace(variant, config=config)))
        known = [name for name, _, _ in out] + [variant.name for variant in self.variants]
        if unknown := [name for name in only if name not in known]:
            raise InputError(f"The series has no run or variant {unknown[0]}; it has {', '.join(known)}.")
        return [run for run in out if not only or run[0] in only or run[2].name in only]


def read_series(path: Path) -> Series:
    """A study's YAML file with a ``series`` section, with keys of ``Series``. Raises InputError."""
    variants, pool = read_study(path)
    values = yaml.safe_load(path.read_text(encoding="utf-8")).get("series") or {}
    known = {"seeds", "chunk", "amplitudes", "samples", "phantom_mm", "phantom_seeds"}
    if not isinstance(values, dict) or set(values) - known:
        wrong = sorted(set(values) - known)[0] if isinstance(values, dict) else values
        names = ", ".join(sorted(known))
        raise InputError(f"The series {path} has the unknown key {wrong}; it may hold {names}.")
    if pool:
        raise InputError(f"The series {path} has a pool of samples: only studies have one.")
    try:
        kinds = {"chunk": int, "samples": int, "amplitudes": float, "phantom_mm": float}
        given: dict[str, Any] = {}
        for key, value in values.items():
            kind = kinds.get(key, int)
            given[key] = kind(value) if key in ("chunk", "samples") else tuple(map(kind, value))
        if given.get("chunk", 1) < 1 or given.get("samples", 1) < 1:
            raise ValueError
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The series {path} must hold lists of numbers, and whole numbers of at least 1."
        ) from error
    return Series(variants, **given)


def run_series(
    series: Series,
    output: Path,
    minutes: float = float("inf"),
    report: Callable[[str], None] = print,
    only: Sequence[str] = (),
) -> bool:
    """Train on for at most ``minutes``; True once every run of ``only`` is at its end, in ``output``/runs."""
    deadline = time.monotonic() + 60 * minutes
    folder = str((output / "runs").resolve())
    runs = series.runs(only)
    reached = {name: _reached(Path(folder) / name) for name, _, _ in runs}
    while True:
        waiting = [r for r in runs if reached[r[0]] < r[2].config.schedule.iterations]
        if not waiting:
            return True
        # The one that is least far on: after a stop none runs ahead.
        name, _, variant = min(waiting, key=lambda r: reached[r[0]] // series.chunk)
        config = replace(variant.config, output=replace(variant.config.output, folder=folder))
        trainer = Trainer(config, report)
        until = min(config.schedule.iterations, (reached[name] // series.chunk + 1) * series.chunk)
        reached[name] = trainer.run(resume=True, until=until, deadline=deadline)
        report(f"{name}: iteration {reached[name]} of {config.schedule.iterations}")
        if trainer.stop_reason:
            return False


def _reached(run: Path) -> int:
    found = checkpoint.checkpoints(run / "checkpoints")
    return int(found[-1].stem[len(checkpoint.PREFIX) :]) if found else 0


def measure_series(series: Series, output: Path, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Judge every run at its last checkpoint (maybe before its end: the result tells), and write the result
    after each.

    Weights that ``output`` has figures of, measured in the same way, are not measured again.
    """
    rows: list[dict[str, Any]] = []
    judge = None
    for name, seed, variant in series.runs():
        found = checkpoint.checkpoints(output / "runs" / name / "checkpoints")
        if not found:
            continue
        judge = judge or _Judge(series, variant.config, output, report)
        about: dict[str, Any] = {
            "run": name,
            "variant": variant.name,
            "seed": seed,
            "against": variant.against,
        }
        about.update(iteration=_reached(output / "runs" / name), of=variant.config.schedule.iterations)
        about["sha256"] = hashlib.sha256(found[-1].read_bytes()).hexdigest()
        rows.append({**(judge.known.get(about["sha256"]) or judge.figures(found[-1])), **about})
        report(f"{name} at iteration {about['iteration']} is measured")
        result = {"protocol": judge.protocol, "rows": rows, "tests": _tests(rows)}
        write_series(result, output)
    if not rows:
        raise InputError(f"No run in {output / 'runs'} has a checkpoint yet: train first.")
    return result


class _Judge:
    """The test sets of a series, made when they are first needed."""

    def __init__(self, series: Series, config: Config, output: Path, report: Callable[[str], None]) -> None:
        self.series, self.config, self._report = series, config, report
        own = {f.name: getattr(series, f.name) for f in fields(series) if f.name != "variants"}
        scans = (config.data.validation, config.data.hold_out, config.validation.pairs, config.sampling.sigma)
        self.protocol = repr((own, scans))
        self.known = self._measured(output, self.protocol)

    @staticmethod
    def _measured(output: Path, protocol: str) -> dict[str, dict[str, Any]]:
        """Rows of the last time by their weights' checksums, if all was measured as now."""
        try:
            before = json.loads((output / "series.json").read_text(encoding="utf-8"))
            return {row["sha256"]: row for row in before["rows"]} if before["protocol"] == protocol else {}
        except (OSError, ValueError, KeyError):
            return {}

    @cached_property
    def held_out(self) -> dict[float, SampleStream]:
        config = self.config
        plain = held_out_stream(config, self._report)
        out = {}
        for amplitude in self.series.amplitudes:
            store = ScanStore(plain.store.folders, config.data.window, config.data.memory_gb)
            out[amplitude] = SampleStream.held_out(store, config.sampling, amplitude)
        return out

    @cached_property
    def pairs(self) -> list[PreparedPair]:
        return [prepare_pair(self.config, p) for p in self.config.validation.pairs]

    @cached_property
    def phantoms(self) -> list[tuple[float, Any]]:
        series = self.series
        every = ((mm, seed) for mm in series.phantom_mm for seed in series.phantom_seeds)
        return [(mm, benchmarks.phantoms(1, seed, amplitude=mm)[0]) for mm, seed in every]

    def figures(self, path: Path) -> dict[str, Any]:
        """Errors (mm) and folding of a checkpoint."""
        model = CheckpointModel(path, "cpu")
        predict, finest, size = predictor(model)
        row: dict[str, Any] = {"held_out": {}, "errors": {}}
        for amplitude, stream in self.held_out.items():
            scales = held_out_scales(predict, stream, self.series.samples, finest, size)
            row["held_out"][f"{amplitude:g}"] = scales.summary()
            row["errors"][f"held-out, {amplitude:g} x Table I"] = scales.error.tolist()
        for pair in self.pairs:
            field = torch.from_numpy(model.predict(pair.images)) * (FINE / model.card.size)
            row["errors"][pair.name] = pair.tre(field).tolist()
        for mm, phantom in self.phantoms:
            result = evaluate_pair(phantom, {"network": model}, device="cpu").methods["network"]
            row["errors"].setdefault(f"phantoms, {mm:g} mm", []).extend(result.errors.tolist())
            folded = row.setdefault("folding_percent", {})
            folded[f"{mm:g} mm, {phantom.name}"] = result.folding["lung_percent"]
        return row


def _tests(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One-sided, as in the paper: are a variant's errors larger than its partner's (all seeds together)?

    Runs that are not at their end are left out: they would be compared at another length.
    """
    out = []
    ended = [r for r in rows if r["iteration"] >= r["of"]]
    for variant, against in dict.fromkeys((r["variant"], r["against"]) for r in ended if r["against"]):
        mine = {r["seed"]: r["errors"] for r in ended if r["variant"] == variant}
        other = {r["seed"]: r["errors"] for r in ended if r["variant"] == against}
        seeds = sorted(mine.keys() & other.keys())
        for key in next(iter(mine.values())) if seeds else ():
            worse, better = (np.concatenate([e[s][key] for s in seeds]) for e in (mine, other))
            out.append({"variant": variant, "against": against, "on": key, **wilcoxon(worse, better)})
    return out


def series_table(result: dict[str, Any]) -> str:
    """Markdown: mean errors of every run in mm and what is left of the held-out motion's smooth and rough
    part, then the tests."""
    keys, amplitudes = (list(result["rows"][0][name]) for name in ("errors", "held_out"))
    names = [*keys, *(f"{a} x Table I: smooth, rough part left (%)" for a in amplitudes)]
    lines = ["| Run | Iteration | " + " | ".join(names) + " | Folding in the lung, most (%) |"]
    lines.append("|---|---:|" + "---:|" * (len(names) + 1))
    for row in result["rows"]:
        means = [f"{np.mean(row['errors'][k]):.2f}" for k in keys]
        parts = (row["held_out"][a] for a in amplitudes)
        means += [f"{100 * part['smooth_left']:.0f}, {100 * part['rough_left']:.0f}" for part in parts]
        most = max(row.get("folding_percent", {}).values(), default=float("nan"))
        done = f"{row['iteration']:,}" + ("" if row["iteration"] >= row["of"] else f" of {row['of']:,}")
        lines.append(f"| {row['run']} | {done} | " + " | ".join(means) + f" | {most:.3f} |")
    head = "| Variant | Against | On | Mean difference (mm) | W | p, one-sided: the variant is worse |"
    lines += ["", head]
    lines.append("|---|---|---|---:|---:|---:|")
    for test in result["tests"]:
        difference, statistic, p = test["mean_difference_mm"], test["W"], test["p"]
        where = f"{test['variant']} | {test['against']} | {test['on']}"
        lines.append(f"| {where} | {difference:+.2f} | {statistic:g} | {p:.2g} |")
    return "\n".join(lines) + "\n"


def write_series(result: dict[str, Any], output: Path) -> None:
    """``series.json`` and ``series.md``."""
    write_text(output / "series.json", json.dumps(result, indent=1) + "\n")
    write_text(output / "series.md", series_table(result))
