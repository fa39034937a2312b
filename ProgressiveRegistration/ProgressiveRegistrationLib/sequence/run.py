"""A whole sequence, files to files: survey, registrations, agreement round the cycle, motion, ventilation,
report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..batch.locks import Held, locked
from ..batch.pair import stop_file
from ..errors import Cancelled, InputError, OutputError
from ..field import DisplacementField
from ..files import staged_folder, write_text
from ..geometry import Grid
from ..images import write_image
from ..landmarks import Landmarks
from ..lungs import Lungs, find_lungs
from ..pairing import match_landmarks, outside_notes
from ..progress import Stop, Work
from ..quality import field_of_view, folding, mask_points
from ..report.content import describe_image, jsonable, to_json, versions
from ..statistics import statistics
from ..uncertainty import Uncertainty, uncertainty
from ..ventilation import Ventilation, ventilation
from .cycle import adjusted, closing_error, step_disagreement
from .motion import Trajectories, amplitude, mean_image, mid_position
from .phases import Phase
from .steps import DIRECT, WORK, Settings, Task, do_task, plan, read_field

REACH_MM = 40.0  # around the lungs, in which the fields are worked out; beyond, they keep their border value
LATTICE_MM = 2.5  # Slicer's reader interpolates a coarser field differently than ITK
POINTS = 20_000  # at which errors between maps are measured
FORMAT = 1


@dataclass(frozen=True)
class Sequence:
    """What to do. ``output`` is a folder; ``reference``: a phase's name, None: the one with the smallest
    lungs.

    ``cyclic``: after the last phase comes the first again, as in a 4DCT; not so for follow-ups.
    ``agreement``: register neighbouring phases too, and make all fields agree with them. ``warped``: write
    every phase as brought onto the reference.
    """

    phases: list[Phase]
    output: Path
    settings: Settings = field(default_factory=Settings)
    reference: str | None = None
    cyclic: bool = True
    agreement: bool = True
    warped: bool = True
    command: str | None = None


@dataclass
class Result:
    """What a page and a scene are made of; arrays on ``grid``, which lies around the reference's lungs.

    ``inside``: (z, y, x) bool, those lungs.
    """

    phases: list[Phase]
    reference: int
    images: list[sitk.Image]
    lungs: list[Lungs]
    grid: Grid
    inside: np.ndarray
    paths: np.ndarray
    amplitude: np.ndarray
    ranges: np.ndarray
    middle: DisplacementField
    breath: Ventilation | None
    trajectories: Trajectories | None
    doubt: Uncertainty
    report: dict[str, Any]

    def amplitude_image(self, by_axis: bool = False) -> sitk.Image:
        """How far each point of the lungs travels, or along LPS x, y, z; mm, NaN beyond them: unknown."""
        values = self.ranges if by_axis else self.amplitude
        lungs = self.inside[..., None] if by_axis else self.inside
        return self.grid.image(np.where(lungs, values, np.float32(np.nan)))

    def field(self, phase: int) -> DisplacementField:
        """From the reference to a phase."""
        return DisplacementField(self.grid, self.paths[phase])


def run_sequence(
    sequence: Sequence,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    tell: Callable[[str], None] | None = None,
    progress: Callable[[str, float, str], None] | None = None,
    cancelled: Stop = None,
    write: bool = True,
) -> Result:
    """Register all phases to the reference and write what follows from it into ``sequence.output``.

    ``write``: False leaves the results in memory alone. Finished registrations are known again by their
    records (``batch.record``) and not done twice. ``workers``, ``scheduler``: as for a batch.

    Raises
    ------
    InputError, NoLungError, ModelError, DeviceError, OutputError, ClusterError; Cancelled : what is
    finished stays.
    """
    from .page import draw_page

    began = time.perf_counter()
    output = Path(sequence.output).absolute()
    _make(output)
    work = Work({}, progress, cancelled)
    try:
        with locked(output / WORK / ".batch" / "batch.lock"):
            stop_file(output / WORK).unlink(missing_ok=True)
            work.tell("reading", 0.0, "Reading the phases")
            images, lungs, marks, notes = _survey(sequence.phases, work)
            reference = _reference(sequence, lungs)
            tasks = plan(sequence.phases, reference, cyclic=sequence.cyclic, steps=sequence.agreement)
            done = _register_all(tasks, output, sequence.settings, workers, scheduler, tell, work)
            result = _evaluate(sequence, images, lungs, marks, reference, tasks, output, done, work)
            result.report["notes"][:0] = notes
            result.report["seconds"] = {"total": round(time.perf_counter() - began, 1)}
            if not write:
                return result
            work.tell("writing", 0.93, "Writing")
            with staged_folder(output) as folder:
                names = _write(result, sequence, folder, output, work)
                result.report["outputs"] = {key: str(output / name) for key, name in names.items()}
                write_text(folder / "sequence.html", draw_page(result))
                write_text(folder / "sequence.json", to_json(result.report))
    except Held as error:
        raise OutputError(
            f"Another run works in {output} ({error.holder}); wait for it, or choose another folder."
        ) from None
    except (Cancelled, KeyboardInterrupt):
        if not write:
            raise
        raise Cancelled(
            f"Cancelled; finished registrations stay in {output}: start it again to go on."
        ) from None
    work.done()
    return result


def _make(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} cannot hold the results: it is a file; choose a folder.")
    if not output.parent.is_dir():
        raise OutputError(f"{output} cannot be made: there is no folder {output.parent}.")
    try:
        (output / WORK / ".batch").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror or error}.") from error


def _survey(
    phases: list[Phase], work: Work
) -> tuple[list[sitk.Image], list[Lungs], list[Landmarks | None], list[str]]:
    """What the phases' files hold, and notes; what is wrong with them is told now, not after the work."""
    images, lungs, notes = [], [], []
    marks: list[Landmarks | None] = []
    for k, phase in enumerate(phases):
        work.tell("lungs", 0.05 * k / len(phases), f"Finding the lungs of {phase.name}")
        image = phase.image()
        lungs.append(find_lungs(image, mask=phase.lung_mask(), name=f"the phase {phase.name}"))
        images.append(image)
        points = phase.points(image)
        if points is not None:
            notes += outside_notes(points, image, f"phase {phase.name}")
        marks.append(points)
    given = [points for points in marks if points is not None]
    for other in given[1:]:
        match_landmarks(given[0], other)
    return images, lungs, marks, notes


