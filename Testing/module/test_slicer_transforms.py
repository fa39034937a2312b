"""Volumes, masks and transforms between MRML and the engine, against SimpleITK, VTK and analytic maps."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Affine, Grid
from ProgressiveRegistrationSlicer import mrml
from slicer_harness.fixtures import (
    FIXED_MATRIX,
    FIXED_SHAPE,
    MOVING_MATRIX,
    MOVING_SHAPE,
    OBLIQUE,
    add_linear,
    add_pair,
    field_of,
    fixed_points,
    ijk_to_ras,
    motion,
    motion_lps,
    pattern,
    points_of,
    rotation,
)

pytestmark = pytest.mark.usefixtures("scene")
FLIP = np.array([-1.0, -1.0, 1.0])


def voxel_positions(image: sitk.Image, indices) -> np.ndarray:
    """LPS mm by SimpleITK itself."""
    return np.array([image.TransformIndexToPhysicalPoint([int(v) for v in i]) for i in indices])


INDICES = np.array([(0, 0, 0), (39, 0, 0), (0, 35, 0), (0, 0, 29), (20, 11, 7)])


def test_oblique_anisotropic_volume_keeps_its_place_and_voxels():
    fixed, _ = add_pair()
    image = mrml.image_from_volume(fixed)
    ras = INDICES @ FIXED_MATRIX[:3, :3].T + FIXED_MATRIX[:3, 3]
    np.testing.assert_allclose(voxel_positions(image, INDICES) * FLIP, ras, atol=1e-9)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), slicer.util.arrayFromVolume(fixed))


def test_image_is_a_copy():
    fixed, _ = add_pair()
    image = mrml.image_from_volume(fixed)
    before = image[0, 0, 0]
    slicer.util.arrayFromVolume(fixed)[0, 0, 0] = 9999
    assert image[0, 0, 0] == before


def test_volume_on_an_images_own_memory_outlives_the_image_and_gives_it_back_without_a_copy():
    values = np.random.default_rng(0).integers(-1000, 1000, (29, 35, 39)).astype(np.int16)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-30.0, 12.0, 400.0))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    mrml.update_volume(node, image, voxels=mrml.vtk_voxels(image, share=True))
    expected = voxel_positions(image, [(0, 0, 0), (38, 34, 28)])
    del image
    gc.collect()
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), values)
    back = mrml.image_from_volume(node)
    assert np.shares_memory(sitk.GetArrayViewFromImage(back), slicer.util.arrayFromVolume(node))
    np.testing.assert_allclose(voxel_positions(back, [(0, 0, 0), (38, 34, 28)]), expected, atol=1e-9)
    node.SetAndObserveTransformNodeID(add_linear(np.diag([1, 1, 1.5, 1.0])).GetID())
    elsewhere = mrml.image_from_volume(node)
    assert not np.shares_memory(sitk.GetArrayViewFromImage(elsewhere), slicer.util.arrayFromVolume(node))
    assert elsewhere.GetSpacing()[2] == pytest.approx(3.75)


def test_nested_linear_parents_are_part_of_the_geometry():
    fixed, _ = add_pair()
    outer, inner = np.eye(4), np.eye(4)
    outer[:3, :3], outer[:3, 3] = rotation(0, 20) @ np.diag([1.1, 0.9, 1.3]), (5, -60, 12)
    inner[:3, :3], inner[:3, 3] = rotation(2, -30), (100, 0, 3)
    top, near = add_linear(outer, "outer"), add_linear(inner, "inner")
    near.SetAndObserveTransformNodeID(top.GetID())
    fixed.SetAndObserveTransformNodeID(near.GetID())
    image = mrml.image_from_volume(fixed)
    general = vtk.vtkGeneralTransform()
    near.GetTransformToWorld(general)
    ras = np.array(
        [general.TransformPoint(p) for p in (INDICES @ FIXED_MATRIX[:3, :3].T + FIXED_MATRIX[:3, 3])]
    )
    np.testing.assert_allclose(voxel_positions(image, INDICES) * FLIP, ras, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int16", "uint8", "uint16", "int32", "float32", "float64"])
def test_pixel_types_survive_both_ways(dtype):
    values = np.arange(60).reshape(3, 4, 5).astype(dtype)
    node = slicer.util.addVolumeFromArray(values, FIXED_MATRIX, "v")
    image = mrml.image_from_volume(node)
    back = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    mrml.update_volume(back, image)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(back), values)
    assert slicer.util.arrayFromVolume(back).dtype == values.dtype
    matrix = vtk.vtkMatrix4x4()
    back.GetIJKToRASMatrix(matrix)
    np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(matrix), FIXED_MATRIX, atol=1e-6)


def test_volume_made_like_a_moved_one_gets_its_parent_and_its_own_matrix():
    fixed, _ = add_pair()
    shift = np.eye(4)
    shift[:3, :3], shift[:3, 3] = rotation(1, 15), (30, 2, 1)
    parent = add_linear(shift)
    fixed.SetAndObserveTransformNodeID(parent.GetID())
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    mrml.update_volume(node, mrml.image_from_volume(fixed), like=fixed)
    assert node.GetParentTransformNode() is parent
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(matrix), FIXED_MATRIX, atol=1e-5)


def nonlinear():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Warp")
    grid = Grid((8, 8, 8), (30.0,) * 3, (-105.0,) * 3)
    mrml.set_transform(node, mrml.transform_data(field_of(motion_lps, grid), grid))
    return node


def test_volume_under_a_nonlinear_transform_is_refused_with_advice():
    fixed, _ = add_pair()
    fixed.SetAndObserveTransformNodeID(nonlinear().GetID())
    with pytest.raises(InputError, match=r"Fixed is under the non-linear transform Warp: harden it"):
        mrml.image_from_volume(fixed)


def test_pose_without_a_transform_leaves_out_what_is_above_it():
    fixed, _ = add_pair()
    below, top = add_linear(np.diag([2.0, 2, 2, 1])), nonlinear()
    measured = nonlinear()
    for node, parent in ((fixed, below), (below, measured), (measured, top)):
        node.SetAndObserveTransformNodeID(parent.GetID())
    np.testing.assert_array_equal(mrml.pose(fixed, without=measured), np.diag([2.0, 2, 2, 1]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Hollow"),
            "Hollow has no voxels",
        ),
        (lambda: slicer.util.addVolumeFromArray(np.zeros((1, 5, 5)), name="Flat"), "Flat is a single slice"),
    ],
)
def test_unusable_volumes_are_named(make, words):
    with pytest.raises(InputError, match=words):
        mrml.image_from_volume(make())


# ---------- fields as transform nodes


def oblique_grid(spacing=4.0):
    """About 180 mm wide around the volumes' centre."""
    axes = np.diag([-1.0, -1, 1]) @ OBLIQUE
    steps = np.array([spacing, spacing * 1.1, spacing * 0.9])
    size = np.ceil(180 / steps).astype(int)
    origin = np.array([-10.0, 20, 30]) - axes @ (steps * (size - 1) / 2)
    return Grid(tuple(size), tuple(steps), origin, axes.ravel())


