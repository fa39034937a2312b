"""Lung CT registration with a progressively trained network (Eppenhof et al., IEEE TMI 2020).

The engine imports neither ``slicer`` nor ``qt``, and nothing heavy until it is used.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

# Threads that wait shall sleep: on a machine that does other work too, waiting ones of torch that spin make
# a refinement ten times slower and burn as much; numpy's burnt a fifth of a registration's CPU seconds.
# Both are read once, when torch and numpy are first imported. (2^4 turns before a thread of numpy's sleeps.)
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

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
