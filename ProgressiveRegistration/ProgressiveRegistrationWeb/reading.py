"""From a file of the data folder (or an upload) to an image or landmarks; in any thread."""

from __future__ import annotations

import re
from pathlib import Path

import SimpleITK as sitk
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.images import is_dicom, read_image, read_volume, series_files

from .data_folder import Entry

HEADER_BYTES = 1 << 20
# Where a header may name other files as its voxels.
_REFERENCE = {
    (".mha", ".mhd"): re.compile(rb"^\s*ElementDataFile\s*=\s*(.*?)\s*$", re.IGNORECASE | re.MULTILINE),
    (".nrrd", ".nhdr"): re.compile(rb"^\s*data ?file\s*:\s*=?\s*(.*?)\s*$", re.IGNORECASE | re.MULTILINE),
}
DESCRIPTION, NUMBER, MODALITY = "0008|103e", "0020|0011", "0008|0060"


def image_of(path: Path, root: Path, series: str | None = None, *, mask: bool = False) -> sitk.Image:
    """Read a CT (or a lung mask) whose every file lies below ``root``.

    Raises
    ------
    InputError : it cannot be read, cannot be registered, or takes its voxels from elsewhere.
    """
    if path.is_dir():
        files = series_files(path, series, "the list")
        for file in files:
            _check_below(Path(file), root, path.name)
    else:
        check_references(path, root)
    read = read_volume if mask else read_image
    return _named(read, path, root, series)


def _named(read, path: Path, root: Path, series: str | None) -> sitk.Image:
    """``read``, with errors that name the file as the page does, not as the server's disk does."""
    try:
        return read(path, series=series)
    except InputError as error:
        text = str(error).replace(str(path), path.name).replace(f"{root}/", "")
        raise type(error)(text) from error


def check_references(path: Path, root: Path) -> None:
    """InputError where a MetaImage or NRRD header takes its voxels from a file that is not below ``root``."""
    name = path.name.lower()
    pattern = next((p for endings, p in _REFERENCE.items() if name.endswith(endings)), None)
    if pattern is None:
        return
    with open(path, "rb") as stream:
        head = stream.read(HEADER_BYTES)
    if name.endswith((".nrrd", ".nhdr")):
        head = re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0]
    found = pattern.search(head)
    if found is None:
        if name.endswith((".mha", ".mhd")):
            raise InputError(f"{path.name} cannot be read as an image: its header has no ElementDataFile.")
        return
    first = found.group(1).decode(errors="replace")
    if first.upper() == "LOCAL":
        return
    rest = (
        head[found.end() :].decode(errors="replace").split("\n") if first.upper().startswith("LIST") else []
    )
    named = [] if first.upper().startswith("LIST") else [first.split()[0] if "%" in first else first]
    for text in [*named, *(line.strip() for line in rest)]:
        if text:
            _check_below(path.parent / text, root, path.name)


def _check_below(path: Path, root: Path, name: str) -> None:
    # A %d pattern names files in its own folder: that folder is what counts.
    real = (path.parent if "%" in path.name else path).resolve()
    if real != root and root not in real.parents:
        raise InputError(f"{name} takes its voxels from outside its folder, which is not allowed here.")


def series_in(folder: Path, relative: str) -> list[Entry]:
    """The DICOM series of a folder, by name; empty where there is none. Reads one header a series."""
    names = sorted(child for child in folder.iterdir() if child.is_file() and not child.name.startswith("."))
    if not any(is_dicom(child) for child in names[:8]):
        return []
    reader = sitk.ImageSeriesReader()
    entries = []
    for uid in reader.GetGDCMSeriesIDs(str(folder)):
        files = reader.GetGDCMSeriesFileNames(str(folder), uid)
        header = sitk.ImageFileReader()
        header.SetFileName(files[0])
        try:
            header.ReadImageInformation()
        except RuntimeError:
            continue

        def tag(key: str, header=header) -> str:
            return header.GetMetaData(key).strip() if header.HasMetaDataKey(key) else ""

        name = tag(DESCRIPTION) or f"Series {tag(NUMBER) or uid}"
        detail = f"{tag(MODALITY) or 'DICOM'}, {len(files)} files, series {tag(NUMBER) or uid[-8:]}"
        entries.append(Entry(name, relative, "series", detail, uid))
    return sorted(entries, key=lambda e: e.name.lower())
