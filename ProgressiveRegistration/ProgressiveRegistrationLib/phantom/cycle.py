"""A breathing thorax through a whole breath: a 4DCT of made-up phases whose every motion is known exactly.

Phase 0 % is full inhale and phase 50 % full exhale, as in 4DCT. The diaphragm's depth follows Lujan et al.,
"A method for incorporating organ motion due to breathing into 3D dose calculations", Medical Physics 26
(1999) 715: cos^2n, n = 2, so that the chest rests longer at exhale. With a hysteresis the chest wall and the
lung's unevenness lag behind the diaphragm, and no point comes back on the way it went.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError, OutputError
from ..field import DisplacementField
from ..files import write_text
from ..geometry import Grid
from ..images import write_image
from ..landmarks import Landmarks, write_landmarks
from .anatomy import Anatomy
from .motion import Motion
from .pair import FIELD_SPACING, make_chest

POWER = 4  # 2n of the breath's cosine
MOST_PHASES = 20
MOST_HYSTERESIS = 0.15  # of a breath


@dataclass(frozen=True)
class ThoraxCycle:
    """The phases of one breath, all in LPS mm.

    Attributes
    ----------
    names : "phase00", "phase10", ... by percent of the breath.
    images, lungs : int16 HU and UInt8 masks, on one grid.
    landmarks : the same forks of vessels and airways in every phase, exact.
    motions : the exact map from each phase to full inhale.
    """

    names: tuple[str, ...]
    images: tuple[sitk.Image, ...]
    lungs: tuple[sitk.Image, ...]
    landmarks: tuple[Landmarks, ...]
    motions: tuple[Motion, ...]

    @property
    def exhale(self) -> int:
        """The phase with the smallest lungs."""
        return int(np.argmin([sitk.GetArrayViewFromImage(mask).sum() for mask in self.lungs]))

    def map_points(self, points: np.ndarray, first: int, second: int) -> np.ndarray:
        """Lung points (n, 3) of phase ``first`` -> where they lie in phase ``second``; exact to 1e-4 mm."""
        return self.motions[second].lung_inverse(self.motions[first].lung(points), 1e-4)

    def field(self, first: int, second: int, spacing: float = FIELD_SPACING) -> DisplacementField:
        """The true field from phase ``first`` (fixed) to ``second`` (moving); see ``ThoraxPair.field``."""
        grid = Grid.from_image(self.images[first])
        grid = grid.with_spacing(np.maximum(grid.spacing, spacing) if spacing > FIELD_SPACING else spacing)
        return DisplacementField(grid, _displacement(self.motions[first], self.motions[second], grid))

    def jacobian_determinant(self, points: np.ndarray, first: int, second: int) -> np.ndarray:
        """(n,) exact volume change of lung points (n, 3) of phase ``first`` on their way to ``second``."""
        there = self.map_points(points, first, second)
        above = self.motions[first].jacobian_determinant(points)
        return above / self.motions[second].jacobian_determinant(there)


def breathing_cycle(
    seed: int = 0,
    *,
    phases: int = 10,
    hysteresis: float = 0.0,
    done: Callable[[int], None] | None = None,
    **options: Any,
) -> ThoraxCycle:
    """Make up a chest and scan it at ``phases`` moments of a breath.

    Parameters
    ----------
    hysteresis : share of a breath by which the chest wall and the lung's unevenness lag behind the diaphragm,
        0 to 0.15.
    done : called after every phase with how many there are.
    seed, options : as for ``breathing_thorax``.

    Raises
    ------
    InputError : an option cannot be used.
    """
    if not 2 <= phases <= MOST_PHASES:
        raise InputError(f"A breath has 2 to {MOST_PHASES} phases; got {phases}.")
    if not 0 <= hysteresis <= MOST_HYSTERESIS:
        raise InputError(
            f"The phantom's hysteresis is a share of the breath, 0 to {MOST_HYSTERESIS}; got {hysteresis}."
        )
    chest = make_chest(seed, scans=phases, **options)
    times = np.arange(phases) / phases
    motions = _states(chest.tissue.motion, phases, hysteresis)
    inhale, labels = chest.tissue.landmarks(chest.landmarks)
    images, lungs, points = [], [], []
    names = tuple(f"phase{round(100 * t):02d}" for t in times)
    for name, motion, noise in zip(names, motions, chest.noises):
        image, mask = chest.scanned(motion if motion.amplitude else None, noise)
        images.append(image)
        lungs.append(mask)
        points.append(
            Landmarks(motion.lung_inverse(inhale), labels, source=f"the phantom's landmarks of {name}")
        )
        if done is not None:
            done(len(images))
    return ThoraxCycle(names, tuple(images), tuple(lungs), tuple(points), tuple(motions))


def cycle_motions(
    seed: int, phases: int, hysteresis: float = 0.0, amplitude: float = 20.0
) -> tuple[Motion, ...]:
    """``ThoraxCycle.motions`` of that seed alone, without making the images: the truth about "
    "files on disk."""
    seeds = np.random.SeedSequence(int(seed)).spawn(2)
    anatomy, breath = (np.random.Generator(np.random.PCG64(s)) for s in seeds)
    motion = Motion.draw(breath, Anatomy.draw(anatomy), float(amplitude))
    return tuple(_states(motion, phases, hysteresis))


