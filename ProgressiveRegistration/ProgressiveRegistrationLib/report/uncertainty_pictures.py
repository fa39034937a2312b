"""The uncertainty map as an overlay: for the report of a registration, and for the quality report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import SimpleITK as sitk

from . import maps

if TYPE_CHECKING:
    from ..uncertainty import Uncertainty

DOUBT_COLOURS, DOUBT_MM = "YlOrRd", 5.0


def doubt_planes(fixed: sitk.Image, mask: sitk.Image, found: Uncertainty) -> list[dict]:
    """Pictures on the report's planes: clear where the registration is sure, yellow to red "
    "where it is not."""
    return maps.map_planes(fixed, mask, found.image(), DOUBT_COLOURS, 0, DOUBT_MM, fade=True)


def doubt_scale() -> str:
    """Their colour scale as SVG."""
    return maps.scale_svg(DOUBT_COLOURS, 0, DOUBT_MM, "expected error, mm")
