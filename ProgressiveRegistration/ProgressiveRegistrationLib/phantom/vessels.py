"""Blood vessels and airways that fill the lungs.

Trees grow by dividing territory: a branch runs towards the middle of the points it has to supply, forks
there, and each daughter takes half of them. A fork's radii obey r^g = r1^g + r2^g with g near 3 (Murray
1926). The points are drawn lobe by lobe, so that no vessel of the lung crosses a fissure; airways follow the
arteries, as they do in the lung.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .anatomy import Anatomy

# How far towards the middle of its territory a branch goes before it forks, by level from the hilum.
STEM_SHARE = (0.22, 0.2, 0.24, 0.3, 0.36, 0.42)


@dataclass(frozen=True)
class Tree:
    """Nodes and, for each but the roots, the segment that leads to it from its parent.

    Attributes
    ----------
    points : (n, 3) float64, LPS mm at inhale.
    parent : (n,) index of the node before, -1 for a root.
    radius : (n,) mm, of the segment that ends here.
    children : (n,) how many segments start here.
    """

    points: np.ndarray
    parent: np.ndarray
    radius: np.ndarray

    @property
    def children(self) -> np.ndarray:
        return np.bincount(self.parent[self.parent >= 0], minlength=len(self.points))

    def segments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Node at the start, node at the end, radius of each segment."""
        end = np.flatnonzero(self.parent >= 0)
        return self.parent[end], end, self.radius[end]

    def moved(self, points: np.ndarray) -> Tree:
        """The same tree with its nodes elsewhere; a segment's volume is kept: shorter is thicker."""
        start = np.maximum(self.parent, 0)
        before = np.linalg.norm(self.points - self.points[start], axis=1)
        after = np.linalg.norm(points - points[start], axis=1)
        stretch = np.where(self.parent >= 0, (before + 1e-3) / (after + 1e-3), 1.0)
        return Tree(points, self.parent, self.radius * np.sqrt(np.clip(stretch, 0.5, 2.0)))


def scatter(anatomy: Anatomy, rng: np.random.Generator, count: int, depth: float) -> np.ndarray:
    """(count, 3) points spread evenly over both lungs, at least ``depth`` mm below their surface."""
    found, total = [], 0
    while total < count:
        p = rng.uniform((-140, -115, -150), (140, 115, 130), (4 * count, 3))
        p = p[anatomy.lung_distance(*p.T) < -depth]
        found.append(p)
        total += len(p)
    return np.concatenate(found)[:count]


def grow(
    terminals: np.ndarray,
    lobes: np.ndarray,
    roots: dict[int, np.ndarray],
    rng: np.random.Generator,
    *,
    tip_radius: float,
    exponent: float,
) -> Tree:
    """A tree (one root a lung) whose tips are ``terminals`` (n, 3) with lobe numbers ``lobes`` (n,).

    ``roots``: for side 0 (right) and 1 (left) the point where the tree enters the lung.
    """
    points = [roots[0], roots[1]]
    parent = [-1, -1]
    side = (lobes >= 3).astype(int)
    tip = side.copy()  # node from which each terminal is to be reached
    group = lobes.copy()
    live = np.arange(len(terminals))
    level = 0
    nodes, parents = np.array(points, float), np.array(parent)
    tips_nodes = []
    while len(live):
        _, local, count = np.unique(group[live], return_inverse=True, return_counts=True)
        n = len(count)
        p = terminals[live]
        mean = np.stack([np.bincount(local, p[:, k], n) for k in range(3)], 1) / count[:, None]
        start = np.zeros(n, int)
        start[local] = tip[live]
        run = mean - nodes[start]
        # Lobar and segmental branches leave early and run far, as in the lung; the others share the way.
        share = rng.uniform(0.8, 1.2, n) * STEM_SHARE[min(level, len(STEM_SHARE) - 1)]
        share = np.where(count == 1, 1.0, share)
        length = np.linalg.norm(run, axis=1)
        jitter = rng.normal(size=(n, 3)) * (0.05 * length * share * (count > 1))[:, None]
        new = nodes[start] + run * share[:, None] + jitter
        ids = len(nodes) + np.arange(n)
        nodes, parents = np.concatenate([nodes, new]), np.concatenate([parents, start])
        tips_nodes.append(ids[count == 1])
        # Divide across the territory's longest axis, seen from the branch.
        centred = p - mean[local]
        cov = np.empty((n, 3, 3))
        for i in range(3):
            for j in range(i, 3):
                cov[:, i, j] = cov[:, j, i] = np.bincount(local, centred[:, i] * centred[:, j], n)
        d = run / np.maximum(length, 1e-6)[:, None]
        flat = np.eye(3) - 0.75 * d[:, :, None] * d[:, None, :]
        cov = flat @ cov @ flat + 1e-6 * np.eye(3)
        axis = np.linalg.eigh(cov)[1][:, :, 2]
        axis = axis + 0.2 * rng.normal(size=(n, 3))
        along = np.sum(centred * axis[local], 1)
        order = np.lexsort((along, local))
        rank = np.empty(len(live), int)
        offset = np.concatenate([[0], np.cumsum(count)[:-1]])
        rank[order] = np.arange(len(live)) - offset[local[order]]
        cut = np.clip(np.round(rng.uniform(0.2, 0.8, n) * count), 1, np.maximum(count - 1, 1))
        tip[live] = ids[local]
        group[live] = 2 * local + (rank >= cut[local])
        live = live[count[local] > 1]
        level += 1
    power = np.zeros(len(nodes))
    ends = np.concatenate(tips_nodes)
    power[ends] = (tip_radius * rng.uniform(0.85, 1.25, len(ends))) ** exponent
    for node in range(len(nodes) - 1, 1, -1):  # a parent comes before its children
        power[parents[node]] += power[node]
    return Tree(nodes, parents, power ** (1 / exponent))


