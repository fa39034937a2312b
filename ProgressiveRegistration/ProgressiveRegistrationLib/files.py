"""Writing files so that a failure leaves nothing half-written behind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside ``path`` with the same name ending; move it to ``path`` on success.

    Raises
    ------
    OutputError : the folder is missing or cannot be written, or the disk is full. ``path`` is then as before.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no folder {path.parent}.")
    if path.is_dir():
        raise OutputError(f"{path} cannot be written: it is a folder.")
    try:
        folder = tempfile.mkdtemp(prefix=".writing-", dir=path.parent)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    temporary = Path(folder) / path.name
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        for left in Path(folder).glob("*"):
            left.unlink()
        Path(folder).rmdir()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text whole or not at all; raises OutputError."""
    # Bytes: line ends stay as they are, on Windows too.
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())
