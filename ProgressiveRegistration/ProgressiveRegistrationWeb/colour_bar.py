"""The colour bar beside a slice, as the page draws it; Slicer's own legend does not show in trame's views."""

from __future__ import annotations

from ProgressiveRegistrationSlicer import overlays
from ProgressiveRegistrationSlicer.choices import FusionMode

STEPS = 16


def colour_bar(mode: FusionMode) -> dict:
    """State: ``scale`` (ticks: text, place from below), ``scale_colours`` (CSS); empty for modes without."""
    if mode is FusionMode.DIFFERENCE:
        low, high, unit = -overlays.DIFFERENCE_HU, overlays.DIFFERENCE_HU, " HU"
    elif mode is FusionMode.JACOBIAN:
        low, high, unit = *overlays.JACOBIAN, ""
    elif mode is FusionMode.UNCERTAINTY:
        low, high, unit = *overlays.TRUST_MM, " mm"
    else:
        return {"scale": [], "scale_colours": ""}
    node = overlays.trust_table() if mode is FusionMode.UNCERTAINTY else overlays.diverging_table()
    table = node.GetLookupTable()
    colours = [table.GetTableValue(round(255 * i / STEPS))[:3] for i in range(STEPS + 1)]
    stops = ", ".join("rgb(" + ",".join(str(round(255 * c)) for c in colour) + ")" for colour in colours)
    ticks = [(low + share * (high - low), share) for share in (0.0, 0.5, 1.0)]
    return {
        "scale": [{"text": f"{value:g}{unit}", "at": f"{100 * share:.0f}%"} for value, share in ticks],
        "scale_colours": f"linear-gradient(to top, {stops})",
    }
