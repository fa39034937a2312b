"""NIfTI-1, NIfTI-2 and Analyze files, read by their own header.

ITK turns NaN into 0, fills a cut-off file up, and takes sform or qform without saying which; here nibabel
reads the header, and the bytes are counted before any memory is taken.

Frame: NIfTI's world is RAS mm; what leaves this module is LPS mm.
"""

from __future__ import annotations

import gzip
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..geometry import Grid
from .frames import check_frame

ENDINGS = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz", ".nia")
GZIP = b"\x1f\x8b"
MOST_DEFLATED = 1032  # deflate makes nothing smaller than by this factor
UNIT_MM = {1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units: m, mm, um
MUCH_SHEAR_MM = 1.0  # at the volume's far corner; less is rounding
FAR_FORMS_MM = 0.5  # between where sform and qform put the same corner
NAMES = {1: "scanner", 2: "aligned", 3: "Talairach", 4: "MNI", 5: "template"}


@dataclass(frozen=True)
class Nifti:
    """What a NIfTI file holds.

    Attributes
    ----------
    values : as stored, axes in the file's order reversed (so (z, y, x), or (t, z, y, x) ...), rescaled to the
        header's units.
    grid : LPS mm, of the first three axes.
    header : nibabel's.
    notes : what a user should know.
    """

    values: np.ndarray
    grid: Grid
    header: Any
    notes: tuple[str, ...] = ()


def is_nifti_name(path: Path) -> bool:
    """Does the name promise NIfTI or Analyze?"""
    return path.name.lower().endswith(ENDINGS)


def read_nifti(
    path: Path, frame: int | None = None, option: str | None = None
) -> tuple[sitk.Image, list[str]]:
    """The 3D image in a file (or one frame of a 4D one) in its rescaled values, and notes.

    Raises
    ------
    InputError : no NIfTI, cut off, sizes that the file cannot hold, colours, vectors, sheared axes.
    """
    content = load(path)
    values = content.values
    if values.ndim > 4 and values.shape[0] > 1:
        raise InputError(
            f"{path} has {values.shape[0]} values per voxel (a vector field?); an image with one value per "
            "voxel is needed."
        )
    while values.ndim > 4:
        values = values[0]
    if values.ndim == 4:
        values = values[check_frame(frame, len(values), str(path), option)]
    elif frame:
        raise InputError(f"{path} is a single volume, no time sequence; leave the frame out.")
    return content.grid.image(np.ascontiguousarray(values)), list(content.notes)


def load(path: Path) -> Nifti:
    """All that a file holds; see ``read_nifti`` for the errors."""
    header_path, data_path = _files(path)
    with _opened(header_path) as stream:
        header = _header(stream, path)
    shape = _shape(header, path)
    dtype = _dtype(header, path)
    count = int(np.prod(shape, dtype=object))
    offset = 0 if header_path != data_path else max(int(_number(header["vox_offset"], 0)), 0)
    least = int(header.sizeof_hdr) + 4 if header_path == data_path else 0
    if offset < least:
        offset = least
    raw = _bytes(data_path, offset, count * dtype.itemsize, path)
    stored = np.frombuffer(raw, dtype).reshape(shape[::-1])
    notes: list[str] = []
    values = _rescaled(stored, header, path, notes)
    return Nifti(values, _grid(header, shape, path, notes), header, tuple(notes))


def _files(path: Path) -> tuple[Path, Path]:
    """Header and data file: one and the same, or a pair."""
    name, lower = path.name, path.name.lower()
    for end in (".hdr", ".img"):
        for packed in ("", ".gz"):
            if lower.endswith(end + packed):
                stem = name[: len(name) - len(end + packed)]
                pair = []
                for wanted in (".hdr", ".img"):
                    names = [stem + e + p for e in (wanted, wanted.upper()) for p in (packed, "", ".gz")]
                    found = [path.with_name(n) for n in names if path.with_name(n).is_file()]
                    if not found:
                        missing = stem + wanted + packed
                        raise InputError(
                            f"{path} is half of a pair; {missing}, which belongs to it, is not there."
                        )
                    pair.append(found[0])
                return pair[0], pair[1]
    return path, path


def _opened(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked if its first two say gzip, whatever its name says."""
    with open(path, "rb") as file:
        packed = file.read(2) == GZIP
    return cast("IO[bytes]", gzip.open(path)) if packed else open(path, "rb")


def _header(stream: IO[bytes], path: Path) -> Any:
    """nibabel's header object: NIfTI-1, NIfTI-2, or Analyze of a pair without a magic word."""
    from nibabel.analyze import AnalyzeHeader
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    try:
        start = stream.read(540)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read as an image: it is cut off or damaged; copy it again."
        ) from error
    sizes = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    kind: Any
    if 540 in sizes and len(start) >= 540:
        kind, length = Nifti2Header, 540
    elif 348 in sizes and len(start) >= 348:
        kind, length = (Nifti1Header if start[344:347] in (b"n+1", b"ni1") else AnalyzeHeader), 348
    else:
        raise InputError(
            f"{path} cannot be read as an image: it is no NIfTI file, damaged or cut off; copy or convert "
            "it again."
        )
    return kind(start[:length], check=False)


def _shape(header: Any, path: Path) -> tuple[int, ...]:
    dim = [int(v) for v in header["dim"]]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise InputError(f"{path} has sizes that make no image ({dim[1:]}): its header is damaged.")
    shape = dim[1 : dim[0] + 1]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) < 3 or (len(shape) > 3 and min(shape[:3]) == 0):
        raise InputError(f"{path} has {len(shape)} dimensions; a 3D volume is needed.")
    return tuple(shape)


