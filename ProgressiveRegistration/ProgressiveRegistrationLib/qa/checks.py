"""What is measured of a finished registration, and how it stands to the tolerances of AAPM TG-132.

Brock et al., "Use of image registration and fusion algorithms and techniques in radiotherapy: Report of the
AAPM Radiation Therapy Committee Task Group No. 132", Medical Physics 44 (2017) e43, table III: landmarks,
surfaces and consistency within the largest voxel dimension (about 2 to 3 mm), Dice within the uncertainty of
contouring (about 0.80 to 0.90), no negative Jacobian determinant. The table's figures are as others quote it
(docs/breathing/quality-report.md says who).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ..batch.record import checksum
from ..errors import InputError
from ..field import DisplacementField
from ..formats import REPORT_JSON
from ..geometry import Grid
from ..images import read_image, read_volume
from ..jobs import READING_CHOICES
from ..lungs import Lungs, find_lungs
from ..options import PairFiles
from ..pairing import read_landmark_pair
from ..progress import Progress, Stop, check
from ..quality import quality_figures
from ..report.content import describe_image, jsonable, versions
from ..sequence.steps import read_result
from ..statistics import TAIL, TAIL_SHORT, statistics
from ..transforms import Transform, read_transform
from ..uncertainty import Uncertainty, uncertainty

TOLERANCE_MM = (2.0, 3.0)  # what "the largest voxel dimension" is kept between
DICE = 0.9
SIDES = ("fixed", "moving")
VOLUME_TOLERANCE = 0.05  # of the ratio of the lungs' volumes, by field and by the images
SOURCE = "AAPM TG-132 (Brock et al., Med Phys 2017;44:e43)"
DICOM_TAGS = {
    "patient": "0010|0020",
    "study_date": "0008|0020",
    "series": "0020|000e",
    "description": "0008|103e",
    "scanner": "0008|1090",
}


@dataclass(frozen=True)
class Case:
    """One registration with everything that its report shows."""

    fixed: sitk.Image
    moving: sitk.Image
    transform: Transform
    fixed_lungs: Lungs
    moving_lungs: Lungs
    map: Uncertainty | None
    report: dict[str, Any]


def examine(
    result: Path, *, inverse: Path | None = None, progress: Progress = None, cancelled: Stop = None
) -> Case:
    """Measure a result of ``register`` (its folder, or its report.json) anew, from its files.

    ``inverse``: a transform moving -> fixed, for inverse consistency and a better uncertainty map.

    Raises
    ------
    InputError : no report.json there, or a file that it names is missing or has changed its form.
    """

    def tell(fraction: float, text: str) -> None:
        check(cancelled)
        if progress is not None:
            progress(text.split()[0].lower(), fraction, text)

    tell(0.0, "Reading the images and the transform")
    result = Path(result)
    source = _sequence(result) if (result / "sequence.json").is_file() else _pair(result)
    fixed, moving = source.images
    read_notes: list[str] = []
    mapping = read_transform(source.transform, read_notes)
    back = None if inverse is None else read_transform(inverse, read_notes)
    pair = read_landmark_pair(source.files, fixed, moving)
    tell(0.2, "Finding the lungs")
    lungs = [
        find_lungs(i, mask=m, name=n) for i, m, n in zip(source.images, source.masks, ("fixed", "moving"))
    ]
    tell(0.4, "Measuring the transform")
    figures = quality_figures(
        mapping, fixed, lung_mask=lungs[0].mask, backward=back, cancelled=cancelled, **pair.figures()
    )
    figures["lungs"] = lung_agreement(mapping, lungs[0].mask, lungs[1].mask)
    figures.update({key: value for key, value in source.figures.items() if figures.get(key) is None})
    tell(0.7, "Mapping the uncertainty")
    found = None
    if isinstance(mapping, DisplacementField):
        other = back if isinstance(back, DisplacementField) else None
        found = uncertainty(fixed, moving, mapping, lungs[0].mask, backward=other, cancelled=cancelled)
        figures["uncertainty"] = found.figures
    doubts = found.figures["notes"] if found is not None else []
    spacing = max(*fixed.GetSpacing(), *moving.GetSpacing())
    tolerance = float(np.clip(spacing, *TOLERANCE_MM))
    report = jsonable(
        {
            "format": 1,
            "kind": "quality assurance",
            "source": SOURCE,
            "inputs": {
                side: {
                    **describe_image(image, path),
                    "sha256": _checksum(path),
                    "path": os.path.abspath(path),
                    "dicom": _identity(path),
                    "lungs_litres": found_lungs.volume_litres,
                }
                for side, image, path, found_lungs in zip(SIDES, source.images, source.paths, lungs)
            },
            "transform": {"path": os.path.abspath(source.transform), "sha256": checksum(source.transform)},
            "registration": {
                key: source.done.get(key)
                for key in ("created", "preset", "model", "device", "lung_boxes", "command", "versions")
            },
            "versions": versions(),
            "tolerance_mm": tolerance,
            "notes": list(dict.fromkeys([*source.done.get("notes", []), *read_notes, *pair.notes, *doubts])),
            **figures,
        }
    )
    report["checks"] = [_patients(report["inputs"]), *checks(figures, tolerance)]
    tell(1.0, "Measured")
    return Case(fixed, moving, mapping, lungs[0], lungs[1], found, report)


def lung_agreement(transform: Transform, fixed_mask: sitk.Image, moving_mask: sitk.Image) -> dict[str, Any]:
    """How the moving lungs, brought onto the fixed ones, agree with them: Dice, distances of the surfaces
    (mm), volumes.

    ``volume_ratio``: moving to fixed lungs as found in the images; ``volume_ratio_by_field``: the mean
    Jacobian determinant there.
    """
    grid = Grid.from_image(fixed_mask)
    itk = transform.covering(grid).to_transform() if isinstance(transform, DisplacementField) else transform
    padded = sitk.ConstantPad(sitk.Cast(moving_mask > 0, sitk.sitkFloat32), [2] * 3, [2] * 3, 0.0)
    warped = sitk.Resample(
        padded,
        grid.size,
        itk,
        sitk.sitkLinear,
        grid.origin,
        grid.spacing,
        grid.direction,
        0.0,
        sitk.sitkFloat32,
    )
    a, b = sitk.GetArrayFromImage(warped) >= 0.5, sitk.GetArrayViewFromImage(fixed_mask) > 0
    total = int(a.sum()) + int(b.sum())
    voxel = float(np.prod(grid.spacing))
    moving_voxel = float(np.prod(moving_mask.GetSpacing()))
    from ..quality import jacobian_determinant

    growth = jacobian_determinant(transform, grid)[b]
    return {
        "dice": 2 * float((a & b).sum()) / total,
        "surface_mm": statistics(_surface_distances(a, b, grid)),
        "volume_ratio": float((sitk.GetArrayViewFromImage(moving_mask) > 0).sum())
        * moving_voxel
        / (float(b.sum()) * voxel),
        "volume_ratio_by_field": float(growth.mean()),
    }


def checks(figures: dict[str, Any], tolerance: float) -> list[dict[str, Any]]:
    """Each with ``name``, ``measured`` and ``tolerance`` as text, and ``verdict``: within, outside, or not
    measured.
    """

    def entry(
        name: str, value: float | None, within: bool | None, measured: str, wanted: str, without: str = "–"
    ) -> dict[str, Any]:
        verdict = "not measured" if value is None else "within" if within else "outside"
        return {
            "name": name,
            "measured": measured if value is not None else without,
            "tolerance": wanted,
            "verdict": verdict,
        }

    tre = figures.get("tre_mm")
    mean = tre["after"]["mean"] if tre else None
    lungs = figures["lungs"]
    surface, dice = lungs["surface_mm"]["mean"], lungs["dice"]
    folded, spread = figures["folding"]["lung_percent"], figures["folding"]["lung"]
    inverse = figures.get("inverse_consistency_mm")
    off = lungs["volume_ratio_by_field"] / lungs["volume_ratio"] - 1
    transitivity = figures.get("transitivity_mm")
    doubt = figures.get("uncertainty")
    expected = doubt["mean_mm"] if doubt and doubt["calibrated"] else None
    limit = f"mean ≤ {tolerance:.1f} mm (largest voxel dimension, 2 to 3 mm)"
    return [
        entry(
            "Landmarks (TRE)",
            mean,
            mean is not None and mean <= tolerance,
            _errors(tre["after"]) if tre else "",
            limit,
        ),
        entry(
            "Lungs overlap (Dice)", dice, dice >= DICE, f"{dice:.3f}", f"≥ {DICE} (uncertainty of contouring)"
        ),
        entry(
            "Lungs' surfaces (mean distance to agreement)",
            surface,
            surface <= tolerance,
            f"{surface:.2f} mm, {TAIL_SHORT} {lungs['surface_mm'][TAIL]:.2f}",
            limit,
        ),
        entry(
            "Folding: Jacobian determinant ≤ 0 in the lungs",
            folded,
            folded == 0,
            "" if folded is None else f"{folded:.3g} %",
            "none",
        ),
        entry(
            "Jacobian determinant's range in the lungs",
            None if spread is None else spread["min"],
            spread is not None and spread["min"] > 0,
            ""
            if spread is None
            else "{min:.2f} to {max:.2f} (1 % {p1:.2f}, 99 % {p99:.2f})".format(**spread),
            "> 0, and as the anatomy lets expect",
        ),
        entry(
            "Volume change: field against lungs in the images",
            off,
            abs(off) <= VOLUME_TOLERANCE,
            f"{lungs['volume_ratio_by_field']:.3f} against {lungs['volume_ratio']:.3f}",
            f"within {100 * VOLUME_TOLERANCE:.0f} % (this program's own)",
        ),
        entry(
            "Inverse consistency",
            None if inverse is None else inverse["mean"],
            inverse is not None and inverse["mean"] <= tolerance,
            "" if inverse is None else f"{inverse['mean']:.2f} mm, {TAIL_SHORT} {inverse[TAIL]:.2f}",
            limit,
        ),
        entry(
            "Transitivity over neighbouring phases",
            None if transitivity is None else transitivity["mean"],
            transitivity is not None and transitivity["mean"] <= tolerance,
            ""
            if transitivity is None
            else "mean {mean:.2f} mm, largest step {max:.2f}".format(**transitivity),
            limit,
        ),
        entry(
            "Expected error by the uncertainty map",
            expected,
            expected is not None and expected <= tolerance,
            _doubt(doubt) if doubt else "",
            limit + " (this program's own)",
            "not calibrated for these voxels" if doubt and not doubt["calibrated"] else "–",
        ),
    ]


def _patients(inputs: dict[str, Any]) -> dict[str, Any]:
    """A check, as ``checks`` has them: do both images say that they are of one patient?"""
    ids = [inputs[side]["dicom"].get("patient", "") for side in SIDES]
    known = all(ids)
    return {
        "name": "Patient of both images (DICOM)",
        "measured": " and ".join(dict.fromkeys(ids)) if known else "–",
        "tolerance": "one patient",
        "verdict": "not measured" if not known else "within" if ids[0] == ids[1] else "outside",
    }


def _errors(found: dict[str, Any]) -> str:
    return "{mean:.2f} ± {sd:.2f} mm, largest {max:.2f} ({count} landmarks)".format(**found)


def _doubt(found: dict[str, Any]) -> str:
    text = "mean {mean_mm:.2f} mm; above {distrust_above_mm:.0f} mm in {distrust_percent:.1f} % of the lungs"
    return text.format(**found)


def _surface_distances(a: np.ndarray, b: np.ndarray, grid: Grid) -> np.ndarray:
    """mm from each surface voxel of one mask to the other's surface, both ways."""
    surfaces = [m & ~ndimage.binary_erosion(m, border_value=1) for m in (a, b)]
    if not all(s.any() for s in surfaces):
        raise InputError(
            "The moving lungs do not reach the fixed image; is this the transform of these two images?"
        )
    spacing = grid.spacing[::-1]
    away = [ndimage.distance_transform_edt(~s, spacing) for s in surfaces]
    return np.concatenate([away[1][surfaces[0]], away[0][surfaces[1]]])


