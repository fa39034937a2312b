"""The phantom's breath: exact maps from exhale to inhale, one for the lungs and one for the chest wall.

``wall``: ribs, muscle, skin; they turn out and up. ``lung``: ``wall`` followed by a motion that carries the
inside of the rib cage onto itself: each point goes down the cage with the diaphragm, keeping its place (xi,
eta) in the cross-section, and the cross-section's taper is followed. So the lung slides along the ribs
without a gap, whatever the amplitude, and without the smaller random and cardiac parts its Jacobian
determinant could not fall to 0: dz'/dz > 0 and (xi, eta) stay. Beyond the pleura ``lung`` goes on smoothly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError
from .anatomy import APEX, Anatomy, logistic

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]

TOP = APEX + 4.0


@dataclass(frozen=True)
class Motion:
    """``amplitude``: mm that the diaphragm goes down from exhale to inhale, on average."""

    anatomy: Anatomy
    amplitude: float
    dorsal: float  # how much more the back of the diaphragm moves than the front
    sides: tuple[float, float]  # right and left dome's share of the amplitude
    profile: float  # exponent of the fall of the motion towards the apex
    out: float  # chest wall, as shares of the amplitude: sideways, forwards, upwards
    forward: float
    up: float
    unevenness: float  # size of the random waves in the lung, as a share of the amplitude
    waves: np.ndarray  # (modes, 3 wave vector + phase + 3 direction)
    heart_beat: float  # mm

    @classmethod
    def draw(cls, rng: np.random.Generator, anatomy: Anatomy, amplitude: float) -> Motion:
        modes = 10
        direction = rng.normal(size=(modes, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        vector = rng.normal(size=(modes, 3))
        vector *= (2 * np.pi / rng.uniform(70, 140, (modes, 1))) / np.linalg.norm(
            vector, axis=1, keepdims=True
        )
        waves = np.concatenate([vector, rng.uniform(0, 2 * np.pi, (modes, 1)), direction], 1)
        return cls(
            anatomy=anatomy,
            amplitude=amplitude,
            dorsal=rng.uniform(0.3, 0.6),
            sides=(rng.uniform(0.9, 1.1), rng.uniform(0.85, 1.1)),
            profile=rng.uniform(1.3, 2.1),
            out=rng.uniform(0.06, 0.14),
            forward=rng.uniform(0.15, 0.35),
            up=rng.uniform(0.08, 0.2),
            unevenness=rng.uniform(0.45, 0.65),
            waves=waves,
            heart_beat=rng.uniform(2, 4) * (1.0 if rng.uniform() < 0.5 else -1.0) if amplitude else 0.0,
        )

    def partial(self, depth: float, lagging: float) -> Motion:
        """The way from another state of the breath to full inhale, in place of the way from full exhale.

        ``depth``: mm of the diaphragm from there to full inhale; ``lagging``: what the chest wall, the lung's
        unevenness and the heart still have before them, as a diaphragm's mm. The two differ where the breath
        has a hysteresis.
        """
        if max(depth, lagging) <= 0 or not self.amplitude:
            return replace(self, amplitude=0.0, heart_beat=0.0)
        depth = max(depth, 1e-3)  # the other parts' sizes are shares of it
        rest = lagging / depth

        def uneven(mm: float) -> float:
            return mm / (1 + mm / 40)

        return replace(
            self,
            amplitude=depth,
            out=self.out * rest,
            forward=self.forward * rest,
            up=self.up * rest,
            unevenness=self.unevenness * uneven(lagging) / uneven(depth),
            heart_beat=self.heart_beat * lagging / self.amplitude,
        )

    # ---- maps, on three arrays of one shape --------------------------------------------------------------

    def wall_xyz(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Arrays:
        """Chest wall, exhale -> inhale."""
        anatomy, amplitude = self.anatomy, self.amplitude
        if not amplitude:
            return x, y, z
        u = (APEX - z) / 200.0
        share = 0.25 + 0.75 * logistic((u - 0.3) / 0.12)
        ventral = (anatomy.back - 12 - y) / (2 * anatomy.half_depth)
        grow = 1 + (self.out * amplitude / anatomy.half_width) * share
        return (
            x * grow,
            y - (self.forward * amplitude) * ventral * share,
            z + (self.up * amplitude) * ventral * share,
        )

    def drop(self, xi: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """mm that the diaphragm goes down at (xi, eta)."""
        weight = 1 + self.dorsal * np.tanh(1.2 * (eta + 0.1))
        right, left = self.sides
        return self.amplitude * weight * (0.5 * (right + left) + 0.5 * (left - right) * np.tanh(3 * xi))

    def inside_xyz(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Arrays:
        """What the lung does within the rib cage; from the cage at inhale onto itself."""
        if not self.amplitude:
            return x, y, z
        anatomy = self.anatomy
        xi, eta, rho, a, b = anatomy.cage(x, y, z)
        drop = self.drop(xi, eta)
        height = TOP - anatomy.dome(xi, eta) - drop
        t = np.maximum((TOP - z) / height, 0.0)
        # Below the diaphragm the belly goes on with the same speed and then settles.
        share = np.where(
            t < 1,
            np.minimum(t, 1.0) ** self.profile,
            1 + 0.12 * np.tanh(self.profile * np.maximum(t - 1, 0.0) / 0.12),
        )
        inner = np.maximum(1 - rho * rho, 0.0) ** 2  # 0 on the costal pleura: there the lung may only slide
        # Uneven stiffness: waves that fade towards the lung's top, and across the pleura towards the wall.
        size = self.unevenness * self.amplitude / (1 + self.amplitude / 40) / len(self.waves) ** 0.5
        sideways, deeper, lower = 0.0, 0.0, 0.0
        for kx, ky, kz, phase, dx, dy, dz in self.waves.tolist():
            wave = np.sin(kx * x + ky * y + kz * z + phase)
            sideways, deeper, lower = sideways + dx * wave, deeper + dy * wave, lower + dz * wave
        fade = size * t * t / (t * t + 0.06)
        sideways, deeper, lower = fade * inner * sideways, fade * inner * deeper, fade * lower - drop * share
        cx, cy, cz = anatomy.heart_centre
        hx, hy, hz = x - (cx + 0.75 * anatomy.heart_radii[0]), y - (cy - 5), z - cz
        beat = self.heart_beat * inner * np.exp(-(hx * hx + hy * hy + hz * hz) * np.float32(0.5 / 26.0**2))
        sideways, deeper = sideways + beat, deeper - 0.4 * beat
        z2 = z + lower
        a2, b2, centre2 = anatomy.section(z2)
        return (xi + sideways / a) * a2 + anatomy.axis(z2), (eta + deeper / b) * b2 + centre2, z2

    def lung_xyz(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Arrays:
        """Lungs and everything within the rib cage, exhale -> inhale; smooth beyond the pleura."""
        return self.inside_xyz(*self.wall_xyz(x, y, z))

    # ---- on points ---------------------------------------------------------------------------------------

    def lung(self, points: np.ndarray) -> np.ndarray:
        """(n, 3) at exhale -> (n, 3) at inhale, for points in or near the lungs."""
        return np.stack(self.lung_xyz(*np.asarray(points, float).T), -1)

    def wall(self, points: np.ndarray) -> np.ndarray:
        """(n, 3) at exhale -> (n, 3) at inhale, for points of the chest wall."""
        return np.stack(self.wall_xyz(*np.asarray(points, float).T), -1)

    def lung_inverse(self, points: np.ndarray, tolerance: float = 1e-6) -> np.ndarray:
        """(n, 3) at inhale -> (n, 3) at exhale; see ``invert``."""
        return invert(self.lung_xyz, points, tolerance)

    def wall_inverse(self, points: np.ndarray, tolerance: float = 1e-6) -> np.ndarray:
        """(n, 3) at inhale -> (n, 3) at exhale; see ``invert``."""
        return invert(self.wall_xyz, points, tolerance)

    def jacobian_determinant(self, points: np.ndarray, step: float = 0.05) -> np.ndarray:
        """(n,): determinant of the lung map's Jacobian at exhale points (n, 3), by central differences."""
        columns = []
        for axis in range(3):
            shift = np.zeros(3)
            shift[axis] = step
            columns.append((self.lung(points + shift) - self.lung(points - shift)) / (2 * step))
        return np.linalg.det(np.stack(columns, -1))

    def check(self) -> None:
        """Raise InputError where the motion would fold the lung or press it flat."""
        anatomy = self.anatomy
        axes = (np.arange(-140, 141, 7.0), np.arange(-110, 111, 7.0), np.arange(-150, 131, 7.0))
        points = np.stack([g.ravel() for g in np.meshgrid(*axes, indexing="ij")], -1)
        xi, eta = anatomy.cage(*points.T)[:2]
        room = TOP - anatomy.dome(xi, eta) - self.drop(xi, eta)
        inside = anatomy.lung_distance(*points.T) < 0
        if room[inside].min() > 40:
            exhale = points[anatomy.lung_distance(*np.stack(self.lung_xyz(*points.T))) < 4]
            determinant = self.jacobian_determinant(exhale)
            if determinant.min() > 0.15 and determinant.max() < 5:
                return
        raise InputError(
            f"An amplitude of {self.amplitude:g} mm would fold the phantom's lung or press it flat; "
            f"use 0 to 40 mm, as a diaphragm moves."
        )


