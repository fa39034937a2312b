"""From a file of the data folder (or an upload) to an image or landmarks; in any thread."""

from __future__ import annotations

import re
from pathlib import Path

import SimpleITK as sitk
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.images import check_image, check_volume, read_image, read_volume
from ProgressiveRegistrationLib.reading.dicom import dicom_files, is_dicom, read_slices
from ProgressiveRegistrationLib.reading.dicom_series import Volume, volumes_of

from .data_folder import Entry

HEADER_BYTES = 1 << 20
# Where a header may name other files as its voxels.
_REFERENCE = {
    (".mha", ".mhd"): re.compile(rb"^\s*ElementDataFile\s*=\s*(.*?)\s*$", re.IGNORECASE | re.MULTILINE),
    (".nrrd", ".nhdr"): re.compile(rb"^\s*data ?file\s*:\s*=?\s*(.*?)\s*$", re.IGNORECASE | re.MULTILINE),
}


def image_of(path: Path, root: Path, series: str | None = None, *, mask: bool = False) -> sitk.Image:
    """Read a CT (or a lung mask) whose every file lies below ``root``; ``series`` as ``series_in`` names it.

    Raises
    ------
    InputError : it cannot be read, cannot be registered, or takes its voxels from elsewhere.
    """
    if path.is_dir():
        for file in path.iterdir():
            _check_below(file, root, path.name)
    else:
        check_references(path, root)
    try:
        if series is None:
            return (read_volume if mask else read_image)(path)
        found = [volume for volume in _volumes(path, root) if _identifier(volume) == series]
        if not found:
            raise InputError(f"That series is not in {path.name} any more.")
        return (check_volume if mask else check_image)(found[0].read(path.name, []), path.name)
    except InputError as error:
        # As the page names the file, not as the server's disk does.
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


def series_in(folder: Path, relative: str, root: Path) -> list[Entry]:
    """The DICOM volumes of a folder, by name, phases of a 4DCT one by one; empty where there is none."""
    entries = []
    for volume in _volumes(folder, root):
        header = volume.header
        name = header.description or f"Series {header.number if header.number is not None else volume.uid}"
        if volume.phase is not None:
            name += " ({} {})".format(*volume.phase)
        detail = [header.modality or "DICOM", f"{len(volume.slices)} slices"]
        if header.description and header.number is not None:
            detail.append(f"series {header.number}")
        entries.append(Entry(name, relative, "series", ", ".join(detail), _identifier(volume)))
    return sorted(entries, key=lambda e: e.name.lower())


def _volumes(folder: Path, root: Path) -> list[Volume]:
    """What the readable DICOM files of a folder make; links that lead out are not read."""
    names = [child for child in folder.iterdir() if child.is_file()]
    if not any(is_dicom(child) for child in sorted(names)[:8]):
        return []
    read = []
    for file in dicom_files(folder):
        try:
            _check_below(file, root, folder.name)
            read.append(read_slices(file))
        except InputError:
            continue  # choosing the whole folder tells what is wrong with it
    return volumes_of(read)


def _identifier(volume: Volume) -> str:
    return volume.uid if volume.phase is None else "{} {}={}".format(volume.uid, *volume.phase)
