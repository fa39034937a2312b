"""A long computation in a thread of its own; whoever started it asks now and then how far it is."""

from __future__ import annotations

import gc
import logging
import queue
import threading
import time
from collections.abc import Callable

from ProgressiveRegistrationLib.errors import Cancelled

from .i18n import _

COLLECT_SECONDS = 2.0

_living: set = set()  # tasks whose thread runs, abandoned ones too
_collect_again = False


def _hold_garbage(task) -> None:
    """Python's cyclic garbage collector runs in whatever thread allocates. In the worker it could destroy Qt
    and VTK objects, which belong to the main thread: while a worker runs, only ``poll`` collects."""
    global _collect_again
    if not _living:
        _collect_again = gc.isenabled()
        gc.disable()
    _living.add(task)


def _release_garbage(task) -> None:
    _living.discard(task)
    if not _living and _collect_again:
        gc.enable()


class Work:
    """Run ``work(progress, cancelled)`` in a thread; ``poll`` tells the main thread about it.

    ``work`` must not touch MRML or Qt. ``poll()`` gives the latest (stage, fraction, text) or None, and ends
    the books once the thread has ended: ``outcome`` is then ("done", result), ("cancelled", None) or
    ("failed", error).
    """

    def __init__(self, work: Callable) -> None:
        self._work = work
        self._messages: queue.SimpleQueue = queue.SimpleQueue()
        self._result = None
        self.outcome: tuple | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ProgressiveRegistration", daemon=True)

    def start(self) -> None:
        _hold_garbage(self)
        self._collected = time.monotonic()
        self._thread.start()

    def cancel(self) -> None:
        """Ask the work to stop at its next opportunity."""
        self._stop.set()

    @property
    def started(self) -> bool:
        """Did the thread begin?"""
        return self._thread.ident is not None

    @property
    def stopping(self) -> bool:
        """Was it asked to stop?"""
        return self._stop.is_set()

    def join(self, seconds: float) -> bool:
        """Wait for the thread itself; True when it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            result = self._work(lambda *message: self._messages.put(message), self._stop.is_set)
            self._result = ("done", result)
        except Cancelled:
            self._result = ("cancelled", None)
        except BaseException as error:  # a thread has nobody else to tell
            if not isinstance(error, MemoryError):
                logging.debug("background work failed", exc_info=True)
            self._result = ("failed", error)

    def poll(self) -> tuple | None:
        """On the main thread, a few times a second."""
        ended = not self._thread.is_alive()
        latest = None
        while not self._messages.empty():
            latest = self._messages.get()
        if not ended:
            if time.monotonic() - self._collected > COLLECT_SECONDS:
                gc.collect(1)
                self._collected = time.monotonic()
        elif self.outcome is None:
            _release_garbage(self)
            kind, value = self._result
            stopped = kind == "done" and self.stopping  # it was asked to stop just before it was ready
            self.outcome = ("cancelled", None) if stopped else (kind, value)
        return latest


def remaining_text(fraction: float, elapsed: float) -> str:
    """How long it may still take, "" while it is too early to say."""
    if fraction < 0.05 or elapsed < 1:
        return ""
    seconds = elapsed * (1 - fraction) / fraction
    if seconds < 60:
        return _("about {seconds} s left").format(seconds=max(1, round(seconds)))
    return _("about {minutes} min left").format(minutes=round(seconds / 60))
