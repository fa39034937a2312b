"""What the user can choose, each with the words that the panel and the page show."""

from __future__ import annotations

from enum import Enum

from .i18n import _


class Preset(Enum):
    BALANCED = "balanced"
    FAST = "fast"
    ACCURATE = "accurate"

    def label(self):
        return {
            "fast": _("Fast: the network alone"),
            "balanced": _("Balanced: refined for this pair"),
            "accurate": _("Accurate: refined longer"),
        }[self.value]


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

    def label(self):
        return {
            "off": _("Off"),
            "overlay": _("Fixed orange, moving blue"),
            "checkerboard": _("Checkerboard"),
            "flicker": _("Flicker"),
        }[self.value]
