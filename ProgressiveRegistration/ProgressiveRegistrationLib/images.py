"""Reading and writing 3D images, and refusing what cannot be registered, each with one sentence."""

from __future__ import annotations

import gzip
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .constants import NOTHING_HU
from .errors import InputError, OutputError, memory_errors
from .files import replacing
from .geometry import Grid

MIN_VOXELS = 8  # along each axis: less is a slice or a strip, not a volume
MOST_NAMED, MOST_LOOKED_AT = 4, 1000  # folders with DICOM files, where the one given has none
# DICOM tags
POSITION, ORIENTATION, INSTANCE = "0020|0032", "0020|0037", "0008|0018"
PHASE_TAGS = {
    "TemporalPositionIdentifier": "0020|0100",
    "TemporalPositionIndex": "0020|9128",
    "AcquisitionNumber": "0020|0012",
    "TriggerTime": "0018|1060",
    "ImageComments": "0020|4000",
    "SeriesTime": "0008|0031",
}


def read_image(
    path: str | os.PathLike, series: str | None = None, *, option: str | None = None
) -> sitk.Image:
    """Read a 3D scalar image: NRRD, MetaImage, NIfTI or whatever else ITK reads, or a folder of DICOM files.

    Parameters
    ----------
    path : a file, or a folder that holds one or more DICOM series.
    series : the series instance UID, or the end of one, to take from a folder; None: the one with the most
        slices.
    option : where a user gives ``series``, for the error's advice.

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
    return check_image(_read(path, series, option), str(path))


def read_volume(
    path: str | os.PathLike, series: str | None = None, *, option: str | None = None
) -> sitk.Image:
    """The same whatever the size and the values: a mask, a label map,
    or an image of which the grid alone counts."""
    return check_volume(_read(path, series, option), str(path))


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
        raise InputError(
            f"{name} has {image.GetDimension()} dimensions; a 3D volume is needed (of a 4D scan, give "
            "one phase)."
        )
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"{name} has {image.GetNumberOfComponentsPerPixel()} values per voxel (colour or vectors?); "
            f"an image with one value per voxel is needed."
        )
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"{name} has complex values; a CT in Hounsfield units is needed.")
    return image


def warp_image(
    moving: sitk.Image,
    grid: Grid,
    transform: sitk.Transform,
    *,
    label: bool = False,
    default: float | None = None,
) -> sitk.Image:
    """moving(T(x)) on a grid, in the moving image's type.

    Parameters
    ----------
    label : nearest neighbour instead of linear interpolation.
    default : value where T(x) lies outside the moving image; None: 0 for labels, and for images -1024 or the
        nearest to it that the image has room for (its own minimum).
    """
    if default is None:
        default = 0.0 if label else _background(moving)
    # ITK cuts fractions off when it writes whole numbers: round them ourselves
    rounding = not label and "integer" in moving.GetPixelIDTypeAsString()
    warped = sitk.Resample(
        moving,
        grid.size,
        transform,
        sitk.sitkNearestNeighbor if label else sitk.sitkLinear,
        grid.origin,
        grid.spacing,
        grid.direction,
        float(default),
        _room_for(moving) if rounding else moving.GetPixelID(),
    )
    return sitk.Cast(sitk.Round(warped), moving.GetPixelID()) if rounding else warped


def _room_for(image: sitk.Image) -> int:
    """The smaller floating-point type that holds the image's whole numbers exactly."""
    wide = any(bits in image.GetPixelIDTypeAsString() for bits in ("32-bit", "64-bit"))
    return sitk.sitkFloat64 if wide else sitk.sitkFloat32


def _background(image: sitk.Image) -> float:
    """-1024, or the image's own minimum where that is higher (an unsigned or shifted image)."""
    statistics = sitk.MinimumMaximumImageFilter()
    statistics.Execute(image)
    return max(NOTHING_HU, statistics.GetMinimum())


def write_image(image: sitk.Image, path: str | os.PathLike) -> None:
    """Write an image, compressed, whole or not at all; raises OutputError."""
    path = Path(path)
    with replacing(path) as temporary:
        try:
            with memory_errors():
                sitk.WriteImage(image, str(temporary), True)
        except RuntimeError as error:
            raise OutputError(f"{path} cannot be written: {itk_message(error)}.") from error


