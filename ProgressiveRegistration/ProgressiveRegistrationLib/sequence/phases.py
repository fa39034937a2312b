"""The phases of a sequence: where each image lies, and what belongs to it (landmarks, a lung mask)."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

import SimpleITK as sitk

from ..errors import InputError
from ..images import read_image, read_volume
from ..landmarks import Landmarks, read_landmarks
from ..reading.dicom import dicom_files, is_dicom
from ..reading.dicom_series import find_volumes

TABLE = "phases.csv"  # in a folder: it says what the folder's files are
ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd", ".nii.gz", ".nii")
COLUMNS = ("id", "image", "landmarks", "mask", "series")
SLICER_INDEX = "axis 0 index values"  # of a .seq.nrrd: one a volume, spaces and the like as %20
SAFE_NAME = re.compile(r"[^A-Za-z0-9_.+-]+")


@dataclass(frozen=True)
class Phase:
    """One image of the sequence. ``name`` is unique in it and fit for a file's name.

    ``frame``: which volume of a 4D file (0 is the first); ``series``: which series of a DICOM folder.
    """

    name: str
    path: Path
    frame: int | None = None
    series: str | None = None
    landmarks: Path | None = None
    mask: Path | None = None

    def image(self) -> sitk.Image:
        """The image in HU; raises InputError."""
        return read_image(self.path, series=self.series, frame=self.frame)

    def lung_mask(self) -> sitk.Image | None:
        """The lung mask that was given, or None."""
        return None if self.mask is None else read_volume(self.mask)

    def points(self, image: sitk.Image) -> Landmarks | None:
        """The landmarks that were given, LPS mm, or None; ``image`` is the phase's own."""
        return None if self.landmarks is None else read_landmarks(self.landmarks, image)


def find_phases(
    sources: Sequence[str | os.PathLike], landmarks: Sequence[str | os.PathLike] = ()
) -> list[Phase]:
    """The phases that a user names, in their order.

    Parameters
    ----------
    sources : image files or DICOM folders, one a phase; or one thing that holds them all: a table (.csv
        with the columns id, image, and as needed landmarks, mask, series; paths relative to it), a 4D
        image, a folder of images, of DICOM folders or of DICOM series.
    landmarks : a landmark file for each phase, in the same order; "-" where a phase has none.

    Raises
    ------
    InputError : nothing there, fewer than two phases, a phase twice, another number of landmark files.
    """
    paths = [Path(source) for source in sources]
    for path in paths:
        if not path.exists():
            raise InputError(
                f"{path} does not exist; give image files, DICOM folders, a table or a folder of phases."
            )
    phases = _from_one(paths[0]) if len(paths) == 1 else [Phase(_stem(path), path) for path in paths]
    if len(phases) < 2:
        raise InputError(
            f"{paths[0] if paths else 'Nothing'} holds no sequence: two phases or more are needed."
        )
    if landmarks:
        if len(landmarks) != len(phases):
            raise InputError(
                f"{len(landmarks)} landmark files were given for {len(phases)} phases; give one "
                "for each, in their "
                "order, or - for a phase without landmarks."
            )
        files = [None if str(file) == "-" else Path(file) for file in landmarks]
        phases = [replace(phase, landmarks=file) for phase, file in zip(phases, files)]
    return _unique(phases)


def count_frames(path: str | os.PathLike) -> int:
    """How many volumes an image file holds; 1 for a plain one."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read as an image.") from error
    if reader.GetDimension() == 4:
        return reader.GetSize()[3]
    return reader.GetNumberOfComponents()


def _from_one(path: Path) -> list[Phase]:
    if path.is_dir():
        return _from_folder(path)
    if path.suffix.lower() == ".csv":
        return _from_table(path)
    count = count_frames(path)
    names = _frame_names(path, count) or [f"phase{k:02d}" for k in range(count)]
    return [Phase(name, path, frame=k) for k, name in enumerate(names)]


def _frame_names(path: Path, count: int) -> list[str]:
    """The values of Slicer's index (seconds, percent, text), fit for files; none if one lacks."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if not reader.HasMetaDataKey(SLICER_INDEX):
        return []
    values = [unquote(value) for value in reader.GetMetaData(SLICER_INDEX).split()]
    names = [SAFE_NAME.sub("_", value).strip("._") for value in values]
    numeric = all(re.fullmatch(r"[-+]?[0-9.]+", value) for value in values)
    if len(names) != count or not all(names) or len({name.lower() for name in names}) != count:
        return []
    return [f"phase{name}" for name in names] if numeric else names


