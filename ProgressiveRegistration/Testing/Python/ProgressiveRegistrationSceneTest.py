"""What Slicer's CTest runs without PyTorch: volumes,
transforms and landmark errors on the application's own MRML."""

import unittest

import numpy as np
import slicer


class ProgressiveRegistrationSceneTest(unittest.TestCase):
    def setUp(self):
        slicer.mrmlScene.Clear(0)

    def tearDown(self):
        slicer.mrmlScene.Clear(0)

    def test_known_shift_is_undone_and_measured(self):
        from ProgressiveRegistrationLib.field import DisplacementField
        from ProgressiveRegistrationLib.geometry import Grid
        from ProgressiveRegistrationSlicer import mrml, mrml_landmarks

        shift = np.array([6.0, -4.0, 10.0])  # LPS mm, fixed -> moving
        grid = Grid((12, 12, 12), (10.0, 10.0, 10.0), (-55.0, -55.0, -55.0))
        field = DisplacementField(grid, np.broadcast_to(shift, (*grid.shape, 3)))
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Shift")
        mrml.set_transform(node, mrml.transform_data(field, grid))
        mrml.mark_result(node)

        rng = np.random.default_rng(0)
        fixed_ras = rng.uniform(-40, 40, (8, 3))
        moving_ras = fixed_ras + shift * [-1, -1, 1] + [0, 0, 0.5]
        lists = []
        for name, points in (("fixed", fixed_ras), ("moving", moving_ras)):
            markups = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
            slicer.util.updateMarkupsControlPointsFromArray(markups, points)
            lists.append(markups)
        errors = mrml_landmarks.landmark_errors(lists[0], lists[1], node)
        np.testing.assert_allclose(errors.after, 0.5, atol=1e-4)
        np.testing.assert_allclose(errors.before, np.linalg.norm(moving_ras - fixed_ras, axis=1), atol=1e-4)

        voxels = rng.integers(-1000, 200, (14, 15, 16)).astype(np.int16)
        matrix = np.diag([-3.0, -3.0, 4.0, 1.0])
        volume = slicer.util.addVolumeFromArray(voxels, matrix, "volume")
        placement = mrml.place_under(volume, node)
        assert volume.GetParentTransformNode() is node
        image = mrml.image_from_volume(volume)
        assert image.GetSize() == (16, 15, 14)
        np.testing.assert_allclose(image.GetDirection(), np.eye(3).ravel())
        mrml.put_back(placement)
        assert volume.GetParentTransformNode() is None

    def test_module_is_there_and_its_panel_opens(self):
        assert hasattr(slicer.modules, "progressiveregistration")
        import ProgressiveRegistration

        logic = ProgressiveRegistration.ProgressiveRegistrationLogic()
        parameters = logic.getParameterNode()
        parameters.wantWarped = True
        assert logic.getParameterNode().wantWarped
