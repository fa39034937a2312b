"""One registration of a scene's nodes in three steps: read the scene, compute, change the scene.

Only ``SceneRegistration.compute`` may run off the main thread; it touches no node. Until ``finish`` the scene
is as it was, so cancelling is doing nothing; what ``finish`` did, ``SceneResult.undo`` takes back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import slicer
from ProgressiveRegistrationLib.errors import InputError, NoLungError
from ProgressiveRegistrationLib.options import Options

from ProgressiveRegistrationSlicer import mrml, run_log

from .i18n import _


@dataclass
class SceneResult:
    """What a registration left in the scene, and what is known about it.

    Attributes
    ----------
    transform, warped, jacobian, bspline : nodes, or None where that output was not asked for.
    hardened : copies of the moving volume and its landmarks with the transform applied for good.
    fixed_id, moving_id : IDs of the volumes.
    registration : the engine's ``Registration``.
    figures : the engine's quality figures (without landmarks).
    notes : sentences for the user.
    doubt : the engine's ``Uncertainty``, where the options asked for it.
    """

    transform: Any = None
    warped: Any = None
    jacobian: Any = None
    bspline: Any = None
    hardened: list = field(default_factory=list)
    fixed_id: str = ""
    moving_id: str = ""
    registration: Any = None
    figures: dict = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    doubt: Any = None
    _undo: list[Callable] = field(default_factory=list, repr=False)
    _written: Any = field(default=None, repr=False)

    @property
    def can_undo(self) -> bool:
        return bool(self._undo)

    def describes(self, transform, fixed, moving) -> bool:
        """Is ``registration`` still what this transform node does for these volumes?

        Not when another registration wrote to the node, nor when it was edited or put under a transform.
        """
        return (
            transform is not None
            and transform is self.transform
            and transform.GetParentTransformNode() is None
            and content_of(transform) == self._written
            and slicer.mrmlScene.GetNodeByID(self.fixed_id) is fixed
            and slicer.mrmlScene.GetNodeByID(self.moving_id) is moving
        )

    def undo(self) -> None:
        """Put the scene back: nodes that were added go, nodes that were changed get back what they held."""
        while self._undo:
            self._undo.pop()()


class SceneRegistration:
    """A pair of volume nodes to register.

    Parameters
    ----------
    fixed, moving : scalar volume nodes; linear parents are part of their geometry.
    transform, warped, jacobian, bspline : True for a new node, a node to be overwritten, or None/False for
        not wanted.
    hardened : make copies of the moving volume and landmarks with the transform applied?
    initial_transform : a transform node to start from, in place of the lungs' positions: the one that the
        moving volume would be under.
    fixed_region, moving_region : segmentation, label map or ROI node that says where the lungs are;
    ``*_segment`` the
        ID of one segment.
    options : the engine's ``Options``, as the command line and a batch have them; of these, what files look
        like is of no use here. Each field can be given by its name, too: ``preset="fast"``.
    moving_landmarks : point lists that go under the transform with the moving volume.
    fixed_landmarks : point lists that are taken out of earlier results with the fixed volume (roles swapped).
    place : put the moving volume and landmarks under the transform?
    register : replaces the engine's function in tests.

    Raises
    ------
    InputError : a node cannot be used; the sentence says which and what to do.
    """

    def __init__(
        self,
        fixed,
        moving,
        *,
        transform=True,
        warped=None,
        jacobian=None,
        bspline=None,
        hardened: bool = False,
        initial_transform=None,
        fixed_region=None,
        moving_region=None,
        fixed_segment: str = "",
        moving_segment: str = "",
        options: Options | None = None,
        moving_landmarks=(),
        fixed_landmarks=(),
        place: bool = True,
        register: Callable | None = None,
        **by_name,
    ) -> None:
        check_pair(fixed, moving)
        self._options = chosen_options(options, by_name)
        outputs = {"transform": transform, "warped": warped, "jacobian": jacobian, "bspline": bspline}
        self._outputs = {
            name: node for name, node in outputs.items() if node is not None and node is not False
        }
        self._hardened = hardened
        if not self._outputs and not hardened:
            raise InputError(
                _("Nothing would be kept: ask for a transform, a registered volume or a Jacobian volume.")
            )
        for node in self._outputs.values():
            if node is fixed or node is moving:
                raise InputError(
                    _("{name} is an input: choose another node for the output.").format(name=node.GetName())
                )
        self.fixed_id, self.moving_id = fixed.GetID(), moving.GetID()
        self._names = fixed.GetName(), moving.GetName()
        self._landmark_ids, self._fixed_landmark_ids = (
            [node.GetID() for node in lists if node is not None]
            for lists in (moving_landmarks, fixed_landmarks)
        )
        self._place = place
        self._register = register
        self._dense = None
        if transform not in (True, None, False):
            if transform.IsA("vtkMRMLLinearTransformNode") or transform.IsA("vtkMRMLBSplineTransformNode"):
                raise InputError(
                    _("{name} cannot hold a displacement field: choose a grid transform.").format(
                        name=transform.GetName()
                    )
                )
            self._dense = True if transform.IsA("vtkMRMLGridTransformNode") else None
        self._read_fixed, self._read_moving = mrml.volume_reader(fixed), mrml.volume_reader(moving)
        self._start = None
        if initial_transform is not None:
            from .initial import Start

            self._start = Start(initial_transform, fixed, moving)
            # the transform says where the lungs are: boxes of their own would undo it
            self._options = replace(self._options, lung_boxes="shared")
        self._regions = [
            lung_region(node, segment)
            for node, segment in ((fixed_region, fixed_segment), (moving_region, moving_segment))
        ]

    def compute(self, progress: Callable | None = None, cancelled: Callable | None = None) -> dict:
        """What takes time; in any thread. ``progress(stage, fraction, text)``, ``cancelled() -> bool``."""
        tell = progress or (lambda *_: None)
        register = self._register
        if register is None:
            tell("loading", 0.0, "loading PyTorch and the network")
            from ProgressiveRegistrationLib.registration import register
        from ProgressiveRegistrationLib.errors import Cancelled
        from ProgressiveRegistrationLib.geometry import Grid
        from ProgressiveRegistrationLib.quality import inverse_consistency, quality_figures

        def stop_if_asked():
            if cancelled is not None and cancelled():
                raise Cancelled()

        images = fixed, moving = self._read_fixed(), self._read_moving()
        masks = [lung_mask(region, image) for region, image in zip(self._regions, images)]
        if self._start is not None:
            tell("start", 0.0, "applying the initial transform")
            moving = self._start.bring(moving, cancelled)
            if masks[1] is not None:
                masks[1] = self._start.bring(masks[1], cancelled)
        options = self._options
        ways = 2 if options.inverse_consistency else 1

        def one_way(order: int, given: Options):
            return register(
                *(fixed, moving)[::order],
                **dict(zip(("fixed_mask", "moving_mask"), masks[::order])),
                progress=lambda stage, done, text: tell(stage, 0.85 * ((order < 0) + done) / ways, text),
                cancelled=cancelled,
                **given.of_register(),
            )

        registration = one_way(1, options)
        stop_if_asked()
        found = registration.field
        backward = one_way(-1, options.the_other_way()).field if options.inverse_consistency else None
        if self._start is not None:
            registration = self._start.complete(registration, cancelled)
        out = {"registration": registration}
        if "transform" in self._outputs or self._hardened:
            tell("transform", 0.86, "preparing the transform")
            out["transform"] = mrml.transform_data(
                registration.field, Grid.from_image(fixed), dense=self._dense
            )
        if "bspline" in self._outputs:
            stop_if_asked()
            from .bspline import bspline_of

            tell("bspline", 0.87, "fitting a B-spline")
            out["bspline"] = bspline_of(registration.field, Grid.from_image(fixed))
        if "warped" in self._outputs:
            stop_if_asked()
            tell("warping", 0.88, "warping the moving volume")
            out["warped"] = registration.field.warp_image(images[1], fixed)
        if "jacobian" in self._outputs:
            stop_if_asked()
            tell("jacobian", 0.91, "computing the Jacobian determinant")
            field = registration.field
            out["jacobian"] = field.grid.image(field.jacobian_determinant())
        stop_if_asked()
        tell("quality", 0.93, "measuring the transform")
        lungs = registration.fixed_lungs
        out["figures"] = quality_figures(
            registration.field,
            fixed,
            lung_mask=lungs.mask if lungs is not None else None,
            cancelled=cancelled,
        )
        if lungs is not None and backward is not None:
            # there and back between the images as they were registered: a start would cancel out
            out["figures"]["inverse_consistency_mm"] = inverse_consistency(found, backward, lungs.mask)
        if lungs is not None and options.uncertainty:
            tell("uncertainty", 0.95, "estimating the expected error")
            out["doubt"] = self._doubt(fixed, moving, found, backward, registration, cancelled)
            out["figures"]["uncertainty"] = out["doubt"].figures
        tell("done", 1.0, "done")
        return out

    @staticmethod
    def _doubt(fixed, moving, field, backward, registration, cancelled):
        """The engine's ``Uncertainty`` of what was found between the images as they were registered."""
        from ProgressiveRegistrationLib.uncertainty import uncertainty

        return uncertainty(
            fixed,
            moving,
            field,
            registration.fixed_lungs.mask,
            backward=backward,
            device=str(registration.device),
            cancelled=cancelled,
        )

    def finish(self, computed: dict) -> SceneResult:
        """Put the computed results into the scene; on the main thread.

        Raises
        ------
        InputError : a volume was deleted meanwhile; then nothing was changed.
        """
        scene = slicer.mrmlScene
        fixed, moving = scene.GetNodeByID(self.fixed_id), scene.GetNodeByID(self.moving_id)
        for node, name in zip((fixed, moving), self._names):
            if node is None:
                raise InputError(
                    _("{name} was deleted while it was being registered; nothing was changed.").format(
                        name=name
                    )
                )
        registration = computed["registration"]
        result = SceneResult(
            fixed_id=self.fixed_id,
            moving_id=self.moving_id,
            registration=registration,
            figures=computed["figures"],
            notes=list(registration.notes),
            doubt=computed.get("doubt"),
        )
        try:
            self._finish(computed, fixed, moving, result)
        except BaseException:
            result.undo()
            raise
        return result

    def _finish(self, computed: dict, fixed, moving, result: SceneResult) -> None:
        if "transform" in self._outputs:
            for freed in (fixed, *_present(self._fixed_landmark_ids)):
                _remember_placement(mrml.place_under(freed, None), result)
            name = _("{moving} to {fixed}").format(moving=moving.GetName(), fixed=fixed.GetName())
            node = self._output("transform", name, computed, result)
            mrml.set_transform(node, computed["transform"])
            mrml.mark_result(node)
            mrml.set_pair(node, fixed, moving)
            run_log.write(
                node,
                computed["registration"],
                computed["figures"],
                *self._names,
                start=self._start.name if self._start is not None else "",
            )
            result.transform, result._written = node, content_of(node)
            if self._place:
                for placed in (moving, *_present(self._landmark_ids)):
                    _remember_placement(mrml.place_under(placed, node), result)
        if "bspline" in computed:
            self._finish_bspline(computed, fixed, moving, result)
        if self._hardened:
            self._finish_hardened(computed, moving, result)
        if "warped" in computed:
            name = _("{moving} registered").format(moving=moving.GetName())
            node = self._output("warped", name, computed, result)
            mrml.update_volume(node, computed["warped"], like=fixed)
            node.CreateDefaultDisplayNodes()
            _same_window(node, moving)
            _beside(node, fixed)
            result.warped = node
        if "jacobian" in computed:
            name = _("{moving} Jacobian").format(moving=moving.GetName())
            node = self._output("jacobian", name, computed, result)
            mrml.update_volume(node, computed["jacobian"])
            node.CreateDefaultDisplayNodes()
            display = node.GetDisplayNode()
            display.SetAutoWindowLevel(False)
            display.SetWindowLevelMinMax(0.0, 2.0)
            _beside(node, fixed)
            result.jacobian = node

    def _finish_bspline(self, computed: dict, fixed, moving, result: SceneResult) -> None:
        from .bspline import vtk_bspline

        spline = computed["bspline"]
        name = _("{moving} to {fixed} B-spline").format(moving=moving.GetName(), fixed=fixed.GetName())
        node = self._output("bspline", name, computed, result)
        node.SetAndObserveTransformFromParent(vtk_bspline(spline))
        mrml.set_pair(node, fixed, moving)
        result.bspline = node
        result.notes.append(
            _("The B-spline differs from the field by {p95:.2f} mm (95 % of the volume).").format(
                p95=spline.error_p95_mm
            )
        )

    def _finish_hardened(self, computed: dict, moving, result: SceneResult) -> None:
        scene = slicer.mrmlScene
        carrier = scene.AddNewNodeByClass("vtkMRMLTransformNode", "carrier")
        try:
            mrml.set_transform(carrier, computed["transform"])
            mrml.mark_result(carrier)
            for source in (moving, *_present(self._landmark_ids)):
                name = _("{name} hardened").format(name=source.GetName())
                copy = scene.AddNewNodeByClass(source.GetClassName(), scene.GenerateUniqueName(name))
                kept, identifier = copy.GetName(), copy.GetID()
                result._undo.append(lambda identifier=identifier: _remove(identifier))
                copy.CopyContent(source)
                copy.SetName(kept)
                # what lies between the world and the voxels, then the result, applied for good
                pose = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "pose")
                pose.SetMatrixTransformToParent(mrml.vtk_matrix(mrml.pose(source)))
                copy.SetAndObserveTransformNodeID(pose.GetID())
                copy.HardenTransform()
                scene.RemoveNode(pose)
                copy.SetAndObserveTransformNodeID(carrier.GetID())
                copy.HardenTransform()
                copy.CreateDefaultDisplayNodes()
                result.hardened.append(copy)
        finally:
            scene.RemoveNode(carrier)

    def _output(self, kind: str, name: str, computed: dict, result: SceneResult):
        """The node to write to: the chosen one, or a new one; its undoing is noted."""
        scene = slicer.mrmlScene
        chosen = self._outputs[kind]
        if chosen is not True and scene.IsNodePresent(chosen):
            keep = _restore_transform if kind in ("transform", "bspline") else _restore_volume
            result._undo.append(keep(chosen))
            return chosen
        if chosen is not True:
            result.notes.append(_("The chosen output node was deleted meanwhile; a new one was made."))
        class_name = "vtkMRMLBSplineTransformNode" if kind == "bspline" else "vtkMRMLScalarVolumeNode"
        if kind == "transform":
            composite = computed["transform"].after is not None
            class_name = "vtkMRMLTransformNode" if composite else "vtkMRMLGridTransformNode"
        node = scene.AddNewNodeByClass(class_name, scene.GenerateUniqueName(name))
        identifier = node.GetID()
        result._undo.append(lambda: _remove(identifier))
        return node


def chosen_options(options: Options | None, by_name: dict) -> Options:
    """``options`` with the fields that are given by name; None and "" say nothing.

    Raises
    ------
    InputError : a preset that is none. TypeError : a name that is no option's.
    """
    given = {name: value for name, value in by_name.items() if value not in (None, "")}
    replace(Options(), **by_name)  # a name that is none is refused without a value, too
    chosen = replace(options or Options(), **given)
    chosen.check()
    return chosen


def check_pair(fixed, moving) -> None:
    """InputError unless the two volumes can be registered."""
    if fixed is None:
        raise InputError(_("Select a fixed volume."))
    if moving is None:
        raise InputError(_("Select a moving volume."))
    if fixed is moving:
        raise InputError(_("Fixed and moving are the same: select two volumes."))
    mrml.check_volume(fixed)
    mrml.check_volume(moving)


def lung_region(node, segment: str = ""):
    """What ``lung_mask`` needs of a region node, read on the main thread; None without a node."""
    if node is None:
        return None
    return mrml.mask_from_node(node, segment), bool(node.IsA("vtkMRMLMarkupsROINode"))


def lung_mask(region, image):
    """A ROI says where to look: the lungs in it, or all of it if none is found; other regions are lungs.

    ``region`` from ``lung_region``, ``image`` the volume's; None without a region. In any thread.
    """
    if region is None:
        return None
    mask, is_box = region
    if not is_box:
        return mask
    import SimpleITK as sitk
    from ProgressiveRegistrationLib.geometry import Grid
    from ProgressiveRegistrationLib.lungs import find_lungs

    try:
        lungs = find_lungs(image).mask
    except NoLungError:
        return mask
    inside = Grid.from_image(lungs).resample(mask, interpolator=sitk.sitkNearestNeighbor)
    both = sitk.And(inside, lungs)
    return both if sitk.GetArrayViewFromImage(both).any() else mask


def content_of(transform) -> tuple:
    """Equal as long as nothing is written to a transform node, its displacement grid included."""
    content = transform.GetTransformFromParent()
    return content, content.GetMTime() if content is not None else 0


def _present(identifiers) -> list:
    """Those nodes that were not deleted meanwhile."""
    return list(filter(None, map(slicer.mrmlScene.GetNodeByID, identifiers)))


def _remember_placement(placement, result: SceneResult) -> None:
    if placement is not None:
        result._undo.append(lambda: mrml.put_back(placement))


def _remove(identifier: str) -> None:
    node = slicer.mrmlScene.GetNodeByID(identifier)
    if node is None:
        return
    if node.IsA("vtkMRMLDisplayableNode"):  # its display nodes would stay
        for display in [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]:
            if display is not None:
                slicer.mrmlScene.RemoveNode(display)
    slicer.mrmlScene.RemoveNode(node)


def _restore_transform(node) -> Callable:
    identifier, was_result = node.GetID(), node.GetAttribute(mrml.RESULT_ATTRIBUTE)
    run, description = node.GetAttribute(run_log.ATTRIBUTE), node.GetDescription()
    previous = node.GetTransformFromParent()
    roles = (
        slicer.vtkMRMLTransformNode.GetFixedNodeReferenceRole(),
        slicer.vtkMRMLTransformNode.GetMovingNodeReferenceRole(),
    )
    pair = [(role, node.GetNodeReferenceID(role)) for role in roles]

    def restore():
        node = slicer.mrmlScene.GetNodeByID(identifier)
        if node is not None:
            node.SetAndObserveTransformFromParent(previous)
            node.SetAttribute(mrml.RESULT_ATTRIBUTE, was_result)
            node.SetAttribute(run_log.ATTRIBUTE, run)
            node.SetDescription(description or "")
            for role, reference in pair:
                node.SetNodeReferenceID(role, reference)

    return restore


def _restore_volume(node) -> Callable:
    import vtk

    identifier, parent, image = node.GetID(), node.GetTransformNodeID(), node.GetImageData()
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    if image is not None:  # the same vtkImageData is filled again by an update
        copy = vtk.vtkImageData()
        copy.ShallowCopy(image)
        image = copy

    def restore():
        node = slicer.mrmlScene.GetNodeByID(identifier)
        if node is not None:
            node.SetIJKToRASMatrix(matrix)
            node.SetAndObserveImageData(image)
            node.SetAndObserveTransformNodeID(parent)

    return restore


def _same_window(node, like) -> None:
    source, target = like.GetDisplayNode(), node.GetDisplayNode()
    if source is not None and target is not None:
        target.SetAutoWindowLevel(False)
        target.SetWindowLevel(source.GetWindow(), source.GetLevel())


def _beside(node, sibling) -> None:
    """Put a node into the subject hierarchy folder (study) of another one."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if hierarchy is None:
        return
    item, other = hierarchy.GetItemByDataNode(node), hierarchy.GetItemByDataNode(sibling)
    invalid = slicer.vtkMRMLSubjectHierarchyNode.GetInvalidItemID()
    parent = hierarchy.GetItemParent(other) if other != invalid else hierarchy.GetSceneItemID()
    if item == invalid:
        hierarchy.CreateItem(parent, node)
    else:
        hierarchy.SetItemParent(item, parent)
