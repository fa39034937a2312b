"""Networks of 64^3: begun from a model, fed, exported and run by the engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from progressive_training import checkpoint, inherit
from progressive_training.config import read_config
from progressive_training.deformation import FINE, TABLE_I, Lattice, draw_breathing, evaluate
from progressive_training.evaluation import CheckpointModel, predictor
from progressive_training.export import export
from progressive_training.network import ProgressiveUNet
from progressive_training.samples import COARSE_GAIN, Augmentation, Sampling, draw_deformation
from progressive_training.trainer import Trainer
from ProgressiveRegistrationLib.errors import InputError, ModelError
from ProgressiveRegistrationLib.network.model import ModelCard, load_model, write_model
from ProgressiveRegistrationLib.network.unet import RegistrationUNet
from training_helpers import write_chests

VALUES = {
    "data": {"train": ["data"], "validation": ["data"], "cache": "cache"},
    "network": {"width": 4, "levels": 3, "size": 64, "correlated": [1]},
    "schedule": {"baseline": True, "iterations": 3},
    "optimiser": {"learning_rate": 1e-4, "ema": 0.5},
    "hardware": {"accelerator": "cpu", "precision": "32-true", "threads": 1, "prefetch": False},
    "validation": {"every": 0},
    "output": {"folder": "runs", "pictures_every": 0, "log_every": 1},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inherit")
    write_chests(folder / "data")
    return folder


def trainer(place: Path, name: str, **network) -> Trainer:
    values = {**VALUES, "name": name, "network": {**VALUES["network"], **network}}
    path = place / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return Trainer(read_config(path), report=lambda text: None)


@pytest.fixture(scope="module")
def larger(place) -> tuple[RegistrationUNet, ModelCard]:
    """A model of 128^3 whose maps are alive."""
    torch.manual_seed(2)
    network = RegistrationUNet(2, 4).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_var.fill_(0.05)
    empty = {"training_data": [], "training_steps": {"total": 7}, "metrics": {}, "weights": "", "sha256": ""}
    card = ModelCard("old", "0.1", 2, 4, FINE, (-1000, -100), 0.5, "voxel", **empty)
    (place / "models").mkdir()
    return network, write_model(card, network.state_dict(), place / "models")


def test_a_64_network_takes_over_what_a_128_network_shares_and_is_exported_in_its_own_units(
    place, larger, monkeypatch
):
    monkeypatch.setattr(inherit, "SAMPLES", 2)
    network, card = larger
    run = trainer(place, "continued")
    assert run.run(start_from=Path(card.path), until=1) == 1
    path = checkpoint.checkpoints(run.checkpoint_folder)[-1]
    groups, state = checkpoint.load(path)
    assert state["begun_with"]["version"] == "0.1"
    # One step of 1e-4: what was taken over is still there.
    for mine, theirs in (
        ("down.1.0.conv", "down.2.0.conv"),
        ("merge.0.0.conv", "merge.1.0.conv"),
        ("up.1", "up.2"),
    ):
        taken = groups["average"][f"unet.{mine}.weight"]
        assert torch.allclose(taken, network.state_dict()[f"{theirs}.weight"].half().float(), atol=3e-3)
    # A run that goes on remembers.
    again = trainer(place, "continued")
    assert again.run(resume=True) == 3
    path = checkpoint.checkpoints(again.checkpoint_folder)[-1]
    assert checkpoint.load(path)[1]["begun_with"]["name"] == "old"

    written = export(path, "new", place / "models", report=lambda text: None)
    assert (written.size, written.width, tuple(written.correlated)) == (64, 4, (1,))
    assert written.extra["begun_with"]["training_steps"] == {"total": 7}
    sample = again.stream.sample(5, 64, 64)
    trained = again.predict(sample.images, 64)[0]
    plain = sample.images / COARSE_GAIN
    exported = load_model(written.path, "cpu")
    size = trained.abs().max().item()
    assert np.abs(2 * exported.predict(plain) - trained.numpy()).max() < 0.05 * size
    # The checkpoint itself, as register runs it, and both as evaluation does.
    stopped = CheckpointModel(path, "cpu")
    assert stopped.card.size == 64
    assert np.abs(2 * stopped.predict(plain) - trained.numpy()).max() < 0.05 * size
    for model in (stopped, exported):
        predict, finest, side = predictor(model)
        assert (finest, side) == (64, 64)
        assert (predict(sample.images, 64)[0] - trained).abs().max() < 0.05 * size


def test_least_squares_fit_the_head_and_the_correlation_begins_without_influence(place, larger, monkeypatch):
    monkeypatch.setattr(inherit, "SAMPLES", 4)
    run = trainer(place, "fitted")
    run.fabric.launch()
    run._open_data()
    run._build_network()
    inherit.inherit(run.plain, larger[1], run.stream)
    run.plain.eval()
    errors, zeros = [], []
    alone = ProgressiveUNet(4, 3, 64)
    alone.unet.load_state_dict(run.plain.unet.state_dict(), strict=False)
    alone.eval()
    with torch.no_grad():
        for k in range(4):
            sample = run.stream.sample(10**9 + k, 64, 64)
            field = run.plain(sample.images, [0, 0, 1])
            assert torch.allclose(alone(sample.images, [0, 0, 1]), field, atol=1e-4)
            errors.append(float(((field - sample.target).square() * sample.weight).sum()))
            zeros.append(float((sample.target.square() * sample.weight).sum()))
    # A random network's maps tell little, but on the samples that it was made for least squares only gain.
    assert np.sum(errors) < np.sum(zeros)


def test_a_model_that_cannot_begin_the_network_is_named(place, larger):
    with pytest.raises(ModelError, match=r"old 0\.1 .*cannot begin a network of width 8"):
        trainer(place, "refused", width=8).run(start_from=Path(larger[1].path))


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        ({"size": 48}, "network.size must be"),
        ({"levels": 6}, "network.levels must be at most 5"),
        ({"correlated": [0]}, "network.correlated must hold levels from 1"),
        ({"correlated": [3]}, "network.correlated must hold levels from 1"),
        ({"correlated": [1.5]}, "must be whole numbers"),
    ],
)
def test_impossible_networks_are_refused(place, network, sentence):
    with pytest.raises(InputError, match=sentence):
        trainer(place, "impossible", **network)


def test_still_samples_have_no_motion_and_rough_ones_less():
    def drawn(**options) -> list:
        sampling = Sampling(augmentation=Augmentation(large_share=0.0, box_change_share=0.0, **options))
        return [draw_deformation(np.random.default_rng([1, k]), sampling) for k in range(12)]

    lattice = Lattice(16)
    for still in drawn(still_share=1.0):
        assert still.t2_field(lattice).abs().max() == 0
    plain, less = (
        np.array([float(d.t22.abs().max()) for d in drawn(**o)]) for o in ({}, {"rough_share": 1.0})
    )
    assert plain.min() > 3.0
    assert less.max() < 3.2
    assert 0.8 < less.mean() < 2.4


def test_breathing_moves_the_base_along_z_and_leaves_little_that_a_box_would_match():
    along, largest, shares = [], [], []
    for k in range(30):
        control = draw_breathing(np.random.default_rng(k), TABLE_I["t21"])
        u = evaluate(control, Lattice(16))
        size = u.square().mean((1, 2, 3)).sqrt()
        along.append(float(size[2] / size.norm()))
        largest.append(float(u.abs().max()))
        z = torch.linspace(-1, 1, 16).view(16, 1, 1)
        slope = float((u[2] * z).mean() / (z * z).mean())
        shares.append(abs(slope) / float(u[2].abs().max()))
    assert np.mean(along) > 0.7
    # 3 to 8 mm at some 2.2 mm a voxel, and the irregular part.
    assert np.min(largest) > 1.2
    assert np.max(largest) < 8.5
    assert np.mean(shares) < 0.3
