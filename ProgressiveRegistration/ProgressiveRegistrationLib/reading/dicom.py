"""DICOM files: one slice each, or many (Enhanced CT). Where each slice lies, and its values, with pydicom.

Positions in space decide about order, never file names, instance numbers or the order of frames in a file.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError, memory_errors
from ..itk import itk_message, quiet_itk

HELD_BYTES = 64 << 20  # files up to this are read whole
# What may tell the volumes in one series apart, most telling first.
PHASE_TAGS = (
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "NominalPercentageOfRespiratoryPhase",
    "NominalPercentageOfCardiacPhase",
    "AcquisitionNumber",
    "TriggerTime",
    "SeriesDescription",
    "ImageComments",
    "StackID",
    "ConvolutionKernel",
    "KVP",
    "SliceThickness",
    "ImageType",
    "ProtocolName",
    "SeriesTime",
    "AcquisitionTime",
    "AcquisitionDateTime",
)
# Elements of Enhanced images' functional groups: the group they are in, and what a single slice calls them.
IN_GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "FrameAcquisitionNumber": "FrameContentSequence",
    "StackID": "FrameContentSequence",
    "NominalPercentageOfCardiacPhase": "CardiacSynchronizationSequence",
    "NominalPercentageOfRespiratoryPhase": "RespiratorySynchronizationSequence",
    "ConvolutionKernel": "CTReconstructionSequence",
    "KVP": "CTXRayDetailsSequence",
}
NOT_IMAGES = ("RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "SEG", "SR", "PR", "KO", "REG", "DOC", "M3D", "FID")
HEADER = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "Modality",
    "PatientID",
    "InstanceNumber",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsAllocated",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    *IN_GROUPS,
    *PHASE_TAGS,
)


@dataclass(frozen=True)
class Slice:
    """One slice, or one frame of a file with many.

    Attributes
    ----------
    position : LPS mm of the centre of its first pixel; ``row``, ``column``: unit vectors along its rows and
        columns.
    spacing : mm between pixels along a row (x) and along a column (y). thickness : mm, or 0 where it is not
        said.
    slope, intercept : HU = slope * stored + intercept.
    instance : of the object it comes from, with the frame; copies share it.
    tags : PHASE_TAGS -> text, "" where missing.
    """

    file: Path
    frame: int
    series: str
    position: np.ndarray
    row: np.ndarray
    column: np.ndarray
    spacing: tuple[float, float]
    size: tuple[int, int]  # columns, rows
    thickness: float
    slope: float
    intercept: float
    instance: str
    number: int | None  # InstanceNumber
    tags: dict[str, str] = field(repr=False)

    @property
    def normal(self) -> np.ndarray:
        """(3,): unit vector from slice to slice, right-handed with row and column."""
        normal = np.cross(self.row, self.column)
        return normal / np.linalg.norm(normal)


@dataclass(frozen=True)
class Header:
    """What all slices of a file share."""

    path: Path
    series: str
    number: int | None
    description: str
    modality: str
    patient: str
    localizer: bool
    frames: int


def is_dicom(path: Path) -> bool:
    """Does the file carry DICOM's mark, or begin as DICOM without one?"""
    try:
        with open(path, "rb") as file:
            start = file.read(132)
    except OSError:
        return False
    return start[128:132] == b"DICM" or _begins_without_mark(start)


def _begins_without_mark(start: bytes) -> bool:
    """Group 0008 (or 0002) in little-endian, then a small element and a plausible length or type of value."""
    if start[:2] not in (b"\x08\x00", b"\x02\x00") or len(start) < 132:
        return False
    explicit = start[4:6] in (b"UL", b"UI", b"CS", b"SH", b"OB", b"DA", b"TM", b"LO")
    return explicit or (start[3] == 0 and int.from_bytes(start[4:8], "little") < 128)


