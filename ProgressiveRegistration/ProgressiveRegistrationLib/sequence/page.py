"""``sequence.html``: the phases, their agreement, the motion and the ventilation on one page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..geometry import Grid
from ..report import maps, pictures
from ..report.page import page_template
from ..report.uncertainty_pictures import doubt_planes, doubt_scale
from ..statistics import TAIL
from .motion import mean_image

if TYPE_CHECKING:
    from .run import Result

AMPLITUDE_COLOURS, VENTILATION_COLOURS = "viridis", "turbo"


def draw_page(result: Result) -> str:
    """The page as one HTML text with no outside reference."""
    r = result.report
    fixed, mask = result.images[result.reference], result.lungs[result.reference].mask
    top = max(1.0, float(np.ceil(r["amplitude_mm"][TAIL])))
    drawn: list[dict[str, Any]] = [
        {
            "title": "Motion amplitude",
            "text": "The largest distance between any two places of each point of the lungs on "
            "its way through all phases, mm.",
            "planes": maps.map_planes(
                fixed, mask, result.grid.image(result.amplitude), AMPLITUDE_COLOURS, 0, top
            ),
            "scale": maps.scale_svg(AMPLITUDE_COLOURS, 0, top, "mm"),
        }
    ]
    drawn.append(
        {
            "title": "Where not to trust it",
            "text": f"Expected error of the field to {r['uncertainty']['phase']}, the phase "
            "farthest away, mm: mean "
            f"{r['uncertainty']['mean_mm']:.2f}, 95th percentile "
            f"{r['uncertainty']['p95_mm']:.2f}. "
            + (
                "Calibrated on phantoms."
                if r["uncertainty"]["calibrated"]
                else "Not calibrated for voxels as coarse as these: a hint of where to look."
            ),
            "planes": doubt_planes(fixed, mask, result.doubt),
            "scale": doubt_scale(),
        }
    )
    histogram = None
    if result.breath is not None:
        known = result.breath.jacobian[np.isfinite(result.breath.jacobian)]
        high = max(0.1, round(float(np.percentile(known, 97)), 1)) if known.size else 1.0
        for which, title, text in (
            (
                "jacobian",
                "Ventilation by volume change",
                "Jacobian determinant from exhale to inhale, minus 1.",
            ),
            (
                "hu",
                "Ventilation by change of air",
                "From the HU at exhale and inhale, the lungs' mass held constant.",
            ),
        ):
            drawn.append(
                {
                    "title": title,
                    "text": text,
                    "planes": maps.map_planes(
                        fixed, mask, result.breath.image(which, np.nan), VENTILATION_COLOURS, 0, high
                    ),
                    "scale": maps.scale_svg(
                        VENTILATION_COLOURS, 0, high, "specific ventilation (1 = twice the volume)"
                    ),
                }
            )
        histogram = maps.histogram_svg(
            {
                "volume change": r["ventilation"]["histogram"]["jacobian"],
                "air": r["ventilation"]["histogram"]["hu"],
            },
            "specific ventilation",
        )
    names = [p["name"] for p in r["phases"]]
    errors = {
        when: [p["tre_mm"][when]["mean"] if p.get("tre_mm") else None for p in r["phases"]]
        for when in ("before", "after")
    }
    return page_template("sequence.html.jinja").render(
        r=r,
        maps=drawn,
        blended=_blended(result),
        histogram=histogram,
        volumes=maps.lines_svg(names, {"lungs": [p["lungs_litres"] for p in r["phases"]]}, "litres"),
        errors=maps.lines_svg(names, errors, "TRE, mm", zero=True)
        if any(p.get("tre_mm") for p in r["phases"])
        else None,
        fixed_colour=pictures.FIXED_COLOUR,
        moving_colour=pictures.MOVING_COLOUR,
    )


def _blended(result: Result) -> list[dict[str, Any]]:
    """The mean of all phases, before and after: sharp where the fields are right."""
    import SimpleITK as sitk

    fixed, mask = result.images[result.reference], result.lungs[result.reference].mask
    planes = pictures.choose_planes(fixed, mask)
    out = []
    still = [sitk.Transform(3, sitk.sitkIdentity)] * len(result.images)
    own = Grid.from_image(fixed)
    moved = [result.field(k).covering(own).to_transform() for k in range(len(result.images))]
    for plane in planes:
        for when, transforms in (("before", still), ("after", moved)):
            values = sitk.GetArrayFromImage(mean_image(result.images, transforms, plane.grid))
            low, high = pictures.SHOWN_HU
            grey = np.sqrt(np.clip((plane.upright(values) - low) / (high - low), 0, 1))
            picture = np.round(255 * np.repeat(grey[..., None], 3, -1)).astype(np.uint8)
            out.append(
                {
                    "when": when,
                    "name": plane.name,
                    "uri": pictures.png_uri(picture),
                    "height": grey.shape[0],
                    "width": grey.shape[1],
                }
            )
    return sorted(out, key=lambda p: p["when"] != "before")
