"""What a registration costs as work grows: voxels, motion, pairs of a batch. Tables and plots.

    python Testing/benchmark/scaling_study.py voxels --rows voxels.csv    # 64^3 to 512 x 512 x 600
    python Testing/benchmark/scaling_study.py motion --rows motion.csv    # diaphragm motion of 5 to 80 mm
    python Testing/benchmark/scaling_study.py pairs --rows pairs.csv      # batches of 1 to 200 pairs
    python Testing/benchmark/scaling_study.py plot --rows voxels.csv motion.csv pairs.csv --figure scaling.png

Every registration is a process from files to files, report included. The exponent is the slope of log cost
over log work, by least squares: 1 is proportional, 0 is no growth. Rows are appended as they come; run on an
idle machine.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from ProgressiveRegistrationLib.benchmark.measure import Cost, measured
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.phantom.pair import breathing_thorax

RUN = "import sys; from ProgressiveRegistrationLib.cli import main; sys.exit(main())"
HEADER = ("study", "work", "preset", "workers", "cpu_seconds", "wall_seconds", "memory_gib")
SIZES = ((64, 64, 64), (128, 128, 96), (256, 256, 130), (384, 384, 200), (512, 512, 300), (512, 512, 600))
MOTIONS = (5.0, 10.0, 20.0, 40.0, 60.0, 80.0)
BATCHES = ((1, 1), (2, 1), (4, 1), (4, 2), (10, 1), (10, 2), (50, 1), (50, 2), (200, 2))  # pairs, workers


def run(work: Path, threads: int, arguments: list[str]) -> Cost:
    cost = measured([sys.executable, "-c", RUN, *arguments], work / "log.txt", threads)
    if cost.exit_code:
        sys.exit((work / "log.txt").read_text(encoding="utf-8")[-800:])
    return cost


def write(pair: object, folder: Path, size: tuple[int, int, int] | None = None) -> list[str]:
    """The phantom's two images as files, on a grid of ``size`` voxels over the same extent if given."""
    folder.mkdir()
    out = []
    for name in ("fixed", "moving"):
        image = getattr(pair, name)
        if size is not None:
            grid = Grid.from_image(image)
            spacing = np.asarray(grid.size) * grid.spacing / size
            fine = Grid(size, tuple(spacing), grid.origin + (spacing - grid.spacing) / 2)
            image = fine.image(np.rint(fine.sample(image)).astype(np.int16))
        out.append(str(folder / f"{name}.nrrd"))
        sitk.WriteImage(image, out[-1], True)
    return out


def voxels(given: argparse.Namespace, work: Path) -> Iterator[tuple]:
    pair = breathing_thorax(0, amplitude=20.0)
    for size in SIZES:
        files = write(pair, work / f"{size}", size)
        for preset in given.presets:
            options = ["-o", str(work / f"out-{size}-{preset}"), "--preset", preset, "-q"]
            yield (
                "voxels",
                int(np.prod(size)),
                preset,
                1,
                run(work, given.threads, ["register", *files, *options]),
            )


def motion(given: argparse.Namespace, work: Path) -> Iterator[tuple]:
    for amplitude in MOTIONS:
        files = write(breathing_thorax(0, amplitude=amplitude), work / f"{amplitude}")
        for preset in given.presets:
            options = ["-o", str(work / f"out-{amplitude}-{preset}"), "--preset", preset, "-q"]
            yield "motion", amplitude, preset, 1, run(work, given.threads, ["register", *files, *options])


def pairs(given: argparse.Namespace, work: Path) -> Iterator[tuple]:
    fixed, moving = write(breathing_thorax(0, amplitude=20.0), work / "pair")
    for count, workers in BATCHES:
        table = work / "pairs.csv"
        rows = "".join(f"p{n},{fixed},{moving}\n" for n in range(count))
        table.write_text("id,fixed,moving\n" + rows, encoding="utf-8")
        for preset in given.presets:
            out = work / f"batch-{count}-{workers}-{preset}"
            options = ["-o", str(out), "--preset", preset, "--workers", str(workers), "--threads", "1"]
            cost = run(work, given.threads, ["batch", str(table), *options])
            yield "pairs", count, preset, workers, cost


STUDIES = {function.__name__: function for function in (voxels, motion, pairs)}


LABELS = {
    "voxels": "voxels of an image",
    "motion": "motion of the diaphragm (mm)",
    "pairs": "pairs of a batch",
}
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def exponent(work: list[float], cost: list[float]) -> float:
    """The slope of log cost over log work."""
    return float(np.polyfit(np.log(work), np.log(cost), 1)[0]) if len(set(work)) > 1 else float("nan")


def plot(given: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for path in given.rows for row in csv.DictReader(open(path, encoding="utf-8"))]  # noqa: SIM115
    names = list(dict.fromkeys(row["study"] for row in rows))
    figure, axes = plt.subplots(
        1, len(names), figsize=(4.6 * len(names), 3.8), layout="constrained", squeeze=False
    )
    for name, panel in zip(names, axes[0]):
        found = [row for row in rows if row["study"] == name]
        for preset, workers in dict.fromkeys((row["preset"], row["workers"]) for row in found):
            line = [row for row in found if (row["preset"], row["workers"]) == (preset, workers)]
            work, cpu = ([float(row[key]) for row in line] for key in ("work", "cpu_seconds"))
            label = f"{preset}, {workers} worker(s), exponent {exponent(work, cpu):.2f}"
            panel.plot(work, cpu, "o-", label=label)
            print(f"{name}: {label}")
        panel.set(xscale="log", yscale="log", xlabel=LABELS[name], ylabel="CPU seconds")
        plain = sorted({float(row["work"]) for row in found})
        if plain[-1] < 1000:
            panel.set_xticks(plain, labels=[f"{work:g}" for work in plain])
        most = max(float(row["cpu_seconds"]) for row in found)
        panel.set_ylim(1, 2.5 * most)
        panel.set_yticks([tick for tick in TICKS if tick < 2.5 * most])
        panel.yaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
        panel.legend(fontsize=7, loc="upper left")
    figure.savefig(given.figure, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=[*STUDIES, "plot"])
    parser.add_argument(
        "--rows", nargs="+", type=Path, required=True, help="the file to append to; plot: all"
    )
    parser.add_argument("--presets", nargs="+", default=["fast", "balanced"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--figure", type=Path, default=Path("scaling.png"))
    given = parser.parse_args()
    if given.study == "plot":
        plot(given)
        return
    path = given.rows[0]
    new = not path.exists()
    with tempfile.TemporaryDirectory() as folder, open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(HEADER)
        for study, work, preset, workers, cost in STUDIES[given.study](given, Path(folder)):
            seconds = (f"{cost.cpu_seconds:.2f}", f"{cost.wall_seconds:.2f}")
            writer.writerow((study, work, preset, workers, *seconds, f"{cost.memory_bytes / 2**30:.2f}"))
            file.flush()


if __name__ == "__main__":
    main()
