"""Find the CT series in a tree of DICOM files as TCIA distributes LIDC-IDRI.

Such a tree mixes several series a patient, CR and DX images, segmentations, annotations in XML, and sometimes
the same file twice or a series with missing slices. Folders mean nothing here: files are grouped by their
series instance UID.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.images import check_image
from ProgressiveRegistrationLib.reading.dicom import Header, Slice, read_slices
from ProgressiveRegistrationLib.reading.dicom_series import Volume, volumes_of
from ProgressiveRegistrationLib.reading.dicom_volume import plan

MIN_SLICES = 20  # fewer are a scout or a test exposure


@dataclass(frozen=True)
class Series:
    """A usable CT volume: a series, or one of several phases in one."""

    volume: Volume

    @property
    def patient(self) -> str:
        return self.volume.header.patient

    @property
    def name(self) -> str:
        phase = "-".join(self.volume.phase) if self.volume.phase else ""
        return f"{self.patient or 'unknown'}/{self.volume.uid[-12:]}{phase and '-'}{phase}"

    @property
    def files(self) -> tuple[Path, ...]:
        """In order of position."""
        return tuple(dict.fromkeys(item.file for item in self.volume.slices))

    def read(self) -> sitk.Image:
        """The volume in HU; raises InputError when a slice is damaged."""
        return check_image(self.volume.read(f"Series {self.name}", []), f"series {self.name}")


def find_series(files: Iterable[Path]) -> tuple[list[Series], list[tuple[Path, str]]]:
    """Usable CT series among DICOM files, by patient and UID; and (file or folder, reason)
    for all that is left out."""
    groups: dict[str, list[tuple[Header, list[Slice]]]] = defaultdict(list)
    left_out: list[tuple[Path, str]] = []
    for path in files:
        try:
            header, slices = read_slices(path)
        except InputError as error:
            left_out.append((path, str(error)))
            continue
        groups[header.series].append((header, slices))
    found = []
    for uid, read in groups.items():
        first = read[0][0]
        what = f"series {first.patient or 'unknown'}/{uid[-12:]}"
        if first.modality != "CT":
            left_out.append((first.path, f"{what} is {first.modality or 'of no modality'}, not CT."))
            continue
        read = [(header, slices) for header, slices in read if not header.localizer]
        instances = {item.instance for _, slices in read for item in slices}
        copies = sum(len(slices) for _, slices in read) - len(instances)
        if copies:
            left_out.append((first.path, f"{what} has {copies} file(s) twice; one copy of each is used."))
        if len(instances) < MIN_SLICES:
            left_out.append((first.path, f"{what} has {len(instances)} slice(s); a CT needs {MIN_SLICES}."))
            continue
        try:
            volumes = [v for v in volumes_of(read) if len(v.slices) >= MIN_SLICES]
            for volume in volumes:
                if volume.unclear:
                    raise InputError(f"{what} holds several volumes that no tag tells apart.")
                plan(volume.slices, what)
        except InputError as error:
            left_out.append((first.path, str(error)))
            continue
        found += [Series(volume) for volume in volumes]
    found.sort(key=lambda s: s.name)
    return found, left_out
