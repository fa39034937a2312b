"""A breathing thorax whose motion is known exactly: sample data, tests, demo, training.

The **fixed** image is the **exhale**, the **moving** image the **inhale**: resampling inhale through the true
field gives exhale, but for the lung's density (its mass is kept, so it is denser at exhale) and noise. The
anatomy is made of functions of position at inhale (``anatomy``) and of vessel trees
(``vessels``); the exhale image evaluates them at T(x), T being the exact motion (``motion``),
and draws the trees with their nodes at T^-1. Nothing is resampled, so truth is exact in both frames.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError, OutputError
from ..geometry import Grid
from ..landmarks import Landmarks, write_landmarks
from .anatomy import APEX, LENGTH, Anatomy
from .lesions import Lesions
from .motion import Motion
from .scanner import Kernel, kernel_named, scan
from .tissue import Tissue
from .vessels import Vessels

if TYPE_CHECKING:
    from ..field import DisplacementField

SIZE = (192, 192, 128)
SPACING = (1.8, 1.8, 2.5)
PADDING = -2048
FIELD_SPACING = 2.5  # mm; on a coarser grid interpolation would miss the landmarks by more than 0.05 mm


@dataclass(frozen=True)
class ThoraxPair:
    """An exhale (fixed) and an inhale (moving) CT of one chest, and what is true about them. All in LPS mm.

    Attributes
    ----------
    inhale, exhale : int16 HU, on one grid.
    inhale_lungs, exhale_lungs : UInt8, 1 in both lungs, vessels included.
    fixed_landmarks, moving_landmarks : the same forks of vessels and airways at exhale and at inhale, exact
        (not on voxels).
    motion : the exact maps behind it all.
    """

    inhale: sitk.Image
    exhale: sitk.Image
    inhale_lungs: sitk.Image
    exhale_lungs: sitk.Image
    fixed_landmarks: Landmarks
    moving_landmarks: Landmarks
    motion: Motion
    _cache: dict = field(default_factory=dict, repr=False, compare=False)

    @property
    def fixed(self) -> sitk.Image:
        """The exhale image."""
        return self.exhale

    @property
    def moving(self) -> sitk.Image:
        """The inhale image."""
        return self.inhale

    @property
    def fixed_lungs(self) -> sitk.Image:
        """The lung mask of the exhale image."""
        return self.exhale_lungs

    @property
    def moving_lungs(self) -> sitk.Image:
        """The lung mask of the inhale image."""
        return self.inhale_lungs

    @property
    def field(self) -> DisplacementField:
        """The true field, exhale (fixed) -> inhale (moving), on the images' grid or one of at most 2.5 mm.

        Exact at each voxel centre. It is the lung's motion in the lungs, in what else lies within the rib
        cage, and for two voxels beyond (so that interpolating it at the pleura is sound); the chest wall's
        motion elsewhere. It jumps there: the lung slides. (The couch lies still in the images; the field does
        not know it.)
        """
        return self._displacement("field")

    @property
    def inverse_field(self) -> DisplacementField:
        """The true field, inhale -> exhale, on the same grid; see ``field``. Made when first asked for."""
        return self._displacement("inverse", inverse=True)

    def _displacement(self, name: str, inverse: bool = False) -> DisplacementField:
        from ..field import DisplacementField

        if name not in self._cache:
            grid = Grid.from_image(self.exhale)
            if name == "transform":
                grid = grid.with_spacing(FIELD_SPACING)
            elif max(grid.spacing) > FIELD_SPACING:
                grid = grid.with_spacing(np.minimum(grid.spacing, FIELD_SPACING))
            values = true_displacement(self.motion, grid, inverse=inverse)
            self._cache[name] = DisplacementField(grid, values)
        return self._cache[name]


def breathing_thorax(seed: int = 0, **options: Any) -> ThoraxPair:
    """Make up a chest, breathe, and scan it twice.

    Parameters
    ----------
    seed : same seed and options, same bytes (on one machine and one set of libraries).
    options : what the chest is like, as ``make_chest`` takes it: ``size``, ``spacing``, ``amplitude`` ...

    Raises
    ------
    InputError : an option cannot be used; the sentence says which and why.

    Examples
    --------
    >>> pair = breathing_thorax(0, size=(96, 96, 96), spacing=(3.5, 3.5, 3.2), landmarks=40)
    >>> pair.fixed.GetSize(), len(pair.fixed_landmarks)
    ((96, 96, 96), 40)
    """
    chest = make_chest(seed, **options)
    motion = chest.tissue.motion
    # Two threads: numpy leaves the interpreter's lock, and neither image depends on the other.
    with ThreadPoolExecutor(2) as pool:
        inhale, exhale = pool.map(chest.scanned, (None, motion), chest.noises[:2])
    moving, labels = chest.tissue.landmarks(chest.landmarks)
    return ThoraxPair(
        inhale=inhale[0],
        exhale=exhale[0],
        inhale_lungs=inhale[1],
        exhale_lungs=exhale[1],
        fixed_landmarks=Landmarks(
            motion.lung_inverse(moving), labels, source="the phantom's exhale landmarks"
        ),
        moving_landmarks=Landmarks(moving, labels, source="the phantom's inhale landmarks"),
        motion=motion,
    )


@dataclass(frozen=True)
class Chest:
    """A made-up chest before it is scanned. ``noises``: a stream of random numbers for every scan."""

    grid: Grid
    tissue: Tissue
    kernel: Kernel
    noise: float
    thickness: float
    padding: bool
    landmarks: int
    noises: list[np.random.Generator]

    def scanned(self, motion: Motion | None, stream: np.random.Generator) -> tuple[sitk.Image, sitk.Image]:
        """(int16 HU, UInt8 lungs) where ``motion`` leads from the scanned state to full inhale; None:
        at inhale."""
        tissue = self.tissue if motion is None else self.tissue.moving_by(motion)
        hu, mask = tissue.at(self.grid, exhale=motion is not None)
        hu = scan(hu, self.grid, stream, self.kernel, self.noise, self.thickness)
        hu = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
        if self.padding:
            hu[:, outside_bore(self.grid)] = PADDING
        return self.grid.image(hu), self.grid.image(mask.astype(np.uint8))


def make_chest(
    seed: int = 0,
    *,
    size: tuple[int, int, int] = SIZE,
    spacing: tuple[float, float, float] = SPACING,
    amplitude: float = 20.0,
    kernel: str = "standard",
    contrast: float = 0.0,
    nodules: int = 2,
    emphysema: float = 0.0,
    consolidation: float = 0.0,
    noise: float = 12.0,
    thickness: float | None = None,
    tips: int = 7000,
    landmarks: int = 400,
    padding: bool = False,
    scans: int = 2,
) -> Chest:
    """Make up a chest, for as many scans.

    Parameters
    ----------
    seed : same seed and options, same bytes (on one machine and one set of libraries).
    size, spacing : voxels and mm along x, y, z, of both images; together they must cover the lungs.
    amplitude : mean motion of the diaphragm's domes from exhale to inhale, mm; 0 gives two scans without
        motion.
    kernel : 'soft', 'standard' or 'sharp'.
    contrast : HU that a contrast agent adds to blood.
    nodules : how many round nodules of 4 to 20 mm.
    emphysema, consolidation : share of the lung's volume, 0 to 0.6 and 0 to 0.4, that is destroyed (holes) or
        dense.
    noise : sd in HU with the standard kernel.
    thickness : slice thickness in mm, by default the slice spacing.
    tips : terminal branches of each of the two vessel trees.
    landmarks : how many pairs; at least 1.
    padding : -2048 outside the scanner's round field of view, as some scanners write it.
    scans : how often it will be scanned; each scan has a noise of its own.

    Raises
    ------
    InputError : an option cannot be used; the sentence says which and why.
    """
    grid = phantom_grid(size, spacing)
    shape = kernel_named(kernel)
    if not np.isfinite(amplitude) or amplitude < 0:
        raise InputError(f"The phantom's amplitude must be 0 mm or more; got {amplitude}.")
    for name, value, most in (("emphysema", emphysema, 0.6), ("consolidation", consolidation, 0.4)):
        if not 0 <= value <= most:
            raise InputError(f"The phantom's {name} must lie between 0 and {most}; got {value}.")
    thickness = grid.spacing[2] if thickness is None else thickness
    least_zero = (("seed", seed), ("noise", noise), ("nodules", nodules), ("contrast", contrast))
    for name, value in (*least_zero, ("thickness", thickness)):
        if not (np.isfinite(value) and value >= 0):
            raise InputError(f"The phantom's {name} must be 0 or more; got {value}.")
    if not 0 < landmarks <= tips // 4:
        raise InputError(
            f"The phantom has 1 to {tips // 4} landmarks with {tips} tips a tree; got {landmarks}."
        )

    # Each part has its own stream, so that an option of one part leaves the others as they were.
    seeds = np.random.SeedSequence(int(seed)).spawn(5 + scans)
    streams = [np.random.Generator(np.random.PCG64(s)) for s in seeds]
    anatomy = Anatomy.draw(streams[0])
    motion = Motion.draw(streams[1], anatomy, float(amplitude))
    motion.check()
    vessels = Vessels.draw(anatomy, streams[2], tips, 0.37)
    lesions = Lesions.draw(anatomy, streams[3], nodules, emphysema, consolidation)
    tissue = Tissue(anatomy, motion, vessels, lesions, contrast, streams[4])
    return Chest(grid, tissue, shape, noise, thickness, padding, landmarks, streams[5:])


def write_pair(pair: ThoraxPair, folder: str | os.PathLike) -> list[Path]:
    """Write a pair and its truth into ``folder`` (made if missing); gives the files' paths; or OutputError.

    fixed.nrrd (exhale), moving.nrrd (inhale), fixed_lungs.nrrd, moving_lungs.nrrd, fixed.mrk.json,
    moving.mrk.json, true_field.nrrd and true_transform.h5 (fixed -> moving).
    """
    from ..images import write_image

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot hold the phantom: {error.strerror or error}.") from error
    paths = []
    for name, image in (
        ("fixed.nrrd", pair.fixed),
        ("moving.nrrd", pair.moving),
        ("fixed_lungs.nrrd", pair.fixed_lungs),
        ("moving_lungs.nrrd", pair.moving_lungs),
    ):
        write_image(image, folder / name)
        paths.append(folder / name)
    for name, points in (("fixed", pair.fixed_landmarks), ("moving", pair.moving_landmarks)):
        write_landmarks(points, folder / f"{name}.mrk.json")
        paths.append(folder / f"{name}.mrk.json")
    # ITK's .h5 holds float64 without compression: at 2.5 mm it is half as large.
    for name, true in (
        ("true_field.nrrd", pair.field),
        ("true_transform.h5", pair._displacement("transform")),
    ):
        true.write(folder / name)
        paths.append(folder / name)
    return paths


def phantom_grid(size: Sequence[int], spacing: Sequence[float]) -> Grid:
    """The grid of both images, centred on the chest; raises InputError when it cannot hold the lungs."""
    try:
        size = tuple(int(v) for v in size)
        spacing = tuple(float(v) for v in spacing)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The phantom needs three sizes and three spacings; got {size} and {spacing}."
        ) from error
    if len(size) != 3 or len(spacing) != 3:
        raise InputError(f"The phantom needs three sizes and three spacings; got {size} and {spacing}.")
    if not np.all(np.isfinite(spacing)) or min(spacing) <= 0:
        raise InputError(f"The phantom's spacing must be positive; got {spacing} mm.")
    if min(size) < 16:
        raise InputError(f"The phantom's size must be at least 16 voxels along each axis; got {size}.")
    extent = np.multiply(size, spacing)
    need = np.array([290.0, 220.0, LENGTH + 18])
    if np.any(extent < need):
        raise InputError(
            "The phantom's size times spacing must be at least {:.0f} x {:.0f} x {:.0f} mm, to hold the "
            "lungs; got {:.0f} x {:.0f} x {:.0f} mm.".format(*need, *extent)
        )
    centre = np.array([0.0, 8.0, APEX - LENGTH / 2 + 3])
    return Grid(size, spacing, centre - np.multiply(np.subtract(size, 1), spacing) / 2)


def outside_bore(grid: Grid) -> np.ndarray:
    """(y, x) bool: outside the circle that fits the slice."""
    p = grid.points()[0]
    centre = grid.index_to_world((np.asarray(grid.size) - 1) / 2)
    radius = 0.5 * min(grid.size[0] * grid.spacing[0], grid.size[1] * grid.spacing[1])
    return np.hypot(p[..., 0] - centre[0], p[..., 1] - centre[1]) > radius


def true_displacement(motion: Motion, grid: Grid, *, inverse: bool = False) -> np.ndarray:
    """(z, y, x, 3) float32 mm: exhale -> inhale at the voxels of ``grid``, or back; see ``ThoraxPair``."""
    points = grid.points().reshape(-1, 3).astype(np.float64)
    out = np.empty((len(points), 3), np.float32)
    margin = 2.0 * max(grid.spacing)
    for first in range(0, len(points), 500_000):
        p = points[first : first + 500_000]
        body = motion.wall(p) if not inverse else p
        inside = motion.anatomy.cage_distance(*body.T) < margin
        u = np.empty_like(p)
        if inverse:
            u[inside] = motion.lung_inverse(p[inside], 1e-4) - p[inside]
            u[~inside] = motion.wall_inverse(p[~inside], 1e-4) - p[~inside]
        else:
            u[inside] = motion.lung(p[inside]) - p[inside]
            u[~inside] = body[~inside] - p[~inside]
        out[first : first + 500_000] = u
    return out.reshape((*grid.shape, 3))
