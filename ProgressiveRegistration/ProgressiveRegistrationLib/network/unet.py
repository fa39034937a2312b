"""The network as it runs at test time: the paper's baseline architecture (section II-A).

A 3D U-Net after Çiçek et al. (2016) with two input and three output channels, half the channels and Leaky
ReLU 0.01. The layers that exist only while training (input and output convolutions of the lower levels) live
in ``Training/``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from .compose import concatenated
from .correlation import RADIUS, correlation
from .joined import Joined, read_off

LEAKINESS = 0.01
JOINED_LEVELS = 2  # below, making the joined weights takes longer than they save
Module = TypeVar("Module", bound=nn.Module)


def maps_of_level(width: int, level: int) -> tuple[int, int, int]:
    """Feature maps of a level (0 = finest): those it receives from above,
    after its first and after its second convolution.

    The finest level receives the two images.
    """
    first = width * 2**level
    return (2 if level == 0 else first), first, 2 * first


class ConvBlock(nn.Sequential):
    """3x3x3 convolution, batch normalisation, Leaky ReLU. ``norm`` builds
    the normalisation of a number of maps."""

    def __init__(
        self, maps_in: int, maps_out: int, norm: Callable[[int], nn.Module] = nn.BatchNorm3d
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(maps_in, maps_out, 3, padding=1)
        self.norm = norm(maps_out)
        self.act = nn.LeakyReLU(LEAKINESS, inplace=True)

    def normalisation(self) -> nn.BatchNorm3d:
        """What has not been folded into the convolution."""
        assert isinstance(self.norm, nn.BatchNorm3d)
        return self.norm


def blocks_of(part: nn.Module) -> list[ConvBlock]:
    """The blocks of a level's ``down`` or ``merge``."""
    return [block for block in part.children() if isinstance(block, ConvBlock)]


def bias_of(conv: nn.Conv3d | nn.ConvTranspose3d) -> torch.Tensor:
    """The biases, which all layers here have."""
    assert conv.bias is not None
    return conv.bias