def _from_folder(folder: Path) -> list[Phase]:
    if (folder / TABLE).is_file():
        return _from_table(folder / TABLE)
    entries = sorted(
        (p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: _natural(p.name)
    )
    images = [p for p in entries if p.is_file() and p.name.lower().endswith(ENDINGS)]
    if images:
        return [Phase(_stem(path), path) for path in images]
    files = dicom_files(folder)
    if files:
        return _from_series(folder, files)
    folders = [p for p in entries if p.is_dir() and any(is_dicom(f) for f in _first_files(p))]
    if not folders:
        raise InputError(f"{folder} holds no images and no folders with DICOM files.")
    return [Phase(_stem(path), path) for path in folders]


def _from_series(folder: Path, files: list[Path]) -> list[Phase]:
    """The volumes of one DICOM folder that are of the largest one's size: series, or phases of a series."""
    volumes = find_volumes(files)
    alike = [v for v in volumes if len(v.slices) == len(volumes[0].slices)]
    alike.sort(key=lambda v: (v.header.number or 0, _natural(v.phase[1] if v.phase else "")))
    if len(alike) < 2:
        raise InputError(
            f"{folder} holds one DICOM volume; give a folder with all phases, or the folder above those that "
            "hold one each."
        )
    one_series = len({v.uid for v in alike}) == 1
    phases = []
    for k, volume in enumerate(alike):
        told = volume.phase[1] if volume.phase is not None else volume.header.description
        name = SAFE_NAME.sub("_", told or "").strip("._") or f"{k + 1:02d}"
        wanted = "=".join(volume.phase) if one_series and volume.phase is not None else volume.uid
        phases.append(Phase(name, folder, series=wanted))
    return phases


def _first_files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.is_file()][:20]


def _from_table(path: Path) -> list[Phase]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as CSV in UTF-8.") from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    header = [(name or "").strip().lower() for name in rows.fieldnames or []]
    if "image" not in header:
        raise InputError(
            f"{path} has no column image; its first line may name the columns {', '.join(COLUMNS)}."
        )
    phases = []
    for cells in rows:
        row = {(k or "").strip().lower(): (v or "").strip() for k, v in cells.items() if isinstance(v, str)}
        if not any(row.values()):
            continue
        if not row.get("image"):
            raise InputError(f"{path}, line {rows.line_num}: the cell image is empty.")
        places = {
            key: path.absolute().parent / row[key] for key in ("image", "landmarks", "mask") if row.get(key)
        }
        for place in places.values():
            if not place.exists():
                raise InputError(f"{path}, line {rows.line_num}: {place} does not exist.")
        image = places.pop("image")
        name = SAFE_NAME.sub("_", row.get("id") or "") or _stem(image)
        phases.append(
            Phase(
                name,
                image,
                series=row.get("series") or None,
                landmarks=places.get("landmarks"),
                mask=places.get("mask"),
            )
        )
    return phases


def _unique(phases: list[Phase]) -> list[Phase]:
    """The same, each name once; a phase that is there twice is an error."""
    seen: dict[tuple, str] = {}
    for phase in phases:
        key = (phase.path.absolute(), phase.frame, phase.series)
        if key in seen:
            raise InputError(f"The phase {phase.path} is there twice.")
        seen[key] = phase.name
    names = [phase.name.lower() for phase in phases]
    if len(set(names)) == len(names):
        return phases
    return [replace(phase, name=f"{k + 1:02d}_{phase.name}") for k, phase in enumerate(phases)]


def _stem(path: Path) -> str:
    name = path.name
    for ending in (".seq.nrrd", *ENDINGS):
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
            break
    return SAFE_NAME.sub("_", name).strip("._") or "phase"


def _natural(name: str) -> list:
    """For sorting: numbers in a name by their value."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part.lower())
        for part in re.split(r"(\d+)", name)
        if part
    ]
