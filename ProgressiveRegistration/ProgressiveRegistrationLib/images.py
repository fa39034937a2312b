"""Reading and writing 3D images, and refusing what cannot be registered, each with one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError, OutputError, memory_errors
from .files import replacing
from .itk import itk_message, quiet_itk
from .reading import dirlab, headers
from .reading.dicom import is_dicom
from .reading.frames import one_frame
from .reading.nifti import is_nifti_name, read_nifti

MIN_VOXELS = 8  # along each axis: less is a slice or a strip, not a volume


def read_image(
    path: str | os.PathLike,
    series: str | None = None,
    *,
    option: str | None = None,
    frame: int | None = None,
    notes: list[str] | None = None,
) -> sitk.Image:
    """Read a 3D scalar image: NRRD, MetaImage, NIfTI or whatever else ITK reads, DIR-Lab's raw files,
    or DICOM.

    Parameters
    ----------
    path : a file, or a folder that holds one or more DICOM series.
    series : which volume to take from a folder: a series' number, description, UID or its end, or
        ``TAG=VALUE``; None: the one with the most slices.
    option : where a user gives ``series`` and ``frame``, for the error's advice: ``--fixed-series`` goes with
        ``--fixed-frame``.
    frame : which volume to take from a time sequence in one file, from 0.
    notes : gets sentences about what was done to the image that a user should know.

    Raises
    ------
    InputError : missing, unreadable or truncated file; not 3D; several values per voxel; too few slices; NaN
        or infinite or constant values; several like-sized series; missing slices; several volumes in one
        series.
    Examples
    --------
    >>> sitk.WriteImage(sitk.GaussianSource(size=[40, 30, 20], spacing=[1.0, 1.0, 2.5]), "scan.nrrd")
    >>> image = read_image("scan.nrrd")
    >>> image.GetSize(), image.GetSpacing()
    ((40, 30, 20), (1.0, 1.0, 2.5))
    """
    return check_image(_read(path, series, option, frame, notes), str(path))


def read_volume(
    path: str | os.PathLike,
    series: str | None = None,
    *,
    option: str | None = None,
    frame: int | None = None,
    notes: list[str] | None = None,
) -> sitk.Image:
    """The same whatever the size and the values: a mask, a label map,
    or an image of which the grid alone counts."""
    return check_volume(_read(path, series, option, frame, notes), str(path))


def check_image(image: sitk.Image, name: str) -> sitk.Image:
    """The image, if it can be registered (a 4D image of one time point becomes 3D);
    raises InputError otherwise."""
    image = check_volume(image, name)
    if min(image.GetSize()) < MIN_VOXELS:
        sizes = " x ".join(map(str, image.GetSize()))
        raise InputError(
            f"{name} has {sizes} voxels; a volume of at least {MIN_VOXELS} slices is needed (for DICOM, "
            "give the folder)."
        )
    values = sitk.GetArrayViewFromImage(image)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise InputError(f"{name} has {count} NaN or infinite voxels; replace them, for example by -1024.")
    if values.min() == values.max():
        raise InputError(f"{name} has the value {values.flat[0]} everywhere; it shows nothing to register.")
    return image


def check_volume(image: sitk.Image, name: str) -> sitk.Image:
    """The image, if it is 3D (or 4D of one time point) with one real value per voxel;
    raises InputError otherwise."""
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    if image.GetDimension() != 3:
        raise InputError(f"{name} has {image.GetDimension()} dimensions; a 3D volume is needed.")
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"{name} has {image.GetNumberOfComponentsPerPixel()} values per voxel (colour or vectors?); "
            f"an image with one value per voxel is needed."
        )
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"{name} has complex values; a CT in Hounsfield units is needed.")
    return image


def write_image(image: sitk.Image, path: str | os.PathLike) -> None:
    """Write an image, compressed, whole or not at all; raises OutputError."""
    path = Path(path)
    with replacing(path) as temporary:
        try:
            with memory_errors():
                sitk.WriteImage(image, str(temporary), True)
        except RuntimeError as error:
            raise OutputError(f"{path} cannot be written: {itk_message(error)}.") from error


def _read(
    path: str | os.PathLike,
    series: str | None,
    option: str | None,
    frame: int | None,
    notes: list[str] | None,
) -> sitk.Image:
    path = Path(path)
    notes = [] if notes is None else notes
    if not path.exists():
        raise InputError(f"{path} does not exist; give an image file or a folder of DICOM files.")
    if path.is_dir():
        from .reading.dicom_series import read_folder

        return read_folder(path, series, option, notes)
    return read_file(path, series, option=option, frame=frame, notes=notes)


def read_file(
    path: Path,
    series: str | None = None,
    *,
    option: str | None = None,
    frame: int | None = None,
    notes: list[str],
) -> sitk.Image:
    """The image in a file, by what the file is rather than by its name; raises InputError."""
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty; give an image file.")
        with open(path, "rb") as file:
            start = file.read(2)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    frame_option = option and option.split()[0].replace("-series", "-frame")
    lower = path.name.lower()
    if is_dicom(path):
        from .reading.dicom_series import read_file as read_dicom

        return read_dicom(path, series, option, notes)
    if dirlab.is_raw(path):
        return dirlab.read_raw(path, notes)
    if is_nifti_name(path) or (start == b"\x1f\x8b" and not lower.endswith(".gipl.gz")):
        image, found = read_nifti(path, frame, frame_option)
        notes += found
        return image
    try:
        with memory_errors(), quiet_itk():
            listed = False
            if lower.endswith(headers.NRRD_ENDINGS):
                kinds = headers.nrrd_fields(path).get("kinds", "").split()
                listed = len(kinds) == 4 and bool({"list", "time"} & set(kinds))
            elif lower.endswith(headers.META_ENDINGS):
                headers.meta_fields(path)
            else:
                headers.check_room_of_other(path)
            image = sitk.ReadImage(str(path))
    except (RuntimeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as an image: it is damaged, cut off or no image.") from error
    return one_frame(image, frame, str(path), frame_option, listed=listed)
