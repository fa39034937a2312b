"""A displacement field as DICOM Deformable Spatial Registration, and back.

DICOM's map goes the way of ours: from the registered frame (fixed) to the source frame (moving), source =
M_post (M_pre x + D(x)), offsets D in mm of the patient's LPS frame on a grid of the registered frame (PS3.3
C.20.3.1.1). Written here is D = u with both matrices left out. What lies outside the grid DICOM does not
say; so the grid that is written reaches over the whole fixed image.

Needs pydicom (extra ``dicom``).
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from .errors import InputError
from .field import DisplacementField
from .files import replacing
from .geometry import Affine, Grid
from .reading.dicom import is_dicom

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.66.3"
PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")


def pydicom_module() -> Any:
    """pydicom, or InputError with how to get it."""
    try:
        import pydicom
    except ImportError as error:
        raise InputError(
            "DICOM objects need pydicom, which is not installed; install it: pip install pydicom"
        ) from error
    return pydicom


def new_object(sop_class: str, modality: str, image: Any) -> Any:
    """A pydicom data set of this class, in a series of its own.

    Patient and study are those of ``image`` (a header, or None).
    """
    pydicom_module()
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    out = Dataset()
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out.file_meta.MediaStorageSOPClassUID = out.SOPClassUID = UID(sop_class)
    out.file_meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID = generate_uid()
    out.SpecificCharacterSet = "ISO_IR 192"
    for name in (*PATIENT, *STUDY):
        setattr(out, name, getattr(image, name, "") if image is not None else "")
    out.StudyInstanceUID = out.StudyInstanceUID or generate_uid()
    out.Modality, out.SeriesInstanceUID = modality, generate_uid()
    out.SeriesNumber, out.InstanceNumber = None, 1
    return out


def first_of_series(path: str | os.PathLike) -> Dataset | None:
    """The header of a DICOM series' first file (a folder), or of a file; None where there is no DICOM."""
    path = Path(path)
    candidates = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in candidates:
        if file.is_file() and is_dicom(file):
            return pydicom_module().dcmread(file, stop_before_pixels=True)
    return None


def read_object(path: Path, modality: str | None = None) -> Dataset:
    """A whole DICOM file, pixels included; InputError where it is none, or of another ``modality``."""
    pydicom = pydicom_module()
    try:
        data: Dataset = pydicom.dcmread(path)
    except Exception as error:  # pydicom has many kinds
        raise InputError(f"{path} cannot be read as DICOM.") from error
    if modality is not None and data.get("Modality") != modality:
        raise InputError(f"{path} is no {modality} but {data.get('Modality', 'an unknown kind of DICOM')}.")
    return data


def headers_of_series(path: str | os.PathLike) -> list[Dataset]:
    """The headers of all files of a folder that belong to the series of its first DICOM file, by their
    positions along it; empty where there is no DICOM.
    """
    first = first_of_series(path)
    if first is None:
        return []
    if not Path(path).is_dir() or "ImageOrientationPatient" not in first:
        return [first]
    read = pydicom_module().dcmread
    files = [file for file in sorted(Path(path).iterdir()) if file.is_file() and is_dicom(file)]
    headers = [read(file, stop_before_pixels=True) for file in files]
    normal = np.cross(*np.reshape([float(v) for v in first.ImageOrientationPatient], (2, 3)))
    same = [h for h in headers if h.get("SeriesInstanceUID") == first.get("SeriesInstanceUID")]
    return sorted(same, key=lambda h: float(normal @ [float(v) for v in h.ImagePositionPatient]))