def test_field_node_maps_points_as_the_engine_does():
    field = field_of(motion_lps, oblique_grid())
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    mrml.set_transform(node, mrml.transform_data(field, field.grid))
    points = fixed_points(200) * FLIP
    np.testing.assert_allclose(mrml.point_map(node)(points), field.warp_points(points), atol=2e-4)
    np.testing.assert_allclose(mrml.point_map(node)(points), motion_lps(points), atol=0.15)


def box_field() -> DisplacementField:
    """Local motion in a box, an affine map around it, continuous at the border."""
    affine = Affine(np.diag([1.05, 0.96, 1.1]) @ rotation(2, 4), (12.0, -8.0, 31.0))
    grid = Grid((40, 36, 42), (3.0, 3.5, 3.2), (-60.0, -45.0, -50.0))
    points = grid.points().astype(float)
    index = grid.world_to_index(points)
    edge = np.minimum(index, np.asarray(grid.size) - 1 - index).min(-1) / 8
    fade = np.clip(edge, 0, 1)[..., None]
    moved = affine(points) + fade * (motion_lps(points) - points)
    return DisplacementField(grid, (moved - points).astype(np.float32), affine)


@pytest.mark.parametrize("dense", [True, False])
def test_affine_outside_the_grid_holds_over_the_fixed_volume(dense):
    field = box_field()
    cover = Grid((60, 60, 60), (4.0, 4.0, 4.0), (-120.0, -115.0, -110.0), tuple(rotation(0, 9).ravel()))
    data = mrml.transform_data(field, cover, dense=dense)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode" if dense else "vtkMRMLTransformNode")
    mrml.set_transform(node, data)
    rng = np.random.default_rng(1)
    index = rng.uniform(0, 1, (500, 3)) * (np.asarray(cover.size) - 1)
    points = cover.index_to_world(index)
    assert (~field.grid.contains(points)).sum() > 300
    np.testing.assert_allclose(mrml.point_map(node)(points), field.warp_points(points), atol=5e-3)
    if not dense:  # a composite holds everywhere, not just over the volume
        far = (points * 4)[~field.grid.contains(points * 4)]
        np.testing.assert_allclose(mrml.point_map(node)(far), field.outside(far), atol=5e-3)


