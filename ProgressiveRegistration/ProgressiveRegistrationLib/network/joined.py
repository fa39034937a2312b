"""The network's layers in fewer sums, for when it no longer learns. The same but for rounding."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import nn

ROWS = 1 << 16  # voxels whose maps are read at a time: they stay in the processor's cache
ENDS = (slice(0, 1), slice(1, -1), slice(-1, None))


class Joined(nn.Module):
    """Up-sampling (2x2x2, in steps of 2), concatenation with ``skip``, and a 3x3x3 convolution of both.

    Nothing lies between the first and the last, so that both together are one transposed convolution (4x4x4)
    of the coarse maps, with a third of the products, and the fine ones need never be stored.
    """

    up: torch.Tensor
    skip: torch.Tensor
    bias: torch.Tensor
    edge: torch.Tensor

    def __init__(self, up: nn.ConvTranspose3d, conv: nn.Conv3d) -> None:
        super().__init__()
        assert up.bias is not None
        assert conv.bias is not None
        above = up.out_channels
        weights = conv.weight.detach()[:, :above]
        # What the up-sampling's biases come to: less at the border, past which there are none.
        biases = up.bias.detach().view(1, -1, 1, 1, 1).expand(1, above, 3, 3, 3)
        edge = F.conv3d(biases, weights, padding=1)
        inner = edge[..., 1:2, 1:2, 1:2]
        self.register_buffer("edge", edge - inner)
        self.register_buffer("up", _one_after_the_other(up.weight.detach(), weights))
        self.register_buffer("skip", conv.weight.detach()[:, above:].clone())
        self.register_buffer("bias", conv.bias.detach() + inner.flatten())

    def forward(self, below: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """(n, maps, 2d, 2h, 2w) of ``below`` (n, c, d, h, w) and ``skip`` (n, k, 2d, 2h, 2w)."""
        out = F.conv_transpose3d(below, self.up, stride=2, padding=1)
        out += F.conv3d(skip, self.skip, self.bias, padding=1)
        edge = self.edge.clone()  # see ``read_off``
        for z, y, x in product(range(3), repeat=3):
            if (z, y, x) != (1, 1, 1):
                out[..., ENDS[z], ENDS[y], ENDS[x]] += edge[..., z : z + 1, y : y + 1, x : x + 1]
        return out


def _one_after_the_other(up: torch.Tensor, conv: torch.Tensor) -> torch.Tensor:
    """(c, maps, 4, 4, 4) of weights (c, k, 2, 2, 2) and (maps, k, 3, 3, 3)."""
    c, k, maps = *up.shape[:2], len(conv)
    first, second = up.permute(2, 3, 4, 0, 1).reshape(-1, k), conv.permute(1, 2, 3, 4, 0).reshape(k, -1)
    both = (first @ second).view(2, 2, 2, c, 3, 3, 3, maps).permute(3, 7, 4, 5, 6, 0, 1, 2)
    out = up.new_zeros(c, maps, 4, 4, 4)
    for z, y, x in product(range(3), repeat=3):
        out[:, :, 2 - z : 4 - z, 2 - y : 4 - y, 2 - x : 4 - x] += both[:, :, z, y, x]
    return out


def read_off(conv: nn.Conv3d, maps: torch.Tensor) -> torch.Tensor:
    """``conv``, of 1x1x1, as a matrix product in its own precision: (n, c, D, H, W) -> (n, k, D, H, W)."""
    assert conv.bias is not None
    rows = maps.permute(0, 2, 3, 4, 1).reshape(-1, maps.shape[1])
    # Views of copies: in inference mode not every kind of tensor may be looked at in parts if it was made
    # before (the simulated GPU of the tests is one that may not).
    weights, biases = conv.weight.clone().flatten(1), conv.bias.clone()[:, None]
    found = [torch.addmm(biases, weights, part.to(weights.dtype).T) for part in rows.split(ROWS)]
    return torch.cat(found, 1).view(-1, len(maps), *maps.shape[2:]).movedim(0, 1)
