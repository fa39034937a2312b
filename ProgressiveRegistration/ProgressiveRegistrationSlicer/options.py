"""The engine's options as the panel's parameters say them, and the lists whose entries are known only at run
time: models, devices, segments."""

from __future__ import annotations

import importlib.util
import logging
import sys
from dataclasses import fields

from ProgressiveRegistrationLib.errors import ProgressiveRegistrationError
from ProgressiveRegistrationLib.options import Options

from .i18n import _


def parameter_of(option: str) -> str:
    """The parameter that says one of the engine's options: its name as Slicer writes names."""
    first, *rest = option.split("_")
    return "modelName" if option == "model" else first + "".join(part.capitalize() for part in rest)


def option_parameters(parameters) -> dict[str, str]:
    """Option -> parameter, for all options that this panel has a parameter for."""
    names = {f.name: parameter_of(f.name) for f in fields(Options)}
    return {option: name for option, name in names.items() if name in parameters.allParameters}


def chosen_options(parameters) -> dict:
    """The engine's options that the user chose; an empty text is left to the engine."""
    chosen = {option: getattr(parameters, name) for option, name in option_parameters(parameters).items()}
    return {option: getattr(value, "value", value) for option, value in chosen.items()}


def model_entries() -> list:
    """The default (identifier ""), the installed models by name, and no network at all."""
    cards = models()
    if cards:
        default = _("Default: {name} {version}").format(name=cards[0].name, version=cards[0].version)
        entries = [("", default, card_text(cards[0]))]
    else:
        entries = [("", _("Default"), _("No model was found beside the module."))]
    entries += [(card.name, f"{card.name} {card.version}", card_text(card)) for card in cards]
    tip = _(
        "Start from the affine map between the lung boxes alone: for comparison, or with a refining preset."
    )
    return [*entries, ("none", _("No network"), tip)]


def models() -> list:
    """The cards of the installed models; none where the engine's packages
    are missing or a card is damaged."""
    if not load_torch():
        return []
    try:
        from ProgressiveRegistrationLib.network.model import available_models

        return list(available_models())
    except (ImportError, ProgressiveRegistrationError) as error:
        logging.warning("The models cannot be listed: %s", error)
        return []


def card_text(card) -> str:
    """A model's card as a paragraph: what it is, what it learnt from, what was measured."""
    from ProgressiveRegistrationLib.network.model import metrics_text

    data = ", ".join(f"{d.get('name', '?')} ({d.get('scans', '?')})" for d in card.training_data)
    rows = [
        (_("Model"), f"{card.name} {card.version}"),
        ("", card.description),
        (_("Trained on (scans)"), data),
        (_("Iterations"), str(card.steps or "")),
        (_("Measured"), metrics_text(card.metrics)),
        (_("Licence"), card.licence),
        (_("Checksum"), card.sha256[:12]),
    ]
    return "<br>".join(f"<b>{title}:</b> {text}" if title else text for title, text in rows if text)


def device_entries() -> list:
    """Auto, CPU and each graphics card by name; cards are known once PyTorch is loaded (not done here)."""
    if "torch" not in sys.modules:
        return [("auto", _("Auto"), ""), ("cpu", _("CPU"), "")]
    from ProgressiveRegistrationLib.network.device import available_devices

    return [(identifier, name, identifier) for identifier, name in available_devices()]


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
