"""The paper's figures 5, 6, 7, 8 and 9 from runs and test sets; each function returns a matplotlib figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.files import replacing
from ProgressiveRegistrationLib.report.pictures import overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .evaluation import PairResult
    from .samples import Sample

# Told apart by colour-blind readers too; a baseline is always the second.
COLOURS = ("#d9731a", "#2f7fc4", "#4a9a5b", "#9c5fb5", "#7a7a7a")
LEVEL_COLOURS = ("#4b2f7f", "#3a62a8", "#2f93a0", "#5fb365", "#d9a81a")


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``name``.png (150 dpi) and ``name``.svg; raises OutputError."""
    import matplotlib

    paths = []
    for ending, options in (("png", {"dpi": 150}), ("svg", {"metadata": {"Date": None}})):
        path = folder / f"{name}.{ending}"
        style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": name}
        with replacing(path) as temporary, matplotlib.rc_context(style):
            figure.savefig(temporary, bbox_inches="tight", **options)
        paths.append(path)
    return paths


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def read_log(run: Path) -> list[dict]:
    """The lines of a run's ``metrics.jsonl``, without what was logged after
    a checkpoint that the run went back to.

    Raises
    ------
    InputError : no log, or an empty one.
    """
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"The log {run / 'metrics.jsonl'} cannot be read.") from error
    if not entries:
        raise InputError(f"The log {run / 'metrics.jsonl'} is empty: train first.")
    kept: dict[tuple[str, int], dict] = {}
    first = entries[-1][
        "iteration"
    ]  # of what was logged from here on: an earlier line past it was gone back on
    for entry in reversed(entries):
        key = entry["kind"], entry["iteration"]
        if entry["iteration"] <= first and key not in kept:
            kept[key] = entry
            first = entry["iteration"]
    return [kept[key] for key in sorted(kept)]


