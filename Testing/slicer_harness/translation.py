"""``slicer.i18n``: a text's context is the package and file that asks for its translation, as in Slicer."""

from __future__ import annotations

import sys
from pathlib import Path

import slicer

_contexts: dict = {}


def translate(context: str, text: str) -> str:
    return slicer.app.translate(context, text)


def tr(text: str) -> str:
    file = sys._getframe(1).f_code.co_filename
    if file not in _contexts:
        path = Path(file)
        package = f"{path.parent.name}." if (path.parent / "__init__.py").is_file() else ""
        _contexts[file] = package + path.stem
    return translate(_contexts[file], text)
