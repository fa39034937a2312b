"""Landmarks: named points in LPS mm, from and to the files that people keep them in.

Formats, by the file's ending:

- ``.mrk.json``, ``.json``: Slicer Markups; its ``coordinateSystem`` (LPS or RAS) is honoured, points without
  a position are left out, per-point measurements can be written.
- ``.fcsv``: Slicer's older point list; ``CoordinateSystem`` header 0/RAS or 1/LPS, none = RAS, as Slicer
  itself reads it.
- ``.csv``: a header of ``label,x_lps,y_lps,z_lps`` or ``label,x_ras,y_ras,z_ras``, mm; Slicer's table of
  points (``label,r,a,s`` or ``l,p,s``, with ``defined``); no header: ``columns`` says what the numbers are
  (``BARE``; Learn2Reg: voxels from 0).
- ``.txt``: DIR-Lab: one point a row, 1-based voxel numbers x y z of an image that must be given.
- ``.pts``: POPI: one point a row, mm.

**DIR-Lab voxels.** The row ``x y z`` is the voxel (x - 1, y - 1, z - 1) *as the image is stored*: the raw
files run from head to feet, so an image converted from them must still have the head in its first slice
(its third axis then points to the feet, whatever its header says). For an image whose slices were put in
the opposite order, ``slices_reversed=True`` counts z from the other end. The distance between two such
lists is right in any header's frame.

**POPI points** are mm in the frame of the POPI images: what ITK gives for a voxel of their ``.mhd`` files
(origin 0, identity matrix). They are taken as they are, as LPS of those images; a copy of the images with
another origin, or with its slices turned over, does not go with them.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .files import write_text
from .formats import listed
from .geometry import Grid

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
CSV_HEADERS = "label,x_lps,y_lps,z_lps or label,x_ras,y_ras,z_ras"
RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
# What ``columns`` may say of a CSV without a header.
DECIMAL_COMMA = re.compile(r"^\s*([-+]?\d+),(\d+)\s*$")
BARE = {
    "voxels": "the first three are voxels of the image, counted from 0",
    "voxels-2": "the same, the next three",
    "lps": "mm, LPS",
    "ras": "mm, RAS",
}
FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


@dataclass(frozen=True)
class Landmarks:
    """A list of points.

    Attributes
    ----------
    points : (n, 3) float64, LPS mm.
    labels : n names; "1", "2", ... where the file has none.
    labelled : do the names come from the file?
    undefined : places in the file's list (from 0) of points without a position; ``points`` lacks them.
    source : what to call the list in a message.
    """

    points: np.ndarray
    labels: list[str]
    labelled: bool = True
    undefined: tuple[int, ...] = ()
    source: str = "the landmark list"

    def __post_init__(self) -> None:
        points = np.asarray(self.points, float).reshape(-1, 3)
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "labels", [str(label) for label in self.labels])
        if len(points) != len(self.labels):
            raise InputError(f"{self.source} has {len(points)} points but {len(self.labels)} labels.")
        bad = ~np.isfinite(points).all(1)
        if bad.any():
            label = self.labels[int(np.flatnonzero(bad)[0])]
            raise InputError(f"{self.source}: landmark {label} has a coordinate that is not a finite number.")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def places(self) -> np.ndarray:
        """(n,) int: where each point stands in the file's list, points without a position counted."""
        total = len(self) + len(self.undefined)
        return np.setdiff1d(np.arange(total), self.undefined)

    def at(self, points: np.ndarray) -> Landmarks:
        """The same landmarks at other positions (n, 3), LPS mm."""
        return replace(self, points=points)

    def subset(self, indices: Sequence[int]) -> Landmarks:
        """Some of the landmarks, in the given order, as a list of its own."""
        return replace(
            self, points=self.points[list(indices)], labels=[self.labels[i] for i in indices], undefined=()
        )

    def without(self, labels: Sequence[str]) -> Landmarks:
        """The list with the landmarks of these labels left out; InputError if a label is not there."""
        missing = sorted(set(labels) - set(self.labels))
        if missing:
            raise InputError(f"{self.source} has no landmark {', '.join(missing)} to leave out.")
        return self.subset([i for i, label in enumerate(self.labels) if label not in set(labels)])


