"""ITK transform files part by part: what SimpleITK passes over in them, or cannot read.

Slicer marks a transform that is set "to parent" (moving -> fixed) by ``Inverse`` before its type; ITK knows
no such types. Of several transforms that are no composite SimpleITK takes the first without a word.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from .errors import InputError, memory_errors
from .field import DisplacementField
from .geometry import Grid
from .itk import quiet_itk

HDF5 = b"\x89HDF"
TEXT = b"#Insight Transform File"
INVERSE = "Inverse"
FIELD, SPLINE, COMPOSITE = "DisplacementFieldTransform", "BSplineTransform", "CompositeTransform"
MOST_DEFLATED = 1032
FINE_MM = 2.0  # spacing of a lattice on which an inverse is kept
MOST_VOXELS = 12e6
CHAIN_MARGIN_MM = 30.0  # how far a field in a chain goes on with its border value, as in Slicer
BAD_MM, BAD_SHARE = 0.5, 0.001  # how far, and for how much of the field, an inverse may miss


@dataclass(frozen=True)
class Part:
    """One transform of a file: its type's name without number types, and its parameters as ITK keeps them."""

    kind: str
    fixed: np.ndarray
    parameters: np.ndarray

    @property
    def inverse(self) -> bool:
        """Is it one of Slicer's, to be inverted?"""
        return self.kind.startswith(INVERSE)


def kinds(path: Path) -> list[str]:
    """The types in an ITK transform file, in its order; empty: another kind of file, or an unreadable one."""
    with open(path, "rb") as file:
        start = file.read(len(TEXT))
    try:
        if start.startswith(HDF5):
            with _groups(path) as groups:
                return [_kind(group) for group in groups]
        if start == TEXT:
            found = re.findall(rb"^Transform:[ \t]*(\w+)", path.read_bytes(), re.MULTILINE)
            return [_plain(name.decode("ascii", "replace")) for name in found]
    except (ImportError, OSError, KeyError, ValueError, RuntimeError, TypeError):
        pass
    return []


def read_inverse(path: Path, notes: list[str]) -> DisplacementField | sitk.Transform:
    """A file with parts that are marked as inverse: these inverted, the others as ITK has them.

    Returns
    -------
    A field where the file holds one field and no more, which goes on with its border value, as in Slicer;
    else a composite.

    Raises
    ------
    InputError : damaged, or an inverse of another kind than fields and B-splines.
    """
    try:
        with memory_errors():
            parts = list(_parts(path))
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, ImportError) as error:
        raise InputError(
            f"{path} holds an inverse transform of Slicer's and cannot be read: it is damaged or cut off; "
            "save it again."
        ) from error
    if parts[0].kind == COMPOSITE:
        parts = parts[1:]
    if not parts:
        raise InputError(f"{path} holds no transform.")
    for part in parts:
        if part.inverse and part.kind[len(INVERSE) :] not in (FIELD, SPLINE):
            raise InputError(
                f"{path} holds an {part.kind} of Slicer's, which only Slicer can invert; in its Transforms "
                "module convert it into a displacement field over the fixed volume, and save that as .nrrd."
            )
    notes.append(
        f"{path} holds a transform that Slicer had set to parent (moving to fixed), so its inverse was taken."
    )
    if len(parts) == 1 and parts[0].kind == INVERSE + FIELD:
        return inverted(_field(parts[0], path), path, notes)
    # ITK, too, applies the last one first
    return sitk.CompositeTransform([_transform(part, path, notes) for part in parts])