def reference_to(header: Dataset) -> Dataset:
    """An item that names the object of a header."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return item


def write_registration(
    field: DisplacementField,
    path: str | os.PathLike,
    *,
    fixed: Dataset | None = None,
    moving: Dataset | None = None,
    reach: Grid | None = None,
    description: str = "Lung CT registration",
) -> None:
    """Write ``field`` as one Deformable Spatial Registration object.

    Parameters
    ----------
    fixed, moving : headers of the registered series: patient, study and frames of reference are theirs.
        Without them new unique identifiers stand in, and the patient stays empty.
    reach : the fixed image's grid, over which the written grid reaches.

    Raises
    ------
    InputError : pydicom is missing, or both series have one patient frame but different patients.
        OutputError.
    """
    pydicom = pydicom_module()
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence
    from pydicom.uid import generate_uid

    if fixed is not None and moving is not None:
        ids = [str(header.get("PatientID", "")) for header in (fixed, moving)]
        if all(ids) and ids[0] != ids[1]:
            raise InputError(
                f"The series are of two patients, {ids[0]} and {ids[1]}; a registration object has one."
            )
    if reach is not None:
        field = field.covering(reach)
    field = DisplacementField(*reversed(right_handed(field.displacement, field.grid)))
    now = datetime.now()
    out = new_object(SOP_CLASS, "REG", fixed)
    out.SeriesDescription = description[:64]
    out.Manufacturer = "Progressive Registration"
    out.ManufacturerModelName, out.DeviceSerialNumber, out.SoftwareVersions = (
        "progressive-registration",
        "0",
        _version(),
    )
    out.ContentDate = out.InstanceCreationDate = out.SeriesDate = now.strftime("%Y%m%d")
    out.ContentTime = out.InstanceCreationTime = out.SeriesTime = now.strftime("%H%M%S")
    out.ContentLabel, out.ContentDescription, out.ContentCreatorName = "REGISTRATION", description[:64], ""
    out.FrameOfReferenceUID = getattr(fixed, "FrameOfReferenceUID", None) or generate_uid()
    out.PositionReferenceIndicator = ""
    item = Dataset()
    item.SourceFrameOfReferenceUID = getattr(moving, "FrameOfReferenceUID", None) or (
        out.FrameOfReferenceUID if moving is None and fixed is not None else generate_uid()
    )
    item.RegistrationTypeCodeSequence = Sequence(
        [_code(pydicom, "125024", "DCM", "Image Content-based Alignment")]
    )
    if moving is not None:
        item.ReferencedImageSequence = Sequence([reference_to(moving)])
    lattice = Dataset()
    grid = field.grid
    lattice.ImagePositionPatient = [decimal(v) for v in grid.origin]
    axes = np.reshape(grid.direction, (3, 3))
    lattice.ImageOrientationPatient = [decimal(v) for v in (*axes[:, 0], *axes[:, 1])]
    lattice.GridDimensions = list(grid.size)
    lattice.GridResolution = list(grid.spacing)
    lattice.VectorGridData = np.ascontiguousarray(field.displacement, "<f4").tobytes()
    item.DeformableRegistrationGridSequence = Sequence([lattice])
    out.DeformableRegistrationSequence = Sequence([item])
    for header, keyword in ((fixed, "fixed"), (moving, "moving")):
        if header is not None and "SeriesInstanceUID" in header:
            series = Dataset()
            series.SeriesInstanceUID = header.SeriesInstanceUID
            series.ReferencedInstanceSequence = Sequence([reference_to(header)])
            if keyword == "fixed" or getattr(moving, "StudyInstanceUID", "") == out.StudyInstanceUID:
                out.setdefault("ReferencedSeriesSequence", Sequence([]))
                out.ReferencedSeriesSequence.append(series)
            else:
                study = Dataset()
                study.StudyInstanceUID = header.StudyInstanceUID
                study.ReferencedSeriesSequence = Sequence([series])
                out.StudiesContainingOtherReferencedInstancesSequence = Sequence([study])
    save_dicom(out, path)


def save_dicom(data: Dataset, path: str | os.PathLike) -> None:
    """Write a whole DICOM file, explicit little endian, with any pydicom since 2.4; raises OutputError."""
    with replacing(path) as temporary:
        if int(pydicom_module().__version__.split(".")[0]) >= 3:
            data.save_as(temporary, enforce_file_format=True)
        else:
            data.is_little_endian, data.is_implicit_VR = True, False
            data.save_as(temporary, write_like_original=False)


def read_registration(path: str | os.PathLike) -> DisplacementField:
    """The field of a Deformable Spatial Registration object, from the registered (fixed) to the source
    (moving) frame.

    Raises
    ------
    InputError : pydicom is missing, no such object, no deformation or several, a damaged grid.
    """
    path = Path(path)
    data = read_object(path)
    if data.get("SOPClassUID") != SOP_CLASS:
        kind = getattr(data.get("SOPClassUID"), "name", "an unknown kind")
        raise InputError(f"{path} is no Deformable Spatial Registration but {kind}.")
    items = [
        i
        for i in data.get("DeformableRegistrationSequence", [])
        if i.get("DeformableRegistrationGridSequence")
    ]
    if len(items) != 1:
        raise InputError(f"{path} holds {len(items)} deformations; one is needed.")
    item = items[0]
    lattice = item.DeformableRegistrationGridSequence[0]
    try:
        row, column = np.reshape([float(v) for v in lattice.ImageOrientationPatient], (2, 3))
        direction = np.stack([row, column, np.cross(row, column)], 1)
        size = tuple(int(v) for v in lattice.GridDimensions)
        grid = Grid(
            size,
            lattice.GridResolution,
            [float(v) for v in lattice.ImagePositionPatient],
            tuple(direction.ravel()),
        )
        offsets = np.frombuffer(lattice.VectorGridData, "<f4").reshape(*grid.shape, 3).astype(float)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path} has a damaged deformation grid ({error}).") from error
    before, after = (
        _matrix(item, f"{which}DeformationMatrixRegistrationSequence") for which in ("Pre", "Post")
    )
    points = grid.points().astype(float)
    u = after(before(points) + offsets) - points
    undefined = ~np.isfinite(u).all(-1)
    if undefined.all():
        raise InputError(f"{path} defines no displacement anywhere.")
    if undefined.any():  # (NaN, NaN, NaN): not defined there; the nearest defined one goes on
        nearest = ndimage.distance_transform_edt(undefined, return_distances=False, return_indices=True)
        u = u[tuple(nearest)]
    return DisplacementField(grid, u)


def right_handed(values: np.ndarray, grid: Grid) -> tuple[np.ndarray, Grid]:
    """The same values (z, y, x, ...) on a lattice whose third axis is the cross product of the others, as
    DICOM takes it.
    """
    axes = np.reshape(grid.direction, (3, 3)).copy()
    if np.linalg.det(axes) > 0:
        return values, grid
    axes[:, 2] *= -1
    first = grid.index_to_world(np.array([0, 0, grid.size[2] - 1]))
    return values[::-1], Grid(grid.size, grid.spacing, first, tuple(axes.ravel()))


def _matrix(item: Dataset, name: str) -> Affine:
    sequence = item.get(name)
    if not sequence:
        return Affine.identity()
    values = np.reshape([float(v) for v in sequence[0].FrameOfReferenceTransformationMatrix], (4, 4))
    return Affine(values[:3, :3], values[:3, 3])


def _code(pydicom: Any, value: str, scheme: str, meaning: str) -> Dataset:
    code = pydicom.dataset.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def decimal(value: float) -> str:
    """A decimal string of at most 16 characters, as exact as that allows."""
    for digits in range(16, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    return f"{value:.6g}"


def _version() -> str:
    from . import __version__

    return __version__
