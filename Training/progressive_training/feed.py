"""Samples made ahead of the training that takes them: in threads, or in processes of their own."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from ProgressiveRegistrationLib.errors import ProgressiveRegistrationError

from .network import image_side
from .samples import Sample, SampleStream
from .schedule import Schedule

# Threads where samples are made on a GPU: reading the scans from disk is what takes time there.
READERS = 4


@dataclass(frozen=True)
class Draws:
    """The samples of a run in one of its processes: ``draws[iteration]``; other processes may have a copy.

    sides : cells along each axis of the levels, coarsest first. processes, rank : of the training.
    """

    stream: SampleStream
    schedule: Schedule
    sides: Sequence[int]
    processes: int = 1
    rank: int = 0

    def __getitem__(self, iteration: int) -> Sample:
        """Its sample, keyed by seed and number: the same however training went, and wherever it is made."""
        side = self.sides[self.schedule.finest(iteration)]
        return self.stream.sample(
            iteration * self.processes + self.rank, image_side(side, self.sides[-1]), side
        )


@contextmanager
def from_threads(
    draw: Callable[[int], Sample], first: int, end: int, threads: int
) -> Iterator[Iterator[Sample]]:
    """``draw`` of iterations ``first`` to ``end - 1``, in order, a thread one ahead (0: none is)."""
    if not threads:
        yield map(draw, range(first, end))
        return
    pool = ThreadPoolExecutor(threads)
    try:
        yield _in_order(pool, draw, first, end, threads)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor, draw: Callable[[int], Sample], first: int, end: int, ahead: int
) -> Iterator[Sample]:
    waiting = deque(pool.submit(draw, t) for t in range(first, min(end, first + ahead)))
    following = first + ahead
    while waiting:
        sample = waiting.popleft().result()
        if following < end:
            waiting.append(pool.submit(draw, following))
            following += 1
        yield sample


class _InAProcess:
    """``Draws`` as a data set: an error is handed on as it is, and the scans' memory is shared out."""

    def __init__(self, draws: Draws, workers: int) -> None:
        self.draws, self.workers = draws, workers

    def __getitem__(self, iteration: int) -> Sample | ProgressiveRegistrationError:
        try:
            return self.draws[iteration]
        except ProgressiveRegistrationError as error:
            return error

    def start(self, _number: int) -> None:
        """In a new process. Ctrl-C reaches it too, but ends the training, which then ends its processes."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.draws.stream.share(self.workers)


@contextmanager
def from_processes(draws: Draws, first: int, end: int, workers: int) -> Iterator[Iterator[Sample]]:
    """The samples of iterations ``first`` to ``end - 1``, in order; each process is two ahead.

    The iterator raises ProgressiveRegistrationError where a sample cannot be made or a process is lost.
    """
    import torch
    from torch.utils.data import DataLoader, Dataset

    work = _InAProcess(draws, workers)
    loader: DataLoader[Any] = DataLoader(
        cast("Dataset[Any]", work),
        batch_size=None,
        sampler=range(first, end),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=work.start,
    )
    found = iter(loader)

    def samples() -> Iterator[Sample]:
        while True:
            try:
                sample = next(found, None)
            except RuntimeError as error:
                raise ProgressiveRegistrationError(
                    f"A process that makes samples was lost ({str(error).splitlines()[0]}): lower "
                    "hardware.workers or data.memory_gb, or give this machine more (shared) memory."
                ) from error
            if sample is None:
                return
            if isinstance(sample, ProgressiveRegistrationError):
                raise sample
            yield sample

    try:
        yield samples()
    finally:
        found._shutdown_workers()  # type: ignore[attr-defined]  # there is no public way
