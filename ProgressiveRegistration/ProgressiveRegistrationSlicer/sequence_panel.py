"""The panel's section for a whole 4DCT: choose a sequence browser, register all its phases."""

from __future__ import annotations

import ctk
import qt
import slicer

from . import installer, options
from .i18n import _
from .sequence_session import SequenceSession, summary


class SequenceSection:
    """A collapsed section below the panel's others; it uses the panel's preset, model, device, progress and
    messages.
    """

    def __init__(self, panel, layout) -> None:
        self.panel = panel
        self.nodes = None
        self.section = ctk.ctkCollapsibleButton()
        self.section.text = _("Sequence (4DCT)")
        self.section.objectName = "sequenceCollapsibleButton"
        self.section.collapsed = True
        form = qt.QFormLayout(self.section)
        form.rowWrapPolicy = qt.QFormLayout.WrapLongRows
        self.selector = slicer.qMRMLNodeComboBox()
        self.selector.nodeTypes = ["vtkMRMLSequenceBrowserNode"]
        self.selector.accessibleName = _("Sequence browser with the phases")
        self.selector.noneEnabled = True
        self.selector.addEnabled = False
        self.selector.removeEnabled = False
        self.selector.setMRMLScene(slicer.mrmlScene)
        self.selector.setToolTip(_("The sequence browser that plays the phases."))
        form.addRow(_("Phases:"), self.selector)
        self.cyclic = qt.QCheckBox(_("The last phase leads to the first again"))
        self.cyclic.checked = True
        self.cyclic.setToolTip(_("As in a 4DCT; not for follow-ups."))
        form.addRow(self.cyclic)
        self.button = qt.QPushButton(_("Register all phases"))
        self.button.setToolTip(
            _(
                "To the phase with the smallest lungs: transforms, amplitude, ventilation and uncertainty. "
                "Preset, model and device are those of Options."
            )
        )
        form.addRow(self.button)
        self.button.connect("clicked(bool)", self.onButton)
        self.selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda _node: self.update())
        layout.addWidget(self.section)
        self.update()

    def update(self) -> None:
        """Enabled with a browser, and while nothing runs."""
        self.button.enabled = self.selector.currentNode() is not None and self.panel._task is None

    def onButton(self, clicked=None) -> None:
        panel = self.panel
        p = panel._parameterNode
        with panel._errorsShown():
            if panel.logic._register is None:
                installer.ensure()
            session = SequenceSession(
                self.selector.currentNode(), cyclic=self.cyclic.checked, **options.chosen_options(p)
            )
            panel._start(session.compute, lambda result: self._done(session, result))

    def _done(self, session, result) -> None:
        with self.panel._errorsShown():
            self.nodes = session.finish(result)
            self.panel._showMessage(summary(result))
