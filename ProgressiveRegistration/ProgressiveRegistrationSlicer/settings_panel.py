"""The panel's rows for settings of the user's own and for frames of a sequence."""

from __future__ import annotations

import slicer

from . import sequence_frames
from .i18n import _
from .user_settings import UserSettings


class SettingsPanel:
    """My settings: a list of names to type into, Save and Delete. ``panel`` as for ``ReviewPanel``."""

    def __init__(self, panel) -> None:
        self._panel, self.ui = panel, panel.ui
        self.settings = UserSettings(slicer.app.userSettings())
        self._fill("")
        self.ui.settingsComboBox.connect("activated(int)", self._chosen)
        self.ui.saveSettingsButton.connect("clicked(bool)", self._save)
        self.ui.deleteSettingsButton.connect("clicked(bool)", self._delete)

    def _fill(self, shown: str) -> None:
        combo = self.ui.settingsComboBox
        was_blocked = combo.blockSignals(True)
        combo.clear()
        for name in self.settings.names():
            combo.addItem(name)
        combo.setEditText(shown)
        combo.blockSignals(was_blocked)

    def _chosen(self, index) -> None:
        name = self.ui.settingsComboBox.itemText(index)
        if name not in self.settings.names():
            return  # Return was pressed on a new name
        with self._panel._errorsShown():
            self.settings.apply(name, self._panel._parameterNode)
            self._panel._showMessage(_("The settings {name} are in use.").format(name=name))

    def _save(self, clicked=None) -> None:
        name = self.ui.settingsComboBox.currentText.strip()
        with self._panel._errorsShown():
            self.settings.save(name, self._panel._parameterNode)
            self._fill(name)
            self._panel._showMessage(_("The settings {name} are kept on this computer.").format(name=name))

    def _delete(self, clicked=None) -> None:
        name = self.ui.settingsComboBox.currentText.strip()
        if name in self.settings.names():
            self.settings.delete(name)
            self._fill("")
            self._panel._showMessage(_("The settings {name} are deleted.").format(name=name))


class FramesPanel:
    """Sequence frames: two frames of a browser become the fixed and the moving volume."""

    def __init__(self, panel) -> None:
        self._panel, self.ui = panel, panel.ui
        self._browser = None
        self.ui.framesButton.connect("clicked(bool)", self._use)

    def update(self) -> None:
        p = self._panel._parameterNode
        browser = p.sequenceBrowser if p is not None else None
        count = sequence_frames.frame_count(browser)
        for box in (self.ui.fixedFrameSpinBox, self.ui.movingFrameSpinBox):
            box.setRange(0, max(0, count - 1))
            box.enabled = count > 1
        if browser is not self._browser:
            self._browser = browser
            self.ui.movingFrameSpinBox.value = count // 2  # half a breath away
        self.ui.framesButton.enabled = count > 1

    def _use(self, clicked=None) -> None:
        p = self._panel._parameterNode
        with self._panel._errorsShown():
            p.fixedVolume, p.movingVolume = sequence_frames.two_frames(
                p.sequenceBrowser, self.ui.fixedFrameSpinBox.value, self.ui.movingFrameSpinBox.value
            )
            self._panel._showMessage(
                _("{fixed} and {moving} are copies of the two frames.").format(
                    fixed=p.fixedVolume.GetName(), moving=p.movingVolume.GetName()
                )
            )
