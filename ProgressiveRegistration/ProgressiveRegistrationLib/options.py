"""What a user says of a pair: its files, and how to register it. Each fact stands once, in a field below.

The command line, the batch's command and table, its records and the Slicer module all read these fields: a
new one, with its help, is an option of ``register`` and ``batch`` and, for a file, a column of the table.
Nothing heavy is imported here.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .errors import InputError
from .formats import FIELD_ENDINGS, IMAGE_ENDINGS, TRANSFORM_ENDINGS, listed
from .geometry import Box
from .landmarks import endings_shown
from .presets import DEFAULT, described, find_preset

PATH, TEXT, WHOLE, LABELS, ENDING, ENDINGS, BOXES, FLAG = (
    "path",
    "text",
    "whole",
    "labels",
    "ending",
    "endings",
    "boxes",
    "flag",
)

SERIES_WORDS = "series number, description, UID or its end, or TAG=VALUE (see `dicom`)"


def _field(
    kind: str, text: str, default: Any = None, flag: str | None = None, *, register: bool = False
) -> Any:
    """kind : how a user gives it. text : its help. flag : its name on the command line,
    where that is another. register : is it a keyword of ``registration.register``?"""
    about = {"kind": kind, "help": text, "flag": flag, "register": register}
    return field(metadata=about) if default is MISSING else field(default=default, metadata=about)


@dataclass(frozen=True)
class PairFiles:
    """The files of one pair, and how to read them; a batch's table has a column for each.

    ``*_columns`` choose a CSV's point sets; ``exclude_landmarks``: labels to skip.
    """

    fixed: Path = _field(PATH, "Fixed CT: .nrrd, .mha, .nii.gz or a DICOM folder.", MISSING)
    moving: Path = _field(PATH, "Moving CT.", MISSING)
    fixed_landmarks: Path | None = _field(PATH, f"{endings_shown()}.")
    moving_landmarks: Path | None = _field(PATH, "The same landmarks in the moving image.")
    fixed_columns: str | None = _field(TEXT, "Which points of a CSV with several sets: the columns' prefix.")
    moving_columns: str | None = _field(TEXT, "The same for the moving landmarks.")
    exclude_landmarks: tuple[str, ...] = _field(
        LABELS, "Leave the landmark of this label out (repeatable).", (), flag="exclude-landmark"
    )
    fixed_mask: Path | None = _field(PATH, "Lung mask of the fixed image, instead of finding the lungs.")
    moving_mask: Path | None = _field(PATH, "Lung mask of the moving image.")
    moving_labels: Path | None = _field(PATH, "Label map to warp with the moving image.")
    fixed_series: str | None = _field(TEXT, f"Which volume of the fixed DICOM folder: {SERIES_WORDS}.")
    moving_series: str | None = _field(TEXT, "The same for the moving DICOM folder.")
    fixed_frame: int | None = _field(WHOLE, "Which volume of a fixed time sequence in one file, from 0.")
    moving_frame: int | None = _field(WHOLE, "The same for the moving image.")


# Which volume of a DICOM folder or a time sequence each image is.
IMAGE_CHOICES = ("fixed_series", "moving_series", "fixed_frame", "moving_frame")


@dataclass(frozen=True)
class Options:
    """How a pair is registered and what is written; the same for all pairs of a batch."""

    preset: str = _field(TEXT, described() + ".", DEFAULT, register=True)
    model: str | None = _field(
        TEXT, "A model (see `models`), the path of its card, or none: lung boxes alone.", register=True
    )
    device: str = _field(TEXT, "auto, cpu, cuda, cuda:1 or mps.", "auto", register=True)
    lung_boxes: str | tuple[Box, Box] = _field(
        BOXES,
        "own, shared (the paper's), or x0,y0,z0,x1,y1,z1 in LPS mm (12 numbers: fixed, moving).",
        "own",
        register=True,
    )
    transform_formats: tuple[str, ...] = _field(
        ENDINGS,
        f"{listed(TRANSFORM_ENDINGS)} (transform), {listed(FIELD_ENDINGS)} (displacement field); repeatable.",
        (".h5",),
        flag="transform-format",
    )
    image_format: str = _field(ENDING, f"{listed(IMAGE_ENDINGS)} for warped images.", ".nrrd")
    inverse_consistency: bool = _field(
        FLAG, "Register the other way too, and measure how the two agree.", False
    )
    uncertainty: bool = _field(
        FLAG, "Map the error to expect in the lungs: uncertainty.nrrd, and where not to trust it.", False
    )
    report: bool = _field(FLAG, "Write report.html beside report.json.", True)

    def of_register(self) -> dict[str, Any]:
        """The keywords that ``registration.register`` has of them."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("register")}

    def the_other_way(self) -> Options:
        """The same for the moving image as the fixed one."""
        boxes = self.lung_boxes
        return self if isinstance(boxes, str) else replace(self, lung_boxes=boxes[::-1])

    def check(self) -> None:
        """InputError for an option that is not one."""
        find_preset(self.preset)
        known = (*TRANSFORM_ENDINGS, *FIELD_ENDINGS)
        for ending in self.transform_formats:
            if ending not in known:
                raise InputError(f"Transforms cannot be written as {ending}; choose {', '.join(known)}.")
        if self.image_format not in IMAGE_ENDINGS:
            raise InputError(
                f"Images cannot be written as {self.image_format}; choose {', '.join(IMAGE_ENDINGS)}."
            )


