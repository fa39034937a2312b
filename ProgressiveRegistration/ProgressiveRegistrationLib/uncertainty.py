"""How far off a registration may be, in mm, at every voxel of the lungs: where not to trust it.

What is looked at (``signs``) costs a few seconds and needs nothing but the two images and the field:
whether the images would match better a little to the side, how sharply the match gets worse there, how well
it matches at all, how much structure there is, how the field bends, how near the pleura is, how all this is
in the surroundings; and, where a registration back was made, how far there and back is from the start. A
small model, fitted to phantoms whose true error is known (``Testing/benchmark/uncertainty_study.py``), turns
them into an expected error. It knows errors like those of the phantoms: a pair of different patients, a
missing lung or an image of another kind it does not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .errors import InputError
from .field import DisplacementField
from .geometry import Affine, Box, Grid
from .progress import Stop, check

SPACING_MM = 4.0
VOXEL_MM = 2.0  # of the feature lattices
OFFSETS_MM = (2.0, 4.0)  # how far aside the match is tried, along x, y and z
SMOOTHING_MM = 5.0  # sd of the Gaussian over which a match is judged
AROUND_MM = 12.0  # and over which the surroundings are: a field is smooth, so are its errors
NOISE = 2e-3  # as the refinement's
COARSE_MM = 3.0  # voxels (geometric mean) from which on the calibration does not hold
DISTRUST_MM = 3.0  # expected error from which on a place is marked as not to be trusted
MODEL = Path(__file__).parent / "uncertainty_model.json"
SURROUNDING = ("aside", "mismatch", "structure")  # signs that are looked at in the surroundings, too
SIGNS = (
    "aside",
    "sharpness",
    "mismatch",
    "structure",
    "strain",
    "pleura",
    *(f"{sign}_around" for sign in SURROUNDING),
    "there_and_back",
)
FLOORS = {
    "aside": 0.05,
    "sharpness": 1e-4,
    "mismatch": 1e-3,
    "structure": 1e-4,
    "strain": 1e-3,
    "pleura": 2.0,
    "there_and_back": 0.05,
}  # added before the logarithm


@dataclass(frozen=True)
class Uncertainty:
    """Expected error in mm on a grid of about 4 mm over the fixed image's lungs.

    ``expected``: (z, y, x) float32, NaN outside the lungs; ``figures``: mean, median, p95, max (mm), share
    above ``DISTRUST_MM``, ``calibrated`` (for voxels as these images have), ``notes`` for the user.
    """

    grid: Grid
    expected: np.ndarray
    figures: dict[str, Any]

    def image(self, outside: float = np.nan) -> sitk.Image:
        """The map as a float32 image, ``outside`` beyond the lungs; it says what it is, and how far to be
        trusted.
        """
        image = self.grid.image(np.where(np.isfinite(self.expected), self.expected, np.float32(outside)))
        image.SetMetaData("quantity", "expected error of a registration, mm")
        image.SetMetaData("calibration", " ".join(self.figures["notes"]) or self.figures["calibration"])
        return image

    def at(self, points: np.ndarray) -> np.ndarray:
        """(n,) mm at LPS points (n, 3): of the nearest voxel; NaN where that is not lung."""
        index = np.rint(self.grid.world_to_index(points)).astype(int)
        inside = np.all((index >= 0) & (index < self.grid.size), axis=1)
        out = np.full(len(index), np.nan)
        x, y, z = index[inside].T
        out[inside] = self.expected[z, y, x]
        return out


def uncertainty(
    fixed: sitk.Image,
    moving: sitk.Image,
    field: DisplacementField,
    mask: sitk.Image,
    *,
    backward: DisplacementField | None = None,
    device: str = "cpu",
    cancelled: Stop = None,
) -> Uncertainty:
    """Where a registration may be off, and by how much.

    Parameters
    ----------
    fixed, moving : CT in HU; field : from fixed to moving; mask : above 0 in the fixed image's lungs.
    backward : from moving to fixed, registered by itself: makes the estimate better.

    Raises
    ------
    InputError : no lung in the mask. Cancelled.
    """
    grid, lungs, found = signs(
        fixed, moving, field, mask, backward=backward, device=device, cancelled=cancelled
    )
    model = _model()["with_backward" if backward is not None else "forward_only"]
    expected = np.full(grid.shape, np.nan, np.float32)
    expected[lungs] = predict(model, found)
    values = expected[lungs].astype(float)
    notes = _notes(fixed, moving)
    return Uncertainty(
        grid,
        expected,
        {
            "mean_mm": float(values.mean()),
            "median_mm": float(np.median(values)),
            "p95_mm": float(np.percentile(values, 95)),
            "max_mm": float(values.max()),
            "distrust_above_mm": DISTRUST_MM,
            "distrust_percent": float(100 * np.mean(values > DISTRUST_MM)),
            "backward": backward is not None,
            "calibration": _model()["about"],
            "calibrated": not notes,
            "notes": notes,
        },
    )


def signs(
    fixed: sitk.Image,
    moving: sitk.Image,
    field: DisplacementField,
    mask: sitk.Image,
    *,
    backward: DisplacementField | None = None,
    device: str = "cpu",
    cancelled: Stop = None,
) -> tuple[Grid, np.ndarray, dict[str, np.ndarray]]:
    """The grid, (z, y, x) bool lungs on it, and each sign's (n,) values at the lungs' voxels.

    ``aside`` mm to where the images match best nearby; ``sharpness`` of the match, 1/mm^2; ``mismatch`` as
    a share of what unrelated places differ by; ``structure`` intensity per voxel (``distinctness``);
    ``strain`` mm/mm; ``pleura`` mm to it; ``there_and_back`` mm; ``<sign>_around``: the mean of a sign over
    the surroundings (Gaussian of sd ``AROUND_MM``, inside the lungs).
    """
    import torch

    from .refinement.features import distinctness, sample_mapped
    from .refinement.matching import FeaturePair, LungPoints, shuffled
    from .refinement.warp import Warp

    target = torch.device("cpu" if device.startswith("mps") else device)
    inside = sitk.GetArrayViewFromImage(mask) > 0
    if not inside.any():
        raise InputError("The lung mask has no voxel above 0; uncertainty needs the lungs.")
    box = Box.around(Grid.from_image(mask).index_to_world(np.argwhere(inside)[:, ::-1])).grown(3 * SPACING_MM)
    grid = box.grid(1).with_spacing(SPACING_MM)
    lungs = sitk.GetArrayFromImage(grid.resample(mask, interpolator=sitk.sitkNearestNeighbor)) > 0
    places = grid.points()[lungs].astype(float)
    check(cancelled)

    reached = field.covering(grid)
    warp = Warp(reached, target)
    pair = FeaturePair(fixed, moving, warp, LungPoints(mask, 4.0, fixed), VOXEL_MM, NOISE, cancelled)
    points = torch.from_numpy(places.astype(np.float32)).to(target)
    wanted, start = pair.fixed_at(points), points + warp.at(points)
    other = shuffled(len(wanted), torch.Generator().manual_seed(0), target)
    chance = float((wanted - wanted[other]).square().sum(1).mean())

    def cost(offset: tuple[float, float, float]) -> np.ndarray:
        check(cancelled)
        difference, seen = pair.difference(start + torch.tensor(offset, device=target), wanted)
        squares = torch.where(seen > 0, difference.square().sum(1), torch.full_like(seen, chance))
        return _smoothed(squares.cpu().numpy() / chance, lungs, grid)

    middle = cost((0.0, 0.0, 0.0))
    aside, sharp = np.zeros((len(places), 3)), np.zeros((len(places), 3))
    for axis in range(3):
        steps = [-OFFSETS_MM[1], -OFFSETS_MM[0], 0.0, *OFFSETS_MM]
        costs = [
            middle if s == 0 else cost((s * (axis == 0), s * (axis == 1), s * (axis == 2))) for s in steps
        ]
        # the parabola of least squares through the five costs
        b, a = np.polynomial.polynomial.polyfit(steps, np.array(costs), 2)[1:]
        curved = np.maximum(a, 1e-4)
        aside[:, axis], sharp[:, axis] = np.clip(-b / (2 * curved), -6, 6), curved
    whole = lung_box_grid(grid)
    index = np.clip(np.rint(whole.world_to_index(places)).astype(int), 0, np.asarray(whole.size) - 1)
    structure = distinctness(sample_mapped(fixed, whole, Affine.identity()), index)
    out = {
        "aside": np.linalg.norm(aside, axis=1),
        "sharpness": sharp.min(1),
        "mismatch": middle,
        "structure": _smoothed(structure, lungs, grid),
        "strain": _strain(reached, places),
        "pleura": ndimage.distance_transform_edt(lungs, grid.spacing[::-1])[lungs],
    }
    out.update({f"{sign}_around": _smoothed(out[sign], lungs, grid, AROUND_MM) for sign in SURROUNDING})
    if backward is not None:
        back = np.linalg.norm(backward.warp_points(field.warp_points(places)) - places, axis=1)
        out["there_and_back"] = _smoothed(back, lungs, grid)
    return grid, lungs, out


def lung_box_grid(grid: Grid) -> Grid:
    """The same extent at the spacing on which structure is measured."""
    return grid.with_spacing(VOXEL_MM)


def terms(found: dict[str, np.ndarray]) -> np.ndarray:
    """(n, terms): what the model is linear in: the signs' logarithms, their squares and products."""
    given = [s for s in SIGNS if s in found]
    logs = [np.log(np.asarray(found[s], float) + FLOORS[s.removesuffix("_around")]) for s in given]
    products = [a * b for k, a in enumerate(logs) for b in logs[k:]]
    return np.stack([*logs, *products], 1)


