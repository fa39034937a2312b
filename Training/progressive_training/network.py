"""The network while it trains: a RegistrationUNet with an input and an output convolution per level (paper,
Fig. 1).

Levels are counted as in the paper: 0 is the coarsest (8^3 of 128^3), the last is the finest.
``RegistrationUNet`` counts the other way round; only this file converts. The U-Net is a plain submodule, so
export is its state dict.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce

import torch
import torch.nn.functional as F
from ProgressiveRegistrationLib.network.compose import concatenated
from ProgressiveRegistrationLib.network.unet import RegistrationUNet, bias_of, maps_of_level, statistics_of
from torch import nn


class RenormBatchNorm3d(nn.BatchNorm3d):
    """Batch normalisation whose forward pass uses the running averages in training too.

    The gradient still flows through the statistics of the batch: batch renormalisation (Ioffe, 2017) without
    clipping, which is what the paper's "accumulation of moving averages ... instead of computing them from
    one batch" amounts to. The averages start as the statistics of the first batch and are then a cumulative
    average until ``momentum`` is the slower of the two.
    """

    def __init__(self, maps: int, eps: float = 1e-5, momentum: float = 0.01) -> None:
        super().__init__(maps, eps=eps, momentum=momentum)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            mean, var = batch_statistics(x)
            count, (own_mean, own_var) = self.num_batches_tracked, statistics_of(self)
            assert count is not None
            count += 1
            # Not as a number of Python's: a GPU would have to be waited for.
            rate = (1.0 / count).clamp(min=self.momentum)
            own_mean.lerp_(mean, rate)
            own_var.lerp_(var, rate)
            running = torch.sqrt(own_var + self.eps)
            r = torch.sqrt(var + self.eps) / running
            d = (mean - own_mean) / running
        return F.batch_norm(
            x, None, None, self.weight * r, self.bias + self.weight * d, training=True, eps=self.eps
        )


def batch_statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and (biased) variance per map, float32, of (n, c, D, H, W)."""
    # The fused kernel is several times faster than var_mean on bfloat16 with channels last.
    mean = torch.zeros(x.shape[1], device=x.device)
    var = torch.ones(x.shape[1], device=x.device)
    F.batch_norm(x, mean, var, training=True, momentum=1.0)
    count = x.numel() // x.shape[1]
    return mean, var * ((count - 1) / count)


class BatchNorm3d(nn.BatchNorm3d):
    """Plain batch normalisation: batch statistics in training, running averages at test time."""

    def __init__(self, maps: int, eps: float = 1e-5, momentum: float = 0.01) -> None:
        super().__init__(maps, eps=eps, momentum=momentum)


NORMS = {"renorm": RenormBatchNorm3d, "batch": BatchNorm3d}


def beta_gamma(alpha: Sequence[float]) -> tuple[list[float], list[float]]:
    """Eq. 3: beta_i = sum of alpha_j for j <= i, gamma_i = 1 - beta_i."""
    beta, total = [], 0.0
    for a in alpha:
        total += a
        beta.append(min(1.0, total) if abs(total - 1) > 1e-9 else 1.0)
    return beta, [1.0 - b for b in beta]


# Fields are in voxels of the grid of this side, whatever the network's.
UNIT = 128


