"""Section IV-F: training by what the warped images look like, on made and on real pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from progressive_training import checkpoint
from progressive_training.config import read_config
from progressive_training.export import export
from progressive_training.trainer import Trainer
from progressive_training.unsupervised import (
    FLAT,
    Similarity,
    dissimilarity,
    local_dissimilarity,
    roughness,
    unsupervised_loss,
)
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.network.model import load_model
from scipy import ndimage
from training_helpers import small_chest, write_chests

VALUES = {
    "training": "unsupervised",
    "data": {"train": ["data"], "cache": "cache"},
    "network": {"width": 2, "levels": 3, "size": 64},
    "schedule": {"plateau": [12, 3, 3], "transition": [2, 2], "iterations": 22},
    "optimiser": {"learning_rate": 3e-3},
    "hardware": {"accelerator": "cpu", "precision": "32-true", "threads": 1, "prefetch": False},
    "validation": {"every": 0},
    "output": {"folder": "runs", "pictures_every": 0, "log_every": 1},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A chest to train on, and one that lies 20 mm elsewhere and breathes a little."""
    folder = tmp_path_factory.mktemp("unsupervised")
    write_chests(folder / "data")
    chest = small_chest()
    chest.SetOrigin([o + 20 for o in chest.GetOrigin()])
    sitk.WriteImage(chest, str(folder / "moved.nrrd"))
    return folder


def trainer(place: Path, name: str, **changes) -> Trainer:
    values = {**VALUES, "name": name}
    for section, entries in changes.items():
        values[section] = {**values.get(section, {}), **entries} if isinstance(entries, dict) else entries
    path = place / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return Trainer(read_config(path), report=lambda text: None)


def texture(side: int = 64, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(side,) * 3)
    return ndimage.gaussian_filter(noise, 1.5, mode="wrap").astype(np.float32)


def test_it_is_the_correlation_of_each_window_by_numpy():
    a, b = (np.random.default_rng(k).random((12, 12, 12)) for k in (1, 2))
    tensors = [torch.from_numpy(x)[None, None] for x in (a, b)]
    found = local_dissimilarity(*tensors, radius=2)[0, 0].numpy()

    def floor(x: np.ndarray) -> float:
        count = ndimage.uniform_filter(np.ones_like(x), 5, mode="constant")
        mean, square = (ndimage.uniform_filter(y, 5, mode="constant") / count for y in (x, x * x))
        return FLAT * float((square - mean**2).mean())

    window = tuple(slice(c - 2, c + 3) for c in (5, 6, 4))
    together = np.mean(a[window] * b[window]) - a[window].mean() * b[window].mean()
    expected = 1 - together / np.sqrt((a[window].var() + floor(a)) * (b[window].var() + floor(b)))
    assert found[5, 6, 4] == pytest.approx(expected, abs=1e-6)


def test_roughness_is_the_mean_squared_slope():
    # u_x = 0.1 z: 0.1 voxels a voxel, whatever the grid.
    for side in (16, 32):
        z = (torch.arange(side) + 0.5) * (128 / side)
        field = torch.zeros(1, 3, side, side, side)
        field[0, 0] = 0.1 * z.view(-1, 1, 1)
        assert roughness(field).item() == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("measure", ["lncc", "mind"])
def test_the_loss_is_least_at_the_true_motion_and_its_gradient_leads_there(measure):
    image = texture()
    motion = np.array([2.0, -3.0, 1.5])  # voxels of the 128 grid: half as many of these images
    shifted = ndimage.shift(image, motion[::-1] / 2, order=3, mode="wrap")
    images = torch.from_numpy(np.stack([image, shifted]))[None]
    weight = torch.zeros(1, 1, 64, 64, 64)
    weight[..., 8:-8, 8:-8, 8:-8] = 1
    options = Similarity(measure=measure, smoothness=1.0)

    def loss(vector: torch.Tensor) -> torch.Tensor:
        return unsupervised_loss(vector.view(1, 3, 1, 1, 1).expand(1, 3, 8, 8, 8), images, weight, options)

    truth = torch.tensor(motion, dtype=torch.float32)
    unmoved = dissimilarity(images, None, weight, options)
    assert loss(truth) < 0.3 * unmoved
    assert loss(torch.zeros(3)).item() == pytest.approx(unmoved.item(), rel=1e-4)
    vector = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.Adam([vector], 0.2)
    for _ in range(60):
        optimiser.zero_grad()
        loss(vector).backward()
        optimiser.step()
    assert (vector.detach() - truth).abs().max() < 0.3


def test_it_trains_on_made_pairs_without_their_truth_and_exports(place):
    run = trainer(place, "made")
    run.fabric.launch()
    run._open_data()
    run._build_network()
    run.plain.train()
    sample = run.stream.sample(0, 64, 16)
    blind = sample._with(lambda t: t)
    assert sample.target.abs().max() > 1
    blind.target.fill_(float("nan"))
    losses = [run._step(0, blind)[0] for _ in range(25)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])

    assert trainer(place, "made").run() == 22
    card = export(checkpoint.checkpoints(run.checkpoint_folder)[-1], "made", place, report=lambda text: None)
    assert card.extra["supervision"] == "lncc"
    assert np.isfinite(load_model(card.path, "cpu").predict(torch.rand(1, 2, 64, 64, 64))).all()


def test_real_pairs_come_in_their_own_boxes_either_way_round(place):
    pair = {"name": "moved", "fixed": "data/chest0.nrrd", "moving": "moved.nrrd"}
    run = trainer(place, "real", data={"pairs": [pair], "pair_share": 0.5}, similarity={"measure": "mind"})
    run.fabric.launch()
    run._open_data()
    run._build_network()
    samples = [run.stream.sample(k, 64, 32) for k in range(30)]
    real = [s for s in samples if s.scan == "moved"]
    assert 8 < len(real) < 22
    for sample in real:
        # The same chest in boxes that move with it: the images agree, and the lungs weigh most.
        assert torch.allclose(sample.images[0, 0], sample.images[0, 1], atol=0.02)
        assert sample.weight.shape == (1, 1, 32, 32, 32)
        assert sample.weight.max() > 9
        assert sample.weight.min() == pytest.approx(1.0)
    flipped = [not torch.allclose(s.images, real[0].images, atol=1e-3) for s in real]
    assert any(flipped)
    assert not all(flipped)
    run.plain.train()
    assert np.isfinite(run._step(0, real[0])).all()
    assert run.scans[-1] == "moved"


def test_pairs_without_truth_cannot_supervise(place):
    pair = {"name": "moved", "fixed": "data/chest0.nrrd", "moving": "moved.nrrd"}
    with pytest.raises(InputError, match="set training to unsupervised"):
        trainer(place, "wrong", training="supervised", data={"pairs": [pair]})
    with pytest.raises(InputError, match="composed"):
        trainer(place, "carried", network={"growth": "carry", "output": "composed"})
    with pytest.raises(InputError, match=r"similarity\.measure must be one of"):
        trainer(place, "measure", similarity={"measure": "mse"})