def _states(motion: Motion, phases: int, hysteresis: float) -> list[Motion]:
    """From each phase to full inhale."""
    full, times = motion.amplitude, np.arange(phases) / phases
    return [motion.partial(_depth(full, t), _depth(full, t - hysteresis)) for t in times]


def write_cycle(cycle: ThoraxCycle, folder: str | os.PathLike) -> list[Path]:
    """Write all phases and their truth into ``folder`` (made if missing); gives the files' paths;
    or OutputError.

    For each phase its image, lungs and landmarks; ``phases.csv``, which ``sequence`` reads; and from the
    phase of full exhale to each other one ``true_field_<phase>.nrrd``.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot hold the phantom: {error.strerror or error}.") from error
    paths = []
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["id", "image", "landmarks", "mask"])
    for name, image, mask, points in zip(cycle.names, cycle.images, cycle.lungs, cycle.landmarks):
        files = [f"{name}.nrrd", f"{name}.mrk.json", f"{name}_lungs.nrrd"]
        write_image(image, folder / files[0])
        write_landmarks(points, folder / files[1])
        write_image(mask, folder / files[2])
        rows.writerow([name, *files])
        paths += [folder / file for file in files]
    for k, name in enumerate(cycle.names):
        if k != cycle.exhale:
            paths.append(folder / f"true_field_{name}.nrrd")
            cycle.field(cycle.exhale, k).write(paths[-1])
    write_text(folder / "phases.csv", table.getvalue())
    return [*paths, folder / "phases.csv"]


def _depth(amplitude: float, time: float) -> float:
    """mm of the diaphragm from full inhale at a moment of the breath, 0..1."""
    # a plain float: one of numpy would turn the anatomy's float32 into float64
    return float(amplitude * (1 - np.cos(np.pi * time) ** POWER))


def _displacement(first: Motion, second: Motion, grid: Grid) -> np.ndarray:
    """(z, y, x, 3) float32 mm on ``grid``: the lungs' motion within the rib cage and two voxels beyond,
    else the wall's."""
    points = grid.points().reshape(-1, 3).astype(np.float64)
    out = np.empty((len(points), 3), np.float32)
    margin = 2.0 * max(grid.spacing)
    for start in range(0, len(points), 500_000):
        p = points[start : start + 500_000]
        body = first.wall(p)
        inside = first.anatomy.cage_distance(*body.T) < margin
        u = np.empty_like(p)
        u[inside] = second.lung_inverse(first.lung(p[inside]), 1e-3) - p[inside]
        u[~inside] = second.wall_inverse(body[~inside], 1e-3) - p[~inside]
        out[start : start + 500_000] = u
    return out.reshape((*grid.shape, 3))
