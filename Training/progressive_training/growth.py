"""Grow a level that begins where the level below it stands (not in the paper; ``network.growth: carry``).

The paper draws a new level's weights at random, and its long transitions make up for that. Where iterations
are dear, a new level can instead be set so that it disturbs little of what is there: then only what it adds
has to be learned.

Synthesis: it passes on the field of the level below, brought up trilinearly. Three maps carry the field and
three its negative, since x = (f(x) - f(-x)) / (1 + a) for a Leaky ReLU f of leakiness a; the others keep
their random weights.

Analysis: its pooled maps get the mean and the spread of the extra input convolution's that they replace.
Normalised maps have a spread of 1 and those, of gradient magnitudes, some 0.02: under running averages the
layers behind would amplify that.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from ProgressiveRegistrationLib.network.unet import LEAKINESS, bias_of, blocks_of, statistics_of
from torch import nn

from .network import ProgressiveUNet, pool_to

CARRIED = 6


def carry(network: ProgressiveUNet, level: int, batches: Iterable[torch.Tensor], alpha: list[float]) -> None:
    """Set the synthesis layers of ``level`` (in place) so that its field is that of ``level - 1``,
    brought up.

    Parameters
    ----------
    level : the paper's count, at least 1. batches : some images (1, 2, S, S, S), to measure the
        normalisation's statistics.
    alpha : weights in which ``level`` is the finest active one, if only just.
    """
    depth = network.levels - 1 - level
    unet = network.unet
    outputs = [part for part in network.outputs if isinstance(part, nn.Conv3d)]
    below = outputs[level - 1]
    head = unet.out if level == network.levels - 1 else outputs[level]
    first, second = blocks_of(unet.merge[depth])
    if first.conv.out_channels < CARRIED:
        return
    with torch.no_grad():
        _pass_on(unet.up[depth], first.conv, second.conv, head, below)
        batches = list(batches)
        norms = [block.normalisation() for block in (*blocks_of(unet.down[depth]), first, second)]
        was_training = network.training
        network.train()
        for norm in norms:
            norm.reset_running_stats()
            norm.weight.fill_(1)
            norm.bias.zero_()
        spread = match_analysis(network, level, batches)
        # The same maps are the skip: there they keep their weight.
        first.conv.weight[CARRIED:, -len(spread) :] /= spread.view(1, -1, 1, 1, 1)
        for norm in norms[-2:]:
            # What lies behind a layer is measured once that layer carries.
            norms[-1].reset_running_stats()
            for images in batches:
                network(images, alpha)
            _undo(norm, slice(0, CARRIED))
        for norm in norms:
            # As if they had been averaged for long: the carried maps must not drift away from what was
            # undone.
            as_if_averaged_for_long(norm)
        network.train(was_training)


def match_analysis(
    network: ProgressiveUNet, level: int, batches: list[torch.Tensor], rounds: int = 6
) -> torch.Tensor:
    """Give the pooled analysis maps of ``level`` mean and spread of the input convolution of ``level - 1``,
    in place.

    Returns the spread, (maps,).
    """
    depth = network.levels - 1 - level
    down, entry = network.unet.down[depth], network.inputs[level - 1]
    own, lower = (network.cells(network.side(at)) for at in (level, level - 1))

    def moments(maps: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        flat = torch.cat([m.float().flatten(2)[0] for m in maps], 1)
        return flat.mean(1), flat.std(1).clamp_min(1e-6)

    with torch.no_grad():
        wanted_mean, wanted_spread = moments([entry(pool_to(b, lower)) for b in batches])
        entering = [pool_to(b, own) for b in batches]
        if level < network.levels - 1:
            entering = [network.inputs[level](x) for x in entering]
        norm = blocks_of(down)[1].normalisation()
        norm.weight.copy_(wanted_spread)
        norm.bias.copy_(wanted_mean)
        # The rectifier and the pooling between are not linear: approach it.
        for _ in range(rounds):
            mean, spread = moments([network.unet.pool(down(x)) for x in entering])
            norm.weight.mul_((wanted_spread / spread).clamp(0.3, 3))
            norm.bias.add_(wanted_mean - mean)
            # Further down a map would be rectified away.
            norm.bias.copy_(norm.bias.clamp(-wanted_spread, wanted_spread))
    return wanted_spread


def as_if_averaged_for_long(norm: nn.BatchNorm3d) -> None:
    """From now on the running averages change by ``momentum`` alone."""
    assert norm.momentum
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.fill_(int(1 / norm.momentum))


def _undo(norm: nn.BatchNorm3d, maps: slice) -> None:
    """Make the normalisation the identity on some maps."""
    mean, variance = statistics_of(norm)
    norm.weight[maps] = torch.sqrt(variance[maps] + norm.eps)
    norm.bias[maps] = mean[maps]


def _pass_on(up: nn.Module, first: nn.Conv3d, second: nn.Conv3d, head: nn.Conv3d, below: nn.Conv3d) -> None:
    """Weights that carry ``below``'s output from the maps under ``up`` to ``head``."""
    assert isinstance(up, nn.ConvTranspose3d)
    count = up.in_channels
    up.weight.copy_(torch.eye(count).view(count, count, 1, 1, 1).expand_as(up.weight))
    bias_of(up).zero_()
    # Repeating each cell twice and smoothing with (1, 2, 1) / 4 is linear interpolation between cell centres.
    line = torch.tensor([1.0, 2.0, 1.0], device=below.weight.device) / 4
    smooth = line.view(3, 1, 1) * line.view(1, 3, 1) * line.view(1, 1, 3)
    kernel = below.weight.view(3, count, 1, 1, 1) * smooth
    first.weight[:CARRIED] = 0
    for row, sign in ((slice(0, 3), 1.0), (slice(3, 6), -1.0)):
        first.weight[row, :count] = sign * kernel
        bias_of(first)[row] = sign * bias_of(below)
    second.weight[:CARRIED] = 0
    bias_of(second)[:CARRIED] = 0
    head.weight.zero_()
    bias_of(head).zero_()
    for c in range(3):
        for target, sign in ((c, 1.0), (3 + c, -1.0)):
            for source, side in ((c, 1.0), (3 + c, -1.0)):
                second.weight[target, source, 1, 1, 1] = sign * side / (1 + LEAKINESS)
        head.weight[c, c] = 1 / (1 + LEAKINESS)
        head.weight[c, 3 + c] = -1 / (1 + LEAKINESS)
