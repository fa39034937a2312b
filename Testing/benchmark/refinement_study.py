"""What the refinement reaches, and what its settings are worth: the tables of REFINEMENT.md.

    python Testing/benchmark/refinement_study.py real          # elastix_lung: both frames, both directions,
    by preset python Testing/benchmark/refinement_study.py phantoms      # error against exact truth by
    diaphragm motion python Testing/benchmark/refinement_study.py consistency   # opentps_4dct 20 <-> 60:
    folding, inverse consistency python Testing/benchmark/refinement_study.py trust         # identical scans,
    and two different patients python Testing/benchmark/refinement_study.py sensitivity   # each main setting
    halved and doubled python Testing/benchmark/refinement_study.py cost          # seconds by stage, peak
    memory python Testing/benchmark/refinement_study.py curve --rows network.csv boxes.csv --figure curve.png

``--model none`` starts from the box-to-box affine, ``--model zero`` from no map at all, a name or a card's
path from a network. Seconds are CPU seconds of this process (with ``--threads 1`` they compare across a busy
machine). Rows go to standard output as CSV.
"""

from __future__ import annotations

import argparse
import csv
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.phantom.pair import breathing_thorax
from ProgressiveRegistrationLib.presets import PRESETS as ALL_PRESETS
from ProgressiveRegistrationLib.presets import Settings
from ProgressiveRegistrationLib.quality import (
    field_of_view,
    folding,
    inverse_consistency,
    mask_points,
    tre,
)
from ProgressiveRegistrationLib.refinement.refine import doubts, refine
from ProgressiveRegistrationLib.registration import register
from ProgressiveRegistrationLib.statistics import statistics

PRESETS = {name: p.refinement for name, p in ALL_PRESETS.items() if p.refinement is not None}
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
CENTRED, SCANNER = "followup_centred", "followup"


@dataclass(frozen=True)
class Case:
    """A pair; its landmarks (n, 3) LPS mm, where it has some."""

    name: str
    fixed: sitk.Image
    moving: sitk.Image
    fixed_points: np.ndarray | None = None
    moving_points: np.ndarray | None = None


