"""Begin a run with the weights of an exported model, also with one of the next larger grid.

A network of 64^3 is that of 128^3 without its finest level: their common layers see the same grids. What
the smaller one has of its own, the first layer and the head, is fitted by least squares: the layer so that
the maps behind it are the larger network's, the head to the true field of some samples. Training goes on
from there.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from ProgressiveRegistrationLib.errors import ModelError
from ProgressiveRegistrationLib.network.model import ModelCard
from ProgressiveRegistrationLib.network.unet import RegistrationUNet

from .deformation import FINE
from .growth import as_if_averaged_for_long
from .network import ProgressiveUNet, grid_shape, own_voxels
from .samples import COARSE_GAIN, Sample, SampleStream

SAMPLES = 16
RIDGE = 1e-3


def inherit(network: ProgressiveUNet, card: ModelCard, stream: SampleStream) -> None:
    """Take over a model's weights, in place; the network's finest level must be its last, and it on the CPU.

    Raises
    ------
    ModelError : the model is neither of the network's architecture nor of twice its size with one level more.
    """
    weights = {k: v.float() for k, v in card.read_weights().items()}
    shape = (network.width, network.levels, network.size)
    if network.composed or card.output != "finest":
        raise ModelError(
            "Networks with a composed output cannot begin with a model's weights, nor end in them."
        )
    if (card.width, card.levels, card.size) == shape:
        _take_over(network.unet, _training_units(weights, card.size))
    elif (2 * card.width, card.levels - 1, card.size) == (
        *shape[:2],
        2 * network.size,
    ) and not card.correlated:
        larger = RegistrationUNet(card.width, card.levels)
        _take_over(larger, weights)
        _take_over(network.unet, _inner(weights))
        _fit(network, larger.eval(), stream)
    else:
        raise ModelError(
            f"The model {card.name} {card.version} (width {card.width}, {card.levels} levels, {card.size}^3) "
            f"cannot begin a network of width {shape[0]}, {shape[1]} levels and {shape[2]}^3: it must have "
            "the same, or half the width, one level more and twice the size."
        )
    for norm in [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm3d)]:
        as_if_averaged_for_long(norm)


def _training_units(weights: dict[str, torch.Tensor], size: int | list[int]) -> dict[str, torch.Tensor]:
    """The inverse of ``export.own_units``."""
    if size == FINE:
        return weights
    first = "down.0.0.conv.weight"
    out = dict(weights)
    if grid_shape(size)[0] < FINE:
        out[first] = out[first] / COARSE_GAIN
    scale = own_voxels(size)
    for name in ("out.weight", "out.bias"):
        out[name] = out[name] / scale.view(3, *([1] * (out[name].ndim - 1)))
    return out


def _inner(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of the larger network's weights those that the smaller one shares, under its names."""
    out = {}
    for key, value in weights.items():
        part, level, *rest = key.split(".")
        if (
            part in ("down", "up", "merge")
            and int(level) > 0
            and not (part == "down" and key.startswith("down.1.0."))
        ):
            out[".".join([part, str(int(level) - 1), *rest])] = value
    return out


@torch.no_grad()
def _take_over(unet: RegistrationUNet, weights: dict[str, torch.Tensor]) -> None:
    """Load what there is; a correlation that the weights do not know begins with no influence."""
    _missing, unexpected = unet.load_state_dict(weights, strict=False)
    if unexpected:
        raise ModelError(f"The model's weights hold {unexpected[0]}, which the network has not.")
    for key, part in unet.match.items():
        if f"match.{key}.weight" not in weights:
            for parameter in part.parameters():
                parameter.zero_()


@torch.no_grad()
def _fit(network: ProgressiveUNet, larger: Any, stream: SampleStream) -> None:
    """Least squares for the first block and the head, over samples that are seen in no iteration."""
    unet: Any = network.unet
    first = unet.down[0][0]
    training = network.training
    network.eval()
    normal = right = None
    for k in range(SAMPLES):
        fine = _sample(stream, k, FINE, 8).images
        wanted = larger.down[1][0].norm(larger.down[1][0].conv(larger.pool(larger.down[0](fine))))
        a = _neighbours(_sample(stream, k, 64, 8).images)
        b = wanted[0].flatten(1).T
        normal, right = _sum(normal, a.T @ a), _sum(right, a.T @ b)
    solution = _solve(normal, right)
    size = first.conv.weight.shape
    first.conv.weight.copy_(solution[:-1].T.reshape(size))
    first.conv.bias.copy_(solution[-1])
    _make_identity(first.norm, stream, first.conv)
    normal = right = None
    for k in range(SAMPLES):
        sample = _sample(stream, k, 64, 64)
        a = unet.features(sample.images)[-1][0].flatten(1).T
        a = torch.cat([a, torch.ones(len(a), 1)], 1)
        weight = sample.weight.flatten()[:, None]
        normal = _sum(normal, (a * weight).T @ a)
        right = _sum(right, (a * weight).T @ sample.target[0].flatten(1).T)
    solution = _solve(normal, right)
    unet.out.weight.copy_(solution[:-1].T.reshape(unet.out.weight.shape))
    unet.out.bias.copy_(solution[-1])
    network.train(training)


def _sample(stream: SampleStream, number: int, side: int, target_side: int) -> Sample:
    """On the CPU, and one that no iteration sees."""
    return stream.sample(10**9 + number, side, target_side).to(torch.device("cpu"))


def _neighbours(images: torch.Tensor) -> torch.Tensor:
    """(voxels, 2 * 27 + 1): what a 3^3 convolution multiplies its weights with, and 1 for its bias."""
    padded = F.pad(images, (1,) * 6)
    side = images.shape[-1]
    columns = [
        padded[0, c, z : z + side, y : y + side, x : x + side].flatten()
        for c in range(2)
        for z in range(3)
        for y in range(3)
        for x in range(3)
    ]
    return torch.stack([*columns, torch.ones_like(columns[0])], 1)


def _sum(total: Any, part: torch.Tensor) -> torch.Tensor:
    return part.double() if total is None else total + part


def _solve(normal: Any, right: Any) -> torch.Tensor:
    """Ridge regression: a little of the mean diagonal steadies it."""
    scale = torch.diag(normal).mean()
    return torch.linalg.solve(normal + RIDGE * 1e-3 * scale * torch.eye(len(normal)).double(), right).float()


@torch.no_grad()
def _make_identity(norm: Any, stream: SampleStream, conv: torch.nn.Conv3d) -> None:
    """Running statistics of the convolution's maps over a few samples, and weights that undo them."""
    maps = torch.cat([conv(_sample(stream, k, 64, 8).images)[0].flatten(1) for k in range(4)], 1)
    norm.running_mean.copy_(maps.mean(1))
    norm.running_var.copy_(maps.var(1))
    norm.weight.copy_(torch.sqrt(norm.running_var + norm.eps))
    norm.bias.copy_(norm.running_mean)