def read_landmarks(
    path: str | os.PathLike,
    image: sitk.Image | Grid | None = None,
    *,
    columns: str | None = None,
    slices_reversed: bool = False,
) -> Landmarks:
    """Read a landmark file; the format goes by its ending (see the module's table).

    Parameters
    ----------
    image : the image (or its grid) that DIR-Lab voxel numbers refer to; other formats do not need it.
    columns : for a CSV with several point sets side by side, the chosen one's prefix: ``baseline`` reads
        ``baseline_x_lps`` ... or ``baseline_x_ras`` ..., or plain ``baseline_x`` ... as LPS.
    slices_reversed : for DIR-Lab files, count z from the image's last slice.

    Raises
    ------
    InputError : missing, unreadable or empty file, unknown ending or frame, DIR-Lab file without an image.
    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("points.csv").write_text("label,x_ras,y_ras,z_ras\\ncarina,2.5,-31,-118\\n")
    >>> landmarks = read_landmarks("points.csv")
    >>> landmarks.labels, landmarks.points.tolist()
    (['carina'], [[-2.5, 31.0, -118.0]])
    """
    path = Path(path)
    form = _format(path)
    if not path.is_file():
        raise InputError(f"There is no landmark file {path}.")
    if columns is not None and not form.columns:
        raise InputError(f"{path.name}: columns can be chosen in .csv files only.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} cannot be read as text: is it a landmark file?") from error
    try:
        landmarks = form.read(text, _Context(path.name, image, columns, slices_reversed))
    except csv.Error as error:
        raise InputError(
            f"{path.name} is no table of landmarks, or damaged ({error}); save it again."
        ) from error
    if len(landmarks) == 0:
        raise InputError(f"{path.name} holds no landmarks.")
    return landmarks


def write_landmarks(
    landmarks: Landmarks,
    path: str | os.PathLike,
    image: sitk.Image | Grid | None = None,
    *,
    measurements: Mapping[str, ArrayLike] | None = None,
    slices_reversed: bool = False,
) -> None:
    """Write a landmark file in LPS mm, or in 1-based voxels of ``image`` for DIR-Lab's ``.txt``.

    ``measurements``: name -> n values in mm, kept by ``.mrk.json`` (Slicer shows them) and ``.csv``.
    Points that had no position are not written. Voxels keep decimals, so that nothing is lost.

    Raises
    ------
    InputError : unknown ending, no image for ``.txt``, measurements of a wrong length or where none go.
    OutputError : the file cannot be written.
    """
    path = Path(path)
    form = _format(path)
    measured = {name: np.asarray(values, float) for name, values in (measurements or {}).items()}
    for name, values in measured.items():
        if values.shape != (len(landmarks),):
            raise InputError(f"{path.name}: {name} has {values.size} values for {len(landmarks)} landmarks.")
    if measured and not form.measurements:
        room = ", ".join(f.shown for f in FORMATS.values() if f.measurements)
        raise InputError(f"{path.name}: only {room} files have room for measurements.")
    write_text(path, form.write(landmarks, measured, _Context(path.name, image, None, slices_reversed)))


@dataclass(frozen=True)
class _Context:
    """What a reader or writer may need beside the text: file name, image, chosen columns, order of slices."""

    name: str
    image: sitk.Image | Grid | None
    columns: str | None
    slices_reversed: bool


@dataclass(frozen=True)
class Format:
    """A landmark file format.

    shown : what people call its ending. read : (text, context) -> ``Landmarks``.
    write : (landmarks, measurements by name, context) -> text. columns : may hold several point sets.
    measurements : has room for them.
    """

    shown: str
    read: Callable[[str, _Context], Landmarks]
    write: Callable[[Landmarks, Mapping[str, np.ndarray], _Context], str]
    columns: bool = False
    measurements: bool = False