def invert(function: Callable[..., Arrays], points: np.ndarray, tolerance: float = 1e-6) -> np.ndarray:
    """Solve function(x) = points for x, (n, 3) float64, by Newton's method to ``tolerance`` mm.

    ``function`` takes and gives three arrays. Raises ArithmeticError when a point has no solution near it.
    """
    points = np.asarray(points, float).reshape(-1, 3)
    out = points.copy()
    todo = np.arange(len(points))
    inverse: np.ndarray = np.empty((0, 3, 3))
    step = 0.05
    for iteration in range(40):
        x = out[todo]
        value = np.stack(function(*x.T), -1)
        error = value - points[todo]
        unsolved = np.abs(error).max(1) > tolerance
        if not unsolved.any():
            return out
        todo, x, value, error = todo[unsolved], x[unsolved], value[unsolved], error[unsolved]
        # The Jacobian costs three evaluations; the first steps need a fresh one, later ones do well with the
        # last.
        if iteration < 2 or iteration % 5 == 0:
            jacobian = np.empty((len(x), 3, 3))
            for axis in range(3):
                moved = x.copy()
                moved[:, axis] += step
                jacobian[:, :, axis] = (np.stack(function(*moved.T), -1) - value) / step
            inverse = np.linalg.inv(jacobian)
        else:
            inverse = inverse[unsolved]
        update = np.einsum("nij,nj->ni", inverse, error)
        # Large first steps are shortened: near the apex the taper is strong.
        update *= np.minimum(1, 15 / np.maximum(np.abs(update).max(1), 1e-9))[:, None]
        out[todo] = x - update
    raise ArithmeticError(f"{len(todo)} points could not be traced back through the motion.")