def test_a_grid_that_would_be_huge_becomes_a_composite(monkeypatch):
    field = box_field()
    monkeypatch.setattr(mrml, "MAX_GRID_POINTS", 80_000)
    assert mrml.transform_data(field, field.grid).after is None
    assert mrml.transform_data(field, field.grid.padded(20)).after is not None


def test_moving_volume_under_the_transform_looks_like_the_fixed_one():
    fixed, moving = add_pair()
    field = field_of(motion_lps, oblique_grid())
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    mrml.set_transform(node, mrml.transform_data(field, field.grid))
    ours = slicer.util.arrayFromVolume(fixed)

    def difference():
        volumes = slicer.app.logics["volumes"]
        shown = slicer.util.arrayFromVolume(volumes.ResampleVolumeToReferenceVolume(moving, fixed))
        inner = (slice(9, -9),) * 3
        return np.sqrt(((shown - ours)[inner].astype(float) ** 2).mean()) / ours.std()

    before = difference()
    moving.SetAndObserveTransformNodeID(node.GetID())
    assert before > 0.15
    assert difference() < 0.03
    wrong = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    wrong.SetAndObserveTransformToParent(node.GetTransformFromParent())
    moving.SetAndObserveTransformNodeID(wrong.GetID())
    assert difference() > before


@pytest.mark.parametrize("name", ["t.h5", "t.tfm", "t.nrrd", "t.nii.gz", "t.mha"])
def test_written_grid_is_read_by_simpleitk_and_by_the_engine(tmp_path, name):
    field = field_of(motion_lps, oblique_grid(5.0))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    mrml.set_transform(node, mrml.transform_data(field, field.grid))
    path = tmp_path / name
    assert slicer.util.saveNode(node, str(path))
    points = fixed_points(60) * FLIP
    if name.endswith((".h5", ".tfm")):
        transform = sitk.ReadTransform(str(path))
    else:
        transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    found = np.array([transform.TransformPoint(p) for p in points.tolist()])
    np.testing.assert_allclose(found, field.warp_points(points), atol=1e-3)
    read = DisplacementField.read(path)
    np.testing.assert_allclose(read.warp_points(points), field.warp_points(points), atol=1e-3)