def statistics_of(norm: nn.BatchNorm3d) -> tuple[torch.Tensor, torch.Tensor]:
    """Running mean and variance, which all layers here have."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def channels_last(network: Module, device: torch.device | str, kind: torch.dtype | None = None) -> Module:
    """The network on a device, in the memory format that is fastest there."""
    # torch's types do not know the keyword.
    return network.to(device=device, dtype=kind, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


class RegistrationUNet(nn.Module):
    """Two images -> a displacement field.

    Parameters
    ----------
    width : maps after the first convolution (16 = the paper, 19.3 M parameters at 5 levels; 8 = 4.8 M).
    levels : resolution levels; the input's sides must be divisible by 2**(levels - 1).
    norm : callable(maps) -> module; the default is batch normalisation.
    correlated : levels that see a ``correlation`` of the two images too, added to the maps that they
        receive; not the finest one, and one pair at a time. The paper has none.
    composed : every level has an output of its own, and the field is their concatenation (section IV-F).

    Shapes: (n, 2, D, H, W), channel 0 fixed and 1 moving, -> (n, 3, D, H, W), channels x, y, z, in voxels of
    the input grid.
    """

    def __init__(
        self,
        width: int = 8,
        levels: int = 5,
        norm: Callable[[int], nn.Module] = nn.BatchNorm3d,
        correlated: tuple[int, ...] = (),
        composed: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.levels, self.composed = int(width), int(levels), bool(composed)
        self.correlated = tuple(sorted(int(level) for level in correlated))
        if any(not 0 < level < self.levels for level in self.correlated):
            raise ValueError(
                f"Correlated levels must lie between 1 and {self.levels - 1}; got {list(self.correlated)}."
            )
        self.down = nn.ModuleList()
        for level in range(levels):
            received, first, second = maps_of_level(width, level)
            self.down.append(nn.Sequential(ConvBlock(received, first, norm), ConvBlock(first, second, norm)))
        self.up = nn.ModuleList()
        self.merge = nn.ModuleList()
        for level in range(levels - 1):
            _, _, skip = maps_of_level(width, level)
            below = 2 * skip
            self.up.append(nn.ConvTranspose3d(below, below, 2, stride=2))
            self.merge.append(nn.Sequential(ConvBlock(below + skip, skip, norm), ConvBlock(skip, skip, norm)))
        self.joined = nn.ModuleList()  # see ``join``
        self.pool = nn.MaxPool3d(2)
        self.out = nn.Conv3d(maps_of_level(width, 0)[2], 3, 1)
        # of the levels below the finest one
        self.heads = nn.ModuleList(
            nn.Conv3d(maps_of_level(width, level)[2], 3, 1) for level in range(1, levels) if composed
        )
        self.match = nn.ModuleDict(
            {
                str(level): nn.Conv3d((2 * RADIUS + 1) ** 3, maps_of_level(width, level)[0], 1)
                for level in self.correlated
            }
        )

    def matches(self, images: torch.Tensor, level: int, side: tuple[int, ...]) -> torch.Tensor:
        """What the images' correlation adds to the maps that ``level`` (one of ``correlated``) receives.

        images : (1, 2, D, H, W) float32. side : (d, h, w) of the level. Returns (1, maps, d, h, w).
        """
        conv = self.match[str(level)]
        d, h, w = side
        return conv(correlation(images, (d, h, w)).to(next(conv.parameters()).dtype))

    def merge_up(self, level: int, below: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Bring the maps of ``level + 1`` up and join them with the analysis maps of ``level``."""
        if level >= len(self.joined):
            return self.merge[level](torch.cat([self.up[level](below), skip], 1))
        first, *rest = blocks_of(self.merge[level])
        maps = first.act(self.joined[level](below, skip))
        for block in rest:
            maps = block(maps)
        return maps

    def features(self, x: torch.Tensor, images: torch.Tensor | None = None) -> list[torch.Tensor]:
        """The maps that each level's field is read from, coarsest first: (n, maps, d, h, w), the last one
        (n, 2 * width, D, H, W).

        x : (n, 2, D, H, W). images : the same in float32, for the correlation; None: ``x`` itself.
        """
        images = x if images is None else images
        skips = []
        for level in range(self.levels):
            if level > 0:
                x = self.pool(x)
                if level in self.correlated:
                    x = x + self.matches(images, level, tuple(x.shape[2:]))
            x = self.down[level](x)
            skips.append(x)
        maps = [x]
        for level in reversed(range(self.levels - 1)):
            maps.append(self.merge_up(level, maps[-1], skips[level]))
        return maps

    def field(self, features: list[torch.Tensor]) -> torch.Tensor:
        """(n, 3, D, H, W): the field that ``features`` stand for, in the precision of the last layer."""
        finest = read_off(self.out, features[-1])
        if not self.composed:
            return finest
        heads = [head for head in self.heads if isinstance(head, nn.Conv3d)]
        below = [read_off(head, maps) for head, maps in zip(reversed(heads), features)]
        return concatenated([*below, finest], finest.shape[2:])[-1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.field(self.features(x))


@torch.no_grad()
def fold_batch_norm(network: Module) -> Module:
    """Fold every ``ConvBlock``'s normalisation (running statistics) into its convolution, in place."""
    for block in network.modules():
        if isinstance(block, ConvBlock) and not isinstance(block.norm, nn.Identity):
            norm, conv = block.normalisation(), block.conv
            mean, variance = statistics_of(norm)
            scale = norm.weight / torch.sqrt(variance + norm.eps)
            conv.weight.mul_(scale[:, None, None, None, None])
            bias_of(conv).copy_((bias_of(conv) - mean) * scale + norm.bias)
            block.norm = nn.Identity()
    return network


def join(network: RegistrationUNet) -> RegistrationUNet:
    """Let the finest levels be brought up and convolved in one step, in place; after ``fold_batch_norm``."""
    network.joined = nn.ModuleList(
        Joined(up, blocks_of(merge)[0].conv)
        for up, merge in list(zip(network.up, network.merge))[:JOINED_LEVELS]
        if isinstance(up, nn.ConvTranspose3d)
    )
    return network
