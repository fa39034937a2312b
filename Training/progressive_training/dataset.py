"""Scans to train on: LIDC-IDRI as TCIA serves it, or volumes (NRRD, NIfTI, MetaImage) in any folders.

Each scan is prepared once and cached; whatever is skipped is reported with the reason.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import SimpleITK as sitk
from ProgressiveRegistrationLib.errors import InputError, OutputError, ProgressiveRegistrationError
from ProgressiveRegistrationLib.files import write_text
from ProgressiveRegistrationLib.images import read_image

from .cache import VERSION, cache_key, is_prepared, prepare
from .dicom_tree import find_series, is_dicom

if TYPE_CHECKING:
    from .config import Config

VOLUME_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd", ".nii", ".nii.gz")


@dataclass(frozen=True)
class Source:
    """One scan on disk. ``files``: the volume, or the slices of a series in order. ``key``: changes when they change.

    ``patient``: the patient ID, or a volume's file name without its ending.
    """

    name: str
    patient: str
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


def stem(path: Path) -> str:
    """A volume's file name without its ending; other dots stay, as in names made of UIDs."""
    ending = max((e for e in VOLUME_ENDINGS if path.name.lower().endswith(e)), key=len)
    return path.name[: -len(ending)]


def is_held_out(patient: str, share: float) -> bool:
    """Is the patient among the ``share`` that is not trained on?

    A hash of the ID decides, so that it stays as it is when others come or go, and all scans of a patient go together.
    """
    place = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") / 2**64
    return place < share


def file_key(files: Iterable[Path]) -> str:
    """Changes when a file is replaced: names, sizes and times."""
    stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return cache_key(VERSION, stats)


def find_scans(folders: Iterable[Path]) -> tuple[list[Source], list[Skipped]]:
    """All scans below the folders (or the volume files named themselves), and what was left out."""
    sources: list[Source] = []
    skipped: list[Skipped] = []
    for folder in folders:
        if not folder.exists():
            raise InputError(f"There is no data folder {folder}: correct data.train or data.validation.")
        found = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
        root = folder.parent if folder.is_file() else folder
        dicom = []
        for path in found:
            if is_volume(path):
                name = str(path.relative_to(root))
                key = file_key([path])
                sources.append(Source(name, stem(path), (path,), key, lambda p=path: read_image(p)))
            elif is_dicom(path):
                dicom.append(path)
            elif path.suffix.lower() in (".dcm", ".ima"):
                skipped.append(Skipped(path, "it is named as DICOM but is none."))
        series, left_out = find_series(dicom)
        sources += [Source(s.name, s.patient, s.files, file_key(s.files), s.read) for s in series]
        skipped += [Skipped(*entry) for entry in left_out]
    return sources, skipped


def prepare_scans(
    folders: Iterable[Path],
    cache: Path,
    report: Callable[[str], None] = print,
    hold_out: float = 0.0,
    only_held_out: bool = False,
) -> tuple[list[Path], list[Path], list[Skipped]]:
    """Prepare every scan that is not in the cache yet, or only those of the patients that ``hold_out`` sets apart.

    Returns
    -------
    folders of prepared scans, in a stable order; those held out; and what was skipped. A report is left in
    ``cache/skipped.json``.

    Raises
    ------
    InputError : no usable scan. OutputError : the cache cannot be written.
    """
    folders = list(folders)
    sources, skipped = find_scans(folders)
    patients = {s.patient for s in sources}
    apart = {p for p in patients if is_held_out(p, hold_out)}
    if only_held_out:
        sources = [s for s in sources if s.patient in apart]
    prepared: list[Path] = []
    held_out: list[Path] = []
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
        chosen = held_out if source.patient in apart else prepared
        if target not in chosen:
            chosen.append(target)
    write_text(
        cache / "skipped.json",
        json.dumps([{"path": str(s.path), "reason": s.reason} for s in skipped], indent=1),
    )
    for entry in skipped:
        report(f"Skipped {entry}")
    if hold_out and not apart:
        report(f"Warning: data.hold_out = {hold_out:g} sets none of {len(patients)} patient(s) apart.")
    if held_out and not prepared and not only_held_out:
        raise InputError(f"data.hold_out = {hold_out:g} leaves no scan to train on: lower it or add scans.")
    if not prepared and not only_held_out:
        names = ", ".join(map(str, folders)) or "an empty list of folders"
        why = f" ({len(skipped)} were skipped, see {cache / 'skipped.json'})" if skipped else ""
        raise InputError(f"There is no usable chest CT in {names}{why}: put CT series or volumes there.")
    return prepared, held_out, skipped


def prepare_data(
    config: Config, report: Callable[[str], None] = print, only_held_out: bool = False
) -> tuple[list[Path], list[Path]]:
    """Folders of the scans to train on (none with ``only_held_out``) and of those to validate on; see ``prepare_scans``.

    The latter are ``data.validation`` and the patients of ``data.train`` that ``data.hold_out`` sets apart.
    """
    data, cache = config.data, config.path(config.data.cache)
    train: list[Path] = []
    held_out: list[Path] = []
    if data.validation:
        held_out, _, _ = prepare_scans(map(config.path, data.validation), cache / "validation", report)
    if data.hold_out or not only_held_out:
        folders = map(config.path, data.train)
        train, apart, _ = prepare_scans(folders, cache / "train", report, data.hold_out, only_held_out)
        held_out += apart
    return train, held_out
