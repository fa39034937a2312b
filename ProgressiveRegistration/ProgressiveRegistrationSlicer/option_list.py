"""A combo box whose entries are known only at run time (``options``)."""

from __future__ import annotations

import qt

from .i18n import _


class OptionList:
    """A combo box with an identifier behind each entry; an unknown choice is kept, not changed silently."""

    def __init__(self, combo, on_changed) -> None:
        self._combo, self._on_changed, self._identifiers = combo, on_changed, []
        combo.connect("currentIndexChanged(int)", self._changed)

    def fill(self, entries: list, current: str) -> None:
        """``entries``: (identifier, text, tool tip); ``current``: the identifier to show."""
        if current not in [entry[0] for entry in entries]:
            entries = [*entries, (current, _("{name} (not available here)").format(name=current), "")]
        was_blocked = self._combo.blockSignals(True)
        self._combo.clear()
        self._identifiers = [entry[0] for entry in entries]
        for row, (_identifier, text, tip) in enumerate(entries):
            self._combo.addItem(text)
            self._combo.setItemData(row, tip, qt.Qt.ToolTipRole)
        self._combo.setCurrentIndex(self._identifiers.index(current))
        self._combo.blockSignals(was_blocked)

    def _changed(self, index) -> None:
        if 0 <= index < len(self._identifiers):
            self._on_changed(self._identifiers[index])