def _lung_notes(phases: list[Phase], lungs: list[Lungs]) -> list[str]:
    """What is unusual about the lungs, each sentence once, with the phases that it is true of."""
    found: dict[str, list[str]] = {}
    for phase, lung in zip(phases, lungs):
        for note in lung.notes:
            found.setdefault(note.replace(f"the phase {phase.name}", "the phase"), []).append(phase.name)
    return [f"{', '.join(names)}: {note}" for note, names in found.items()]


def _reference(sequence: Sequence, lungs: list[Lungs]) -> int:
    names = [phase.name for phase in sequence.phases]
    if sequence.reference is None:
        return int(np.argmin([found.volume_litres for found in lungs]))
    if sequence.reference not in names:
        raise InputError(f"There is no phase {sequence.reference}; choose one of {', '.join(names)}.")
    return names.index(sequence.reference)


def _register_all(
    tasks: list[Task],
    output: Path,
    settings: Settings,
    workers: int | None,
    scheduler: str | None,
    tell: Callable[[str], None] | None,
    work: Work,
) -> dict[str, dict]:
    """Task -> its record."""
    from ..batch.pools import dask_client

    done: dict[str, dict] = {}

    def finished(task: Task, record: dict) -> None:
        done[task.name] = record
        if tell is not None:
            again = "done before, " if record["reused"] else ""
            figures = record["figures"]
            tell(
                f"[{len(done)}/{len(tasks)}] {task.fixed.name} -> {task.moving.name}: {again}"
                f"from {figures['start']}, {figures['seconds']:.1f} s"
            )
        work.tell(
            "registering",
            0.05 + 0.75 * len(done) / len(tasks),
            f"{len(done)} of {len(tasks)} registrations done",
        )

    if workers is None and scheduler is None:
        for task in tasks:
            first, share = 0.05 + 0.75 * len(done) / len(tasks), 0.75 / len(tasks)

            def inner(
                stage: str,
                fraction: float,
                text: str,
                first: float = first,
                share: float = share,
                task: Task = task,
            ) -> None:
                work.tell(
                    "registering",
                    first + share * fraction,
                    f"{task.fixed.name} to {task.moving.name}: {text}",
                )

            finished(task, do_task(task, output, settings, inner, work.cancelled))
        return done
    with dask_client(workers, scheduler, settings.threads) as (client, threads):
        from distributed import as_completed

        settings = replace(settings, threads=threads)
        futures: dict[Any, Task] = {}
        by_name: dict[str, Any] = {}
        for task in tasks:
            before = by_name.get(task.neighbour) if task.neighbour else None
            future = client.submit(do_task, task, output, settings, after=before, pure=False)
            futures[future], by_name[task.name] = task, future
        try:
            with client.as_current():
                for future in as_completed(futures):
                    finished(futures[future], future.result())
        except (Cancelled, KeyboardInterrupt):
            stop_file(output / WORK).touch()
            client.cancel(list(futures))
            raise
    return done


