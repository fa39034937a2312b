"""The registrations of a sequence, each in a folder of its own with its record: whatever dies can be
started again.

Two kinds. **direct**: the reference to a phase, started from the network's field or from the neighbouring
phase's field, whichever explains the images better. **step**: a phase to the next one, which checks and
steadies the direct ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..batch import record as records
from ..batch.locks import locked
from ..errors import InputError, OutputError
from ..field import DisplacementField
from ..geometry import Affine
from ..progress import Progress, Stop
from .phases import Phase

if TYPE_CHECKING:
    import torch

WORK = ".sequence"  # in the results' folder: the steps' folders, and the sign to stop
FIELD = "field.nrrd"
DIRECT, STEP = "direct", "step"


@dataclass(frozen=True)
class Settings:
    """What is the same for all registrations of a sequence; as for ``register``."""

    preset: str = "balanced"
    model: str | None = None
    device: str = "auto"
    threads: int | None = None

    def record(self) -> dict[str, Any]:
        """What decides on a result: not the device and the threads, which say where it ran."""
        return {"preset": self.preset}


@dataclass(frozen=True)
class Task:
    """One registration. ``neighbour``: the folder name of the direct task whose field may "
    "serve as a start."""

    kind: str
    fixed: Phase
    moving: Phase
    neighbour: str | None = None

    @property
    def name(self) -> str:
        """Of its folder, and of the task itself."""
        if self.kind == DIRECT:
            return f"{DIRECT}_{self.moving.name}"
        return f"{STEP}_{self.fixed.name}__{self.moving.name}"


def plan(phases: list[Phase], reference: int, *, cyclic: bool, steps: bool) -> list[Task]:
    """All registrations, each after the one whose field it may start from.

    From the reference two arms go out, phase by phase; on a cycle they meet half way round, in a list at
    its ends.
    """
    n = len(phases)
    fixed = phases[reference]
    tasks = []
    for direction in (1, -1):
        if cyclic:
            length = n // 2 if direction == 1 else (n - 1) // 2
        else:
            length = n - 1 - reference if direction == 1 else reference
        before = None
        for k in range(1, length + 1):
            task = Task(DIRECT, fixed, phases[(reference + direction * k) % n], before)
            tasks.append(task)
            before = task.name
    if steps and n > 2:
        last = n if cyclic else n - 1
        tasks += [Task(STEP, phases[k], phases[(k + 1) % n]) for k in range(last)]
    return tasks


def do_task(
    task: Task,
    output: str | os.PathLike,
    settings: Settings,
    progress: Callable[[str, float, str], None] | None = None,
    cancelled: Stop = None,
    after: Any = None,
) -> dict:
    """Do one registration, unless that was done already; returns its record, with ``reused``.

    ``after``: the outcome of the task before it in its arm, which a scheduler passes on; not looked at, as
    all is in files.

    Raises
    ------
    ProgressiveRegistrationError : one sentence, naming the phases; the step's folder then holds no result.
    """
    from ..batch.pair import _model, _set_threads, forget, stop_file

    work_folder = Path(output) / WORK
    folder = work_folder / task.name
    stop = stop_file(work_folder)

    def stopped() -> bool:
        return stop.exists() or (cancelled is not None and cancelled())

    try:
        (work_folder / ".batch").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror or error}.") from error
    with locked(work_folder / ".batch" / f"{task.name}.lock", wait=True, cancelled=stopped):
        before = records.read_record(folder)
        work = {
            "id": task.name,
            "inputs": _inputs(task, work_folder),
            "options": {**settings.record(), "frames": [task.fixed.frame, task.moving.frame]},
            "model": _model(settings.model),
        }
        if records.is_finished(before, work, folder):
            return {**(before or {}), "reused": True}
        forget(folder, before)
        _set_threads(settings.threads)
        field, figures = _register(task, work_folder, settings, progress, stopped)
        field.write(folder / FIELD)
        outer = field.outside
        done = {
            "status": "done",
            "error": None,
            "outputs": {FIELD: (folder / FIELD).stat().st_size},
            "outside": None if outer is None else [outer.matrix.tolist(), outer.offset.tolist()],
            "figures": figures,
        }
        return {**records.write_record(folder, {**work, **done}), "reused": False}


