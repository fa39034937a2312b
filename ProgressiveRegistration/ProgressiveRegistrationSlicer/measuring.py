"""Folding figures and the engine's report for any transform node, from this module or another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ProgressiveRegistrationLib.errors import InputError, NoLungError, OutputError
from ProgressiveRegistrationLib.geometry import Grid, continued
from ProgressiveRegistrationLib.progress import Work
from ProgressiveRegistrationLib.quality import LATTICE_MM

from ProgressiveRegistrationSlicer import mrml

from . import installer
from .i18n import _
from .session import lung_mask, lung_region

if TYPE_CHECKING:
    import SimpleITK as sitk
    from ProgressiveRegistrationLib.field import DisplacementField
    from ProgressiveRegistrationLib.uncertainty import Uncertainty


class Measurement:
    """Measure a transform and, with a folder, write ``report.json`` and ``report.html`` there.

    Made on the main thread; ``compute`` may run in any thread.

    Parameters
    ----------
    transform : the transform node; fixed, moving : the volume nodes.
    result : the ``SceneResult`` that made the transform, if one still ``describes`` it: its exact field and
    lungs are then used. errors : ``LandmarkErrors`` under the transform, or None; the report's TRE is theirs.
    region, segment : where the fixed lungs are, if the user said so.
    doubt : the transform's ``expected_error``, if it was made: the report shows it.
    """

    def __init__(
        self, transform, fixed, moving, *, result=None, errors=None, region=None, segment="", doubt=None
    ) -> None:
        if transform is None:
            raise InputError(_("Select a transform to measure."))
        if fixed is None or moving is None:
            raise InputError(_("Select the fixed and the moving volume that the transform aligns."))
        self._name = transform.GetName()
        self._names = fixed.GetName(), moving.GetName()
        self._read_fixed = mrml.volume_reader(fixed)
        self._read_moving = mrml.volume_reader(moving, without=transform)  # it need not be under it
        self._errors, self._doubt = errors, doubt
        self._registration = result.registration if result is not None else None
        self._lungs = self._field = None
        if self._registration is not None:
            self._field = self._registration.field
            self._lungs = self._registration.fixed_lungs
        else:
            self._map = mrml.point_map(transform)
            self._lattice = _lattice(transform, mrml.volume_grid(fixed))
        self._region = lung_region(region, segment)

    def compute(
        self, folder=None, progress: Callable | None = None, cancelled: Callable | None = None
    ) -> dict:
        """The report as a dictionary; written into ``folder`` when there is one.

        Raises
        ------
        OutputError : the folder is missing or cannot be written.
        MissingPackagesError : a package that draws the report is missing.
        """
        from ProgressiveRegistrationLib.jobs import draw_report, finish_report
        from ProgressiveRegistrationLib.quality import quality_figures
        from ProgressiveRegistrationLib.report import content as reports

        if folder is not None:
            installer.require(torch=False)
            if not Path(folder).is_dir():
                raise OutputError(f"The report cannot be written: there is no folder {folder}.")
        work = Work({"lungs": 3, "quality": 3, "pictures": 4}, progress, cancelled)
        fixed, moving = self._read_fixed(), self._read_moving()
        mask, notes, field = self._lungs_and_field(fixed, work.part("lungs"), cancelled)
        points = {}
        if self._errors is not None:
            points = {
                "fixed_points": self._errors.fixed,
                "moving_points": self._errors.moving,
                "mapped_points": self._errors.mapped,
                "labels": self._errors.labels,
            }
        with work.stage("quality", "measuring the transform"):
            figures = quality_figures(field, fixed, lung_mask=mask, cancelled=cancelled, **points)
        if self._doubt is not None:
            figures["uncertainty"] = self._doubt.figures
        if self._registration is not None:
            report = reports.registration_report(self._registration, figures)
        else:
            report = reports.evaluation_report(figures, self._name)
        report["inputs"] = {
            "fixed": reports.describe_image(fixed, self._names[0]),
            "moving": reports.describe_image(moving, self._names[1]),
        }
        report["notes"] = [*report.get("notes", []), *notes]
        report["command"] = None
        drawn = None
        if folder is not None:
            drawn = draw_report(report, (fixed, moving, field, mask), work, self._doubt)
        where = None if folder is None else Path(folder)
        finish_report(report, {}, where, where, drawn, work, seconds=report["seconds"])
        return report

    def expected_error(
        self, progress: Callable | None = None, cancelled: Callable | None = None
    ) -> Uncertainty:
        """How far off the transform may be, in mm, at every place of the fixed lungs; in any thread.

        Raises
        ------
        NoLungError : there are no lungs in the fixed volume.
        """
        from ProgressiveRegistrationLib.uncertainty import uncertainty

        tell = progress or (lambda *_: None)
        fixed, moving = self._read_fixed(), self._read_moving()
        mask, notes, field = self._lungs_and_field(fixed, tell, cancelled)
        if mask is None:
            raise NoLungError(" ".join(notes))
        tell("uncertainty", 0.4, "estimating the expected error")
        device = str(self._registration.device) if self._registration is not None else "cpu"
        found = uncertainty(fixed, moving, field, mask, device=device, cancelled=cancelled)
        tell("done", 1.0, "done")
        return found

    def _lungs_and_field(
        self, fixed: sitk.Image, tell: Callable, cancelled: Callable | None
    ) -> tuple[sitk.Image | None, list, DisplacementField]:
        """The fixed lungs (None with a note where there are none), notes, and the transform as a field."""
        from ProgressiveRegistrationLib.jobs import lungs_or_note

        notes: list = []
        tell("lungs", 0.0, "finding the lungs")
        mask = self._lungs.mask if self._lungs is not None else None
        if mask is None:
            mask, notes = lungs_or_note(fixed, lung_mask(self._region, fixed), self._names[0])
        field = self._field
        if field is None:
            tell("sampling", 0.5, "sampling the transform")
            field = mrml.sampled(self._map, self._lattice, cancelled)
        return mask, notes, field


def _lattice(transform, fixed: Grid) -> Grid:
    """Where a transform is sampled: on its own lattice, so that nothing is averaged,
    else as the engine does."""
    own = mrml.own_lattice(transform)
    if own is not None:
        own = continued(own, fixed)
        if np.prod(own.size, dtype=np.int64) <= mrml.MAX_GRID_POINTS:
            return own
    return continued(fixed.with_spacing(np.maximum(fixed.spacing, LATTICE_MM)), fixed)


def folding_text(figures: dict) -> str:
    """The figures of ``quality.folding`` as one paragraph, and how there and back again agree, if it was
    asked."""
    folding = figures.get("folding") or {}
    lines = []
    for key, where in (("lung", _("inside the lungs")), ("field_of_view", _("in the field of view"))):
        spread, percent = folding.get(key), folding.get(f"{key}_percent")
        if spread is None or percent is None:
            continue
        lines.append(
            _(
                "Folding {where}: {percent:.3f} % of voxels. "
                "Jacobian {mean:.2f} ± {sd:.2f}, from {low:.2f} to {high:.2f}."
            ).format(
                where=where,
                percent=percent,
                mean=spread["mean"],
                sd=spread["sd"],
                low=spread["min"],
                high=spread["max"],
            )
        )
    there_and_back = figures.get("inverse_consistency_mm")
    if there_and_back is not None:
        lines.append(
            _(
                "There and back again misses by {mean:.2f} mm on average inside the lungs, "
                "{most:.2f} mm at most."
            ).format(mean=there_and_back["mean"], most=there_and_back["max"])
        )
    return "<br>".join(lines)
