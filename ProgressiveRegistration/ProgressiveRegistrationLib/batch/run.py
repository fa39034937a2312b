"""Register many pairs and keep the summary up to date: the batch as a whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..errors import Cancelled, OutputError
from ..files import keeping, refuse_inputs
from . import record as records
from .locks import Held, locked
from .pair import STATE, BatchOptions, job_of, stop_file
from .pools import make_pool
from .summary import write_summary
from .table import BatchPair


def run_batch(
    pairs: list[BatchPair],
    output: str | os.PathLike,
    options: BatchOptions,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    command: str | None = None,
    table: Path | None = None,
    tell: Callable[[str], None] | None = None,
    finished: Callable[[dict, int, int], None] | None = None,
    progress: Callable[[str, float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[dict]:
    """Register all pairs and keep ``summary.csv`` and ``summary.html`` in ``output`` up to date.

    Parameters
    ----------
    workers : processes on this machine; scheduler : address of a Dask scheduler; neither: one by one, in this
        process. table : the file of the pairs, which is kept as all inputs are.
    tell : gets sentences; finished : (record, how many are finished, how many there are); progress : of a
        pair in this process.

    Returns
    -------
    The pairs' records, in order; ``status`` is "done" or "failed".

    Raises
    ------
    InputError, ModelError, DeviceError : nothing was begun. OutputError : ``output`` cannot be written,
        another batch works in it, or a result of any pair would replace an input of whichever. Cancelled :
        what is finished stays. ClusterError : the scheduler or Dask is missing, or was lost.
    """
    output = Path(output).absolute()
    _refuse_inputs(pairs, output, options, table)
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


def _refuse_inputs(pairs: list[BatchPair], output: Path, options: BatchOptions, table: Path | None) -> None:
    """OutputError where any pair's results would replace the table, or an input of whichever pair.

    What a pair's own record lists is its earlier result, even if another pair goes on from it.
    """
    from ..jobs import file_paths, planned_names

    inputs = dict.fromkeys(path for pair in pairs for path in file_paths(pair.files))  # each once
    with keeping([table, *inputs]):
        refuse_inputs(output, ("summary.csv", "summary.html"))
        for pair in pairs:
            folder = output / pair.folder
            before = records.read_record(folder)
            own = set() if before is None else {records.NAME, *before.get("outputs", {})}
            names = {records.NAME, *planned_names(job_of(pair, output, options))}
            refuse_inputs(folder, sorted(names - own))


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
