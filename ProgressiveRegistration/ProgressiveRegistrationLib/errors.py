"""What can go wrong on a user's side. Every message is one sentence: what, which file or node, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# What torch, ITK and the C++ library say when memory runs out, each with a RuntimeError.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "failed to allocate memory",
    "bad_alloc",
    "bad allocation",
)


class ProgressiveRegistrationError(Exception):
    """Base of the errors that a caller shows as they are, without a traceback.

    ``exit_code`` of a command that ends with it, and what that ``meaning`` is in its help.
    """

    exit_code = 1
    meaning = "a fault in the program"


class InputError(ProgressiveRegistrationError, ValueError):
    """An image, a landmark file, a mask or an option cannot be used."""

    exit_code = 3
    meaning = "an input cannot be used"


class NoLungError(InputError):
    """No lung was found where one is needed."""

    exit_code = 4
    meaning = "no lung found"


class ModelError(ProgressiveRegistrationError):
    """A model's card or weights are missing, damaged or too new."""

    exit_code = 5
    meaning = "model missing or damaged"


class DeviceError(ProgressiveRegistrationError):
    """The computing device is unknown or not on this machine."""

    exit_code = 6
    meaning = "no such device"


class OutputError(ProgressiveRegistrationError):
    """A result cannot be written."""

    exit_code = 7
    meaning = "results cannot be written"


class ClusterError(ProgressiveRegistrationError):
    """Dask, its scheduler or its workers are missing, unfit or were lost."""

    exit_code = 9
    meaning = "Dask, its scheduler or a worker is missing, unfit or lost"


class Cancelled(ProgressiveRegistrationError):
    """The caller asked to stop; nothing was written."""

    exit_code = 130
    meaning = "cancelled"

    def __init__(self, message: str = "Cancelled; nothing was written.") -> None:
        super().__init__(message)


def exit_codes(more: dict[int, str], without: tuple[type[ProgressiveRegistrationError], ...] = ()) -> str:
    """All exit codes in one line for a help: ``more`` of the command, ``without`` what it never ends with."""
    codes = {1: ProgressiveRegistrationError.meaning, 2: "wrong usage of the command line", **more}
    kinds: list[type[ProgressiveRegistrationError]] = [ProgressiveRegistrationError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.__module__ == __name__ and kind not in without:
            codes.setdefault(kind.exit_code, kind.meaning)
    return "; ".join(f"{code} {meaning}" for code, meaning in sorted(codes.items()))


@contextmanager
def memory_errors() -> Iterator[None]:
    """Where memory runs out, raise MemoryError, as Python itself does."""
    try:
        yield
    except RuntimeError as error:
        if any(words in str(error).lower() for words in OUT_OF_MEMORY):
            raise MemoryError(str(error)) from error
        raise
