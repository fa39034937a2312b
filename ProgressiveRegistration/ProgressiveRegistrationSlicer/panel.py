"""The module's panel: what the user sees, tied to the parameter node, the logic and the slice views."""

from __future__ import annotations

import logging
import sys
import time

import ctk
import slicer
import vtk
from ProgressiveRegistrationLib.errors import ProgressiveRegistrationError
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from . import initial, installer, options, overlays, run_log
from .background import BackgroundTask
from .fusion_view import FusionView
from .i18n import _
from .looks import PROBLEM, breakable, colour
from .lung_nodes import LungSegmentations
from .measuring import folding_text
from .option_list import OptionList
from .options import load_torch
from .parameter_node import FusionMode
from .readiness import obstacle
from .review_panel import ReviewPanel
from .sequence_panel import SequenceSection
from .settings_panel import FramesPanel, SettingsPanel
from .shortcuts import Shortcuts
from .tre_panel import TrePanel, add_model_node, add_table_node
from .trust import TrustMap, state_of, trust_text
from .work import remaining_text

MAX_UNDO = 4


class RegistrationPanel(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The module's panel; ``makeLogic`` gives the logic that does the work."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._guiTag = None
        self._task = None
        self._results = []  # (SceneResult, the transform evaluated before it), the latest last
        self._watched = ()
        self._fused = None
        self._trust = TrustMap()
        self._shownOptions = None
        self._regions = {}  # name: (region node, segment) at the last update
        self._lastFusion = FusionMode.OVERLAY
        self._tips = {}  # of the selectors, without a node's name

    def makeLogic(self):
        raise NotImplementedError

    # ---- the panel's life

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/ProgressiveRegistration.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = self.makeLogic()
        self.fusion = FusionView()
        self.tre = TrePanel(self.ui.treSummaryLabel, self.ui.treTable)
        self.review = ReviewPanel(self)
        self.settings = SettingsPanel(self)
        self.frames = FramesPanel(self)
        self.shortcuts = Shortcuts(self)
        self._models = OptionList(self.ui.modelComboBox, lambda name: self._setParameter("modelName", name))
        self._devices = OptionList(self.ui.deviceComboBox, lambda name: self._setParameter("device", name))
        self._segments = {
            name: OptionList(combo, lambda s, name=name: self._setParameter(f"{name}Segment", s))
            for name, combo in (
                ("fixed", self.ui.fixedSegmentComboBox),
                ("moving", self.ui.movingSegmentComboBox),
            )
        }
        for node, event, method in (
            (slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose),
            (slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose),
            (slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport),
            (slicer.mrmlScene, slicer.mrmlScene.NodeRemovedEvent, self.onNodeRemoved),
        ):
            self.addObserver(node, event, method)
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        self.ui.undoButton.connect("clicked(bool)", self.onUndoButton)
        self.ui.tableButton.connect("clicked(bool)", self.onTableButton)
        self.ui.vectorsButton.connect("clicked(bool)", self.onVectorsButton)
        self.ui.gridButton.connect("clicked(bool)", self.onGridButton)
        self.ui.fitButton.connect("clicked(bool)", self.onFitButton)
        self.ui.lungsButton.connect("clicked(bool)", self.onLungsButton)
        self.ui.measureButton.connect("clicked(bool)", self.onMeasureButton)
        self.ui.reportButton.connect("clicked(bool)", self.onReportButton)
        self.ui.optionsCollapsibleButton.connect("contentsCollapsed(bool)", self.onOptionsCollapsed)
        self.ui.reportFolder.filters = ctk.ctkPathLineEdit.Dirs
        self.ui.progressFrame.hide()
        self._showMessage("")
        self._showQuality("")
        self.sequence = SequenceSection(self, panel.layout())
        self.layout.addStretch(1)  # what room is left lies below all sections
        self.initializeParameterNode()

    def cleanup(self) -> None:
        self._abandon()
        self.shortcuts.enable(False)
        self.review.close()
        self.fusion.restore()
        self.tre.close()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self) -> None:
        self.initializeParameterNode()
        self.fusion.resume()
        self.shortcuts.enable(True)

    def exit(self) -> None:
        self.fusion.pause()  # nothing shall blink in another module's work
        self.shortcuts.enable(False)
        if self._parameterNode is not None and self._guiTag is not None:
            self._parameterNode.disconnectGui(self._guiTag)
            self._guiTag = None

    def onReload(self) -> None:
        """Reload the helpers with the module (developer mode)."""
        for name in list(sys.modules):
            if name.split(".")[0] in ("ProgressiveRegistrationLib", "ProgressiveRegistrationSlicer"):
                del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller=None, event=None) -> None:
        self._abandon()
        self._results.clear()
        self.fusion.forget()
        self.review.forget()
        self.tre.close()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller=None, event=None) -> None:
        self._showMessage("")
        self._showQuality("")
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, caller=None, event=None) -> None:
        self.logic.getParameterNode().Modified()  # its references were not complete when they were read
        if self.parent.isEntered:
            self.initializeParameterNode()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeRemoved(self, caller, event, node) -> None:
        """A node that is shown somewhere was deleted: forget it before it is used again."""
        p = self._parameterNode
        if p is None:
            return
        for name in p.allParameters:
            if getattr(p, name) is node:
                setattr(p, name, None)
        if self._fused is not None and node in self._fused:
            self._updateFusion()

    # ---- parameters

    def initializeParameterNode(self) -> None:
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, parameters) -> None:
        if self._parameterNode is not None:
            if self._guiTag is not None:
                self._parameterNode.disconnectGui(self._guiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.update)
        self._parameterNode, self._guiTag = parameters, None
        self._regions = {}
        if parameters is not None:
            self._guiTag = parameters.connectParametersToGui(self._parameterWidgets())
            self.addObserver(parameters, vtk.vtkCommand.ModifiedEvent, self.update)
        self.update()

    def _parameterWidgets(self) -> dict:
        """The widgets by the parameter that the .ui ties them to. Slicer's ``connectGui(self.ui)`` finds the
        same but does not return the tag that ``disconnectGui`` needs (Slicer issue 7547)."""
        named = ((widget.property("SlicerParameterName"), widget) for widget in vars(self.ui).values())
        return {name: widget for name, widget in named if name}

    def _setParameter(self, name: str, value) -> None:
        if self._parameterNode is not None:
            setattr(self._parameterNode, name, value)

    def update(self, caller=None, event=None) -> None:
        """Make the panel show the parameters and what can be done with them."""
        if slicer.mrmlScene.IsImporting():
            return  # node references are not complete yet; the end of the import updates
        p = self._parameterNode
        self._watchVolumes()
        self._updateApplyButton()
        self._updateUndoButton()
        self.sequence.update()
        if p is None:
            return
        self._updateSegments()
        self._updateOptions()
        self.tre.table_node, self.tre.model_node = p.errorTable, p.errorModel
        self.tre.set_nodes(p.fixedLandmarks, p.movingLandmarks, p.evaluatedTransform)
        measurable = (
            p.evaluatedTransform is not None and p.fixedVolume is not None and p.movingVolume is not None
        )
        for button in (self.ui.measureButton, self.ui.reportButton):
            button.enabled = measurable and self._task is None
        self._noteRun()
        self._showNames()
        busy = self._task is not None
        volumes = p.fixedVolume is not None or p.movingVolume is not None
        self.ui.lungsButton.enabled = volumes and not busy
        self.ui.fitButton.enabled = p.fixedLandmarks is not None and p.movingLandmarks is not None
        self.ui.gridButton.enabled = p.evaluatedTransform is not None
        self.review.update()
        self.frames.update()
        self._updateFusion()

    def _updateUndoButton(self) -> None:
        button, p = self.ui.undoButton, self._parameterNode
        button.enabled = bool(self._results) and self._task is None
        button.toolTip = _("Put the scene back as it was before the last registration.")
        if p is not None and not self._results and run_log.read(p.evaluatedTransform):
            button.toolTip = _(
                "This result was loaded with the scene: there is nothing to undo. To take it back, move the "
                "volume out of the transform in the Data module."
            )

    def _showNames(self) -> None:
        """A selector cuts a long name off: its tool tip begins with the whole one."""
        for name in ("fixedVolume", "movingVolume", "fixedLandmarks", "movingLandmarks"):
            selector, node = getattr(self.ui, f"{name}Selector"), getattr(self._parameterNode, name)
            tip = self._tips.setdefault(name, selector.toolTip)
            selector.toolTip = tip if node is None else f"{node.GetName()}\n{tip}"

    def _noteRun(self) -> None:
        """Keep the landmark error with the run that is measured, and show the run."""
        transform = self._parameterNode.evaluatedTransform
        if transform is not None:
            run_log.note_errors(transform, self.tre.errors)
        self.ui.evaluatedTransformSelector.toolTip = run_log.text(transform) or _(
            "The transform to measure: any kind, from this module or another one."
        )

    def _watchVolumes(self) -> None:
        """A volume that gets voxels or another parent may become usable, or stop being so."""
        p = self._parameterNode
        volumes = () if p is None else tuple(v for v in (p.fixedVolume, p.movingVolume) if v is not None)
        if volumes == self._watched:
            return
        events = (
            slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
            slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent,
        )
        self.removeObservers(self._volumeChanged)
        self._watched = volumes
        for volume in dict.fromkeys(volumes):
            for event in events:
                self.addObserver(volume, event, self._volumeChanged)

    def _volumeChanged(self, caller=None, event=None) -> None:
        self._updateApplyButton()

    def _updateApplyButton(self) -> None:
        button = self.ui.applyButton
        if self._task is not None:
            button.text, button.toolTip, button.enabled = (
                _("Cancel"),
                _("Stop; the scene stays as it is."),
                True,
            )
            return
        text, sentence = obstacle(self._parameterNode)
        button.text = text or _("Register")
        button.toolTip = sentence or _("Align the moving volume to the fixed one.")
        button.enabled = not text

    def _updateOptions(self) -> None:
        p = self._parameterNode
        shown = (self.ui.optionsCollapsibleButton.collapsed, p.modelName, p.device)
        if not shown[0] and shown != self._shownOptions:
            self._models.fill(options.model_entries(), p.modelName)
            self._devices.fill(options.device_entries(), p.device)
            cards = options.models()
            chosen = next((c for c in cards if p.modelName in ("", c.name)), None)
            self.ui.modelCardLabel.text = options.card_text(chosen) if chosen is not None else ""
        self._shownOptions = shown
        for name, combo in (
            ("fixed", self.ui.fixedSegmentComboBox),
            ("moving", self.ui.movingSegmentComboBox),
        ):
            entries = options.segment_entries(getattr(p, f"{name}Region"))
            combo.setVisible(bool(entries))
            if entries:
                self._segments[name].fill(entries, getattr(p, f"{name}Segment"))

    def _updateSegments(self) -> None:
        """Another region has other segments, often under the same IDs: start with all of them."""
        p = self._parameterNode
        for name in ("fixed", "moving"):
            now = (getattr(p, f"{name}Region"), getattr(p, f"{name}Segment"))
            before = self._regions.get(name, now)
            self._regions[name] = now
            if now[0] is not before[0] and now[1] == before[1] != "":
                setattr(p, f"{name}Segment", "")

    def onOptionsCollapsed(self, collapsed) -> None:
        if not collapsed and self._parameterNode is not None:
            load_torch()  # so that the graphics cards can be listed
            self._updateOptions()

    def _updateFusion(self) -> None:
        p = self._parameterNode
        if p.fusionMode is not FusionMode.OFF and (p.fixedVolume is None or p.movingVolume is None):
            p.fusionMode = FusionMode.OFF  # a volume was deleted or deselected
            return
        if p.fusionMode is not FusionMode.OFF and self.review.two_up.shown:
            self.ui.twoUpButton.checked = False  # one or the other
        mode = p.fusionMode
        self.ui.opacitySlider.enabled = mode.lies_over_fixed
        change = p.evaluatedTransform if mode in (FusionMode.JACOBIAN, FusionMode.UNCERTAINTY) else None
        if mode is FusionMode.UNCERTAINTY:
            self.fusion.trust = self._trust.known(change, p.fixedVolume, p.movingVolume)
            if self.fusion.trust is None:
                mode = FusionMode.OVERLAY  # until it is known
        shown = (mode, p.fixedVolume, self._alignedVolume(), change)
        if shown != self._fused:
            self._fused = shown
            with self._errorsShown():
                self.fusion.show(*shown[:3], p.fusionOpacity, transform=change)
        self.fusion.set_opacity(p.fusionOpacity)
        if mode is not p.fusionMode and self._task is None:
            self._judge(change)

    def _judge(self, transform) -> None:
        """Estimate how far off a transform may be; until then, or without it, the overlay is shown."""
        p = self._parameterNode
        judged = state_of(transform, p.fixedVolume, p.movingVolume)

        def show(found):
            self._trust.keep(found, judged)
            self._showMessage(trust_text(found))

        def instead():
            if self._parameterNode is not None:
                self._parameterNode.fusionMode = FusionMode.OVERLAY

        try:
            if transform is None:
                raise ProgressiveRegistrationError(
                    _("There is no transform to judge yet: register, or choose one to evaluate.")
                )
            self.ensureInstalled()
            self._start(self._measurement().expected_error, show, instead)
        except Exception as error:
            self._failed(error)
            instead()

    def _alignedVolume(self):
        """The moving volume; where the latest registration made no transform to put it under,
        the registered one."""
        p = self._parameterNode
        result = self._results[-1][0] if self._results else None
        if result is None or result.transform is not None or result.warped is None:
            return p.movingVolume
        pair = [None if node is None else node.GetID() for node in (p.fixedVolume, p.movingVolume)]
        there = slicer.mrmlScene.IsNodePresent(result.warped)
        return result.warped if there and pair == [result.fixed_id, result.moving_id] else p.movingVolume

    # ---- running

    def _options(self) -> dict:
        p = self._parameterNode
        return {
            "transform": (p.outputTransform or True) if p.wantTransform else None,
            "warped": (p.warpedVolume or True) if p.wantWarped else None,
            "jacobian": (p.jacobianVolume or True) if p.wantJacobian else None,
            "bspline": (p.bsplineTransform or True) if p.wantBSpline else None,
            "hardened": p.wantHardened,
            "initial_transform": p.initialTransform,
            "fixed_region": p.fixedRegion,
            "moving_region": p.movingRegion,
            "fixed_segment": p.fixedSegment,
            "moving_segment": p.movingSegment,
            "moving_landmarks": [p.movingLandmarks],
            "fixed_landmarks": [p.fixedLandmarks],
            **options.chosen_options(p),
        }

    def onApplyButton(self, clicked=None) -> None:
        """Start, or cancel what is running."""
        if self._task is not None:
            self._task.cancel()
            self.ui.stageLabel.text = _("Cancelling...")
            return
        p = self._parameterNode
        with self._errorsShown():
            self.ensureInstalled()
            session = self.logic.session(p.fixedVolume, p.movingVolume, **self._options())
            self._start(session.compute, lambda computed: self._registered(session, computed))

    def ensureInstalled(self) -> None:
        """Ask for what registering needs, unless a test replaced the engine."""
        if self.logic._register is None:
            installer.ensure()

    def pauseFusion(self) -> None:
        """Off, because the views are wanted for something else."""
        if self._parameterNode is not None:
            self._parameterNode.fusionMode = FusionMode.OFF

    def toggleFusion(self) -> None:
        """Off, or the mode that was shown last."""
        p = self._parameterNode
        if p is None:
            return
        if p.fusionMode is FusionMode.OFF:
            p.fusionMode = self._lastFusion
        else:
            self._lastFusion = p.fusionMode
            p.fusionMode = FusionMode.OFF

    def _registered(self, session, computed) -> None:
        p = self._parameterNode
        with self._errorsShown():
            result = session.finish(computed)
            done = (result, p.evaluatedTransform)
            self._results = [*self._results[1 - MAX_UNDO :], done]  # each keeps its field in memory
            if result.transform is not None:
                p.evaluatedTransform = result.transform
            if result.transform is not None or result.warped is not None:
                self._fused = None  # what is shown moved: draw a checkerboard again
                p.fusionMode = FusionMode.OVERLAY if p.fusionMode is FusionMode.OFF else p.fusionMode
            self._showQuality(folding_text(result.figures))
            seconds = result.registration.seconds.get("total", 0.0)
            made = _("Registered in {seconds:.1f} s on {device}.").format(
                seconds=seconds, device=result.registration.device
            )
            self._showMessage(" ".join([made, *result.notes]))
        self.update()

    def _start(self, work, on_done, instead=lambda: None) -> None:
        """``instead()`` is called when the work fails or is cancelled."""

        def failed(error):
            instead()
            self._failed(error)

        def cancelled(_value):
            instead()
            self._showMessage(_("Cancelled; the scene is as it was."))

        self._task = BackgroundTask(
            work,
            on_done=lambda value: self._ended(on_done, value),
            on_failed=lambda error: self._ended(failed, error),
            on_cancelled=lambda: self._ended(cancelled, None),
            on_progress=self._showProgress,
        )
        self._started = time.monotonic()
        self._showMessage("")
        self.ui.progressBar.value = 0
        self.ui.stageLabel.text = _("Starting...")
        self.ui.progressFrame.show()
        self._task.start()
        self.update()

    def _ended(self, then, value) -> None:
        self._task = None
        self.ui.progressFrame.hide()
        then(value)
        self.update()

    def _failed(self, error) -> None:
        if not isinstance(error, ProgressiveRegistrationError):
            logging.error("Progressive Registration failed", exc_info=error)
        self._showMessage(str(error) or type(error).__name__, problem=True)

    def _abandon(self) -> None:
        """Let go of a running computation without another word: the scene it belongs to is going away."""
        if self._task is not None:
            self._task.abandon()
            self._task = None
            self.ui.progressFrame.hide()

    def _showProgress(self, stage: str, fraction: float, text: str) -> None:
        self.ui.progressBar.value = round(100 * fraction)
        left = remaining_text(fraction, time.monotonic() - self._started)
        self.ui.stageLabel.text = f"{text[:1].upper()}{text[1:]}" + (f", {left}" if left else "")

    def _showMessage(self, text: str, problem: bool = False) -> None:
        self.ui.messageLabel.text = breakable(text)
        red = colour(PROBLEM, self.ui.messageLabel)
        self.ui.messageLabel.setStyleSheet(f"color: {red}" if problem else "")
        self.ui.messageLabel.setVisible(bool(text))

    def _showQuality(self, text: str) -> None:
        self.ui.qualityLabel.text = text
        self.ui.qualityLabel.setVisible(bool(text))

    def _errorsShown(self):
        """``with`` this, errors are shown in the panel; those that are not the user's are logged as well."""
        return _ErrorsShown(self._failed)

    # ---- after it

    def onUndoButton(self, clicked=None) -> None:
        if self._results:
            self.fusion.restore()
            p = self._parameterNode
            p.fusionMode = FusionMode.OFF
            result, earlier = self._results.pop()
            if overlays.grid_shown(result.transform):
                overlays.hide_grid(result.transform)
            shown = result.transform is not None and p.evaluatedTransform is result.transform
            result.undo()
            if shown:
                there = earlier is not None and slicer.mrmlScene.IsNodePresent(earlier)
                p.evaluatedTransform = earlier if there else None
            self._showQuality("")
            self._showMessage(_("The registration was undone."))
        self.update()

    def onTableButton(self, clicked=None) -> None:
        p = self._parameterNode
        self.tre.update()  # brings a table that is there up to date
        if self.tre.errors is None:
            self._showMessage(self.tre.message, problem=True)
            return
        if p.errorTable is None:
            p.errorTable = add_table_node(self.tre.errors)
            sentence = _("{name} follows the landmarks; save it as .tsv or .csv with Save.")
        else:
            sentence = _("{name} is up to date and follows the landmarks; save it as .tsv or .csv with Save.")
        self._showMessage(sentence.format(name=p.errorTable.GetName()))

    def onGridButton(self, clicked=None) -> None:
        p = self._parameterNode
        transform = p.evaluatedTransform
        with self._errorsShown():
            if overlays.grid_shown(transform):
                overlays.hide_grid(transform)
                return
            volume = p.fixedVolume
            between = (0.0, 30.0) if volume is None else overlays.displacements(transform, volume)
            overlays.show_grid(transform, volume, between)

    def onFitButton(self, clicked=None) -> None:
        p = self._parameterNode
        with self._errorsShown():
            p.initialTransform, sentence = initial.fit_to_landmarks(p.fixedLandmarks, p.movingLandmarks)
            self._showMessage(sentence)

    def onLungsButton(self, clicked=None) -> None:
        p = self._parameterNode
        chosen = {"fixedRegion": p.fixedVolume, "movingRegion": p.movingVolume}
        chosen = {name: volume for name, volume in chosen.items() if volume is not None}

        def show(found):
            with self._errorsShown():
                nodes = work.finish(found)
                for name, node in zip(chosen, nodes):
                    setattr(p, name, node)
                litres = ", ".join(f"{lungs.volume_litres:.2f} l" for lungs in found)
                notes = [note for lungs in found for note in lungs.notes]
                self._showMessage(
                    " ".join(
                        [_("Lungs of {litres}; edit them in Segment Editor.").format(litres=litres), *notes]
                    )
                )

        with self._errorsShown():
            work = LungSegmentations(list(chosen.values()))
            self._start(work.compute, show)

    def onVectorsButton(self, clicked=None) -> None:
        p = self._parameterNode
        if p.errorModel is not None:
            overlays.remove_legend(p.errorModel)
            slicer.mrmlScene.RemoveNode(p.errorModel)
        elif self.tre.errors is None:
            self._showMessage(self.tre.message, problem=True)
        else:
            p.errorModel = add_model_node(self.tre.errors, self.tre.scale)

    def _measurement(self):
        self.tre.update()  # a change of a moment ago may not be shown yet
        p = self._parameterNode
        chosen = (p.evaluatedTransform, p.fixedVolume, p.movingVolume)
        result = next((r for r, _earlier in reversed(self._results) if r.describes(*chosen)), None)
        return self.logic.measurement(
            *chosen,
            result=result,
            doubt=self._trust.known(*chosen),
            errors=self.tre.errors,
            region=p.fixedRegion,
            segment=p.fixedSegment,
        )

    def onMeasureButton(self, clicked=None) -> None:
        def show(report):
            self._showQuality(folding_text(report))
            self._showMessage(" ".join(report["notes"]))

        with self._errorsShown():
            measurement = self._measurement()
            self._start(lambda progress, cancelled: measurement.compute(None, progress, cancelled), show)

    def onReportButton(self, clicked=None) -> None:
        folder = self.ui.reportFolder.currentPath

        def show(report):
            self._showMessage(_("The report is in {path}.").format(path=report["outputs"]["html"]))

        with self._errorsShown():
            if not folder:
                raise ProgressiveRegistrationError(_("Choose a folder for the report."))
            installer.ensure(torch=False)
            measurement = self._measurement()
            self._start(lambda progress, cancelled: measurement.compute(folder, progress, cancelled), show)


class _ErrorsShown:
    def __init__(self, show) -> None:
        self._show = show

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback) -> bool:
        if not isinstance(error, Exception):
            return False
        self._show(error)
        return True
