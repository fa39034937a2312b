"""Pictures of a map over the lungs (mm, ventilation, ...) and small charts, for pages and PDF."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk

from . import pictures
from .pictures import FIXED_COLOUR, MOVING_COLOUR, Plane

COLOURS = ("#d9731a", "#2f7fc4", "#3f8f5f", "#8d5fb0", "#b3261e", "#6a6f78")


def map_slice(values: sitk.Image, plane: Plane) -> np.ndarray:
    """(h, w) float: a scalar image on a plane; NaN outside it and where it is NaN."""
    image = plane.grid.resample(
        values, interpolator=sitk.sitkNearestNeighbor, default=np.nan, pixel=sitk.sitkFloat32
    )
    return plane.upright(sitk.GetArrayFromImage(image))


def map_picture(
    fixed: np.ndarray,
    values: np.ndarray,
    inside: np.ndarray,
    colours: str,
    low: float,
    high: float,
    *,
    fade: bool = False,
) -> np.ndarray:
    """(h, w, 3) uint8: the values in colour where they are known and ``inside``, over the grey slice (0..1).

    ``fade``: low values show the slice, so that only what is high catches the eye.
    """
    from matplotlib import colormaps

    grey = np.repeat((0.1 + 0.8 * np.sqrt(fixed))[..., None], 3, axis=-1)
    shown = inside & np.isfinite(values)
    share = np.clip((np.where(shown, values, low) - low) / (high - low), 0, 1)
    colour = colormaps[colours](share)[..., :3] * (0.75 + 0.25 * grey)
    strength = np.where(shown, 0.9 * share if fade else 0.85, 0.0)[..., None]
    return np.round(255 * np.clip((1 - strength) * grey + strength * colour, 0, 1)).astype(np.uint8)


def map_planes(
    fixed: sitk.Image,
    mask: sitk.Image,
    values: sitk.Image,
    colours: str,
    low: float,
    high: float,
    *,
    fade: bool = False,
) -> list[dict]:
    """Name, data address, height and width of a map's picture on the report's three planes."""
    out = []
    for plane in pictures.choose_planes(fixed, mask):
        shown = pictures.slice_of(fixed, plane)
        inside = pictures.mask_slice(mask, plane)
        picture = map_picture(shown, map_slice(values, plane), inside, colours, low, high, fade=fade)
        out.append(
            {
                "name": plane.name,
                "letter": "xyz"[plane.axis],
                "position": plane.position_mm,
                "pixels": picture,
                "uri": pictures.png_uri(picture),
                "height": shown.shape[0],
                "width": shown.shape[1],
            }
        )
    return out


def scale_svg(colours: str, low: float, high: float, unit: str) -> str:
    """The colour scale of a map."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 0.62))
    axes = figure.add_axes((0.02, 0.62, 0.96, 0.3))
    axes.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=colours, extent=(low, high, 0, 1))
    axes.set_yticks([])
    axes.tick_params(labelsize=8)
    axes.set_xlabel(unit, fontsize=8)
    return _svg(figure, f"scale {colours}")


def lines_svg(
    names: Sequence[str], series: Mapping[str, Sequence[float | None]], unit: str, *, zero: bool = False
) -> str:
    """Lines over the phases; None: a gap."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 2.6))
    axes = figure.add_subplot()
    for (name, values), colour in zip(series.items(), COLOURS):
        y = [np.nan if v is None else v for v in values]
        axes.plot(range(len(y)), y, marker="o", markersize=3.5, linewidth=1.4, color=colour, label=name)
    axes.set_xticks(range(len(names)), names, fontsize=7, rotation=35, ha="right")
    axes.set_ylabel(unit)
    if zero:
        axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8)
    return _svg(figure, "lines " + unit)


def histogram_svg(histograms: Mapping[str, Mapping[str, Sequence[float]]], unit: str) -> str:
    """One or two histograms (``edges``, ``percent``) as steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 2.6))
    axes = figure.add_subplot()
    for (name, data), colour in zip(histograms.items(), (FIXED_COLOUR, MOVING_COLOUR)):
        axes.stairs(data["percent"], data["edges"], color=colour, label=name, linewidth=1.4)
    axes.set_xlabel(unit)
    axes.set_ylabel("% of the lungs")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure, "histogram " + unit)


def _svg(figure: Any, salt: str) -> str:
    """A figure of matplotlib as SVG in the page's own font."""
    import matplotlib

    out = io.StringIO()
    # A fixed salt and no date: the same figures give the same file.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        figure.savefig(out, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    text = out.getvalue()
    # A page needs neither the XML head nor matplotlib's licence-style metadata.
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
