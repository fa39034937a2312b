"""Refuse what the real classes lack: the tables in ``api/`` say what Qt, CTK and Slicer give to Python.

``api/*.json`` holds facts looked up in the public headers and documentation, by hand: class -> base,
properties with their types, methods (slots, invokables, and for Qt's own classes public methods) with the
types of their arguments or null where overloads differ, signals with their signatures, enumerators. Only
what Qt 5.15 and Qt 6 share is listed, since Slicer is built with either. ``python.json`` has the Python
functions of Slicer with the version that first had them.

The rules are PythonQt's: a property is read and set as an attribute and not called; a method is called; no
new attribute can be made on an object of C++; a property takes values of its own type, and text is never
None; a signal is connected by its full signature. They apply to calls from the module's own files
(``ProgressiveRegistration/``): the stand-ins and the tests may use PySide6 as it is.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path

API = Path(__file__).parent / "api"
MODULE = str(Path(__file__).resolve().parents[2] / "ProgressiveRegistration") + "/"
# What Qt itself looks up on a Python object, to see whether it was overridden there.
VIRTUAL = {
    "event",
    "eventFilter",
    "metaObject",
    "sizeHint",
    "minimumSizeHint",
    "heightForWidth",
    "hasHeightForWidth",
    "paintEngine",
    "devType",
    "metric",
    "redirected",
    "sharedPainter",
    "initPainter",
    "focusNextPrevChild",
    "inputMethodQuery",
    "hitButton",
    "nextCheckState",
    "checkStateSet",
    "initStyleOption",
    "connectNotify",
    "disconnectNotify",
    "setVisible",
    "resizeColumnToContents",
    "sizeHintForColumn",
    "sizeHintForRow",
    "model",
}
TYPES = {"str": str, "bool": (bool, int), "int": (int, float), "float": (int, float), "list": (list, tuple)}


@cache
def tables() -> dict:
    """Class -> its facts, with ``base``."""
    out: dict = {}
    for name in ("qt", "ctk", "slicer_widgets"):
        out.update(json.loads((API / f"{name}.json").read_text(encoding="utf-8")))
    return out


@cache
def facts(kind: str) -> dict | None:
    """All that a class has, with what it inherits; None for a class that no table knows."""
    table = tables().get(kind)
    if table is None:
        return None
    out = {"properties": {}, "methods": {}, "signals": set(), "enums": set(), "static": set()}
    base = facts(table["base"]) if "base" in table else None
    for part in (base, table):
        if part is not None:
            out["properties"].update(part.get("properties", {}))
            out["methods"].update(part.get("methods", {}))
            for key in ("signals", "enums", "static"):
                out[key] |= set(part.get(key, ()))
    out["signal names"] = {signature.split("(")[0] for signature in out["signals"]}
    return out


def kind_of(obj) -> str | None:
    """The nearest class of an object that a table knows."""
    return next((cls.__name__ for cls in type(obj).__mro__ if cls.__name__ in tables()), None)


def asked_by_the_module(depth: int = 2) -> bool:
    """Is the caller (``depth`` frames up) one of the module's own files?"""
    if sys is None or sys.is_finalizing():
        return False
    return sys._getframe(depth).f_code.co_filename.startswith(MODULE)


def check_read(obj, name: str) -> None:
    """AttributeError unless the real class has ``name``."""
    if name in VIRTUAL or name.endswith("Event") or name.startswith("__"):
        return
    kind = kind_of(obj)
    if kind is None:
        raise AttributeError(f"{type(obj).__name__}: no table in Testing/slicer_harness/api knows this class")
    known = facts(kind)
    if name in ("name", "connect", "disconnect", "className", "delete") or name in obj.__dict__:
        return
    if not (name in known["properties"] or name in known["methods"] or name in known["signal names"]):
        raise AttributeError(
            f"{kind} has no attribute named '{name}' in Slicer (see Testing/slicer_harness/api)"
        )


def check_set(obj, name: str, value) -> None:
    """AttributeError unless ``name`` is a property of the real class and takes this value."""
    kind = kind_of(obj)
    known = facts(kind) if kind is not None else None
    if known is None or name == "name":
        return
    if name not in known["properties"]:
        raise AttributeError(
            f"'{name}' does not exist on {kind} and creating new attributes on C++ objects is not allowed"
        )
    wanted = TYPES.get(known["properties"][name])
    if value is None or (wanted is not None and not isinstance(value, wanted)):
        raise AttributeError(
            f"Property '{name}' of {kind} does not accept an object of type {type(value).__name__}: {value!r}"
        )


def check_signal(obj, signature: str) -> None:
    """ValueError unless the real class has a signal of exactly this signature."""
    kind = kind_of(obj)
    if kind is None or signature not in facts(kind)["signals"]:
        raise ValueError(f"{kind or type(obj).__name__} has no signal {signature}")


def checked(obj, name: str, method):
    """``method`` with its arguments compared with the table, and what it returns under the same rules."""
    wanted = facts(kind_of(obj))["methods"].get(name)

    def call(*arguments, **more):
        if wanted is not None:
            if more or len(arguments) != len(wanted):
                raise ValueError(
                    f"{name} takes {len(wanted)} arguments without names, {len(arguments)} given"
                )
            for value, kind in zip(arguments, wanted):
                if kind in TYPES and not isinstance(value, TYPES[kind]):
                    raise ValueError(f"{name}: {value!r} is not a {kind}")
        return guarded(method(*map(bare, arguments), **more))

    return call


class Guarded:
    """An object that Qt itself made, under the same rules: PySide6 hands it out in its own style."""

    def __init__(self, obj) -> None:
        self.__dict__["_bare"] = obj

    def __getattr__(self, name):
        obj = self.__dict__["_bare"]
        check_read(obj, name)
        if name in facts(kind_of(obj))["properties"]:
            return guarded(obj.property(name))
        return checked(obj, name, getattr(obj, name))

    def __setattr__(self, name, value):
        obj = self.__dict__["_bare"]
        check_set(obj, name, value)
        obj.setProperty(name, value)


def guarded(value):
    """``value``, or a guard around it where it is a QObject in PySide6's own style."""
    from PySide6.QtCore import QObject

    from .pythonqt import PythonQtStyle

    plain = isinstance(value, QObject) and not isinstance(value, PythonQtStyle)
    return Guarded(value) if plain and kind_of(value) is not None else value


def bare(value):
    return value.__dict__["_bare"] if isinstance(value, Guarded) else value
