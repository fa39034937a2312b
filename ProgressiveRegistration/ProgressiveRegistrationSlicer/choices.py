"""What the user can choose, each with the words that the panel and the page show."""

from __future__ import annotations

from enum import Enum

from ProgressiveRegistrationLib.presets import PRESETS

from .i18n import _, translate

Preset = Enum("Preset", {name.upper(): name for name in PRESETS})
Preset.label = lambda self: preset_text(self.value)


def preset_text(name: str) -> str:
    """What panel and page call a preset."""
    preset = PRESETS[name]
    return f"{translate('Presets', preset.label)}: {translate('Presets', preset.description)}"


class LungBoxes(Enum):
    OWN = "own"
    SHARED = "shared"

    def label(self):
        return {
            "own": _("Own: each scan around its own lungs"),
            "shared": _("Shared: one box around both, as in the paper"),
        }[self.value]


class FusionMode(Enum):
    OFF = "off"
    OVERLAY = "overlay"
    CHECKERBOARD = "checkerboard"
    FLICKER = "flicker"
    DIFFERENCE = "difference"
    JACOBIAN = "jacobian"
    UNCERTAINTY = "uncertainty"

    @property
    def lies_over_fixed(self) -> bool:
        """Is it a layer over the fixed volume, as opaque as the user wants it?"""
        return self.value in ("overlay", "jacobian", "uncertainty")

    def label(self):
        return {
            "off": _("Off"),
            "overlay": _("Fixed orange, moving blue"),
            "checkerboard": _("Checkerboard"),
            "flicker": _("Flicker"),
            "difference": _("Difference in HU"),
            "jacobian": _("Local volume change"),
            "uncertainty": _("Expected error"),
        }[self.value]
