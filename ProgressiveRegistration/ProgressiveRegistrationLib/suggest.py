"""Where landmarks could be: distinct, well spread points of one scan, and their partners in the other.

Distinct is Förstner's measure (``refinement/features.py``): the image is steep in every direction, as at
forks of vessels and nodules, not along a vessel or the pleura. A person looks at each and decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .errors import InputError
from .geometry import Affine, Grid
from .landmarks import Landmarks
from .options import PairFiles
from .progress import Stop, check

LATTICE_MM = 1.5
FROM_BORDER_MM = 5.0  # pleura and its neighbours look alike over long ways
APART_MM = 6.0  # suggestions are never closer
PATCH_MM = 7.5  # half-width of what is compared
SEARCH_MM = 9.0
ALIKE = 0.85  # correlation with another place near by from which a point counts as ambiguous
CLEAR = 0.6  # correlation of partners from which the match is trusted


@dataclass(frozen=True)
class Partners:
    """Where points of the fixed image lie in the moving one.

    Attributes
    ----------
    points : (n, 3) LPS mm: the best match of the images, or the prediction where there was no clear one.
    correlation : (n,) of the two neighbourhoods at the best match, -1 to 1; NaN outside the image.
    matched : (n,) bool: does ``points`` come from the images? Else it is the prediction.
    """

    points: np.ndarray
    correlation: np.ndarray
    matched: np.ndarray


def suggest_landmarks(
    image: sitk.Image, mask: sitk.Image, count: int = 30, *, cancelled: Stop = None
) -> Landmarks:
    """Distinct points inside the lungs, spread over them; the best first.

    Parameters
    ----------
    image : CT in HU. mask : > 0 in the lungs, vessels included, on any grid.
    count : how many at most; fewer come where the scan has no more.

    Returns
    -------
    Landmarks labelled "S1", "S2", ..., LPS mm, refined below the voxel.

    Raises
    ------
    InputError : a count below 1, or no distinct point in the mask.
    """
    import torch

    from .refinement.features import distinctness, sample_mapped

    if count < 1:
        raise InputError(f"{count} landmarks cannot be suggested: ask for at least 1.")
    grid, inside = _inner(mask)
    check(cancelled)
    windowed = sample_mapped(image, grid, Affine.identity())
    # noise makes points that are distinct and nowhere else: look at what is left of the image at 1 mm
    smooth = torch.from_numpy(ndimage.gaussian_filter(windowed.numpy(), 1.0 / LATTICE_MM))
    index = np.argwhere(inside)[:, ::-1]
    score = np.zeros(grid.shape)
    score[inside] = distinctness(smooth, index)
    check(cancelled)
    radius = max(1, round(0.5 * APART_MM / LATTICE_MM))
    peak = (score == ndimage.maximum_filter(score, size=2 * radius + 1)) & inside & (score > 0)
    places = np.argwhere(peak)
    if not len(places):
        raise InputError("No distinct point was found in the lungs; check the image and its lung region.")
    places = places[np.argsort(-score[tuple(places.T)], kind="stable")][: 12 * count]
    values = smooth.numpy()
    lonely = [p for p in places if _ambiguity(values, p) < ALIKE]
    check(cancelled)
    volume = float(inside.sum()) * float(np.prod(grid.spacing))
    chosen = _spread(np.array(lonely).reshape(-1, 3), grid, count, volume)
    if not len(chosen):
        raise InputError("No distinct point was found in the lungs; check the image and its lung region.")
    points = grid.index_to_world(np.array([p + _parabola(score, p) for p in chosen])[:, ::-1])
    return Landmarks(points, [f"S{n + 1}" for n in range(len(points))], source="the suggested landmarks")


def find_partners(
    fixed: sitk.Image,
    moving: sitk.Image,
    points: np.ndarray,
    predicted: np.ndarray,
    *,
    search_mm: float = SEARCH_MM,
    cancelled: Stop = None,
) -> Partners:
    """Match the neighbourhood of each point within ``search_mm`` of where a transform predicts it.

    Correlation of windowed patches, so that lung density may differ; the maximum is refined below the voxel.
    A transform that errs by less than ``search_mm`` does not pull the match.

    Parameters
    ----------
    points : (n, 3) in the fixed image; predicted : (n, 3) T(points); LPS mm.
    """
    points, predicted = np.asarray(points, float).reshape(-1, 3), np.asarray(predicted, float).reshape(-1, 3)
    found, correlation = predicted.copy(), np.full(len(points), np.nan)
    matched = np.zeros(len(points), bool)
    bounds = Grid.from_image(moving)
    for n, (x, y) in enumerate(zip(points, predicted)):
        check(cancelled)
        if not bounds.contains(y):
            continue
        patch = _patch(fixed, x, PATCH_MM)
        place, value, inner = _best(patch, moving, y, search_mm)
        if inner and value >= CLEAR:  # again from there: between voxels a correlation is lower
            place, value, inner = _best(patch, moving, place, 2 * LATTICE_MM)
        correlation[n] = value
        if inner and value >= CLEAR:
            found[n], matched[n] = place, True
    return Partners(found, correlation, matched)


def suggest_files(
    files: PairFiles,
    output: Path,
    *,
    count: int = 30,
    transform: Path | None = None,
    moving_output: Path | None = None,
) -> list[str]:
    """Suggest landmarks for files and write them; with ``files.moving`` (which may be None) their partners
    too. Returns lines to print.

    The partners' file says in the measurement ``match`` how well each was found: the correlation, or 0 where
    the transform's own prediction was kept.

    Raises
    ------
    InputError, NoLungError, OutputError.
    """
    from .images import read_volume
    from .landmarks import write_landmarks
    from .lungs import find_lungs
    from .pairing import read_side
    from .transforms import map_points, read_transform

    notes: list[str] = []
    image = read_side(files, "fixed", notes)
    mask = read_volume(files.fixed_mask) if files.fixed_mask is not None else None
    lungs = find_lungs(image, mask=mask, name=str(files.fixed))
    partner = None if files.moving is None else read_side(files, "moving", notes)
    still = sitk.Transform(3, sitk.sitkIdentity)
    mapping = still if transform is None else read_transform(transform, notes)
    found = suggest_landmarks(image, lungs.mask, count)
    write_landmarks(found, output)
    lines = [*(f"Note: {note}" for note in notes), f"{len(found)} landmarks in {output}"]
    if partner is not None and moving_output is not None:
        partners = find_partners(image, partner, found.points, map_points(mapping, found.points))
        match = np.where(partners.matched, partners.correlation, 0.0)
        kind = moving_output.name.lower()
        kept = {"match": match} if kind.endswith((".json", ".csv")) else None
        write_landmarks(found.at(partners.points), moving_output, measurements=kept)
        left = int((~partners.matched).sum())
        lines.append(
            f"{int(partners.matched.sum())} partners found in {moving_output}; {left} only predicted"
        )
    return lines


def _best(
    patch: np.ndarray, moving: sitk.Image, around: np.ndarray, search_mm: float
) -> tuple[np.ndarray, float, bool]:
    """LPS point of the highest correlation, that correlation, and whether it is a maximum, not an edge."""
    steps = _correlations(patch, _patch(moving, around, PATCH_MM + search_mm))
    best = np.array(np.unravel_index(np.argmax(steps), steps.shape))
    offset = (best + _parabola(steps, best) - (np.array(steps.shape) - 1) / 2) * LATTICE_MM
    inner = bool(np.all((best > 0) & (best < np.array(steps.shape) - 1)))
    return around + offset[::-1], float(steps[tuple(best)]), inner


def _inner(mask: sitk.Image) -> tuple[Grid, np.ndarray]:
    """An LPS-aligned lattice around the mask, and (z, y, x) bool: inside it and not near its border."""
    corners = Grid.from_image(mask)
    where = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)[:, ::-1]
    if not len(where):
        raise InputError("The lung region is empty: draw it, or let the lungs be found.")
    low, high = where.min(0) - 1, where.max(0) + 1
    ends = [(low[a], high[a]) for a in range(3)]
    box = corners.index_to_world(np.array([(x, y, z) for x in ends[0] for y in ends[1] for z in ends[2]]))
    size = np.ceil((box.max(0) - box.min(0)) / LATTICE_MM).astype(int) + 1
    grid = Grid(tuple(size), (LATTICE_MM,) * 3, tuple(box.min(0)))
    on_grid = grid.resample(sitk.Cast(mask > 0, sitk.sitkUInt8), interpolator=sitk.sitkNearestNeighbor)
    inside = sitk.GetArrayFromImage(on_grid) > 0
    distance = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=LATTICE_MM)[1:-1, 1:-1, 1:-1]
    return grid, distance > FROM_BORDER_MM


def _spread(places: np.ndarray, grid: Grid, count: int, volume: float) -> list[np.ndarray]:
    """Of places (n, 3) z, y, x, best first: those that keep apart, as far as there are enough of them."""
    apart = max(APART_MM, 0.8 * (volume / count) ** (1 / 3))
    points = places * np.asarray(grid.spacing[::-1])
    chosen: list[int] = []
    while True:
        for i in range(len(points)):
            if len(chosen) == count:
                break
            if all(np.linalg.norm(points[i] - points[j]) >= apart for j in chosen):
                chosen.append(i)
        if len(chosen) == count or apart <= APART_MM:
            return [places[i] for i in chosen]
        apart = max(APART_MM, 0.85 * apart)


def _ambiguity(values: np.ndarray, place: np.ndarray) -> float:
    """How alike the neighbourhood of a voxel is to the most alike one 4 to 9 mm away (correlation)."""
    half, reach = round(0.6 * PATCH_MM / LATTICE_MM), round(SEARCH_MM / LATTICE_MM)
    padded = half + reach
    area = np.pad(values, padded, mode="edge")[tuple(slice(p, p + 2 * padded + 1) for p in place)]
    patch = area[(slice(reach, reach + 2 * half + 1),) * 3]
    steps = _correlations(patch, area)
    away = np.indices(steps.shape) - reach
    distance = np.sqrt((away**2).sum(0)) * LATTICE_MM
    return float(steps[(distance >= 4.0) & (distance <= SEARCH_MM)].max())


def _patch(image: sitk.Image, centre: np.ndarray, half_mm: float) -> np.ndarray:
    """(z, y, x) float32: the windowed image on a lattice around an LPS point, its border continued."""
    from .refinement.features import sample_mapped

    steps = round(half_mm / LATTICE_MM)
    size = 2 * steps + 1
    grid = Grid((size,) * 3, (LATTICE_MM,) * 3, tuple(np.asarray(centre) - steps * LATTICE_MM))
    return sample_mapped(image, grid, Affine.identity()).numpy()


def _correlations(patch: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Normalised cross-correlation of ``patch`` with every place of ``area`` that holds it whole."""
    windows = np.lib.stride_tricks.sliding_window_view(area, patch.shape)
    p = (patch - patch.mean()).astype(np.float64)
    count = p.size
    cross = np.einsum("abcijk,ijk->abc", windows, p, optimize=True)
    total = ndimage.uniform_filter(area.astype(np.float64), patch.shape, mode="nearest")
    squares = ndimage.uniform_filter(area.astype(np.float64) ** 2, patch.shape, mode="nearest")
    margin = tuple(slice(s // 2, n - s // 2) for s, n in zip(patch.shape, area.shape))
    variance = np.maximum(squares[margin] - total[margin] ** 2, 0) * count
    return cross / np.sqrt(np.maximum(variance * (p**2).sum(), 1e-12))


def _parabola(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(3,): how far the maximum lies from the voxel, z, y, x, within half a voxel."""
    out = np.zeros(3)
    for axis in range(3):
        if not 0 < place[axis] < values.shape[axis] - 1:
            continue
        step = np.eye(3, dtype=int)[axis]
        before, at, after = (values[tuple(place + s * step)] for s in (-1, 0, 1))
        curve = before - 2 * at + after
        if curve < -1e-12:
            out[axis] = np.clip(0.5 * (before - after) / curve, -0.5, 0.5)
    return out
