"""What a tree of DICOM files holds, remembered: headers take minutes to read, names seconds.

A folder whose files have the names, sizes and times of before is not read again. Folders that share a series
are looked at together, since folders mean nothing in such trees.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ProgressiveRegistrationLib.errors import OutputError
from ProgressiveRegistrationLib.files import write_text
from ProgressiveRegistrationLib.reading.dicom import is_dicom

from .cache import VERSION, cache_key
from .dicom_tree import find_series

FORMAT = f"1.{VERSION}"
SAVE_SECONDS = 60.0  # headers read in a minute are not lost when reading them is stopped

# path -> (size, modification time in ns)
Stats = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class FoundSeries:
    """A usable CT series. ``files``: its slices in order. ``key``: changes when they change."""

    name: str
    patient: str
    uid: str
    files: tuple[Path, ...]
    key: str


@dataclass(frozen=True)
class SeriesFacts:
    """Any series, usable or not, as its headers tell of it; ``instances``: its files without copies."""

    uid: str
    modality: str = ""
    patient: str = ""
    study: str = ""
    description: str = ""
    files: int = 0
    instances: int = 0
    folder: str = ""


@dataclass
class TreeContents:
    """``left_out``: (file, reason) of what is not used."""

    series: list[FoundSeries] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    facts: list[SeriesFacts] = field(default_factory=list)


def walk(root: Path) -> dict[str, Stats]:
    """The files below ``root`` by their folder, which is relative ("." for the root)."""
    folders: dict[str, Stats] = {}
    waiting, seen = [str(root)], set()
    while waiting:
        place = waiting.pop()
        files: Stats = {}
        real = os.path.realpath(place)
        if real in seen:  # a link back
            continue
        seen.add(real)
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append(entry.path)
                elif entry.is_file():
                    stat = entry.stat()
                    files[entry.name] = (stat.st_size, stat.st_mtime_ns)
        if files:
            folders[os.path.relpath(place, root)] = dict(sorted(files.items()))
    return dict(sorted(folders.items()))


class DicomIndex:
    """The DICOM series below ``root``; what was found is kept in ``store`` (a file; None: nowhere)."""

    def __init__(self, root: Path, store: Path | None, report: Callable[[str], None] = print) -> None:
        self.root, self.store, self.report = root, store, report
        self._folders: dict[str, dict[str, Any]] = {}
        self._groups: dict[str, dict[str, Any]] = {}
        try:
            content = json.loads(store.read_text(encoding="utf-8")) if store else {}
            if content.get("format") == FORMAT:
                self._folders, self._groups = content["folders"], content["groups"]
        except (OSError, ValueError, KeyError):
            pass  # it is made anew
        self._saved = time.monotonic()

    def contents(self, folders: dict[str, Stats]) -> TreeContents:
        """The series in ``folders``: what ``walk`` gave, without files of other kinds."""
        signatures = {folder: cache_key(json.dumps(files)) for folder, files in folders.items()}
        for number, (folder, files) in enumerate(folders.items(), 1):
            if self._folders.get(folder, {}).get("signature") != signatures[folder]:
                if number % 50 == 1:
                    self.report(f"Reading headers: folder {number} of {len(folders)}, {self.root / folder}")
                found = sorted({header["uid"] for header in self._headers([folder], {folder: files})[0]})
                self._folders[folder] = {"signature": signatures[folder], "series": found}
                self._save_now_and_then()
        out, used = TreeContents(), {}
        for group in _connected({f: self._folders[f]["series"] for f in folders}):
            key = cache_key(*(f"{folder}|{signatures[folder]}" for folder in group))
            if key not in self._groups:
                self._groups[key] = self._look_at(group, folders)
                self._save_now_and_then()
            used[key] = self._groups[key]
            self._add(used[key], out)
        changed = used.keys() != self._groups.keys() or folders.keys() != self._folders.keys()
        self._groups = used
        self._folders = {folder: self._folders[folder] for folder in folders}
        if changed or self._unsaved:
            self._save()
        out.series.sort(key=lambda s: (s.patient, s.uid, s.name))
        return out

    _unsaved = False

    def _add(self, group: dict[str, Any], out: TreeContents) -> None:
        for entry in group["series"]:
            files = tuple(self.root / file for file in entry["files"])
            out.series.append(FoundSeries(**{**entry, "files": files}))
        out.left_out += [(self.root / file, reason) for file, reason in group["left_out"]]
        out.facts += [SeriesFacts(**facts) for facts in group["facts"]]

    def _headers(
        self, group: Iterable[str], folders: dict[str, Stats]
    ) -> tuple[list[dict[str, str]], list[Path], list[Path]]:
        """(headers of the DICOM files, those files, files that are named so and are none)."""
        import pydicom

        names = {
            "uid": "SeriesInstanceUID",
            "modality": "Modality",
            "patient": "PatientID",
            "study": "StudyInstanceUID",
            "description": "SeriesDescription",
            "instance": "SOPInstanceUID",
        }
        headers, dicom, false = [], [], []
        for folder in group:
            for file in folders[folder]:
                path = self.root / folder / file
                if not is_dicom(path):
                    if path.suffix.lower() in (".dcm", ".ima"):
                        false.append(path)
                    continue
                dicom.append(path)
                try:
                    read = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(names.values()))
                except (OSError, ValueError, AttributeError, pydicom.errors.InvalidDicomError):
                    continue  # ``find_series`` says what is wrong
                header = {key: str(getattr(read, tag, "") or "").strip() for key, tag in names.items()}
                headers.append({**header, "folder": folder})
        return headers, dicom, false

    def _look_at(self, group: list[str], folders: dict[str, Stats]) -> dict[str, Any]:
        headers, dicom, false = self._headers(group, folders)
        series, left_out = find_series(dicom)

        def relative(path: Path) -> str:
            return os.path.relpath(path, self.root)

        def key(files: Iterable[Path]) -> str:
            stats = [(f.name, *folders[os.path.dirname(relative(f)) or "."][f.name]) for f in files]
            return cache_key(VERSION, stats)

        by_uid: dict[str, list[dict[str, str]]] = defaultdict(list)
        for header in headers:
            by_uid[header["uid"]].append(header)
        told = {f.name for f in fields(SeriesFacts)}
        return {
            "series": [
                {
                    "name": s.name,
                    "patient": s.patient,
                    "uid": s.volume.uid,
                    "files": [relative(f) for f in s.files],
                    "key": key(s.files),
                }
                for s in series
            ],
            "left_out": [
                *((relative(f), "it is named as DICOM but is none.") for f in false),
                *((relative(f), reason) for f, reason in left_out),
            ],
            "facts": [
                {
                    **{k: v for k, v in found[0].items() if k in told},
                    "files": len(found),
                    "instances": len({h["instance"] for h in found}),
                }
                for found in by_uid.values()
            ],
        }

    def _save_now_and_then(self) -> None:
        self._unsaved = True
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self._save()

    def _save(self) -> None:
        self._saved, self._unsaved = time.monotonic(), False
        if self.store is None:
            return
        content = {"format": FORMAT, "folders": self._folders, "groups": self._groups}
        try:
            self.store.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.store, json.dumps(content))
        except (OSError, OutputError):
            self.report(f"Warning: {self.store} cannot be written: the headers will be read again.")


def _connected(series: dict[str, list[str]]) -> list[list[str]]:
    """Folders in groups that share no series with one another."""
    parent = {folder: folder for folder in series}

    def top(folder: str) -> str:
        while parent[folder] != folder:
            parent[folder] = parent[parent[folder]]
            folder = parent[folder]
        return folder

    first: dict[str, str] = {}
    for folder, uids in series.items():
        for uid in uids:
            parent[top(folder)] = top(first.setdefault(uid, folder))
    groups: dict[str, list[str]] = defaultdict(list)
    for folder in series:
        groups[top(folder)].append(folder)
    return list(groups.values())
