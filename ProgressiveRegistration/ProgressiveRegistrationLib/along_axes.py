"""Linear interpolation at the places of a lattice whose axes are the values' own: axis after axis.

Several times as quick as point by point, which is what ITK does, and the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class _Steps:
    """Along one axis: between which two values of ``taken`` each place lies, and how far (n,) from the
    first."""

    taken: slice
    low: np.ndarray
    high: np.ndarray
    share: np.ndarray

    @classmethod
    def to(cls, places: np.ndarray, count: int, kind: type[np.floating]) -> _Steps:
        at = np.clip(places, 0, count - 1)
        low = np.minimum(at.astype(int), max(count - 2, 0))
        high = np.minimum(low + 1, count - 1)
        first = int(low.min())
        share = (at - low).astype(kind)
        return cls(slice(first, int(high.max()) + 1), low - first, high - first, share)

    def of_parts(self, count: int) -> _Steps:
        """The same where each value is ``count`` numbers in a row."""
        if count == 1:
            return self
        low, high = ((count * ends[:, None] + np.arange(count)).ravel() for ends in (self.low, self.high))
        return _Steps(self.taken, low, high, np.repeat(self.share, count))

    @property
    def count(self) -> int:
        return self.taken.stop - self.taken.start

    @property
    def growth(self) -> float:
        """Places for each value."""
        return len(self.low) / self.count


def linear(
    values: np.ndarray, places: Sequence[np.ndarray], kind: type[np.floating] = np.float32
) -> np.ndarray:
    """Values on a lattice, at places between them; past the border its values go on.

    Parameters
    ----------
    values : (D, H, W) or (D, H, W, c), finite.
    places : indices along x, y, z, (w,), (h,) and (d,), in increasing or decreasing order.
    kind : precision of the sums.

    Returns
    -------
    (d, h, w) or (d, h, w, c) float32.

    Examples
    --------
    >>> import numpy as np
    >>> linear(np.array([[[0, 10, 20]]]), [np.array([-1, 0.5, 2]), np.zeros(1), np.zeros(1)]).tolist()
    [[[0.0, 5.0, 20.0]]]
    """
    x, y, z = (_Steps.to(at, n, kind) for at, n in zip(places, values.shape[2::-1]))
    parts = int(np.prod(values.shape[3:], dtype=int))
    columns = x.of_parts(parts)
    # A slice at a time stays in the processor's cache; what shrinks comes first.
    in_slice = sorted(((y, 0), (columns, 1)), key=lambda one: one[0].growth)

    def taken(k: int) -> np.ndarray:
        part = values[z.taken.start + k, y.taken, x.taken]
        return np.asarray(part, kind).reshape(len(part), -1)

    def within(part: np.ndarray) -> np.ndarray:
        for steps, axis in in_slice:
            low, high = part.take(steps.low, axis), part.take(steps.high, axis)
            part = _between(low, high, steps.share[:, None] if axis == 0 else steps.share, high)
        return part

    out = np.empty((len(z.low), len(y.low), len(columns.low)), np.float32)
    if z.growth > 1:
        slices = [within(taken(k)) for k in range(z.count)]
        own = np.empty_like(slices[0])
        for into, low, high, share in zip(out, z.low, z.high, z.share):
            into[...] = _between(slices[low], slices[high], share, own)
    else:
        for into, low, high, share in zip(out, z.low, z.high, z.share):
            one = taken(low)
            into[...] = within(_between(one, taken(high), share, np.empty_like(one)) if share else one)
    return out.reshape(*out.shape[:2], len(x.low), *values.shape[3:])


def _between(
    low: np.ndarray, high: np.ndarray, share: np.ndarray | np.float32, into: np.ndarray
) -> np.ndarray:
    """low + share (high - low), written to ``into``, which may be ``high``."""
    np.subtract(high, low, out=into)
    into *= share
    into += low
    return into
