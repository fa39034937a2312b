"""The correlation that some networks see, and what it needs of cards and weights."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from ProgressiveRegistrationLib.errors import ModelError
from ProgressiveRegistrationLib.network.correlation import (
    FLAT,
    _window,
    correlation,
    local_correlation,
    shifts,
)
from ProgressiveRegistrationLib.network.model import CARD_FORMAT, ModelCard, load_model, write_model
from ProgressiveRegistrationLib.network.unet import RegistrationUNet
from scipy import ndimage


def noise(side: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(side, side, side, generator=torch.Generator().manual_seed(seed))


def blobs(side: int, seed: int = 0) -> np.ndarray:
    """Smooth structure, as vessels on the network's grid."""
    field = np.random.default_rng(seed).normal(size=(side,) * 3)
    return ndimage.gaussian_filter(field, 1.2, mode="wrap").astype(np.float32)


def window_by_hand(cell: tuple[int, int, int], side: int) -> np.ndarray:
    """Weights of a cell's window on the fine grid, far from the border: along each axis twice a box of three
    cells, of two voxels each."""
    line = np.array([1, 2, 3, 2, 1]) / 9
    axes = []
    for c in cell:
        axis = np.zeros(side)
        for k, w in enumerate(line):
            axis[2 * (c + k - 2) : 2 * (c + k - 2) + 2] += w / 2
        axes.append(axis)
    return axes[0][:, None, None] * axes[1][:, None] * axes[2]


def test_it_is_the_normalised_cross_correlation_of_weighted_windows():
    fixed, moving = noise(20, 1), noise(20, 2)
    found = local_correlation(torch.stack([fixed, moving]), radius=1).numpy()
    a, b = fixed.double().numpy(), moving.double().numpy()

    def moments(image: np.ndarray, cell: tuple) -> tuple[float, float]:
        w = window_by_hand(cell, 20)
        mean = (w * image).sum()
        return mean, (w * image**2).sum() - mean**2

    # The floor under the variances is a part of their mean over all cells: from the code's own windows.
    floors = []
    for image in (fixed, moving):
        mean = _window(image[None])
        floors.append(FLAT * float((_window(image[None] ** 2) - mean**2).mean()))
    for shift, cell in (((0, 0, 0), (5, 4, 5)), ((1, -1, 0), (4, 5, 4)), ((-1, 1, 1), (5, 5, 4))):
        at = tuple(c + s for c, s in zip(cell, shift))
        moved = np.roll(b, [-2 * s for s in shift], (0, 1, 2))
        w = window_by_hand(cell, 20)
        (mean_a, var_a), (mean_b, var_b) = moments(a, cell), moments(b, at)
        expected = ((w * a * moved).sum() - mean_a * mean_b) / np.sqrt(
            (var_a + floors[0]) * (var_b + floors[1])
        )
        number = int(np.flatnonzero((shifts(1).numpy() == shift[::-1]).all(1))[0])
        assert found[(number, *cell)] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("shift", [(0, 0, 0), (1, -2, 0), (-2, 1, 2)])
def test_the_best_shift_and_the_expected_one_are_the_motion(shift):
    big = blobs(64)
    x, y, z = shift
    fixed = torch.from_numpy(big)
    # moving(i + motion) = fixed(i), a motion of whole cells
    moving = torch.from_numpy(np.roll(big, (2 * z, 2 * y, 2 * x), (0, 1, 2)).copy())
    maps = correlation(torch.stack([fixed, moving])[None], (32, 32, 32))[0, :, 5:-5, 5:-5, 5:-5]
    best = shifts()[maps.argmax(0).flatten()]
    assert (best == torch.tensor(shift)).all(1).float().mean() > 0.95
    expected = torch.einsum("k...,kc->c...", maps, shifts().float()) / len(maps) ** 0.5
    assert torch.allclose(expected.flatten(1).mean(1), torch.tensor(shift).float(), atol=0.3)


def test_it_does_not_depend_on_the_images_scale_and_lower_levels_average_them():
    images = torch.stack([noise(32, 3), noise(32, 4)])[None]
    once = correlation(images, (16, 16, 16))
    assert torch.allclose(
        correlation(images * torch.tensor([3.0, 0.1]).view(1, 2, 1, 1, 1), (16,) * 3), once, atol=1e-4
    )
    averaged = torch.nn.functional.avg_pool3d(images, 2)
    assert torch.equal(correlation(images, (8, 8, 8)), correlation(averaged, (8, 8, 8)))
    assert correlation(images[..., :16, :24], (16, 8, 12)).shape == (1, 125, 16, 8, 12)


def small_network(correlated: tuple[int, ...]) -> RegistrationUNet:
    torch.manual_seed(5)
    return RegistrationUNet(2, 3, correlated=correlated).eval()


def card_of(network: RegistrationUNet) -> ModelCard:
    empty = {"training_data": [], "training_steps": {}, "metrics": {}, "weights": "", "sha256": ""}
    return ModelCard(
        "test",
        "1",
        network.width,
        network.levels,
        16,
        (-1000, -100),
        0.5,
        "voxel",
        **empty,
        correlated=network.correlated,
    )


def test_a_model_with_it_predicts_what_the_network_did_and_other_programs_are_told(tmp_path):
    network = small_network((1, 2))
    card = write_model(card_of(network), network.state_dict(), tmp_path)
    images = torch.stack([noise(16, 6), noise(16, 7)])[None]
    with torch.no_grad():
        expected = network(images)[0].numpy()
    found = load_model(card.path, "cpu").predict(images)
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()
    stored = json.loads((tmp_path / "test.json").read_text())
    assert (stored["correlated"], stored["format"]) == ([1, 2], CARD_FORMAT)


def test_the_papers_network_keeps_the_first_format_and_its_layers(tmp_path):
    network = small_network(())
    write_model(card_of(network), network.state_dict(), tmp_path)
    stored = json.loads((tmp_path / "test.json").read_text())
    assert "correlated" not in stored
    assert stored["format"] == 1
    x = torch.rand(1, 2, 16, 16, 16)
    with torch.no_grad():
        top = network.down[0](x)
        middle = network.down[1](network.pool(top))
        up = network.merge[1](torch.cat([network.up[1](network.down[2](network.pool(middle))), middle], 1))
        up = network.merge[0](torch.cat([network.up[0](up), top], 1))
        assert torch.equal(network(x), network.out(up))


def test_a_card_that_names_no_such_level_is_refused(tmp_path):
    network = small_network((1,))
    written = write_model(card_of(network), network.state_dict(), tmp_path)
    path = tmp_path / "test.json"
    for wrong in ([0], [3], "all"):
        path.write_text(json.dumps({**dataclasses.asdict(written), "correlated": wrong}))
        with pytest.raises(ModelError, match="describes no network"):
            load_model(path, "cpu")