def _dtype(header: Any, path: Path) -> np.dtype:
    try:
        dtype = header.get_data_dtype()
    except Exception as error:  # nibabel has its own class for this, and KeyError
        raise InputError(f"{path} has an unknown type of values ({int(header['datatype'])}).") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        what = {"c": "complex", "V": "colour or bit"}.get(dtype.kind, str(dtype))
        raise InputError(f"{path} has {what} values; a CT in Hounsfield units is needed.")
    return dtype


def _bytes(path: Path, offset: int, needed: int, name: Path) -> bytes:
    """``needed`` bytes after ``offset``; refuses, before memory is taken, what the file cannot hold."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        packed = file.read(2) == GZIP
    if offset + needed > size * (MOST_DEFLATED if packed else 1) + 1024 * packed:
        raise InputError(
            f"{name} cannot be read as an image: its header tells of {needed / 1e6:.3g} MB of voxels, which "
            f"{path.name} ({size / 1e6:.3g} MB) cannot hold; it is cut off or damaged, so copy or convert "
            "it again."
        )
    data = b""
    try:
        with gzip.open(path) if packed else open(path, "rb") as stream:
            stream.seek(offset)
            data = stream.read(needed)
            while packed and stream.read(1 << 22):  # to the checksum at the end
                pass
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(
            f"{name} cannot be read as an image: {path.name} is cut off or damaged; copy or convert it again."
        ) from error
    if len(data) < needed:
        raise InputError(
            f"{name} cannot be read as an image: {path.name} is cut off (its voxels take {needed} bytes, "
            f"and it has {len(data)}); copy or convert it again."
        )
    return data


def _number(value: Any, default: float) -> float:
    value = float(value)
    return value if np.isfinite(value) else default


def _rescaled(stored: np.ndarray, header: Any, path: Path, notes: list[str]) -> np.ndarray:
    """slope * stored + intercept, as whole numbers where they are; in the machine's byte order."""
    stored = np.ascontiguousarray(stored, stored.dtype.newbyteorder("="))
    names = header.keys()
    slope = float(header["scl_slope"]) if "scl_slope" in names else 1.0
    intercept = float(header["scl_inter"]) if "scl_inter" in names else 0.0
    if slope == 0 or not np.isfinite(slope):
        if intercept and np.isfinite(intercept):
            notes.append(
                f"{path}: its scl_slope of {slope:g} means unscaled values, so its scl_inter of "
                f"{intercept:g} was left out."
            )
        return stored
    if not np.isfinite(intercept):
        raise InputError(f"{path} has a scl_inter that is no number; its values cannot be told.")
    if (slope, intercept) == (1.0, 0.0):
        return stored
    if stored.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer():
        ends = [slope * float(v) + intercept for v in (stored.min(), stored.max())]
        if max(map(abs, ends)) < 2**31 - 1:
            small = max(map(abs, ends)) < 2**15 - 1
            values = stored.astype(np.int64) * int(slope) + int(intercept)
            return values.astype(np.int16 if small else np.int32)
    with np.errstate(over="ignore", invalid="ignore"):
        return (stored * np.float64(slope) + intercept).astype(np.float32)