@dataclass(frozen=True)
class Vessels:
    """Arteries, veins and airways of both lungs, and the great tubes of the mediastinum, at inhale.

    ``airway`` radii are the lumen's; ``wall`` is the thickness of its wall at each node.
    """

    artery: Tree
    vein: Tree
    airway: Tree
    wall: np.ndarray
    great: Tree

    @classmethod
    def draw(cls, anatomy: Anatomy, rng: np.random.Generator, tips: int, tip_radius: float) -> Vessels:
        carina = np.array([2.0, 16.0, 42.0]) + rng.normal(size=3) * 2
        hilum = {0: np.array([-35.0, 8.0, 12.0]), 1: np.array([38.0, 12.0, 20.0])}
        trees = []
        for offset in (np.array([0, -3.0, 4.0]), np.array([0, -10.0, -16.0])):
            terminals = scatter(anatomy, rng, tips, 1.5)
            roots = {s: hilum[s] + offset + rng.normal(size=3) for s in (0, 1)}
            lobes = anatomy.lobe(*terminals.T)
            trees.append(
                grow(terminals, lobes, roots, rng, tip_radius=tip_radius, exponent=rng.uniform(3.1, 3.4))
            )
        artery, vein = trees
        airway, wall = airways(artery, carina)
        return cls(artery, vein, airway, wall, great_vessels(anatomy, artery, vein))


def airways(artery: Tree, carina: np.ndarray) -> tuple[Tree, np.ndarray]:
    """Bronchi beside the larger arteries, joined to a trachea above ``carina``; their walls, mm."""
    keep = np.flatnonzero(artery.radius > 1.5)
    number = np.full(len(artery.points), -1)
    number[keep] = np.arange(len(keep)) + 2
    parent = np.where(artery.parent[keep] >= 0, number[artery.parent[keep]], 1)
    run = artery.points[keep] - np.where(
        (artery.parent[keep] >= 0)[:, None], artery.points[artery.parent[keep]], carina
    )
    run /= np.maximum(np.linalg.norm(run, axis=1, keepdims=True), 1e-6)
    beside = np.array([0.15, 0.95, 0.25]) - run * (run @ np.array([0.15, 0.95, 0.25]))[:, None]
    beside /= np.maximum(np.linalg.norm(beside, axis=1, keepdims=True), 0.3)
    lumen = np.minimum(0.8 * artery.radius[keep], 6.0)
    lumen[:2] = 6.5  # the main bronchi, to the two hila
    points = artery.points[keep] + beside * (artery.radius[keep] + lumen + 0.8)[:, None]
    points = np.concatenate([[carina + np.array([0, -14, 135])], [carina], points])
    parent = np.concatenate([[-1, 0], parent])
    radius = np.concatenate([[8.5, 8.5], lumen])
    return Tree(points, parent, radius), 0.3 + 0.11 * radius


def great_vessels(anatomy: Anatomy, artery: Tree, vein: Tree) -> Tree:
    """Aorta, caval vein, pulmonary trunk and the veins' way into the heart, as chains of thick segments."""
    cx, cy, cz = anatomy.heart_centre
    back = anatomy.back
    chains: list[tuple[list[tuple[float, ...]], float]] = [
        ([(cx - 28, cy + 2, cz + 40), (-12, -14, 40), (-8, -10, 66), (6, 8, 80), (20, 30, 72), (23, 44, 50),
          (22, back - 38, 0), (18, back - 36, -70), (6, back - 36, -170)], 13.0),
        ([(-24, -8, 112), (-27, -8, 60), (-24, -6, cz + 25)], 8.5),
        ([(cx - 6, cy - 14, cz + 42), (10, -14, 26), (18, 0, 30), tuple(artery.points[1])], 12.0),
        ([(12, -8, 28), (-10, 2, 24), tuple(artery.points[0])], 10.5),
        ([tuple(vein.points[0]), (-12, cy + 22, cz + 18)], 8.0),
        ([tuple(vein.points[1]), (14, cy + 26, cz + 18)], 8.0),
    ]  # fmt: skip
    points: list[tuple[float, ...]] = []
    parent: list[int] = []
    radius: list[float] = []
    for chain, r in chains:
        for i, p in enumerate(chain):
            parent.append(len(points) - 1 if i else -1)
            points.append(p)
            radius.append(r)
    return Tree(np.array(points, float), np.array(parent), np.array(radius))
