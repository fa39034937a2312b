"""What may be wrong with the phantom's lungs, and the random fields that mottle all its tissue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from .anatomy import Anatomy
from .vessels import scatter


@dataclass(frozen=True)
class Lesions:
    """Nodules, and where the lung is destroyed or dense: thresholds of smooth random fields."""

    centres: np.ndarray
    radii: np.ndarray
    texture: np.ndarray  # (z, y, x) sd 1, a grid of ``STEP`` mm from ``ORIGIN``: fine
    clouds: np.ndarray  # the same, coarse
    hole_level: float
    dense_level: float
    dense_centre: np.ndarray

    STEP = 4.0
    ORIGIN = (-190.0, -150.0, -184.0)

    @classmethod
    def draw(
        cls, anatomy: Anatomy, rng: np.random.Generator, nodules: int, emphysema: float, consolidation: float
    ) -> Lesions:
        """``emphysema`` and ``consolidation``: shares of the lungs' volume."""
        shape = (92, 76, 96)

        def smooth(sigma: float) -> np.ndarray:
            noise = gaussian_filter(rng.standard_normal(shape), sigma)
            return (noise / noise.std()).astype(np.float32)

        centres = scatter(anatomy, rng, int(nodules) + 1, 12.0)
        radii = rng.uniform(2, 10, int(nodules))
        texture, clouds = smooth(0.9), smooth(5.0)
        probe = scatter(anatomy, rng, 4000, 0.0)
        made = cls(centres[:-1], radii, texture, clouds, np.inf, np.inf, centres[-1])
        fine = np.sort(made.hole_field(*probe.T))
        dense = np.sort(made.dense_field(*probe.T))
        levels = [
            v[min(int((1 - s) * len(v)), len(v) - 1)] if s > 0 else np.inf
            for v, s in ((fine, emphysema), (dense, consolidation))
        ]
        return cls(centres[:-1], radii, texture, clouds, float(levels[0]), float(levels[1]), centres[-1])

    def look(self, values: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """``texture`` or ``clouds`` at points."""
        where = [(p - o) / self.STEP for p, o in zip((z, y, x), self.ORIGIN[::-1])]
        return map_coordinates(values, where, order=1, mode="mirror", output=np.float32)

    def hole_field(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Above ``hole_level`` the lung is destroyed."""
        return self.look(self.texture, x, y, z) + 0.8 * self.look(self.clouds, x, y, z)

    def dense_field(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Above ``dense_level`` the lung is consolidated; largest around ``dense_centre``."""
        cx, cy, cz = self.dense_centre.tolist()
        away = np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2)
        return self.look(self.clouds, x, y, z) + 0.35 * self.look(self.texture, x, y, z) - away / 30