def itk_message(error: Exception) -> str:
    """The line of ITK's message that tells what happened, without its source file and object address."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split("): ")[-1].rstrip(".") if lines else type(error).__name__


def _read(path: str | os.PathLike, series: str | None, option: str | None) -> sitk.Image:
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give an image file or a folder of DICOM files.")
    return _read_folder(path, series, option) if path.is_dir() else _read_file(path)


def _read_file(path: Path) -> sitk.Image:
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; give an image file.")
    try:
        with memory_errors():
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
    instance: str
    phases: dict[str, str]  # what may tell the phases of a 4DCT apart


def _read_folder(folder: Path, wanted: str | None, option: str | None) -> sitk.Image:
    slices = series_files(folder, wanted, option)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(slices)
    try:
        with memory_errors():
            return reader.Execute()
    except RuntimeError as error:
        raise InputError(f"The DICOM series in {folder} cannot be read: {itk_message(error)}.") from error


def series_files(folder: Path, wanted: str | None = None, option: str | None = None) -> list[str]:
    """The files of a folder's DICOM series, sorted by position,
    from the patient's feet side of the normal on.

    Raises
    ------
    InputError : no series, no such series, several like-sized ones, several volumes in one, missing slices,
        tilted gantry.
    """
    with _without_warnings():  # ITK's own words for the sentence below
        ids = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not ids:
        below = _folders_with_dicom(folder)
        advice = (
            f"one of those below it: {'; '.join(below)}"
            if below
            else "a folder of DICOM files or an image file"
        )
        raise InputError(f"{folder} holds no DICOM series; give {advice}.")
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
        advice = (
            f"choose one with {option}, or give a folder with one series"
            if option
            else "give a folder with one"
        )
        raise InputError(f"{folder} holds several series of like size, so {advice}: {listed}.")
    return sorted_slices(series[by_size[0]], str(folder))


@contextmanager
def _without_warnings() -> Iterator[None]:
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _folders_with_dicom(folder: Path) -> list[str]:
    """Some folders below ``folder`` that hold DICOM files: what a user who gave a study's folder meant."""
    found: list[str] = []
    for looked, (place, folders, files) in enumerate(os.walk(folder)):
        folders.sort()
        names = sorted(name for name in files if name.upper() != "DICOMDIR")
        if looked and names and is_dicom(Path(place) / names[0]):
            found.append(place)
        if len(found) == MOST_NAMED or looked == MOST_LOOKED_AT:
            break
    return found


def is_dicom(path: Path) -> bool:
    """Does the file carry DICOM's mark? TCIA's files all do."""
    try:
        with open(path, "rb") as file:
            file.seek(128)
            return file.read(4) == b"DICM"
    except OSError:
        return False


def sorted_slices(files: tuple[str, ...] | list[str], name: str) -> list[str]:
    """Sort a series' files by position along the slice normal; copies of a slice are dropped.

    Raises
    ------
    InputError : a file is no slice in space, images differ at one position, slices are missing, or the gantry
        was tilted.
    """
    slices = [_read_slice(file) for file in files]
    if len(slices) < MIN_VOXELS:
        raise InputError(
            f"The largest DICOM series in {name} has {len(slices)} file(s); a CT volume needs at least "
            f"{MIN_VOXELS} slices."
        )
    normal = slices[0].normal
    slices = [s for s in slices if np.abs(s.normal - normal).max() < 1e-3]  # a scout lies across
    slices.sort(key=lambda s: float(s.position @ normal))
    unique = _one_volume(slices, name)
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


def _one_volume(slices: list[_Slice], name: str) -> list[_Slice]:
    """The first slice at each position of sorted ones;
    InputError where the others there are not its copies."""
    places: list[dict[str, _Slice]] = []  # at each position: instance UID -> slice
    height = -np.inf
    for item in slices:
        if item.position @ slices[0].normal - height > 1e-2:
            height = item.position @ slices[0].normal
            places.append({})
        places[-1].setdefault(item.instance, item)
    for place in places:
        first, *others = place.values()
        if others and not all(np.array_equal(_pixels(first.file), _pixels(s.file)) for s in others):
            several = (
                f"The DICOM series in {name} holds several volumes in one series ({len(place)} images "
                "at one position"
            )
            tag, counts = _phases(places)
            if tag is None:
                raise InputError(f"{several}, as in {Path(first.file).name}); give a folder with one phase.")
            values = [f"{value} ({count} images)" for value, count in counts.items()]
            listed = ", ".join(values[:12]) + (", ..." if len(values) > 12 else "")
            raise InputError(
                f"{several}), which {tag} tells apart: {listed}; put the files of one phase into a folder "
                f"of their own, and give that folder."
            )
    return [next(iter(place.values())) for place in places]


def _phases(places: list[dict[str, _Slice]]) -> tuple[str | None, dict[str, int]]:
    """A tag whose every value goes with a volume of its own, and how many images each value has;
    or None and {}."""
    for tag in PHASE_TAGS:
        stacks = [[item.phases[tag] for item in place.values()] for place in places]
        if any(len(set(values)) < len(values) for values in stacks):
            continue
        counts = Counter(value for values in stacks for value in values)
        if "" not in counts and min(counts.values()) >= MIN_VOXELS:
            return tag, dict(sorted(counts.items(), key=lambda c: (len(c[0]), c[0])))
    return None, {}


def _pixels(file: str) -> np.ndarray:
    return sitk.GetArrayFromImage(_read_file(Path(file)))


def _read_slice(file: str) -> _Slice:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    try:
        reader.ReadImageInformation()
        position = np.array([float(v) for v in reader.GetMetaData(POSITION).split("\\")])
        axes = np.array([float(v) for v in reader.GetMetaData(ORIENTATION).split("\\")])
        found = {
            key: reader.GetMetaData(key).strip() if reader.HasMetaDataKey(key) else ""
            for key in (INSTANCE, *PHASE_TAGS.values())
        }
        phases = {name: found[key] for name, key in PHASE_TAGS.items()}
        return _Slice(file, position, np.cross(axes[:3], axes[3:]), found[INSTANCE] or file, phases)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{file} is no readable CT slice with a position; remove it or give another series."
        ) from error
