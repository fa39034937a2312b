"""A long computation beside a window that stays responsive."""

from __future__ import annotations

from collections.abc import Callable

import qt

from .work import Work

POLL_MS = 15
# Slicer's main thread keeps Python's lock while Qt waits for events, so a Python thread gets to run only when
# the main thread lets go of it: waiting for the thread for this long does, and is short enough not to be
# felt.
YIELD_SECONDS = 0.02


class BackgroundTask:
    """Run ``work(progress, cancelled)`` in a thread; the callbacks are called on the main thread.

    ``work`` must not touch MRML or Qt. ``on_progress(stage, fraction, text)`` as often as the event loop
    comes round, then exactly one of ``on_done(result)``, ``on_cancelled()``, ``on_failed(error)``, unless
    ``abandon`` was called.

        task = BackgroundTask(lambda progress, cancelled: compute(), on_done=print)
        task.start()
    """

    def __init__(
        self,
        work: Callable,
        *,
        on_done: Callable,
        on_failed: Callable | None = None,
        on_cancelled: Callable | None = None,
        on_progress: Callable | None = None,
    ) -> None:
        self._work = Work(work)
        self._on_done, self._on_failed = on_done, on_failed
        self._on_cancelled, self._on_progress = on_cancelled, on_progress
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self._poll)

    def start(self) -> None:
        self._work.start()
        self._timer.start()

    @property
    def running(self) -> bool:
        """From ``start`` until the thread has ended and the final callback is due."""
        return bool(self._timer.active)

    def cancel(self) -> None:
        """Ask the work to stop at its next opportunity."""
        self._work.cancel()

    def abandon(self) -> None:
        """Cancel, and call nothing back any more: for when the scene or the window goes away."""
        self._work.cancel()
        self._on_done = self._on_failed = self._on_cancelled = self._on_progress = None

    def join(self, seconds: float) -> bool:
        """Wait for the thread itself; True when it has ended."""
        return self._work.join(seconds)

    def _poll(self) -> None:
        self._work.join(YIELD_SECONDS)
        latest = self._work.poll()
        if latest is not None and self._on_progress is not None and not self._work.stopping:
            self._on_progress(*latest)
        if self._work.outcome is None:
            return
        self._timer.stop()
        kind, value = self._work.outcome
        then = {"done": self._on_done, "cancelled": self._on_cancelled, "failed": self._on_failed}[kind]
        if then is not None:
            then(*([] if kind == "cancelled" else [value]))
