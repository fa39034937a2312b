"""The option lists whose entries are known only at run time: models, devices, segments."""

from __future__ import annotations

import importlib.util
import sys

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


def model_entries() -> list:
    """The installed models; the first one is the default (identifier "")."""
    entries = []
    for card in models():
        text = _("{name} {version}").format(name=card.name, version=card.version)
        entries.append((card.name if entries else "", text, card_text(card)))
    return entries or [("", _("Default"), _("No model was found beside the module."))]


def models() -> list:
    """The cards of the installed models; none where the engine's packages are missing."""
    try:
        from ProgressiveRegistrationLib.model import available_models

        return list(available_models())
    except ImportError:
        return []


def card_text(card) -> str:
    """A model's card as a paragraph: the fields that it has, in its own order."""
    values = card.to_dict() if hasattr(card, "to_dict") else vars(card)
    shown = []
    for key, value in values.items():
        if value in (None, "", [], {}) or isinstance(value, (dict, list, tuple)):
            continue
        text = str(value)
        shown.append(f"<b>{key.replace('_', ' ')}</b>: {text[:200]}")
    return "<br>".join(shown)


def device_entries() -> list:
    """Auto, CPU and each graphics card by name; cards are known once PyTorch is loaded (not done here)."""
    entries = [
        ("auto", _("Automatic"), _("The graphics card if there is one with enough memory, else the CPU.")),
        ("cpu", _("CPU"), ""),
    ]
    torch = sys.modules.get("torch")
    if torch is None:
        return entries
    for index in range(torch.cuda.device_count()):
        entries.append((f"cuda:{index}", torch.cuda.get_device_name(index), f"cuda:{index}"))
    mps = getattr(torch.backends, "mps", None)
    if mps is not None and mps.is_available():
        entries.append(("mps", _("Apple graphics (mps)"), ""))
    return entries


def load_torch() -> bool:
    """Import PyTorch if it is installed, so that the graphics cards can be listed."""
    if "torch" not in sys.modules and importlib.util.find_spec("torch") is not None:
        import torch  # noqa: F401
    return "torch" in sys.modules


def segment_entries(node) -> list:
    """All segments together, and each one; empty for what is no segmentation."""
    if node is None or not node.IsA("vtkMRMLSegmentationNode"):
        return []
    entries = [("", _("All segments"), "")]
    segmentation = node.GetSegmentation()
    for identifier in segmentation.GetSegmentIDs():
        entries.append((identifier, segmentation.GetSegment(identifier).GetName(), ""))
    return entries
