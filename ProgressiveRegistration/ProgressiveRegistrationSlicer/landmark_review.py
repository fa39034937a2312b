"""Landmarks for one's own patient: suggested by the engine, looked at and decided one by one by a person.

Suggested points and their partners go into the two lists at once, but do not count: a point counts for the
landmark error only when a person has accepted it. What was suggested, and what became of it, is kept in the
control points' descriptions (and so in .mrk.json files) and in an attribute of the moving list.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import slicer
import vtk
from ProgressiveRegistrationLib.errors import InputError

from . import mrml
from .i18n import _
from .mrml_landmarks import SUGGESTED, landmarks_from_node, match
from .session import check_pair, lung_mask, lung_region

ACCEPTED = "accepted"  # description of a point that a person has agreed to
ATTRIBUTE = "ProgressiveRegistration.Suggestions"  # label: [R, A, S, correlation or null] of the moving list
MOVED_MM = 0.1  # a point further than this from its suggestion was moved by hand


class Suggestion:
    """Landmarks suggested for a pair of volumes, and their partners where a transform leads.

    Made on the main thread; ``compute`` may run in any; ``finish`` on the main thread again.

    Parameters
    ----------
    fixed, moving : the volumes. transform : the transform between them, or None: as they lie.
    count : how many at most. region, segment : where the fixed lungs are, if the user said so.
    """

    def __init__(self, fixed, moving, transform=None, *, count: int = 30, region=None, segment="") -> None:
        if transform is None:
            check_pair(fixed, moving)
        self._fixed = mrml.image_from_volume(fixed)
        self._moving = mrml.image_from_volume(moving, without=transform)
        self._map = mrml.point_map(transform) if transform is not None else None
        self._region = lung_region(region, segment)
        self._name, self._count = fixed.GetName(), count

    def compute(self, progress: Callable | None = None, cancelled: Callable | None = None) -> dict:
        """The suggested ``Landmarks`` and their ``Partners``, world LPS mm."""
        from ProgressiveRegistrationLib.lungs import find_lungs
        from ProgressiveRegistrationLib.suggest import find_partners, suggest_landmarks

        tell = progress or (lambda *_: None)
        tell("lungs", 0.05, "finding the lungs")
        mask = find_lungs(self._fixed, mask=lung_mask(self._region, self._fixed), name=self._name).mask
        tell("suggesting", 0.3, "looking for distinct points")
        found = suggest_landmarks(self._fixed, mask, self._count, cancelled=cancelled)
        tell("matching", 0.7, "looking for their partners")
        predicted = found.points if self._map is None else self._map(found.points)
        partners = find_partners(self._fixed, self._moving, found.points, predicted, cancelled=cancelled)
        tell("done", 1.0, "done")
        return {"landmarks": found, "partners": partners}

    def finish(self, computed: dict, fixed_list, moving_list, transform=None) -> list[str]:
        """Put the suggestions into the two lists, after what is there; returns their labels."""
        found, partners = computed["landmarks"], computed["partners"]
        used = {
            node.GetNthControlPointLabel(i)
            for node in (fixed_list, moving_list)
            for i in range(node.GetNumberOfControlPoints())
        }
        names = _unused(used, len(found))
        known = suggestions(moving_list)
        to_fixed, to_moving = _from_world(fixed_list, None), _from_world(moving_list, transform)
        for n, name in enumerate(names):
            _add(fixed_list, name, to_fixed(found.points[n]))
            place = to_moving(partners.points[n])
            _add(moving_list, name, place)
            clear = float(partners.correlation[n]) if partners.matched[n] else None
            known[name] = [*(round(float(v), 4) for v in place), clear]
        moving_list.SetAttribute(ATTRIBUTE, json.dumps(known))
        return names


def suggestions(moving_list) -> dict:
    """What was suggested in this list: label -> [R, A, S, correlation or None]; {} where nothing was."""
    text = moving_list.GetAttribute(ATTRIBUTE)
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


class Review:
    """Goes through the suggestions of two lists: ``current`` is the one to look at.

    >>> review = Review(fixed_list, moving_list)
    >>> while review.current is not None:
    ...     review.accept()
    """

    def __init__(self, fixed_list, moving_list) -> None:
        self.fixed_list, self.moving_list = fixed_list, moving_list
        self._skipped: list[str] = []

    def pending(self) -> list[str]:
        """Labels that wait for a decision, those that were skipped last."""
        waiting = [
            self.fixed_list.GetNthControlPointLabel(i)
            for i in range(self.fixed_list.GetNumberOfControlPoints())
            if self.fixed_list.GetNthControlPointDescription(i) == SUGGESTED
        ]
        waiting = [label for label in waiting if _find(self.moving_list, label) is not None]
        return sorted(waiting, key=lambda label: self._skipped.index(label) if label in self._skipped else -1)

    @property
    def current(self) -> str | None:
        waiting = self.pending()
        return waiting[0] if waiting else None

    def accept(self) -> None:
        """The current landmark counts from now on, where its two points lie now."""
        for node, i in self._points():
            node.SetNthControlPointDescription(i, ACCEPTED)
            node.SetNthControlPointSelected(i, True)

    def reject(self) -> None:
        """The current landmark goes from both lists."""
        for node, i in self._points():
            node.RemoveNthControlPoint(i)

    def skip(self) -> None:
        """Look at the current landmark later, after the others."""
        label = self.current
        if label is not None:
            self._skipped = [*[s for s in self._skipped if s != label], label]

    def places(self) -> tuple | None:
        """World RAS of the current landmark's two points as they are shown; None without one."""
        points = self._points()
        return tuple(_world(node, i) for node, i in points) if len(points) == 2 else None

    def correlation(self) -> float | None:
        """How alike the images are at the current pair, -1 to 1; None where the transform alone put it."""
        known = suggestions(self.moving_list).get(self.current)
        return known[3] if known else None

    def _points(self) -> list:
        label = self.current
        if label is None:
            return []
        return [(node, _find(node, label)) for node in (self.fixed_list, self.moving_list)]


