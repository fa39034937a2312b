"""Files that the browser sends: bounded, with harmless names, each drop in a folder of its own."""

from __future__ import annotations

import re
import shutil
import uuid
from pathlib import Path

from ProgressiveRegistrationLib.errors import InputError, OutputError
from ProgressiveRegistrationLib.reading.dicom import is_dicom

ROLES = ("fixed", "moving", "fixed_landmarks", "moving_landmarks", "fixed_mask", "moving_mask")
MOST_FILES = 4000  # of one drop: a DICOM series
_DROP = re.compile(r"[0-9a-f]{32}")


class Uploads:
    """Keeps what is dropped below ``folder``; ``limit`` bytes for all drops together that are kept."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._bytes: dict[str, int] = {}  # of each drop, with what is on its way
        self.clean()  # of a server that was killed

    def begin(self) -> str:
        """A new drop's name."""
        drop = uuid.uuid4().hex
        try:
            (self.folder / drop).mkdir(parents=True)
        except OSError as error:
            raise OutputError(f"The upload cannot be kept: {error.strerror or error}.") from error
        return drop

    def place(self, drop: str) -> Path:
        """The folder of a drop; InputError for a name that ``begin`` did not give."""
        folder = self.folder / drop
        if not _DROP.fullmatch(drop) or not folder.is_dir():
            raise InputError("This upload is not known here (any more): drop the files again.")
        return folder

    async def receive(self, drop: str, name: str, chunks) -> Path:
        """Write one file; nothing is left of one that breaks off or is too large."""
        folder = self.place(drop)
        if sum(1 for _ in folder.iterdir()) >= MOST_FILES:
            raise InputError(f"More than {MOST_FILES} files were dropped at once: drop one series.")
        path = folder / safe_name(name)
        if path.exists():
            raise InputError(f"{path.name} was dropped twice.")
        part = folder / f".{uuid.uuid4().hex}"
        size = 0
        try:
            with open(part, "wb") as stream:
                async for chunk in chunks:
                    size += len(chunk)
                    self._bytes[drop] = self._bytes.get(drop, 0) + len(chunk)
                    if self.used() > self.limit:
                        raise InputError(
                            f"{path.name} is too large: uploads are limited to {self.limit / 1e6:.0f} MB "
                            "together; put it into the data folder, or raise --max-upload."
                        )
                    stream.write(chunk)
            part.rename(path)
            size = 0
        except OSError as error:
            raise OutputError(f"{path.name} cannot be kept: {error.strerror or error}.") from error
        finally:
            part.unlink(missing_ok=True)
            if drop in self._bytes:
                self._bytes[drop] -= size
        return path

    def used(self) -> int:
        """Bytes of all drops."""
        return sum(self._bytes.values())

    def discard(self, drop: str) -> None:
        """Forget a drop: it was read, or it was no good."""
        if _DROP.fullmatch(drop):
            shutil.rmtree(self.folder / drop, ignore_errors=True)
            self._bytes.pop(drop, None)

    def clean(self) -> None:
        """Forget all drops."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._bytes.clear()

    def main_file(self, drop: str) -> Path:
        """What to read of a drop: its one file, the header among its files, or the folder (DICOM)."""
        folder = self.place(drop)
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        if not files:
            raise InputError("No file was dropped.")
        headers = [path for path in files if path.name.lower().endswith((".mhd", ".nhdr"))]
        if len(files) == 1 and not _looks_like_dicom(files[0]):
            return files[0]
        if len(headers) == 1:
            return headers[0]
        if not any(is_dicom(path) for path in files):
            raise InputError(
                f"These {len(files)} files are not one image: drop one file, a header with its voxels, or "
                "one DICOM series."
            )
        return folder


def _looks_like_dicom(path: Path) -> bool:
    return path.suffix.lower() in ("", ".dcm", ".ima")


def safe_name(name: str) -> str:
    """The last part of a name, without what a path or a terminal would act on; kept readable otherwise."""
    last = re.split(r"[/\\]", name)[-1]
    clean = "".join(c for c in last if c.isprintable()).lstrip(".").strip()
    if not clean:
        raise InputError("A dropped file has no name.")
    return clean[-200:]
