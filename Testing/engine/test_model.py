"""Network, card, checksum, device and precision."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ProgressiveRegistrationLib.errors import DeviceError, ModelError
from ProgressiveRegistrationLib.network import model as models
from ProgressiveRegistrationLib.network.joined import read_off
from ProgressiveRegistrationLib.network.model import ModelCard, available_models, load_model, write_model
from ProgressiveRegistrationLib.network.unet import RegistrationUNet, fold_batch_norm, join

ROOT = Path(__file__).resolve().parents[2]


def trained_like(width: int = 2, levels: int = 3) -> RegistrationUNet:
    """Random weights and running statistics that are not the initial ones."""
    torch.manual_seed(3)
    network = RegistrationUNet(width, levels)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
    return network.eval()


def card_of(network: RegistrationUNet, name: str = "test") -> ModelCard:
    return ModelCard(
        name=name,
        version="1",
        width=network.width,
        levels=network.levels,
        size=16,
        window=(-1000, -100),
        sigma=0.5,
        output_unit="voxel",
        training_data=[],
        training_steps={"total": 0},
        metrics={},
        weights="",
        sha256="",
    )


@pytest.fixture
def stored(tmp_path, monkeypatch) -> tuple[RegistrationUNet, ModelCard, Path]:
    network = trained_like()
    card = write_model(card_of(network), network.state_dict(), tmp_path)
    monkeypatch.setenv(models.ENVIRONMENT, str(tmp_path))
    return network, card, tmp_path


def test_figures_of_a_card_are_grouped_by_protocol_and_have_their_units():
    metrics = {"tre_mm": 2, "dice": 0.5, "on": {"a": {"b_mm": 1.0}, "c": {}}, "by": "me"}
    assert models.metrics_text(metrics) == "tre 2.00 mm, dice 0.50; on: a: b 1.00 mm"


def test_training_steps_are_counted_with_and_without_a_total():
    card = card_of(trained_like())
    for steps in ({"8": 2, "16": 3, "total": 5}, {"8": 2, "16": 3}):
        assert dataclasses.replace(card, training_steps=steps).steps == 5


def test_the_papers_network_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in RegistrationUNet(16).parameters()) == pytest.approx(19.3e6, rel=0.005)
    assert sum(p.numel() for p in RegistrationUNet(8).parameters()) == pytest.approx(4.8e6, rel=0.005)


def test_folding_batch_norm_changes_nothing():
    network = trained_like()
    x = torch.rand(1, 2, 16, 16, 16)
    with torch.no_grad():
        before = network(x)
        after = fold_batch_norm(network)(x)
    assert before.abs().mean() > 1e-2
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)


def test_joining_layers_changes_nothing_not_even_at_the_border():
    network = fold_batch_norm(trained_like(levels=4))
    images = torch.rand(2, 2, 16, 24, 32)
    with torch.no_grad():
        plain = network(images)
        joined = join(network)(images)
    assert network.joined
    assert float((joined - plain).abs().max()) < 1e-5 * float(plain.abs().max())


def test_reading_fields_off_is_a_convolution():
    conv, maps = torch.nn.Conv3d(5, 3, 1), torch.rand(2, 5, 40, 44, 48)
    with torch.no_grad():
        torch.testing.assert_close(read_off(conv, maps), conv(maps))


def test_the_network_is_equivariant_to_shifts_by_its_coarsest_cell():
    """No half-voxel shift between levels: moving both images by one
    coarsest cell moves the field by as much."""
    network = fold_batch_norm(trained_like())
    x = torch.zeros(1, 2, 48, 48, 48)
    x[:, :, 18:26, 18:26, 18:26] = torch.rand(1, 2, 8, 8, 8)
    with torch.no_grad():
        field = network(x)
        moved = network(torch.roll(x, (4, 4, 4), (2, 3, 4)))
    inner = (..., *[slice(16, 32)] * 3)
    torch.testing.assert_close(
        moved[inner], torch.roll(field, (4, 4, 4), (2, 3, 4))[inner], atol=1e-5, rtol=1e-3
    )


def test_a_stored_model_predicts_what_the_network_did(stored):
    network, card, _ = stored
    x = torch.rand(1, 2, 16, 16, 16)
    with torch.no_grad():
        expected = network(x)[0].numpy()
    loaded = load_model(card.name, "cpu")
    assert loaded.card.version == "1"
    tolerance = 0.05 if loaded.precision == "bfloat16" else 0.01
    np.testing.assert_allclose(loaded.predict(x), expected, atol=tolerance * np.abs(expected).max())
    np.testing.assert_array_equal(loaded.predict(x), load_model(card.path, "cpu").predict(x))


def test_damage_is_noticed(stored):
    _, card, folder = stored
    weights = folder / card.weights
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="checksum"):
        load_model(card.name)
    weights.unlink()
    with pytest.raises(ModelError, match="missing"):
        load_model(card.name)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": 99}, "update Progressive Registration"),
        ({"width": 4}, "do not fit"),
        ({"levels": 2}, "do not fit"),
        ({"output_unit": "mm"}, "output unit"),
        ({"sigma": None}, "misses sigma"),
        ({"format": None}, "no format number"),
    ],
)
def test_cards_that_cannot_be_used_say_why(stored, change, sentence):
    _, card, _ = stored
    path = Path(card.path)
    content = {**json.loads(path.read_text(encoding="utf-8")), **change}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    with pytest.raises(ModelError, match=sentence):
        load_model(card.path)


def test_names_that_are_not_installed_list_those_that_are(stored):
    with pytest.raises(ModelError, match=r"installed: .*test"):
        load_model("nonsense")
    assert "test" in [c.name for c in available_models()]


@pytest.mark.parametrize(("device", "sentence"), [("tpu", "unknown"), ("cuda:99", "not on this machine")])
def test_devices_that_are_not_there_are_named(stored, device, sentence):
    with pytest.raises(DeviceError, match=sentence):
        load_model("test", device)


def test_a_gpu_without_memory_hands_over_to_the_cpu_and_says_so(stored, monkeypatch):
    """There is no GPU here: a network that raises what CUDA raises, on a device of another type,
    stands in for it."""
    loaded = load_model("test", "cpu")
    x = torch.rand(1, 2, 16, 16, 16)
    expected = loaded.predict(x)
    real = loaded._run
    monkeypatch.setattr(loaded, "_device", torch.device("mps"))

    def run(images):
        if loaded._device.type != "cpu":
            raise torch.OutOfMemoryError("out of memory")
        return real(images)

    monkeypatch.setattr(loaded, "_run", run)
    np.testing.assert_array_equal(loaded.predict(x), expected)
    assert "CPU instead" in loaded.notes[0]


def test_weights_travel_in_the_wheel(tmp_path):
    """Cards and weights of Resources/Models lie beside the package in an installed wheel,
    and are found there."""
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(site)], check=True)
    shipped = {p.name for p in (ROOT / "Resources" / "Models").glob("*.json")}
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from ProgressiveRegistrationLib.network import model\n"
        f"assert model.__file__.startswith({str(site)!r}), model.__file__\n"
        "print(*[c.weights.replace('.safetensors', '.json') for c in model.available_models()])\n"
        "[c.read_weights() for c in model.available_models()]"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=tmp_path,
    )
    assert set(found.stdout.split()) == shipped
