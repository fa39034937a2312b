"""Register many pairs: each in its own folder, resumable, here or on a Dask cluster.

A pair is done by ``do_pair``, which can run anywhere, at any time, again and again: a lock keeps two processes
from one folder, and a finished pair is recognised by its record. So whatever dies can simply be started again.
"""

from __future__ import annotations

import os
import shlex
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Cancelled, OutputError, ProgressiveRegistrationError
from ..geometry import Box
from . import record as records
from .locks import Held, locked
from .summary import write_summary
from .table import BatchPair

STATE = ".batch"  # folder with the locks and the sign to stop


@dataclass(frozen=True)
class BatchOptions:
    """What is the same for all pairs; see ``jobs.Job``. ``threads``: of one pair, None: as the process has it."""

    preset: str = "balanced"
    model: str | None = None
    device: str = "auto"
    lung_boxes: str | tuple[Box, Box] = "own"
    transform_formats: tuple[str, ...] = (".h5",)
    image_format: str = ".nrrd"
    inverse_consistency: bool = False
    report: bool = True
    threads: int | None = None

    def record(self, pair: BatchPair) -> dict[str, Any]:
        """What decides on a pair's results, for its record: not device and threads, which say where it ran."""
        boxes = self.lung_boxes
        return {
            "preset": self.preset,
            "lung_boxes": boxes if isinstance(boxes, str) else [box.to_list() for box in boxes],
            "transform_formats": list(self.transform_formats),
            "image_format": self.image_format,
            "inverse_consistency": self.inverse_consistency,
            "report": self.report,
            "transform": pair.transform,
            "fixed_columns": pair.fixed_columns,
            "moving_columns": pair.moving_columns,
            "exclude_landmarks": list(pair.exclude_landmarks),
            "fixed_series": pair.fixed_series,
            "moving_series": pair.moving_series,
        }


def job_of(pair: BatchPair, output: Path, options: BatchOptions):
    """The pair's ``Job``: what ``register`` would do, into ``output``/id."""
    from ..jobs import Job, LandmarkFiles

    landmarks = LandmarkFiles(
        pair.fixed_landmarks,
        pair.moving_landmarks,
        pair.fixed_columns,
        pair.moving_columns,
        pair.exclude_landmarks,
    )
    return Job(
        fixed=pair.fixed,
        moving=pair.moving,
        output=Path(output) / pair.id,
        preset=options.preset,
        model=options.model,
        device=options.device,
        lung_boxes=options.lung_boxes,
        fixed_series=pair.fixed_series,
        moving_series=pair.moving_series,
        fixed_mask=pair.fixed_mask,
        moving_mask=pair.moving_mask,
        landmarks=landmarks,
        transform_formats=options.transform_formats,
        transform_name=pair.transform,
        image_format=options.image_format,
        inverse_consistency=options.inverse_consistency,
        report=options.report,
        command=_command(pair, Path(output) / pair.id, options),
    )


def check_options(options: BatchOptions) -> dict[str, Any]:
    """Refuse options that no pair could run with; returns what will run: program, model.

    Raises
    ------
    InputError, ModelError, DeviceError.
    """
    from .. import __version__
    from ..jobs import Job
    from ..network.model import choose_device

    Job(
        Path(),
        Path(),
        Path(),
        preset=options.preset,
        transform_formats=options.transform_formats,
        image_format=options.image_format,
    ).check()
    choose_device(options.device)
    return {"version": __version__, "model": _model(options)}


def _model(options: BatchOptions) -> dict[str, str] | None:
    from ..network.model import find_card

    if options.model == "none":
        return None
    card = find_card(options.model)
    return {"name": card.name, "version": card.version, "sha256": card.sha256}