@pytest.mark.parametrize("name", ["t.h5", "t.tfm"])
def test_written_composite_is_read_by_simpleitk(tmp_path, name):
    field = box_field()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    mrml.set_transform(node, mrml.transform_data(field, field.grid, dense=False))
    path = tmp_path / name
    assert slicer.util.saveNode(node, str(path))
    transform = sitk.ReadTransform(str(path))
    points = np.random.default_rng(2).uniform(-150, 150, (100, 3))
    found = np.array([transform.TransformPoint(p) for p in points.tolist()])
    np.testing.assert_allclose(found, field.warp_points(points), atol=5e-3)


@pytest.mark.parametrize("name", ["t.h5", "t.nrrd", "t.nii.gz", "t.mha"])
def test_field_written_by_the_engine_is_read_by_slicer(tmp_path, name):
    field = field_of(motion_lps, oblique_grid(3.0))
    field.write(tmp_path / name)
    node = slicer.util.loadTransform(str(tmp_path / name))
    points = fixed_points(60) * FLIP
    # Slicer's reader interpolates cubically: the motion itself is what both approximate
    np.testing.assert_allclose(mrml.point_map(node)(points), motion_lps(points), atol=0.1)


def test_point_map_of_other_transforms_follows_from_parent():
    points = fixed_points(20) * FLIP
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation(0, 25), (3, -40, 8)
    node = add_linear(matrix)
    expected = (points * FLIP - matrix[:3, 3]) @ matrix[:3, :3] * FLIP  # the inverse of to-parent
    np.testing.assert_allclose(mrml.point_map(node)(points), expected, atol=1e-9)
    top = add_linear(np.array([[1, 0, 0, 5.0], [0, 1, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]]))
    node.SetAndObserveTransformNodeID(top.GetID())
    expected = (points * FLIP - [5, 6, 7] - matrix[:3, 3]) @ matrix[:3, :3] * FLIP
    np.testing.assert_allclose(mrml.point_map(node)(points), expected, atol=1e-9)


def test_any_transform_can_be_sampled_as_a_field():
    spline = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    thin = vtk.vtkThinPlateSplineTransform()
    thin.SetBasisToR()
    a, b = vtk.vtkPoints(), vtk.vtkPoints()
    for p in fixed_points(10):
        a.InsertNextPoint(*p)
        b.InsertNextPoint(*motion(p))
    thin.SetSourceLandmarks(a)
    thin.SetTargetLandmarks(b)
    spline.SetAndObserveTransformFromParent(thin)
    grid = Grid((20, 20, 20), (8.0,) * 3, (-86.0, -56.0, -46.0))
    field = mrml.sampled(mrml.point_map(spline), grid)
    points = grid.index_to_world(np.random.default_rng(0).integers(0, 20, (50, 3)))
    expected = np.array([thin.TransformPoint(p) for p in (points * FLIP).tolist()]) * FLIP
    np.testing.assert_allclose(field.warp_points(points), expected, atol=1e-3)


def test_point_map_is_of_the_moment_it_was_made():
    node, parent = nonlinear(), add_linear(np.diag([1.1, 1, 1, 1]))
    node.SetAndObserveTransformNodeID(parent.GetID())
    points = fixed_points(20) * FLIP
    mapping = mrml.point_map(node)
    before = mapping(points)
    parent.SetMatrixTransformToParent(mrml.vtk_matrix(np.diag([2.0, 1, 1, 1])))
    grid = Grid((8, 8, 8), (30.0,) * 3, (-105.0,) * 3)
    mrml.set_transform(node, mrml.transform_data(field_of(lambda p: p, grid), grid))
    np.testing.assert_array_equal(mapping(points), before)
    assert np.abs(mrml.point_map(node)(points) - before).max() > 5


