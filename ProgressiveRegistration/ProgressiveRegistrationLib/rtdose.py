"""DICOM RTDOSE read into an image in Gy, and written from one. Needs pydicom (extra ``dicom``).

What is written is 32 bits deep, so that scaling costs less than a billionth of the largest dose. Its planes
follow each other along the cross product of rows and columns, first offset 0 (PS3.3 C.8.8.3.2).
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from .dicom_registration import decimal, new_object, pydicom_module, read_object, right_handed, save_dicom
from .errors import InputError
from .geometry import Grid

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.481.2"
LEVELS = 2**32 - 1
KEPT = ("DoseType", "DoseSummationType", "ReferencedRTPlanSequence", "TissueHeterogeneityCorrection")


def read_rtdose(path: str | os.PathLike) -> sitk.Image:
    """The dose in Gy, float32, scaled by DoseGridScaling.

    Raises
    ------
    InputError : pydicom is missing, no RTDOSE, no absolute dose, one plane only, uneven planes, or something
        missing in it.
    """
    path = Path(path)
    data = read_object(path, "RTDOSE")
    if data.get("DoseUnits", "GY") != "GY":
        raise InputError(f"{path} has a dose in {data.DoseUnits}; an absolute dose in Gy is needed.")
    try:
        offsets = np.array([float(v) for v in np.atleast_1d(data.get("GridFrameOffsetVector", 0.0))])
        if len(offsets) < 2:
            raise InputError(f"{path} has one dose plane only; a volume is needed.")
        values = (data.pixel_array * float(data.DoseGridScaling)).astype(np.float32)
        row, column = np.reshape([float(v) for v in data.ImageOrientationPatient], (2, 3))
        origin = np.array([float(v) for v in data.ImagePositionPatient])
        dy, dx = (float(v) for v in data.PixelSpacing)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path} lacks something that a dose needs ({error}).") from error
    steps = np.diff(offsets)
    if values.shape[:1] != offsets.shape or not np.allclose(steps, steps[0], atol=1e-3) or not steps[0]:
        raise InputError(f"{path} has uneven dose planes; resample it to an even grid first.")
    normal, step = np.cross(row, column), float(steps.mean())
    if step < 0:  # the first plane, at the position given, is the last one along the normal
        values, origin, step = values[::-1], origin + normal * (offsets[-1] - offsets[0]), -step
    axes = np.stack([row, column, normal], 1)
    grid = Grid(values.shape[::-1], (dx, dy, step), origin, tuple(axes.ravel()))
    return grid.image(np.ascontiguousarray(values))


def write_rtdose(
    dose: sitk.Image,
    path: str | os.PathLike,
    *,
    image: Dataset | None = None,
    source: Dataset | None = None,
    comment: str = "",
    moved: bool = True,
) -> None:
    """Write a dose in Gy (negative counts as 0) as RTDOSE.

    Parameters
    ----------
    image : header of the CT on which it lies: patient, study and frame of reference are its.
    source : header of the RTDOSE from which it was made: its plan is referred to, and it gives patient, study
        and frame where there is no ``image``.
    comment : what it is; cut to 64 characters. moved : whether it was deformed on the way.

    Raises
    ------
    InputError : pydicom is missing, or image and source are of two patients. OutputError.
    """
    pydicom_module()
    from pydicom.sequence import Sequence
    from pydicom.uid import generate_uid

    ids = [str(header.get("PatientID", "")) for header in (image, source) if header is not None]
    if len(ids) == 2 and all(ids) and ids[0] != ids[1]:
        raise InputError(f"The image and the dose are of two patients, {ids[0]} and {ids[1]}.")
    values, grid = right_handed(sitk.GetArrayFromImage(dose), Grid.from_image(dose))
    scaling = decimal(max(float(values.max()), 1e-6) / LEVELS * (1 + 1e-9))  # rounded, it must still suffice
    levels = np.rint(np.clip(values.astype(float) / float(scaling), 0, LEVELS)).astype("<u4")

    now = datetime.now()
    out = new_object(SOP_CLASS, "RTDOSE", image if image is not None else source)
    out.Manufacturer, out.OperatorsName = "Progressive Registration", ""
    out.SeriesDescription = comment[:64]
    out.InstanceCreationDate = out.SeriesDate = out.ContentDate = now.strftime("%Y%m%d")
    out.InstanceCreationTime = out.SeriesTime = out.ContentTime = now.strftime("%H%M%S")
    frames = [getattr(header, "FrameOfReferenceUID", None) for header in (image, source)]
    out.FrameOfReferenceUID = next((uid for uid in frames if uid), None) or generate_uid()
    out.PositionReferenceIndicator = ""
    axes = np.reshape(grid.direction, (3, 3))
    out.ImagePositionPatient = [decimal(v) for v in grid.origin]
    out.ImageOrientationPatient = [decimal(v) for v in (*axes[:, 0], *axes[:, 1])]
    out.PixelSpacing = [decimal(grid.spacing[1]), decimal(grid.spacing[0])]
    out.SliceThickness = decimal(grid.spacing[2])
    out.GridFrameOffsetVector = [decimal(k * grid.spacing[2]) for k in range(grid.size[2])]
    out.FrameIncrementPointer = 0x3004000C
    out.Columns, out.Rows, out.NumberOfFrames = grid.size
    out.SamplesPerPixel, out.PhotometricInterpretation = 1, "MONOCHROME2"
    out.BitsAllocated, out.BitsStored, out.HighBit, out.PixelRepresentation = 32, 32, 31, 0
    out.DoseUnits, out.DoseType, out.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    out.DoseComment = comment[:64]
    out.DoseGridScaling = scaling
    if moved:
        out.SpatialTransformOfDose, out.ReferencedSpatialRegistrationSequence = "NON_RIGID", Sequence([])
    if source is not None:
        for keyword in KEPT:
            if keyword in source:
                out[keyword] = source[keyword]
    out.PixelData = levels.tobytes()
    save_dicom(out, path)
