"""``qa.json``, ``qa.html`` and ``qa.pdf`` of one case."""

from __future__ import annotations

import os
import textwrap
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replacing, staged_folder, write_text
from ..report import pictures
from ..report.content import to_json
from ..report.page import draw, page_template
from ..report.uncertainty_pictures import DOUBT_MM, doubt_planes, doubt_scale
from .checks import Case
from .forms import ANSWERS, DISCLAIMER, LOOKED_AT, SIGNED, TOLERANCES

PAGE = (8.27, 11.69)  # A4, inches
FOOT = 0.055  # of the page's height: what is written ends above it
VERDICT_COLOURS = {"within": "#2f7a4c", "outside": "#b3261e", "not measured": "#6a6f78"}


def write_qa(case: Case, folder: str | os.PathLike) -> list[Path]:
    """Write the report's three files, all or none; returns their paths. Raises OutputError."""
    report = {**case.report, "created": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    mask = case.fixed_lungs.mask
    drawn = draw(case.transform, case.fixed, case.moving, lung_mask=mask)
    doubt = None
    if case.map is not None:
        doubt = {"planes": doubt_planes(case.fixed, mask, case.map), "scale": doubt_scale()}
    with staged_folder(folder) as stage:
        write_text(stage / "qa.json", to_json(report))
        page = page_template("qa.html.jinja").render(
            r=report,
            made=made_by(report),
            planes=drawn["planes"],
            scale=drawn["scale"],
            doubt=doubt,
            looked_at=LOOKED_AT,
            answers=ANSWERS,
            signed=SIGNED,
            disclaimer=DISCLAIMER,
            tolerances=TOLERANCES,
            fixed_colour=pictures.FIXED_COLOUR,
            moving_colour=pictures.MOVING_COLOUR,
        )
        write_text(stage / "qa.html", page)
        _write_pdf(case, report, stage / "qa.pdf")
    return [Path(folder) / name for name in ("qa.json", "qa.html", "qa.pdf")]


def made_by(report: dict[str, Any]) -> str:
    """A sentence: program, model, preset, device, when."""
    how = report["registration"]
    model = how.get("model") or {}
    version = (how.get("versions") or {}).get("progressive-registration")
    parts = [
        f"Progressive Registration {version or '(version not known)'}",
        f"network {model['name']} {model['version']}" if model.get("name") else "no network",
        *([f"preset {how['preset']}"] if how.get("preset") else []),
        *([f"on {how['device']}"] if how.get("device") else []),
        *([how["created"].replace("T", " ").replace("+00:00", " UTC")] if how.get("created") else []),
    ]
    return ", ".join(parts)


def _write_pdf(case: Case, report: dict[str, Any], path: Path) -> None:
    """Three A4 pages: identity and measurements; pictures; the form."""
    from matplotlib.backends.backend_pdf import PdfPages

    with (
        replacing(path) as temporary,
        PdfPages(temporary, metadata={"Title": "Registration quality report"}) as pdf,
    ):
        for page in (_first_page(report), _second_page(case), _form_page(report)):
            pdf.savefig(page)


def _figure(title: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=PAGE)
    figure.text(0.08, 0.955, title, fontsize=15, fontweight="bold", va="top")
    figure.text(0.08, 0.03, DISCLAIMER, fontsize=7, color="#6a6f78")
    return figure


def _first_page(report: dict[str, Any]) -> Any:
    figure = _figure("Registration quality report")
    y = 0.925

    def line(text: str, size: float = 9, indent: float = 0.0, width: int = 104, **style: Any) -> None:
        nonlocal y
        for part in textwrap.wrap(text, width, break_long_words=True) or [""]:
            figure.text(0.08 + indent, y, part, fontsize=size, va="top", **style)
            y -= size * 0.00165

    line(
        f"After {report['source']}; written {report['created'].replace('T', ' ').replace('+00:00', ' UTC')}",
        8,
        color="#6a6f78",
    )
    y -= 0.012
    line("Identity", 11, fontweight="bold")
    for side in ("fixed", "moving"):
        entry = report["inputs"][side]
        spacing = " × ".join(f"{v:.2f}" for v in entry["spacing_mm"])
        line(f"{side}: {entry['path']}")
        size = " × ".join(map(str, entry["size"]))
        line(f"{size} voxels of {spacing} mm; lungs {entry['lungs_litres']:.2f} l", 8, 0.02, 116)
        line(f"sha256 {entry['sha256'] or 'not known'}", 8, 0.02, 116)
        for key, value in entry["dicom"].items():
            line(f"{key.replace('_', ' ')}: {value}", 8, 0.02, 116)
    line(f"transform: {report['transform']['path']}")
    line(f"sha256 {report['transform']['sha256']}", 8, 0.02, 116)
    line(f"made by: {made_by(report)}")
    y -= 0.014
    line("Measurements and tolerances", 11, fontweight="bold")
    y -= 0.004
    columns = (0.08, 0.35, 0.585, 0.815)
    for x, name in zip(columns, ("check", "measured", "tolerance", "verdict")):
        figure.text(x, y, name, fontsize=8, color="#6a6f78", va="top")
    y -= 0.02
    for check in report["checks"]:
        cells = [
            textwrap.wrap(check[key], w) or [""]
            for key, w in (("name", 36), ("measured", 29), ("tolerance", 31))
        ]
        for x, lines in zip(columns, cells):
            figure.text(x, y, "\n".join(lines), fontsize=8, va="top", linespacing=1.25)
        colour = VERDICT_COLOURS[check["verdict"]]
        figure.text(columns[3], y, check["verdict"], fontsize=8, va="top", color=colour, fontweight="bold")
        y -= 0.0145 * max(map(len, cells)) + 0.009
    line(TOLERANCES, 7, width=130, color="#6a6f78")
    if report["notes"]:
        y -= 0.01
        line("Notes", 11, fontweight="bold")
        for k, note in enumerate(report["notes"]):
            rows = len(textwrap.wrap(f"• {note}", 118))
            if y - 8 * 0.00165 * (rows + 1) < FOOT:  # a row is left for what follows
                line(f"and {len(report['notes']) - k} more in qa.html", 8)
                break
            line(f"• {note}", 8, width=118)
    return figure


def _second_page(case: Case) -> Any:
    figure = _figure("Pictures")
    mask = case.fixed_lungs.mask
    planes = pictures.choose_planes(case.fixed, mask)
    mapping = pictures.quick_map(case.transform, planes)
    rows: list[tuple[str, list[np.ndarray]]] = [("before", []), ("after", []), ("volume change", [])]
    for plane in planes:
        shown = pictures.slice_of(case.fixed, plane)
        inside = pictures.mask_slice(mask, plane)
        rows[0][1].append(pictures.overlay(shown, pictures.slice_of(case.moving, plane)))
        rows[1][1].append(pictures.overlay(shown, pictures.slice_of(case.moving, plane, mapping)))
        determinant = pictures.jacobian_slice(case.transform, plane)
        rows[2][1].append(pictures.jacobian_picture(shown, determinant, inside))
    if case.map is not None:
        shades = doubt_planes(case.fixed, mask, case.map)
        rows.append(("expected error", [p["pixels"] for p in shades]))
    widths = [p.shape[1] / p.shape[0] for p in rows[0][1]]
    grid = figure.add_gridspec(
        len(rows),
        len(planes),
        left=0.06,
        right=0.94,
        top=0.915,
        bottom=0.085,
        hspace=0.16,
        wspace=0.04,
        width_ratios=widths,
    )
    for r, (name, images) in enumerate(rows):
        for c, (plane, picture) in enumerate(zip(planes, images)):
            axes = figure.add_subplot(grid[r, c])
            axes.imshow(picture, interpolation="bilinear")
            axes.set_axis_off()
            axes.set_title(f"{name}, {plane.name}" if c == 0 else plane.name, fontsize=8, loc="left", pad=3)
    figure.text(
        0.08,
        0.072,
        "Overlays: fixed orange, moving blue, grey where they agree; orange alone where the moving image "
        "ends. The patient's right is on the left.\n"
        "Volume change: red grows to twice, blue shrinks to a half, yellow folds. "
        f"Expected error: clear to dark red, {DOUBT_MM:.0f} mm and more"
        + (
            "."
            if case.map is None or case.map.figures["calibrated"]
            else "; not calibrated for voxels this coarse."
        ),
        fontsize=6.5,
        color="#6a6f78",
        va="top",
    )
    return figure


def _form_page(report: dict[str, Any]) -> Any:
    figure = _figure("Visual check")
    y = 0.91
    figure.text(
        0.08,
        y,
        f"{report['inputs']['moving']['path']}  to  {report['inputs']['fixed']['path']}"[:130],
        fontsize=7,
        color="#6a6f78",
    )
    y -= 0.03
    places = (0.62, 0.72, 0.84)
    for x, answer in zip(places, ANSWERS):
        figure.text(x, y, answer, fontsize=8, color="#6a6f78")
    y -= 0.03
    for name, what in LOOKED_AT:
        figure.text(0.08, y, name, fontsize=10, fontweight="bold", va="top")
        figure.text(0.08, y - 0.018, "\n".join(textwrap.wrap(what, 66)), fontsize=8, va="top", color="#444")
        _boxes(figure, places, y)
        y -= 0.062
    y -= 0.02
    for name in SIGNED:
        figure.text(0.08, y, name, fontsize=10, va="top")
        if name == "Overall verdict":
            _boxes(figure, places, y)
        else:
            figure.add_artist(_rule(0.36, 0.92, y - 0.014))
        y -= 0.044
    return figure


def _boxes(figure: Any, places: tuple[float, ...], y: float) -> None:
    from matplotlib.patches import Rectangle

    for x in places:
        box = Rectangle(
            (x, y - 0.014),
            0.014 * PAGE[1] / PAGE[0],
            0.014,
            fill=False,
            linewidth=0.9,
            transform=figure.transFigure,
        )
        figure.add_artist(box)


def _rule(left: float, right: float, y: float) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([left, right], [y, y], linewidth=0.7, color="#444")
