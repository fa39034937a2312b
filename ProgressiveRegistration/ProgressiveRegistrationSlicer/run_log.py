"""What is known about a registration, kept with its transform: saved with the scene, shown as tool tip."""

from __future__ import annotations

import datetime
import importlib.metadata
import json

import slicer

from .i18n import _

ATTRIBUTE = "ProgressiveRegistration.Run"


def write(transform, registration, figures: dict, fixed: str, moving: str, start: str = "") -> None:
    """Note a run on the transform that it made. ``start``: the initial transform's name."""
    card = getattr(registration, "card", None)
    folding = (figures.get("folding") or {}).get("lung_percent")
    entry = {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "fixed": fixed,
        "moving": moving,
        "model": f"{card.name} {card.version}" if card is not None else None,
        "preset": getattr(registration, "preset", None),
        "lung_boxes": getattr(registration, "lung_boxes", None),
        "device": getattr(registration, "device", None),
        "seconds": round(registration.seconds.get("total", 0.0), 2),
        "folding_percent": folding,
        "start": start or None,
        "versions": {
            "slicer": _application(),
            "torch": _package("torch"),
            "SimpleITK": _package("SimpleITK"),
        },
    }
    _put(transform, entry)


def read(transform) -> dict:
    """What was noted; {} for a transform without a run, or an attribute that cannot be read."""
    text = transform.GetAttribute(ATTRIBUTE) if transform is not None else None
    try:
        entry = json.loads(text) if text else {}
    except ValueError:
        entry = {}
    return entry if isinstance(entry, dict) else {}


def note_errors(transform, errors) -> None:
    """Note the landmark error of a transform that has a run, or that there is none any more."""
    entry = read(transform)
    if not entry:
        return
    now = None
    if errors is not None:
        now = {
            "mean_mm": round(float(errors.after.mean()), 3),
            "before_mm": round(float(errors.before.mean()), 3),
            "landmarks": len(errors.after),
        }
    if entry.get("tre") != now:
        entry["tre"] = now
        _put(transform, entry)


def text(transform) -> str:
    """The run in a few lines, "" where there is none."""
    entry = read(transform)
    if not entry:
        return ""
    lines = [
        _("{moving} to {fixed}, {time}").format(
            moving=entry.get("moving"), fixed=entry.get("fixed"), time=entry.get("time")
        ),
        _("Preset {preset}, model {model}, {device}, {seconds} s").format(
            preset=entry.get("preset"),
            model=entry.get("model") or _("none"),
            device=entry.get("device"),
            seconds=entry.get("seconds"),
        ),
    ]
    if entry.get("start"):
        lines.append(_("Started from {name}").format(name=entry["start"]))
    if entry.get("folding_percent") is not None:
        lines.append(_("Folding inside the lungs: {percent:.3f} %").format(percent=entry["folding_percent"]))
    tre = entry.get("tre")
    if tre:
        lines.append(
            _("TRE {mean:.2f} mm ({before:.2f} mm before) at {count} landmarks").format(
                mean=tre["mean_mm"], before=tre["before_mm"], count=tre["landmarks"]
            )
        )
    versions = entry.get("versions") or {}
    lines.append(", ".join(f"{name} {number}" for name, number in versions.items() if number))
    return "\n".join(lines)


def _put(transform, entry: dict) -> None:
    transform.SetAttribute(ATTRIBUTE, json.dumps(entry))
    transform.SetDescription(text(transform))  # what the Data module shows


def _application() -> str:
    app = getattr(slicer, "app", None)  # there is none behind the page in the browser
    if app is None:
        return "slicer-core"
    return f"{app.majorVersion}.{app.minorVersion}"


def _package(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
