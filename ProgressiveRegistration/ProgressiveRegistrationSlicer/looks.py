"""Words and colours that stay readable: long names wrap, red and green suit a light and a dark window."""

from __future__ import annotations

import re

import qt

# (on a light window, on a dark one); each at least 4.5 to 1 against the usual backgrounds
PROBLEM = ("#b71c1c", "#ff8a80")
GOOD = ("#1b5e20", "#81c784")
BAD = ("#b71c1c", "#ff8a80")


def is_dark(widget) -> bool:
    """Does the widget's window have light text on a dark ground?"""
    return widget.palette.color(qt.QPalette.Window).lightness() < 128


def colour(pair: tuple, widget) -> str:
    """The one of a pair that suits the widget's window."""
    return pair[is_dark(widget)]


def breakable(text: str) -> str:
    """Text whose long words (names of nodes and files) may wrap: after _ . / and every 40 letters."""
    zero = "\u200b"

    def broken(word: re.Match) -> str:
        parts = re.sub(r"([_./\\])", r"\1" + zero, word.group())
        return re.sub(r"([^" + zero + r"]{40})(?=[^" + zero + r"])", r"\1" + zero, parts)

    return re.sub(r"[^\s<>&;]{20,}", broken, text)
