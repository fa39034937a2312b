"""The CSV file of a batch: one pair of scans a row, columns by name, paths relative to the file."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import os
import re
import unicodedata
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .. import formats
from ..errors import InputError
from ..options import LABELS, PATH, PairFiles, needed, parse

NEEDED = ("id", *(f.name for f in fields(PairFiles) if needed(f)))
OPTIONAL = (*(f.name for f in fields(PairFiles) if not needed(f)), "transform")
COLUMNS = (*NEEDED, *OPTIONAL)

SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
FORBIDDEN = re.compile(r'[\x00-\x1f/\\:*?"<>|]|^\.|\.$')  # in an id that is made safe
# Windows gives these no file; the others are our own.
TAKEN_IDS = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))} | {
    "summary.csv",
    "summary.html",
}
TAKEN_NAMES = TAKEN_IDS | {
    formats.WARPED,
    formats.WARPED_LABELS,
    formats.WARPED_LANDMARKS,
    formats.REPORT,
    "record",
}


@dataclass(frozen=True)
class BatchPair:
    """One row: its id, its files (absolute paths), and the name of the transform's file without its ending,
    or None."""

    id: str
    files: PairFiles
    transform: str | None = None

    @property
    def folder(self) -> str:
        """The name of its results' folder: the id, or one made of it (see ``folder_name``)."""
        return folder_name(self.id)


def read_pairs(path: str | os.PathLike) -> tuple[list[BatchPair], list[str]]:
    """The pairs of a CSV file (comma, semicolon or tab; UTF-8), and notes for the user.

    Whether the files of a pair exist is that pair's own matter and is not looked at.

    Raises
    ------
    InputError : no such file, no text, a needed column or cell missing, a column twice, a cell too many, an
        id twice or unfit for a folder's name, no pair at all.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}; give a CSV file with the columns {', '.join(NEEDED)}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; save it as CSV UTF-8.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    if "\0" in text:
        raise InputError(f"{path} is no text file; save the table as CSV.")
    first = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}; save the table as CSV again.") from error
    if not rows:
        raise InputError(f"{path} is empty; its first line must name the columns {', '.join(NEEDED)}.")
    header, notes = _header(path, rows[0][1])
    if len(rows) == 1:
        raise InputError(f"{path} has no pair below its line of column names.")
    pairs: list[BatchPair] = []
    seen: dict[str, int] = {}
    for line, cells in rows[1:]:
        pair = _pair(path, line, header, cells)
        # Case-insensitive file systems know one folder for "A" and "a".
        earlier = seen.setdefault(pair.id.lower(), line)
        if earlier != line:
            raise InputError(
                f"{path}, line {line}: the id {pair.id} is that of line {earlier} already; "
                "give every pair its own."
            )
        pairs.append(pair)
    return pairs, notes


def _header(path: Path, cells: list[str]) -> tuple[list[str], list[str]]:
    names = [re.sub(r"[\s-]+", "_", cell.lower()) for cell in cells]
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(missing)}; its first line must name the columns "
            f"{', '.join(NEEDED)}, and may name {', '.join(COLUMNS[len(NEEDED) :])}."
        )
    unused = []
    for index, name in enumerate(names):
        if name in COLUMNS and name in names[:index]:
            raise InputError(f"{path} has the column {name} twice.")
        if name not in COLUMNS and name:
            # A slip in an optional column would change the results without a word.
            meant = difflib.get_close_matches(name, COLUMNS, n=1, cutoff=0.85)
            if meant:
                raise InputError(f"{path} has a column {name}; rename it to {meant[0]} if it is that.")
            unused.append(cells[index])
    notes = [f"Columns of {path.name} that are not used: {', '.join(unused)}."] if unused else []
    return names, notes


def _pair(path: Path, line: int, header: list[str], cells: list[str]) -> BatchPair:
    if len(cells) > len(header):
        raise InputError(
            f"{path}, line {line}: {len(cells)} cells, but {len(header)} columns; put quotes around cells "
            "that contain the separator."
        )
    row = {name: cell for name, cell in zip(header, cells) if name in COLUMNS and cell}
    for name in NEEDED:
        if name not in row:
            raise InputError(f"{path}, line {line}: the cell {name} is empty.")
    for name, taken in (("id", TAKEN_IDS), ("transform", TAKEN_NAMES)):
        text = row.get(name)
        if text is None:
            continue
        can_be_made = name == "id" and text and not FORBIDDEN.search(text) and len(text) <= 100
        if not _is_safe(folder_name(text) if can_be_made else text, taken):
            raise InputError(
                f"{path}, line {line}: the {name} {text!r} cannot be the name of a "
                f"{'folder' if name == 'id' else 'file'} here; use letters, digits, '_', '-', '+' and "
                "'.' only."
            )
    values: dict[str, Any] = {}
    for about in fields(PairFiles):
        cell = row.get(about.name)
        if cell is None:
            continue
        if about.metadata["kind"] == PATH:
            # Absolute without resolving: links keep the names that the user knows.
            values[about.name] = path.absolute().parent / cell
        elif about.metadata["kind"] == LABELS:
            labels = [label.strip() for label in cell.split(";")]
            values[about.name] = tuple(label for label in labels if label)
        else:
            values[about.name] = parse(about, cell)
    return BatchPair(row["id"], PairFiles(**values), row.get("transform"))


def folder_name(id: str) -> str:
    """The id as a folder's name on any system: letters without marks, "_" for the rest, and a piece of its
    hash, so that no two ids share one."""
    if SAFE_NAME.fullmatch(id):
        return id
    plain = unicodedata.normalize("NFKD", id).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9_.+-]+", "_", plain).strip("_.") or "pair"
    return f"{plain[:80]}-{hashlib.sha256(id.encode()).hexdigest()[:6]}"


def _is_safe(name: str, taken: set[str]) -> bool:
    lower = name.lower()
    return bool(
        SAFE_NAME.fullmatch(name)
        and not name.endswith(".")
        and lower not in taken
        and lower.partition(".")[0] not in TAKEN_IDS
    )
