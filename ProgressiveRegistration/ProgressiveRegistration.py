"""Lung CT registration in 3D Slicer: the module, its panel, its logic for scripts, its self-test.

The algorithm is in ProgressiveRegistrationLib, what ties it to Slicer in ProgressiveRegistrationSlicer.
"""

from __future__ import annotations

import slicer
from ProgressiveRegistrationSlicer import installer, sample_data
from ProgressiveRegistrationSlicer.i18n import _, translate
from ProgressiveRegistrationSlicer.panel import RegistrationPanel
from ProgressiveRegistrationSlicer.parameter_node import ProgressiveRegistrationParameterNode
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
)


class ProgressiveRegistration(ScriptedLoadableModule):
    """What the application knows about the module before it is opened."""

    def __init__(self, parent) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Progressive Registration")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        # whose nodes the parameters name: Slicer then loads those modules first
        parent.dependencies = ["Markups", "Segmentations", "Sequences", "Volumes", "Transforms", "Colors"]
        parent.contributors = ["The Progressive Registration authors"]
        parent.helpText = _(
            "<p>Registers two lung CT scans of one patient (inhale and exhale, baseline and follow-up) "
            "with a progressively trained network, and shows how good the result is: landmark error, "
            "folding, fusion.</p>"
            "<p>Choose a fixed and a moving volume and press Register. The lungs are found automatically. "
            "Sample data: <i>Sample Data</i> module, <i>BreathingThorax</i>.</p>"
            "<p>For research; not a medical device.</p>"
        )
        parent.acknowledgementText = _(
            "<p>The method is described in: K.A.J. Eppenhof, M.W. Lafarge, M. Veta and J.P.W. Pluim, "
            "<i>Progressively Trained Convolutional Neural Networks for Deformable Image Registration</i>, "
            "IEEE Transactions on Medical Imaging 39(5), 1594-1604, 2020, "
            '<a href="https://doi.org/10.1109/TMI.2019.2953788">doi:10.1109/TMI.2019.2953788</a>. '
            "Please cite it when you use this module.</p>"
        )
        slicer.app.connect("startupCompleted()", sample_data.register)