def _evaluate(
    sequence: Sequence,
    images: list[sitk.Image],
    lungs: list[Lungs],
    marks: list[Landmarks | None],
    reference: int,
    tasks: list[Task],
    output: Path,
    done: dict[str, dict],
    work: Work,
) -> Result:
    phases = sequence.phases
    place = {phase.name: k for k, phase in enumerate(phases)}
    n = len(phases)
    work.tell("fields", 0.81, "Making the fields agree")
    direct = {place[t.moving.name]: read_field(output, t.name) for t in tasks if t.kind == DIRECT}
    steps = {place[t.fixed.name]: read_field(output, t.name) for t in tasks if t.kind != DIRECT}
    fixed, mask = images[reference], lungs[reference].mask
    grid = _lattice(fixed, lungs[reference])
    paths = adjusted(direct, steps, n, reference, grid, cancelled=work.cancelled)
    fields = {k: DisplacementField(grid, paths[k]) for k in range(n)}
    work.tell("motion", 0.86, "Measuring the motion")
    points = mask_points(mask, POINTS)
    largest, ranges = amplitude(paths)
    middle = mid_position(paths, grid)
    inside = sitk.GetArrayFromImage(grid.resample(mask, interpolator=sitk.sitkNearestNeighbor)) > 0
    report: dict[str, Any] = {
        "format": FORMAT,
        "kind": "sequence",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "command": sequence.command,
        "reference": phases[reference].name,
        "cyclic": sequence.cyclic,
        "preset": sequence.settings.preset,
        "model": next((r["model"] for r in done.values()), None),
        "inputs": [
            {
                **describe_image(image, phase.path),
                "frame": phase.frame,
                "series": phase.series,
                "landmarks": phase.landmarks,
                "mask": phase.mask,
            }
            for image, phase in zip(images, phases)
        ],
        "amplitude_mm": statistics(largest[inside]),
        "amplitude_by_axis_mm": {axis: statistics(ranges[..., i][inside]) for i, axis in enumerate("xyz")},
        "notes": _lung_notes(phases, lungs),
    }
    paths_of_marks = _trajectories(phases, marks, reference, fields)
    if paths_of_marks is not None and paths_of_marks.base != reference:
        report["notes"].append(
            f"The reference {phases[reference].name} has no landmarks: those of "
            f"{phases[paths_of_marks.base].name} were brought onto it against its field, so each landmark "
            "error is that of two fields."
        )
    view = field_of_view(fixed)
    for k, phase in enumerate(phases):
        entry: dict[str, Any] = {"name": phase.name, "lungs_litres": lungs[k].volume_litres}
        if k != reference:
            task = next(t for t in tasks if t.kind == DIRECT and t.moving.name == phase.name)
            figures = done[task.name]["figures"]
            entry.update({key: figures[key] for key in ("start", "unexplained", "seconds", "device")})
            entry["folding"] = folding(fields[k], mask, view, cancelled=work.cancelled)
            moved = np.linalg.norm(fields[k].sample(points), axis=1)
            entry["displacement_mm"] = statistics(moved)
            correction = fields[k].sample(points) - direct[k].sample(points)
            entry["agreement_shift_mm"] = statistics(np.linalg.norm(correction, axis=1))
            entry["tre_mm"] = None if paths_of_marks is None else paths_of_marks.summary(k)
            report["notes"] += [
                f"{phase.name}: {n}" for n in figures["notes"] if not n.startswith("The lungs of")
            ]
        report.setdefault("phases", []).append(entry)
    report["closing_error_mm"] = None
    if steps:
        between = step_disagreement(fields, steps, n, points)
        before = step_disagreement({reference: DisplacementField.identity(grid), **direct}, steps, n, points)
        report["steps"] = [
            {
                "from": phases[k].name,
                "to": phases[(k + 1) % n].name,
                "before_mm": before[k],
                "after_mm": between[k],
                "seconds": done[
                    next(t.name for t in tasks if t.kind != DIRECT and t.fixed.name == phases[k].name)
                ]["figures"]["seconds"],
            }
            for k in sorted(steps)
        ]
        if sequence.cyclic:
            report["closing_error_mm"] = closing_error(steps, n, reference, points)
    breath = None
    full = int(np.argmax([found.volume_litres for found in lungs]))
    empty = int(np.argmin([found.volume_litres for found in lungs]))
    if full != empty:
        work.tell("ventilation", 0.9, "Measuring the ventilation")
        breath = ventilation(
            images[empty],
            images[full],
            fields[full],
            mask,
            to_exhale=None if empty == reference else fields[empty],
        )
        report["ventilation"] = {"exhale": phases[empty].name, "inhale": phases[full].name, **breath.figures}
        report["notes"] += breath.figures["notes"]
    from ..network.device import choose_device

    work.tell("uncertainty", 0.92, "Mapping the uncertainty")
    moves = [entry.get("displacement_mm", {}).get("mean", -1.0) for entry in report["phases"]]
    far = int(np.argmax(moves))
    device = str(choose_device(sequence.settings.device))
    doubt = uncertainty(fixed, images[far], fields[far], mask, device=device, cancelled=work.cancelled)
    report["uncertainty"] = {"phase": phases[far].name, **doubt.figures}
    report["notes"] += doubt.figures["notes"]
    return Result(
        phases=phases,
        reference=reference,
        images=images,
        lungs=lungs,
        grid=grid,
        inside=inside,
        paths=paths,
        amplitude=largest,
        ranges=ranges,
        middle=middle,
        breath=breath,
        trajectories=paths_of_marks,
        doubt=doubt,
        report=jsonable(report),
    )