def predict(model: dict[str, Any], found: dict[str, np.ndarray]) -> np.ndarray:
    """(n,) expected error in mm."""
    mean, scale = np.array(model["mean"]), np.array(model["scale"])
    x = np.clip((terms(found) - mean) / scale, -3, 3)  # nothing is extrapolated far
    score = x @ np.array(model["weights"])
    return np.interp(score, model["scores"], model["errors_mm"])


def _notes(*images: sitk.Image) -> list[str]:
    coarsest = max(float(np.prod(image.GetSpacing())) ** (1 / 3) for image in images)
    if coarsest < COARSE_MM:
        return []
    return [
        f"The uncertainty map was calibrated on voxels of 2 to 3 mm and these have {coarsest:.1f} mm: take "
        "it as a hint of where to look, not as millimetres."
    ]


@lru_cache(maxsize=1)
def _model() -> dict[str, Any]:
    return json.loads(MODEL.read_text(encoding="utf-8"))


def _smoothed(values: np.ndarray, lungs: np.ndarray, grid: Grid, sd_mm: float = SMOOTHING_MM) -> np.ndarray:
    """(n,) values at the lungs' voxels, averaged over the lungs by a Gaussian."""
    sigma = [sd_mm / s for s in grid.spacing[::-1]]
    full = np.zeros(lungs.shape)
    full[lungs] = values
    weight = ndimage.gaussian_filter(lungs.astype(float), sigma, truncate=3)
    return ndimage.gaussian_filter(full, sigma, truncate=3)[lungs] / weight[lungs]


def _strain(field: DisplacementField, places: np.ndarray, step: float = 2.5) -> np.ndarray:
    """(n,) the norm of du/dx at LPS points, mm/mm."""
    total = np.zeros(len(places))
    for axis in range(3):
        shift = np.zeros(3)
        shift[axis] = step
        slope = (field.sample(places + shift) - field.sample(places - shift)) / (2 * step)
        total += (slope**2).sum(1)
    return np.sqrt(total)