def curve(log: Sequence[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(iterations, values) of a log's entries that have ``key``."""
    pairs = [(e["iteration"], e[key]) for e in log if key in e]
    if not pairs:
        raise InputError(f"The log has no {key}.")
    x, y = zip(*pairs)
    return np.array(x), np.array(y, float)


def training_curves(
    logs: Mapping[str, Sequence[dict]],
    sides: Sequence[int],
    curves: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
) -> Figure:
    """Fig. 5: A, the schedule; B and further, error as a function of the iteration.

    Parameters
    ----------
    logs : label -> log (see ``read_log``); the first gives the schedule. sides : cells of each level,
        coarsest first.
    curves : y label -> method -> (iterations, values); one panel each.
    """
    first = [e for e in next(iter(logs.values())) if e["kind"] == "train"]
    if not first:
        raise InputError("The log has no training entries to show the schedule of.")
    figure = _figure(7.2, 1.9 + 2.5 * len(curves))
    axes = figure.subplots(
        1 + len(curves), 1, sharex=True, squeeze=False, height_ratios=[1.5] + [2.3] * len(curves)
    )[:, 0]
    t = np.array([e["iteration"] for e in first])
    alpha = np.array([e["alpha"] for e in first])
    for level in range(alpha.shape[1]):
        colour = LEVEL_COLOURS[(level + len(LEVEL_COLOURS) - alpha.shape[1]) % len(LEVEL_COLOURS)]
        axes[0].plot(t, alpha[:, level], color=colour, label=f"{sides[level]}³")
    axes[0].set_ylabel("weight α")
    axes[0].set_ylim(-0.03, 1.05)
    axes[0].legend(frameon=False, ncols=alpha.shape[1], loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes[0].set_title("A", loc="left", fontweight="bold")
    for number, (panel, (name, methods)) in enumerate(zip(axes[1:], curves.items())):
        for colour, (label, (x, y)) in zip(COLOURS, methods.items()):
            panel.plot(x, y, color=colour, label=label, marker="o" if len(x) < 15 else None, markersize=3)
        panel.set_ylabel(name)
        panel.set_ylim(bottom=0)
        panel.set_title("BCDEFG"[number], loc="left", fontweight="bold")
        panel.legend(frameon=False)
    for panel in axes:
        _tidy(panel)
    axes[-1].set_xlabel("iteration")
    axes[-1].set_xlim(left=0)
    return figure


def snapshot_scatter(progressive: np.ndarray, baseline: np.ndarray, what: str = "mean TRE (mm)") -> Figure:
    """Fig. 6: error of the progressive against the baseline network, one point a snapshot (and pair),
    with its density.

    ``progressive``, ``baseline`` : (n,), row for row the same iteration and pair. Below the diagonal the
    progressive network is better.
    """
    from scipy.stats import gaussian_kde

    progressive, baseline = np.asarray(progressive, float), np.asarray(baseline, float)
    if progressive.shape != baseline.shape or not progressive.size:
        raise InputError("A scatter plot needs the same snapshots of both networks.")
    low = min(progressive.min(), baseline.min())
    high = max(progressive.max(), baseline.max())
    margin = 0.08 * max(high - low, 0.5)
    low, high = max(0.0, low - margin), high + margin
    figure = _figure(4.6, 4.6)
    axes = figure.subplots()
    points = np.stack([baseline, progressive])
    # A density needs points that do not lie on a line.
    if points.shape[1] > 3 and np.linalg.matrix_rank(np.cov(points)) == 2:
        ticks = np.linspace(low, high, 160)
        x, y = np.meshgrid(ticks, ticks)
        density = gaussian_kde(points)(np.stack([x.ravel(), y.ravel()])).reshape(x.shape)
        axes.imshow(density, origin="lower", extent=(low, high, low, high), cmap="Greys", alpha=0.75)
    axes.plot([low, high], [low, high], color="black", linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(baseline, progressive, ".", color=COLOURS[0], markersize=5)
    better = int(np.count_nonzero(progressive < baseline))
    axes.set_title(f"progressive better in {better} of {progressive.size}", fontsize=10)
    axes.set_xlabel(f"baseline: {what}")
    axes.set_ylabel(f"progressive: {what}")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    _tidy(axes)
    return figure


def level_maps(
    history: Mapping[int, Mapping[str, np.ndarray]], truth: np.ndarray, component: str = "x"
) -> Figure:
    """Fig. 7: a component of every level's field throughout training.

    Parameters
    ----------
    history : iteration -> row name (a level, "progressive", "baseline") -> (h, w) voxels of the 128 grid.
    truth : (h, w), the true component in the same slice.
    """
    names = list(dict.fromkeys(name for maps in history.values() for name in maps))
    levels = sorted((n for n in names if n.endswith("³")), key=lambda n: int(n[:-1]))
    rows = levels + [n for n in names if n not in levels]
    iterations = list(history)
    if not rows:
        raise InputError("There are no level maps to draw.")
    limit = float(np.abs(truth).max()) or 1.0
    figure = _figure(1.05 * (len(iterations) + 1) + 1.6, 1.0 * len(rows) + 0.4)
    figure.set_layout_engine("constrained", h_pad=0.02, w_pad=0.02, hspace=0.02, wspace=0.02)
    axes = figure.subplots(len(rows), len(iterations) + 1, squeeze=False)
    for panel in axes.ravel():
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_visible(False)
    options = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "interpolation": "nearest"}
    for i, name in enumerate(rows):
        axes[i, 0].set_ylabel(name, rotation=0, ha="right", va="center")
        for j, iteration in enumerate(iterations):
            if name in history[iteration]:
                shown = axes[i, j].imshow(history[iteration][name], **options)
            if i == 0:
                axes[i, j].set_title(f"{iteration:,}", fontsize=9)
    shown = axes[-1, -1].imshow(truth, **options)
    axes[-1, -1].set_title("truth", fontsize=9)
    figure.colorbar(shown, ax=axes, label=f"$u_{component}$ (voxels of the 128³ grid)", shrink=0.6)
    return figure


def overlays(results: Sequence[PairResult], most: int = 6) -> Figure:
    """Fig. 8: coronal overlays, fixed in orange and moving in blue, before and after each method.

    With more than ``most`` pairs: those at even ranks of their error before registration, least and greatest
    included.
    """
    shown = [r for r in results if r.pictures]
    if not shown:
        raise InputError("There are no pictures to overlay.")
    if len(shown) > most:
        order = sorted(range(len(shown)), key=lambda i: shown[i].before.mean())
        picked = sorted({order[i] for i in np.linspace(0, len(order) - 1, most).round().astype(int)})
        shown = [shown[i] for i in picked]
    columns = ["before", *shown[0].methods]
    heights = [r.pictures["fixed"].shape[0] / r.pictures["fixed"].shape[1] for r in shown]
    width = 3.0
    figure = _figure(width * len(columns) + 0.3, sum(h * width + 0.45 for h in heights))
    axes = figure.subplots(len(shown), len(columns), squeeze=False, height_ratios=heights)
    for row, result in zip(axes, shown):
        for panel, name in zip(row, columns):
            panel.imshow(overlay(result.pictures["fixed"], result.pictures[name]))
            panel.set_xticks([])
            panel.set_yticks([])
            panel.spines[:].set_visible(False)
            errors = result.before if name == "before" else result.methods[name].errors
            panel.set_title(f"{name}: {errors.mean():.2f} ± {errors.std():.2f} mm", fontsize=9)
        row[0].set_ylabel(f"{result.data_set} {result.name}", fontsize=9)
    return figure


def correlations(results: Sequence[PairResult]) -> Figure:
    """Fig. 9: estimated against true displacement of every landmark, per component, one row a method.
    LPS mm."""
    if not results:
        raise InputError("There are no results to correlate.")
    labels = list(results[0].methods)
    true = np.concatenate([r.moving_points - r.fixed_points for r in results])
    figure = _figure(9.6, 3.1 * len(labels) + 0.2)
    axes = figure.subplots(len(labels), 3, squeeze=False)
    for row, label in zip(axes, labels):
        estimated = np.concatenate([r.methods[label].mapped - r.fixed_points for r in results])
        for axis, panel in enumerate(row):
            x, y = true[:, axis], estimated[:, axis]
            low, high = min(x.min(), y.min()), max(x.max(), y.max())
            margin = 0.05 * max(high - low, 1.0)
            ends = (low - margin, high + margin)
            panel.plot(ends, ends, color="black", linewidth=0.8, linestyle=(0, (4, 3)))
            panel.plot(x, y, ".", color=COLOURS[0], markersize=5, alpha=0.4, markeredgewidth=0)
            # No spread, no correlation.
            r = np.corrcoef(x, y)[0, 1] if x.std() > 0 and y.std() > 0 else float("nan")
            panel.set_title(f"{label}, {'xyz'[axis]}: r = {r:.3f}", fontsize=10)
            panel.set_xlim(ends)
            panel.set_ylim(ends)
            panel.set_aspect("equal")
            _tidy(panel)
        row[0].set_ylabel("estimated (mm)")
    for panel in axes[-1]:
        panel.set_xlabel("true displacement (mm)")
    return figure


# What a run's folder holds ----------------------------------------------------------------------------------


def runs_together(progressive: Path, baseline: Path, key: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Values of both runs' validations at the iterations that both have:
    ``lung_error_mm`` or another ``key``.

    ``key`` None: all ``tre_*_mm`` that both have, one after the other.
    """
    entries = []
    for run in (progressive, baseline):
        found = {e["iteration"]: e for e in read_log(run) if e["kind"] == "validation"}
        entries.append(found)
    values: list[tuple[float, float]] = []
    for iteration in sorted(set(entries[0]) & set(entries[1])):
        a, b = (e[iteration] for e in entries)
        keys = [key] if key else [k for k in a if k.startswith("tre_") and k.endswith("_mm")]
        values += [(a[k], b[k]) for k in keys if k in a and k in b]
    if not values:
        raise InputError(
            f"The runs {progressive} and {baseline} share no validation: give them the same validation.every."
        )
    first, second = np.array(values).T
    return first, second


def level_history(
    snapshots: Mapping[str, Sequence[Path]], sample: Sample, iterations: int = 8, component: int = 0
) -> tuple[dict[int, dict[str, np.ndarray]], np.ndarray]:
    """What ``level_maps`` draws: the middle coronal slice of every level's
    field of a sample at some snapshots.

    Parameters
    ----------
    snapshots : "progressive" and, if there is one, "baseline" -> snapshot files, oldest first.
    sample : a ``Sample`` with images and truth of the full grid.
    iterations : how many columns; evenly spaced among the snapshots of the first run.
    """
    import torch

    from .evaluation import CheckpointModel
    from .network import pool_to

    paths = list(next(iter(snapshots.values())))
    picked = sorted({round(i) for i in np.linspace(0, len(paths) - 1, min(iterations, len(paths)))})
    side = sample.target.shape[-1]

    def coronal(volume: torch.Tensor) -> np.ndarray:
        n = volume.shape[-1]
        return volume[:, n // 2].flip(0).numpy()

    history: dict[int, dict[str, np.ndarray]] = {}
    for label, files in snapshots.items():
        by_iteration = {int(p.stem.split("-")[-1]): p for p in files}
        for k in picked:
            iteration = int(paths[k].stem.split("-")[-1])
            if iteration not in by_iteration:
                continue
            model = CheckpointModel(by_iteration[iteration], "cpu")
            maps = history.setdefault(iteration, {})
            finest = max(i for i, a in enumerate(model.alpha) if a > 0)
            images = pool_to(sample.images, max(64, model.network.side(finest)))
            with torch.inference_mode():
                fields = model.network.level_outputs(images, model.alpha)
            if label == "progressive":
                for level in range(model.network.levels):
                    if level in fields:
                        maps[f"{model.network.side(level)}³"] = coronal(fields[level][0, component])
            total = model.predict_tensor(images, side)
            maps[label] = coronal(total[0, component])
    ordered = {i: history[i] for i in sorted(history)}
    return ordered, coronal(sample.target[0, component])
