"""Reads the files it is told of and answers with one line each; its memory is limited. See test_fuzz.py."""

from __future__ import annotations

import resource
import sys
import traceback
from pathlib import Path

MOST_BYTES = 2 << 30


def read(kind: str, path: Path) -> None:
    """What the program does with a file of that kind before anything else."""
    from ProgressiveRegistrationLib import images, landmarks, transforms

    if kind == "image":
        images.read_volume(path)
    elif kind == "field":
        transforms.read_transform(path)
    else:
        landmarks.read_landmarks(path)


def main() -> None:
    from ProgressiveRegistrationLib import images, landmarks, transforms  # noqa: F401
    from ProgressiveRegistrationLib.errors import ProgressiveRegistrationError

    grown = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (grown + MOST_BYTES, grown + MOST_BYTES))
    print("ready", flush=True)
    for line in sys.stdin:
        kind, _, path = line.rstrip("\n").partition(" ")
        try:
            read(kind, Path(path))
            answer = "read"
        except ProgressiveRegistrationError as error:
            sentence = str(error)
            fine = sentence.endswith((".", "?")) and "\n" not in sentence and "Traceback" not in sentence
            answer = "refused" if fine else f"fault no sentence: {sentence!r}"
        except BaseException:
            answer = "fault " + traceback.format_exc().replace("\n", " | ")
        print(answer, flush=True)


if __name__ == "__main__":
    main()