def tally(fixed_list, moving_list) -> dict:
    """How many suggestions wait, and how the accepted ones came to lie where they do.

    ``pending``, ``accepted``; of these ``matched`` (left where the images match), ``moved`` (by hand),
    ``predicted`` (left where the transform put them: their error is 0 by construction).
    """
    known = suggestions(moving_list)
    out = dict.fromkeys(("pending", "accepted", "matched", "moved", "predicted"), 0)
    out["pending"] = len(Review(fixed_list, moving_list).pending())
    for i in range(moving_list.GetNumberOfControlPoints()):
        label = moving_list.GetNthControlPointLabel(i)
        if moving_list.GetNthControlPointDescription(i) != ACCEPTED or label not in known:
            continue
        out["accepted"] += 1
        *place, correlation = known[label]
        moved = np.linalg.norm(np.array(moving_list.GetNthControlPointPosition(i)) - place) > MOVED_MM
        out["moved" if moved else "predicted" if correlation is None else "matched"] += 1
    return out


def tally_text(counts: dict) -> str:
    """``tally`` in a sentence or two, "" where nothing was suggested."""
    parts = []
    if counts["pending"]:
        parts.append(
            _("{count} suggestions wait to be looked at and do not count yet.").format(
                count=counts["pending"]
            )
        )
    if counts["accepted"]:
        parts.append(_("Accepted: {matched} where the images match, {moved} moved by hand.").format(**counts))
    if counts["predicted"]:
        parts.append(
            _("{count} were left where the transform put them: their error is 0 by construction.").format(
                count=counts["predicted"]
            )
        )
    return " ".join(parts)


def observer_differences(first_list, second_list) -> tuple[np.ndarray, list[str], str]:
    """How far two observers' points for the same landmarks lie apart: mm (n,), labels, how they were matched.

    A registration whose landmark error is as small as this cannot be told from one that is perfect.
    """
    if first_list is second_list:
        raise InputError(_("Choose the lists of two observers: they are the same."))
    first, _index = landmarks_from_node(first_list)
    second, _index = landmarks_from_node(second_list)
    pairs, how = match(first, second)
    i, j = (np.array(column, int) for column in zip(*pairs))
    distances = np.linalg.norm(first.points[i] - second.points[j], axis=1)
    return distances, [first.labels[n] or str(n + 1) for n in i], how


def _unused(used: set, count: int) -> list[str]:
    names, n = [], 0
    while len(names) < count:
        n += 1
        if f"S{n}" not in used:
            names.append(f"S{n}")
    return names


def _add(node, label: str, ras: np.ndarray) -> None:
    i = node.AddControlPoint(vtk.vtkVector3d(*ras), label)
    node.SetNthControlPointDescription(i, SUGGESTED)
    node.SetNthControlPointSelected(i, False)


def _find(node, label: str) -> int | None:
    found = (i for i in range(node.GetNumberOfControlPoints()) if node.GetNthControlPointLabel(i) == label)
    return next(found, None)


def _world(node, i: int) -> np.ndarray:
    place = [0.0, 0.0, 0.0]
    node.GetNthControlPointPositionWorld(i, place)
    return np.array(place)


def _from_world(node, without) -> Callable[[np.ndarray], np.ndarray]:
    """World LPS, results and ``without`` left out -> the list's own RAS coordinates.

    InputError where a non-linear transform lies above the list.
    """
    back = np.linalg.inv(mrml.pose(node, without=without))

    def local(lps: np.ndarray) -> np.ndarray:
        return (back @ [*(np.asarray(lps, float) * [-1, -1, 1]), 1.0])[:3]

    return local


def visible_pair(fixed_list, moving_list) -> None:
    """Give the two lists the colours of the fusion, so that they can be told apart."""
    from .fusion import BLUE, ORANGE

    for node, colour in ((fixed_list, ORANGE), (moving_list, BLUE)):
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetSelectedColor(*colour)
        display.SetColor(1.0, 1.0, 0.2)  # suggestions: not selected
        display.SetVisibility(True)


def new_list(name: str):
    """An empty point list."""
    return slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLMarkupsFiducialNode", slicer.mrmlScene.GenerateUniqueName(name)
    )
