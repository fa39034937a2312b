"""Dose on its way along the fields: warped to the reference, and summed over phases or fractions.

Two ways, which a caller names, because they answer different questions where tissue changes its density:

- **plain**: D'(x) = D(T(x)), the dose at the same tissue, interpolated linearly.
- **mass**: energy over mass: of each reference voxel's parts, the mean of D(T(x)) weighed by the mass that
  is there in the phase, rho(T(x)) J(x) (Siebers and Zhong, "An energy transfer method for 4D Monte Carlo
  dose calculation", Medical Physics 35 (2008) 4096, on sampled points).

Both are only as right as the field; in steep dose gradients a field's error of 1 mm is a dose error of
several percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .field import DisplacementField
from .geometry import Grid
from .images import read_volume
from .quality import jacobian_determinant
from .reading.dicom import is_dicom

MODES = ("plain", "mass")
PARTS = 2  # of a voxel along each axis, for the mass
SLAB = 8 * PARTS  # planes of those at once


@dataclass(frozen=True)
class PhaseDose:
    """Dose (Gy) of one phase, the field from the reference to it (None: it is the reference), its CT (for
    mass), its share of the time.
    """

    dose: sitk.Image
    field: DisplacementField | None
    image: sitk.Image | None = None
    weight: float = 1.0


def warp_dose(part: PhaseDose, grid: Grid, mode: str = "plain") -> np.ndarray:
    """(z, y, x) float32 Gy of one phase on the reference's ``grid``; 0 where the dose grid does not reach.

    Raises
    ------
    InputError : an unknown mode, or no CT for the mass.
    """
    if mode not in MODES:
        raise InputError(f"There is no way {mode} to warp a dose; choose {' or '.join(MODES)}.")
    if mode == "plain":
        return _seen(part.dose, part.field, grid, 0.0)
    finer = grid.with_spacing(np.asarray(grid.spacing) / PARTS)
    slabs = [_by_mass(part, finer, z, min(z + SLAB, finer.size[2])) for z in range(0, finer.size[2], SLAB)]
    return np.concatenate(slabs).astype(np.float32)


def sum_doses(parts: Sequence[PhaseDose], grid: Grid, mode: str = "plain") -> sitk.Image:
    """The weighted mean of the phases' doses on the reference (weights are made to sum to 1), Gy, float32.

    Raises
    ------
    InputError : no dose, or weights that are negative or all 0.
    """
    weights = np.array([part.weight for part in parts], float)
    if not len(parts) or (weights < 0).any() or not weights.sum() > 0:
        raise InputError("Summing doses needs at least one dose and weights of 0 or more, not all 0.")
    total = np.zeros(grid.shape, np.float64)
    for part, weight in zip(parts, weights / weights.sum()):
        total += weight * warp_dose(part, grid, mode)
    return grid.image(total.astype(np.float32))


def read_dose(path: str | Path) -> sitk.Image:
    """A dose in Gy: an image file, or a DICOM RTDOSE file (scaled by its DoseGridScaling).

    Raises
    ------
    InputError : missing, no dose, or a relative or uneven one.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give a dose image or an RTDOSE file.")
    if path.is_dir():
        files = [p for p in sorted(path.iterdir()) if p.is_file() and is_dicom(p)]
        if len(files) != 1:
            raise InputError(f"{path} holds {len(files)} DICOM files; give the RTDOSE file itself.")
        path = files[0]
    if not is_dicom(path):
        return sitk.Cast(read_volume(path), sitk.sitkFloat32)
    from .rtdose import read_rtdose

    return read_rtdose(path)


def _seen(image: sitk.Image, field: DisplacementField | None, grid: Grid, outside: float) -> np.ndarray:
    """(z, y, x) float32: ``image`` at T(x) of the grid's voxels."""
    transform = sitk.Transform(3, sitk.sitkIdentity) if field is None else field.covering(grid).to_transform()
    out = sitk.Resample(
        image,
        grid.size,
        transform,
        sitk.sitkLinear,
        grid.origin,
        grid.spacing,
        grid.direction,
        outside,
        sitk.sitkFloat32,
    )
    return sitk.GetArrayFromImage(out)


def _by_mass(part: PhaseDose, finer: Grid, first: int, last: int) -> np.ndarray:
    """(z, y, x) Gy of the coarse voxels in the planes ``first`` to before ``last`` of the finer grid."""
    if part.image is None:
        raise InputError("Warping a dose by mass needs the phase's CT.")
    low, high = max(0, first - 1), min(finer.size[2], last + 1)  # a plane more each side, for the derivative
    slab = Grid(
        (*finer.size[:2], high - low), finer.spacing, finer.index_to_world((0, 0, low)), finer.direction
    )
    inner = slice(first - low, last - low)
    dose = _seen(part.dose, part.field, slab, 0.0)[inner].astype(np.float64)
    mass = np.maximum(_seen(part.image, part.field, slab, -1000.0)[inner] + 1000.0, 1.0)  # so has air
    mass = mass.astype(np.float64)
    if part.field is not None:
        mass *= np.maximum(jacobian_determinant(part.field, slab)[inner], 0.01)
    return _blocks(dose * mass) / _blocks(mass)


def _blocks(values: np.ndarray) -> np.ndarray:
    """Sums over blocks of ``PARTS``^3."""
    z, y, x = (n // PARTS for n in values.shape)
    return values.reshape(z, PARTS, y, PARTS, x, PARTS).sum((1, 3, 5))
