"""Reading and writing 3D images, and refusing what cannot be registered, each with one sentence."""

from __future__ import annotations

import gzip
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError, OutputError
from .files import replacing

MIN_VOXELS = 8  # along each axis: less is a slice or a strip, not a volume
POSITION, ORIENTATION = "0020|0032", "0020|0037"  # DICOM tags
DICOM_ADVICE = "give another with --series, or a folder with one series"


def read_image(path: str | os.PathLike, series: str | None = None) -> sitk.Image:
    """Read a 3D scalar image: NRRD, MetaImage, NIfTI or whatever else ITK reads, or a folder of DICOM files.

    Parameters
    ----------
    path : a file, or a folder that holds one or more DICOM series.
    series : the series instance UID, or the end of one, to take from a folder; None: the one with the most slices.

    Raises
    ------
    InputError : missing, unreadable or truncated file; not 3D; several values per voxel; too few slices; NaN or infinite
        or constant values; several like-sized series; missing slices.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give an image file or a folder of DICOM files.")
    image = _read_folder(path, series) if path.is_dir() else _read_file(path)
    return check_image(image, str(path))


def check_image(image: sitk.Image, name: str) -> sitk.Image:
    """The image, if it can be registered (a 4D image of one time point becomes 3D); raises InputError otherwise."""
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    if image.GetDimension() != 3:
        raise InputError(
            f"{name} has {image.GetDimension()} dimensions; a 3D volume is needed (of a 4D scan, give one phase)."
        )
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"{name} has {image.GetNumberOfComponentsPerPixel()} values per voxel (colour or vectors?); "
            f"a CT with one value per voxel is needed."
        )
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"{name} has complex values; a CT in Hounsfield units is needed.")
    if min(image.GetSize()) < MIN_VOXELS:
        sizes = " x ".join(map(str, image.GetSize()))
        raise InputError(
            f"{name} has {sizes} voxels; a volume of at least {MIN_VOXELS} slices is needed (for DICOM, give the folder)."
        )
    values = sitk.GetArrayViewFromImage(image)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise InputError(f"{name} has {count} NaN or infinite voxels; replace them, for example by -1024.")
    if values.min() == values.max():
        raise InputError(f"{name} has the value {values.flat[0]} everywhere; it shows nothing to register.")
    return image


def write_image(image: sitk.Image, path: str | os.PathLike) -> None:
    """Write an image, compressed, whole or not at all; raises OutputError."""
    path = Path(path)
    with replacing(path) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), True)
        except RuntimeError as error:
            raise OutputError(f"{path} cannot be written: {itk_message(error)}.") from error


def itk_message(error: Exception) -> str:
    """The line of ITK's message that tells what happened, without its source file and object address."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split("): ")[-1].rstrip(".") if lines else type(error).__name__


def _read_file(path: Path) -> sitk.Image:
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; give an image file.")
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read as an image: it is damaged, cut off or no image.") from error
    if path.name.lower().endswith((".nii", ".nii.gz")) and _nifti_is_cut_off(path, image):
        raise InputError(f"{path} cannot be read as an image: it is cut off; copy or convert it again.")
    return image


