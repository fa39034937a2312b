"""A sequence browser of the scene, registered: read on the main thread, computed beside it, shown on it
again.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import vtk
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.statistics import TAIL, TAIL_SHORT

from . import mrml, sequence_scene
from .i18n import _

LEAST_PHASES = 2


def volume_sequence(browser):
    """The browser's sequence of scalar volumes; raises InputError."""
    if browser is None:
        raise InputError(_("Choose a sequence browser that plays a 4DCT."))
    found = vtk.vtkCollection()
    browser.GetSynchronizedSequenceNodes(found, True)
    for k in range(found.GetNumberOfItems()):
        sequence = found.GetItemAsObject(k)
        first = sequence.GetNthDataNode(0) if sequence.GetNumberOfDataNodes() else None
        if first is not None and first.IsA("vtkMRMLScalarVolumeNode"):
            return sequence
    raise InputError(
        _("{name} plays no volumes: choose the browser of a 4DCT.").format(name=browser.GetName())
    )


class SequenceSession:
    """Register what a browser plays: ``compute`` anywhere, the rest on the main thread.

    Raises
    ------
    InputError : no volumes, or fewer than two.
    """

    def __init__(
        self, browser, *, preset: str = "balanced", model: str = "", device: str = "auto", cyclic: bool = True
    ) -> None:
        sequence = volume_sequence(browser)
        count = sequence.GetNumberOfDataNodes()
        if count < LEAST_PHASES:
            raise InputError(
                _("{name} has one volume: a sequence needs two.").format(name=sequence.GetName())
            )
        self.name = sequence.GetName()
        self.options = {"preset": preset, "model": model or None, "device": device}
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
            job = Sequence(phases, Path(folder) / "result", Settings(**self.options), cyclic=self.cyclic)
            return run_sequence(job, progress=progress, cancelled=cancelled, write=False)

    def finish(self, result) -> sequence_scene.SequenceNodes:
        """Show it: phases and transforms under one browser, maps as volumes with colours."""
        maps = {"amplitude": result.grid.image(result.amplitude), "uncertainty": result.doubt.image()}
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