@pytest.mark.parametrize("composite", [False, True])
def test_lattice_of_a_grid_transform_is_where_its_displacements_lie(composite):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    grid = oblique_grid()
    outside = Affine(np.diag([1.1, 1, 1]), np.array([1.0, 2, 3])) if composite else None
    displacement = mrml.transform_data(field_of(motion_lps, grid), grid).displacement
    mrml.set_transform(node, mrml.TransformData(grid, displacement, outside))
    found = mrml.own_lattice(node)
    assert found.size == grid.size
    np.testing.assert_allclose(found.corners(), grid.corners(), atol=1e-9)
    node.SetAndObserveTransformNodeID(add_linear(np.diag([2.0, 1, 1, 1])).GetID())
    assert mrml.own_lattice(node) is None
    node.SetAndObserveTransformNodeID(None)
    node.Inverse()
    assert mrml.own_lattice(node) is None


def test_transforms_without_a_grid_have_no_lattice():
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    for node in (add_linear(np.eye(4)), empty):
        assert mrml.own_lattice(node) is None
    np.testing.assert_array_equal(mrml.point_map(empty)([[1.0, 2, 3]]), [[1, 2, 3]])


# ---------- masks


def lung_count(mask: sitk.Image) -> float:
    """mm^3"""
    return float(sitk.GetArrayViewFromImage(mask).sum() * np.prod(mask.GetSpacing()))


def add_segmentation(fixed, balls):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Lungs")
    node.SetReferenceImageGeometryParameterFromVolumeNode(fixed)
    positions = points_of(FIXED_MATRIX, FIXED_SHAPE)
    for name, centre, radius in balls:
        inside = ((positions - centre) ** 2).sum(-1) < radius**2
        label = slicer.util.addVolumeFromArray(
            inside.astype(np.uint8), FIXED_MATRIX, name, "vtkMRMLLabelMapVolumeNode"
        )
        slicer.app.logics["segmentations"].ImportLabelmapToSegmentationNode(label, node)
        slicer.mrmlScene.RemoveNode(label)
    return node


BALLS = [("left", (-20, -20, 30), 22.0), ("right", (40, -20, 30), 18.0)]


def centre_ras(mask: sitk.Image) -> np.ndarray:
    index = np.argwhere(sitk.GetArrayFromImage(mask) > 0).mean(0)[::-1]
    return np.array(mask.TransformContinuousIndexToPhysicalPoint(index.tolist())) * FLIP


def test_segments_give_masks_in_the_right_place():
    fixed, _ = add_pair()
    node = add_segmentation(fixed, BALLS)
    ids = list(node.GetSegmentation().GetSegmentIDs())
    for identifier, (_, centre, radius) in zip(ids, BALLS):
        mask = mrml.mask_from_node(node, identifier)
        np.testing.assert_allclose(centre_ras(mask), centre, atol=0.7)
        assert lung_count(mask) == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.03)
    both = mrml.mask_from_node(node)
    assert lung_count(both) == pytest.approx(sum(lung_count(mrml.mask_from_node(node, i)) for i in ids))


def test_segmentation_under_a_linear_transform_moves_with_it():
    fixed, _ = add_pair()
    node = add_segmentation(fixed, BALLS[:1])
    shift = np.eye(4)
    shift[:3, :3], shift[:3, 3] = rotation(2, 30), (0, 70, -9)
    node.SetAndObserveTransformNodeID(add_linear(shift).GetID())
    expected = shift[:3, :3] @ BALLS[0][1] + shift[:3, 3]
    np.testing.assert_allclose(centre_ras(mrml.mask_from_node(node)), expected, atol=0.7)


def test_surface_segmentation_is_voxelised_without_touching_it():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Surface")
    ball = vtk.vtkSphereSource()
    ball.SetCenter(10, -20, 30)
    ball.SetRadius(25)
    ball.SetThetaResolution(40)
    ball.SetPhiResolution(40)
    ball.Update()
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    node.AddSegmentFromClosedSurfaceRepresentation(ball.GetOutput(), "ball", [1, 0, 0])
    assert not node.GetSegmentation().ContainsRepresentation("Binary labelmap")
    mask = mrml.mask_from_node(node)
    np.testing.assert_allclose(centre_ras(mask), (10, -20, 30), atol=1.0)
    assert lung_count(mask) == pytest.approx(4 / 3 * np.pi * 25**3, rel=0.05)
    assert not node.GetSegmentation().ContainsRepresentation("Binary labelmap")


