"""``report.html``: the pictures of a report, and the page around them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from ..errors import OutputError
from ..files import write_text
from ..formats import REPORT_JSON, REPORT_PAGE
from ..statistics import STATISTICS, TAIL, WHEN
from ..transforms import Transform
from . import charts, explore, pictures
from .content import to_json
from .uncertainty_pictures import doubt_planes, doubt_scale

if TYPE_CHECKING:
    from ..uncertainty import Uncertainty

TEMPLATES = Path(__file__).parent / "templates"


def draw(
    transform: Transform,
    fixed: sitk.Image,
    moving: sitk.Image,
    *,
    lung_mask: sitk.Image | None = None,
    landmarks: list[dict] | None = None,
    doubt: Uncertainty | None = None,
) -> dict:
    """All pictures of a report as data addresses and SVG, for ``render``."""
    planes = []
    chosen = pictures.choose_planes(fixed, lung_mask)
    mapping = pictures.quick_map(transform, chosen)
    for plane in chosen:
        shown = pictures.slice_of(fixed, plane)
        inside = pictures.mask_slice(lung_mask, plane) if lung_mask is not None else None
        determinant = pictures.jacobian_slice(transform, plane)
        planes.append(
            {
                "name": plane.name,
                "letter": "xyz"[plane.axis],
                "position": plane.position_mm,
                "before": pictures.png_uri(pictures.overlay(shown, pictures.slice_of(moving, plane))),
                "after": pictures.png_uri(pictures.overlay(shown, pictures.slice_of(moving, plane, mapping))),
                "jacobian": pictures.png_uri(pictures.jacobian_picture(shown, determinant, inside)),
                "height": shown.shape[0],
                "width": shown.shape[1],
            }
        )
    out: dict[str, Any] = {
        "planes": planes,
        "scale": charts.scale_svg(pictures.JACOBIAN_RANGE),
        "histogram": None,
        "explorer": explore.explorer(transform, fixed, moving, lung_mask),
    }
    if landmarks:
        before, after = (np.array([row[f"{when}_mm"] for row in landmarks]) for when in ("before", "after"))
        out["histogram"] = charts.histogram_svg(before, after, pictures.FIXED_COLOUR)
    out["doubt"] = None
    if doubt is not None and lung_mask is not None:
        out["doubt"] = {"planes": doubt_planes(fixed, lung_mask, doubt), "scale": doubt_scale()}
    return out


def page_template(name: str) -> Any:
    """A jinja2 template of this package; what it is given is escaped, what it misses is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(statistics=STATISTICS, tail=TAIL)
    return environment.get_template(name)


def render(report: Mapping[str, Any], drawn: Mapping[str, Any]) -> str:
    """The page as one HTML text with no outside reference."""
    template = page_template("report.html.jinja")
    rows = sorted(report["landmarks"], key=lambda row: -row["after_mm"])
    longest = max((max(row["before_mm"], row["after_mm"]) for row in rows), default=1.0) or 1.0
    seconds = {stage: s for stage, s in report["seconds"].items() if stage != "total"}
    return template.render(
        r=report,
        planes=drawn["planes"],
        scale=drawn["scale"],
        histogram=drawn["histogram"],
        doubt=drawn["doubt"],
        # Numbers and base64 of ours alone, no text of anybody's.
        explorer=json.dumps(drawn["explorer"]),
        fixed_rgb=pictures.FIXED_RGB.tolist(),
        moving_rgb=pictures.MOVING_RGB.tolist(),
        rows=rows,
        longest=longest,
        stages=seconds,
        when=WHEN,
        slowest=max(seconds.values(), default=1.0) or 1.0,
        fixed_colour=pictures.FIXED_COLOUR,
        moving_colour=pictures.MOVING_COLOUR,
    )


def write_report(
    report: Mapping[str, Any], folder: str | os.PathLike, drawn: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write ``report.json`` and, with pictures, ``report.html`` into ``folder``; returns their paths.

    Raises
    ------
    OutputError : the folder is missing or cannot be written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise OutputError(f"The report cannot be written: there is no folder {folder}.")
    paths = [folder / REPORT_JSON]
    write_text(paths[0], to_json(report))
    if drawn is not None:
        paths.append(folder / REPORT_PAGE)
        write_text(paths[1], render(report, drawn))
    return paths
