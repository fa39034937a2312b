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
from ProgressiveRegistrationLib.images import check_image, itk_message, sorted_slices

SERIES, MODALITY, PATIENT, INSTANCE, IMAGE_TYPE = (
    "0020|000e",
    "0008|0060",
    "0010|0020",
    "0008|0018",
    "0008|0008",
)
MIN_SLICES = 20  # fewer are a scout or a test exposure


@dataclass(frozen=True)
class Header:
    """What is read of each file."""

    path: Path
    series: str
    modality: str
    patient: str
    instance: str
    localizer: bool


@dataclass(frozen=True)
class Series:
    """A usable CT series: its files in order of position."""

    patient: str
    uid: str
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        return f"{self.patient or 'unknown'}/{self.uid[-12:]}"

    def read(self) -> sitk.Image:
        """The volume in HU; raises InputError when a slice is damaged."""
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames([str(f) for f in self.files])
        reader.SetOutputPixelType(sitk.sitkFloat32)
        try:
            image = reader.Execute()
        except RuntimeError as error:
            raise InputError(f"Series {self.name} cannot be read: {itk_message(error)}.") from error
        return check_image(image, f"series {self.name}")


def read_header(path: Path) -> Header:
    """Raises RuntimeError when the file is damaged."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()

    def tag(key: str) -> str:
        return reader.GetMetaData(key).strip() if reader.HasMetaDataKey(key) else ""

    return Header(
        path, tag(SERIES), tag(MODALITY), tag(PATIENT), tag(INSTANCE), "LOCALIZER" in tag(IMAGE_TYPE).upper()
    )


def find_series(files: Iterable[Path]) -> tuple[list[Series], list[tuple[Path, str]]]:
    """Usable CT series among DICOM files, by patient and UID; and (file or folder, reason)
    for all that is left out."""
    groups: dict[str, list[Header]] = defaultdict(list)
    left_out: list[tuple[Path, str]] = []
    for path in files:
        try:
            header = read_header(path)
        except RuntimeError:
            left_out.append((path, "it is marked as DICOM but cannot be read as an image."))
            continue
        groups[header.series].append(header)
    found = []
    for uid, headers in groups.items():
        first = headers[0]
        what = f"series {first.patient or 'unknown'}/{uid[-12:]}"
        if first.modality != "CT":
            left_out.append((first.path, f"{what} is {first.modality or 'of no modality'}, not CT."))
            continue
        headers = [h for h in headers if not h.localizer]
        instances = {h.instance: h for h in reversed(headers)}
        copies = len(headers) - len(instances)
        if copies:
            left_out.append((first.path, f"{what} has {copies} file(s) twice; one copy of each is used."))
        if len(instances) < MIN_SLICES:
            left_out.append((first.path, f"{what} has {len(instances)} slice(s); a CT needs {MIN_SLICES}."))
            continue
        try:
            ordered = sorted_slices([str(h.path) for h in instances.values()], what)
        except InputError as error:
            left_out.append((first.path, str(error)))
            continue
        found.append(Series(first.patient, uid, tuple(map(Path, ordered))))
    found.sort(key=lambda s: (s.patient, s.uid))
    return found, left_out
