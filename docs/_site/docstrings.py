"""Turns the sections of our docstrings (``name : text``) into Markdown lists, for the API pages."""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTIONS = ("Parameters", "Attributes", "Returns", "Raises", "Examples")
NAMED = re.compile(r"([\w*., ]+) : (.*)")


def as_markdown(text: str) -> str:
    """A docstring as Markdown: sections become bold titles and lists, examples become code."""
    out: list[str] = []
    lines = text.split("\n")
    section, example = None, False
    for n, line in enumerate(lines):
        if line.strip() in SECTIONS and n + 1 < len(lines) and set(lines[n + 1].strip()) == {"-"}:
            section = line.strip()
            out += ["", f"**{section}**", ""]
            continue
        if section and set(line.strip()) == {"-"}:
            continue
        if line.lstrip().startswith(">>>") and not example:
            example = True
            out.append("```pycon")
        elif example and not line.strip():
            example = False
            out.append("```")
        named = NAMED.fullmatch(line) if section in ("Parameters", "Attributes", "Raises") else None
        if not example and named:
            out.append(f"- **{named[1].strip().replace('*', chr(92) + '*')}**: {named[2]}")
        else:
            out.append(line)
    if example:
        out.append("```")
    return "\n".join(out)


class Docstrings(griffe.Extension):
    """Applied to everything that griffe reads."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