@dataclass(frozen=True)
class _Source:
    """The files behind one case. ``done``: the report of what made it; ``figures``: what only that knows."""

    images: list[sitk.Image]  # fixed, moving
    paths: list[str]
    masks: list[sitk.Image | None]
    files: PairFiles  # the landmarks'
    transform: Path
    done: dict[str, Any]
    figures: dict[str, Any]


def _pair(result: Path) -> _Source:
    """A result of ``register``."""
    path = result / REPORT_JSON if result.is_dir() else result
    try:
        done = json.loads(path.read_text(encoding="utf-8"))
        transforms, names = done["outputs"]["transform"], done["inputs"]
        paths = [str(names[side]["path"]) for side in SIDES]
        sizes = [list(names[side]["size"]) for side in SIDES]
    except OSError as error:
        raise InputError(f"There is no {path}; give a folder that register or sequence wrote.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no report of register with its transform and both images.") from error
    chosen = {key: names[key] for key in READING_CHOICES if names.get(key) is not None}
    images = [
        read_image(path, chosen.get(f"{side}_series"), frame=chosen.get(f"{side}_frame"))
        for side, path in zip(SIDES, paths)
    ]
    for image, size, name in zip(images, sizes, paths):
        if list(image.GetSize()) != size:
            raise InputError(f"{name} is not the image that was registered: its size has changed.")
    transform = Path(transforms if isinstance(transforms, str) else transforms[0])
    marks = [Path(names[k]) if names.get(k) else None for k in ("fixed_landmarks", "moving_landmarks")]
    masks = [names.get(f"{side}_mask") for side in SIDES]
    return _Source(
        images,
        paths,
        [read_volume(mask) if mask else None for mask in masks],
        PairFiles(
            Path(paths[0]),
            Path(paths[1]),
            fixed_landmarks=marks[0],
            moving_landmarks=marks[1],
            exclude_landmarks=tuple(names.get("excluded_landmarks", ())),
            **chosen,
        ),
        transform if transform.is_file() else path.parent / transform.name,  # the folder was moved
        done,
        {"inverse_consistency_mm": done.get("inverse_consistency_mm")},  # the way back is not on the disk
    )


