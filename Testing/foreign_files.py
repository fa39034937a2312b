"""DICOM and NIfTI files as scanners and other programs write them, made from small arrays."""

from __future__ import annotations

import struct
from pathlib import Path

import h5py
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
SPACING = (1.5, 2.0)  # x, y


def ramp(count: int, rows: int = 12, columns: int = 10, *, offset: float = 0.0) -> np.ndarray:
    """(count, rows, columns) HU that tell z, y and x from one another."""
    z, y, x = np.mgrid[:count, :rows, :columns].astype(float)
    return -900 + 20 * z + 3 * y + x + offset


def item(**values: object) -> Dataset:
    """A dataset of these elements."""
    out = Dataset()
    for name, value in values.items():
        setattr(out, name, value)
    return out


def _meta(kind: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    return meta


def write_slice(path: Path, hu: np.ndarray, position: tuple, **tags: object) -> None:
    """One CT slice at a position in LPS mm; ``tags`` override or add elements."""
    meta = _meta(CT)
    dataset = item(
        SOPClassUID=CT,
        SOPInstanceUID=meta.MediaStorageSOPInstanceUID,
        Modality="CT",
        SeriesInstanceUID="1.2.3.4",
        PatientID="nobody",
        Rows=hu.shape[0],
        Columns=hu.shape[1],
        PixelSpacing=[SPACING[1], SPACING[0]],
        ImagePositionPatient=[round(float(v), 4) for v in position],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=16,
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=0,
        RescaleSlope=1,
        RescaleIntercept=-1024,
    )
    dataset.file_meta = meta
    dataset.PixelData = (np.round(hu) + 1024).astype(np.uint16).tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def write_series(
    folder: Path,
    hu: np.ndarray,
    heights: np.ndarray | list,
    *,
    prefix: str = "I",
    start: int = 1,
    **tags: object,
) -> Path:
    """A series of slices at heights (mm); a tag that is a list has a value for each slice."""
    folder.mkdir(exist_ok=True, parents=True)
    for k, (plane, height) in enumerate(zip(hu, heights)):
        own = {name: value[k] if isinstance(value, list) else value for name, value in tags.items()}
        position = own.pop("position", (-5.0, 7.0, height))
        number = own.pop("InstanceNumber", k + start)
        write_slice(folder / f"{prefix}{k:04d}.dcm", plane, position, InstanceNumber=number, **own)
    return folder


def write_enhanced(
    path: Path, hu: np.ndarray, heights: list, *, temporal: list | None = None, **tags: object
) -> Path:
    """One multi-frame file, frame k at heights[k]; ``temporal``: a TemporalPositionIndex for each frame."""
    path.parent.mkdir(exist_ok=True, parents=True)
    meta = _meta(ENHANCED_CT)
    measures = item(PixelSpacing=[SPACING[1], SPACING[0]], SliceThickness=3)
    shared = item(
        PixelMeasuresSequence=Sequence([measures]),
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
        PixelValueTransformationSequence=Sequence([item(RescaleSlope=1, RescaleIntercept=-1024)]),
    )
    frames = []
    for k, height in enumerate(heights):
        content = item(StackID="1", InStackPositionNumber=k + 1)
        if temporal is not None:
            content.TemporalPositionIndex = temporal[k]
        place = item(ImagePositionPatient=[-5.0, 7.0, float(height)])
        frames.append(item(PlanePositionSequence=Sequence([place]), FrameContentSequence=Sequence([content])))
    dataset = item(
        SOPClassUID=ENHANCED_CT,
        SOPInstanceUID=meta.MediaStorageSOPInstanceUID,
        Modality="CT",
        SeriesInstanceUID="1.2.3.9",
        InstanceNumber=1,
        Rows=hu.shape[1],
        Columns=hu.shape[2],
        NumberOfFrames=len(hu),
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=0,
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(frames),
    )
    dataset.file_meta = meta
    dataset.PixelData = (np.round(hu) + 1024).astype(np.uint16).tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


# NIfTI-1: name -> where in the header, and how it is packed
NIFTI_FIELDS = {
    "dim": (40, "8h"),
    "p1": (56, "f"),
    "intent": (68, "h"),
    "pixdim": (76, "8f"),
    "slope": (112, "f"),
    "intercept": (116, "f"),
    "units": (123, "b"),
    "qform": (252, "h"),
    "sform": (254, "h"),
    "quaternion": (256, "3f"),
    "srow": (280, "12f"),
    "intent_name": (328, "16s"),
    "description": (148, "80s"),
}


def patched(data: bytes, **fields: object) -> bytes:
    """A NIfTI-1 file's bytes with header fields replaced."""
    out = bytearray(data)
    for name, value in fields.items():
        values = value if isinstance(value, (tuple, list)) else (value,)
        struct.pack_into("<" + NIFTI_FIELDS[name][1], out, NIFTI_FIELDS[name][0], *values)
    return bytes(out)


def as_slicer_marks_it(path: Path, transform: sitk.Transform, *inverse: str) -> Path:
    """An ITK transform file in which these types are marked as inverse, as Slicer writes it."""
    sitk.WriteTransform(transform, str(path))
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            for group in file["TransformGroup"].values():
                name = group["TransformType"][0].decode()
                if name.startswith(inverse):
                    group["TransformType"][0] = f"Inverse{name}"
    else:
        text = path.read_text(encoding="ascii")
        for name in inverse:
            text = text.replace(f"Transform: {name}", f"Transform: Inverse{name}")
        path.write_text(text, encoding="ascii")
    return path
