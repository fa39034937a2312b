"""The folder that the page may read from: what is in it, and nothing outside it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ProgressiveRegistrationLib.errors import InputError

IMAGE_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd", ".nii", ".nii.gz")
LANDMARK_ENDINGS = (".mrk.json", ".json", ".fcsv", ".csv", ".txt", ".pts")
MOST_ENTRIES = 500


@dataclass(frozen=True)
class Entry:
    """One line of a folder's list. ``path`` is relative to the data folder, with slashes.

    ``kind``: "folder", "image", "landmarks" or "series" (then ``series`` is its instance UID).
    """

    name: str
    path: str
    kind: str
    detail: str = ""
    series: str = ""


class DataFolder:
    """A folder tree; links are followed only where they stay inside it.

    Raises
    ------
    InputError : there is no such folder.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        self.root = Path(root).resolve()
        if not self.root.is_dir():
            raise InputError(f"There is no folder {root}; give one with --data.")

    def resolve(self, path: str) -> Path:
        """The real path of a relative one; InputError where it is absolute, missing or leads out."""
        parts = Path(path)
        if parts.is_absolute() or ".." in parts.parts or "\0" in path or "\\" in path:
            raise InputError(f"{path!r} is not in the data folder.")
        real = (self.root / parts).resolve()
        if real != self.root and self.root not in real.parents:
            raise InputError(f"{path!r} leads out of the data folder.")
        if not real.exists():
            raise InputError(f"{path!r} does not exist any more in the data folder.")
        return real

    def list(self, path: str, kinds: tuple[str, ...] = ("image", "landmarks")) -> list[Entry]:
        """Folders first, then files of these kinds, by name; hidden ones are left out."""
        folder = self.resolve(path)
        if not folder.is_dir():
            raise InputError(f"{path!r} is no folder.")
        entries = []
        for child in folder.iterdir():
            name = child.name
            if name.startswith("."):
                continue
            relative = f"{path}/{name}" if path not in ("", ".") else name
            try:
                real = self.resolve(relative)
            except InputError:
                continue  # a link that leads out, or nowhere
            if real.is_dir():
                entries.append(Entry(name, relative, "folder"))
                continue
            kind = kind_of(name)
            if kind in kinds and real.is_file():
                entries.append(Entry(name, relative, kind, _size(real.stat().st_size)))
        entries.sort(key=lambda e: (e.kind != "folder", e.name.lower()))
        return entries[:MOST_ENTRIES]


def kind_of(name: str) -> str | None:
    """ "image", "landmarks" or None, by the name's ending."""
    lower = name.lower()
    if lower.endswith(IMAGE_ENDINGS):
        return "image"
    return "landmarks" if lower.endswith(LANDMARK_ENDINGS) else None


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{max(1, round(count / 1e3))} kB"