def elastix_lung(frame: str, backwards: bool) -> Case:
    folder = SHARED / "pairs" / "elastix_lung"
    with open(folder / "landmarks51_lps_mm.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["suspect"] == "0"]

    def points(name: str) -> np.ndarray:
        return np.array([[float(row[f"{name}_{axis}"]) for axis in "xyz"] for row in rows])

    names = (frame, "baseline") if backwards else ("baseline", frame)
    images = [sitk.ReadImage(str(folder / f"{n}.nrrd")) for n in names]
    return Case(f"elastix_lung {names[0]} -> {names[1]}", *images, points(names[0]), points(names[1]))


def phantom(seed: int, amplitude: float) -> Case:
    pair = breathing_thorax(seed, amplitude=amplitude)
    landmarks = pair.fixed_landmarks.points, pair.moving_landmarks.points
    return Case(f"phantom {seed}, {amplitude:g} mm", pair.fixed, pair.moving, *landmarks)


def plain_pair(name: str, fixed: str, moving: str) -> Case:
    return Case(name, *(sitk.ReadImage(str(SHARED / f"{p}.nrrd")) for p in (fixed, moving)))


class Start:
    """The field to refine, and the fixed lungs: made once a case, refined often."""

    def __init__(self, case: Case, model: str) -> None:
        self.case = case
        found = register(case.fixed, case.moving, model="none" if model == "zero" else model, preset="fast")
        self.mask, self.field = found.fixed_lungs.mask, found.field
        if model == "zero":
            self.field = DisplacementField.identity(found.field.grid)

    def refined(self, settings: Settings) -> tuple[DisplacementField, list, float]:
        """The field, its convergence, CPU seconds."""
        steps: list = []
        began = time.process_time()
        field = refine(
            self.case.fixed, self.case.moving, self.field, preset=settings, mask=self.mask, convergence=steps
        )
        return field, steps, time.process_time() - began

    def row(self, label: str, settings: Settings | None) -> list:
        """case, what, TRE mean, sd, median, p95, max, folding in the lung in percent, CPU seconds."""
        field, _, seconds = (self.field, [], 0.0) if settings is None else self.refined(settings)
        error = statistics(tre(field, self.case.fixed_points, self.case.moving_points))
        return [self.case.name, label, *_figures(error), f"{self.folded(field):.4f}", f"{seconds:.1f}"]

    def folded(self, field: DisplacementField) -> float:
        """Percent of the lungs' voxels."""
        return folding(field, self.mask, field_of_view(self.case.fixed))["lung_percent"]


class ThereAndBack:
    """A pair without landmarks, refined in both directions: how well the two maps undo each other."""

    def __init__(self, name: str, first: Start, second: Start) -> None:
        self.name, self.starts = name, (first, second)

    def row(self, label: str, settings: Settings) -> list:
        """As ``Start.row``; the error is |T21(T12(x)) - x| in the first image's lungs,
        the seconds are one direction's."""
        (there, _, a), (back, _, b) = (start.refined(settings) for start in self.starts)
        gap = inverse_consistency(there, back, self.starts[0].mask)
        folds = max(start.folded(field) for start, field in zip(self.starts, (there, back)))
        return [self.name, label, *_figures(gap), f"{folds:.4f}", f"{(a + b) / 2:.1f}"]


def _figures(error: dict) -> list[str]:
    return [f"{error[key]:.2f}" for key in ("mean", "sd", "median", "p95", "max")]


HEADER = ["case", "settings", "mean", "sd", "median", "p95", "max", "folding_percent", "cpu_seconds"]


def by_preset(cases: Iterator[Case], options: argparse.Namespace) -> Iterator[list]:
    yield HEADER
    for case in cases:
        start = Start(case, options.model)
        yield start.row("start", None)
        for name in options.presets:
            yield start.row(name, PRESETS[name])


def real(options: argparse.Namespace) -> Iterator[list]:
    cases = (elastix_lung(frame, back) for frame in (CENTRED, SCANNER) for back in (False, True))
    yield from by_preset(cases, options)


def phantoms(options: argparse.Namespace) -> Iterator[list]:
    cases = (phantom(seed, mm) for mm in options.amplitudes for seed in range(options.seeds))
    yield from by_preset(cases, options)


def opentps(model: str) -> tuple[Start, Start]:
    phases = [f"pairs/opentps_4dct/phase{p}" for p in (20, 60)]
    there, back = (plain_pair(f"{a[-2:]} -> {b[-2:]}", a, b) for a, b in (phases, phases[::-1]))
    return Start(there, model), Start(back, model)


def consistency(options: argparse.Namespace) -> Iterator[list]:
    yield [
        "preset",
        "direction",
        "folding_percent",
        "jacobian_min",
        "inverse_mean",
        "inverse_p95",
        "inverse_max",
    ]
    there, back = opentps(options.model)
    for name in options.presets:
        fields = [start.refined(PRESETS[name])[0] for start in (there, back)]
        for start, field, other in ((there, *fields), (back, *fields[::-1])):
            folds = folding(field, start.mask, field_of_view(start.case.fixed))
            gap = inverse_consistency(field, other, start.mask)
            figures = [folds["lung_percent"], folds["lung"]["min"], gap["mean"], gap["p95"], gap["max"]]
            yield [name, start.case.name, *(f"{v:.3f}" for v in figures)]


def trust(options: argparse.Namespace) -> Iterator[list]:
    yield [
        "case",
        "preset",
        "unexplained_before",
        "unexplained_after",
        "mean_u_mm",
        "folding_percent",
        "warned",
    ]
    lidc = [f"ct/train/lidc-{n}" for n in ("0001", "0002")]
    cases = (
        elastix_lung(CENTRED, False),
        plain_pair("opentps_4dct 20 -> 60", *(f"pairs/opentps_4dct/phase{p}" for p in (20, 60))),
        plain_pair("one scan twice", lidc[0], lidc[0]),
        plain_pair("two patients", *lidc),
    )
    for case in cases:
        start = Start(case, options.model)
        for name in options.presets:
            field, steps, _ = start.refined(PRESETS[name])
            u = np.linalg.norm(field.sample(mask_points(start.mask)), axis=1).mean()
            folds = start.folded(field)
            figures = [steps[0]["unexplained"][0], steps[-1]["unexplained"][1], u, folds]
            yield [case.name, name, *(f"{v:.3f}" for v in figures), bool(doubts(steps))]


def varied(settings: Settings) -> Iterator[tuple[str, Settings]]:
    """Each main setting halved and doubled."""
    yield "as it is", settings
    for factor in (0.5, 2.0):
        for name in ("dilation_mm", "noise", "robust", "average"):
            yield f"{name} x{factor:g}", replace(settings, **{name: getattr(settings, name) * factor})
        yield f"redraw x{factor:g}", replace(settings, redraw=int(settings.redraw * factor))
        for name in ("smoothness", "points", "iterations", "node_mm", "voxel_mm", "step_mm"):
            yield (
                f"{name} x{factor:g}",
                replace(settings, stages=tuple(_scaled(stage, name, factor) for stage in settings.stages)),
            )


def _scaled(stage, name: str, factor: float):
    value = getattr(stage, name)
    if isinstance(value, tuple):
        return replace(stage, **{name: tuple(v * factor for v in value)})
    return replace(stage, **{name: type(value)(value * factor)})


PAIRS: dict[str, Callable[[str], Iterator[Start | ThereAndBack]]] = {
    "scanner": lambda model: (Start(elastix_lung(SCANNER, back), model) for back in (False, True)),
    "centred": lambda model: (Start(elastix_lung(CENTRED, back), model) for back in (False, True)),
    "phantoms": lambda model: (Start(phantom(*about), model) for about in ((0, 20.0), (1, 40.0))),
    "opentps": lambda model: iter([ThereAndBack("opentps_4dct 20 -> 60, there and back", *opentps(model))]),
}


def sensitivity(options: argparse.Namespace) -> Iterator[list]:
    yield HEADER
    for start in (start for name in options.pairs for start in PAIRS[name](options.model)):
        for label, settings in varied(PRESETS[options.presets[0]]):
            yield start.row(label, settings)


def cost(options: argparse.Namespace) -> Iterator[list]:
    yield ["preset", "stage", "voxel_mm", "nodes", "wall_seconds"]
    start = Start(phantom(0, 20.0), options.model)
    for name in options.presets:
        before = time.perf_counter()
        _, steps, cpu = start.refined(PRESETS[name])
        wall = time.perf_counter() - before
        for step in steps:
            nodes = " x ".join(map(str, step["nodes"]))
            yield [name, step["stage"], f"{step['voxel_mm']:.2f}", nodes, f"{step['seconds']:.2f}"]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        yield [name, f"whole: CPU {cpu:.1f} s, peak {peak:.2f} GiB", "", "", f"{wall:.2f}"]


def curve(options: argparse.Namespace) -> Iterator[list]:
    """Mean error by diaphragm motion, a line for each file of ``phantoms`` rows and each of its settings."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    yield ["rows", "settings", "motion_mm", "mean_mm", "worst_seed_mm", "seeds"]
    for path in options.rows:
        found: dict[str, dict[float, list[float]]] = {}
        with open(path, encoding="utf-8") as file:
            for row in csv.DictReader(file):
                motion = float(row["case"].split(", ")[1].split()[0])
                found.setdefault(row["settings"], {}).setdefault(motion, []).append(float(row["mean"]))
        for settings, by_motion in found.items():
            motions = sorted(by_motion)
            means = [np.mean(by_motion[m]) for m in motions]
            axes.plot(motions, means, "o-", label=f"{path.stem}: {settings}")
            axes.fill_between(motions, means, [max(by_motion[m]) for m in motions], alpha=0.15)
            for m, mean in zip(motions, means):
                yield [path.stem, settings, m, f"{mean:.2f}", f"{max(by_motion[m]):.2f}", len(by_motion[m])]
    axes.set(
        xlabel="diaphragm motion (mm)", ylabel="TRE (mm): mean of seeds, shade to the worst", yscale="log"
    )
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.legend(fontsize=8)
    figure.savefig(options.figure, dpi=120)


STUDIES: dict[str, Callable[[argparse.Namespace], Iterator[list]]] = {
    f.__name__: f for f in (real, phantoms, consistency, trust, sensitivity, cost, curve)
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--model", default="none")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument(
        "--pairs", nargs="+", choices=PAIRS, default=list(PAIRS), help="sensitivity: on these pairs"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--amplitudes", nargs="+", type=float, default=[10, 20, 30, 40, 50, 60, 80])
    parser.add_argument(
        "--threads", type=int, default=0, help="torch's threads; 0: as many as there are cores"
    )
    parser.add_argument("--rows", nargs="+", type=Path, default=[], help="curve: files that `phantoms` wrote")
    parser.add_argument("--figure", type=Path, default=Path("curve.png"), help="curve: the picture to write")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    writer = csv.writer(sys.stdout)
    for row in STUDIES[options.study](options):
        writer.writerow(row)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
