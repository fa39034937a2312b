"""Register many pairs: each in its own folder, resumable, here or on a Dask cluster.

A pair is done by ``do_pair``, which can run anywhere, at any time, again and again: a lock keeps two
processes from one folder, and a finished pair is recognised by its record. So whatever dies can simply be
started again.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Cancelled, OutputError, ProgressiveRegistrationError
from ..options import PATH, Options, PairFiles, command_line
from . import record as records
from .locks import locked
from .table import BatchPair

if TYPE_CHECKING:  # it brings SimpleITK and the report
    from ..jobs import Job

STATE = ".batch"  # folder with the locks and the sign to stop


@dataclass(frozen=True)
class BatchOptions(Options):
    """What is the same for all pairs. ``threads``: of one pair, None: as the process has it."""

    threads: int | None = None

    def record(self, pair: BatchPair) -> dict[str, Any]:
        """What decides on a pair's results, for its record: not device and threads, which say where it ran.

        Files and model are recorded by their checksums.
        """
        out = {f.name: getattr(self, f.name) for f in fields(Options) if f.name not in ("device", "model")}
        if not isinstance(self.lung_boxes, str):
            out["lung_boxes"] = [box.to_list() for box in self.lung_boxes]
        how = {f.name: getattr(pair.files, f.name) for f in fields(PairFiles) if f.metadata["kind"] != PATH}
        return {**out, "transform": pair.transform, **how}


def job_of(pair: BatchPair, output: Path, options: BatchOptions) -> Job:
    """The pair's ``Job``: what ``register`` would do, into ``output``/id."""
    from ..jobs import Job

    folder = Path(output) / pair.folder
    command = command_line(pair.files, options, folder)
    return Job(pair.files, options, folder, transform_name=pair.transform, command=command)


def check_options(options: BatchOptions) -> dict[str, Any]:
    """Refuse options that no pair could run with; returns what will run: program, model.

    Raises
    ------
    InputError, ModelError, DeviceError.
    """
    from .. import __version__
    from ..network.device import choose_device

    options.check()
    choose_device(options.device)
    return {"version": __version__, "model": _model(options.model)}


def _model(wanted: str | None) -> dict[str, str] | None:
    from ..network.model import find_card

    if wanted == "none":
        return None
    card = find_card(wanted)
    return {"name": card.name, "version": card.version, "sha256": card.sha256}


def do_pair(
    pair: BatchPair,
    output: Path,
    options: BatchOptions,
    progress: Callable[[str, float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict:
    """Register one pair, unless that was done already; returns its record, with ``reused``.

    ``output`` is the batch's folder. What goes wrong with the pair is in the record (``status`` "failed",
    ``error``).

    Raises
    ------
    Cancelled; OutputError : not even the record can be written.
    """
    folder = Path(output) / pair.folder
    state = Path(output) / STATE
    stop = stop_file(output)

    def stopped() -> bool:
        return stop.exists() or (cancelled is not None and cancelled())

    try:
        state.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror or error}.") from error
    # Another worker can be at it still: one that Dask took for lost, or that of a batch that was killed.
    with locked(state / f"{pair.folder}.lock", wait=True, cancelled=stopped):
        before = records.read_record(folder)
        work: dict[str, Any] = {"id": pair.id, "inputs": {}, "options": options.record(pair)}
        begun = False
        try:
            work["model"] = _model(options.model)
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


def stop_file(output: str | os.PathLike) -> Path:
    """While it exists, workers stop at the next occasion."""
    return Path(output) / STATE / "stop"


def forget(folder: Path, record: dict | None) -> None:
    """Make the pair's folder, without what an earlier run left in it; raises OutputError."""
    try:
        folder.mkdir(exist_ok=True)
        records.clear(folder, record)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}.") from error


def _inputs(pair: BatchPair) -> dict[str, dict[str, str]]:
    paths = {f.name: getattr(pair.files, f.name) for f in fields(PairFiles) if f.metadata["kind"] == PATH}
    return {
        name: {"path": str(path), "sha256": records.checksum(path)}
        for name, path in paths.items()
        if path is not None
    }


def _set_threads(threads: int | None) -> None:
    if threads is None:
        return
    import SimpleITK as sitk
    import torch

    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def _list(value: Any) -> list:
    return value if isinstance(value, list) else [value]
