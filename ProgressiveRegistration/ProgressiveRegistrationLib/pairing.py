"""Landmarks of two images that belong together: which file names which, and what was left out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .geometry import Grid
from .images import read_image
from .landmarks import Landmarks, read_landmarks
from .options import PairFiles


@dataclass(frozen=True)
class LandmarkPair:
    """Paired landmarks; ``moving`` is None where only the fixed ones were given."""

    fixed: Landmarks | None = None
    moving: Landmarks | None = None
    how: str | None = None
    notes: tuple[str, ...] | list[str] = ()

    def figures(self) -> dict[str, Any]:
        """What ``quality_figures`` wants."""
        if self.fixed is None or self.moving is None:
            return {}
        return {
            "fixed_points": self.fixed.points,
            "moving_points": self.moving.points,
            "labels": self.fixed.labels,
        }


def read_side(files: PairFiles, side: str, notes: list[str]) -> sitk.Image:
    """The "fixed" or the "moving" CT, its series and frame as chosen; ``notes`` gets what was done to it."""
    return read_image(
        getattr(files, side),
        getattr(files, f"{side}_series"),
        option=f"--{side}-series (in a batch: {side}_series)",
        frame=getattr(files, f"{side}_frame"),
        notes=notes,
    )


def read_landmark_pair(files: PairFiles, fixed: sitk.Image, moving: sitk.Image | None) -> LandmarkPair:
    """A pair's landmarks in LPS mm, matched and checked against the images (``moving`` may be unknown).

    Raises
    ------
    InputError : a file that cannot be read, the moving landmarks alone, lists that do not go together.
    """
    if files.fixed_landmarks is None:
        if files.moving_landmarks is not None:
            raise InputError(
                f"{files.moving_landmarks} was given without the fixed image's landmarks; give both files."
            )
        return LandmarkPair()
    left = _read(files.fixed_landmarks, fixed, files.fixed_columns, files)
    if files.moving_landmarks is None:
        return LandmarkPair(left, notes=outside_notes(left, fixed, "fixed image"))
    right = _read(files.moving_landmarks, moving, files.moving_columns, files)
    notes = [
        f"{landmarks.source}: {len(landmarks.undefined)} landmarks have no position and are left out."
        for landmarks in (left, right)
        if landmarks.undefined
    ]
    left, right, how = match_landmarks(left, right)
    if moving is not None:
        notes += outside_notes(right, moving, "moving image")
    return LandmarkPair(left, right, how, notes + outside_notes(left, fixed, "fixed image"))


def _read(path: Path, image: sitk.Image | None, columns: str | None, files: PairFiles) -> Landmarks:
    found = read_landmarks(path, image, columns=columns)
    return found.without(files.exclude_landmarks) if files.exclude_landmarks else found


def match_landmarks(fixed: Landmarks, moving: Landmarks) -> tuple[Landmarks, Landmarks, str]:
    """Pair two lists: by label where both files name the same ones, else by their order.

    A point that has no position in one list is left out of both. Returns (fixed, moving, ``"label"`` or
    ``"order"``) of equal length.

    Raises
    ------
    InputError : different counts, or names that agree for some landmarks but not for all.
    Examples
    --------
    >>> fixed = Landmarks([[0, 0, 0], [1, 1, 1]], ["carina", "apex"])
    >>> moving = Landmarks([[1, 1, 9], [0, 0, 8]], ["apex", "carina"])
    >>> x, y, how = match_landmarks(fixed, moving)
    >>> how, x.labels, y.points.tolist()
    ('label', ['carina', 'apex'], [[0.0, 0.0, 8.0], [1.0, 1.0, 9.0]])
    """
    counts = [len(landmarks) + len(landmarks.undefined) for landmarks in (fixed, moving)]
    labels = [set(landmarks.labels) for landmarks in (fixed, moving)]
    unique = all(len(s) == len(l) for s, l in zip(labels, (fixed, moving)))
    named = fixed.labelled and moving.labelled and unique
    odd = sorted(labels[0] ^ labels[1], key=lambda v: (len(v), v)) if named and labels[0] & labels[1] else []
    names = ", ".join(odd[:5]) + (", ..." if len(odd) > 5 else "")
    if counts[0] != counts[1]:
        raise InputError(
            f"{fixed.source} has {counts[0]} landmarks and {moving.source} has {counts[1]}"
            + (f" (only in one of them: {names})" if odd else "")
            + "; give two lists of the same landmarks."
        )
    skipped = bool(fixed.undefined or moving.undefined)
    if odd and not skipped:
        raise InputError(
            f"{fixed.source} and {moving.source} share only some labels (only in one of them: {names}); "
            "name the landmarks alike in both."
        )
    if named and labels[0] & labels[1]:
        place = {label: i for i, label in enumerate(moving.labels)}
        pairs = [(i, place[label]) for i, label in enumerate(fixed.labels) if label in place]
        how = "label"
    else:
        place = {p: i for i, p in enumerate(moving.places)}
        pairs = [(i, place[p]) for i, p in enumerate(fixed.places) if p in place]
        how = "order"
    if not pairs:
        raise InputError(f"{fixed.source} and {moving.source} have no landmark with a position in both.")
    return fixed.subset([i for i, _ in pairs]), moving.subset([j for _, j in pairs]), how


def outside_notes(landmarks: Landmarks, image: sitk.Image | Grid, name: str) -> list[str]:
    """A sentence about landmarks outside ``image``, or none; InputError when all of them are outside."""
    grid = image if isinstance(image, Grid) else Grid.from_image(image)
    outside = np.flatnonzero(~grid.contains(landmarks.points))
    if not len(outside):
        return []
    if len(outside) == len(landmarks):
        raise InputError(
            f"All {len(landmarks)} landmarks of {landmarks.source} lie outside the {name}; "
            "check that they belong to it and are in its frame (LPS or RAS, mm)."
        )
    names = ", ".join(landmarks.labels[i] for i in outside[:5]) + (", ..." if len(outside) > 5 else "")
    return [
        f"{len(outside)} of {len(landmarks)} landmarks of {landmarks.source} lie outside the {name}: {names}."
    ]