@contextmanager
def _quietly() -> Iterator[None]:
    """pydicom warns of every odd value in a header; those that matter are looked at here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _dataset(path: Path, *, pixels: bool) -> Any:
    import pydicom

    options: dict[str, Any] = {} if pixels else {"stop_before_pixels": True, "specific_tags": list(HEADER)}
    source: Any = path
    if os.path.getsize(path) < HELD_BYTES:
        # From a file, Python takes as much memory as a damaged element's length asks for.
        source = io.BytesIO(path.read_bytes())
    try:
        return pydicom.dcmread(source, force=True, **options)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def read_slices(path: Path) -> tuple[Header, list[Slice]]:
    """The header and the slices of a file; none for what is no image in space (a structure set, a dose).

    Raises
    ------
    InputError : the file is damaged, or an image without position, orientation or pixel spacing.
    """
    with _quietly():
        try:
            dataset = _dataset(path, pixels=False)
            return _slices_of(dataset, path)
        except InputError:
            raise
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # pydicom raises whatever its parsing meets
            raise InputError(_damaged(path)) from error


def _damaged(path: Path) -> str:
    return f"{path} cannot be read as DICOM: it is damaged or cut off; copy it again, or leave it out."


def _slices_of(dataset: Any, path: Path) -> tuple[Header, list[Slice]]:
    frames = _whole(dataset.get("NumberOfFrames")) or 1
    header = Header(
        path,
        str(dataset.get("SeriesInstanceUID", "")),
        _whole(dataset.get("SeriesNumber")),
        str(dataset.get("SeriesDescription") or "").strip(),
        str(dataset.get("Modality") or "").strip(),
        str(dataset.get("PatientID") or "").strip(),
        "LOCALIZER" in str(dataset.get("ImageType") or "").upper(),
        frames,
    )
    if not dataset.get("SOPClassUID") or (header.modality in ("CT", "MR", "PT") and "Rows" not in dataset):
        raise InputError(_damaged(path))
    if header.modality in NOT_IMAGES or "Rows" not in dataset:
        return header, []
    _check_length(dataset, path, frames)
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    shared = dataset.get("SharedFunctionalGroupsSequence")
    if frames > 1 and (per_frame is None or len(per_frame) != frames):
        raise InputError(
            f"{path} is a multi-frame DICOM file that does not say where its {frames} frames lie; "
            "export it as single slices or as NRRD."
        )
    groups = [per_frame[i] if per_frame else None for i in range(frames)]
    common = shared[0] if shared else None
    return header, [_slice(dataset, common, group, i, frames, path) for i, group in enumerate(groups)]


def _check_length(dataset: Any, path: Path, frames: int) -> None:
    """InputError where the file is shorter than its uncompressed pixels."""
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if syntax is not None and (syntax.is_compressed or syntax.is_deflated):
        return
    pixels = [_whole(dataset.get(name)) or 0 for name in ("Rows", "Columns", "SamplesPerPixel")]
    needed = int(np.prod(pixels, dtype=object)) * frames * (_whole(dataset.get("BitsAllocated")) or 16) // 8
    if needed > os.path.getsize(path):
        raise InputError(_damaged(path))


def _slice(dataset: Any, shared: Any, group: Any, frame: int, frames: int, path: Path) -> Slice:
    def value(name: str) -> Any:
        for place in (group, shared):
            sequence = place.get(IN_GROUPS[name]) if place is not None and name in IN_GROUPS else None
            if sequence and name in sequence[0]:
                return sequence[0][name].value
        return dataset.get(name)

    def numbers(name: str, count: int) -> np.ndarray:
        found = value(name)
        try:
            array = np.array([float(v) for v in np.atleast_1d(found)])
        except (TypeError, ValueError):
            array = np.empty(0)
        if array.shape != (count,) or not np.isfinite(array).all():
            what = f"frame {frame + 1} of {path}" if frames > 1 else str(path)
            raise InputError(
                f"{what} is no readable CT slice with a position (it has no {name}); remove it or give "
                "another series."
            )
        return array

    position, axes, spacing = (
        numbers(n, c)
        for n, c in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2))
    )
    row, column = axes[:3], axes[3:]
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if np.abs(lengths - 1).max() > 0.02 or abs(row @ column) > 1e-2:
        raise InputError(
            f"{path} has row and column axes that are not at right angles; its header is damaged."
        )
    if spacing.min() <= 0:
        raise InputError(f"{path} has a PixelSpacing of {spacing.tolist()} mm; its header is damaged.")
    size = (_whole(dataset.get("Columns")) or 0, _whole(dataset.get("Rows")) or 0)
    if min(size) < 1 or (_whole(dataset.get("SamplesPerPixel")) or 1) != 1:
        raise InputError(f"{path} is a colour or empty image; a CT with one value per pixel is needed.")

    def text(name: str) -> str:
        found = value(name)
        if name == "AcquisitionNumber" and value("FrameAcquisitionNumber") is not None:
            found = value("FrameAcquisitionNumber")
        if found is None:
            return ""
        if isinstance(found, (str, bytes)) or not hasattr(found, "__iter__"):
            return str(found).strip()
        return "\\".join(str(v).strip() for v in found)

    slope, intercept, thickness = (_real(value(n), d) for n, d in _DEFAULTS)
    # at right angles to the last digit
    row = row / lengths[0]
    column = column - (column @ row) * row
    instance = f"{dataset.get('SOPInstanceUID') or path}#{frame}"
    return Slice(
        path,
        frame,
        str(dataset.get("SeriesInstanceUID", "")),
        position,
        row,
        column / np.linalg.norm(column),
        (float(spacing[1]), float(spacing[0])),
        size,
        thickness,
        slope if slope else 1.0,
        intercept,
        instance,
        _whole(dataset.get("InstanceNumber")),
        {name: text(name) for name in PHASE_TAGS},
    )


_DEFAULTS = (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0), ("SliceThickness", 0.0))


def _real(value: Any, default: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return default
    return number if np.isfinite(number) else default


def _whole(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def pixel_stack(slices: Iterable[Slice]) -> np.ndarray:
    """(n, y, x): HU of slices of one size, int16 or int32 where they are whole numbers, else float32.

    Raises
    ------
    InputError : a file is damaged or cut off.
    """
    slices = list(slices)
    whole = all(float(v).is_integer() for s in slices for v in (s.slope, s.intercept))
    out: np.ndarray | None = None
    held: tuple[Path | None, np.ndarray | None, bool] = (None, None, False)
    for n, item in enumerate(slices):
        if held[0] != item.file:
            held = (item.file, *_stored(item.file))
        stored, rescaled = held[1], held[2]
        if stored is None or stored.shape[-2:] != item.size[::-1] or item.frame >= len(stored):
            raise InputError(f"{item.file} holds other pixels than its header tells; copy it again.")
        plane = stored[item.frame]
        if out is None:
            kind = np.int32 if whole and plane.dtype.kind in "iu" else np.float32
            out = np.empty((len(slices), *plane.shape), kind)
        if plane.dtype.kind == "f" and out.dtype.kind == "i":
            out = out.astype(np.float32)
        if rescaled:
            out[n] = plane
        elif out.dtype.kind == "i":
            out[n] = plane.astype(np.int64) * int(item.slope) + int(item.intercept)
        else:
            out[n] = plane * np.float64(item.slope) + item.intercept
    assert out is not None
    if out.dtype.kind == "i" and np.abs(out.astype(np.int64)).max() < 2**15:
        return out.astype(np.int16)
    return out


def _stored(path: Path) -> tuple[np.ndarray, bool]:
    """(frames, y, x) as stored, and whether slope and intercept are applied already."""
    with _quietly():
        try:
            dataset = _dataset(path, pixels=True)
            syntax = (
                getattr(dataset.file_meta, "TransferSyntaxUID", None)
                if hasattr(dataset, "file_meta")
                else None
            )
            if syntax is not None and syntax.is_compressed:
                return _decoded_by_itk(path), True
            if syntax is None:
                dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
            stored = dataset.pixel_array
            bits, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
            if 0 < bits < allocated and stored.dtype.kind in "iu":
                # the bits above are nobody's, or hold an overlay
                stored = np.right_shift(np.left_shift(stored, allocated - bits), allocated - bits)
        except InputError:
            raise
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise InputError(_damaged(path)) from error
    return (stored[None] if stored.ndim == 2 else stored), False


def _decoded_by_itk(path: Path) -> np.ndarray:
    """(frames, y, x) HU of compressed pixels, in the file's order of frames."""
    try:
        with memory_errors(), quiet_itk():
            image = sitk.ReadImage(str(path), imageIO="GDCMImageIO")
    except RuntimeError as error:
        raise InputError(
            f"{path} cannot be decoded ({itk_message(error)}); export it uncompressed."
        ) from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{path} is a colour image; a CT with one value per pixel is needed.")
    values = sitk.GetArrayFromImage(image)
    return values[None] if values.ndim == 2 else values


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files right in a folder, by name; no DICOMDIR."""
    found = []
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if name.upper() != "DICOMDIR" and path.is_file() and is_dicom(path):
            found.append(path)
    return found
