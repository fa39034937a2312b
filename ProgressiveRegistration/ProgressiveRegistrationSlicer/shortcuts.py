"""Keys: Enter registers, F switches fusion off and on, A, R and L decide on the landmark that is shown."""

from __future__ import annotations

import qt
import slicer


class Shortcuts:
    """Active while the module is shown. Enter works in the sections where no text is typed."""

    def __init__(self, panel) -> None:
        self._panel = panel
        self._keys = []
        ui = panel.ui
        for section in (ui.inputsCollapsibleButton, ui.outputsCollapsibleButton, ui.applyButton):
            for key in ("Return", "Enter"):
                self._add(key, section, qt.Qt.WidgetWithChildrenShortcut, self._register)
        window = slicer.util.mainWindow() or panel.parent
        for key, action in (
            ("F", panel.toggleFusion),
            ("A", panel.review.on_accept),
            ("R", panel.review.on_reject),
            ("L", panel.review.on_later),
        ):
            self._add(key, window, qt.Qt.WindowShortcut, action, review=key != "F")

    def _add(self, key: str, parent, context, action, review: bool = False) -> None:
        shortcut = qt.QShortcut(qt.QKeySequence(key), parent)
        shortcut.setContext(context)
        shortcut.setEnabled(False)
        shortcut.connect("activated()", lambda: self._run(action, review))
        self._keys.append(shortcut)

    def enable(self, on: bool) -> None:
        for shortcut in self._keys:
            shortcut.setEnabled(on)

    def _run(self, action, review: bool) -> None:
        # a letter must not remove a landmark that nobody is looking at
        if not review or self._panel.review.two_up.shown:
            action()

    def _register(self) -> None:
        button = self._panel.ui.applyButton
        if button.enabled and self._panel._task is None:
            button.click()
