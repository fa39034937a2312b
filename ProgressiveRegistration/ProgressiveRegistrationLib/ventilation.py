"""Ventilation from two CTs and the map between them: how much each part of the lung fills from exhale to
inhale.

Two measures, which fail in different places, each per litre of what was there at exhale:

- **Jacobian-based**, volume change: V_J = J - 1, J the Jacobian determinant from exhale to inhale
  (Reinhardt et al., "Registration-based estimates of local lung tissue expansion compared to xenon CT
  measures of specific ventilation", Medical Image Analysis 12 (2008) 752). It knows the field alone:
  nothing finer than the field's own smoothness.
- **HU-based**, change of air: V_HU = 1000 (I - E) / (E (I + 1000)), E and I the HU at exhale and at the
  same tissue at inhale (Simon, "Non-invasive imaging of regional lung function using x-ray computed
  tomography", J Clin Monit Comput 16 (2000) 433; Guerrero et al., "Dynamic ventilation imaging from
  four-dimensional computed tomography", Phys Med Biol 51 (2006) 777). It takes the tissue's mass for
  constant; blood that comes with the breath breaks that, so I + 1000 is first scaled so that the lungs'
  whole mass is the same in both images (mass correction). It suffers from noise and from vessels that do
  not meet.

Neither is a measurement of gas exchange. Motion artefacts of 4DCT, poor registration near the diaphragm and
a shallow breath all look like ventilation or its absence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .errors import InputError
from .geometry import Box, Grid
from .quality import jacobian_determinant
from .transforms import Transform
from .zones import NAMES, lung_zones

SPACING_MM = 2.5
# sd of the Gaussian inside the lungs, but at least so many voxels of the coarser image: without it noise and
# a field's unevenness show, not the lung's. Weighed on phantoms of 2.7 and of 5 x 5 x 6 mm (docs).
SMOOTHING_MM, SMOOTHING_VOXELS = 8.0, 2.0
RIM_WEIGHT = 0.05
VESSEL_HU = -250.0  # above it, no air to speak of: vessels, consolidation, the lungs' rim
AIR_SMOOTHING_MM = 3.0
AIR_HU = -980.0  # below it, next to no tissue to see a change by: airways, bullae
DEFECT = 0.6  # of the lungs' median, below which ventilation counts as a defect
LEAST_AGREEMENT = 0.3  # rank correlation of both maps, below which neither is to be relied on
LEAST_CHANGE = 0.03  # of the lungs' volume: less of a breath says nothing about its parts


@dataclass(frozen=True)
class Ventilation:
    """Maps on one grid in the frame of the reference image.

    Attributes
    ----------
    jacobian, hu : (z, y, x) float32, specific ventilation, no unit (0.2: 20 % more); NaN where it is not
        known.
    zones : (z, y, x) uint8, see ``zones.NAMES``.
    figures : see ``ventilation``.
    """

    grid: Grid
    jacobian: np.ndarray
    hu: np.ndarray
    zones: np.ndarray
    figures: dict[str, Any]

    def image(self, which: str, outside: float = 0.0) -> sitk.Image:
        """``jacobian`` or ``hu`` as a float32 image, ``outside`` where it is not known."""
        values = getattr(self, which)
        return self.grid.image(np.where(np.isfinite(values), values, np.float32(outside)))


def ventilation(
    exhale: sitk.Image,
    inhale: sitk.Image,
    to_inhale: Transform,
    lung_mask: sitk.Image,
    *,
    to_exhale: Transform | None = None,
    smoothing_mm: float | None = None,
    jacobian_smoothing_mm: float | None = None,
    mass_correction: bool = True,
) -> Ventilation:
    """Specific ventilation from exhale to inhale.

    Parameters
    ----------
    exhale, inhale : CT in HU.
    to_inhale : from the reference image to the inhale image; ``to_exhale``: from the reference image to the
        exhale image, None: the exhale image is the reference.
    lung_mask : above 0 in the reference's lungs.
    smoothing_mm, jacobian_smoothing_mm : sd of a Gaussian inside the lungs, for both HU images and for the
        Jacobian determinant; 0: none; None: 8 mm, or two of the largest voxel edge where that is more.

    Returns
    -------
    Maps, and ``figures``: ``lungs`` and each zone with, for ``jacobian`` and ``hu``, ``mean, sd, median,
    cv, defect_percent, ml`` (of the region at the reference); ``mass_factor``; ``correlation`` of the two
    maps; ``notes``.

    Raises
    ------
    InputError : no lung in the mask.
    """
    inside = sitk.GetArrayViewFromImage(lung_mask) > 0
    if not inside.any():
        raise InputError("The lung mask has no voxel above 0; ventilation needs the lungs.")
    usual = max(SMOOTHING_MM, SMOOTHING_VOXELS * max(*exhale.GetSpacing(), *inhale.GetSpacing()))
    smoothing_mm = usual if smoothing_mm is None else smoothing_mm
    jacobian_smoothing_mm = usual if jacobian_smoothing_mm is None else jacobian_smoothing_mm
    mask_grid = Grid.from_image(lung_mask)
    box = Box.around(mask_grid.index_to_world(np.argwhere(inside)[:, ::-1])).grown(2 * SPACING_MM)
    grid = box.grid(1).with_spacing(SPACING_MM)
    lungs_image = grid.resample(lung_mask, interpolator=sitk.sitkNearestNeighbor)
    lungs = sitk.GetArrayFromImage(lungs_image) > 0
    change = jacobian_determinant(to_inhale, grid).astype(np.float64)
    if to_exhale is not None:
        below = jacobian_determinant(to_exhale, grid)
        change = np.where(below > 0, change / np.maximum(below, 1e-6), np.nan)  # the chain rule
    e, i = (_seen(image, transform, grid) for image, transform in ((exhale, to_exhale), (inhale, to_inhale)))
    known = lungs & np.isfinite(change) & (change > 0)
    air = known & (e < VESSEL_HU) & (i < VESSEL_HU)
    factor = 1.0
    if mass_correction and air.any():
        # within the rim, where neither the body's partial volume nor a pleura that was missed counts as lung
        core = ndimage.binary_erosion(air, iterations=2)
        core = core if core.any() else air
        factor = float((e[core] + 1000).sum() / max(float(((i[core] + 1000) * change[core]).sum()), 1e-6))
    # judged on little smoothed images: on strongly smoothed ones the lungs' HU would leak into an airway
    light = [_smoothed(values, air, grid, min(AIR_SMOOTHING_MM, smoothing_mm)) for values in (e, i)]
    air &= (light[0] > AIR_HU) & (light[1] > AIR_HU)
    # voxels at the lungs' rim hold something of the body; they count for little
    trust = np.where(ndimage.binary_erosion(lungs, iterations=2), 1.0, RIM_WEIGHT) * air
    e, i = (_smoothed(values, trust, grid, smoothing_mm) for values in (e, i))
    i = (i + 1000) * factor - 1000
    with np.errstate(divide="ignore", invalid="ignore"):
        hu = np.where(air, 1000 * (i - e) / (e * (i + 1000)), np.nan).astype(np.float32)
    even = _smoothed(np.where(known, change, 0.0), known, grid, jacobian_smoothing_mm)
    jacobian = np.where(known, even - 1, np.nan).astype(np.float32)
    bounds = Box.around(Grid.from_image(exhale if to_exhale is None else inhale).corners())
    zones = lung_zones(grid.image(lungs.astype(np.uint8)), float(bounds.centre[0]))
    figures = _figures(jacobian, hu, zones, grid)
    figures.update(
        mass_factor=factor,
        smoothing_mm=smoothing_mm,
        jacobian_smoothing_mm=jacobian_smoothing_mm,
        defect_below=DEFECT,
        notes=[],
    )
    grown = float(np.nanmean(jacobian))
    if abs(grown) < LEAST_CHANGE:
        figures["notes"].append(
            f"The lungs change their volume by {100 * grown:.1f} % only: too shallow a breath to "
            "say how its parts differ."
        )
    elif grown < 0:
        figures["notes"].append(
            "The lungs shrink on this way: exhale and inhale seem to be the wrong way round."
        )
    if abs(factor - 1) > 0.15:
        figures["notes"].append(
            f"The lungs' mass differs by {100 * abs(1 / factor - 1):.0f} % between the images, "
            "more than blood explains: the HU-based map is "
            "doubtful (contrast agent, another kernel, a truncated lung?)."
        )
    agreement, uneven = figures["correlation"], float(np.nanstd(jacobian))
    if agreement is not None and agreement < LEAST_AGREEMENT and uneven > LEAST_CHANGE:
        figures["notes"].append(
            "The ventilation maps by volume change and by air do not agree (rank correlation "
            f"{agreement:.2f}): "
            "rely on neither; the images may be too coarse, or the breath too shallow."
        )
    return Ventilation(grid, jacobian, hu, zones, figures)


def histogram(
    values: np.ndarray, low: float = -0.2, high: float = 1.2, bins: int = 56
) -> dict[str, list[float]]:
    """``edges`` and ``percent`` of a map's known values; the outermost bins hold what lies beyond."""
    known = np.clip(values[np.isfinite(values)], low + 1e-6, high - 1e-6)
    counts, edges = np.histogram(known, bins, (low, high))
    return {"edges": edges.tolist(), "percent": (100 * counts / max(1, counts.sum())).tolist()}


