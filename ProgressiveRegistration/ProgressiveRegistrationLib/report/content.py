"""``report.json`` and a self-contained ``report.html``: what was done, how well, and how to do it again."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..constants import NETWORK_FADE_MM, NETWORK_SMOOTH_MM, PADDING_HU

FORMAT = 1

BOX_SENTENCES = {
    "own": "Lung boxes own: each image has one, and a scale and a shift lay them over each other before "
    "the network runs; that is part of the result and of its TRE.",
    "shared": "Lung boxes shared: one box around the lungs of both images serves both (the paper's mode); "
    "the scans must lie in one scanner frame.",
    "explicit": "Lung boxes explicit: a scale and a shift lay them over each other before the network runs; "
    "that is part of the result and of its TRE.",
}


def describe_image(image: sitk.Image, path: str | os.PathLike | None = None) -> dict:
    """Path, size (x, y, z), spacing, origin and direction (LPS mm) and pixel type of an input."""
    return {
        "path": None if path is None else str(path),
        "size": list(image.GetSize()),
        "spacing_mm": [float(v) for v in image.GetSpacing()],
        "origin_lps_mm": [float(v) for v in image.GetOrigin()],
        "direction": [float(v) for v in image.GetDirection()],
        "type": image.GetPixelIDTypeAsString(),
    }


def versions() -> dict:
    """This program's version and those of what it computes with."""
    from importlib import metadata

    out = {"python": platform.python_version()}
    for key, package in (
        ("progressive-registration", "progressive-registration"),
        ("numpy", "numpy"),
        ("SimpleITK", "SimpleITK"),
        ("torch", "torch"),
    ):
        try:
            out[key] = metadata.version(package)
        except metadata.PackageNotFoundError:
            out[key] = "unknown"
    return out


def registration_report(registration: Any, figures: Mapping[str, Any]) -> dict:
    """The report of a ``Registration`` with its quality figures; the caller adds inputs and outputs.

    ``boxes_lps_mm`` is what the network saw, ``lungs`` what was found in the images.
    """
    card = registration.card
    lungs = {}
    for name, found in (("fixed", registration.fixed_lungs), ("moving", registration.moving_lungs)):
        if found is not None:
            lungs[name] = {"volume_litres": float(found.volume_litres), "box_lps_mm": found.box.to_list()}
    return _common(figures) | {
        "preset": registration.preset,
        "refinement": jsonable(registration.refinement),
        "model": jsonable(card) if card is not None else {"name": None, "version": None},
        "device": str(registration.device),
        "precision": str(registration.precision),
        "lung_boxes": registration.lung_boxes,
        "boxes_lps_mm": {name: box.to_list() for name, box in zip(("fixed", "moving"), registration.boxes)},
        "lungs": lungs,
        "seconds": {stage: round(float(s), 3) for stage, s in registration.seconds.items()},
        "notes": [str(note) for note in registration.notes],
    }


def evaluation_report(figures: Mapping[str, Any], transform: str) -> dict:
    """The report of a transform that was made elsewhere: the same keys, None where nothing is known.

    The caller adds inputs, seconds and outputs.
    """
    return _common(figures) | {
        "transform": transform,
        "preset": None,
        "refinement": None,
        "model": {"name": None, "version": None},
        "device": None,
        "precision": None,
        "lung_boxes": None,
        "boxes_lps_mm": None,
        "lungs": {},
        "seconds": {},
        "notes": [],
    }


def _common(figures: Mapping[str, Any]) -> dict:
    return {
        "format": FORMAT,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "inputs": {},
        "tre_mm": None,
        "landmarks": [],
        "displacement_mm": None,
        "inverse_consistency_mm": None,
        "command": None,
        "outputs": {},
        **jsonable(figures),
    }


def protocol(report: Mapping[str, Any]) -> list[str]:
    """Sentences that say how the figures came about, enough to do it again."""
    out = []
    model = report["model"]
    if model["name"]:
        checksum = f", sha256 {model['sha256'][:12]}" if model.get("sha256") else ""
        out.append(
            f"The network {model['name']} {model['version']}{checksum} ran on {report['device']} in "
            f"{report['precision']}."
        )
        out.append(
            f"The network's field is smoothed (Gaussian, {NETWORK_SMOOTH_MM:g} mm) and counts in and near "
            f"the lungs: its weight fades to nothing within about {NETWORK_FADE_MM / 10:.0f} cm of them, "
            f"and the field is carried on smoothly from there."
        )
    elif report["preset"]:
        out.append("No network ran: without it the lung boxes alone are laid over each other.")
    if report["preset"]:
        if report["refinement"] is None:
            out.append(f"Preset {report['preset']}: no refinement for this pair.")
        else:
            out.append(
                f"Preset {report['preset']}: the field was then refined for this pair from the images alone; "
                "landmarks took no part."
            )
        out.append(BOX_SENTENCES[report["lung_boxes"]])
    elif report.get("transform"):
        out.append(f"The transform {report['transform']} was made elsewhere and is measured as it is.")
    out.append(
        "The transform T maps points of the fixed image to the moving image, LPS mm; displacements are "
        "interpolated linearly."
    )
    if report["tre_mm"]:
        how = {"label": "by their labels", "order": "by their order"}.get(
            report["inputs"].get("landmark_pairing")
        )
        out.append(
            "TRE of a fixed landmark x and its moving landmark y is |T(x) − y| in mm, continuous: nothing is "
            f"snapped to voxels. {report['tre_mm']['after']['count']} pairs"
            + (f", paired {how}" if how else "")
            + "; sd is of the sample."
        )
    if report.get("folding"):
        spacing = " × ".join(f"{s:.2f}" for s in report["folding"]["spacing_mm"])
        out.append(
            f"Folding is the percentage of voxels with Jacobian determinant ≤ 0 on a lattice of {spacing} "
            "mm, in the fixed image's lung mask and in its field of view (not padded by the scanner: above "
            f"−{-PADDING_HU:.0f} HU)."
        )
    if report.get("inverse_consistency_mm"):
        out.append(
            "Inverse consistency is |B(F(x)) − x| in mm over the voxels x of the fixed lungs, with F fixed → "
            "moving and B from registering the other way."
        )
    listed = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    out.append(f"Versions: {listed}.")
    return out


def to_json(report: Mapping[str, Any]) -> str:
    """The report as JSON text; numbers that are not finite are an error, never NaN in the file."""
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def jsonable(value: Any) -> Any:
    """Dataclasses, arrays, paths and numbers of numpy as JSON's own types."""
    if hasattr(value, "to_dict"):
        return jsonable(value.to_dict())
    if is_dataclass(value) and not isinstance(value, type):
        return jsonable(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return str(value)
    return value
