"""Writing files so that a failure leaves nothing half-written behind."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import tempfile
import zlib
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
        _check_whole(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        for left in Path(folder).glob("*"):
            left.unlink()
        Path(folder).rmdir()


def _check_whole(path: Path) -> None:
    """OSError for a file that ITK cut off without a word, as it does on a full disk for these two formats."""
    name = path.name.lower()
    if name.endswith(".gz"):
        try:
            with gzip.open(path) as stream:
                while stream.read(1 << 22):
                    pass
        except (EOFError, zlib.error) as error:
            raise OSError(errno.ENOSPC, "it was cut off; is the disk full?") from error
    elif name.endswith(".tfm"):
        with open(path, "rb") as stream:
            stream.seek(max(0, path.stat().st_size - 4096))
            last = stream.read().rstrip(b"\n").rpartition(b"\n")[2]
        if not last.startswith(b"FixedParameters:"):
            raise OSError(errno.ENOSPC, "it was cut off; is the disk full?")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text whole or not at all; raises OutputError."""
    # Bytes: line ends stay as they are, on Windows too.
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())


@contextmanager
def staged_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """Give an empty folder to write results into; on success its files move to ``folder``, over namesakes.

    On an error, or Ctrl-C, nothing is left: ``folder`` is not made, or keeps what it held. The empty one is
    on the same disk: inside ``folder`` where that exists already, else beside.

    Raises
    ------
    OutputError : ``folder`` is a file, its parent is missing, cannot be written or is full, or it holds a
        folder of a result's name.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} cannot hold the results: it is a file; choose a folder.")
    parent = folder if folder.is_dir() else folder.parent
    if not parent.is_dir():
        raise OutputError(f"{folder} cannot be made: there is no folder {parent}.")
    try:
        stage = Path(tempfile.mkdtemp(prefix=".writing-", dir=parent))
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}.") from error
    try:
        yield stage
        _move_in(stage, folder)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _move_in(stage: Path, folder: Path) -> None:
    """Move all that is in ``stage`` to ``folder``, over namesakes, or else leave ``folder`` as it was."""
    names = sorted(path.name for path in stage.iterdir())
    for name in names:
        if (folder / name).is_dir():
            raise OutputError(
                f"{folder / name} cannot be written: it is a folder; rename it, or choose another folder."
            )
    made = not folder.exists()
    old = Path(tempfile.mkdtemp(prefix=".replaced-", dir=stage.parent))
    try:
        folder.mkdir(exist_ok=True)
        for name in names:
            if os.path.lexists(folder / name):
                os.replace(folder / name, old / name)
            os.replace(stage / name, folder / name)
    except BaseException:
        # What was done shows in the folders themselves: Ctrl-C may have come between any two steps.
        for name in names:
            if not (stage / name).exists():
                os.replace(folder / name, stage / name)
            if os.path.lexists(old / name):
                os.replace(old / name, folder / name)
        old.rmdir()
        if made and folder.exists():
            folder.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)
