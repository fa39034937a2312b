"""Networks of other sizes than 128^3, each axis with its own number of cells: trained, exported, used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from progressive_training import checkpoint
from progressive_training.cache import ScanStore
from progressive_training.config import config_from_dict
from progressive_training.deformation import Lattice, identity, look_up
from progressive_training.export import export
from progressive_training.network import ProgressiveUNet, predict_field
from progressive_training.samples import Augmentation, SampleStream, Sampling
from progressive_training.trainer import Trainer
from ProgressiveRegistrationLib import register
from ProgressiveRegistrationLib.errors import InputError, ModelError
from ProgressiveRegistrationLib.network.model import ModelCard, load_model
from training_helpers import prepared_chest, small_chest, write_chests

SHAPE = (40, 32, 48)  # x, y, z
WINDOW = (-1000.0, -100.0)


def values(name: str, **network) -> dict:
    return {
        "name": name,
        "data": {"train": ["data"], "validation": ["data"], "cache": "cache"},
        "network": {"width": 3, "levels": 4, "size": list(SHAPE), **network},
        "schedule": {"plateau": [1, 1, 1, 1], "transition": [1, 1, 1], "iterations": 7},
        "optimiser": {"learning_rate": 1e-3},
        "hardware": {"accelerator": "cpu", "precision": "32-true", "threads": 1, "prefetch": False},
        "validation": {"every": 7, "samples": 1},
        "output": {"folder": "runs", "pictures_every": 6, "log_every": 1},
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Trainer]:
    """A run through all levels, each begun with the field of the one below."""
    place = tmp_path_factory.mktemp("sizes")
    write_chests(place / "data")
    trainer = Trainer(config_from_dict(values("small", growth="carry"), place), report=lambda text: None)
    assert trainer.run() == 7
    return place, trainer


@pytest.fixture(scope="module")
def card(trained) -> ModelCard:
    place, trainer = trained
    last = checkpoint.checkpoints(trainer.checkpoint_folder)[-1]
    (place / "models").mkdir()
    return export(last, "small", place / "models", report=lambda text: None)


def stream(folder: Path, shape: tuple[int, int, int]) -> SampleStream:
    still = Augmentation(noise=0.0, density=0.0, blur_share=0.0, masked_share=0.0)
    return SampleStream(ScanStore([prepared_chest(folder / "0")], WINDOW), Sampling(still), 4, shape=shape)


def test_a_sample_of_another_size_is_the_same_deformation_on_another_grid(tmp_path):
    """Its truth is that of 128^3, looked up where its own cells lie; units stay those of 128^3."""
    cube = stream(tmp_path, (128, 128, 128)).sample(0, 128, 128)
    full = stream(tmp_path, SHAPE).sample(0, 128, 128)
    assert full.images.shape == (1, 2, *SHAPE[::-1])
    assert full.target.shape == (1, 3, *SHAPE[::-1])
    half = stream(tmp_path, SHAPE).sample(0, 64, 64)
    expected = look_up(cube.target[0], Lattice(128), identity(Lattice((20, 16, 24))))
    assert half.target.abs().max() > 3
    # On a coarse grid T2,1 and T2,2 are put together a little less exactly.
    assert (half.target[0] - expected).norm(dim=0).mean() < 0.03 * expected.norm(dim=0).mean()
    lower = stream(tmp_path, SHAPE).sample(0, 64, 16)
    assert lower.images.shape == (1, 2, 24, 16, 20)
    assert torch.allclose(lower.target, F.avg_pool3d(half.target, 4))


def test_the_moving_image_warped_with_the_target_is_the_fixed_image(tmp_path):
    sampling = stream(tmp_path, SHAPE)
    sampling.sampling = Sampling(sampling.sampling.augmentation, input="intensity")
    sample = sampling.sample(1, 128, 128)
    fixed, moving = sample.images[0]
    lattice = Lattice(SHAPE)
    warped = look_up(moving[None], lattice, identity(lattice) + sample.target[0])[0]
    inside = sample.lung[0, 0] > 0.9
    before, after = ((image - fixed)[inside].square().mean() for image in (moving, warped))
    assert after < 0.3 * before


def test_every_level_has_its_cells_along_each_axis():
    network = ProgressiveUNet(2, 4, SHAPE).eval()
    with torch.no_grad():
        fields = network.level_outputs(torch.rand(1, 2, *SHAPE[::-1]), [0, 0, 0.5, 0.5])
    assert [tuple(f.shape[2:]) for f in fields.values()] == [
        (6, 4, 5),
        (12, 8, 10),
        (24, 16, 20),
        (48, 32, 40),
    ]


def test_a_run_trains_validates_and_exports(trained, card):
    _, trainer = trained
    assert trainer.steps == [2, 2, 2, 1]
    assert trainer.history[-1]["lung_error_mm"] > 0
    assert card.size == list(SHAPE)
    assert set(card.training_steps) == {"5x4x6", "10x8x12", "20x16x24", "40x32x48", "total"}
    assert json.loads(Path(card.path).read_text(encoding="utf-8"))["size"] == list(SHAPE)


def test_the_exported_model_answers_in_voxels_of_its_own_grid(trained, card):
    _, trainer = trained
    images = torch.rand(1, 2, *SHAPE[::-1], generator=torch.Generator().manual_seed(0)) * 0.2
    with torch.no_grad():
        field = predict_field(trainer.average, images, [0, 0, 0, 1], 128)[0].numpy()
    own = field * (np.array(SHAPE, np.float32) / 128).reshape(3, 1, 1, 1)
    found = load_model(card.path, "cpu").predict(images)
    # The card's weights are in half precision, the network's maps in bfloat16 where the CPU has it.
    assert np.abs(found - own).max() < 0.03 * np.abs(own).max()


def test_the_exported_model_registers(card):
    found = register(small_chest(0), small_chest(1), model=card.path, preset="fast", device="cpu")
    assert found.card.size == list(SHAPE)
    assert np.isfinite(found.field.displacement).all()


def test_a_checkpoint_continues_with_its_size_only(trained):
    place, _ = trained
    again = Trainer(config_from_dict(values("small", growth="carry"), place), report=lambda text: None)
    assert again.run(resume=True) == 7
    other = Trainer(config_from_dict(values("small", size=[48, 32, 40]), place), report=lambda text: None)
    with pytest.raises(ModelError, match=r"size \[40, 32, 48\] instead of \[48, 32, 40\]"):
        other.run(resume=True)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        ({"size": [40, 32, 44]}, r"network\.size must be divisible by 8 along each axis, for 4 levels"),
        ({"size": [40, 32]}, r"network\.size must be a whole number of cells, or three"),
        ({"size": "large"}, r"network\.size must be a whole number of cells, or three"),
        ({"size": 96}, r"network\.size must be 32, 64 or 128, or three numbers, as in \[96, 96, 96\]"),
        ({"size": [24, 32, 32]}, r"network\.levels must be at most 3, for the 24 x 32 x 32 grid; got 4"),
    ],
)
def test_sizes_that_cannot_be_are_refused_in_one_sentence(tmp_path, network, sentence):
    with pytest.raises(InputError, match=sentence):
        config_from_dict(values("wrong", **network), tmp_path)


def test_a_card_whose_size_its_levels_cannot_halve_is_refused(card, tmp_path):
    content = json.loads(Path(card.path).read_text(encoding="utf-8"))
    content["size"] = [40, 32, 44]
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match="not divisible by 8 along each axis"):
        load_model(path)
