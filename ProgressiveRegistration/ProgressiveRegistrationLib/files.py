"""Writing files so that a failure leaves nothing half-written behind, and nothing of the user's is lost.

What is being written lies in a folder ``.writing-HOST-PID-...``; where its process was killed, the next that
writes in that place removes it, and puts back from ``.replaced-HOST-PID-...`` what had been moved away.
"""

from __future__ import annotations

import errno
import gzip
import os
import platform
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from .errors import OutputError

# The files that this run reads, which it must not replace.
_inputs: ContextVar[tuple[Path, ...]] = ContextVar("inputs", default=())
PAIRED = (".hdr", ".img", ".mhd", ".raw", ".zraw", ".nhdr", ".raw.gz")
LONG_AGO_S = 2 * 86400.0


@contextmanager
def keeping(paths: Iterable[str | os.PathLike | None]) -> Iterator[None]:
    """Within, writing over one of these files (or over a DICOM file in one of these folders) is refused,
    through links too; a header's file of voxels is kept with it."""
    kept = []
    for path in paths:
        if path is not None:
            kept.append(Path(path))
            if kept[-1].suffix.lower() in PAIRED:
                stem = kept[-1].name[: -len(kept[-1].suffix)]
                kept += [kept[-1].with_name(stem + end) for end in PAIRED]
    token = _inputs.set((*_inputs.get(), *kept))
    try:
        yield
    finally:
        _inputs.reset(token)


def refuse_inputs(folder: Path, names: Iterable[str]) -> None:
    """OutputError where a file of these names in ``folder`` is one of the inputs kept (see ``keeping``)."""
    for name in names:
        target = folder / name
        for path in _inputs.get() if target.exists() else ():
            if path.exists() and (
                os.path.samefile(path, target)
                or (path.is_dir() and os.path.samefile(path, folder) and _is_dicom(target))
            ):
                raise OutputError(
                    f"{target} cannot be written: it is an input of this run ({path}); choose another "
                    "folder or name."
                )


def refuse_strangers(folder: Path, names: Iterable[str]) -> None:
    """OutputError where ``folder`` holds some of these names but not all:
    then they are no earlier results."""
    names = list(names)
    there = [name for name in names if os.path.lexists(folder / name)]
    if there and len(there) < len(names):
        raise OutputError(
            f"{folder} holds a {there[0]} that is not of an earlier run; choose an empty folder, so that "
            "it is not replaced."
        )


def _is_dicom(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def _own_folder(kind: str, parent: Path) -> Path:
    """A new folder of this process; first, what killed processes left beside it is cleared up."""
    _clear_up(parent)
    return Path(tempfile.mkdtemp(prefix=f".{kind}-{_host()}-{os.getpid()}-", dir=parent))


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", platform.node())[:32] or "here"


def _clear_up(parent: Path) -> None:
    for left in sorted(parent.glob(f".writing-{_host()}-*")) + sorted(parent.glob(f".replaced-{_host()}-*")):
        if not _owner_is_gone(left):
            continue
        if left.name.startswith(".replaced-"):
            for file in left.iterdir():
                os.replace(file, parent / file.name)
        shutil.rmtree(left, ignore_errors=True)


def _owner_is_gone(left: Path) -> bool:
    try:
        pid = int(left.name.split("-")[2])
        if os.name != "posix":  # there, asking is killing
            return time.time() - left.stat().st_mtime > LONG_AGO_S
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (ValueError, IndexError, OSError):
        return False
    return False


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
    refuse_inputs(path.parent, [path.name])
    try:
        folder = _own_folder("writing", path.parent)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    temporary = folder / path.name
    try:
        yield temporary
        if len(list(folder.iterdir())) > 1:
            raise OutputError(
                f"{path} would be two files, header and voxels; choose an ending that keeps both in one, "
                "as .nrrd, .mha or .nii.gz."
            )
        _check_whole(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        for left in folder.glob("*"):
            left.unlink()
        folder.rmdir()


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
        stage = _own_folder("writing", parent)
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
    refuse_inputs(folder, names)
    made = not folder.exists()
    old = _own_folder("replaced", stage.parent)
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
