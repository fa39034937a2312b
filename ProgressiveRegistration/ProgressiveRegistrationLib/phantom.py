"""A breathing thorax whose motion is known exactly: sample data, tests, demo, training.

The **fixed** image is the **exhale**, the **moving** image the **inhale**: resampling inhale through the true
field gives exhale, but for the lung's density (its mass is kept, so it is denser at exhale) and noise. The
anatomy is made of functions of position at inhale (``phantom_anatomy``) and of vessel trees
(``phantom_vessels``); the exhale image evaluates them at T(x), T being the exact motion (``phantom_motion``),
and draws the trees with their nodes at T^-1. Nothing is resampled, so truth is exact in both frames.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter, map_coordinates

from .errors import InputError
from .geometry import Grid
from .landmarks import Landmarks, write_landmarks
from .phantom_anatomy import APEX, LENGTH, Anatomy, ellipsoid, logistic
from .phantom_motion import Motion
from .phantom_scanner import draw_tree, kernel_named, scan
from .phantom_vessels import Vessels, scatter

if TYPE_CHECKING:
    from .field import DisplacementField

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
        motion elsewhere. It jumps there: the lung slides.
        """
        return self._displacement("field", inverse=False)

    @property
    def inverse_field(self) -> DisplacementField:
        """The true field, inhale -> exhale, on the same grid; see ``field``. Made when first asked for."""
        return self._displacement("inverse", inverse=True)

    def _displacement(self, name: str, inverse: bool) -> DisplacementField:
        from .field import DisplacementField

        if name not in self._cache:
            grid = Grid.from_image(self.exhale)
            if max(grid.spacing) > FIELD_SPACING:
                grid = grid.with_spacing(np.minimum(grid.spacing, FIELD_SPACING))
            values = true_displacement(self.motion, grid, inverse=inverse)
            self._cache[name] = DisplacementField(grid, values)
        return self._cache[name]


