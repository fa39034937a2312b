"""The phantom's anatomy at full inhale, as functions of position: shapes give signed distances in mm.

World frame LPS mm (x to the left, y to the back, z to the head), origin in the middle of the chest. Every
function takes ``x, y, z`` arrays of one shape, float32 or float64, and keeps their type. Distances are
first-order exact near a surface, negative inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

APEX = 126.0  # height of the lung tops
LENGTH = 262.0  # from there to the deepest sulcus


def squarish(xi: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """The (|xi|^2.5 + |eta|^2.5)^(1/2.5) of a cross-section: 1 on its rim,
    which is squarer than an ellipse."""
    xi, eta = np.abs(xi), np.abs(eta)
    # Square roots are several times faster than powers.
    return (xi * xi * np.sqrt(xi) + eta * eta * np.sqrt(eta) + 1e-12) ** 0.4


def slope(xi: np.ndarray, eta: np.ndarray, rho: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Steepness of ``squarish(x / a, y / b)`` in 1/mm."""
    xi, eta = np.abs(xi) / rho, np.abs(eta) / rho
    xi, eta = xi * np.sqrt(xi) / a, eta * np.sqrt(eta) / b
    return np.maximum(np.sqrt(xi * xi + eta * eta), 0.5 / a)


def logistic(t: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-t)) without overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * t)


