"""Adam for one tensor. ``torch.optim`` would do, but its first step imports torch's compiler: a second."""

from __future__ import annotations

import torch

MEAN, SQUARE = 0.9, 0.999  # what the running means keep


class Adam:
    """Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1.

    ``floor``: epsilon there; slopes that are much smaller make small steps.
    """

    def __init__(self, values: torch.Tensor, floor: float) -> None:
        self.values, self.floor, self.steps = values, floor, 0
        self.mean, self.square = (torch.zeros_like(values) for _ in range(2))

    def step(self, slope: torch.Tensor, size: float) -> None:
        """Change the values against their gradient ``slope``, by at most about ``size`` each."""
        self.steps += 1
        self.mean.lerp_(slope, 1 - MEAN)
        self.square.mul_(SQUARE).addcmul_(slope, slope, value=1 - SQUARE)
        scale = (self.square / (1 - SQUARE**self.steps)).sqrt_().add_(self.floor)
        self.values.addcdiv_(self.mean, scale, value=-size / (1 - MEAN**self.steps))