def _format(path: Path) -> Format:
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise InputError(f"{path.name} is not a landmark file that can be used: choose {endings_shown()}.")
    return FORMATS[ending]


def endings_shown() -> str:
    """The endings in words, for help and errors."""
    return listed(tuple(form.shown for form in FORMATS.values()))


def _from_markups(text: str, context: _Context) -> Landmarks:
    name = context.name
    try:
        content = json.loads(text)
        lists = content["markups"]
        list_of_points = isinstance(lists[0]["controlPoints"], list)
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        list_of_points = False
    if not list_of_points:
        raise InputError(f"{name} is no Slicer Markups file, or damaged; save it again in Slicer.")
    if len(lists) > 1:
        raise InputError(f"{name} holds {len(lists)} Markups lists; save each as a file of its own.")
    markups = lists[0]
    if markups.get("type", "Fiducial") != "Fiducial":
        raise InputError(f"{name} holds a {markups['type']}, not a point list; save the landmarks as points.")
    units = markups.get("coordinateUnits", "mm")
    if (units[0] if isinstance(units, list) and units else units) != "mm":
        raise InputError(f"{name} has its coordinates in {units}; save it in mm.")
    sign = _frame_sign(markups.get("coordinateSystem") or "LPS", name)
    points, labels, undefined = [], [], []
    for place, point in enumerate(markups["controlPoints"]):
        # Slicer: a missing status means defined; "preview" is a point still being placed.
        if not isinstance(point, dict) or point.get("positionStatus", "defined") != "defined":
            undefined.append(place)
            continue
        label = str(point.get("label") or "")
        points.append(_three_numbers(point.get("position"), name, label or str(place + 1)) * sign)
        labels.append(label)
    return _labelled(points, labels, name, undefined)


def _from_fcsv(text: str, context: _Context) -> Landmarks:
    name = context.name
    sign, versioned = RAS_TO_LPS, False
    points, labels, undefined = [], [], []
    lines = text.splitlines()
    for line in lines:
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            if key.strip() == "CoordinateSystem":
                sign = _frame_sign(value.strip(), name)
            versioned = versioned or key.strip() == "Markups fiducial file version"
    rows = list(csv.reader(line for line in lines if line.strip() and not line.startswith("#")))
    for place, row in enumerate(rows):
        # Slicer 3 wrote "label,x,y,z,sel,vis" without a version line.
        label = (row[11] if len(row) > 11 else "") if versioned else row[0]
        if versioned and len(row) > 14 and row[14].strip() not in ("", "2"):
            undefined.append(place)
            continue
        points.append(_three_numbers(row[1:4], name, label or str(place + 1)) * sign)
        labels.append(label)
    return _labelled(points, labels, name, undefined)


