"""The phantom's true HU, before the scanner: every organ painted over the ones below it,
each voxel by its share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..geometry import Grid
from .anatomy import Anatomy, ellipsoid, logistic
from .lesions import Lesions
from .motion import Motion
from .scanner import draw_tree
from .vessels import Tree, Vessels

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Share = Callable[[np.ndarray], np.ndarray]  # signed distance, mm -> how much of each voxel lies inside


class Tissue:
    """True HU of the chest at inhale or exhale, before the scanner."""

    def __init__(
        self,
        anatomy: Anatomy,
        motion: Motion,
        vessels: Vessels,
        lesions: Lesions,
        contrast: float,
        rng: np.random.Generator,
    ) -> None:
        self.anatomy, self.motion, self.vessels, self.lesions = anatomy, motion, vessels, lesions
        self.blood = 42.0 + float(contrast)
        self.contrast = float(contrast)
        self.mosaic = rng.uniform(0, 2 * np.pi, 9).tolist()
        self.select = np.random.Generator(np.random.PCG64(rng.integers(2**63)))

    def moving_by(self, motion: Motion) -> Tissue:
        """The same chest in another state of its breath:
        the one from which ``motion`` leads to full inhale."""
        other = copy.copy(self)
        other.motion = motion
        return other

    def at(self, grid: Grid, *, exhale: bool) -> tuple[np.ndarray, np.ndarray]:
        """(z, y, x) float32 HU and bool lung mask."""
        anatomy = self.anatomy
        whole = np.full(grid.shape, -1000, np.float32)
        edge = float(np.prod(grid.spacing) ** (1 / 3))

        def share(distance: np.ndarray) -> np.ndarray:  # of the voxel that lies where distance < 0
            return np.clip(0.5 - distance / np.float32(edge), 0, 1)

        # What follows is worked out in boxes, each within the one before: the body, the rib cage, the spine.
        across, back, _ = np.moveaxis(grid.points(), -1, 0)
        self._table(whole, across, back, share)
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

    def _table(self, hu: np.ndarray, x: np.ndarray, y: np.ndarray, share: Share) -> None:
        # A curved couch: shell, foam, and air between it and the back.
        top = self.anatomy.back + 1.12 * self.anatomy.wall + 9 - 0.0011 * x * x
        inside = np.maximum(np.maximum(top - y, y - top - 24), np.abs(x) - 190)
        paint(hu, share(inside), -920)
        paint(hu, share(np.abs(inside + 1.5) - 1.5), -250)

    def _wall(
        self, hu: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray, depth: np.ndarray, share: Share
    ) -> np.ndarray:
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

    def _spine(
        self, hu: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray, share: Share, free: np.ndarray
    ) -> None:
        spine = self.anatomy.spine(x, y, z)
        body = spine["body"]
        paint(hu, share(spine["disc"]) * free, 85)
        paint(hu, share(body) * free, np.where(body < -2, 185, 420))
        paint(hu, share(spine["arch"]) * free, 400)
        paint(hu, share(spine["canal"]) * free, 25)

    def _organs(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, share: Share) -> np.ndarray:
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

    def _parenchyma(
        self, x: np.ndarray, y: np.ndarray, z: np.ndarray, growth: np.ndarray, share: Share
    ) -> np.ndarray:
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

    def _tubes(self, hu: np.ndarray, grid: Grid, lung: np.ndarray, exhale: bool) -> None:
        """Vessels and airways; at exhale their nodes move and their volume is kept."""
        vessels = self.vessels

        def placed(tree: Tree) -> Tree:
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


def paint(hu: np.ndarray, share: np.ndarray, value: ArrayLike) -> None:
    """Mix ``value`` into ``hu`` in place; ``share`` 0..1 of each voxel."""
    hu += share * (np.asarray(value, hu.dtype) - hu)


def determinant(x: np.ndarray, y: np.ndarray, z: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Jacobian determinant of a map given as three (z, y, x) arrays at voxel centres."""
    rows = [np.gradient(p, *spacing[::-1]) for p in (x, y, z)]  # each: d/dz, d/dy, d/dx
    (xz, xy, xx), (yz, yy, yx), (zz, zy, zx) = rows
    return xx * (yy * zz - yz * zy) - xy * (yx * zz - yz * zx) + xz * (yx * zy - yy * zx)


def slices(grid: Grid, lower: Sequence[float], upper: Sequence[float]) -> tuple[slice, ...]:
    """The voxels (z, y, x) of an axis-aligned grid between two corners (x, y, z) in mm; infinite:
    to the edge."""
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
