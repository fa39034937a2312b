"""The progressive network: equations 1 and 3, its normalisation, and what export keeps."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from progressive_training.growth import carry
from progressive_training.network import (
    ProgressiveUNet,
    RenormBatchNorm3d,
    batch_statistics,
    beta_gamma,
    doubled,
    pointwise,
    pool_to,
    resize,
)
from ProgressiveRegistrationLib.network.unet import RegistrationUNet

FINAL = [0, 0, 0, 0, 1]


@pytest.fixture(scope="module")
def network() -> ProgressiveUNet:
    net = ProgressiveUNet(width=2, seed=1)
    net.train()
    torch.manual_seed(0)
    # Every level gets running statistics of its own.
    for alpha in ([1, 0, 0, 0, 0], [0, 0.5, 0.5, 0, 0], [0, 0, 0, 0.5, 0.5]):
        net(torch.rand(1, 2, 128, 128, 128), alpha)
    return net.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(1, 2, 128, 128, 128, generator=torch.Generator().manual_seed(2))


def test_equation_3_gives_the_papers_examples():
    assert beta_gamma([1, 0, 0, 0, 0]) == ([1, 1, 1, 1, 1], [0, 0, 0, 0, 0])
    beta, gamma = beta_gamma([0.25, 0.75, 0, 0, 0])
    assert beta == pytest.approx([0.25, 1, 1, 1, 1])
    assert gamma == pytest.approx([0.75, 0, 0, 0, 0])
    assert beta_gamma(FINAL)[0] == [0, 0, 0, 0, 1]


def test_equation_1_sums_the_levels_fields_brought_to_full_size(network, images):
    alpha = [0, 0.25, 0.75, 0, 0]
    with torch.no_grad():
        fields = network.level_outputs(images, alpha)
        expected = 0.25 * resize(fields[1], 128) + 0.75 * resize(fields[2], 128)
        assert [fields[i].shape[-1] for i in range(3)] == [8, 16, 32]
        assert torch.allclose(network(images, alpha, 128), expected, atol=1e-5)
        assert network(images, alpha).shape == (1, 3, 32, 32, 32)


def test_a_transition_mixes_input_convolution_and_pooled_maps_by_beta_and_gamma(network, images):
    """Two levels written out by hand (paper, Fig. 2) against the network's own pass."""
    alpha = [0.4, 0.6, 0, 0, 0]
    unet = network.unet
    with torch.no_grad():
        above = unet.down[3](network.inputs[1](F.avg_pool3d(images, 8)))
        below = unet.down[4](0.4 * network.inputs[0](F.avg_pool3d(images, 16)) + 0.6 * F.max_pool3d(above, 2))
        joined = unet.merge[3](torch.cat([unet.up[3](below), above], 1))
        coarse, fine = network.outputs[0](below), network.outputs[1](joined)
        expected = 0.4 * F.interpolate(coarse, scale_factor=2, mode="trilinear") + 0.6 * fine
        assert torch.allclose(network(images, alpha), expected, atol=1e-5)


def test_at_the_end_it_is_the_registration_unet(network, images):
    exported = RegistrationUNet(width=2)
    exported.load_state_dict(network.unet.state_dict())
    with torch.no_grad():
        assert torch.allclose(exported.eval()(images), network(images, FINAL), atol=1e-5)


