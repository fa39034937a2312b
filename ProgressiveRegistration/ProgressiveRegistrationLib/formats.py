"""The image and transform formats that are written, and what the files of a registration are called."""

from __future__ import annotations

from pathlib import Path

from .errors import OutputError

TRANSFORM_ENDINGS = (".h5", ".tfm")
FIELD_ENDINGS = (".nrrd", ".nii.gz", ".mha")
READ_FIELD_ENDINGS = (*FIELD_ENDINGS, ".nii")
IMAGE_ENDINGS = (".nrrd", ".nii.gz", ".mha")

# What a registration's folder gets, without endings.
TRANSFORM, FIELD = "transform", "displacement"
WARPED, WARPED_LABELS, WARPED_LANDMARKS = "warped", "warped_labels", "warped_landmarks"
REPORT = "report"
REPORT_JSON, REPORT_PAGE = f"{REPORT}.json", f"{REPORT}.html"
UNCERTAINTY = "uncertainty"


def transform_file(ending: str, name: str | None = None) -> str:
    """The transform's file name; ``name``: what the user calls it, without ending."""
    return (name or (TRANSFORM if ending in TRANSFORM_ENDINGS else FIELD)) + ending


def transform_ending(path: Path) -> str:
    """The format of a transform's file name; raises OutputError when it is none that is written."""
    known = (*READ_FIELD_ENDINGS, *TRANSFORM_ENDINGS)
    for ending in known:
        if path.name.lower().endswith(ending):
            return ending
    raise OutputError(
        f"{path} has no transform's ending; use one of "
        f"{', '.join((*TRANSFORM_ENDINGS, *READ_FIELD_ENDINGS))}."
    )


def listed(endings: tuple[str, ...]) -> str:
    """``.nrrd, .nii.gz or .mha``"""
    return " or ".join(filter(None, (", ".join(endings[:-1]), endings[-1])))
