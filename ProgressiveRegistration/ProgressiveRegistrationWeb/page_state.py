"""What the page shows at first: every name that ``assets/page.html`` uses."""

from __future__ import annotations

from pathlib import Path

from ProgressiveRegistrationLib import formats
from ProgressiveRegistrationLib.statistics import STATISTICS
from ProgressiveRegistrationSlicer.choices import FusionMode, LungBoxes, Preset

from .views import DEFINITIONS, SLICES, WINDOWS

ASSETS = Path(__file__).parent / "assets"
SERVED = "progressive_registration"
MODULE = {
    "serve": {SERVED: str(ASSETS)},
    "styles": [f"{SERVED}/page.css"],
    "scripts": [f"{SERVED}/page.js"],
}
# Shown by the client when the server is gone; page.js then waits for it and loads the page again.
LOST = (
    '<main id="connection-lost" role="alert"><h1>Connection lost</h1><p>The server stopped or cannot be '
    "reached. This page opens again by itself when it can. If the server was started anew by then, what "
    "was not downloaded is gone.</p></main>"
)
SIDES = {"fixed": "Fixed (stays)", "moving": "Moving (is aligned to it)"}
WHAT = {"": "image", "_landmarks": "landmarks", "_mask": "lung mask"}
ROLES = {f"{side}{ending}": f"{side} {what}" for side in SIDES for ending, what in WHAT.items()}
OF_A_TAB = ("drawer", "tab", "maximized")  # each browser tab has its own
TOOLS = (
    ("link", "mdi-crosshairs", "A click links the views"),
    ("fixed", "mdi-map-marker-plus-outline", "A click adds a fixed landmark"),
    ("moving", "mdi-map-marker-plus", "A click adds a moving landmark"),
    ("move", "mdi-cursor-move", "Drag landmarks"),
)


class Download:
    """The files that the page offers, named as the command line names them."""

    TRANSFORM = formats.transform_file(formats.TRANSFORM_ENDINGS[0])
    WARPED = formats.WARPED + formats.IMAGE_ENDINGS[0]
    REPORT = formats.REPORT_PAGE
    ERRORS = "landmark_errors.csv"
    FIXED_POINTS = "fixed_landmarks.mrk.json"
    MOVING_POINTS = "moving_landmarks.mrk.json"


# (text, file, the state's list or flag that it needs)
DOWNLOADS = (
    ("Transform", Download.TRANSFORM, "registered"),
    ("Registered image", Download.WARPED, "registered"),
    ("Report", Download.REPORT, "registered"),
    ("Landmark errors", Download.ERRORS, "tre"),
    ("Fixed landmarks", Download.FIXED_POINTS, "rows"),
    ("Moving landmarks", Download.MOVING_POINTS, "rows"),
)
COLOURS = {
    "background": "#101316",
    "surface": "#1a1e23",
    "primary": "#8ab8ff",
    "secondary": "#ffb26b",
    "error": "#ff8a80",
    "success": "#8fd694",
}


def initial(templates: dict[str, str], *, has_data: bool) -> dict:
    """The state; ``templates``: view -> the name of its template."""
    sides = [
        {
            "name": side,
            "title": title,
            "roles": [
                {
                    "name": side + ending,
                    "what": what,
                    "title": f"{side} {what}",
                    "optional": ending == "_mask",
                }
                for ending, what in WHAT.items()
            ],
        }
        for side, title in SIDES.items()
    ]
    return {
        "trame__title": "Progressive Registration",
        "trame__template_main": (ASSETS / "page.html").read_text(encoding="utf-8"),
        "trame__template_error": LOST,
        "trame__vuetify3_config": {
            "theme": {"defaultTheme": "dark", "themes": {"dark": {"dark": True, "colors": COLOURS}}}
        },
        "drawer": True,
        "tab": "views",
        "tabs": 1,
        "has_data": has_data,
        "sides": sides,
        "inputs": dict.fromkeys(ROLES),
        "show_masks": False,
        "loading": "",
        "message": "",
        "message_kind": "info",
        "preset": Preset.BALANCED.value,
        "presets": [{"value": p.value, "title": p.label()} for p in Preset],
        "lung_boxes": LungBoxes.OWN.value,
        "box_modes": [{"value": b.value, "title": b.label()} for b in LungBoxes],
        "device": "auto",
        "devices": [],
        "model": "",
        "models": [],
        "busy": False,
        "progress": 0,
        "stage": "",
        "obstacle": "",
        "registered": False,
        "report_version": 0,
        "report_page": Download.REPORT,
        "downloads": [{"text": t, "file": f, "needs": n} for t, f, n in DOWNLOADS],
        "folding": [],
        "trust": "",
        "tre": [],
        "statistics": [s.label for s in STATISTICS.values()],
        "paired": "",
        "histogram": "",
        "rows": [],
        "landmark": "",
        "landmark_hint": "",
        "mode": FusionMode.OVERLAY.value,
        "modes": [{"value": m.value, "title": m.label()} for m in FusionMode if m is not FusionMode.OFF],
        "uses_opacity": True,
        "opacity": 0.5,
        "window": next(iter(WINDOWS)),
        "windows": list(WINDOWS),
        "tool": TOOLS[0][0],
        "tools": [{"value": v, "icon": i, "title": t} for v, i, t in TOOLS],
        "views": [{"name": n, "template": templates[n], "slice": n in SLICES} for n in DEFINITIONS],
        "offsets": {n: {"value": 0.0, "first": -1.0, "last": 1.0, "step": 1.0, "text": ""} for n in SLICES},
        "maximized": "",
        "scale": [],
        "scale_colours": "",
        "error_scale": [],
        "error_colours": "",
        "browsing": False,
        "browse_title": "",
        "browse_crumbs": [],
        "browse_entries": [],
        "browse_error": "",
        "browse_wait": False,
    }