def inverted(field: DisplacementField, path: Path, notes: list[str]) -> DisplacementField:
    """The inverse on a lattice along the field's own axes, fine enough for 0.05 mm; a note where it folds."""
    grid = field.grid
    thin = tuple(slice(None, None, max(1, n // 60)) for n in grid.shape)
    last = tuple(slice(-1, None) for _ in grid.shape)
    there = [
        grid.world_to_index((grid.points()[s] + field.displacement[s]).reshape(-1, 3)) for s in (thin, last)
    ]
    index = np.concatenate(there)
    low, high = np.floor(index.min(0)) - 1, np.ceil(index.max(0)) + 1
    if np.prod(high - low + 1) > 30 * np.prod(grid.size):
        raise InputError(f"{path} holds displacements far larger than its grid; it is damaged.")
    spacing = np.asarray(grid.spacing)
    extent = (high - low + 1) * spacing
    fine = np.minimum(spacing, FINE_MM)
    fine = np.minimum(fine * max(1.0, float(np.prod(extent / fine)) / MOST_VOXELS) ** (1 / 3), spacing)
    over = Grid(high - low + 1, spacing, grid.index_to_world(low), grid.direction)
    out = DisplacementField(grid, field.displacement).inverse(over.with_spacing(fine))
    step = tuple(slice(None, None, max(1, n // 40)) for n in out.grid.shape)
    y = out.grid.points()[step].reshape(-1, 3).astype(float)
    x = y + out.displacement[step].reshape(-1, 3)
    inside = grid.contains(x)
    if inside.any():
        missed = np.linalg.norm(field.warp_points(x[inside]) - y[inside], axis=1)
        share = float((missed > BAD_MM).mean())
        if share > BAD_SHARE:
            notes.append(f"{path} cannot be inverted in {100 * share:.1f} % of its grid: it folds there.")
    return out


def _transform(part: Part, path: Path, notes: list[str]) -> sitk.Transform:
    if not part.inverse:
        return _by_itk(part, path)
    if part.kind == INVERSE + FIELD:
        field = inverted(_field(part, path), path, notes)
        pad = np.ceil(CHAIN_MARGIN_MM / np.asarray(field.grid.spacing)).astype(int)
        return field.covering(field.grid.padded(pad)).to_transform()
    spline = sitk.BSplineTransform(_by_itk(_with_zeros_around(part), path))
    low = np.asarray(spline.GetTransformDomainOrigin())
    sides = np.asarray(spline.GetTransformDomainPhysicalDimensions())
    spacing = np.maximum(FINE_MM, float(np.prod(sides) / MOST_VOXELS) ** (1 / 3))
    size = np.ceil(sides / spacing).astype(int)
    spacing = sides / size * (1 - 1e-6)  # at the domain's upper end ITK moves nothing
    direction = spline.GetTransformDomainDirection()
    domain = Grid(size + 1, spacing, low, direction)
    return inverted(DisplacementField.from_transform(spline, domain), path, notes).to_transform()


def _with_zeros_around(part: Part) -> Part:
    """A B-spline with two more nodes on every side, of 0: Slicer has it run out into nothing there, and in
    ITK it ends where its outermost nodes are needed."""
    size, origin, spacing = part.fixed[:3].astype(int), part.fixed[3:6], part.fixed[6:9]
    coefficients = part.parameters.reshape(3, *size[::-1])
    padded = np.pad(coefficients, [(0, 0), *[(2, 2)] * 3])
    direction = part.fixed[9:18].reshape(3, 3)
    first = origin - direction @ (2 * spacing)
    fixed = np.concatenate([size + 4, first, spacing, direction.ravel()])
    return Part(SPLINE, fixed, padded.ravel())


def _field(part: Part, path: Path) -> DisplacementField:
    size = part.fixed[:3].astype(int)
    try:
        grid = Grid(size, part.fixed[6:9], part.fixed[3:6], part.fixed[9:18])
        return DisplacementField(grid, part.parameters.reshape(*size[::-1], 3))
    except (ValueError, IndexError) as error:
        raise InputError(
            f"{path} holds a field whose numbers do not fit its sizes; it is damaged."
        ) from error


def _by_itk(part: Part, path: Path) -> sitk.Transform:
    """What ITK makes of the part alone."""
    numbers, fixed = (" ".join(map(repr, values.tolist())) for values in (part.parameters, part.fixed))
    text = f"{TEXT.decode()} V1.0\n#Transform 0\nTransform: {part.kind}_double_3_3\n"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "part.tfm"
        file.write_text(f"{text}Parameters: {numbers}\nFixedParameters: {fixed}\n", encoding="ascii")
        try:
            with memory_errors(), quiet_itk():
                return sitk.ReadTransform(str(file))
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{path} holds a {part.kind} that ITK cannot read.") from error


def _plain(name: str) -> str:
    """The type without its number types: "AffineTransform_double_3_3" is an AffineTransform."""
    return re.sub(r"_(double|float)_\d+_\d+$", "", name)


def _parts(path: Path) -> Iterator[Part]:
    with open(path, "rb") as file:
        hdf5 = file.read(4) == HDF5
    if hdf5:
        room = path.stat().st_size * MOST_DEFLATED
        with _groups(path) as groups:
            for group in groups:
                names = ("TransformFixedParameters", "TransformParameters")
                yield _sound(Part(_kind(group), *(_numbers(group, name, room) for name in names)))
        return
    part = None
    for line in path.read_bytes().splitlines():
        key, mark, value = line.partition(b":")
        if not mark:
            continue
        if key == b"Transform":
            if part is not None:
                yield _sound(part)
            part = Part(_plain(value.strip().decode("ascii")), np.empty(0), np.empty(0))
        elif part is not None and key == b"Parameters":
            part = replace(part, parameters=np.array(value.split(), float))
        elif part is not None and key == b"FixedParameters":
            part = replace(part, fixed=np.array(value.split(), float))
    if part is not None:
        yield _sound(part)


def _sound(part: Part) -> Part:
    """The part, if its numbers can be those of its type; raises ValueError."""
    if not (np.isfinite(part.fixed).all() and np.isfinite(part.parameters).all()):
        raise ValueError("no number")
    if part.kind.endswith((FIELD, SPLINE)):
        if len(part.fixed) != 18 or (part.fixed[:3] < 1).any():
            raise ValueError("sizes")
        if len(part.parameters) != 3 * np.prod(part.fixed[:3]):
            raise ValueError("numbers")
    return part


@contextmanager
def _groups(path: Path) -> Iterator[list[Any]]:
    """The groups of an HDF5 transform file, in their order; raises ImportError without h5py."""
    import h5py

    with h5py.File(path, "r") as file:
        groups = file["TransformGroup"]
        yield [groups[name] for name in sorted(groups, key=int)]


def _kind(group: Any) -> str:
    value = np.ravel(group["TransformType"][()])[0]
    return _plain(value.decode("ascii", "replace") if isinstance(value, bytes) else str(value))


def _numbers(group: Any, name: str, room: int) -> np.ndarray:
    for key in (name, name.replace("Transform", "Tranform")):  # as older versions of ITK spelled it
        if key in group:
            if group[key].size > room:
                raise ValueError("more numbers than the file can hold")
            return np.asarray(group[key][()], float).ravel()
    return np.empty(0)