def _figures(jacobian: np.ndarray, hu: np.ndarray, zones: np.ndarray, grid: Grid) -> dict[str, Any]:
    voxel_ml = float(np.prod(grid.spacing)) / 1000
    maps = {"jacobian": jacobian, "hu": hu}
    whole = {name: float(np.nanmedian(m)) if np.isfinite(m).any() else np.nan for name, m in maps.items()}
    out: dict[str, Any] = {"zones": {}}
    for key, name in ((0, "lungs"), *NAMES.items()):
        region = zones > 0 if key == 0 else zones == key
        if not region.any():
            continue
        entry: dict[str, Any] = {"ml": float(region.sum()) * voxel_ml}
        for which, values in maps.items():
            found = values[region]
            found = found[np.isfinite(found)].astype(float)
            if not found.size:
                entry[which] = None
                continue
            mean = float(found.mean())
            entry[which] = {
                "mean": mean,
                "sd": float(found.std()),
                "median": float(np.median(found)),
                "cv": float(found.std() / mean) if mean > 1e-3 else None,
                "defect_percent": float(100 * np.mean(found < DEFECT * whole[which]))
                if whole[which] > 0
                else None,
            }
        if key == 0:
            out["lungs"] = entry
        else:
            out["zones"][name] = entry
    both = np.isfinite(jacobian) & np.isfinite(hu)
    out["correlation"] = _rank_correlation(jacobian[both], hu[both])
    out["histogram"] = {which: histogram(values) for which, values in maps.items()}
    return out


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's; None for fewer than 10 values or a constant."""
    from scipy.stats import spearmanr

    if len(a) < 10 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b).statistic)


def _seen(image: sitk.Image, transform: Transform | None, grid: Grid) -> np.ndarray:
    """(z, y, x) float64 HU of ``image`` where ``transform`` leads from ``grid``; past its edge its border
    voxels continue.
    """
    if transform is None:
        mapped: sitk.Transform | None = None
    elif isinstance(transform, sitk.Transform):
        mapped = transform
    else:
        mapped = transform.covering(grid).to_transform()
    return grid.sample(image, transform=mapped).astype(np.float64)


def _smoothed(values: np.ndarray, weight: np.ndarray, grid: Grid, sd_mm: float) -> np.ndarray:
    """Gaussian mean of what has a ``weight`` above 0 (bool or float); the rest as it is."""
    if sd_mm <= 0:
        return values
    sigma = [sd_mm / s for s in grid.spacing[::-1]]
    weight = weight.astype(np.float64)
    total = ndimage.gaussian_filter(np.where(weight > 0, values, 0.0) * weight, sigma, truncate=3)
    share = ndimage.gaussian_filter(weight, sigma, truncate=3)
    return np.where(weight > 0, total / np.maximum(share, 1e-6), values)