def flag_of(about: Field) -> str:
    """The field's name on the command line, without dashes before it."""
    return about.metadata["flag"] or about.name.replace("_", "-")


def needed(about: Field) -> bool:
    """Must the user give it?"""
    return about.default is MISSING


def parse(about: Field, given: Any) -> Any:
    """What was typed for a field (text, or a list of texts where it is repeatable) as the field's value.

    Raises
    ------
    InputError : lung boxes that are none, a number that is none.
    """
    kind = about.metadata["kind"]
    if given is None or given == []:
        return about.default
    if kind == PATH:
        return Path(given)
    if kind == LABELS:
        return tuple(given)
    if kind == ENDING:
        return _ending(given)
    if kind == ENDINGS:
        return tuple(dict.fromkeys(_ending(e) for e in given))
    if kind == WHOLE:
        try:
            return int(given)
        except ValueError as error:
            raise InputError(f"The {about.name} {given!r} is no whole number; give 0, 1, 2, ...") from error
    return parse_lung_boxes(given) if kind == BOXES else given


def typed(given: Any) -> Iterator[str]:
    """The words of a command line that say the same as a ``PairFiles`` or ``Options``;
    what is as by default is left out."""
    for about in fields(given):
        value = getattr(given, about.name)
        if value == about.default or "kind" not in about.metadata:  # a batch's threads are no option
            continue
        kind, flag = about.metadata["kind"], f"--{flag_of(about)}"
        if needed(about):
            yield str(value)
        elif kind == FLAG:
            yield flag if value else f"--no-{flag[2:]}"
        elif kind in (LABELS, ENDINGS):
            for each in value:
                yield from (flag, str(each))
        elif kind == BOXES and not isinstance(value, str):
            # joined by =: the first number may be negative, which looks like an option
            numbers = [v for box in value for corner in box.to_list() for v in corner]
            yield f"{flag}={','.join(f'{v:.10g}' for v in numbers)}"
        else:
            yield from (flag, str(value))


def command_line(files: PairFiles, options: Options, output: Path) -> str:
    """The command that registers this pair alone."""
    words = ["progressive-registration", "register", *typed(files), "-o", str(output), *typed(options)]
    return shlex.join(words)


def parse_lung_boxes(text: str) -> str | tuple[Box, Box]:
    """``own``, ``shared``, or x0,y0,z0,x1,y1,z1 (LPS mm) for both images, or twelve: fixed, moving."""
    if text in ("own", "shared"):
        return text
    try:
        numbers = [float(v) for v in text.replace(";", ",").split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (6, 12):
        raise InputError(
            f"Lung boxes {text} cannot be used; give own, shared, or x0,y0,z0,x1,y1,z1 in LPS mm "
            "(twelve numbers: fixed box, moving box)."
        )
    corners = [tuple(numbers[i : i + 3]) for i in range(0, len(numbers), 3)]
    boxes = [Box(*corners[i : i + 2]) for i in range(0, len(corners), 2)]
    return boxes[0], boxes[-1]


def _ending(text: str) -> str:
    return text if text.startswith(".") else f".{text}"
