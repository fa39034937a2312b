"""Scans to train on: folders of volumes, prepared once and cached; what is skipped is reported with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk
from ProgressiveRegistrationLib.errors import InputError, OutputError, ProgressiveRegistrationError
from ProgressiveRegistrationLib.files import write_text

from .cache import VERSION, cache_key, is_prepared, prepare

VOLUME_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd", ".nii", ".nii.gz")


@dataclass(frozen=True)
class Source:
    """One scan on disk. ``files``: the volume, or the slices of a series in order. ``key``: changes when they change."""

    name: str
    files: tuple[Path, ...]
    key: str
    read: Callable[[], sitk.Image]


@dataclass(frozen=True)
class Skipped:
    """A file or series that is not used, and why, in one sentence."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def is_volume(path: Path) -> bool:
    return path.name.lower().endswith(VOLUME_ENDINGS)


def read_volume(path: Path) -> sitk.Image:
    """A 3D scalar volume; raises InputError."""
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read as an image.") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1 or min(image.GetSize()) < 8:
        raise InputError(f"{path} is not a 3D scalar volume.")
    return image


def file_key(files: Iterable[Path]) -> str:
    """Changes when a file is replaced: names, sizes and times."""
    stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return cache_key(VERSION, stats)


def find_volumes(folder: Path) -> list[Source]:
    """Every volume file below a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and is_volume(p))
    return [
        Source(str(p.relative_to(folder)), (p,), file_key([p]), lambda p=p: read_volume(p)) for p in files
    ]


def find_scans(folders: Iterable[Path]) -> tuple[list[Source], list[Skipped]]:
    """All scans below the folders (or the volume files named themselves), and what was left out."""
    sources: list[Source] = []
    skipped: list[Skipped] = []
    for folder in folders:
        if folder.is_file() and is_volume(folder):
            sources.append(
                Source(folder.name, (folder,), file_key([folder]), lambda p=folder: read_volume(p))
            )
            continue
        if not folder.is_dir():
            raise InputError(f"There is no data folder {folder}: correct data.train or data.validation.")
        sources += find_volumes(folder)
    return sources, skipped


def prepare_scans(
    folders: Iterable[Path], cache: Path, report: Callable[[str], None] = print
) -> tuple[list[Path], list[Skipped]]:
    """Prepare every scan that is not in the cache yet.

    Returns
    -------
    folders of prepared scans, in a stable order, and what was skipped. A report is left in ``cache/skipped.json``.

    Raises
    ------
    InputError : no usable scan. OutputError : the cache cannot be written.
    """
    folders = list(folders)
    sources, skipped = find_scans(folders)
    prepared = []
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The cache folder {cache} cannot be made: {error.strerror}.") from error
    for number, source in enumerate(sources, 1):
        target = cache / source.key
        if not is_prepared(target):
            report(f"Preparing scan {number} of {len(sources)}: {source.name}")
            try:
                prepare(source.read(), target, source.name, str(source.files[0]))
            except OutputError:
                raise
            except ProgressiveRegistrationError as error:
                skipped.append(Skipped(source.files[0], str(error)))
                continue
        if target not in prepared:
            prepared.append(target)
    write_text(
        cache / "skipped.json",
        json.dumps([{"path": str(s.path), "reason": s.reason} for s in skipped], indent=1),
    )
    for entry in skipped:
        report(f"Skipped {entry}")
    if not prepared:
        names = ", ".join(map(str, folders)) or "an empty list of folders"
        why = f" ({len(skipped)} were skipped, see {cache / 'skipped.json'})" if skipped else ""
        raise InputError(f"There is no usable chest CT in {names}{why}: put CT series or volumes there.")
    return prepared, skipped
