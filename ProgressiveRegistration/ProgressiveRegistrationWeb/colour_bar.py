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
    ticks, colours = _bar(node, low, high, unit)
    return {"scale": ticks, "scale_colours": colours}


def error_bar(largest: float | None) -> dict:
    """State: the same for the landmarks' errors in 3D, from 0 to ``largest`` mm; None: none are shown."""
    if largest is None:
        return {"error_scale": [], "error_colours": ""}
    ticks, colours = _bar(overlays.distance_table(), 0.0, largest, " mm")
    return {"error_scale": ticks, "error_colours": colours}


def _bar(node, low: float, high: float, unit: str) -> tuple[list[dict], str]:
    table = node.GetLookupTable()
    colours = [table.GetTableValue(round(255 * i / STEPS))[:3] for i in range(STEPS + 1)]
    stops = ", ".join("rgb(" + ",".join(str(round(255 * c)) for c in colour) + ")" for colour in colours)
    ticks = [(low + share * (high - low), share) for share in (0.0, 0.5, 1.0)]
    return (
        [{"text": f"{value:.3g}{unit}", "at": f"{100 * share:.0f}%"} for value, share in ticks],
        f"linear-gradient(to top, {stops})",
    )