def _lattice(fixed: sitk.Image, lungs: Lungs) -> Grid:
    """Around the reference's lungs, as far as the image goes; aligned with its axes, 2.5 mm."""
    image = Grid.from_image(fixed)
    corners = lungs.box.grown(REACH_MM).grid(2).corners()
    index = image.world_to_index(corners)
    low = np.clip(np.floor(index.min(0)), 0, np.asarray(image.size) - 1).astype(int)
    high = np.clip(np.ceil(index.max(0)), low, np.asarray(image.size) - 1).astype(int)
    part = Grid(tuple(high - low + 1), image.spacing, image.index_to_world(low), image.direction)
    return part.with_spacing(LATTICE_MM)


def _trajectories(
    phases: list[Phase],
    marks: list[Landmarks | None],
    reference: int,
    fields: dict[int, DisplacementField],
) -> Trajectories | None:
    """None without landmarks. Of the reference, or else of the first phase that has some."""
    base = (
        reference
        if marks[reference] is not None
        else next((k for k, m in enumerate(marks) if m is not None), None)
    )
    start = None if base is None else marks[base]
    if base is None or start is None:
        return None
    labels = start.labels
    on_reference = start.points if base == reference else fields[base].inverse_points(start.points)
    found = np.stack([fields[k].warp_points(on_reference) for k in range(len(phases))])
    found[base] = start.points
    marked = np.full_like(found, np.nan)
    if len(set(start.labels)) < len(start):  # the same name twice: paired by order, as match_landmarks does
        start = replace(start, labels=[str(i) for i in range(len(start))], labelled=False)
    rows = {label: i for i, label in enumerate(start.labels)}
    for k, points in enumerate(marks):
        if points is not None:
            left, right, _ = match_landmarks(start, points)
            for label, point in zip(left.labels, right.points):
                marked[k, rows[label]] = point
    names = [phase.name for phase in phases]
    return Trajectories(names, base, labels, found, marked)


def _write(result: Result, sequence: Sequence, folder: Path, output: Path, work: Work) -> dict[str, str]:
    """All files but the report; key -> name."""
    names: dict[str, str] = {}
    fixed = result.images[result.reference]
    own = Grid.from_image(fixed)

    def image(key: str, values: sitk.Image, name: str | None = None) -> None:
        names[key] = name or f"{key}.nrrd"
        write_image(values, folder / names[key])

    for k, phase in enumerate(result.phases):
        work.tell("writing", 0.93 + 0.05 * k / len(result.phases), f"Writing {phase.name}")
        field = result.field(k)
        if k != result.reference:
            names[f"field_{phase.name}"] = f"field_{phase.name}.nrrd"
            field.covering(own).write(folder / names[f"field_{phase.name}"])
            if sequence.warped:
                image(f"warped_{phase.name}", field.warp_image(result.images[k], own))

    def from_reference() -> Iterator[sitk.Transform]:
        for k in range(len(result.phases)):  # one at a time: each takes twice a field's memory in ITK
            yield result.field(k).covering(own).to_transform()

    image("mean", mean_image(result.images, from_reference(), own, work.cancelled))
    back = result.middle.inverse(result.grid, cancelled=work.cancelled)
    names["midposition_field"] = "midposition_field.nrrd"
    back = back.covering(own)
    back.write(folder / names["midposition_field"])
    to_reference = back.to_transform()
    from_middle = (sitk.CompositeTransform([there, to_reference]) for there in from_reference())
    image("midposition", mean_image(result.images, from_middle, own, work.cancelled))
    image("amplitude", result.amplitude_image())
    image("amplitude_by_axis", result.amplitude_image(by_axis=True))
    image("reference_lungs", result.lungs[result.reference].mask)
    if result.breath is not None:
        for which in ("jacobian", "hu"):
            image(f"ventilation_{which}", result.breath.image(which, np.nan))
        image("zones", result.breath.grid.image(result.breath.zones))
    image("uncertainty", result.doubt.image())
    if result.trajectories is not None:
        names["trajectories"] = "trajectories.csv"
        write_text(folder / names["trajectories"], result.trajectories.to_csv())
    return names
