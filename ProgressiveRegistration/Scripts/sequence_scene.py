"""Make a Slicer scene (.mrb) of what ``progressive-registration sequence`` wrote, in Slicer or with PyPI's
slicer-core.

    Slicer --no-splash --no-main-window --python-script sequence_scene.py -- RESULT scene.mrb
    python sequence_scene.py RESULT scene.mrb

The scene holds the reference, all phases and transforms as sequences with one browser, and the maps with
their colours.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

# Beside this script's folder: in the sources and where Slicer installs the module.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

IN_SLICER = getattr(sys.modules.get("slicer"), "app", None) is not None


def start_core() -> list:
    """A scene for slicer-core, which brings none; returns what must stay alive."""
    import slicer

    scene = slicer.vtkMRMLScene()
    slicer.mrmlScene = scene
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    kept = [scene, application]
    legend = getattr(slicer, "vtkMRMLColorLegendDisplayNode", None)
    if legend is not None:  # else Slicer's colour module makes it known, which wants Slicer's folders
        scene.RegisterNodeClass(legend())
    for view in ("Red", "Yellow", "Green"):  # what Slicer's slice views take over: the layers that they show
        layers = slicer.vtkMRMLSliceCompositeNode()
        layers.SetSingletonTag(view)
        layers.SetLayoutName(view)
        scene.AddNode(layers)
    for name in (
        "vtkMRMLColorLogic",
        "vtkSlicerVolumesLogic",
        "vtkSlicerTransformLogic",
        "vtkSlicerMarkupsLogic",
    ):
        part = getattr(slicer, name)()
        part.SetMRMLScene(scene)
        kept.append(part)
    return kept


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("sequence_scene.py", description=__doc__.partition("\n")[0])
    parser.add_argument("result", type=Path, help="folder that sequence wrote")
    parser.add_argument("scene", type=Path, help="file to write, .mrb")
    try:
        given = parser.parse_args([a for a in arguments if a != "--"])
    except SystemExit as end:
        return int(end.code or 0)
    from ProgressiveRegistrationLib.errors import ProgressiveRegistrationError

    try:
        if given.scene.suffix != ".mrb":
            raise ProgressiveRegistrationError(f"{given.scene} must end in .mrb.")
        kept = [] if IN_SLICER else start_core()
        from ProgressiveRegistrationSlicer import sequence_scene

        nodes = sequence_scene.load_result(given.result)
        sequence_scene.save_scene(given.scene)
        print(f"{given.scene}: {nodes.browser.GetNumberOfItems()} phases")
        del nodes, kept
    except ProgressiveRegistrationError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except Exception:  # Slicer would go on and show its windows
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
