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
    """Base of the errors that a caller shows as they are, without a traceback."""

    exit_code = 1


class InputError(ProgressiveRegistrationError, ValueError):
    """An image, a landmark file, a mask or an option cannot be used."""

    exit_code = 3


class NoLungError(InputError):
    """No lung was found where one is needed."""

    exit_code = 4


class ModelError(ProgressiveRegistrationError):
    """A model's card or weights are missing, damaged or too new."""

    exit_code = 5


class DeviceError(ProgressiveRegistrationError):
    """The computing device is unknown or not on this machine."""

    exit_code = 6


class OutputError(ProgressiveRegistrationError):
    """A result cannot be written."""

    exit_code = 7


class ClusterError(ProgressiveRegistrationError):
    """Dask, its scheduler or its workers are missing, unfit or were lost."""

    exit_code = 9


class Cancelled(ProgressiveRegistrationError):
    """The caller asked to stop; nothing was written."""

    exit_code = 130

    def __init__(self, message: str = "Cancelled; nothing was written.") -> None:
        super().__init__(message)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Where memory runs out, raise MemoryError, as Python itself does."""
    try:
        yield
    except RuntimeError as error:
        if any(words in str(error).lower() for words in OUT_OF_MEMORY):
            raise MemoryError(str(error)) from error
        raise
