"""Locks on files, held by the operating system: a process that dies, however, lets go of them."""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from ..errors import OutputError
from ..progress import check

NO_LOCKS = {getattr(errno, name, None) for name in ("ENOLCK", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EINVAL")}
POLL_SECONDS = 0.2


class Held(Exception):
    """Another process holds the lock; ``holder`` says which, as far as it is known."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


@contextmanager
def locked(
    path: str | os.PathLike, *, wait: bool = False, cancelled: Callable[[], bool] | None = None
) -> Iterator[bool]:
    """Hold the lock file ``path``; with ``wait`` until it is free, else Held is raised at once.

    Yields whether it is really held: some network file systems know no locks. The file stays behind; a stale
    one is no lock.

    Raises
    ------
    Held, Cancelled; OutputError : the file cannot be made.
    """
    path = Path(path)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    try:
        held = _lock(handle)
        while held is False:
            if not wait:
                raise Held(_holder(path))
            check(cancelled)
            time.sleep(POLL_SECONDS)
            held = _lock(handle)
        _sign(handle)
        yield bool(held)
    finally:
        os.close(handle)  # closing unlocks


def _lock(handle: int) -> bool | None:
    """True: locked; False: somebody else has it; None: there are no locks here."""
    try:
        if sys.platform == "win32":
            import msvcrt

            # Far behind the content: Windows keeps others from reading what is locked.
            os.lseek(handle, 1 << 30, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in NO_LOCKS else False
    return True


def _sign(handle: int) -> None:
    who = {"pid": os.getpid(), "host": platform.node(), "since": datetime.now(timezone.utc).isoformat()}
    try:
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, json.dumps(who).encode())
    except OSError:  # a full disk: the lock holds all the same
        pass


def _holder(path: Path) -> str:
    try:
        who = json.loads(path.read_text(encoding="utf-8"))
        return f"process {who['pid']} on {who['host']} since {who['since'][:16].replace('T', ' ')} UTC"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