def _from_csv(text: str, context: _Context) -> Landmarks:
    name, columns = context.name, context.columns
    first = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(c.strip() for c in row)]
    if delimiter != ",":  # spreadsheets in German and others
        rows = [[DECIMAL_COMMA.sub(r"\1.\2", cell) for cell in row] for row in rows]
    if not rows:
        raise InputError(f"{name} is empty; a landmark CSV starts with {CSV_HEADERS}.")
    header = [cell.strip().lower() for cell in rows[0]]
    if all(_is_number(cell) for cell in header):
        return _from_bare_numbers(rows, context)
    prefix = f"{columns.lower()}_" if columns else ""
    forms = {"_lps": np.ones(3), "_ras": RAS_TO_LPS, **({"": np.ones(3)} if columns else {})}
    slicer = {"l,p,s": np.ones(3), "r,a,s": RAS_TO_LPS}  # as Slicer exports a table of points
    found = [form for form in forms if all(f"{prefix}{axis}{form}" in header for axis in "xyz")]
    if not found and not columns:
        found = [form for form in slicer if all(axis in header for axis in form.split(","))]
        forms = slicer
    if not found:
        wanted = f"columns {prefix}x_lps,{prefix}y_lps,{prefix}z_lps (or _ras)" if columns else CSV_HEADERS
        raise InputError(f"{name} needs the header {wanted}, mm; its first row is {','.join(rows[0])}.")
    sign = forms[found[0]]
    axes = found[0].split(",") if found[0] in slicer else [f"{prefix}{axis}{found[0]}" for axis in "xyz"]
    where = [header.index(axis) for axis in axes]
    defined = header.index("defined") if found[0] in slicer and "defined" in header else None
    label_column = next((header.index(c) for c in ("label", "name", "id") if c in header), None)
    points, labels, undefined = [], [], []
    for number, row in enumerate(rows[1:], start=1):
        if defined is not None and defined < len(row) and row[defined].strip() in ("0", "false", "False"):
            undefined.append(number - 1)
            continue
        label = row[label_column].strip() if label_column is not None and label_column < len(row) else ""
        values = [row[i] if i < len(row) else "" for i in where]
        points.append(_three_numbers(values, name, label or str(number)) * sign)
        labels.append(label)
    return _labelled(points, labels, name, undefined)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _from_bare_numbers(rows: list[list[str]], context: _Context) -> Landmarks:
    """A CSV without a header: what its numbers mean must be said (Learn2Reg keeps voxels that way)."""
    name, columns = context.name, context.columns
    if columns not in BARE:
        known = "; ".join(f"{key}: {meaning}" for key, meaning in BARE.items())
        raise InputError(
            f"{name} has numbers and no header, so what they mean must be said with --fixed-columns or "
            f"--moving-columns ({known})."
        )
    first = 3 if columns.endswith("-2") else 0
    points = []
    for number, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row[first : first + 3]]
        points.append(_three_numbers(cells, name, f"in line {number}"))
    values = np.array(points)
    if columns.startswith("voxels"):
        values = _grid(context.image, name).index_to_world(values)
    elif columns == "ras":
        values = values * RAS_TO_LPS
    labels = [str(i + 1) for i in range(len(values))]
    return Landmarks(values, labels, labelled=False, source=name)


def _from_rows(text: str, context: _Context) -> Landmarks:
    """POPI: mm, as they are."""
    points = _rows_of_three(text, context.name)
    labels = [str(i + 1) for i in range(len(points))]
    return Landmarks(points, labels, labelled=False, source=context.name)


def _from_voxels(text: str, context: _Context) -> Landmarks:
    """DIR-Lab: voxels, counted from 1."""
    rows = _from_rows(text, context)
    points = _voxels_to_world(rows.points, context.image, context.name, context.slices_reversed)
    return replace(rows, points=points)


def _labelled(points: list, labels: list[str], name: str, undefined: Sequence[int] = ()) -> Landmarks:
    if not any(labels):
        labels = [str(i + 1) for i in range(len(points))]
        return Landmarks(np.array(points), labels, False, tuple(undefined), name)
    return Landmarks(np.array(points), labels, True, tuple(undefined), name)


def _rows_of_three(text: str, name: str) -> np.ndarray:
    points = []
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.partition("#")[0].replace(",", " ").split()
        if content:
            if len(content) != 3:
                raise InputError(f"{name}, line {number}: three numbers are needed; found: {line.strip()}.")
            points.append(_three_numbers(content, name, f"in line {number}"))
    return np.array(points).reshape(-1, 3)


def _three_numbers(values: object, name: str, label: str) -> np.ndarray:
    try:
        # not the characters of a word, nor the keys of a JSON object
        point = np.array([float(v) for v in values]) if isinstance(values, list) else np.empty(0)
    except (TypeError, ValueError, OverflowError):
        point = np.empty(0)
    if point.shape != (3,) or not np.isfinite(point).all():
        raise InputError(f"{name}: landmark {label} needs three finite numbers; found {values}.")
    return point