def _nifti_is_cut_off(path: Path, image: sitk.Image) -> bool:
    """ITK fills a truncated NIfTI file up without a word; so count its bytes."""
    voxels = sitk.GetArrayViewFromImage(image)
    stored = sitk.ImageFileReader()
    stored.SetFileName(str(path))
    stored.ReadImageInformation()
    # Rescaled files hold fewer bytes per voxel than what ITK hands out.
    scaled = stored.GetMetaData("scl_slope") if stored.HasMetaDataKey("scl_slope") else "0"
    bits = int(stored.GetMetaData("bitpix")) if stored.HasMetaDataKey("bitpix") else 8
    needed = 348 + voxels.size * (bits // 8 if float(scaled) not in (0.0, 1.0) else voxels.dtype.itemsize)
    if not path.name.lower().endswith(".gz"):
        return path.stat().st_size < needed
    length = 0
    try:
        with gzip.open(path) as stream:
            while chunk := stream.read(1 << 22):
                length += len(chunk)
    except (EOFError, OSError, zlib.error):
        return True
    return length < needed


@dataclass(frozen=True)
class _Slice:
    file: str
    position: np.ndarray  # LPS mm of the first voxel
    normal: np.ndarray


def _read_folder(folder: Path, wanted: str | None) -> sitk.Image:
    slices = series_files(folder, wanted)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(slices)
    try:
        return reader.Execute()
    except RuntimeError as error:
        raise InputError(f"The DICOM series in {folder} cannot be read: {itk_message(error)}.") from error


def series_files(folder: Path, wanted: str | None = None) -> list[str]:
    """The files of a folder's DICOM series, sorted by position, from the patient's feet side of the normal on.

    Raises
    ------
    InputError : no series, no such series, several like-sized ones, missing slices, tilted gantry.
    """
    ids = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not ids:
        raise InputError(f"{folder} holds no DICOM series; give a folder of DICOM files or an image file.")
    series = {uid: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in ids}
    if wanted:
        chosen = [uid for uid in ids if uid == wanted or uid.endswith(wanted)]
        if len(chosen) != 1:
            raise InputError(
                f"{folder} holds {len(chosen)} series that end in {wanted}; it has: {', '.join(ids)}."
            )
        return sorted_slices(series[chosen[0]], str(folder))
    by_size = sorted(ids, key=lambda uid: len(series[uid]), reverse=True)
    if len(by_size) > 1 and len(series[by_size[1]]) > 0.5 * len(series[by_size[0]]):
        listed = "; ".join(f"{uid} ({len(series[uid])} files)" for uid in by_size[:4])
        raise InputError(f"{folder} holds several series of like size, so {DICOM_ADVICE}: {listed}.")
    return sorted_slices(series[by_size[0]], str(folder))


def sorted_slices(files: tuple[str, ...] | list[str], name: str) -> list[str]:
    """Sort a series' files by position along the slice normal; doubles are dropped.

    Raises
    ------
    InputError : a file is no slice in space, slices are missing, or the gantry was tilted.
    """
    slices = [_read_slice(file) for file in files]
    if len(slices) < MIN_VOXELS:
        raise InputError(
            f"The largest DICOM series in {name} has {len(slices)} file(s); a CT volume needs at least {MIN_VOXELS} slices."
        )
    normal = slices[0].normal
    slices = [s for s in slices if np.abs(s.normal - normal).max() < 1e-3]  # a scout lies across
    slices.sort(key=lambda s: float(s.position @ normal))
    unique = [slices[0]]
    for item in slices[1:]:
        if (item.position - unique[-1].position) @ normal > 1e-2:
            unique.append(item)
    positions = np.array([s.position for s in unique])
    heights = positions @ normal
    gaps = np.diff(heights)
    usual = float(np.median(gaps)) if len(gaps) else 0.0
    wide = np.flatnonzero(gaps > 1.5 * usual)
    if wide.size:
        missing = int(np.round(gaps[wide] / usual - 1).sum())
        raise InputError(
            f"The DICOM series in {name} misses about {missing} slice(s), the first after "
            f"{Path(unique[wide[0]].file).name}; give the complete series."
        )
    drift = positions - positions[0] - np.outer(heights - heights[0], normal)
    if np.abs(drift).max() > 1.0:
        raise InputError(
            f"The DICOM series in {name} was scanned with a tilted gantry (slices shift by "
            f"{np.abs(drift).max():.0f} mm); resample it to a straight volume first."
        )
    return [s.file for s in unique]


def _read_slice(file: str) -> _Slice:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    try:
        reader.ReadImageInformation()
        position = np.array([float(v) for v in reader.GetMetaData(POSITION).split("\\")])
        axes = np.array([float(v) for v in reader.GetMetaData(ORIENTATION).split("\\")])
        return _Slice(file, position, np.cross(axes[:3], axes[3:]))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{file} is no readable CT slice with a position; remove it or give another series."
        ) from error
