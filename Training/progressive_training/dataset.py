"""Scans to train on: LIDC-IDRI as TCIA serves it, or volumes (NRRD, NIfTI, MetaImage) in any folders.

Each scan is prepared once and cached; whatever is skipped is reported with the reason.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import SimpleITK as sitk
from ProgressiveRegistrationLib.errors import InputError, OutputError, ProgressiveRegistrationError
from ProgressiveRegistrationLib.files import write_text
from ProgressiveRegistrationLib.images import read_image

from .cache import VERSION, cache_key, is_prepared, prepare, scan_source
from .dicom_index import DicomIndex, walk
from .dicom_tree import find_series

if TYPE_CHECKING:
    from .config import Config

VOLUME_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd", ".nii", ".nii.gz")
HEADER_ENDINGS = (".nhdr", ".mhd")
# The field of a header that names the file with the voxels, or a LIST of files, or a pattern with its
# numbers.
DATA_FILE = re.compile(
    r"^\s*(?:ElementDataFile\s*=|data ?file:)[ \t]*(.+?)\s*$", re.IGNORECASE | re.MULTILINE
)


@dataclass(frozen=True)
class Source:
    """One scan on disk. ``files``: the volume, or the slices of a series in order. ``key``:
    changes when they change.

    ``patient``: the patient ID, or of a volume see ``by_patient``.
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

    A hash of the ID decides, so that it stays as it is when others come or go, and all scans of a patient go
    together.
    """
    place = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") / 2**64
    return place < share


def file_key(files: Iterable[Path]) -> str:
    """Changes when a file is replaced: names, sizes and times."""
    stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return cache_key(VERSION, stats)


def data_files(volume: Path) -> list[Path]:
    """The files beside a MetaImage or NRRD header that hold its voxels, as far as they are there;
    else none."""
    if not volume.name.lower().endswith(HEADER_ENDINGS):
        return []
    try:
        with open(volume, encoding="latin-1") as file:
            text = file.read(1 << 20)
    except OSError:  # reading it as an image tells what is wrong
        return []
    field = DATA_FILE.search(text)
    if field is None:
        return []
    named = field[1]
    if named.split()[0].upper() == "LIST":
        found = [volume.parent / line.strip() for line in text[field.end() :].splitlines() if line.strip()]
    elif "%" in named:
        found = sorted(volume.parent.glob(re.sub(r"%\d*d", "*", named.split()[0])))
    else:
        found = [volume.parent / named]
    return [path for path in found if path.is_file()]


def by_patient(sources: list[Source]) -> list[Source]:
    """The sources, volumes with their patients: each file's name,
    or its folder's where names repeat (PATIENT/ct.nrrd).

    Names that repeat in fewer folders than there are names are patients scanned several times
    (sharp/PATIENT.nrrd).
    """
    folders = [s.files[0].resolve().parent if is_volume(s.files[0]) else None for s in sources]
    places = defaultdict(set)
    for source, folder in zip(sources, folders):
        if folder:
            places[source.patient].add(folder)
    repeated = {name: found for name, found in places.items() if len(found) > 1}
    if len(set().union(*repeated.values())) < len(repeated):
        return sources
    return [
        replace(source, patient=folder.name) if folder and source.patient in repeated else source
        for source, folder in zip(sources, folders)
    ]


def cache_folder(cache: Path, source: Source) -> Path:
    """Where a scan is prepared: under its key, or under one of its own when that is taken by another file.

    Files of two folders may share name, size and time. What is cached of a file that is no more is taken for
    this one's: data may move.
    """
    place, own = cache / source.key, cache / cache_key(source.key, source.files[0].resolve())
    if is_prepared(own):
        return own
    if not is_prepared(place):
        return place
    before = scan_source(place)
    try:
        return place if before is None or before.samefile(source.files[0]) else own
    except OSError:
        return place


def find_scans(
    folders: Iterable[Path], index: Path | None = None, report: Callable[[str], None] = print
) -> tuple[list[Source], list[Skipped]]:
    """All scans below the folders (or the volume files named themselves), and what was left out.

    ``index``: a folder that keeps what DICOM headers told, so that they are read once.
    """
    sources: list[Source] = []
    skipped: list[Skipped] = []
    for folder in folders:
        if not folder.exists():
            raise InputError(f"There is no data folder {folder}: correct data.train or data.validation.")
        if folder.is_file():
            stat = folder.stat()
            root, tree = folder.parent, {".": {folder.name: (stat.st_size, stat.st_mtime_ns)}}
        else:
            root, tree = folder, walk(folder)
        volumes = sorted(
            root / place / name for place in tree for name in tree[place] if is_volume(Path(name))
        )
        for path in volumes:
            key = file_key([path, *data_files(path)])
            name = str(path.relative_to(root))
            sources.append(Source(name, stem(path), (path,), key, partial(read_image, path)))
        others = {
            place: {name: stat for name, stat in files.items() if not is_volume(Path(name))}
            for place, files in tree.items()
        }
        store = index / f"{cache_key(folder.resolve())}.json" if index else None
        found = DicomIndex(root, store, report).contents({p: files for p, files in others.items() if files})
        sources += [
            Source(s.name, s.patient, s.files, s.key, partial(read_series, s.files, s.name))
            for s in found.series
        ]
        skipped += [Skipped(*entry) for entry in found.left_out]
    return by_patient(sources), skipped


def read_series(files: tuple[Path, ...], name: str) -> sitk.Image:
    """A series' volume in HU; raises InputError when a slice is damaged or has changed meanwhile."""
    for series in find_series(files)[0]:
        if series.name == name:
            return series.read()
    raise InputError(f"Series {name} in {files[0].parent} is not what it was when its headers were read.")


def prepare_scans(
    folders: Iterable[Path],
    cache: Path,
    report: Callable[[str], None] = print,
    hold_out: float = 0.0,
    only_held_out: bool = False,
) -> tuple[list[Path], list[Path], list[Skipped]]:
    """Prepare every scan that is not in the cache yet,
    or only those of the patients that ``hold_out`` sets apart.

    Returns
    -------
    folders of prepared scans, in a stable order; those held out; and what was skipped. A report is left in
    ``cache/skipped.json``.

    Raises
    ------
    InputError : no usable scan. OutputError : the cache cannot be written.
    """
    folders = list(folders)
    sources, skipped = find_scans(folders, cache / "index", report)
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
        target = cache_folder(cache, source)
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
    """Folders of the scans to train on (none with ``only_held_out``) and of those to validate on;
    see ``prepare_scans``.

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
