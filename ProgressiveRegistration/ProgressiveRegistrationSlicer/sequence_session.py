"""A sequence browser of the scene, registered: read on the main thread, computed beside it, shown on it
again.
"""

from __future__ import annotations

import tempfile
from dataclasses import fields
from pathlib import Path

import numpy as np
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.statistics import TAIL, TAIL_SHORT

from . import mrml, sequence_frames, sequence_scene
from .i18n import _
from .session import chosen_options

LEAST_PHASES = 2


def volume_sequence(browser):
    """The browser's sequence of scalar volumes; raises InputError."""
    if browser is None:
        raise InputError(_("Choose a sequence browser that plays a 4DCT."))
    sequence = sequence_frames.volume_sequence(browser)
    if sequence is None:
        raise InputError(
            _("{name} plays no volumes: choose the browser of a 4DCT.").format(name=browser.GetName())
        )
    return sequence


class SequenceSession:
    """Register what a browser plays: ``compute`` anywhere, the rest on the main thread.

    ``options``: of the engine's ``Options``, by name; those that a whole sequence can have count (preset,
    model, device).

    Raises
    ------
    InputError : no volumes, or fewer than two.
    """

    def __init__(self, browser, *, cyclic: bool = True, **options) -> None:
        sequence = volume_sequence(browser)
        count = sequence.GetNumberOfDataNodes()
        if count < LEAST_PHASES:
            raise InputError(
                _("{name} has one volume: a sequence needs two.").format(name=sequence.GetName())
            )
        self.name = sequence.GetName()
        self.options = chosen_options(None, options)
        self.cyclic = cyclic
        self.images = []
        for k in range(count):
            node = sequence.GetNthDataNode(k)
            mrml.check_volume(node)
            label = f"{k:02d}_{sequence.GetNthIndexValue(k)}"
            safe = "".join(c if c.isalnum() or c in "._+-" else "_" for c in label)
            self.images.append((safe, mrml.image_from_volume(node)))

    def compute(self, progress, cancelled):
        """The engine's result; nothing of it stays on the disk."""
        from ProgressiveRegistrationLib.images import write_image
        from ProgressiveRegistrationLib.sequence.phases import Phase
        from ProgressiveRegistrationLib.sequence.run import Sequence, run_sequence
        from ProgressiveRegistrationLib.sequence.steps import Settings

        with tempfile.TemporaryDirectory(prefix="sequence-") as folder:
            phases = []
            for name, image in self.images:
                path = Path(folder) / f"{name}.nrrd"
                write_image(image, path)
                phases.append(Phase(name, path))
            shared = {f.name for f in fields(Settings)} & {f.name for f in fields(self.options)}
            settings = Settings(**{name: getattr(self.options, name) for name in shared})
            job = Sequence(phases, Path(folder) / "result", settings, cyclic=self.cyclic)
            return run_sequence(job, progress=progress, cancelled=cancelled, write=False)

    def finish(self, result) -> sequence_scene.SequenceNodes:
        """Show it: phases and transforms under one browser, maps as volumes with colours."""
        maps = {"amplitude": result.amplitude_image(), "uncertainty": result.doubt.image()}
        if result.breath is not None:
            maps.update(
                {f"ventilation_{which}": result.breath.image(which, np.nan) for which in ("jacobian", "hu")}
            )
        fields = {k: result.field(k) for k in range(len(result.phases)) if k != result.reference}
        region = result.lungs[result.reference].box
        return sequence_scene.show(self.name, self.images, result.reference, fields, maps, region=region)


def summary(result) -> str:
    """A line for the panel."""
    r = result.report
    parts = [
        _("Registered {count} phases to {reference}.").format(
            count=len(r["phases"]), reference=r["reference"]
        ),
        _("Amplitude in the lungs: mean {mean:.1f} mm, {percent} {tail:.1f} mm.").format(
            mean=r["amplitude_mm"]["mean"], percent=TAIL_SHORT, tail=r["amplitude_mm"][TAIL]
        ),
    ]
    if r["closing_error_mm"]:
        parts.append(_("Closing error round the breath: {mean:.2f} mm.").format(**r["closing_error_mm"]))
    parts.append(_("Expected error: mean {mean_mm:.1f} mm.").format(**r["uncertainty"]))
    return " ".join(parts + r["notes"])