def _sequence(result: Path) -> _Source:
    """A result of ``sequence``: from its reference to the phase that is farthest from it."""
    report, phases = read_result(result)
    names = [phase.name for phase in phases]
    moves = [entry.get("displacement_mm", {}).get("mean", -1.0) for entry in report["phases"]]
    two = [phases[names.index(report["reference"])], phases[int(np.argmax(moves))]]
    marks = [phase.landmarks for phase in two]
    files = PairFiles(two[0].path, two[1].path)
    if all(marks):
        files = replace(files, fixed_landmarks=marks[0], moving_landmarks=marks[1])
    steps = [step["after_mm"]["mean"] for step in report.get("steps", [])]
    between = {"mean": float(np.mean(steps)), "max": float(np.max(steps))} if steps else None
    what = f"A sequence: this is its phase {two[1].name}, farthest from the reference {two[0].name}."
    return _Source(
        [phase.image() for phase in two],
        [str(phase.path) for phase in two],
        [phase.lung_mask() for phase in two],
        files,
        result / f"field_{two[1].name}.nrrd",
        {**report, "notes": [what, *report["notes"]]},
        {"transitivity_mm": between},
    )


def _checksum(path: str) -> str | None:
    try:
        return checksum(path)
    except InputError:
        return None


def _identity(path: str) -> dict[str, str]:
    """What a DICOM series says of itself: patient, date, series; empty for other files."""
    folder = Path(path)
    if not folder.is_dir():
        return {}
    from ..reading.dicom import is_dicom

    first = next((f for f in sorted(folder.iterdir()) if f.is_file() and is_dicom(f)), None)
    if first is None:
        return {}
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(first))
    reader.ReadImageInformation()
    return {k: reader.GetMetaData(tag).strip() for k, tag in DICOM_TAGS.items() if reader.HasMetaDataKey(tag)}
