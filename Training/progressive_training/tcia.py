"""Collections of The Cancer Imaging Archive: what they need, and whether a download of one is whole."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.files import write_text

from .cache import cache_key
from .dicom_index import DicomIndex, FoundSeries, SeriesFacts, walk

# Measured, see README.md: a prepared scan, and the seconds that preparing one takes.
PREPARED_MB, PREPARE_SECONDS = 25, (1.0, 2.5)
HEADERS_A_SECOND = 300
PHASE = re.compile(r"(\d+(?:\.\d+)?)\s*%")
# What a column is called in the Data Retriever's metadata.csv, in the archive's spreadsheets and in its API.
COLUMNS = {
    "uid": ("series uid", "series instance uid", "seriesinstanceuid", "series id"),
    "modality": ("modality",),
    "patient": ("subject id", "patient id", "patientid"),
    "images": ("number of images", "image count", "imagecount"),
}
MANIFEST = """downloadServerUrl=https://public.cancerimagingarchive.net/nbia-download/servlet/DownloadServlet
includeAnnotation=false
noOfrRetry=4
databasketId={name}
manifestVersion=3.0
ListOfSeriesToDownload=
"""


@dataclass(frozen=True)
class Collection:
    """``scans``, ``files``, ``gigabytes``: what the archive says of it, for estimates."""

    name: str
    doi: str
    licence: str
    patients: int
    scans: int
    files: int
    gigabytes: int
    purpose: str


COLLECTIONS = {
    "lidc-idri": Collection(
        "LIDC-IDRI",
        "10.7937/K9/TCIA.2015.LO9QL9SX",
        "CC BY 3.0",
        1010,
        1018,
        244_527,
        125,
        "to train on, as the paper did: name its folder in data.train (configs/paper.yaml)",
    ),
    "4d-lung": Collection(
        "4D-Lung",
        "10.7937/K9/TCIA.2016.ELN8YGLE",
        "CC BY 3.0",
        20,
        6690,
        347_330,
        183,
        "to register phases of one breath, without landmarks: --pairs writes a table for "
        "progressive-registration batch, whose reports tell of folding and show the images",
    ),
}


def needs(collection: Collection) -> str:
    """What a user must get and have, in a few lines."""
    c = collection
    lines = [
        f"{c.name}: {c.patients:,} patients, {c.scans:,} series, {c.files:,} files, about {c.gigabytes} GB; "
        f"{c.licence}, https://doi.org/{c.doi}",
        f"  for: {c.purpose}",
        "  get: press Download on that page, open the manifest (.tcia) with the NBIA Data Retriever, and",
        "    choose descriptive directory names; keep the metadata.csv that it writes beside the images",
        f"  then: progressive-registration-train data {c.name.lower()} FOLDER",
    ]
    if c.name == "LIDC-IDRI":
        lines.append(f"  disk: {c.gigabytes} GB, and for the cache {_estimate(c.scans, c.files)}")
    return "\n".join(lines)


def _estimate(scans: int, files: int = 0) -> str:
    low, high = (scans * s / 60 for s in PREPARE_SECONDS)
    headers = f", and {files / HEADERS_A_SECOND / 60:.0f} minutes for the headers" if files else ""
    return f"{scans * PREPARED_MB / 1000:.1f} GB; {low:.0f} to {high:.0f} minutes on one core{headers}, once"


@dataclass(frozen=True)
class Expected:
    """A series as the archive's metadata has it; ``images`` None: a manifest does not tell."""

    uid: str
    modality: str = ""
    patient: str = ""
    images: int | None = None


def find_metadata(folder: Path) -> Path | None:
    """The metadata or manifest that the Data Retriever leaves in or beside a download."""
    for place in (folder, *list(folder.resolve().parents)[:2]):
        for found in (place / "metadata.csv", *sorted(place.glob("*.tcia"))):
            if found.is_file():
                return found
    return None


def read_metadata(path: Path) -> dict[str, Expected]:
    """Series UID -> what is expected of it, from metadata.csv, the API's JSON or CSV, or a manifest.

    Raises InputError.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The metadata {path} cannot be read: {error}.") from error
    if "ListOfSeriesToDownload=" in text:
        uids = text.split("ListOfSeriesToDownload=", 1)[1].split()
        return {uid: Expected(uid) for uid in uids}
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else list(csv.DictReader(io.StringIO(text)))
        found = {e.uid: e for e in map(_expected, rows) if e.uid}
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise InputError(f"The metadata {path} cannot be read: {error}.") from error
    if not found:
        raise InputError(
            f"{path} names no series: give the metadata.csv of the NBIA Data Retriever, the archive's list "
            "of series, or a manifest (.tcia)."
        )
    return found


def _expected(row: Mapping[str, object]) -> Expected:
    plain = {
        str(k).strip().lower(): str(v).strip() for k, v in row.items() if k is not None and v is not None
    }
    given = {name: next((plain[a] for a in also if a in plain), "") for name, also in COLUMNS.items()}
    images = given["images"].replace(",", "")
    return Expected(given["uid"], given["modality"], given["patient"], int(images) if images else None)


@dataclass
class Check:
    """What was found. ``problems``: (series UID, sentence) of CT series to download again or to know of.

    ``usable``: CT series that can be trained on. ``beside``: series of other kinds, which are not needed.
    """

    usable: list[FoundSeries]
    patients: int
    expected: int | None
    complete: int
    problems: list[tuple[str, str]] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    beside: dict[str, int] = field(default_factory=dict)


def check_download(
    folder: Path,
    metadata: Mapping[str, Expected] | None,
    index: Path | None = None,
    report: Callable[[str], None] = print,
) -> Check:
    """Compare the files below ``folder`` with the archive's metadata, and look for what cannot be used.

    ``index``: a folder that keeps what headers told; that of a training's cache, and training begins at once.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}: give the one that the NBIA Data Retriever filled.")
    store = index / f"{cache_key(folder.resolve())}.json" if index else None
    contents = DicomIndex(folder, store, report).contents(walk(folder))
    facts = {f.uid: f for f in contents.facts}
    wanted = {u: e for u, e in (metadata or {}).items() if e.modality in ("", "CT")}
    out = Check(
        usable=contents.series,
        patients=len({s.patient for s in contents.series}),
        expected=len(wanted) if metadata is not None else None,
        complete=sum(u in facts and _missing(e, facts[u]) == 0 for u, e in wanted.items()),
    )
    for fact in contents.facts:
        if fact.modality != "CT":
            out.beside[fact.modality or "?"] = out.beside.get(fact.modality or "?", 0) + 1
        elif fact.files > fact.instances:
            copies = fact.files - fact.instances
            out.problems.append((fact.uid, f"{_name(fact)} has {copies} file(s) twice; one copy is used"))
    for uid, entry in wanted.items():
        if uid not in facts:
            out.problems.append((uid, f"{entry.patient or 'series'} {uid}: no file of it is here"))
            out.again.append(uid)
        elif _missing(entry, facts[uid]):
            have = f"{facts[uid].instances} of {entry.images} images"
            out.problems.append((uid, f"{_name(facts[uid])} has {have}"))
            out.again.append(uid)
    others = [f"{path}: {reason}" for path, reason in contents.left_out if not _told_already(reason)]
    out.problems += [("", text) for text in others]
    return out