def _grid(header: Any, shape: tuple[int, ...], path: Path, notes: list[str]) -> Grid:
    """Where the voxels lie, LPS mm, from sform or qform."""
    size = shape[:3]
    names = header.keys()
    units = int(header["xyzt_units"]) & 7 if "xyzt_units" in names else 0
    scale = UNIT_MM.get(units, 1.0)
    zooms = np.abs(np.asarray(header["pixdim"], float)[1:4])
    if not np.isfinite(zooms).all():
        raise InputError(f"{path} has a voxel size that is no number; its header is damaged.")
    forms: dict[str, np.ndarray] = {}
    codes: dict[str, int] = {}
    if "qform_code" in names:
        codes = {"sform": int(header["sform_code"]), "qform": int(header["qform_code"])}
        if codes["sform"] > 0:
            forms["sform"] = np.asarray(header.get_sform(), float)
        if codes["qform"] > 0:
            try:
                forms["qform"] = np.asarray(header.get_qform(), float)
            except Exception as error:  # quaternions of more than length 1
                if "sform" not in forms:
                    raise InputError(
                        f"{path} has a qform that is no rotation; its header is damaged."
                    ) from error
    for name, affine in list(forms.items()):
        usable = np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-12
        if not usable:
            del forms[name]
            if not forms:
                raise InputError(
                    f"{path} has a {name} that puts all voxels in one plane; its header is damaged."
                )
    if not forms:
        if (zooms <= 0).any():
            raise InputError(f"{path} has a voxel size of {zooms.tolist()} mm; its header is damaged.")
        notes.append(
            f"{path} says nothing about position and orientation; its axes were taken as left, back and "
            "head, from 0."
        )
        return Grid(size, zooms * scale, (0.0, 0.0, 0.0))
    chosen = _chosen_form(forms, codes, size, scale, path, notes)
    if units in (1, 3):
        notes.append(
            f"{path} has its coordinates in {'metres' if units == 1 else 'micrometres'}; they became mm."
        )
    lps = np.diag([-1.0, -1.0, 1.0]) @ (forms[chosen][:3] * scale)
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    return Grid(size, spacing, lps[:, 3], _nearest_rotation(lps[:, :3] / spacing).ravel())


def _chosen_form(
    forms: dict[str, np.ndarray],
    codes: dict[str, int],
    size: tuple[int, ...],
    scale: float,
    path: Path,
    notes: list[str],
) -> str:
    """ "sform" or "qform": the straight one; of two, the scanner's own; else the sform,
    as most programs do."""
    shears = {name: _shear(affine, size) * scale for name, affine in forms.items()}
    straight = [name for name, shear in shears.items() if shear <= MUCH_SHEAR_MM]
    if not straight:
        name = min(shears, key=lambda n: shears[n])
        raise InputError(
            f"{path} has axes that are not at right angles (its {name} shears the volume by "
            f"{shears[name]:.1f} mm, as an uncorrected gantry tilt or an affine registration in the header "
            "does); resample it onto a straight grid."
        )
    chosen = straight[0]
    if len(straight) == 2 and codes["qform"] == 1 and codes["sform"] != 1:
        chosen = "qform"
    if len(forms) == 2:
        corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        corners[:, :3] *= np.asarray(size) - 1
        apart = np.linalg.norm((corners @ (forms["sform"] - forms["qform"]).T)[:, :3], axis=1).max() * scale
        if apart > FAR_FORMS_MM:
            other = "qform" if chosen == "sform" else "sform"
            why = (
                f"the {other} is sheared"
                if other not in straight
                else f"{NAMES.get(codes[chosen], 'code')} against {NAMES.get(codes[other], 'code')} "
                "coordinates"
            )
            notes.append(
                f"{path}: sform and qform put the same voxel up to {apart:.1f} mm apart; the {chosen} was "
                f"taken ({why})."
            )
    return chosen


def _shear(affine: np.ndarray, size: tuple[int, ...]) -> float:
    """mm by which the volume's corners move when its axes are made to stand at right angles."""
    steps = affine[:3, :3]
    spacing = np.linalg.norm(steps, axis=0)
    straight = _nearest_rotation(steps / spacing) * spacing
    corners = np.array([(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (np.asarray(size) - 1)
    return float(np.linalg.norm(corners @ (steps - straight).T, axis=1).max())


def _nearest_rotation(axes: np.ndarray) -> np.ndarray:
    u, _, v = np.linalg.svd(axes)
    return u @ v
