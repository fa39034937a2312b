"""Lung CT registration with a progressively trained network (Eppenhof et al., IEEE TMI 2020).

The engine imports neither ``slicer`` nor ``qt``, and nothing heavy until it is used.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

# Threads of torch that wait shall sleep: on a machine that does other work too, waiting ones that spin make
# a refinement ten times slower and burn as much. OpenMP reads it once, when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"

_HOMES = {
    "register": "registration",
    "Registration": "registration",
    "DisplacementField": "field",
    "Grid": "geometry",
    "Box": "geometry",
    "breathing_thorax": "phantom.pair",
    "read_image": "images",
    "load_model": "network.model",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
