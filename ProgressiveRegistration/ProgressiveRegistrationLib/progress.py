"""How long work tells its caller where it is, counts its time, and learns that it should stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
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


class Work:
    """One job: the seconds of its stages, its progress, and whether it should stop.

    Parameters
    ----------
    shares : stage -> its share of the whole job's time, in order; they need not sum to 1. A stage that is not
        named takes no room in the progress.
    progress : called with (stage, fraction of the whole job, text); None: nobody listens.
    cancelled : polled at the beginning and the end of every stage.
    """

    def __init__(
        self, shares: Mapping[str, float], progress: Progress = None, cancelled: Stop = None
    ) -> None:
        total = sum(shares.values()) or 1.0
        self._span: dict[str, tuple[float, float]] = {}
        self._at = 0.0
        start = 0.0
        for name, share in shares.items():
            self._span[name] = (start / total, share / total)
            start += share
        self._progress, self.cancelled = progress, cancelled
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[Callable[[str, float, str], None]]:
        """Run and time a stage; yields a progress callable for its own steps
        (their fraction is of this stage)."""
        check(self.cancelled)
        part = self.part(name, named=True)
        part(name, 0.0, text)
        before = time.perf_counter()
        try:
            yield part
        finally:
            self.add({name: time.perf_counter() - before})
        part(name, 1.0, text)
        check(self.cancelled)

    def part(self, name: str, *, named: bool = False) -> Callable[[str, float, str], None]:
        """Progress for steps that count 0..1 by themselves within the stage ``name``.

        Listeners hear of the steps' own names; ``named``: of the stage's name instead.
        """
        first, share = self._span.get(name, (self._at, 0.0))

        def report(step: str, fraction: float, text: str) -> None:
            self._at = max(self._at, min(1.0, first + share * fraction))  # a bar never runs back
            if self._progress is not None:
                self._progress(name if named else step, self._at, text)

        return report

    def tell(self, step: str, fraction: float, text: str) -> None:
        """Say where the whole job is, for work whose stages take turns."""
        check(self.cancelled)
        if self._progress is not None:
            self._progress(step, fraction, text)

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count time that was spent elsewhere for this job, by stage."""
        for name, spent in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def done(self, text: str = "Done") -> None:
        """Tell the end."""
        self.tell("done", 1.0, text)

    def total(self) -> dict[str, float]:
        """Seconds by stage, and ``total`` since the beginning, rounded to ms."""
        stages = {name: round(s, 3) for name, s in self.seconds.items()}
        return {**stages, "total": round(time.perf_counter() - self._start, 3)}