def test_rotated_roi_is_a_box_of_its_size_in_its_place():
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    roi.SetCenter(0, 0, 0)
    roi.SetSize(80, 50, 61)
    place = np.eye(4)
    place[:3, :3], place[:3, 3] = rotation(2, 35), (20, -5, 12)
    roi.SetAndObserveTransformNodeID(add_linear(place).GetID())
    mask = mrml.mask_from_node(roi)
    np.testing.assert_allclose(centre_ras(mask), (20, -5, 12), atol=1e-3)
    assert lung_count(mask) == pytest.approx(80 * 50 * 61)
    points = (
        np.array([(39, 0, 0), (0, 24, 0), (0, 0, 30), (41, 0, 0), (0, 26, 0), (0, 0, 31)]) @ place[:3, :3].T
    )
    world = (points + place[:3, 3]) * FLIP
    inside = [mask[mask.TransformPhysicalPointToIndex(p)] for p in world.tolist()]
    assert inside == [1, 1, 1, 0, 0, 0]


def test_empty_regions_are_named():
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Unplaced")
    with pytest.raises(InputError, match="Unplaced is empty"):
        mrml.mask_from_node(roi)
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Blank")
    with pytest.raises(InputError, match="Blank has no segment"):
        mrml.mask_from_node(segmentation)
    fixed, _ = add_pair()
    with pytest.raises(InputError, match="has no segment Nowhere"):
        mrml.mask_from_node(add_segmentation(fixed, BALLS), "Nowhere")


# ---------- placing under a result


def result_node():
    node = nonlinear()
    mrml.mark_result(node)
    return node


def test_placing_keeps_the_pose_and_other_nodes():
    shift = np.eye(4)
    shift[:3, :3], shift[:3, 3] = rotation(1, 10), (9, 9, 9)
    fixed, moving = add_pair(shift)
    common = add_linear(shift, "table")
    moving.SetAndObserveTransformNodeID(common.GetID())
    fixed.SetAndObserveTransformNodeID(common.GetID())
    pose = mrml.pose(moving)
    node = result_node()
    placement = mrml.place_under(moving, node)
    np.testing.assert_allclose(mrml.pose(moving), pose, atol=1e-9)
    assert node in mrml.parents(moving)
    assert fixed.GetParentTransformNode() is common
    assert common.GetParentTransformNode() is None
    mrml.put_back(placement)
    assert moving.GetParentTransformNode() is common
    assert slicer.util.getNodesByClass("vtkMRMLLinearTransformNode").count(common) == 1
    assert not [
        n for n in slicer.util.getNodesByClass("vtkMRMLLinearTransformNode") if n.GetName().endswith("pose")
    ]


def test_registered_volume_can_be_read_again_in_its_original_pose():
    _, moving = add_pair()
    before = mrml.image_from_volume(moving)
    mrml.place_under(moving, result_node())
    again = mrml.image_from_volume(moving)
    np.testing.assert_allclose(again.GetOrigin(), before.GetOrigin())
    second = result_node()
    mrml.place_under(moving, second)
    assert moving.GetParentTransformNode() is second


def test_moving_volume_matrix_constants_differ():
    # guards the tests above: the two lattices must not be alike
    assert not np.allclose(FIXED_MATRIX, MOVING_MATRIX)
    assert FIXED_SHAPE != MOVING_SHAPE
    assert (
        abs(pattern(points_of(ijk_to_ras(np.eye(3), (9, 9, 9), (8, 8, 8), (0, 0, 0)), (8, 8, 8))).std()) > 50
    )