def _frame_sign(frame: str, name: str) -> np.ndarray:
    frame = str(frame).upper()
    if frame in ("LPS", "1"):
        return np.ones(3)
    if frame in ("RAS", "0"):
        return RAS_TO_LPS
    raise InputError(f"{name} has its coordinates in the frame {frame}; save it in LPS or RAS.")


def _grid(image: sitk.Image | Grid | None, name: str) -> Grid:
    if image is None:
        raise InputError(f"{name} counts voxels (DIR-Lab): give the image that they belong to.")
    return image if isinstance(image, Grid) else Grid.from_image(image)


def _voxels_to_world(
    voxels: np.ndarray, image: sitk.Image | Grid | None, name: str, slices_reversed: bool
) -> np.ndarray:
    grid = _grid(image, name)
    index = voxels - 1
    if slices_reversed and len(index):
        index[:, 2] = grid.size[2] - 1 - index[:, 2]
    return grid.index_to_world(index)


def _to_markups(landmarks: Landmarks, measurements: Mapping[str, np.ndarray], context: _Context) -> str:
    points = [
        {
            "id": str(i + 1),
            "label": label,
            "description": "",
            "associatedNodeID": "",
            "position": [float(v) for v in point],
            "orientation": [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0],
            "selected": True,
            "locked": False,
            "visibility": True,
            "positionStatus": "defined",
        }
        for i, (point, label) in enumerate(zip(landmarks.points, landmarks.labels))
    ]
    markups = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(points),
        "controlPoints": points,
        "measurements": [
            {
                "name": name,
                "enabled": True,
                "units": "mm",
                "printFormat": "%5.3f %s",
                "controlPointValues": [float(v) for v in values],
            }
            for name, values in measurements.items()
        ],
    }
    return json.dumps({"@schema": SCHEMA, "markups": [markups]}, indent=4, ensure_ascii=False) + "\n"


def _to_fcsv(landmarks: Landmarks, measurements: Mapping[str, np.ndarray], context: _Context) -> str:
    out = io.StringIO()
    out.write("# Markups fiducial file version = 5.0\n# CoordinateSystem = LPS\n")
    out.write(f"# columns = {FCSV_COLUMNS}\n")
    rows = csv.writer(out, lineterminator="\n")
    for i, (point, label) in enumerate(zip(landmarks.points, landmarks.labels)):
        rows.writerow([i + 1, *(repr(float(v)) for v in point), 0, 0, 0, 1, 1, 1, 0, label, "", ""])
    return out.getvalue()


def _to_csv(landmarks: Landmarks, measurements: Mapping[str, np.ndarray], context: _Context) -> str:
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["label", "x_lps", "y_lps", "z_lps", *measurements])
    for i, (point, label) in enumerate(zip(landmarks.points, landmarks.labels)):
        values = (float(v[i]) for v in measurements.values())
        rows.writerow([label, *(repr(float(v)) for v in point), *(repr(v) for v in values)])
    return out.getvalue()


def _to_rows(landmarks: Landmarks, measurements: Mapping[str, np.ndarray], context: _Context) -> str:
    return "#X Y Z\n" + "".join(f"{x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in landmarks.points)


def _to_voxels(landmarks: Landmarks, measurements: Mapping[str, np.ndarray], context: _Context) -> str:
    grid = _grid(context.image, context.name)
    index = grid.world_to_index(landmarks.points)
    if context.slices_reversed:
        index[:, 2] = grid.size[2] - 1 - index[:, 2]
    return "".join(f"{x:.7f}\t{y:.7f}\t{z:.7f}\n" for x, y, z in index + 1)


# One entry a format; ``.mrk.json`` goes by its last ending.
FORMATS = {
    ".json": Format(".mrk.json", _from_markups, _to_markups, measurements=True),
    ".fcsv": Format(".fcsv", _from_fcsv, _to_fcsv),
    ".csv": Format(".csv", _from_csv, _to_csv, columns=True, measurements=True),
    ".txt": Format(".txt (DIR-Lab)", _from_voxels, _to_voxels),
    ".pts": Format(".pts (POPI)", _from_rows, _to_rows),
}