def _missing(entry: Expected, fact: SeriesFacts) -> int:
    return max(0, entry.images - fact.instances) if entry.images is not None else 0


def _told_already(reason: str) -> bool:
    """Copies are counted from the headers, and other kinds of images are no problem."""
    return "file(s) twice" in reason or reason.endswith("not CT.")


def _name(fact: SeriesFacts) -> str:
    return f"{fact.patient or 'unknown'}, series {fact.uid[-12:]} in {fact.folder}"


def summary(check: Check, cache: Path) -> str:
    """Some lines for a user; the problems come after."""
    lines = [f"{len(check.usable)} usable CT series of {check.patients} patient(s)"]
    if check.expected is None:
        lines.append("no metadata.csv and no manifest was found: whether series are missing cannot be said")
    else:
        lines.append(f"{check.complete} of the {check.expected} CT series of the metadata are here whole")
    if check.beside:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(check.beside.items()))
        lines.append(f"not needed and left alone: {kinds}")
    place = next(p for p in (cache, *cache.resolve().parents) if p.exists())
    free = shutil.disk_usage(place).free / 1e9
    need = len(check.usable) * PREPARED_MB / 1000
    room = "" if free > need else " : NOT ENOUGH"
    lines.append(
        f"preparing them takes {_estimate(len(check.usable))}; {free:.0f} GB are free at {place}{room}"
    )
    return "\n".join(lines)


def write_manifest(uids: Sequence[str], path: Path) -> None:
    """A manifest with which the Data Retriever gets these series."""
    write_text(path, MANIFEST.format(name=path.name) + "\n".join(uids) + "\n")


# ---- phases ------------------------------------------------------------------------------------------------


def phases(facts: Sequence[SeriesFacts]) -> dict[tuple[str, str], dict[float, SeriesFacts]]:
    """(patient, study UID) -> percent of the breath -> its CT series, where the descriptions tell of phases.

    A study with one phase twice (two scans, or two reconstructions) is left out: which belong together is not
    told.
    """
    found: dict[tuple[str, str], dict[float, SeriesFacts]] = defaultdict(dict)
    unclear = set()
    for fact in facts:
        percent = PHASE.search(fact.description)
        if fact.modality != "CT" or percent is None:
            continue
        study = (fact.patient, fact.study)
        if float(percent[1]) in found[study]:
            unclear.add(study)
        found[study][float(percent[1])] = fact
    return {study: dict(sorted(p.items())) for study, p in found.items() if study not in unclear}


def write_pairs(
    folder: Path, table: Path, index: Path | None = None, report: Callable[[str], None] = print
) -> int:
    """A table for ``progressive-registration batch``: each study's phases at 50 % (fixed) and 0 % (moving).

    By the usual convention 0 % is the end of breathing in, and 50 % about the end of breathing out. Returns
    the number of pairs; raises InputError if there is none.
    """
    store = index / f"{cache_key(folder.resolve())}.json" if index else None
    contents = DicomIndex(folder, store, report).contents(walk(folder))
    usable = {s.uid: s for s in contents.series}
    rows = []
    for number, ((patient, _), found) in enumerate(sorted(phases(contents.facts).items()), 1):
        ends = [found[percent] for percent in (50.0, 0.0) if percent in found]
        if len(ends) < 2 or any(end.uid not in usable for end in ends):
            continue
        places = [folder.resolve() / end.folder for end in ends]
        rows.append(
            (f"{re.sub(r'[^A-Za-z0-9_.+-]', '_', patient)}-{number:03d}", *places, *(e.uid for e in ends))
        )
    if not rows:
        raise InputError(
            f"No study in {folder} has usable phases at 0 % and 50 %: the series' descriptions must tell "
            'them, as in "Gated, 50.0%".'
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "fixed", "moving", "fixed_series", "moving_series"))
    writer.writerows(rows)
    write_text(table, text.getvalue())
    return len(rows)