class ProgressiveUNet(nn.Module):
    """RegistrationUNet with the extra layers of training.

    Parameters
    ----------
    width, levels : of the RegistrationUNet. size : side of its input: 128 (the paper's), 64 or 32; or its
        cells along x, y and z. Levels then go by the sides that they would have in 128^3, see ``cells``.
    norm : "renorm" or "batch", see ``NORMS``. momentum : of the running averages.
    seed : of the Glorot normal initialisation; the U-Net is drawn first, so a baseline begins with the same
        weights.
    correlated : as in RegistrationUNet, whose count of levels it uses (0 = finest).
    composed : the levels' fields are concatenated, and the results up to each level summed (section IV-F).
    """

    def __init__(
        self,
        width: int = 8,
        levels: int = 5,
        size: int | Sequence[int] = 128,
        norm: str = "renorm",
        momentum: float = 0.01,
        seed: int = 0,
        correlated: Sequence[int] = (),
        composed: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.levels, self.composed = width, levels, composed
        self.size, self.shape = grid_shape(size)

        def make_norm(maps: int) -> nn.Module:
            return NORMS[norm](maps, momentum=momentum)

        self.unet = RegistrationUNet(width, levels, make_norm, tuple(correlated))
        # Entry k serves level k: the finest level has its own input and output in the U-Net.
        self.inputs = nn.ModuleList()
        self.outputs = nn.ModuleList()
        for level in range(levels - 1):
            received, _, last = maps_of_level(width, self._depth(level))
            self.inputs.append(nn.Conv3d(2, received, 3, padding=1))
            self.outputs.append(nn.Conv3d(last, 3, 1))
        generator = torch.Generator().manual_seed(seed)
        for part in (self.unet, self.inputs, self.outputs):
            glorot(part, generator)

    def _depth(self, level: int) -> int:
        """The paper's level -> RegistrationUNet's."""
        return self.levels - 1 - level

    def side(self, level: int) -> int:
        """Cells along each axis at a level, see ``cells``."""
        return self.size >> self._depth(level)

    def cells(self, side: int) -> tuple[int, int, int]:
        """(D, H, W) of the grid that has ``side`` cells along each axis where the full one is 128^3."""
        x, y, z = (n * side // UNIT for n in self.shape)
        return z, y, x

    def level_outputs(self, x: torch.Tensor, alpha: Sequence[float]) -> dict[int, torch.Tensor]:
        """The field of every level up to the finest active one: level -> (n, 3, s, s, s),
        voxels of the full grid.

        ``x`` (n, 2, S, S, S) may be coarser than the full grid, if not coarser than the finest active level.
        Levels finer than that are not computed.
        """
        alpha = check_alpha(alpha, self.levels)
        beta, gamma = beta_gamma(alpha)
        finest = max(i for i, a in enumerate(alpha) if a > 0)
        skips: dict[int, torch.Tensor] = {}
        maps: torch.Tensor | None = None
        for level in range(finest, -1, -1):
            depth = self._depth(level)
            entering: list[torch.Tensor] = []
            if level == self.levels - 1:
                entering.append(pool_to(x, self.cells(self.side(level))))
            else:
                if beta[level] > 0:
                    pooled = pool_to(x, self.cells(self.side(level)))
                    entering.append(beta[level] * self.inputs[level](pooled))
                if maps is not None and gamma[level] > 0:
                    entering.append(gamma[level] * self.unet.pool(maps))
            if depth in self.unet.correlated:
                side = self.side(level)
                finer = pool_to(x, self.cells(2 * side))
                entering.append(self.unet.matches(finer, depth, self.cells(side)))
            maps = self.unet.down[depth](_sum(entering))
            skips[level] = maps
        fields = {}
        maps = skips[0]
        for level in range(finest + 1):
            if level > 0:
                depth = self._depth(level)
                above = doubled(self.unet.up[depth], maps)
                maps = self.unet.merge[depth](torch.cat([above, skips[level]], 1))
            if alpha[level] > 0 or self.composed or not self.training:
                head = self.unet.out if level == self.levels - 1 else self.outputs[level]
                # bfloat16 has 8 bits: 20 voxels would be rounded to 0.1.
                with torch.autocast(maps.device.type, enabled=False):
                    fields[level] = pointwise(head, maps.float())
        return fields

    def forward(self, x: torch.Tensor, alpha: Sequence[float], side: int | None = None) -> torch.Tensor:
        """Eq. 1: the weighted sum of the levels' fields, (n, 3, s, s, s) in voxels of the 128 grid; where
        ``composed``, eq. 5: of their concatenations up to each level.

        ``side`` None: on the grid of the finest active level; otherwise brought up to ``side``.
        """
        fields = self.level_outputs(x, alpha)
        if self.composed:
            fields = dict(enumerate(concatenated(list(fields.values()), (UNIT,) * 3)))
        finest = max(i for i, a in enumerate(alpha) if a > 0)
        target = self.cells(side or self.side(finest))
        return _sum([alpha[k] * resize(field, target) for k, field in fields.items() if alpha[k] > 0])

    def active_parameters(self, alpha: Sequence[float]) -> list[nn.Parameter]:
        """Parameters that take part at these weights."""
        beta, _ = beta_gamma(alpha)
        finest = max(i for i, a in enumerate(alpha) if a > 0)
        parts: list[nn.Module] = []
        for level in range(finest + 1):
            depth = self._depth(level)
            parts.append(self.unet.down[depth])
            if depth in self.unet.correlated:
                parts.append(self.unet.match[str(depth)])
            if level > 0:
                parts += [self.unet.up[depth], self.unet.merge[depth]]
            if level < self.levels - 1:
                parts += [self.inputs[level]] if beta[level] > 0 else []
                parts += [self.outputs[level]] if alpha[level] > 0 or self.composed else []
            elif alpha[level] > 0:
                parts.append(self.unet.out)
        return [p for part in parts for p in part.parameters()]


def doubled(conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """``conv``, of 2x2x2 in steps of 2, as a matrix product: (n, c, D, H, W) -> (n, maps, 2D, 2H, 2W).

    Its gradients take a third of the time that oneDNN's transposed convolution takes on a CPU.
    """
    assert isinstance(conv, nn.ConvTranspose3d)
    n, c, d, h, w = x.shape
    rows = conv.weight.permute(0, 2, 3, 4, 1).reshape(c, -1)
    out = F.linear(x.permute(0, 2, 3, 4, 1), rows.T, bias_of(conv).repeat(8))
    out = out.view(n, d, h, w, 2, 2, 2, -1).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return out.reshape(n, 2 * d, 2 * h, 2 * w, -1).permute(0, 4, 1, 2, 3)


def pointwise(conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """``conv``, of 1x1x1, as a matrix product, for the same reason: (n, c, D, H, W) -> (n, maps, D, H, W)."""
    assert isinstance(conv, nn.Conv3d)
    out = F.linear(x.permute(0, 2, 3, 4, 1), conv.weight.flatten(1), bias_of(conv))
    return out.permute(0, 4, 1, 2, 3)


def _sum(parts: list[torch.Tensor]) -> torch.Tensor:
    """Of at least one tensor, from the first to the last."""
    return reduce(torch.add, parts)


def check_alpha(alpha: Sequence[float], levels: int) -> list[float]:
    """The weights as a list; raises ValueError if they are not ``levels`` weights in [0,
    1] that sum to one."""
    alpha = [float(a) for a in alpha]
    if len(alpha) != levels or min(alpha) < 0 or abs(sum(alpha) - 1) > 1e-6:
        raise ValueError(
            f"The level weights must be {levels} numbers in [0, 1] that sum to one; got {alpha}."
        )
    return alpha


def grid_shape(size: int | Sequence[int]) -> tuple[int, tuple[int, int, int]]:
    """(nominal side, cells along x, y, z of the grid that goes for 128^3) of a network's ``size``."""
    if isinstance(size, int):
        return size, (UNIT,) * 3
    x, y, z = (int(n) for n in size)
    return UNIT, (x, y, z)


def own_voxels(size: int | Sequence[int]) -> torch.Tensor:
    """(3, 1, 1, 1): what turns voxels of the 128 grid into those of a network's own, x, y, z."""
    return torch.tensor(_shape(size), dtype=torch.float32).view(3, 1, 1, 1) / UNIT


def _shape(side: int | Sequence[int]) -> tuple[int, ...]:
    return (side,) * 3 if isinstance(side, int) else tuple(side)


def pool_to(x: torch.Tensor, side: int | Sequence[int]) -> torch.Tensor:
    """Average-pool (n, c, D, H, W) to ``side`` (or to (d, h, w)), a whole part of it."""
    wanted, given = _shape(side), tuple(x.shape[2:])
    if given == wanted:
        return x
    factors = {divmod(a, b) for a, b in zip(given, wanted)}
    if len(factors) > 1 or min(factors)[0] < 1 or min(factors)[1]:
        raise ValueError(f"Images of {given} cells cannot feed a level of {wanted}.")
    return F.avg_pool3d(x, min(factors)[0])


def resize(field: torch.Tensor, side: int | Sequence[int]) -> torch.Tensor:
    """Trilinear, cell-centred resampling of (n, c, D, H, W) to a larger ``side`` (or to (d, h, w)); values
    keep their unit."""
    wanted, given = _shape(side), tuple(field.shape[2:])
    if given == wanted:
        return field
    if field.device.type == "cpu":
        return F.interpolate(field, wanted, mode="trilinear", align_corners=False)
    # A GPU adds up the gradients of an interpolation in any order, those of matrix products in one.
    over_z, over_y, over_x = (_linear(a, b, field.device) for a, b in zip(given, wanted))
    with torch.autocast(field.device.type, enabled=False):
        out = field.float() @ over_x.T
        out = over_y @ out
        return (over_z @ out.flatten(3)).unflatten(3, wanted[1:])


@lru_cache(maxsize=32)
def _linear(count: int, side: int, device: torch.device) -> torch.Tensor:
    """(side, count): the weights of linear, cell-centred resampling from ``count`` to ``side`` cells."""
    rows = F.interpolate(torch.eye(count)[None], side, mode="linear", align_corners=False)
    return rows[0].T.contiguous().to(device)


def image_side(target_side: int, size: int) -> int:
    """Levels up to 32^3, and networks of a ``size`` of up to 64, are fed from pairs sampled on 64^3; others
    from the full grid."""
    return 64 if target_side <= 32 or size <= 64 else 128


def predict_field(
    network: ProgressiveUNet, images: torch.Tensor, alpha: list[float], side: int
) -> torch.Tensor:
    """The field at ``side`` (see ``ProgressiveUNet.cells``), in voxels of the 128 grid, whatever levels are
    active."""
    finest = network.side(max(i for i, a in enumerate(alpha) if a > 0))
    return resize(network(images, alpha, finest), network.cells(max(side, finest)))


@torch.no_grad()
def glorot(module: nn.Module, generator: torch.Generator) -> None:
    """Glorot normal weights and zero biases for every convolution, in place."""
    for part in module.modules():
        if isinstance(part, (nn.Conv3d, nn.ConvTranspose3d)):
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(part.weight)
            std = (2.0 / (fan_in + fan_out)) ** 0.5
            part.weight.normal_(0, std, generator=generator)
            bias_of(part).zero_()
