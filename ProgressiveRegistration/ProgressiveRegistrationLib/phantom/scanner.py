"""From anatomy to voxels: tubes drawn with their partial volume, point-spread blur, noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from ..errors import InputError
from ..geometry import Grid
from .vessels import Tree


@dataclass(frozen=True)
class Kernel:
    """A reconstruction kernel: in-plane blur and noise blur (sd in mm), edge enhancement, relative noise."""

    blur: float
    noise_blur: float
    sharpen: float
    noise: float


KERNELS = {
    "soft": Kernel(0.85, 0.95, 0.0, 0.6),
    "standard": Kernel(0.6, 0.65, 0.0, 1.0),
    "sharp": Kernel(0.45, 0.40, 0.6, 1.8),
}


def kernel_named(name: str) -> Kernel:
    """The kernel of that name, or InputError."""
    if name not in KERNELS:
        raise InputError(f"There is no reconstruction kernel '{name}'; use one of {', '.join(KERNELS)}.")
    return KERNELS[name]


def draw_tubes(
    grid: Grid,
    points: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    radius_start: np.ndarray,
    radius_end: np.ndarray,
    *,
    step: float | None = None,
) -> np.ndarray:
    """(z, y, x) float32 in 0..1: how much of each voxel a set of straight tubes fills.

    Each tube is cut into slices along its axis and each slice into points of equal area; each point deposits
    its volume on the eight voxels around it. So a tube thinner than a voxel keeps its volume, and voxels need
    no distances to tubes.

    Parameters
    ----------
    points : (n, 3) LPS mm. start, end : (m,) indices into them. radius_start, radius_end : (m,) mm.
    step : mm between the points, by default half of the finest spacing.
    """
    out = np.zeros(int(np.prod(grid.size)))
    nx, ny, nz = grid.size
    step = step or 0.5 * min(grid.spacing)
    a, b = points[start], points[end]
    axis = b - a
    length = np.linalg.norm(axis, axis=1)
    axis /= np.maximum(length, 1e-9)[:, None]
    helper = np.where(np.abs(axis[:, :1]) < 0.8, [[1.0, 0, 0]], [[0, 1.0, 0]])
    u = np.cross(axis, helper)
    u /= np.maximum(np.linalg.norm(u, axis=1, keepdims=True), 1e-9)
    v = np.cross(axis, u)
    middle = 0.5 * (radius_start + radius_end)
    slices = np.maximum(np.ceil(length / step), 1).astype(int)
    discs = np.maximum(np.ceil(np.pi * middle**2 / step**2), 1).astype(int)
    total = slices * discs
    voxel = float(np.prod(grid.spacing))
    # Tubes are taken in groups of about a million points, to bound memory.
    edges = np.searchsorted(np.cumsum(total), np.arange(0, total.sum() + 1_000_000, 1_000_000), side="left")
    edges = np.unique(np.concatenate([[0], edges, [len(total)]]))
    for first, last in zip(edges[:-1], edges[1:]):
        count = total[first:last]
        tube = np.repeat(np.arange(first, last), count)
        number = np.arange(len(tube)) - np.repeat(np.cumsum(count) - count, count)
        slice_, disc = number // discs[tube], number % discs[tube]
        along = (slice_ + 0.5) / slices[tube]
        radius = radius_start[tube] + along * (radius_end - radius_start)[tube]
        # A sunflower's seeds: even over the disc; turned from slice to slice.
        away = radius * np.sqrt((disc + 0.5) / discs[tube])
        angle = disc * 2.399963229728653 + slice_ * 1.0
        p = a[tube] + axis[tube] * (along * length[tube])[:, None]
        p = p + u[tube] * (away * np.cos(angle))[:, None] + v[tube] * (away * np.sin(angle))[:, None]
        weight = np.pi * radius**2 * (length[tube] / slices[tube]) / (discs[tube] * voxel)
        index = grid.world_to_index(p)
        whole = np.floor(index).astype(np.int64)
        part = index - whole
        good = np.all((whole >= 0) & (whole < np.array([nx - 1, ny - 1, nz - 1])), axis=1)
        whole, part, weight = whole[good], part[good], weight[good]
        flat = (whole[:, 2] * ny + whole[:, 1]) * nx + whole[:, 0]
        for k in (0, 1):
            for j in (0, 1):
                for i in (0, 1):
                    w = weight.copy()
                    for which, axis_part in ((i, 0), (j, 1), (k, 2)):
                        w *= part[:, axis_part] if which else 1 - part[:, axis_part]
                    out += np.bincount(flat + (k * ny + j) * nx + i, w, len(out))
    return np.minimum(out, 1.0).astype(np.float32).reshape(grid.shape)


def draw_tree(
    grid: Grid, tree: Tree, grow: np.ndarray | float = 0.0, which: np.ndarray | None = None
) -> np.ndarray:
    """``draw_tubes`` for a tree, or for its segments that end at the nodes ``which`` (n,) bool.

    ``grow`` mm are added to its radii (an array: per node).
    """
    start, end, radius = tree.segments()
    if which is not None:
        keep = which[end]
        start, end, radius = start[keep], end[keep], radius[keep]
    extra = np.broadcast_to(grow, tree.radius.shape)
    # A thin branch of a thick parent starts thin: it is no funnel.
    begin = np.minimum(tree.radius[start], 1.25 * radius)
    return draw_tubes(grid, tree.points, start, end, begin + extra[end], radius + extra[end])


def scan(
    hu: np.ndarray, grid: Grid, rng: np.random.Generator, kernel: Kernel, noise: float, thickness: float
) -> np.ndarray:
    """What a scanner makes of true HU (z, y, x): blur, edge enhancement, correlated noise of ``noise`` HU sd.

    ``thickness``: slice thickness in mm (full width); the voxels' own extent is in ``hu`` already.
    """
    spacing = np.array(grid.spacing)[::-1]
    through = np.sqrt(max(thickness**2 - grid.spacing[2] ** 2, 0) / 12)
    sigma = np.array([through, kernel.blur, kernel.blur]) / spacing
    out = gaussian_filter(hu, sigma, truncate=3.0)
    if kernel.sharpen:
        out += kernel.sharpen * (out - gaussian_filter(out, np.array([0, 1.2, 1.2]) / spacing, truncate=3.0))
    if noise > 0:
        white = rng.standard_normal(hu.shape, dtype=np.float32)
        correlation = np.array([0.3 * thickness, kernel.noise_blur, kernel.noise_blur]) / spacing
        correlated = gaussian_filter(white, correlation, truncate=3.0, mode="wrap")
        out += correlated * (noise * kernel.noise / max(float(correlated.std()), 1e-6))
    return out
