"""RT structures along the fields: contours to masks, masks warped, contours again.

A contour's points, moved one by one, do not stay in a plane, which RTSTRUCT needs. So each structure
becomes its signed distance in mm on the image's grid, which is warped linearly; its zero level gives the
contours in the other image's slices. Read and written with pydicom.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import SimpleITK as sitk

from .dicom_registration import new_object, pydicom_module, read_object, reference_to, save_dicom
from .errors import InputError
from .field import DisplacementField
from .geometry import Grid

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
IN_PLANE_MM = 0.1
ON_LINE = 0.01  # voxels, within which an outline goes through a voxel's centre
COLOURS = ((217, 115, 26), (47, 127, 196), (63, 143, 95), (141, 95, 176), (179, 38, 30), (214, 163, 0))


def read_structures(path: str | os.PathLike, grid: Grid) -> dict[str, sitk.Image]:
    """Name -> UInt8 mask on ``grid`` (the grid of the image on which the structures were drawn); holes by
    even-odd.

    Raises
    ------
    InputError : no RTSTRUCT, no contour in it, or contours that lie off the image's slices.
    """
    path = Path(path)
    data = read_object(path, "RTSTRUCT")
    names = {int(roi.ROINumber): str(roi.ROIName) for roi in data.get("StructureSetROISequence", [])}
    out: dict[str, sitk.Image] = {}
    for roi in data.get("ROIContourSequence", []):
        contours = [
            np.reshape([float(v) for v in c.ContourData], (-1, 3))
            for c in roi.get("ContourSequence", [])
            if c.get("ContourGeometricType") == "CLOSED_PLANAR" and len(c.ContourData) >= 9
        ]
        if contours:
            name = names.get(int(roi.ReferencedROINumber), f"ROI {roi.ReferencedROINumber}")
            out[name] = grid.image(_filled(contours, grid, f"{path}, {name}"))
    if not out:
        raise InputError(f"{path} has no closed contours.")
    return out


def warp_structure(mask: sitk.Image, field: DisplacementField, reference: Grid) -> sitk.Image:
    """A mask of the moving image, above 0 inside, as UInt8 on the fixed image's grid; smooth, by its signed
    distance.

    ``field``: from the fixed to the moving image.
    """
    # half-way between the distances to the last voxel in and to the first one out lies the surface
    inner, outer = (
        sitk.SignedMaurerDistanceMap(
            part, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
        )
        for part in (mask > 0, mask <= 0)
    )
    distance = (inner - outer) / 2
    outside = float(sitk.GetArrayViewFromImage(distance).max())
    transform = field.covering(reference).to_transform()
    out = sitk.Resample(
        distance,
        reference.size,
        transform,
        sitk.sitkLinear,
        reference.origin,
        reference.spacing,
        reference.direction,
        outside,
        sitk.sitkFloat32,
    )
    return sitk.Cast(out <= 0, sitk.sitkUInt8)


def write_structures(
    masks: Mapping[str, sitk.Image],
    path: str | os.PathLike,
    *,
    images: Sequence[Dataset] = (),
    label: str = "Registered",
) -> None:
    """Write masks (one grid) as RTSTRUCT with closed planar contours.

    ``images``: headers of the series to which they belong (``headers_of_series``): patient, study and frame
    of reference are theirs, and every contour names its slice.

    Raises
    ------
    InputError : nothing inside any mask. OutputError.
    """
    pydicom_module()
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence as Items
    from pydicom.uid import generate_uid

    now = datetime.now()
    image = images[0] if images else None
    out = new_object(RTSTRUCT, "RTSTRUCT", image)
    out.Manufacturer, out.OperatorsName = "Progressive Registration", ""
    out.StructureSetLabel = label[:16]
    out.StructureSetDate, out.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    frame = getattr(image, "FrameOfReferenceUID", None) or generate_uid()
    out.FrameOfReferenceUID, out.PositionReferenceIndicator = frame, ""
    reference = Dataset()
    reference.FrameOfReferenceUID = frame
    if image is not None:
        study, series = Dataset(), Dataset()
        study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = STUDY_CLASS, image.StudyInstanceUID
        series.SeriesInstanceUID = image.SeriesInstanceUID
        series.ContourImageSequence = Items([reference_to(header) for header in images])
        study.RTReferencedSeriesSequence = Items([series])
        reference.RTReferencedStudySequence = Items([study])
    out.ReferencedFrameOfReferenceSequence = Items([reference])
    out.StructureSetROISequence, out.ROIContourSequence, out.RTROIObservationsSequence = (
        Items([]) for _ in range(3)
    )
    for number, (name, mask) in enumerate(masks.items(), 1):
        contours = _contours(mask)
        roi, shown, observed = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ReferencedFrameOfReferenceUID, roi.ROIName = number, frame, name[:64]
        roi.ROIGenerationAlgorithm = "AUTOMATIC"
        shown.ReferencedROINumber, shown.ROIDisplayColor = number, list(COLOURS[(number - 1) % len(COLOURS)])
        shown.ContourSequence = Items([])
        for points in contours:
            contour = Dataset()
            shown_on = _slice_of(points, images)
            if shown_on is not None:
                contour.ContourImageSequence = Items([reference_to(shown_on)])
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            contour.ContourData = [f"{v:.3f}" for v in points.ravel()]
            shown.ContourSequence.append(contour)
        observed.ObservationNumber, observed.ReferencedROINumber = number, number
        observed.RTROIInterpretedType, observed.ROIInterpreter = "", ""
        out.StructureSetROISequence.append(roi)
        out.ROIContourSequence.append(shown)
        out.RTROIObservationsSequence.append(observed)
    if not any(roi.ContourSequence for roi in out.ROIContourSequence):
        raise InputError("No structure has a voxel in this image: there is no contour to write.")
    save_dicom(out, path)


def _slice_of(points: np.ndarray, images: Sequence[Dataset]) -> Dataset | None:
    """The header of the slice in whose plane LPS points (n, 3) lie, within 0.1 mm; None where none is."""
    for header in images:
        axes = np.reshape([float(v) for v in header.ImageOrientationPatient], (2, 3))
        away = (points - [float(v) for v in header.ImagePositionPatient]) @ np.cross(*axes)
        if np.abs(away).max() < IN_PLANE_MM:
            return header
    return None


def _filled(contours: list[np.ndarray], grid: Grid, name: str) -> np.ndarray:
    """(z, y, x) uint8."""
    from matplotlib.path import Path as Polygon

    out, on_line = np.zeros((2, *grid.shape), bool)
    x, y = np.meshgrid(np.arange(grid.size[0]), np.arange(grid.size[1]))
    pixels = np.stack([x.ravel(), y.ravel()], 1)
    for points in contours:
        index = grid.world_to_index(points)
        k = int(np.rint(index[:, 2].mean()))
        if np.ptp(index[:, 2]) > 0.6 or abs(index[:, 2].mean() - k) > 0.4:
            raise InputError(
                f"{name}: a contour lies off the image's slices; give the image on which it was drawn."
            )
        if not 0 <= k < grid.size[2]:
            continue
        low = np.floor(index[:, :2].min(0)).astype(int)
        high = np.ceil(index[:, :2].max(0)).astype(int)
        near = np.all((pixels >= low) & (pixels <= high), axis=1)
        inside, line = np.zeros((2, len(pixels)), bool)
        polygon = Polygon(index[:, :2])
        a, b = (polygon.contains_points(pixels[near], radius=r) for r in (ON_LINE, -ON_LINE))
        inside[near], line[near] = a & b, a ^ b
        out[k] ^= inside.reshape(out[k].shape)
        on_line[k] |= line.reshape(out[k].shape)
    # outlines traced from a mask often go through the outermost voxels' centres, holes' outlines too
    return (out | on_line).astype(np.uint8)


def _contours(mask: sitk.Image) -> list[np.ndarray]:
    """LPS points (n, 3) of the closed outlines in every slice, half-way between voxels in and out."""
    from contourpy import contour_generator

    grid = Grid.from_image(mask)
    values = np.pad(sitk.GetArrayViewFromImage(mask) > 0, ((0, 0), (1, 1), (1, 1))).astype(float)
    found: list[Any] = []
    for k in np.flatnonzero(values.any((1, 2))):
        separate = contour_generator(z=values[k], line_type="Separate").lines(0.5)
        for line in cast("list[np.ndarray]", separate):
            points = line[:-1] - 1  # closed: the last is the first
            if len(points) >= 3:
                found.append(grid.index_to_world(np.column_stack([points, np.full(len(points), k)])))
    return found
