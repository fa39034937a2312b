"""Where a batch's pairs are done: in this process, in worker processes on this machine,
or on a Dask cluster."""

from __future__ import annotations

import logging
import multiprocessing.spawn
import os
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import ClusterError, InputError, ProgressiveRegistrationError
from ..memory import keep_freed_memory
from ..progress import Progress, Stop, check
from .locks import locked
from .pair import STATE, BatchOptions, check_options, do_pair, forget, record_failure
from .record import read_record
from .table import BatchPair

CONNECT_SECONDS = 20
POLL_SECONDS = 0.5
STOP_SECONDS = 10  # for pairs at work to reach a place where they can stop


@contextmanager
def make_pool(workers: int | None, scheduler: str | None, options: BatchOptions) -> Iterator[Any]:
    """The pool for these options; closed at the end.

    Raises
    ------
    InputError : both, or no worker. ClusterError : Dask or the scheduler is missing.
    """
    _check_counts(workers, scheduler, options.threads)
    if workers is None and scheduler is None:
        yield InProcess(options)
        return
    with dask_client(workers, scheduler, options.threads) as (client, threads):
        yield Cluster(client, replace(options, threads=threads), scheduler)


@contextmanager
def dask_client(
    workers: int | None, scheduler: str | None, threads: int | None
) -> Iterator[tuple[Any, int | None]]:
    """A Dask client, of that scheduler or of so many new processes here,
    and how many threads a task shall have.

    Raises
    ------
    InputError, ClusterError : as ``make_pool``.
    """
    _check_counts(workers, scheduler, threads)
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise ClusterError(
            "Workers and schedulers need Dask, which is not installed; install it: "
            f"{_python()} -m pip install dask distributed"
        ) from None
    if scheduler is not None:
        with _connected(scheduler) as client:
            yield client, threads
        return
    count = workers or 1
    with _local_cluster(count) as (client, cores):
        yield client, threads or max(1, cores // count)


def _check_counts(workers: int | None, scheduler: str | None, threads: int | None) -> None:
    if workers is not None and scheduler is not None:
        raise InputError(
            "Give either a number of workers on this machine or the address of a scheduler, not both."
        )
    if workers is not None and workers < 1:
        raise InputError(f"{workers} workers cannot do anything; give 1 or more.")
    if threads is not None and threads < 1:
        raise InputError(f"{threads} threads cannot do anything; give 1 or more.")


def _python() -> str:
    """The interpreter of worker processes, as a command: this one,
    in Slicer PythonSlicer (see register_pairs.py)."""
    path = os.fsdecode(multiprocessing.spawn.get_executable())
    return f'"{path}"' if " " in path else path


class InProcess:
    """One pair after the other, without Dask."""

    def __init__(self, options: BatchOptions) -> None:
        self.options = options

    def check(self, tell: Callable[[str], None] | None) -> dict[str, Any]:
        return {**check_options(self.options), "where": "one by one"}

    def run(
        self, pairs: list[BatchPair], output: Path, progress: Progress, cancelled: Stop
    ) -> Iterator[dict]:
        for pair in pairs:
            check(cancelled)
            yield do_pair(pair, output, self.options, progress, cancelled)

    def stop(self) -> None:
        pass


class Cluster:
    """As many pairs at once as the cluster has threads. A pair whose worker dies is done again by another."""

    def __init__(self, client: Any, options: BatchOptions, address: str | None) -> None:
        self.client = client
        self.options = options
        self.address = address
        self.running: dict[Any, BatchPair] = {}
        self.ended: queue.Queue = queue.Queue()

    def check(self, tell: Callable[[str], None] | None) -> dict[str, Any]:
        """``check_options`` on every worker there is; they must have this program in this version.

        Raises
        ------
        ClusterError; what ``check_options`` raises.
        """
        if not self.client.nthreads() and tell is not None:
            tell(f"The scheduler {self.address} has no worker yet; waiting for one.")
        self.client.wait_for_workers(1)
        found = self.client.run(check_options, self.options, on_error="return")
        for worker, answer in found.items():
            if isinstance(answer, ImportError) or "No module named" in str(answer):
                raise ClusterError(
                    f"The worker {worker} cannot import what a registration needs ({answer}); install "
                    f"progressive-registration {__version__} there."
                )
            if isinstance(answer, BaseException):
                raise answer
            if answer["version"] != __version__:
                raise ClusterError(
                    f"The worker {worker} has progressive-registration {answer['version']}, here it is "
                    f"{__version__}; install the same version."
                )
        where = f"{len(found)} worker{'s' * (len(found) > 1)}"
        return {
            **next(iter(found.values())),
            "where": where + (f" of {self.address}" if self.address else ""),
        }

    def run(
        self, pairs: list[BatchPair], output: Path, progress: Progress, cancelled: Stop
    ) -> Iterator[dict]:
        """Records in the order in which they come; ``progress`` stays silent."""
        from distributed import CancelledError
        from distributed.comm.core import CommClosedError

        if self.address is not None:
            self._see(output)
        waiting = deque(pairs)
        try:
            while waiting or self.running:
                # Only what can start at once is handed over: a dying worker then takes no other pair's blame.
                while waiting and len(self.running) < max(1, sum(self.client.nthreads().values())):
                    self._submit(waiting.popleft(), output)
                check(cancelled)
                for future in self._ready(POLL_SECONDS):
                    yield self._collect(future, self.running.pop(future), output)
                if self.client.status != "running":
                    raise CancelledError
        except (CancelledError, CommClosedError) as error:
            raise ClusterError(
                f"The scheduler {self.address or 'on this machine'} was lost; what is finished stays: "
                "start the batch again to go on."
            ) from error

    def stop(self) -> None:
        """Forget what has not begun; what runs stops by the stop file."""
        futures = set(self.running)
        end = time.monotonic() + STOP_SECONDS
        while futures and time.monotonic() < end and self.client.status == "running":
            futures -= set(self._ready(POLL_SECONDS))
        try:
            self.client.cancel(list(self.running), force=True)
        except OSError:  # the scheduler is gone, and with it what was to be cancelled
            pass

    def _submit(self, pair: BatchPair, output: Path) -> None:
        key = f"pair-{pair.id}-{uuid.uuid4().hex}"
        future = self.client.submit(do_pair, pair, output, self.options, key=key, pure=False)
        self.running[future] = pair
        future.add_done_callback(self.ended.put)

    def _ready(self, seconds: float) -> list[Any]:
        """The futures that have ended; waits up to ``seconds`` for the first."""
        found = []
        try:
            found.append(self.ended.get(timeout=seconds))
            while True:
                found.append(self.ended.get_nowait())
        except queue.Empty:
            return found

    def _collect(self, future: Any, pair: BatchPair, output: Path) -> dict:
        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker:
            sentence = "Several workers died while they did this pair; is their memory too small?"
        except ProgressiveRegistrationError:
            raise
        except ImportError as error:
            sentence = f"The worker cannot import what a registration needs ({error})."
        folder = Path(output) / pair.folder
        with locked(Path(output) / STATE / f"{pair.folder}.lock", wait=True):
            forget(folder, read_record(folder))
            work = {"id": pair.id, "inputs": {}, "options": self.options.record(pair), "model": None}
            return record_failure(folder, work, {"error": sentence, "exit_code": 1})

    def _see(self, output: Path) -> None:
        """ClusterError unless all workers see the output folder under its name."""
        for worker, sees in self.client.run(_is_file, str(output / STATE / "batch.lock")).items():
            if not sees:
                raise ClusterError(
                    f"The worker {worker} does not see {output}; inputs and results must lie where "
                    "every worker finds them under the same name."
                )


def _is_file(path: str) -> bool:
    return Path(path).is_file()


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"No Dask scheduler answers at {address}; start one (dask scheduler) or correct the address."
        ) from error
    try:
        yield client
    finally:
        _close(client)


@contextmanager
def _local_cluster(workers: int) -> Iterator[tuple[Any, int]]:
    """A cluster of processes with one thread each, which nothing but this machine can reach."""
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster

    # A pair needs what it needs: no limit that would kill workers while the machine has memory left.
    with dask.config.set({"distributed.scheduler.worker-saturation": 1.0}):
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        )
    try:
        client = Client(cluster, set_as_default=False)
        client.register_worker_callbacks(keep_freed_memory)
        try:
            yield client, CPU_COUNT
        finally:
            _close(client)
    finally:
        cluster.close()


def _close(client: Any) -> None:
    try:
        client.close()
    except OSError:
        pass
