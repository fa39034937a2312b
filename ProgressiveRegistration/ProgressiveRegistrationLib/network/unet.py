"""The network as it runs at test time: the paper's baseline architecture (section II-A).

A 3D U-Net after Çiçek et al. (2016) with two input and three output channels, half the channels and Leaky
ReLU 0.01. The layers that exist only while training (input and output convolutions of the lower levels) live
in ``Training/``.
"""

from __future__ import annotations

import torch
from torch import nn

LEAKINESS = 0.01


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

    def __init__(self, maps_in: int, maps_out: int, norm=nn.BatchNorm3d) -> None:
        super().__init__()
        self.conv = nn.Conv3d(maps_in, maps_out, 3, padding=1)
        self.norm = norm(maps_out)
        self.act = nn.LeakyReLU(LEAKINESS, inplace=True)


class RegistrationUNet(nn.Module):
    """Two images -> a displacement field.

    Parameters
    ----------
    width : maps after the first convolution (16 = the paper, 19.3 M parameters at 5 levels; 8 = 4.8 M).
    levels : resolution levels; the input's sides must be divisible by 2**(levels - 1).
    norm : callable(maps) -> module; the default is batch normalisation.

    Shapes: (n, 2, D, H, W), channel 0 fixed and 1 moving, -> (n, 3, D, H, W), channels x, y, z, in voxels of
    the input grid.
    """

    def __init__(self, width: int = 8, levels: int = 5, norm=nn.BatchNorm3d) -> None:
        super().__init__()
        self.width, self.levels = int(width), int(levels)
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
        self.pool = nn.MaxPool3d(2)
        self.out = nn.Conv3d(maps_of_level(width, 0)[2], 3, 1)

    def merge_up(self, level: int, below: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Bring the maps of ``level + 1`` up and join them with the analysis maps of ``level``."""
        return self.merge[level](torch.cat([self.up[level](below), skip], 1))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 2, D, H, W) -> (n, 2 * width, D, H, W): all but the output convolution."""
        skips = []
        for level in range(self.levels):
            x = self.down[level](x if level == 0 else self.pool(x))
            skips.append(x)
        for level in reversed(range(self.levels - 1)):
            x = self.merge_up(level, x, skips[level])
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.features(x))


@torch.no_grad()
def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Fold every ``ConvBlock``'s normalisation (running statistics) into its convolution, in place."""
    for block in network.modules():
        if isinstance(block, ConvBlock) and not isinstance(block.norm, nn.Identity):
            norm, conv = block.norm, block.conv
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            conv.weight.mul_(scale[:, None, None, None, None])
            conv.bias.copy_((conv.bias - norm.running_mean) * scale + norm.bias)
            block.norm = nn.Identity()
    return network