def breathing_thorax(
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
) -> ThoraxPair:
    """Make up a chest, breathe, and scan it twice.

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
    for name, value in (("noise", noise), ("nodules", nodules)):
        if not value >= 0:
            raise InputError(f"The phantom's {name} must be 0 or more; got {value}.")
    if not 0 < landmarks <= tips // 4:
        raise InputError(
            f"The phantom has 1 to {tips // 4} landmarks with {tips} tips a tree; got {landmarks}."
        )
    thickness = grid.spacing[2] if thickness is None else float(thickness)

    # Each part has its own stream, so that an option of one part leaves the others as they were.
    streams = [np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(seed).spawn(7)]
    anatomy = Anatomy.draw(streams[0])
    motion = Motion.draw(streams[1], anatomy, float(amplitude))
    motion.check()
    vessels = Vessels.draw(anatomy, streams[2], tips, 0.37)
    lesions = Lesions.draw(anatomy, streams[3], nodules, emphysema, consolidation)
    tissue = Tissue(anatomy, motion, vessels, lesions, contrast, streams[4])

    def image(phase: str, stream: np.random.Generator) -> tuple[sitk.Image, sitk.Image]:
        hu, mask = tissue.at(grid, exhale=phase == "exhale")
        hu = scan(hu, grid, stream, shape, noise, thickness)
        hu = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
        if padding:
            hu[:, outside_bore(grid)] = PADDING
        return grid.image(hu), grid.image(mask.astype(np.uint8))

    # Two threads: numpy leaves the interpreter's lock, and neither image depends on the other.
    with ThreadPoolExecutor(2) as pool:
        inhale, exhale = pool.map(image, ("inhale", "exhale"), streams[5:7])
    moving, labels = tissue.landmarks(landmarks)
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


def write_pair(pair: ThoraxPair, folder: str | os.PathLike) -> list[Path]:
    """Write a pair and its truth into ``folder`` (made if missing); gives the files' paths.

    fixed.nrrd (exhale), moving.nrrd (inhale), fixed_lungs.nrrd, moving_lungs.nrrd, fixed.mrk.json,
    moving.mrk.json, true_field.nrrd and true_transform.h5 (fixed -> moving).
    """
    from .images import write_image

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
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
    for name in ("true_field.nrrd", "true_transform.h5"):
        pair.field.write(folder / name)
        paths.append(folder / name)
    return paths


def phantom_grid(size, spacing) -> Grid:
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


@dataclass(frozen=True)
class Lesions:
    """Nodules, and where the lung is destroyed or dense: thresholds of smooth random fields."""

    centres: np.ndarray
    radii: np.ndarray
    texture: np.ndarray  # (z, y, x) sd 1, a grid of ``STEP`` mm from ``ORIGIN``: fine
    clouds: np.ndarray  # the same, coarse
    hole_level: float
    dense_level: float
    dense_centre: np.ndarray

    STEP = 4.0
    ORIGIN = (-190.0, -150.0, -184.0)

    @classmethod
    def draw(
        cls, anatomy: Anatomy, rng: np.random.Generator, nodules: int, emphysema: float, consolidation: float
    ):
        shape = (92, 76, 96)

        def smooth(sigma: float) -> np.ndarray:
            noise = gaussian_filter(rng.standard_normal(shape), sigma)
            return (noise / noise.std()).astype(np.float32)

        centres = scatter(anatomy, rng, int(nodules) + 1, 12.0)
        radii = rng.uniform(2, 10, int(nodules))
        texture, clouds = smooth(0.9), smooth(5.0)
        probe = scatter(anatomy, rng, 4000, 0.0)
        made = cls(centres[:-1], radii, texture, clouds, np.inf, np.inf, centres[-1])
        fine = np.sort(made.hole_field(*probe.T))
        dense = np.sort(made.dense_field(*probe.T))
        levels = [
            v[min(int((1 - s) * len(v)), len(v) - 1)] if s > 0 else np.inf
            for v, s in ((fine, emphysema), (dense, consolidation))
        ]
        return cls(centres[:-1], radii, texture, clouds, float(levels[0]), float(levels[1]), centres[-1])

    def look(self, values: np.ndarray, x, y, z) -> np.ndarray:
        where = [(p - o) / self.STEP for p, o in zip((z, y, x), self.ORIGIN[::-1])]
        return map_coordinates(values, where, order=1, mode="mirror", output=np.float32)

    def hole_field(self, x, y, z) -> np.ndarray:
        return self.look(self.texture, x, y, z) + 0.8 * self.look(self.clouds, x, y, z)

    def dense_field(self, x, y, z) -> np.ndarray:
        cx, cy, cz = self.dense_centre.tolist()
        away = np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2)
        return self.look(self.clouds, x, y, z) + 0.35 * self.look(self.texture, x, y, z) - away / 30


class Tissue:
    """True HU of the chest at inhale or exhale, before the scanner."""

    def __init__(self, anatomy, motion, vessels, lesions, contrast, rng) -> None:
        self.anatomy, self.motion, self.vessels, self.lesions = anatomy, motion, vessels, lesions
        self.blood = 42.0 + float(contrast)
        self.contrast = float(contrast)
        self.rng = rng
        self.mosaic = rng.uniform(0, 2 * np.pi, 9).tolist()
        self.select = np.random.Generator(np.random.PCG64(rng.integers(2**63)))

    def at(self, grid: Grid, *, exhale: bool) -> tuple[np.ndarray, np.ndarray]:
        """(z, y, x) float32 HU and bool lung mask."""
        anatomy = self.anatomy
        whole = np.full(grid.shape, -1000, np.float32)
        edge = float(np.prod(grid.spacing) ** (1 / 3))

        def share(distance):  # of the voxel that lies where distance < 0
            return np.clip(0.5 - distance / np.float32(edge), 0, 1)

        # What follows is worked out in boxes, each within the one before: the body, the rib cage, the spine.
        self._table(whole, *np.moveaxis(grid.points(), -1, 0)[:2], share)
        front = anatomy.back - 2 * anatomy.half_depth - anatomy.wall - anatomy.breast - 12
        box = slices(
            grid, (-np.inf, front - 0.4 * self.motion.amplitude, -np.inf), (np.inf, anatomy.back + 60, np.inf)
        )
        hu, body = whole[box], cropped(grid, box)
        x, y, z = np.moveaxis(body.points(), -1, 0)
        bx, by, bz = self.motion.wall_xyz(x, y, z) if exhale else (x, y, z)
        depth = anatomy.cage_distance(bx, by, bz)
        height = self._wall(hu, bx, by, bz, depth, share)
        # The ribs press a little into the lungs, which slide past them.
        depth = depth + 1.2 * np.cos(height * np.float32(2 * np.pi / 25.5)).astype(np.float32)
        # Within the rib cage all moves with the lungs.
        crop = bounding(depth < 3 * max(grid.spacing), grow=2)
        lx, ly, lz = (p[crop] for p in (x, y, z))
        if exhale:
            lx, ly, lz = self.motion.lung_xyz(lx, ly, lz)
            growth = determinant(lx, ly, lz, grid.spacing)
        else:
            growth = np.ones_like(lx)
        inner = share(depth[crop])
        view = hu[crop]
        organs = self._organs(lx, ly, lz, share)
        view += inner * (organs - view)
        lung = anatomy.lung_distance(lx, ly, lz)
        air = share(lung) * inner
        near = slices(body, (-46, anatomy.back - 75, -np.inf), (46, np.inf, np.inf))
        free = 1 - np.pad(air, [(s.start, n - s.stop) for s, n in zip(crop, hu.shape)])[near]
        self._spine(hu[near], bx[near], by[near], bz[near], share, free)
        parenchyma = self._parenchyma(lx, ly, lz, growth, share)
        view += air * (parenchyma - view)
        self._tubes(view, cropped(body, crop), air, exhale)
        mask = np.zeros(grid.shape, bool)
        mask[box][crop] = (lung < 0) & (depth[crop] < 0)
        return whole, mask

    def landmarks(self, count: int) -> tuple[np.ndarray, list[str]]:
        """(n, 3) forks at inhale, spread over both lungs, and their labels."""
        found, names = [], []
        vessels = self.vessels
        for name, tree, low, high in (
            ("artery", vessels.artery, 0.95, 5.0),
            ("vein", vessels.vein, 0.95, 5.0),
            ("airway", vessels.airway, 1.5, 6.0),
        ):
            good = (tree.children > 1) & (tree.radius > low) & (tree.radius < high)
            good &= self.anatomy.lung_distance(*tree.points.T) < -4
            found.append(tree.points[good])
            names += [name] * int(good.sum())
        points = np.concatenate(found)
        if len(points) < count:
            raise InputError(f"This phantom has only {len(points)} forks for landmarks, fewer than {count}.")
        # Farthest-point sampling: each next landmark is the fork farthest from those chosen.
        chosen = [int(self.select.integers(len(points)))]
        away = np.linalg.norm(points - points[chosen[0]], axis=1)
        while len(chosen) < count:
            chosen.append(int(np.argmax(away)))
            away = np.minimum(away, np.linalg.norm(points - points[chosen[-1]], axis=1))
        points = points[chosen]
        side = np.where(points[:, 0] < 0, "right", "left")
        return points, [f"{i + 1} {side[i]} {names[c]}" for i, c in enumerate(chosen)]

    # ---- parts -------------------------------------------------------------------------------------------

    def _table(self, hu, x, y, share) -> None:
        # A curved couch: shell, foam, and air between it and the back.
        top = self.anatomy.back + 1.12 * self.anatomy.wall + 9 - 0.0011 * x * x
        inside = np.maximum(np.maximum(top - y, y - top - 24), np.abs(x) - 190)
        paint(hu, share(inside), -920)
        paint(hu, share(np.abs(inside + 1.5) - 1.5), -250)

    def _wall(self, hu, x, y, z, depth, share) -> np.ndarray:
        """Skin, fat, muscle, bones; gives the height above the nearest rib, mm."""
        anatomy = self.anatomy
        skin = anatomy.skin_distance(x, y, z)
        marbling = self.lesions.look(self.lesions.texture, x, y, z)
        waves = np.sin(x / 23 + self.mosaic[0]) * np.sin(z / 29 + self.mosaic[1]) + np.sin(y / 17 + z / 41)
        paint(hu, share(skin), 20)
        paint(hu, share(skin + 2.2), -104 + 5 * marbling)
        # Strands in the fat.
        paint(hu, share(skin + 2.2) * 0.5 * logistic((marbling - 1.5) / 0.2), 10)
        muscle = np.maximum(skin + anatomy.fat + 3 * waves, -depth - 60)
        paint(hu, share(muscle), 50)
        paint(hu, share(muscle) * 0.6 * logistic((marbling - 1.1) / 0.3), -80)
        # Fat between the muscles of the chest wall.
        layer = np.abs(depth - 13 - 1.5 * waves) - 1.3
        paint(hu, share(np.maximum(layer, muscle)) * 0.8, -90)
        rib, along, height = anatomy.ribs(x, y, z, depth)
        bone = np.where(along < 0.82, 1.0, 0.0).astype(np.float32)
        marrow = np.where(rib > 0.42, 190, 560) * bone + 95 * (1 - bone)
        paint(hu, share(-rib * 3.6), marrow)
        sternum = anatomy.sternum(x, y, z)
        paint(hu, share(sternum), np.where(sternum < -2, 130, 380))
        paint(hu, share(np.maximum(anatomy.scapulae(x, y, z, depth), skin + 7)), 420)
        return height

    def _spine(self, hu, x, y, z, share, free) -> None:
        spine = self.anatomy.spine(x, y, z)
        body = spine["body"]
        paint(hu, share(spine["disc"]) * free, 85)
        paint(hu, share(body) * free, np.where(body < -2, 185, 420))
        paint(hu, share(spine["arch"]) * free, 400)
        paint(hu, share(spine["canal"]) * free, 25)

    def _organs(self, x, y, z, share) -> np.ndarray:
        anatomy = self.anatomy
        marbling = self.lesions.look(self.lesions.texture, x, y, z)
        # Fat with strands, nodes and small vessels.
        out = -92 + 110 * logistic((marbling - 0.6) / 0.35)
        cx, cy, cz = anatomy.heart_centre
        below = -anatomy.diaphragm_distance(x, y, z)  # negative below the diaphragm
        chamber = np.float32(0.8 * self.contrast)
        paint(out, share(np.maximum(np.abs(x) - 30, anatomy.back - 34 - y)), 50)  # beside the spine
        paint(out, share(anatomy.heart_distance(x, y, z) + 4), 48)
        paint(out, share(ellipsoid(x, y, z, (cx - 20, cy + 4, cz + 8), (28, 32, 36))), 45 + chamber)
        paint(out, share(ellipsoid(x, y, z, (cx + 22, cy - 4, cz - 6), (20, 20, 28))), 45 + chamber)
        paint(out, share(ellipsoid(x, y, z, (4, 30, 60), (12, 9, 75))), 30)  # oesophagus and nodes
        belly = share(below)
        inside = np.full_like(x, -95)
        liver = ellipsoid(x, y, z, (-58, -10, anatomy.dome_right - 88), (98, 92, 100))
        left_lobe = ellipsoid(x, y, z, (20, -35, anatomy.dome_left - 62), (62, 40, 58))
        spleen = ellipsoid(x, y, z, (84, 42, anatomy.dome_left - 52), (34, 36, 48))
        stomach = ellipsoid(x, y, z, (66, -14, anatomy.dome_left - 46), (42, 44, 40))
        kidneys = ellipsoid(np.abs(x), y, z, (55, 48, anatomy.dome_left - 125), (27, 26, 50))
        for organ, value in ((kidneys, 35 + 0.8 * self.contrast), (spleen, 48 + 0.5 * self.contrast)):
            paint(inside, share(organ), value)
        paint(inside, share(np.minimum(liver, left_lobe)), 58 + 0.35 * self.contrast)
        paint(inside, share(stomach), 30)
        level = np.sin(self.mosaic[2]) * 12 - 22
        bubble = ellipsoid(x, y, z, (66, -14, anatomy.dome_left - 46), (37, 39, 35))
        paint(inside, share(np.maximum(bubble, y - level)), -990)
        paint(inside, 0.5 * logistic((marbling - 1.2) / 0.2), 20)
        out += belly * (inside - out)
        # The diaphragm itself.
        paint(out, share(np.abs(below + 1.2) - 1.4), 45)
        return out

    def _parenchyma(self, x, y, z, growth, share) -> np.ndarray:
        anatomy, lesions, m = self.anatomy, self.lesions, self.mosaic
        tissue = 1000 + anatomy.density + anatomy.gravity * np.clip((y + 10) / 170, -0.5, 0.5)
        uneven = (
            np.sin(x / 19 + m[3] + 2 * np.sin(z / 43 + m[6]))
            + np.sin(y / 16 + m[4] + 2 * np.sin(x / 37 + m[7]))
            + np.sin(z / 21 + m[5] + 2 * np.sin(y / 47 + m[8]))
        )
        tissue = tissue * (1 + 0.04 * uneven + 0.06 * lesions.look(lesions.texture, x, y, z))
        tissue = tissue * np.maximum(1 + 0.09 * lesions.look(lesions.clouds, x, y, z), 0.5)
        if np.isfinite(lesions.hole_level):
            hole = logistic((lesions.hole_field(x, y, z) - lesions.hole_level) / 0.12)
            tissue = tissue * (1 - 0.75 * hole)
        tissue = tissue * growth  # mass is kept
        if np.isfinite(lesions.dense_level):
            dense = logistic((lesions.dense_field(x, y, z) - lesions.dense_level) / 0.25)
            ragged = 0.75 + 0.2 * np.tanh(lesions.look(lesions.texture, x, y, z))
            tissue = tissue + dense * ragged * (1030 - tissue)
        for (cx, cy, cz), radius in zip(lesions.centres.tolist(), lesions.radii.tolist()):
            distance = np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) - radius
            tissue = tissue + share(distance) * (1035 - tissue)
        for sheet in anatomy.fissures(x, y, z):
            width = 1.8
            tissue = tissue + 0.14 * np.maximum(1 - np.abs(sheet) / width, 0) * (1030 - tissue)
        return tissue - 1000

    def _tubes(self, hu, grid, lung, exhale) -> None:
        """Vessels and airways; at exhale their nodes move and their volume is kept."""
        vessels = self.vessels

        def placed(tree):
            return tree.moved(self.motion.lung_inverse(tree.points)) if exhale else tree

        blood = np.maximum(draw_tree(grid, placed(vessels.artery)), draw_tree(grid, placed(vessels.vein)))
        great = draw_tree(grid, placed(vessels.great))
        paint(hu, blood, self.blood)
        paint(hu, great * (1 - lung), self.blood)
        # Small bronchi that stray into the heart or the diaphragm are left out there.
        airway = placed(vessels.airway)
        main = airway.radius > 4.2
        for which, where in ((main, 1.0), (~main, lung)):
            outer = draw_tree(grid, airway, vessels.wall, which) * where
            paint(hu, outer, 20)
            paint(hu, np.minimum(draw_tree(grid, airway, 0.0, which), outer), -990)


def paint(hu: np.ndarray, share: np.ndarray, value) -> None:
    """Mix ``value`` into ``hu`` in place; ``share`` 0..1 of each voxel."""
    hu += share * (np.asarray(value, hu.dtype) - hu)


def determinant(x, y, z, spacing) -> np.ndarray:
    """Jacobian determinant of a map given as three (z, y, x) arrays at voxel centres."""
    rows = [np.gradient(p, *spacing[::-1]) for p in (x, y, z)]  # each: d/dz, d/dy, d/dx
    (xz, xy, xx), (yz, yy, yx), (zz, zy, zx) = rows
    return xx * (yy * zz - yz * zy) - xy * (yx * zz - yz * zx) + xz * (yx * zy - yy * zx)


def slices(grid: Grid, lower, upper) -> tuple[slice, slice, slice]:
    """The voxels (z, y, x) of an axis-aligned grid between two corners (x, y, z) in mm; infinite: to the edge."""
    out = []
    for n, spacing, origin, low, high in zip(grid.size, grid.spacing, grid.origin, lower, upper):
        centres = origin + spacing * np.arange(n)
        inside = np.flatnonzero((centres >= low) & (centres <= high))
        out.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return tuple(out[::-1])


def cropped(grid: Grid, box: tuple[slice, ...]) -> Grid:
    """The part of a grid in ``box`` (z, y, x)."""
    start, size = [s.start for s in box[::-1]], [s.stop - s.start for s in box[::-1]]
    return Grid(size, grid.spacing, grid.index_to_world(start))


def bounding(mask: np.ndarray, grow: int) -> tuple[slice, ...]:
    """The slices that hold a mask's true voxels, with ``grow`` more on each side."""
    out = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(tuple(k for k in range(3) if k != axis)))
        out.append(slice(max(hit[0] - grow, 0), min(hit[-1] + grow + 1, mask.shape[axis])))
    return tuple(out)
