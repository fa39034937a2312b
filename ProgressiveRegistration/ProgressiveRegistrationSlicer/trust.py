"""Where not to trust a transform: the engine's expected error in the lungs, made when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .i18n import _
from .session import content_of

if TYPE_CHECKING:
    from ProgressiveRegistrationLib.uncertainty import Uncertainty


class TrustMap:
    """Keeps the map of one transform between one pair, for as long as none of the three changes."""

    def __init__(self) -> None:
        self._of: tuple | None = None
        self._found: Uncertainty | None = None

    def known(self, transform, fixed, moving) -> Uncertainty | None:
        """The map of this transform between these volume nodes, if it was made."""
        now = state_of(transform, fixed, moving)
        return self._found if now is not None and now == self._of else None

    def keep(self, found: Uncertainty, of: tuple | None) -> None:
        """``of`` : the ``state_of`` the three when the work began."""
        self._of, self._found = of, found

    def forget(self) -> None:
        self._of = self._found = None


def state_of(transform, fixed, moving) -> tuple | None:
    """Equal for as long as it is the same transform, not written to, between the same volumes."""
    if transform is None or fixed is None or moving is None:
        return None
    return (transform.GetID(), content_of(transform), fixed.GetID(), moving.GetID())


def worst_place(found: Uncertainty) -> np.ndarray:
    """(3,) world RAS mm: where the largest error is to be expected."""
    index = np.unravel_index(np.nanargmax(found.expected), found.expected.shape)[::-1]
    return found.grid.index_to_world(np.array([index], float))[0] * [-1, -1, 1]


def trust_text(found: Uncertainty) -> str:
    """The map in a sentence or two, and what the engine says against it."""
    figures = found.figures
    told = _(
        "Expected error in the lungs: mean {mean:.1f} mm, 95 % of places below {p95:.1f} mm, largest "
        "{most:.1f} mm."
    ).format(mean=figures["mean_mm"], p95=figures["p95_mm"], most=figures["max_mm"])
    if figures["distrust_percent"] > 0:
        rest = _(
            "Do not trust it where it is red: above {limit:.0f} mm, {percent:.1f} % of the lungs."
        ).format(limit=figures["distrust_above_mm"], percent=figures["distrust_percent"])
    else:
        rest = _("Nowhere in the lungs is it above {limit:.0f} mm.").format(
            limit=figures["distrust_above_mm"]
        )
    return " ".join([told, rest, *figures["notes"]])
