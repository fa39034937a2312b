"""The network and the refinement on a GPU, as far as it can be tested without one: on a simulated device with
CUDA's rules; and the CPU where a GPU fails."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.network import device as devices
from ProgressiveRegistrationLib.network.device import choose_device, gpu_trouble, on_gpu_or_cpu, passed_over
from ProgressiveRegistrationLib.network.model import Model, ModelCard
from ProgressiveRegistrationLib.network.unet import RegistrationUNet, fold_batch_norm
from ProgressiveRegistrationLib.refinement.refine import Settings, Stage, refine
from scipy.ndimage import gaussian_filter
from simulated_gpu import simulated_gpu

GRID = Grid((48, 40, 44), (4.0, 4.0, 4.0), (-94.0, -78.0, -86.0))
STAGES = (Stage(6.0, 24.0, 8, points=2000), Stage(4.0, 12.0, 8, points=2000))
GPU = "simgpu:0"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def card() -> ModelCard:
    return ModelCard("t", "1", 2, 3, 16, (-1000.0, -100.0), 0.5, "voxel", [], {}, {}, "", "")


def network() -> RegistrationUNet:
    torch.manual_seed(1)
    return RegistrationUNet(2, 3)


def pair():
    """Two images whose lumps lie 5 mm apart, the lungs' mask, and no motion to begin with."""
    lumps = gaussian_filter(np.random.default_rng(3).standard_normal(GRID.shape), 1.2)
    hu = -850 + 700 * np.clip(lumps / lumps.std(), 0, 1)
    x, y, z = np.moveaxis(GRID.points(), -1, 0)
    lungs = (x / 70) ** 2 + (y / 55) ** 2 + (z / 60) ** 2 < 1
    fixed, moving = GRID.image(hu.astype(np.float32)), GRID.image(hu.astype(np.float32))
    moving.SetOrigin((GRID.origin[0] + 3, GRID.origin[1] - 4, GRID.origin[2]))
    return fixed, moving, DisplacementField.identity(GRID), GRID.image(lungs.astype(np.uint8))


@pytest.mark.parametrize("both_ways", [False, True])
def test_the_refinement_on_a_gpu_is_that_on_the_cpu_and_waits_for_it_rarely(both_ways):
    fixed, moving, start, mask = pair()
    settings = Settings(STAGES, both_ways=both_ways)
    expected = refine(fixed, moving, start, preset=settings, mask=mask)
    with simulated_gpu() as gpu:
        found = refine(fixed, moving, start, preset=settings, mask=mask, device=GPU)
    assert np.abs(expected.displacement).max() > 3
    # In float64 the nodes' gradients add up to the CPU's but for its rounding.
    assert np.abs(found.displacement - expected.displacement).max() < 0.02
    iterations = sum(s.iterations for s in STAGES) * (1 + both_ways)
    assert gpu.synchronisations <= 4 * iterations, gpu.waits
    assert not [w for w in gpu.waits if "report" in w]


def test_what_a_gpu_adds_up_in_any_order_is_added_up_in_float64():
    fixed, moving, start, mask = pair()
    with simulated_gpu() as gpu:
        refine(fixed, moving, start, preset=Settings(STAGES), mask=mask, device=GPU)
    assert gpu.unordered, "the simulated GPU counts them"
    assert all("float64" in what for what in gpu.unordered), gpu.unordered


def test_the_network_on_a_gpu_gives_the_field_of_the_cpu(monkeypatch):
    monkeypatch.setattr("ProgressiveRegistrationLib.network.model.choose_precision", lambda _: torch.float32)
    images = torch.rand(1, 2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = on_device("cpu").predict(images)
    with simulated_gpu() as gpu:
        found = on_device(GPU).predict(images)
    assert gpu.synchronisations == 1
    np.testing.assert_allclose(found, expected, atol=1e-6)


def on_device(device: str) -> Model:
    model = Model(card(), network(), "cpu")
    model._place(torch.device(device))
    return model


def test_the_last_layer_keeps_its_precision_where_the_others_are_bfloat16(monkeypatch):
    monkeypatch.setattr("ProgressiveRegistrationLib.network.model.choose_precision", lambda _: torch.bfloat16)
    model = Model(card(), network(), "cpu")
    assert model.precision == "bfloat16"
    assert model._network.down[0][0].conv.weight.dtype == torch.bfloat16
    assert torch.equal(model._network.out.weight, fold_batch_norm(network().eval()).out.weight)


# ---- where a GPU fails -------------------------------------------------------------------------------------


FULL = "The memory of mps was not enough"
OLD = "CUDA error: no kernel image is available for execution on the device"
FAILURES = {
    "full": (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        "The memory of mps was not enough",
    ),
    "context": (RuntimeError("CUDA error: out of memory\nCompile with"), "The memory of mps was not enough"),
    "cudnn": (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "The memory of mps was not enough"),
    "old card": (RuntimeError(f"{OLD}\nCUDA kernel errors"), f"mps failed ({OLD})"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_where_a_gpu_fails_the_cpu_takes_over_and_says_why(name):
    error, sentence = FAILURES[name]
    notes: list[str] = []

    def work(device: torch.device) -> str:
        if device.type != "cpu":
            raise error
        return "done"

    assert on_gpu_or_cpu(torch.device("mps"), work, "the refinement", notes) == "done"
    assert notes == [f"{sentence}; the refinement ran on the CPU instead."]


def test_what_is_wrong_with_the_input_is_told_as_it_is():
    def work(_device: torch.device) -> None:
        raise InputError("The mask is empty.")

    notes: list[str] = []
    with pytest.raises(InputError, match="mask is empty"):
        on_gpu_or_cpu(torch.device("mps"), work, "the refinement", notes)
    assert notes == []


def test_a_failure_of_the_cpu_is_raised():
    def work(_device: torch.device) -> None:
        raise RuntimeError("shapes do not match")

    for device in ("cpu", "mps"):
        with pytest.raises(RuntimeError, match="shapes do not match"):
            on_gpu_or_cpu(torch.device(device), work, "the network", [])


def test_a_network_that_cannot_be_placed_on_a_gpu_runs_on_the_cpu(monkeypatch):
    place = Model._place

    def failing(self: Model, device: torch.device) -> None:
        if device.type != "cpu":
            raise RuntimeError("CUDA error: out of memory")
        place(self, device)

    monkeypatch.setattr(Model, "_place", failing)
    monkeypatch.setattr(
        "ProgressiveRegistrationLib.network.model.choose_device", lambda _: torch.device("mps")
    )
    model = Model(card(), network(), "mps")
    assert model.device == "cpu"
    assert "CPU instead" in model.notes[0]
    assert model.predict(torch.rand(1, 2, 16, 16, 16)).shape == (3, 16, 16, 16)


def test_auto_passes_over_a_gpu_that_cannot_run_the_network_and_says_so(monkeypatch):
    """This torch has no CUDA: what claims to be there cannot be used."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(devices, "_working", set())
    assert gpu_trouble("cuda")
    assert choose_device("auto").type == "cpu"
    assert len(passed_over()) == 1
    assert Model(card(), network(), "auto").notes == passed_over()
    monkeypatch.setattr(devices, "_working", {"cuda"})
    assert choose_device("auto").type == "cuda"
