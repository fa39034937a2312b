"""Numbers that several parts of the engine, and the words of its report, must agree on."""

from __future__ import annotations

WINDOW_HU = (
    -1000.0,
    -100.0,
)  # what network and refinement see: no bone, no contrast agent; clipped data sets match
PADDING_HU = -1100.0  # at or below: what scanners write outside the reconstructed field
NOTHING_HU = -1024.0  # where an image shows nothing
NETWORK_SMOOTH_MM = 4.0  # standard deviation of the Gaussian over the network's field
NETWORK_FADE_MM = 16.0  # from the lungs to where the network counts no more
