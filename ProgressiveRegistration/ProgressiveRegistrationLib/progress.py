"""How long work tells its caller where it is, and learns that it should stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Optional

from .errors import Cancelled

# (stage, fraction of the whole job in 0..1, text)
Progress = Optional[Callable[[str, float, str], None]]
# -> True when the work should stop
Stop = Optional[Callable[[], bool]]


def check(cancelled: Stop) -> None:
    """Raise Cancelled when the caller asked to stop."""
    if cancelled is not None and cancelled():
        raise Cancelled


class Stages:
    """Times the stages of a job and reports its progress; polls ``cancelled`` at every stage.

    Parameters
    ----------
    shares : stage -> its share of the whole job's time, in order; they need not sum to 1.
    """

    def __init__(self, shares: dict[str, float], progress: Progress, cancelled: Stop) -> None:
        total = sum(shares.values())
        self._span: dict[str, tuple[float, float]] = {}
        start = 0.0
        for name, share in shares.items():
            self._span[name] = (start / total, share / total)
            start += share
        self._progress, self.cancelled = progress, cancelled
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[Callable[[str, float, str], None]]:
        """Run a stage; yields a progress callable for its own steps (their fraction is of this stage)."""
        check(self.cancelled)
        first, share = self._span[name]

        def report(_step: str, fraction: float, detail: str) -> None:
            if self._progress is not None:
                self._progress(name, min(1.0, first + share * fraction), detail)

        report(name, 0.0, text)
        before = time.perf_counter()
        try:
            yield report
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - before
        report(name, 1.0, text)
        check(self.cancelled)

    def total(self) -> dict[str, float]:
        """Seconds by stage, and ``total``."""
        return {**self.seconds, "total": time.perf_counter() - self._start}
