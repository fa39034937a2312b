"""What an iteration of each level costs on this machine, before a long run is begun on it."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from ProgressiveRegistrationLib.files import write_text

from . import checkpoint
from .schedule import Schedule

if TYPE_CHECKING:
    from .trainer import Trainer

ITERATIONS = 200  # a level
WARM_UP = 5  # more, not counted: memory is asked for, kernels are loaded
PIECE_MINUTES = 25.0


@dataclass(frozen=True)
class _Alone(Schedule):
    """One level from the first iteration on."""

    level: int = 0

    def alpha(self, iteration: float) -> list[float]:
        return [float(i == self.level) for i in range(self.levels)]

    def phase(self, iteration: float) -> int:
        return self.level

    def span(self, level: int, end: float) -> tuple[float, float]:
        return 0.0, end


def profile(trainer: Trainer, iterations: int = ITERATIONS) -> list[dict[str, float]]:
    """Train each level for some iterations, from weights drawn at random, and forget it; coarsest first.

    Returns, of each level: its side; seconds an iteration took, those of them that it waited for a sample,
    and those of a sample by itself; GB of memory at most; and the iterations that the schedule gives it. It
    is left in ``profile.json`` of the run's folder; checkpoints there are left alone.
    """
    trainer.fabric.launch()
    checkpoint.make_folder(trainer.config.run_folder)
    trainer._open_data()
    trainer._build_network()
    planned, whole = trainer.schedule.steps(trainer.total), trainer.schedule
    trainer.plain.train()
    levels = []
    for level in range(whole.levels):
        trainer.schedule = _Alone(whole.tau, whole.Delta, whole.delta, level)
        trainer.draws = replace(trainer.draws, schedule=trainer.schedule)
        levels.append({**_measure(trainer, iterations), "iterations": planned[level]})
        trainer.report(_row(levels[-1]))
    seconds = sum(level["seconds"] * level["iterations"] for level in levels)
    trainer.report(
        f"The schedule's {sum(planned)} iterations would take {seconds / 3600:.1f} hours here, validation "
        f"not counted: {math.ceil(seconds / 60 / PIECE_MINUTES)} piece(s) of {PIECE_MINUTES:g} minutes."
    )
    if trainer.fabric.is_global_zero:
        found = {"device": str(trainer.fabric.device), "precision": trainer.precision, "levels": levels}
        write_text(trainer.config.run_folder / "profile.json", json.dumps(found, indent=1))
    return levels


def _measure(trainer: Trainer, iterations: int) -> dict[str, float]:
    device = trainer.fabric.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    waited = taken = 0.0
    trainer.iteration = 0
    with trainer._samples(WARM_UP + iterations) as samples:
        for t in range(WARM_UP + iterations):
            began = time.perf_counter()
            sample = next(samples)
            ready = time.perf_counter()
            trainer._step(t, sample)
            if t >= WARM_UP:
                waited += ready - began
                taken += time.perf_counter() - began
    alone = min(iterations, 10)
    began = time.perf_counter()
    for t in range(alone):
        sample = trainer._draw(t)
    float(sample.weight.sum())
    return {
        "side": trainer.plain.side(trainer.schedule.finest(0)),
        "seconds": taken / iterations,
        "waiting": waited / iterations,
        "sampling": (time.perf_counter() - began) / alone,
        "memory_gb": _peak(device),
    }


def _peak(device: torch.device) -> float:
    """GB that were held at most: on the GPU, or by this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    )


def _row(level: dict[str, float]) -> str:
    return (
        f"level {level['side']}: {level['seconds']:.3f} s an iteration, {level['waiting']:.3f} s of it "
        f"waiting for a sample (by itself {level['sampling']:.3f} s); {level['memory_gb']:.1f} GB; "
        f"{level['iterations']} iterations planned"
    )
