"""A long computation beside a window that stays responsive."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

import qt
from ProgressiveRegistrationLib.errors import Cancelled

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
        self._work = work
        self._on_done, self._on_failed = on_done, on_failed
        self._on_cancelled, self._on_progress = on_cancelled, on_progress
        self._messages: queue.SimpleQueue = queue.SimpleQueue()
        self._outcome = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ProgressiveRegistration", daemon=True)
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self._poll)

    def start(self) -> None:
        self._started = time.monotonic()
        self._thread.start()
        self._timer.start()

    @property
    def running(self) -> bool:
        """From ``start`` until a final callback has been called."""
        return bool(self._timer.active)

    def cancel(self) -> None:
        """Ask the work to stop at its next opportunity."""
        self._stop.set()

    def abandon(self) -> None:
        """Cancel, and call nothing back any more: for when the scene or the window goes away."""
        self._stop.set()
        self._timer.stop()

    def join(self, seconds: float) -> bool:
        """Wait for the thread itself; True when it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            result = self._work(lambda *message: self._messages.put(message), self._stop.is_set)
            self._outcome = ("done", result)
        except Cancelled:
            self._outcome = ("cancelled", None)
        except BaseException as error:  # a thread has nobody else to tell
            if not isinstance(error, MemoryError):
                logging.debug("background work failed", exc_info=True)
            self._outcome = ("failed", error)

    def _poll(self) -> None:
        self._thread.join(YIELD_SECONDS)
        ended = not self._thread.is_alive()
        latest = None
        while not self._messages.empty():
            latest = self._messages.get()
        if latest is not None and self._on_progress is not None and not self._stop.is_set():
            self._on_progress(*latest)
        if not ended:
            return
        self._timer.stop()
        kind, value = self._outcome
        if kind == "done" and self._stop.is_set():
            kind = "cancelled"  # it was asked to stop just before it was ready
        if kind == "done":
            self._on_done(value)
        elif kind == "cancelled":
            if self._on_cancelled is not None:
                self._on_cancelled()
        elif self._on_failed is not None:
            self._on_failed(value)


def remaining_text(fraction: float, elapsed: float) -> str:
    """How long it may still take, "" while it is too early to say."""
    from .i18n import _

    if fraction < 0.05 or elapsed < 1:
        return ""
    seconds = elapsed * (1 - fraction) / fraction
    if seconds < 60:
        return _("about {seconds} s left").format(seconds=max(1, round(seconds)))
    return _("about {minutes} min left").format(minutes=round(seconds / 60))
