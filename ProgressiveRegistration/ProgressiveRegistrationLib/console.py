"""Standard output in whatever encoding the console has."""

from __future__ import annotations

import json
import sys


def print_json(text: str) -> None:
    """JSON on standard output, with JSON's own escapes where the console's encoding lacks a character."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        text = json.dumps(json.loads(text), indent=2)
    print(text.rstrip("\n"))
