"""What one user works on: a pair in the MRML scene, its landmarks, and what the registration left there.

Knows neither the page nor the server. Everything here belongs on the main thread, but for what ``compute``
methods of the objects it hands out do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from ProgressiveRegistrationLib.errors import InputError, ProgressiveRegistrationError
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.landmarks import Landmarks
from ProgressiveRegistrationSlicer import mrml, mrml_landmarks, sample_data
from ProgressiveRegistrationSlicer.measuring import Measurement
from ProgressiveRegistrationSlicer.session import SceneRegistration, SceneResult
from ProgressiveRegistrationSlicer.surfaces import lung_surface, show_surface
from ProgressiveRegistrationSlicer.trust import TrustMap, state_of

COLOURS = {"fixed": (1.0, 0.6, 0.2), "moving": (0.2, 0.6, 1.0)}
POINT_MM = 4.0
LEAST_RANGE_MM = 5.0  # of the landmark errors' colours
POINT_EVENTS = (
    slicer.vtkMRMLMarkupsNode.PointModifiedEvent,
    slicer.vtkMRMLMarkupsNode.PointAddedEvent,
    slicer.vtkMRMLMarkupsNode.PointRemovedEvent,
)
SIDES = ("fixed", "moving")


class Workplace:
    """The pair, by side ("fixed", "moving"); ``changed`` is called when landmark errors may differ."""

    def __init__(self, changed: Callable = lambda: None) -> None:
        self.changed = changed
        self.volumes: dict = dict.fromkeys(SIDES)
        self.points: dict = dict.fromkeys(SIDES)
        self.masks: dict = dict.fromkeys(SIDES)
        self.grids: dict = dict.fromkeys(SIDES)  # of the volumes, for landmarks that count voxels
        self.result: SceneResult | None = None
        self._trust = TrustMap()
        self._models: list[str] = []
        self._vectors = None

    # ---- inputs

    def put_volume(self, side: str, image: sitk.Image, name: str):
        """A new volume for a side, on the image's own memory; what was registered before goes."""
        self.forget_result()
        self._remove(self.volumes[side])
        node = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLScalarVolumeNode", slicer.mrmlScene.GenerateUniqueName(name)
        )
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAutoWindowLevel(False)  # else all voxels are looked at for it
        mrml.update_volume(node, image, voxels=mrml.vtk_voxels(image, share=True))
        self.volumes[side], self.grids[side] = node, Grid.from_image(image)
        return node

    def put_points(self, side: str, landmarks: Landmarks, name: str):
        """A new landmark list for a side."""
        node = self._new_points(side, name)
        mrml_landmarks.landmarks_to_node(landmarks, node)
        self._place_points(side)
        self.changed()
        return node

    def put_mask(self, side: str, image: sitk.Image, name: str):
        """Where the lungs of a side are, instead of finding them."""
        self._remove(self.masks[side])
        node = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLLabelMapVolumeNode", slicer.mrmlScene.GenerateUniqueName(name)
        )
        mrml.update_volume(node, sitk.Cast(image != 0, sitk.sitkUInt8))
        self.masks[side] = node
        return node

    def put_example(self, pair) -> None:
        """The breathing thorax, instead of all that was there."""
        self.clear()
        fixed, moving, fixed_points, moving_points = sample_data.add_to_scene(pair)
        self.volumes = {"fixed": fixed, "moving": moving}
        self.grids = {"fixed": Grid.from_image(pair.fixed), "moving": Grid.from_image(pair.moving)}
        for side, node in (("fixed", fixed_points), ("moving", moving_points)):
            self.points[side] = node
            self._prepare_points(side)
        self.changed()

    def remove(self, side: str, kind: str) -> None:
        """Take away a side's "volume", "points" or "mask"."""
        if kind == "volume":
            self.forget_result()
            self.grids[side] = None
        nodes = {"volume": self.volumes, "points": self.points, "mask": self.masks}[kind]
        self._remove(nodes[side])
        nodes[side] = None
        self.changed()

    def clear(self) -> None:
        """Nothing is chosen any more."""
        for side in SIDES:
            for kind in ("points", "mask", "volume"):
                self.remove(side, kind)

    def _new_points(self, side: str, name: str):
        self._remove(self.points[side])
        node = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLMarkupsFiducialNode", slicer.mrmlScene.GenerateUniqueName(name)
        )
        self.points[side] = node
        self._prepare_points(side)
        return node

    def _prepare_points(self, side: str) -> None:
        node = self.points[side]
        node.CreateDefaultDisplayNodes()
        node.SetLocked(True)
        display = node.GetDisplayNode()
        display.SetSelectedColor(*COLOURS[side])
        display.SetColor(*COLOURS[side])
        display.SetActiveColor(*COLOURS[side])
        display.SetPointLabelsVisibility(False)
        display.SetUseGlyphScale(False)
        display.SetGlyphSize(POINT_MM)
        for event in (*POINT_EVENTS, slicer.vtkMRMLTransformableNode.TransformModifiedEvent):
            node.AddObserver(event, lambda *_: self.changed())

    def _place_points(self, side: str) -> None:
        """Moving landmarks lie under the result, as the moving volume does."""
        if side == "moving" and self.result is not None and self.result.transform is not None:
            mrml.place_under(self.points[side], self.result.transform)

    @staticmethod
    def _remove(node) -> None:
        if node is not None:
            slicer.mrmlScene.RemoveNode(node)

    # ---- registration

    def session(self, **options) -> WebRegistration:
        """The pair's registration with ``SceneRegistration``'s options; InputError where it cannot start."""
        return WebRegistration(
            self.volumes["fixed"],
            self.volumes["moving"],
            fixed_region=self.masks["fixed"],
            moving_region=self.masks["moving"],
            fixed_landmarks=[self.points["fixed"]],
            moving_landmarks=[self.points["moving"]],
            **options,
        )

    def finish(self, session: WebRegistration, computed: dict) -> SceneResult:
        """Put the computed result into the scene, in place of an earlier one."""
        self.forget_result()
        self.result = session.finish(computed)
        surface = computed.get("surface")
        if surface is not None and surface.GetNumberOfPoints():
            self._models.append(show_surface(surface, "Lungs").GetID())
        self.changed()
        return self.result

    def forget_result(self) -> None:
        """Take the latest result back out of the scene."""
        if self.result is None:
            return
        self.result.undo()
        self.result = None
        self._trust.forget()
        for identifier in [*self._models, self._vectors and self._vectors.GetID()]:
            if identifier:
                self._remove(slicer.mrmlScene.GetNodeByID(identifier))
        self._models, self._vectors = [], None
        self.changed()

    # ---- landmarks

    @property
    def transform(self):
        return None if self.result is None else self.result.transform

    @property
    def registration(self):
        """The engine's ``Registration`` that made the transform, or None."""
        return None if self.result is None else self.result.registration

    def errors(self):
        """(``LandmarkErrors`` or None, a sentence why there are none or "")."""
        fixed, moving = self.points["fixed"], self.points["moving"]
        if fixed is None or moving is None:
            return None, ""
        try:
            return mrml_landmarks.landmark_errors(fixed, moving, self.transform), ""
        except ProgressiveRegistrationError as error:
            return None, str(error)

    def show_vectors(self, errors) -> float | None:
        """Draw the landmarks' errors in 3D and in the slices; returns mm at the colours' end, or None."""
        seen = errors is not None and self.result is not None
        for node in self.points.values():
            if node is not None:
                node.GetDisplayNode().SetVisibility3D(not seen)  # the vectors show them there
        if not seen:
            self._remove(self._vectors)
            self._vectors = None
            return None
        if self._vectors is None:
            self._vectors = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "Landmark errors")
        mrml_landmarks.update_error_model(errors, self._vectors)
        largest = max(LEAST_RANGE_MM, float(np.ceil(errors.after.max())))  # a whole number on the colour bar
        mrml_landmarks.show_error_model(self._vectors, largest)
        return largest

    def lock_points(self, locked: bool) -> None:
        """May points be dragged in the views?"""
        for node in self.points.values():
            if node is not None:
                node.SetLocked(locked)

    def add_point(self, side: str, ras) -> str:
        """A new landmark where it is seen (world RAS mm); returns its label.

        It takes the label of a landmark that the other list has and this one lacks, else a new number.
        """
        if self.volumes[side] is None:
            raise InputError(f"Choose the {side} image before you place landmarks in it.")
        node = self.points[side]
        if node is None:
            node = self._new_points(side, f"{side.capitalize()} landmarks")
            self._place_points(side)
        other = self.points["moving" if side == "fixed" else "fixed"]
        own, others = labels_of(node), labels_of(other)
        label = next((name for name in others if name not in own), None)
        if label is None:
            number = 1
            while str(number) in own or str(number) in others:
                number += 1
            label = str(number)
        node.AddControlPointWorld(vtk.vtkVector3d(*ras), label)
        return label

    def move_point(self, side: str, label: str, ras) -> None:
        """Put a landmark where it shall be seen (world RAS mm)."""
        node = self.points[side]
        self._index(side, label)
        node.SetNthControlPointPositionWorld(self._index(side, label), *map(float, ras))

    def remove_point(self, label: str) -> None:
        """Take a landmark out of both lists."""
        for side in SIDES:
            names = labels_of(self.points[side])
            if label in names:
                self.points[side].RemoveNthControlPoint(names.index(label))

    def labels(self) -> set[str]:
        """The labels of both lists."""
        return set(labels_of(self.points["fixed"])) | set(labels_of(self.points["moving"]))

    def _index(self, side: str, label: str) -> int:
        names = labels_of(self.points[side])
        if label not in names:
            raise InputError(f"There is no {side} landmark {label} any more.")
        return names.index(label)

    def shown_at(self, side: str, label: str) -> np.ndarray:
        """(3,) world RAS mm: where a landmark is seen now."""
        out = [0.0, 0.0, 0.0]
        self.points[side].GetNthControlPointPositionWorld(self._index(side, label), out)
        return np.array(out)

    # ---- results

    def measurement(self) -> Measurement:
        """Of what is in the scene now, for the report and the expected error."""
        if self.result is None:
            raise InputError("Register first: there is nothing to report yet.")
        fixed, moving = self.volumes["fixed"], self.volumes["moving"]
        known = self.result if self.result.describes(self.transform, fixed, moving) else None
        return Measurement(
            self.transform, fixed, moving, result=known, errors=self.errors()[0], doubt=self.trust
        )

    @property
    def trust(self):
        """The engine's ``Uncertainty`` of the result, once it was kept; else None."""
        return self._trust.known(*self._judged())

    def judge(self) -> tuple[Callable, Callable]:
        """(what estimates the expected error, in any thread; what keeps it, on the main thread)."""
        judged = state_of(*self._judged())
        return self.measurement().expected_error, lambda found: self._trust.keep(found, judged)

    def _judged(self) -> tuple:
        return self.transform, self.volumes["fixed"], self.volumes["moving"]

    def moving_image(self) -> Callable[[], sitk.Image]:
        """What copies the moving volume, without the result, in any thread."""
        return mrml.volume_reader(self.volumes["moving"])

    def landmarks(self, side: str) -> Landmarks:
        """The list of a side, where its landmarks lie without the result (LPS mm)."""
        node = self.points[side]
        if node is None or not node.GetNumberOfControlPoints():
            raise InputError(f"There are no {side} landmarks.")
        return mrml_landmarks.landmarks_from_node(node)[0]


class WebRegistration(SceneRegistration):
    """A registration that also makes the lungs' surface, beside the page."""

    def compute(self, progress: Callable | None = None, cancelled: Callable | None = None) -> dict:
        computed = super().compute(progress, cancelled)
        lungs = computed["registration"].fixed_lungs
        computed["surface"] = lung_surface(lungs.mask) if lungs is not None else None
        return computed


def labels_of(node) -> list[str]:
    """The labels of a point list, in order; none of no list."""
    if node is None:
        return []
    return [node.GetNthControlPointLabel(i) for i in range(node.GetNumberOfControlPoints())]


def name_of(path: Path) -> str:
    """A volume's name from its file's: without what says the format."""
    name = path.name
    for ending in (".nii.gz", ".mrk.json", path.suffix):
        if ending and name.lower().endswith(ending.lower()):
            return name[: -len(ending)] or name
    return name
