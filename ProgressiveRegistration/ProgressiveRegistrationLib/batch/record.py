"""``record.json`` of a batch's pair: what was registered how, what came out;
by it a finished pair is known again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import write_text
from ..statistics import STATISTICS

FORMAT = 1
NAME = "record.json"


def checksum(path: str | os.PathLike) -> str:
    """SHA-256 (hex) of a file, with the file that holds its voxels when that is another,
    or of a folder's files.

    Raises
    ------
    InputError : missing or unreadable.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; correct its path in the table of pairs.")
    try:
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        else:
            files = [path, *_detached(path)]
        sums = [(file.name, _of_file(file)) for file in files]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(sums) == 1 and path.is_file():
        return sums[0][1]
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()


def _of_file(path: Path) -> str:
    found = path.stat()
    return _read_sum(str(path), found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4096)
def _read_sum(path: str, size: int, modified: int) -> str:
    """Size and time are there for the cache: one scan is often in several pairs."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _detached(path: Path) -> list[Path]:
    """The files that a header file (.mhd, .nhdr, .hdr) names; unknown ways of naming them: none."""
    ending = path.suffix.lower()
    if ending in (".hdr", ".img"):
        other = path.with_suffix(".img" if ending == ".hdr" else ".hdr")
        return [other] if other.is_file() else []
    key = {".mhd": "elementdatafile", ".nhdr": "data file"}.get(ending)
    if key is None:
        return []
    with open(path, "rb") as stream:
        text = stream.read(1 << 16).decode("latin-1")
    for line in text.splitlines():
        name, separator, value = line.partition("=" if ending == ".mhd" else ":")
        if separator and name.strip().lower() == key:
            file = path.parent / value.strip().lstrip("=").strip()
            return [file] if file.is_file() else []
    return []


def read_record(folder: str | os.PathLike) -> dict | None:
    """The record in a pair's folder; None: there is none that can be read."""
    try:
        record = json.loads((Path(folder) / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(record, dict) and record.get("format") == FORMAT and "status" in record
    return record if known else None


def is_finished(
    record: Mapping[str, Any] | None, wanted: Mapping[str, Any], folder: str | os.PathLike
) -> bool:
    """Was this very work done: same input checksums, options and model, and are all its files still there?

    ``wanted``: {"inputs": {name: {"path", "sha256"}}, "options": …, "model": …}. Where the inputs lie does
    not matter.
    """
    if record is None or record["status"] != "done":
        return False
    if _essence(record) != _essence(wanted):
        return False
    for name, size in record.get("outputs", {}).items():
        try:
            if (Path(folder) / name).stat().st_size != size:
                return False
        except OSError:
            return False
    return True


def _essence(work: Mapping[str, Any]) -> Any:
    sums = {name: entry["sha256"] for name, entry in work.get("inputs", {}).items()}
    # Through JSON: tuples and lists are the same there.
    return json.loads(json.dumps([sums, work.get("options"), work.get("model")], sort_keys=True))


def write_record(folder: str | os.PathLike, record: Mapping[str, Any]) -> dict:
    """Write a record whole or not at all; returns it with format and time. Raises OutputError."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    full = {"format": FORMAT, "created": now, **record}
    write_text(
        Path(folder) / NAME,
        json.dumps(full, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n",
    )
    return full


def clear(folder: str | os.PathLike, record: Mapping[str, Any] | None) -> None:
    """Remove what an earlier run left in a pair's folder, the record last; other files stay."""
    folder = Path(folder)
    for stage in folder.glob(".writing-*"):  # of a run that was killed
        for left in [*stage.rglob("*")][::-1]:
            left.rmdir() if left.is_dir() else left.unlink()
        stage.rmdir()
    names = list((record or {}).get("outputs", {}))
    for name in [*names, NAME]:
        if Path(name).name == name:
            (folder / name).unlink(missing_ok=True)


def figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """A pair's figures for the summary: TRE (mm) before and after, folding (%), seconds; None:
    not measured."""
    tre = report.get("tre_mm") or {}
    out: dict[str, Any] = {"landmarks": tre["after"]["count"] if tre else None}
    for when in ("before", "after"):
        for name in STATISTICS:
            out[f"tre_{when}_{name}_mm"] = tre[when][name] if tre else None
    folding = report["folding"]
    out["folding_lung_percent"] = folding["lung_percent"]
    out["folding_field_of_view_percent"] = folding["field_of_view_percent"]
    consistency = report.get("inverse_consistency_mm")
    out["inverse_consistency_mean_mm"] = consistency["mean"] if consistency else None
    out["seconds"] = report["seconds"]["total"]
    return out