def smooth_max(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """max(a, b) with the crease rounded over ``width``."""
    gap = np.maximum(width - np.abs(a - b), 0.0)
    return np.maximum(a, b) + gap * gap * (0.25 / width)


def ellipsoid(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, centre: Sequence[float], radii: Sequence[float]
) -> np.ndarray:
    """Signed distance to an axis-aligned ellipsoid."""
    u, v, w = ((p - c) / r for p, c, r in zip((x, y, z), centre, radii))
    norm = np.sqrt(u * u + v * v + w * w) + 1e-6
    u, v, w = (p / r for p, r in zip((u, v, w), radii))
    return norm * (norm - 1) / (np.sqrt(u * u + v * v + w * w) + 1e-6)


@dataclass(frozen=True)
class Anatomy:
    """One person's shape; ``draw`` makes one up. Lengths in mm."""

    half_width: float
    half_depth: float
    back: float  # y of the chest's back wall at mid height
    dome_right: float  # height of the diaphragm's right dome at inhale
    dome_left: float
    dome_depth: float
    heart_centre: tuple[float, float, float]
    heart_radii: tuple[float, float, float]
    fat: float  # thickness under the skin
    wall: float  # chest wall between pleura and skin, at the side
    rib_phase: float
    rib_drop: float
    fissure_phase: tuple[float, ...]
    density: float  # HU of the lung between its vessels at inhale
    gravity: float  # HU from front to back
    bend: float  # of the chest's axis to one side
    egg: float  # how much narrower the chest is in front than at the back
    skew: float  # asymmetry of the cross-section
    breast: float  # thickness

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Anatomy:
        def about(value: float, spread: float) -> float:
            return float(value + spread * rng.uniform(-1, 1))

        right = about(-62, 10)
        heart = about(0.98, 0.13)
        return cls(
            half_width=about(126, 10),
            half_depth=about(86, 8),
            back=about(84, 4),
            dome_right=right,
            dome_left=right - about(11, 7),
            dome_depth=about(60, 12),
            heart_centre=(about(21, 6), about(-24, 4), about(-34, 6)),
            heart_radii=(about(57, 4) * heart, about(48, 4) * heart, about(56, 5) * heart),
            fat=about(13, 7),
            wall=about(29, 4),
            rib_phase=about(0, 13),
            rib_drop=about(85, 10),
            fissure_phase=tuple(rng.uniform(0, 2 * np.pi, 6).tolist()),
            density=about(-870, 24),
            gravity=about(65, 30),
            bend=about(0, 6),
            egg=about(0.065, 0.03),
            skew=about(0, 0.03),
            breast=max(0.0, about(8, 26)),
        )

    # ---- the rib cage's inside ---------------------------------------------------------------------------

    def section(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Half width, half depth and y of the centre of the chest's cross-section at height z."""
        u = (APEX - z) / LENGTH
        a = self.half_width * (0.40 + 0.60 * logistic((u - 0.08) / 0.08) - 0.05 * logistic((u - 0.75) / 0.1))
        b = self.half_depth * (0.60 + 0.40 * logistic((u - 0.16) / 0.11))
        back = self.back - 16 * np.tanh((u - 0.45) / 0.5) ** 2
        return a, b, back - b

    def axis(self, z: np.ndarray) -> np.ndarray:
        """x of the chest's middle at height z."""
        return self.bend * np.sin(z / 85 + self.fissure_phase[4])

    def cage(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, ...]:
        """Place in the chest: xi, eta (-1..1 across, front to back), rho (1 on the costal pleura); a, b."""
        a, b, centre = self.section(z)
        xi, eta = (x - self.axis(z)) / a, (y - centre) / b
        rho = squarish(xi, eta)
        sine, cosine = xi / rho, eta / rho
        return xi, eta, rho * (1 - 2.6 * self.egg * sine * sine * cosine - self.skew * sine * cosine), a, b

    def cage_distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Signed distance to the inside of the rib cage, seen in the axial plane."""
        xi, eta, rho, a, b = self.cage(x, y, z)
        return (rho - 1) / slope(xi, eta, rho, a, b)

    def dome(self, xi: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """Height of the diaphragm at inhale over (xi, eta): two domes, the right one higher."""
        depth = self.dome_depth

        def one(top: float, centre: float) -> np.ndarray:
            q = ((xi - centre) / 0.56) ** 2 + ((eta + 0.18) / 0.95) ** 2
            return top - depth * (q + 1e-6) ** 1.2

        p = self.fissure_phase
        uneven = 2.5 * np.sin(6 * xi + p[5]) + 2 * np.sin(7 * eta + 2 * xi + p[0])
        domes = smooth_max(one(self.dome_right, -0.48), one(self.dome_left, 0.5), 25.0) + uneven
        return smooth_max(domes, np.full_like(domes, APEX - LENGTH), 30.0)

    def diaphragm_distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Negative above the diaphragm."""
        xi, eta, _, a, b = self.cage(x, y, z)
        height = self.dome(xi, eta)
        h = 0.02
        slope_x = (self.dome(xi + h, eta) - height) / (h * a)
        slope_y = (self.dome(xi, eta + h) - height) / (h * b)
        return (height - z) / np.sqrt(1 + slope_x**2 + slope_y**2)

    # ---- lungs -------------------------------------------------------------------------------------------

    def mediastinum_distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Negative between the lungs: heart, great vessels, what lies before the spine."""
        strip = np.abs(x - self.axis(z)) - (6 + 19 * logistic((y - 22) / 8) + 3 * np.sin(z / 31))
        upper = ellipsoid(x, y, z, (2, 2, 80), (35, 50, 80))
        heart = self.heart_distance(x, y, z)
        return -smooth_max(smooth_max(-strip, -upper, 12.0), -heart, 10.0)

    def heart_distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Negative inside the pericardium: an egg with bumps."""
        p = self.fissure_phase
        bumps = np.sin(x / 16 + p[1]) * np.sin(z / 18 + p[2]) + 0.6 * np.sin(y / 13 + z / 25 + p[3])
        return ellipsoid(x, y, z, self.heart_centre, self.heart_radii) + 3 * bumps

    def lung_distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Negative inside either lung; the right one is where x < 0."""
        # A dome on a column wider than the chest closes the lungs at the top.
        base = APEX - 80
        top = ellipsoid(np.abs(x), y, np.maximum(z, base), (42, self.back - 72, base), (118, 115, 80))
        out = smooth_max(self.cage_distance(x, y, z), self.diaphragm_distance(x, y, z), 3.0)
        return smooth_max(smooth_max(out, -self.mediastinum_distance(x, y, z), 6.0), top, 10.0)

    def fissures(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Signed distances to the oblique fissure (> 0 in the lower lobe) and the horizontal one (right)."""
        p = self.fissure_phase
        right = x < 0
        shift = np.where(right, 0.0, 12.0)
        oblique = (y - 52) * 0.80 - (z - 70 - shift) * 0.60
        oblique = oblique + np.where(right, np.sin(x / 33 + p[0]), np.sin(x / 30 + p[1])) * 6
        oblique = oblique + 3.5 * np.sin(z / 37 + p[2])
        horizontal = z - 2 - 5 * np.sin(x / 35 + p[3]) - 4 * np.sin(y / 30 + p[4]) - 0.12 * (y + 30)
        return oblique, np.where(right, horizontal, 1e3).astype(oblique.dtype)

    def lobe(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Lobe of a point in a lung: right upper 0, middle 1, lower 2; left upper 3, lower 4."""
        oblique, horizontal = self.fissures(x, y, z)
        right = np.where(oblique > 0, 2, np.where(horizontal < 0, 1, 0))
        return np.where(x < 0, right, np.where(oblique > 0, 4, 3))

    # ---- chest wall --------------------------------------------------------------------------------------

    def skin_distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Negative inside the body."""
        u = (APEX - z) / LENGTH
        a = self.half_width + self.wall + 26 * logistic((-u + 0.06) / 0.06) - 4 * logistic((u - 0.6) / 0.1)
        front = self.half_depth * (0.93 + 0.07 * np.tanh((u - 0.3) / 0.3)) + 0.75 * self.wall
        centre = self.back - self.half_depth - 3
        b = np.where(y < centre, front, self.half_depth + 1.1 * self.wall)
        chest = np.exp(-(((np.abs(x) - 72) / 40) ** 2) - ((z + 12) / 48) ** 2)
        b = b + self.breast * chest * logistic((centre - 25 - y) / 12)
        xi, eta = x / a, (y - centre) / b
        rho = squarish(xi, eta)
        sine, cosine = xi / rho, eta / rho
        rho = rho * (1.01 - 2.2 * self.egg * sine * sine * cosine)
        return (rho - 1) / slope(xi, eta, rho, a, b)

    def ribs(
        self, x: np.ndarray, y: np.ndarray, z: np.ndarray, depth: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How deep a point lies in a rib (1 in its middle, 0 on its surface, < 0 outside), and where along it
        (0 at the spine, 1 at the sternum); and the height above the nearest rib, mm.

        ``depth``: mm outside the costal pleura, as ``cage_distance`` gives it.
        """
        a, b, centre = self.section(z)
        along = np.arctan2(np.abs(x - self.axis(z)) / a, (y - centre) / b) / np.pi
        pitch = 25.5
        height = z + self.rib_drop * along * (1.7 - 0.7 * along) + self.rib_phase
        height = height - pitch * np.round(height / pitch)
        inside = 1 - np.hypot(height / 6.2, (depth - 5.2) / 3.6)
        along = along.astype(depth.dtype)
        return np.where(z < APEX + 12, inside, -1).astype(depth.dtype), along, height.astype(depth.dtype)

    def spine(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> dict[str, np.ndarray]:
        """Signed distances: ``body`` and ``disc`` of the vertebrae, ``canal``, ``arch`` (processes)."""
        _, b, centre = self.section(z)
        x = x - self.axis(z)
        front = (
            centre + b - 25
        )  # the bodies stand into the chest; the mediastinal strip before them covers that
        body = np.hypot(x / 19.0, (y - front) / 15.5)
        body = (body - 1) * 16
        level = z - 24 * np.round(z / 24)
        gap = np.abs(np.abs(level) - 12)  # 0 in the middle of a disc
        disc = np.maximum(body, gap - 2.6)
        canal = np.hypot(x, y - front - 23) - 8
        spinous = np.maximum(np.abs(x) - 3.5, np.maximum(np.abs(y - front - 44) - 15, np.abs(level) - 8))
        lamina = np.maximum(np.abs(np.hypot(x, y - front - 22) - 12) - 3.2, np.abs(level) - 9)
        across = np.hypot((y - front - 24 - 0.25 * np.abs(x)) / 4.5, level / 6) - 1
        across = np.maximum(across * 4.5, np.abs(x) - 33)
        arch = np.minimum(np.minimum(spinous, lamina), across)
        return {"body": np.maximum(body, 2.6 - gap), "disc": disc, "canal": canal, "arch": arch}

    def scapulae(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Signed distance to the shoulder blades: thin plates behind the upper ribs."""
        plate = np.abs(depth - 16 - 0.05 * np.abs(x)) - 2.6
        height = z - 55
        edge = np.maximum(
            np.abs(height) - 52, np.abs(np.abs(x) - 88 - 0.12 * height) - 12 - 0.3 * (height + 52)
        )
        return np.maximum(np.maximum(plate, edge), self.back - 62 - y)

    def sternum(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Signed distance to the breast bone."""
        _, b, centre = self.section(z)
        x = x - self.axis(z)
        u, v = x / 17.0, (y - centre + b + 8.5) / 5.5
        plate = (np.sqrt(u * u + v * v) - 1) * 5.5
        return np.maximum(plate, np.maximum(z - 92, -62 - z))
