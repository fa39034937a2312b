"""What ``progressive-registration-train evaluate`` does: test sets, models,
tables and figures into one folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ProgressiveRegistrationLib.errors import InputError, OutputError
from ProgressiveRegistrationLib.files import write_text

from . import figures
from .benchmarks import (
    BenchmarkPair,
    creatis,
    csv_pairs,
    dirlab_4dct,
    dirlab_copdgene,
    phantoms,
    popi,
    swapped,
)
from .config import Config, config_from_dict, read_config
from .evaluation import (
    evaluate,
    held_out_stream,
    open_model,
    predictor,
    snapshot_errors,
    snapshots,
    wilcoxon,
)
from .losses import LOSSES
from .network import grid_shape
from .scales import held_out_scales
from .tables import to_markdown, write_results

READERS = {
    "dirlab_4dct": dirlab_4dct,
    "dirlab_copdgene": dirlab_copdgene,
    "popi": popi,
    "creatis": creatis,
    "pairs": csv_pairs,
}


@dataclass(frozen=True)
class EvaluationJob:
    """One evaluation. ``sets``: reader -> folder or CSV, see ``READERS``. ``run``, ``baseline_run``:
    folders of runs."""

    output: Path
    model: str | None = None
    baseline: str | None = None
    sets: dict[str, Path] | None = None
    phantoms: int = 0
    swap: bool = False
    lung_boxes: str = "own"
    refinement: str | None = None
    device: str = "auto"
    run: Path | None = None
    baseline_run: Path | None = None
    evaluate_snapshots: bool = False
    held_out: Path | None = None
    held_out_samples: int = 10


def read_sets(job: EvaluationJob) -> tuple[list[BenchmarkPair], list[str]]:
    """All pairs that the job names, and sentences about incomplete ones."""
    pairs, notes = [], []
    for name, place in (job.sets or {}).items():
        found, left_out = READERS[name](place)
        pairs += found
        notes += left_out
    pairs += phantoms(job.phantoms)
    return (swapped(pairs) if job.swap else pairs), notes


def run_job(job: EvaluationJob, report: Callable[[str], None] = print) -> list[str]:
    """Do it; returns the names of the files written. Raises InputError, ModelError, OutputError."""
    pairs, notes = read_sets(job)
    if not pairs and job.run is None and job.held_out is None:
        raise InputError(
            "There is nothing to evaluate: name a test set (--dirlab-4dct, --pairs, --phantoms ...), a "
            "--run or --held-out."
        )
    if job.evaluate_snapshots and (not pairs or job.run is None):
        raise InputError("To evaluate snapshots, name a --run and a test set.")
    try:
        job.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {job.output} cannot be made: {error.strerror}.") from error
    for note in notes:
        report(note)
    models: dict[str, Any] = {}
    if (pairs and not job.evaluate_snapshots) or job.held_out is not None:
        if job.baseline:
            models["baseline"] = open_model(job.baseline, job.device)
        models["progressive" if job.baseline else "network"] = (
            "none" if job.model == "none" else open_model(job.model, job.device)
        )
    before = {p: p.stat().st_mtime_ns for p in job.output.iterdir()}
    if pairs and not job.evaluate_snapshots:
        _test_set(job, pairs, models, notes, report)
    if job.run is not None:
        _throughout(job, job.run, pairs, report)
    if job.held_out is not None:
        _held_out(job, job.held_out, models, report)
    return sorted(p.name for p in job.output.iterdir() if before.get(p) != p.stat().st_mtime_ns)


def _test_set(
    job: EvaluationJob, pairs: list[BenchmarkPair], models: dict[str, Any], notes: list[str], report: Callable
) -> None:
    results, left_out = evaluate(
        pairs, models, lung_boxes=job.lung_boxes, refinement=job.refinement, device=job.device, report=report
    )
    names = [
        f"{label}: {getattr(getattr(m, 'card', None), 'name', 'no network')}" for label, m in models.items()
    ]
    content = write_results(results, job.output, job.lung_boxes, job.refinement, names + notes + left_out)
    figures.save(figures.overlays(results), job.output, "figure8-overlays")
    figures.save(figures.correlations(results), job.output, "figure9-correlations")
    report(to_markdown(content))


def _throughout(job: EvaluationJob, run: Path, pairs: list[BenchmarkPair], report: Callable) -> None:
    """Figs. 5, 6 and 7 from the folders of one run or two."""
    runs = {"progressive": run}
    if job.baseline_run is not None:
        runs["baseline"] = job.baseline_run
    logs = {label: figures.read_log(run) for label, run in runs.items()}
    configs = {label: _run_config(run) for label, run in runs.items()}
    network = configs["progressive"].network
    nominal, _ = grid_shape(network.size)
    sides = [nominal >> (network.levels - 1 - i) for i in range(network.levels)]
    curves: dict[str, dict] = {}
    for label, log in logs.items():
        # Losses of different kinds are no curves of one panel.
        if any("loss" in e for e in log):
            curves.setdefault(LOSSES[configs[label].optimiser.loss].label, {})[label] = figures.curve(
                log, "loss"
            )
    key = "lung_error_mm"
    found = {label: figures.curve(log, key) for label, log in logs.items() if any(key in e for e in log)}
    if found:
        curves["held-out error (mm)"] = found
    points: list[tuple[float, float]] = []
    if job.evaluate_snapshots:
        rows = {
            label: snapshot_errors(run, pairs, lung_boxes=job.lung_boxes, device=job.device, report=report)
            for label, run in runs.items()
        }
        write_text(job.output / "snapshots.json", json.dumps(rows, indent=1) + "\n")
        curves["TRE of the test set (mm)"] = {
            label: (np.array([r["iteration"] for r in found]), np.array([r["tre_mm"] for r in found]))
            for label, found in rows.items()
        }
        if "baseline" in rows:
            other = {r["iteration"]: r for r in rows["baseline"]}
            points = [
                (r["tre_mm"], other[r["iteration"]]["tre_mm"])
                for r in rows["progressive"]
                if r["iteration"] in other
            ]
    figures.save(figures.training_curves(logs, sides, curves), job.output, "figure5-training")
    if job.baseline_run is not None:
        if points:
            first, second = np.array(points).T
            figure = figures.snapshot_scatter(first, second)
        else:
            first, second = figures.runs_together(run, job.baseline_run, "lung_error_mm")
            figure = figures.snapshot_scatter(first, second, "held-out error (mm)")
        figures.save(figure, job.output, "figure6-snapshots")
    if (run / "snapshots").is_dir() and job.held_out is not None:
        stream = held_out_stream(read_config(job.held_out), report)
        history, truth = figures.level_history(
            {label: snapshots(run) for label, run in runs.items()}, stream.sample(0, 128, 128, scan=0)
        )
        figures.save(figures.level_maps(history, truth), job.output, "figure7-levels")


def _run_config(run: Path) -> Config:
    try:
        values = json.loads((run / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{run} is no folder of a run: its config.json cannot be read.") from error
    return config_from_dict(values)


def _held_out(job: EvaluationJob, settings: Path, models: dict[str, Any], report: Callable) -> None:
    """``held_out.json``: mean |u - û| inside the lung, mm, of every model on the same deformations."""
    stream = held_out_stream(read_config(settings), report)
    found: dict[str, np.ndarray] = {}
    by_scale: dict[str, dict[str, float]] = {}
    zeros = np.empty(0)
    for label, model in models.items():
        predict, finest, size = predictor(model)
        scales = held_out_scales(predict, stream, job.held_out_samples, finest, size)
        found[label], zeros = scales.error, scales.zero
        by_scale[label] = {name: round(value, 4) for name, value in scales.summary().items()}
        report(
            f"Held-out error, {label}: {found[label].mean():.2f} ± {found[label].std():.2f} mm of "
            f"{zeros.mean():.2f} mm"
        )
    content: dict[str, Any] = {
        "protocol": "mean |u - û| in mm inside the fixed lung, on a 64^3 grid of the lung box; "
        "deformations of held-out scans with a fixed seed list; ± over deformations",
        "scans": len(stream.store),
        "deformations": int(zeros.size),
        "zero_field_mm": float(zeros.mean()),
        "scales": "smooth: the part of the error, or of the motion (zero_), that a B-spline of 4^3 control "
        "points follows; rough: the rest",
        "models": {
            label: {
                "mean_mm": float(e.mean()),
                "sd_mm": float(e.std()),
                "errors_mm": e.round(4).tolist(),
                "by_scale": by_scale[label],
            }
            for label, e in found.items()
        },
    }
    if len(found) == 2:
        worse, better = found.values()
        content["wilcoxon"] = wilcoxon(worse, better)
    write_text(job.output / "held_out.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
