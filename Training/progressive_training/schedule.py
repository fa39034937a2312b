"""When each level trains: trapezoidal weights alpha (paper, eq. 2)
and the learning rate within each level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ProgressiveRegistrationLib.errors import InputError


@dataclass(frozen=True)
class Schedule:
    """Trapezoids, one per level, coarsest first.

    Attributes
    ----------
    tau : first iteration of each level's rise. Delta : length from there to the end of its fall; the last
        level never
    falls. delta : length of each level's rise, which is the fall of the level before it.
    """

    tau: tuple[float, ...]
    Delta: tuple[float, ...]
    delta: tuple[float, ...]

    @classmethod
    def paper(cls, Delta: float = 6000, delta: float = 2000, levels: int = 5) -> Schedule:
        """tau_i = -Delta / 2 + (Delta - delta) i. ``Delta`` = 0 is the baseline: only the last level,
        always."""
        if Delta == 0:
            return cls.baseline(levels)
        tau = tuple(-Delta / 2 + (Delta - delta) * i for i in range(levels))
        return cls(tau, (float(Delta),) * levels, (float(delta),) * levels).checked()

    @classmethod
    def baseline(cls, levels: int = 5) -> Schedule:
        """Not progressive: the last level from the first iteration."""
        return cls((-math.inf,) * levels, (0.0,) * levels, (0.0,) * levels)

    @classmethod
    def stages(cls, plateau: Sequence[float], transition: Sequence[float]) -> Schedule:
        """From the iterations that each level trains alone, and those of each transition to the next."""
        if len(transition) != len(plateau) - 1:
            raise InputError(
                f"The schedule has {len(plateau)} plateaus and {len(transition)} transitions: there "
                "must be one transition fewer than plateaus."
            )
        if min(plateau) < 0 or min(transition) < 0:
            raise InputError("The schedule's plateaus and transitions must not be negative.")
        rises = [0.0, *map(float, transition)]
        falls = [*map(float, transition), 0.0]
        tau, Delta, start = [], [], 0.0
        for rise, alone, fall in zip(rises, plateau, falls):
            tau.append(start)
            Delta.append(rise + alone + fall)
            start += rise + alone
        return cls(tuple(tau), tuple(Delta), tuple(rises)).checked()

    @property
    def levels(self) -> int:
        return len(self.tau)

    @property
    def is_baseline(self) -> bool:
        return all(d == 0 for d in self.Delta)

    def checked(self) -> Schedule:
        """Itself; raises InputError if any iteration has more than two levels,
        or weights that do not sum to one."""
        if not len(self.tau) == len(self.Delta) == len(self.delta) or self.levels < 1:
            raise InputError("The schedule needs as many tau as Delta and delta, one per level.")
        for i in range(self.levels - 1):
            rise_ends = self.tau[i] + (self.delta[i] if i else 0)
            fall_starts = self.tau[i] + self.Delta[i] - self.delta[i + 1]
            if abs(fall_starts - self.tau[i + 1]) > 1e-6:
                kind = "overlap" if fall_starts > self.tau[i + 1] else "leave a gap"
                raise InputError(
                    f"The schedule's levels {i} and {i + 1} {kind}: level {i} begins to fall at iteration "
                    f"{fall_starts:g} and level {i + 1} begins to rise at {self.tau[i + 1]:g}; they must "
                    "be equal."
                )
            if rise_ends > fall_starts + 1e-6 and fall_starts >= 0:
                raise InputError(
                    f"The schedule's level {i} still rises when it begins to fall: make its Delta at least "
                    "the sum of the transitions on either side."
                )
        if self.tau[0] > 0 or (self.levels > 1 and self.tau[1] < 0):
            raise InputError("The schedule must have its first level alone at iteration 0.")
        return self

    def warnings(self, iterations: int | None = None) -> list[str]:
        """Sentences about choices that the paper found to fail, and of training that ends too early."""
        found = []
        if not self.is_baseline and any(d <= 0 for d in self.delta[1:]):
            found.append(
                "A transition has delta = 0: the paper (section IV-B) found that the training loss "
                "explodes when the next level is introduced without a smooth transition."
            )
        if iterations is not None and self.alpha(iterations - 1)[-1] < 1:
            needed = math.ceil(self.tau[-1] + self.delta[-1]) + 1
            found.append(
                f"schedule.iterations = {iterations} ends training where the last level has a weight of "
                f"{self.alpha(iterations - 1)[-1]:.2f}: to get a model that can be exported, make it at "
                f"least {needed}."
            )
        return found

    def alpha(self, iteration: float) -> list[float]:
        """Eq. 2 at an iteration: one weight per level, coarsest first; they sum to one."""
        if self.is_baseline:
            return [0.0] * (self.levels - 1) + [1.0]
        # Each rise is the fall of the level before it: the share that has passed on to level i and finer.
        passed = [1.0] + [
            min(1.0, max(0.0, (iteration - self.tau[i]) / self.delta[i]))
            if self.delta[i] > 0
            else float(iteration >= self.tau[i])
            for i in range(1, self.levels)
        ]
        passed.append(0.0)
        return [passed[i] - passed[i + 1] for i in range(self.levels)]

    def finest(self, iteration: float) -> int:
        """The finest active level."""
        return max(i for i, a in enumerate(self.alpha(iteration)) if a > 0)

    def steps(self, iterations: int) -> list[int]:
        """Of the first ``iterations``, those in which each level is the finest active one, coarsest first."""
        counts = [0] * self.levels
        for t in range(iterations):
            counts[self.finest(t)] += 1
        return counts

    def phase(self, iteration: float) -> int:
        """The level whose rise has begun: it changes at tau_i, one iteration before ``finest`` may."""
        if self.is_baseline:
            return self.levels - 1
        return max(i for i in range(self.levels) if i == 0 or iteration >= self.tau[i])

    def span(self, level: int, end: float) -> tuple[float, float]:
        """First and last iteration of a phase, for training that ends at ``end``."""
        if self.is_baseline:
            return 0.0, end
        start = max(0.0, self.tau[level])
        stop = self.tau[level + 1] if level + 1 < self.levels else end
        return start, max(stop, start + 1)


@dataclass(frozen=True)
class LearningRate:
    """Per level, from ``start`` to ``end`` along half a cosine in the logarithm,
    after ``warmup`` linear iterations."""

    start: tuple[float, ...]
    end: tuple[float, ...]
    warmup: int = 0

    def at(self, schedule: Schedule, iteration: int, total: int) -> float:
        level = schedule.phase(iteration)
        first, last = schedule.span(level, total)
        share = min(1.0, (iteration - first) / max(1.0, last - first))
        start, end = self.start[level], self.end[level]
        rate = end * (start / end) ** (0.5 * (1 + math.cos(math.pi * share)))
        if self.warmup and iteration - first < self.warmup:
            rate *= (iteration - first + 1) / self.warmup
        return rate
