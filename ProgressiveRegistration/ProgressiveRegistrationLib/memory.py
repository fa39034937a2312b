"""How the process gets its memory from the system."""

from __future__ import annotations

import ctypes
import gc
import sys

# Parameters of glibc's mallopt, see malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let the allocator keep large blocks that were freed, for the next ones; returns whether it does.

    glibc gives every large block back to the system at once and gets it anew, page by page: more than half of
    a training iteration at 128^3 on two CPU cores went into page faults (measured: 4.1 s with, 1.8 s
    without). For processes of our own only, which end when their work does: an application that goes on, such
    as Slicer, would not get the memory back. Elsewhere than on Linux with glibc it changes nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    largest = 2**31 - 1
    return all(
        mallopt(*setting) == 1 for setting in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, largest), (_TOP_PAD, 2**28))
    )


def collect_seldom() -> None:
    """Let Python look for unreachable cycles a hundred times less often.

    Importing torch makes half a million objects that stay, and Python went through them over and over: a
    sixth of the import's time. For processes of our own only.
    """
    gc.set_threshold(70_000)


def give_back_freed_memory() -> bool:
    """Undo ``keep_freed_memory``, for a process that goes on when its work is done; returns whether it could.

    Large blocks go back to the system as glibc does it by default; call ``trim`` for what is free now.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(
        mallopt(*setting) == 1
        for setting in ((_MMAP_MAX, 65536), (_TRIM_THRESHOLD, 1 << 20), (_TOP_PAD, 1 << 17))
    )


def trim() -> None:
    """Give the free memory of this process back to the system now, where glibc can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass
