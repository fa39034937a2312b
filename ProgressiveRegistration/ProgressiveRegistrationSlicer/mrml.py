"""MRML volumes, masks and transforms to and from the engine's images and fields.

Slicer's world is RAS, the engine's LPS: the sign changes live here and in ``mrml_landmarks.py`` alone. All
functions that take a node belong on the main thread.

A volume's *pose* is the linear transform from its own coordinates to the world. Transforms that a
registration of this module put there (``mark_result``) are left out of it, so a pair can be registered again
without undoing the first result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Affine, Grid, continued
from ProgressiveRegistrationLib.progress import Stop, check
from vtk.util import numpy_support

from .i18n import _

RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
RESULT_ATTRIBUTE = "ProgressiveRegistration.Result"
POSE_ATTRIBUTE = "ProgressiveRegistration.Pose"
SHARED = "_progressive_registration_image"
MAX_GRID_POINTS = 16_000_000  # a denser grid than this (190 MB) is kept as a small grid and an affine instead


# ---------- matrices and parents


def vtk_matrix(matrix: np.ndarray) -> vtk.vtkMatrix4x4:
    """(4, 4) array -> vtkMatrix4x4."""
    out = vtk.vtkMatrix4x4()
    out.DeepCopy(np.asarray(matrix, float).ravel())
    return out


def array_from_matrix(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    """vtkMatrix4x4 -> (4, 4) array."""
    return np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])


def parents(node) -> list:
    """The transform nodes above ``node``, nearest first."""
    out = []
    parent = node.GetParentTransformNode()
    while parent is not None:
        out.append(parent)
        parent = parent.GetParentTransformNode()
    return out


def mark_result(transform_node) -> None:
    """Remember that this transform is a registration result, not part of the pose of what lies under it."""
    transform_node.SetAttribute(RESULT_ATTRIBUTE, "1")


def is_result(transform_node) -> bool:
    return transform_node.GetAttribute(RESULT_ATTRIBUTE) == "1"


def pose(node, without=None) -> np.ndarray:
    """(4, 4): from the node's own coordinates to the world, RAS mm; without results.

    ``without`` : a transform node left out together with all above it, which ``point_map`` of it counts.

    Raises
    ------
    InputError : a non-linear transform lies above the node.
    """
    total = np.eye(4)
    for parent in parents(node):
        if parent is without:
            break
        if is_result(parent):
            continue
        if not parent.IsLinear():
            raise InputError(
                _(
                    "{name} is under the non-linear transform {transform}: harden it (Transforms module, "
                    "Harden transform) or move the node out of it."
                ).format(name=node.GetName(), transform=parent.GetName())
            )
        matrix = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToParent(matrix)
        total = array_from_matrix(matrix) @ total
    return total


# ---------- volumes


def check_volume(node, without=None) -> None:
    """InputError unless the volume can be registered: voxels, one component, 3D,
    a linear pose (see ``pose``)."""
    image = node.GetImageData()
    if image is None or 0 in image.GetDimensions():
        raise InputError(
            _("{name} has no voxels: load or choose another volume.").format(name=node.GetName())
        )
    if image.GetNumberOfScalarComponents() != 1:
        raise InputError(
            _("{name} has several values a voxel: choose a CT with one.").format(name=node.GetName())
        )
    if min(image.GetDimensions()) < 2:
        raise InputError(_("{name} is a single slice: choose a 3D volume.").format(name=node.GetName()))
    if abs(np.linalg.det(_index_to_world(node, without)[:3, :3])) < 1e-9:
        raise InputError(
            _("{name} has a geometry without volume: set its spacing and axes.").format(name=node.GetName())
        )


def _index_to_world(node, without=None) -> np.ndarray:
    """(4, 4): voxel index -> LPS mm, the pose included."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return RAS_LPS @ pose(node, without) @ array_from_matrix(matrix)


def _grid(size, index_to_world: np.ndarray) -> Grid:
    axes = index_to_world[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    return Grid(tuple(size), tuple(spacing), index_to_world[:3, 3], (axes / spacing).ravel())


def volume_grid(node, without=None) -> Grid:
    """Where a volume's voxels lie, as ``image_from_volume`` has them."""
    check_volume(node, without)
    return _grid(node.GetImageData().GetDimensions(), _index_to_world(node, without))


def image_from_volume(node, without=None) -> sitk.Image:
    """A copy of the voxels and their place in the world (LPS mm); linear parents are part of the geometry.

    ``without`` : a transform node, of any kind, to leave out: one that is to be measured.
    """
    return volume_reader(node, without)()


def volume_reader(node, without=None) -> Callable[[], sitk.Image]:
    """``image_from_volume`` in two steps: the geometry now; the copy of the voxels, which takes time, when
    the result is called, in any thread. The node may be gone by then."""
    grid = volume_grid(node, without)
    voxels = slicer.util.arrayFromVolume(node)  # a view, which keeps its memory alive
    shared = getattr(node.GetImageData().GetPointData().GetScalars(), SHARED, None)
    if shared is not None and _lies_on(shared, grid):
        return lambda: shared

    def read() -> sitk.Image:
        odd = voxels.dtype == bool or voxels.dtype == np.int64
        return grid.image(voxels.astype(np.int32) if odd else voxels)

    return read


def _lies_on(image: sitk.Image, grid: Grid) -> bool:
    own = Grid.from_image(image)
    return own.size == grid.size and np.allclose(own.corners(), grid.corners(), rtol=0, atol=1e-6)


def vtk_voxels(image: sitk.Image, *, share: bool = False) -> vtk.vtkImageData:
    """A copy of an image's voxels for ``update_volume``; in any thread.

    ``share`` : the image's own memory instead, which lives as long as VTK uses it. ``volume_reader`` then
    gives that very image, so nobody may change it.
    """
    values = sitk.GetArrayViewFromImage(image)
    out = vtk.vtkImageData()
    out.SetDimensions(*values.shape[::-1])
    if share:
        scalars = numpy_support.numpy_to_vtk(values.reshape(-1), deep=False)
        setattr(scalars, SHARED, image)  # VTK keeps such attributes until the array is gone
        out.GetPointData().SetScalars(scalars)
        return out
    out.AllocateScalars(numpy_support.get_vtk_array_type(values.dtype), 1)
    # numpy copies without Python's lock, so that a window beside it stays alive
    numpy_support.vtk_to_numpy(out.GetPointData().GetScalars()).reshape(values.shape)[:] = values
    return out


def update_volume(node, image: sitk.Image, like=None, voxels: vtk.vtkImageData | None = None) -> None:
    """Put an image's voxels and geometry into a volume node.

    With ``like`` (a volume node) the node also goes under that volume's linear parents, so that an image
    which lies on that volume's lattice in the world has the volume's own IJK-to-RAS matrix too.
    ``voxels`` : the image's ``vtk_voxels``, if they were made before; they are then the node's.
    """
    world = np.eye(4)
    grid = Grid.from_image(image)
    world[:3, :3] = grid.index_to_world_matrix
    world[:3, 3] = grid.origin
    matrix = RAS_LPS @ world
    parent = None
    if like is not None:
        matrix = np.linalg.inv(pose(like)) @ matrix
        above = [p for p in parents(like) if not is_result(p)]
        parent = above[0].GetID() if above else None
    with slicer.util.NodeModify(node):
        node.SetIJKToRASMatrix(vtk_matrix(matrix))
        node.SetAndObserveImageData(voxels if voxels is not None else vtk_voxels(image))
        node.SetAndObserveTransformNodeID(parent)


# ---------- masks


def mask_from_node(node, segment: str = "") -> sitk.Image:
    """UInt8 image, 1 inside, on a grid of its own: from a segmentation, a label map or a box ROI.

    Parameters
    ----------
    segment : ID of one segment; "" takes all segments together.

    Raises
    ------
    InputError : nothing is inside, the segment does not exist, or a non-linear transform lies above the node.
    """
    if node.IsA("vtkMRMLSegmentationNode"):
        image = _mask_from_segmentation(node, segment)
    elif node.IsA("vtkMRMLMarkupsROINode"):
        image = _mask_from_roi(node)
    elif node.IsA("vtkMRMLVolumeNode"):
        image = sitk.Cast(image_from_volume(node) != 0, sitk.sitkUInt8)
    else:
        raise InputError(
            _("{name} cannot say where the lungs are: choose a segmentation, a label map or a ROI.").format(
                name=node.GetName()
            )
        )
    if not sitk.GetArrayViewFromImage(image).any():
        raise InputError(
            _("{name} is empty: draw the lung region or choose none.").format(name=node.GetName())
        )
    return image


def _mask_from_segmentation(node, segment: str) -> sitk.Image:
    segmentation = node.GetSegmentation()
    identifiers = list(segmentation.GetSegmentIDs())
    if segment and segment not in identifiers:
        raise InputError(
            _("{name} has no segment {segment}: choose another one.").format(
                name=node.GetName(), segment=segment
            )
        )
    if not identifiers:
        raise InputError(
            _("{name} has no segment: draw the lung region or choose none.").format(name=node.GetName())
        )
    world = pose(node)
    merged = slicer.vtkOrientedImageData()
    binary = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    source = node
    if not segmentation.ContainsRepresentation(binary):
        source = slicer.vtkMRMLSegmentationNode()  # a copy: the user's segmentation stays as it is
        source.GetSegmentation().DeepCopy(segmentation)
        source.GetSegmentation().CreateRepresentation(binary)
    wanted = vtk.vtkStringArray()
    for identifier in [segment] if segment else identifiers:
        wanted.InsertNextValue(identifier)
    extent = slicer.vtkSegmentation.EXTENT_UNION_OF_SEGMENTS
    source.GenerateMergedLabelmapForAllSegments(merged, extent, None, wanted)
    size = merged.GetDimensions()
    if 0 in size:
        raise InputError(
            _("{name} is empty: draw the lung region or choose none.").format(name=node.GetName())
        )
    values = numpy_support.vtk_to_numpy(merged.GetPointData().GetScalars()).reshape(size[::-1])
    matrix = vtk.vtkMatrix4x4()
    merged.GetImageToWorldMatrix(matrix)
    index_to_world = RAS_LPS @ world @ array_from_matrix(matrix)
    extent = merged.GetExtent()  # the first voxel's index need not be 0
    index_to_world[:3, 3] += index_to_world[:3, :3] @ np.array([extent[0], extent[2], extent[4]], float)
    return _grid(size, index_to_world).image((values != 0).astype(np.uint8))


def _mask_from_roi(node) -> sitk.Image:
    world = pose(node)
    matrix = node.GetObjectToNodeMatrix()
    size = np.array(node.GetSize(), float)
    if not node.GetNumberOfControlPoints() or min(size) <= 0:
        raise InputError(
            _("{name} is empty: place the ROI around the lungs or choose none.").format(name=node.GetName())
        )
    box = RAS_LPS @ world @ array_from_matrix(matrix)  # the box's own mm, about its centre -> LPS mm
    steps = np.maximum(1, np.ceil(size / 2.0)).astype(int)
    to_index = np.eye(4)
    to_index[:3, :3] = np.diag(size / steps)
    to_index[:3, 3] = -size / 2 + size / steps / 2
    inner = _grid(steps, box @ to_index)
    grid = inner.padded(1)
    mask = np.zeros(grid.shape, np.uint8)
    mask[1:-1, 1:-1, 1:-1] = 1
    return grid.image(mask)


# ---------- fields -> transforms


@dataclass(frozen=True)
class TransformData:
    """A displacement field as MRML keeps it; made off the main thread, put into a node by ``set_transform``.

    ``displacement`` (z, y, x, 3) float32 mm in RAS on ``grid`` (LPS); ``after`` is applied to the displaced
    point.
    """

    grid: Grid
    displacement: np.ndarray
    after: Affine | None = None


def transform_data(field: DisplacementField, cover: Grid, *, dense: bool | None = None) -> TransformData:
    """What a transform node needs so that it equals ``field``, outside the field's own grid too.

    VTK and ITK continue a grid by its border value and by 0. A field that turns into an affine map outside
    its grid is kept either *dense*, on its lattice continued until it covers ``cover`` (the fixed volume), or
    as a *composite*: the grid of A^-1(T(x)) - x, which is 0 at the border, followed by the affine A; that is
    exact everywhere.

    Parameters
    ----------
    dense : True for a vtkMRMLGridTransformNode, which can hold nothing but a grid; None takes it unless it
        would have more than ``MAX_GRID_POINTS`` points.
    """
    if field.outside is None:
        return TransformData(field.grid, _ras(field.displacement))
    lattice = continued(field.grid, cover)
    if dense is None:
        dense = int(np.prod(lattice.size, dtype=np.int64)) <= MAX_GRID_POINTS
    if dense:
        return TransformData(lattice, _ras(field.resample(lattice).displacement))
    points = field.grid.points()
    back = field.outside.inverse()
    return TransformData(field.grid, _ras(back(points + field.displacement) - points), field.outside)


def _ras(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors * np.array([-1, -1, 1], np.float32), dtype=np.float32)


def set_transform(node, data: TransformData) -> None:
    """Make ``node`` the field: its *from parent* direction maps fixed to moving points."""
    grid = data.grid
    image = vtk.vtkImageData()
    image.SetDimensions(*grid.size)
    image.SetOrigin(*(RAS_LPS[:3, :3] @ np.asarray(grid.origin)))
    image.SetSpacing(*grid.spacing)
    values = numpy_support.numpy_to_vtk(data.displacement.reshape(-1, 3), deep=True)
    values.SetName("Displacement")
    image.GetPointData().SetScalars(values)  # not SetVectors: that is silently the identity
    direction = np.eye(4)
    direction[:3, :3] = RAS_LPS[:3, :3] @ np.reshape(grid.direction, (3, 3))
    transform = slicer.vtkOrientedGridTransform()
    transform.SetGridDirectionMatrix(vtk_matrix(direction))
    transform.SetDisplacementGridData(image)
    transform.SetInterpolationModeToLinear()
    if data.after is not None:
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = data.after.matrix, data.after.offset
        linear = vtk.vtkTransform()
        linear.SetMatrix(vtk_matrix(RAS_LPS @ affine @ RAS_LPS))
        both = vtk.vtkGeneralTransform()
        both.PostMultiply()
        both.Concatenate(transform)
        both.Concatenate(linear)
        transform = both
    node.SetAndObserveTransformFromParent(transform)


def set_pair(transform_node, fixed_node, moving_node) -> None:
    """Record on the transform which volumes it aligns (Slicer's own roles), replacing an earlier pair."""
    for role, node in (
        (slicer.vtkMRMLTransformNode.GetFixedNodeReferenceRole(), fixed_node),
        (slicer.vtkMRMLTransformNode.GetMovingNodeReferenceRole(), moving_node),
    ):
        transform_node.SetNodeReferenceID(role, node.GetID())


# ---------- transforms -> engine


def point_map(transform_node) -> Callable[[np.ndarray], np.ndarray]:
    """T of any transform node: fixed points in the world -> points before the transform, LPS mm (n, 3).

    It is the node's *from parent* direction with the parents' included: what resampling a volume under it
    uses. It may be called in any thread, and later changes of the nodes do not reach it.
    """
    live, general = vtk.vtkGeneralTransform(), vtk.vtkGeneralTransform()
    transform_node.GetTransformFromWorld(live)
    slicer.vtkMRMLTransformNode.DeepCopyTransform(general, live)

    def mapped(points: np.ndarray) -> np.ndarray:
        points = np.asarray(points, float).reshape(-1, 3)
        given, found = vtk.vtkPoints(), vtk.vtkPoints()
        given.SetDataTypeToDouble()
        found.SetDataTypeToDouble()
        given.SetData(numpy_support.numpy_to_vtk(np.ascontiguousarray(points * [-1, -1, 1]), deep=True))
        general.TransformPoints(given, found)
        if not len(points):
            return points
        return numpy_support.vtk_to_numpy(found.GetData()).reshape(-1, 3) * [-1, -1, 1]

    return mapped


def own_lattice(transform_node) -> Grid | None:
    """The lattice in the world on which T is a displacement grid; None where it is none, or an inverse."""
    general, steps = vtk.vtkGeneralTransform(), vtk.vtkCollection()
    transform_node.GetTransformFromWorld(general)
    slicer.vtkMRMLTransformNode.FlattenGeneralTransform(steps, general)
    first = steps.GetItemAsObject(0)  # an affine map after it, as in a composite of ours, keeps its lattice
    if first is None or not first.IsA("vtkOrientedGridTransform") or first.GetInverseFlag():
        return None
    image = first.GetDisplacementGrid()
    if image is None or min(image.GetDimensions()) < 2:
        return None
    axes = np.eye(3)
    if first.GetGridDirectionMatrix() is not None:
        axes = array_from_matrix(first.GetGridDirectionMatrix())[:3, :3]
    matrix = np.eye(4)
    matrix[:3, :3] = axes * image.GetSpacing()
    matrix[:3, 3] = np.asarray(image.GetOrigin()) + matrix[:3, :3] @ np.array(image.GetExtent()[::2], float)
    return _grid(image.GetDimensions(), RAS_LPS @ matrix)


def sampled(
    mapping: Callable[[np.ndarray], np.ndarray], grid: Grid, cancelled: Stop = None
) -> DisplacementField:
    """A point map as a displacement field on ``grid``; by slice, so that a window beside it stays alive."""
    displacement = np.empty((*grid.shape, 3), np.float32)
    points = grid.points()
    for k in range(grid.shape[0]):
        check(cancelled)
        flat = points[k].reshape(-1, 3)
        displacement[k] = (mapping(flat) - flat).reshape(*grid.shape[1:], 3)
    return DisplacementField(grid, displacement)


# ---------- placing under a result


@dataclass(frozen=True)
class Placement:
    """Which node was moved, from under which parent, and which node was added for it: for ``put_back``."""

    node_id: str
    parent_id: str | None
    added_id: str | None = None


def place_under(node, transform_node) -> Placement | None:
    """Put a node under a registration result, keeping its pose; the scene's other nodes stay where they are.

    A node with linear parents gets a copy of its pose in between, because its parents may carry other nodes
    too. ``transform_node`` None takes the node out of all results. Returns None when nothing had to change.
    """
    above = parents(node)
    if transform_node in above if transform_node is not None else not any(is_result(p) for p in above):
        return None
    target = transform_node.GetID() if transform_node is not None else None
    nearest = above[0] if above else None
    if nearest is not None and nearest.GetAttribute(POSE_ATTRIBUTE) == "1" and users(nearest) == [node]:
        was = Placement(nearest.GetID(), nearest.GetTransformNodeID())
        nearest.SetAndObserveTransformNodeID(target)
        return was
    was = Placement(node.GetID(), node.GetTransformNodeID())
    matrix = pose(node, without=transform_node)
    if np.allclose(matrix, np.eye(4), atol=1e-9):
        node.SetAndObserveTransformNodeID(target)
        return was
    copy = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLLinearTransformNode", slicer.mrmlScene.GenerateUniqueName(f"{node.GetName()} pose")
    )
    copy.SetAttribute(POSE_ATTRIBUTE, "1")
    copy.SetMatrixTransformToParent(vtk_matrix(matrix))
    copy.SetAndObserveTransformNodeID(target)
    node.SetAndObserveTransformNodeID(copy.GetID())
    return Placement(was.node_id, was.parent_id, copy.GetID())


def users(transform_node) -> list:
    """The nodes directly under a transform."""
    found = slicer.util.getNodesByClass("vtkMRMLTransformableNode")
    return [n for n in found if n.GetTransformNodeID() == transform_node.GetID()]


def put_back(placement: Placement) -> None:
    """Undo ``place_under``; nodes that are gone by now are left alone."""
    scene = slicer.mrmlScene
    node = scene.GetNodeByID(placement.node_id)
    if node is not None:
        parent = placement.parent_id
        node.SetAndObserveTransformNodeID(parent if parent and scene.GetNodeByID(parent) else None)
    added = scene.GetNodeByID(placement.added_id) if placement.added_id else None
    if added is not None and not users(added):
        scene.RemoveNode(added)
