"""Run the unmodified Slicer module on slicer-core: the real MRML, without the desktop application.

slicer-core (PyPI) brings Slicer's C++ scene, nodes, logics, readers and ``slicer.util``. What it lacks is
supplied here: the application object, the scripted-module base classes, the parameter node wrapper, Sample
Data, slice views (real slice logics and displayable managers, rendered off screen), and ``qt``/``ctk``/qMRML
widgets in PythonQt's style over PySide6. The stand-ins are at least as strict as what they replace, so that
what passes here is not news there.

    import slicer_harness
    slicer_harness.install()
    module = slicer_harness.load_module(".../ProgressiveRegistration.py")
    widget = slicer_harness.open_module(module)
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
MODULE_FILE = REPOSITORY / "ProgressiveRegistration" / "ProgressiveRegistration.py"


def install():
    """Make ``slicer``, ``qt``, ``ctk`` and ``SampleData`` look like the application's; returns the scene.

    Call it again as often as you like; inside the real application it does nothing.
    """
    import slicer

    if getattr(slicer, "app", None) is not None:
        return slicer.mrmlScene
    if "ProgressiveRegistrationSlicer.i18n" in sys.modules:
        raise RuntimeError(
            "Install the harness before the module's packages are imported: they keep no language."
        )
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from . import (
        application,
        mrml_widgets,
        parameter_node,
        pythonqt,
        sample_data,
        scripted_module,
        translation,
    )

    slicer.modules = python_module("slicer.modules")
    slicer.moduleNames = python_module("slicer.moduleNames")
    slicer.app = application.Application(pythonqt.application())
    scene = slicer.app.make_scene()
    pythonqt.install()
    mrml_widgets.install()
    python_module("slicer.i18n", tr=translation.tr, translate=translation.translate)
    python_module("slicer.ScriptedLoadableModule", **scripted_module.exported())
    python_module("slicer.parameterNodeWrapper", **parameter_node.exported())
    sys.modules["SampleData"] = sample_data.python_module()
    return scene


def python_module(name: str, **attributes) -> types.ModuleType:
    """A module made of ``attributes``, importable as ``name`` and an attribute of its parent."""
    import slicer

    module = types.ModuleType(name)
    module.__dict__.update(attributes)
    sys.modules[name] = module
    if name.startswith("slicer."):
        setattr(slicer, name.split(".")[1], module)
    return module


def load_module(path=MODULE_FILE):
    """Import a scripted module's file as the application does at start-up; returns the Python module."""
    import slicer

    from .application import Module

    path = Path(path)
    name = path.stem
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    description = Module(name, path=str(path))
    setattr(slicer.modules, name.lower(), description)
    setattr(slicer.moduleNames, name, name)
    setattr(slicer.modules, name + "Instance", getattr(module, name)(description))
    slicer.app.emit("startupCompleted()")
    return module


def open_module(module):
    """A click on the module's name: build its panel and enter it; returns the Widget object."""
    import qt
    import slicer

    name = module.__name__
    panel = slicer.qMRMLWidget()
    panel.setObjectName(name + "Panel")
    panel.isEntered = True
    panel.setLayout(qt.QVBoxLayout())
    panel.setMRMLScene(slicer.mrmlScene)
    widget = getattr(module, name + "Widget")(panel)
    setattr(slicer.modules, name + "Widget", widget)
    widget.setup()
    widget.enter()
    return widget


def close_module(widget) -> None:
    """Leave the module and unload it, as the application does when it quits."""
    widget.parent.isEntered = False
    widget.exit()
    widget.cleanup()
    widget.parent.hide()
    widget.parent.deleteLater()


def process_events_until(condition, seconds: float = 60.0) -> bool:
    """Run the event loop until ``condition()`` holds or ``seconds`` have passed; returns the condition."""
    import time

    import slicer

    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        slicer.app.processEvents()
        time.sleep(0.005)
    return True
