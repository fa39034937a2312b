"""All volumes in a tree of DICOM files, for a user to choose from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .dicom import dicom_files, read_slices
from .dicom_series import Volume, volumes_of


@dataclass(frozen=True)
class Listed:
    """A volume and the folder in which it lies."""

    folder: Path
    volume: Volume


def list_folder(folder: Path) -> tuple[list[Listed], list[str]]:
    """All volumes in a folder and those below it, and sentences about files that cannot be read."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give a folder of DICOM files.")
    found: list[Listed] = []
    notes: list[str] = []
    for place, folders, _ in os.walk(folder):
        folders.sort()
        read = []
        for file in dicom_files(Path(place)):
            try:
                read.append(read_slices(file))
            except InputError as error:
                notes.append(str(error))
        found += [Listed(Path(place), volume) for volume in volumes_of(read)]
    found.sort(key=lambda x: (str(x.folder), x.volume.header.number or 0, x.volume.phase or ("", "")))
    return found, notes


def described(found: list[Listed]) -> list[dict[str, Any]]:
    """For each: folder, number, description, modality, slices, size, spacing_mm, phase, remark, uid."""
    return [
        {
            "folder": str(listed.folder),
            "number": listed.volume.header.number,
            "description": listed.volume.header.description,
            "modality": listed.volume.header.modality,
            "slices": len(listed.volume.slices),
            "size": [*listed.volume.slices[0].size, len(listed.volume.slices)],
            "spacing_mm": [*listed.volume.slices[0].spacing, listed.volume.slice_spacing()],
            "phase": "=".join(listed.volume.phase) if listed.volume.phase else None,
            "remark": listed.volume.remark(),
            "uid": listed.volume.uid,
        }
        for listed in found
    ]