def read_field(output: str | os.PathLike, name: str) -> DisplacementField:
    """The field of a finished task, as it was, with its map outside its grid."""
    folder = Path(output) / WORK / name
    field = DisplacementField.read(folder / FIELD)
    record = records.read_record(folder) or {}
    outer = record.get("outside")
    return replace(field, outside=None if outer is None else Affine(np.array(outer[0]), np.array(outer[1])))


def _inputs(task: Task, work_folder: Path) -> dict[str, dict[str, str]]:
    given: dict[str, Path] = {"fixed": task.fixed.path, "moving": task.moving.path}
    for side, phase in (("fixed", task.fixed), ("moving", task.moving)):
        if phase.mask is not None:
            given[f"{side}_mask"] = phase.mask
    if task.neighbour is not None:
        given["neighbour"] = work_folder / task.neighbour / FIELD
    return {name: {"path": str(path), "sha256": records.checksum(path)} for name, path in given.items()}


def _register(
    task: Task, work_folder: Path, settings: Settings, progress: Progress, stopped: Stop
) -> tuple[DisplacementField, dict[str, Any]]:
    import time

    from ..network.device import choose_device, on_gpu_or_cpu
    from ..network.model import load_model
    from ..refinement.explains import unexplained
    from ..refinement.refine import doubts, refine
    from ..registration import register

    began = time.perf_counter()
    fixed, moving = task.fixed.image(), task.moving.image()
    model = settings.model if settings.model == "none" else load_model(settings.model, settings.device)
    first = register(
        fixed,
        moving,
        model=model,
        device=settings.device,
        preset="fast",
        fixed_mask=task.fixed.lung_mask(),
        moving_mask=task.moving.lung_mask(),
        progress=progress,
        cancelled=stopped,
    )
    field, start, left = first.field, "network" if first.card is not None else "lung boxes", {}
    mask = first.fixed_lungs.mask
    notes = list(first.notes)
    if settings.preset != "fast":
        device = choose_device(settings.device)

        def left_by(map_: DisplacementField) -> float:
            def measure(where: torch.device) -> float:
                return unexplained(fixed, moving, map_, mask, device=str(where), cancelled=stopped)

            return on_gpu_or_cpu(device, measure, "the comparison of images", notes)

        left[start] = left_by(field)
        if task.neighbour is not None:
            other = read_field(work_folder.parent, task.neighbour)
            left["neighbour"] = left_by(other)
            if left["neighbour"] < left[start]:
                field, start = other, "neighbour"
        convergence: list[dict[str, Any]] = []

        def run(where: torch.device) -> DisplacementField:
            convergence.clear()
            return refine(
                fixed,
                moving,
                field,
                preset=settings.preset,
                mask=mask,
                device=str(where),
                progress=progress,
                cancelled=stopped,
                convergence=convergence,
            )

        field = on_gpu_or_cpu(device, run, "the refinement", notes)
        left["end"] = convergence[-1]["unexplained"][1]
        notes += doubts(convergence)
    return field, {
        "start": start,
        "unexplained": left,
        "lungs_litres": [first.fixed_lungs.volume_litres, first.moving_lungs.volume_litres],
        "seconds": time.perf_counter() - began,
        "device": first.device,
        "notes": notes,
    }


def read_result(folder: str | os.PathLike) -> tuple[dict[str, Any], list[Phase]]:
    """The report of a finished sequence, and its phases. Raises InputError."""
    path = Path(folder) / "sequence.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        phases = [
            Phase(
                entry["name"],
                Path(given["path"]),
                given["frame"],
                given["series"],
                *(None if given[key] is None else Path(given[key]) for key in ("landmarks", "mask")),
            )
            for entry, given in zip(report["phases"], report["inputs"])
        ]
    except OSError as error:
        raise InputError(f"There is no {path}; give a folder that sequence wrote.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no report of a sequence.") from error
    return report, phases