def do_pair(
    pair: BatchPair,
    output: Path,
    options: BatchOptions,
    progress: Callable[[str, float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict:
    """Register one pair, unless that was done already; returns its record, with ``reused``.

    ``output`` is the batch's folder. What goes wrong with the pair is in the record (``status`` "failed", ``error``).

    Raises
    ------
    Cancelled; OutputError : not even the record can be written.
    """
    folder = Path(output) / pair.id
    state = Path(output) / STATE
    stop = stop_file(output)

    def stopped() -> bool:
        return stop.exists() or (cancelled is not None and cancelled())

    try:
        state.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror or error}.") from error
    # Another worker can be at it still: one that Dask took for lost, or that of a batch that was killed.
    with locked(state / f"{pair.id}.lock", wait=True, cancelled=stopped):
        before = records.read_record(folder)
        work: dict[str, Any] = {"id": pair.id, "inputs": {}, "options": options.record(pair)}
        begun = False
        try:
            work["model"] = _model(options)
            work["inputs"] = _inputs(pair)
            if records.is_finished(before, work, folder):
                return {**(before or {}), "reused": True}
            begun = True
            forget(folder, before)
            _set_threads(options.threads)
            from ..jobs import register_files

            report = register_files(job_of(pair, output, options), progress=progress, cancelled=stopped)
        except Cancelled:
            raise
        except ProgressiveRegistrationError as error:
            failure = {"error": str(error), "exit_code": error.exit_code}
        except MemoryError:
            failure = {"error": "The machine's memory is too small for these images.", "exit_code": 1}
        except Exception as error:  # a fault of ours in one pair must not cost the others
            failure = {
                "error": f"A fault in the program: {type(error).__name__}: {error}",
                "exit_code": 1,
                "traceback": traceback.format_exc(),
            }
        else:
            names = [Path(p).name for paths in report["outputs"].values() for p in _list(paths)]
            done = {
                "status": "done",
                "error": None,
                "outputs": {name: (folder / name).stat().st_size for name in names},
                "figures": records.figures(report),
                "notes": report["notes"],
                "device": report["device"],
                "versions": report["versions"],
            }
            return {**records.write_record(folder, {**work, **done}), "reused": False}
        if not begun and before is not None and before["status"] == "done":
            # An input cannot be read, perhaps only today: the results that are there stay, with their record.
            return {**work, "status": "failed", "figures": {}, **failure, "reused": False}
        forget(folder, before)
        return record_failure(folder, work, failure)


def record_failure(folder: Path, work: dict, failure: dict) -> dict:
    """Write that a pair failed, and why; returns the record."""
    failed = {**work, "status": "failed", "outputs": {}, "figures": {}, **failure}
    return {**records.write_record(folder, failed), "reused": False}


def run_batch(
    pairs: list[BatchPair],
    output: str | os.PathLike,
    options: BatchOptions,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    command: str | None = None,
    tell: Callable[[str], None] | None = None,
    finished: Callable[[dict, int, int], None] | None = None,
    progress: Callable[[str, float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[dict]:
    """Register all pairs and keep ``summary.csv`` and ``summary.html`` in ``output`` up to date.

    Parameters
    ----------
    workers : processes on this machine; scheduler : address of a Dask scheduler; neither: one by one, in this process.
    tell : gets sentences; finished : (record, how many are finished, how many there are); progress : of a pair in this process.

    Returns
    -------
    The pairs' records, in order; ``status`` is "done" or "failed".

    Raises
    ------
    InputError, ModelError, DeviceError : nothing was begun. OutputError : ``output`` cannot be written, or another batch
        works in it. Cancelled : what is finished stays. ClusterError : the scheduler or Dask is missing, or was lost.
    """
    from .pools import make_pool

    output = Path(output).absolute()
    state = _make_folders(output)
    try:
        with locked(state / "batch.lock") as held:
            if not held and tell is not None:
                tell(f"{output} lies on a file system without locks: start no second batch on it.")
            stop_file(output).unlink(missing_ok=True)
            _sweep(output)
            with make_pool(workers, scheduler, options) as pool:
                settings = pool.check(tell)
                result: dict[str, dict] = {pair.id: {"id": pair.id, "status": "waiting"} for pair in pairs}
                head = {"command": command, "options": options, **settings}
                write_summary(output, list(result.values()), head)
                try:
                    for count, record in enumerate(pool.run(pairs, output, progress, cancelled), 1):
                        result[record["id"]] = record
                        write_summary(output, list(result.values()), head)
                        if finished is not None:
                            finished(record, count, len(pairs))
                except (Cancelled, KeyboardInterrupt):
                    # Workers look for this file while they compute.
                    stop_file(output).touch()
                    pool.stop()
                    raise
                return list(result.values())
    except Held as error:
        raise OutputError(
            f"Another batch works in {output} ({error.holder}); wait for it, or choose another folder."
        ) from None


def stop_file(output: str | os.PathLike) -> Path:
    """While it exists, workers stop at the next occasion."""
    return Path(output) / STATE / "stop"


def _make_folders(output: Path) -> Path:
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} cannot hold the results: it is a file; choose a folder.")
    if not output.parent.is_dir():
        raise OutputError(f"{output} cannot be made: there is no folder {output.parent}.")
    try:
        (output / STATE).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror or error}.") from error
    return output / STATE


def _sweep(folder: Path) -> None:
    """Remove half-written summaries of a batch that was killed."""
    for stage in folder.glob(".writing-*"):
        for left in stage.glob("*"):
            left.unlink()
        stage.rmdir()


def forget(folder: Path, record: dict | None) -> None:
    """Make the pair's folder, without what an earlier run left in it; raises OutputError."""
    try:
        folder.mkdir(exist_ok=True)
        records.clear(folder, record)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}.") from error


def _inputs(pair: BatchPair) -> dict[str, dict[str, str]]:
    names = ("fixed", "moving", "fixed_landmarks", "moving_landmarks", "fixed_mask", "moving_mask")
    given = {name: getattr(pair, name) for name in names if getattr(pair, name) is not None}
    return {name: {"path": str(path), "sha256": records.checksum(path)} for name, path in given.items()}


def _set_threads(threads: int | None) -> None:
    if threads is None:
        return
    import SimpleITK as sitk
    import torch

    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def _list(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _command(pair: BatchPair, output: Path, options: BatchOptions) -> str:
    """The command that does this pair alone."""
    words = ["progressive-registration", "register", str(pair.fixed), str(pair.moving), "-o", str(output)]
    words += ["--preset", options.preset, "--device", options.device]
    if options.model is not None:
        words += ["--model", options.model]
    boxes = options.lung_boxes
    if not isinstance(boxes, str):
        boxes = ",".join(f"{v:.10g}" for box in boxes for corner in box.to_list() for v in corner)
    words.append(f"--lung-boxes={boxes}")
    for name in (
        "fixed_landmarks",
        "moving_landmarks",
        "fixed_mask",
        "moving_mask",
        "fixed_columns",
        "moving_columns",
        "fixed_series",
        "moving_series",
    ):
        value = getattr(pair, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    for label in pair.exclude_landmarks:
        words += ["--exclude-landmark", label]
    for ending in options.transform_formats:
        words += ["--transform-format", ending]
    words += ["--image-format", options.image_format]
    words += ["--inverse-consistency"] * options.inverse_consistency + ["--no-report"] * (not options.report)
    return shlex.join(words)