@pytest.mark.parametrize(
    ("product", "conv"),
    [(doubled, torch.nn.ConvTranspose3d(6, 4, 2, stride=2)), (pointwise, torch.nn.Conv3d(6, 3, 1))],
    ids=["doubled", "pointwise"],
)
def test_matrix_products_are_torchs_own_convolutions_and_their_gradients(product, conv):
    x = torch.randn(2, 6, 3, 4, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    results = []
    for made in (conv(x), product(conv, x)):
        looked_at = torch.linspace(-1, 1, made.numel()).view(made.shape)
        results.append((made, *torch.autograd.grad((made * looked_at).sum(), (x, conv.weight, conv.bias))))
    for theirs, ours in zip(*results):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_extra_layers_get_a_gradient_only_while_their_level_is_active(network, images):
    net = copy.deepcopy(network).train()
    net(images, [0, 0, 0.3, 0.7, 0]).square().mean().backward()
    for level in (2, 3):
        assert net.outputs[level].weight.grad.abs().sum() > 0
        assert net.inputs[level].weight.grad.abs().sum() > 0
    for level in (0, 1):
        assert net.outputs[level].weight.grad is None
        assert net.inputs[level].weight.grad is None
    assert net.unet.out.weight.grad is None
    assert net.unet.down[0][0].conv.weight.grad is None
    assert net.unet.down[4][0].conv.weight.grad.abs().sum() > 0
    with_gradient = {id(p) for p in net.parameters() if p.grad is not None}
    assert with_gradient == {id(p) for p in net.active_parameters([0, 0, 0.3, 0.7, 0])}


def test_levels_up_to_32_give_the_same_from_64_voxel_images(network, images):
    with torch.no_grad():
        coarse = pool_to(images, 64)
        for alpha in ([1, 0, 0, 0, 0], [0, 0, 1, 0, 0]):
            assert torch.allclose(network(images, alpha), network(coarse, alpha), atol=1e-5)
    with pytest.raises(ValueError, match="cannot feed"):
        network(coarse, FINAL)


def test_a_baseline_begins_with_the_same_weights():
    progressive, baseline = ProgressiveUNet(2, seed=5), ProgressiveUNet(2, seed=5, norm="batch")
    for a, b in zip(progressive.unet.parameters(), baseline.unet.parameters()):
        assert torch.equal(a, b)


def test_weights_are_glorot_normal():
    weight = ProgressiveUNet(8, seed=0).unet.down[3][1].conv.weight
    fans = 27 * (weight.shape[0] + weight.shape[1])
    assert weight.std().item() == pytest.approx((2 / fans) ** 0.5, rel=0.01)
    assert abs(weight.mean().item()) < 1e-4


def reference_renorm(x, weight, bias, mean_run, var_run, eps=1e-5):
    """Ioffe (2017) written out: x_hat * r + d with r and d held fixed."""
    mean = x.mean((0, 2, 3, 4), keepdim=True)
    std = torch.sqrt(((x - mean) ** 2).mean((0, 2, 3, 4), keepdim=True) + eps)
    std_run = torch.sqrt(var_run + eps).view(1, -1, 1, 1, 1)
    r = (std / std_run).detach()
    d = ((mean - mean_run.view(1, -1, 1, 1, 1)) / std_run).detach()
    return ((x - mean) / std * r + d) * weight.view(1, -1, 1, 1, 1) + bias.view(1, -1, 1, 1, 1)


def test_renormalisation_uses_running_averages_forwards_and_the_batch_backwards():
    torch.manual_seed(3)
    norm = RenormBatchNorm3d(3, momentum=0.1)
    for _ in range(30):
        norm(torch.randn(1, 3, 6, 6, 6) * 2 + 1)
    torch.nn.init.uniform_(norm.weight)
    torch.nn.init.uniform_(norm.bias)
    x = (torch.randn(1, 3, 6, 6, 6) * 3 - 1).requires_grad_()
    out = norm(x)
    plain = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False)
    assert torch.allclose(out, plain, atol=1e-4)
    seed = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, x, seed)
    y = x.detach().clone().requires_grad_()
    expected = reference_renorm(y, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    (wanted,) = torch.autograd.grad(expected, y, seed)
    assert torch.allclose(gradient, wanted, atol=1e-5)


def test_running_averages_start_as_the_first_batch_and_then_move_slowly():
    norm = RenormBatchNorm3d(2, momentum=0.01)
    first = torch.randn(1, 2, 5, 5, 5) * 4 + 2
    out = norm(first)
    assert torch.allclose(norm.running_mean, first.mean((0, 2, 3, 4)), atol=1e-5)
    assert torch.allclose(norm.running_var, first.var((0, 2, 3, 4), unbiased=False), rtol=1e-4)
    assert out.mean().abs() < 1e-5
    for _ in range(500):
        norm(torch.zeros(1, 2, 5, 5, 5) + 7)
    before = norm.running_mean.clone()
    norm(torch.zeros(1, 2, 5, 5, 5) + 107)
    assert torch.allclose(norm.running_mean - before, torch.ones(2), atol=0.02)


def test_batch_statistics_are_the_mean_and_the_biased_variance():
    x = torch.randn(1, 4, 7, 6, 5)
    mean, var = batch_statistics(x)
    assert torch.allclose(mean, x.mean((0, 2, 3, 4)), atol=1e-6)
    assert torch.allclose(var, x.var((0, 2, 3, 4), unbiased=False), rtol=1e-5)


@pytest.mark.parametrize("alpha", [[1, 0, 0, 0], [0.5, 0.4, 0, 0, 0], [-1, 2, 0, 0, 0]])
def test_weights_that_are_none_are_refused(network, images, alpha):
    with pytest.raises(ValueError, match="sum to one"):
        network(images, alpha)


@pytest.mark.parametrize("level", [1, 2])
def test_a_carried_level_begins_with_the_field_of_the_level_below(level):
    net = ProgressiveUNet(width=4, seed=3).train()
    generator = torch.Generator().manual_seed(4)
    batches = [torch.rand(1, 2, 64, 64, 64, generator=generator) for _ in range(3)]
    below, grown, between = ([float(i == k) for i in range(5)] for k in (level - 1, level, -1))
    between[level - 1], between[level] = 1 - 1e-6, 1e-6
    for images in batches:
        net(images, below)
    carry(net, level, batches, between)
    net.eval()
    with torch.no_grad():
        for images in batches:
            fields = net.level_outputs(images, between)
            old, new = resize(fields[level - 1], net.side(level)), fields[level]
            inner = (..., slice(1, -1), slice(1, -1), slice(1, -1))
            # Zero padding reaches one cell in.
            assert torch.allclose(new[inner], old[inner], atol=0.02 * float(old.abs().max()))
            assert float(old.abs().max()) > 0.1
    loss = net.train()(batches[0], grown).square().mean()
    loss.backward()
    depth = net._depth(level)
    assert net.unet.merge[depth][1].conv.weight.grad.abs().sum() > 0
    assert net.outputs[level].weight.grad[:, 6:].abs().sum() > 0


def test_a_grown_levels_pooled_maps_look_to_the_layers_below_like_those_they_replace():
    """Otherwise layers that normalise by running averages amplify them: 60 mm of error in mid-transition,
    measured."""
    net = ProgressiveUNet(width=4, seed=3).train()
    generator = torch.Generator().manual_seed(4)
    # Sparse and small, as gradient magnitudes are.
    batches = [0.2 * torch.rand(1, 2, 64, 64, 64, generator=generator) ** 4 for _ in range(3)]
    for images in batches:
        net(images, [0, 1, 0, 0, 0])

    def moments(maps):
        flat = torch.cat([m.flatten(2)[0] for m in maps], 1)
        return flat.mean(1), flat.std(1)

    def both():
        with torch.no_grad():
            replaced = [net.inputs[1](pool_to(b, 16)) for b in batches]
            pooled = [net.unet.pool(net.unet.down[2](net.inputs[2](pool_to(b, 32)))) for b in batches]
        return moments(replaced), moments(pooled)

    (_, wanted), (_, random) = both()
    assert (random > 5 * wanted).all()
    carry(net, 2, batches, [0, 1 - 1e-6, 1e-6, 0, 0])
    (mean, spread), (found_mean, found_spread) = both()
    assert torch.allclose(found_spread, spread, rtol=0.05)
    # A random level's mean is off by a hundred times the spread.
    assert ((found_mean - mean).abs() < 8 * spread).all()


def test_composed_levels_are_concatenated_and_summed_up_to_each_level(images):
    """Eq. 5 against map_coordinates of scipy: T_0 o T_1 o T_2, the finest applied first."""
    from scipy import ndimage

    net = ProgressiveUNet(width=2, levels=3, size=32, seed=3, composed=True).eval()
    x = pool_to(images, 32)
    alpha = [0.25, 0.25, 0.5]
    with torch.no_grad():
        fields = [40 * f for f in net.level_outputs(x, alpha).values()]
        net.level_outputs = lambda *_: dict(enumerate(fields))
        found = net(x, alpha)[0].numpy()

    def displacement(level: int, at: np.ndarray) -> np.ndarray:
        """u_level at positions (3, n) x, y, z, in voxels of the 128 grid."""
        u = fields[level][0].numpy()
        index = (at + 0.5) / (128 / u.shape[-1]) - 0.5
        return np.stack([ndimage.map_coordinates(c, index[::-1], order=1, mode="nearest") for c in u])

    def centres(side: int) -> np.ndarray:
        p = (np.arange(side) + 0.5) * (128 / side) - 0.5
        return np.stack(np.meshgrid(p, p, p, indexing="ij")[::-1]).reshape(3, -1)

    # Sampled level by level: a composition is given on its finest level's grid, and looked up there.
    def looked_up(values: np.ndarray, at: np.ndarray) -> np.ndarray:
        side = round(values.shape[1] ** (1 / 3))
        index = (at + 0.5) / (128 / side) - 0.5
        grid = values.reshape(3, side, side, side)
        return np.stack([ndimage.map_coordinates(c, index[::-1], order=1, mode="nearest") for c in grid])

    total, up_to = np.zeros((3, 32**3)), None
    for level, weight in enumerate(alpha):
        at = centres(fields[level].shape[-1])
        u = displacement(level, at)
        up_to = u if up_to is None else u + looked_up(up_to, at + u)
        total += weight * looked_up(up_to, centres(32))
    assert np.abs(total.reshape(found.shape) - found).max() < 1e-4
    assert np.abs(found).max() > 1


def test_a_composed_network_trains_every_output_and_is_exported_whole(tmp_path):
    from ProgressiveRegistrationLib.network.compose import concatenated

    net = ProgressiveUNet(width=2, levels=3, size=32, seed=3, composed=True).train()
    x = torch.rand(1, 2, 32, 32, 32, generator=torch.Generator().manual_seed(2))
    net(x, [0, 0, 1]).square().mean().backward()
    assert all(head.weight.grad.abs().sum() > 0 for head in (*net.outputs, net.unet.out))
    net.eval()
    exported = RegistrationUNet(2, 3, composed=True).eval()
    exported.load_state_dict(net.unet.state_dict(), strict=False)
    for level, head in enumerate(exported.heads, 1):
        head.load_state_dict(net.outputs[2 - level].state_dict())
    with torch.no_grad():
        for part in (exported.out, *exported.heads):
            part.weight.mul_(32 / 128)
            part.bias.mul_(32 / 128)
        expected = net(x, [0, 0, 1])
        assert torch.allclose(exported(x) * 4, expected, atol=1e-4)
        # Two translations add, wherever they are concatenated.
        still = [torch.full((1, 3, s, s, s), float(s)) for s in (4, 8, 16)]
        assert torch.allclose(concatenated(still, (16, 16, 16))[-1], torch.full((1, 3, 16, 16, 16), 28.0))