class ProgressiveRegistrationLogic(ScriptedLoadableModuleLogic):
    """Everything the module does, for scripts: no window, no pop-up; errors are exceptions with one sentence.

    >>> logic = ProgressiveRegistrationLogic()
    >>> result = logic.register(fixedNode, movingNode, preset="balanced", warped=True)
    >>> result.transform, result.warped, result.figures["folding"]
    >>> logic.landmarkErrors(fixedPoints, movingPoints, result.transform).after.mean()
    """

    def __init__(self, register=None) -> None:
        """``register`` replaces the engine's function of that name (tests)."""
        ScriptedLoadableModuleLogic.__init__(self)
        self._register = register
        self._parameters = None

    def getParameterNode(self):
        """The module's parameters; the same wrapper while the node is the same,
        for each goes on observing it."""
        node = super().getParameterNode()
        if self._parameters is None or self._parameters.parameterNode is not node:
            self._parameters = ProgressiveRegistrationParameterNode(node)
        return self._parameters

    def session(self, fixedNode, movingNode, **options):
        """A ``SceneRegistration`` of the two volumes, ready to ``compute`` and ``finish``."""
        from ProgressiveRegistrationSlicer.session import SceneRegistration

        return SceneRegistration(fixedNode, movingNode, register=self._register, **options)

    def register(self, fixedNode, movingNode, *, progress=None, cancelled=None, **options):
        """Register two volumes and put the result into the scene.

        Parameters
        ----------
        transform, warped, jacobian, bspline : True for a new node, a node to be overwritten, None for not
            wanted; by default a new transform only.
        hardened : True for copies of the moving volume and landmarks with the transform applied.
        initial_transform : a transform node to start from, where the lungs' positions are no help.
        fixed_region, moving_region, fixed_segment, moving_segment : where the lungs are, when they shall not
            be searched for.
        options : the engine's ``Options``, as for the command line; each of its fields can be given by name:
            preset ("fast", "balanced" (default) or "accurate"), model, device, lung_boxes (see
            ``ProgressiveRegistrationLib.registration.register``), inverse_consistency, uncertainty.
        moving_landmarks : point lists to put under the transform with the moving volume.
        fixed_landmarks : point lists to take out of earlier results with the fixed volume.
        place : put the moving volume and landmarks under the transform (default True).
        progress, cancelled : ``progress(stage, fraction, text)``, ``cancelled() -> bool``.

        Returns
        -------
        SceneResult : ``transform``, ``warped``, ``jacobian`` (nodes or None), ``registration``, ``figures``,
            ``notes``, ``undo()``.

        Raises
        ------
        ProgressiveRegistrationError : one sentence; the scene is as it was.
        """
        if self._register is None:
            installer.require()
        session = self.session(fixedNode, movingNode, **options)
        return session.finish(session.compute(progress, cancelled))

    def landmarkErrors(self, fixedLandmarks, movingLandmarks, transformNode=None):
        """TRE of two point lists under any transform node, in mm: a ``LandmarkErrors``."""
        from ProgressiveRegistrationSlicer.mrml_landmarks import landmark_errors

        return landmark_errors(fixedLandmarks, movingLandmarks, transformNode)

    def storeLandmarkErrors(self, errors, movingLandmarks, tableNode=None, modelNode=None):
        """Keep the errors as a measurement of the moving list and, if given, in a table and a model node."""
        from ProgressiveRegistrationSlicer import mrml_landmarks

        mrml_landmarks.store_measurement(errors, movingLandmarks)
        if tableNode is not None:
            mrml_landmarks.update_table(errors, tableNode)
        if modelNode is not None:
            mrml_landmarks.update_error_model(errors, modelNode)
            mrml_landmarks.show_error_model(modelNode, max(5.0, float(errors.after.max())))

    def suggestion(self, fixedNode, movingNode, transformNode=None, **options):
        """A ``landmark_review.Suggestion``: ``compute`` it, then ``finish`` it into two point lists."""
        from ProgressiveRegistrationSlicer.landmark_review import Suggestion

        return Suggestion(fixedNode, movingNode, transformNode, **options)

    def measurement(self, transformNode, fixedNode, movingNode, **options):
        """A ``Measurement`` of a transform: ``compute()`` gives its report, ``compute(folder)`` writes it."""
        from ProgressiveRegistrationSlicer.measuring import Measurement

        return Measurement(transformNode, fixedNode, movingNode, **options)


class ProgressiveRegistrationWidget(RegistrationPanel):
    """The panel; see ``ProgressiveRegistrationSlicer.panel``."""

    def makeLogic(self):
        return ProgressiveRegistrationLogic()


class ProgressiveRegistrationTest(ScriptedLoadableModuleTest):
    """Registers the breathing thorax and asks for a landmark error that only a working chain reaches."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear(0)

    def runTest(self, **options) -> None:
        self.setUp()
        self.test_registers_phantom()

    def test_registers_phantom(self) -> None:
        if installer.missing():
            self.skipTest("PyTorch or another package is not installed: " + ", ".join(installer.missing()))
        self.delayDisplay("Making the breathing thorax")
        fixed, moving, fixed_points, moving_points = sample_data.load()
        logic = ProgressiveRegistrationLogic()
        before = logic.landmarkErrors(fixed_points, moving_points).after.mean()
        self.delayDisplay("Registering")
        result = logic.register(fixed, moving, moving_landmarks=[moving_points], warped=True)
        errors = logic.landmarkErrors(fixed_points, moving_points, result.transform)
        self.delayDisplay(f"TRE {before:.2f} mm before, {errors.after.mean():.2f} mm after")
        assert errors.after.mean() < 0.5 * before
        assert moving.GetParentTransformNode() is result.transform
        assert result.warped.GetImageData().GetDimensions() == fixed.GetImageData().GetDimensions()
        result.undo()
        assert moving.GetParentTransformNode() is None
        self.delayDisplay("Passed")
