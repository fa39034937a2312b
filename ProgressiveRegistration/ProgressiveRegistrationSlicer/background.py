"""A long computation beside a window that stays responsive."""

from __future__ import annotations

import gc
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
COLLECT_SECONDS = 2.0


_living: set = set()  # tasks whose thread runs, abandoned ones too
_collect_again = False


def _hold_garbage(task) -> None:
    """Python's cyclic garbage collector runs in whatever thread allocates. In the worker it could destroy Qt and VTK
    objects, which belong to the main thread: while a worker runs, only ``_poll`` collects."""
    global _collect_again
    if not _living:
        _collect_again = gc.isenabled()
        gc.disable()
    _living.add(task)


def _release_garbage(task) -> None:
    _living.discard(task)
    if not _living and _collect_again:
        gc.enable()


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
        _hold_garbage(self)
        self._collected = time.monotonic()
        self._thread.start()
        self._timer.start()

    @property
    def running(self) -> bool:
        """From ``start`` until the thread has ended and the final callback is due."""
        return bool(self._timer.active)

    def cancel(self) -> None:
        """Ask the work to stop at its next opportunity."""
        self._stop.set()

    def abandon(self) -> None:
        """Cancel, and call nothing back any more: for when the scene or the window goes away."""
        self._stop.set()
        self._on_done = self._on_failed = self._on_cancelled = self._on_progress = None

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
            if time.monotonic() - self._collected > COLLECT_SECONDS:
                gc.collect(1)
                self._collected = time.monotonic()
            return
        self._timer.stop()
        _release_garbage(self)
        kind, value = self._outcome
        if kind == "done" and self._stop.is_set():
            kind = "cancelled"  # it was asked to stop just before it was ready
        then = {"done": self._on_done, "cancelled": self._on_cancelled, "failed": self._on_failed}[kind]
        if then is not None:
            then(*([] if kind == "cancelled" else [value]))


def remaining_text(fraction: float, elapsed: float) -> str:
    """How long it may still take, "" while it is too early to say."""
    from .i18n import _

    if fraction < 0.05 or elapsed < 1:
        return ""
    seconds = elapsed * (1 - fraction) / fraction
    if seconds < 60:
        return _("about {seconds} s left").format(seconds=max(1, round(seconds)))
    return _("about {minutes} min left").format(minutes=round(seconds / 60))
