"""Training on a GPU, as far as it can be tested without one: on a simulated device with CUDA's rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.accelerators import CPUAccelerator
from lightning.fabric.strategies import SingleDeviceStrategy
from progressive_training import checkpoint
from progressive_training import trainer as trainer_module
from progressive_training.cache import ScanStore
from progressive_training.config import config_from_dict
from progressive_training.network import ProgressiveUNet, resize
from progressive_training.phantoms import PhantomStore
from progressive_training.samples import Augmentation, Sample, SampleStream, Sampling
from progressive_training.trainer import Trainer
from simulated_gpu import GpuTensor, Record, simulated_gpu
from training_helpers import prepared_chest, write_chests

MOST_WAITS = 4  # synchronisations an iteration, its sample included
# Each level alone for an iteration, and two of each transition: 13 in all.
SCHEDULE = {"plateau": [1, 1, 1, 1, 1], "transition": [2, 2, 2, 2], "iterations": 13}


@pytest.fixture
def gpu():
    with simulated_gpu() as record:
        yield record


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    write_chests(folder / "data")
    return folder


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        pass


def _simulated(_hardware) -> tuple[Fabric, str]:
    strategy = SingleDeviceStrategy(torch.device("simgpu", 0), accelerator=_Accelerator())
    return Fabric(strategy=strategy, precision="32-true"), "32-true"


def run(place: Path, name: str, on_gpu: bool, monkeypatch, until: int | None = None, **changes) -> Trainer:
    """Train, or go on training; ``on_gpu`` within ``simulated_gpu``."""
    values = {
        "name": name,
        "data": {"train": ["data"], "cache": "cache"},
        "network": {"size": 64, "width": 2, **changes.pop("network", {})},  # five levels, the coarsest 4^3
        "schedule": SCHEDULE,
        "optimiser": {"name": "sgd", "learning_rate": 1e-4, "clip": 1.0},
        "sampling": {"augmentation": {"masked_share": 1.0, "one_lung_share": 0.5}},
        "hardware": {"accelerator": "cpu", "precision": "32-true", "prefetch": False},
        "validation": {"every": 6, "samples": 1},
        "output": {"folder": "runs", "pictures_every": 8, "log_every": 1, "snapshot_every": 5},
        **changes,
    }
    if on_gpu:
        monkeypatch.setattr(trainer_module, "build_fabric", _simulated)
    trainer = Trainer(config_from_dict(values, place), report=lambda text: None)
    trainer.run(resume=until is None, until=until)
    return trainer


def weights(place: Path, name: str) -> dict[str, torch.Tensor]:
    groups, _ = checkpoint.load(checkpoint.checkpoints(place / "runs" / name / "checkpoints")[-1])
    return {f"{g}/{k}": v for g, members in groups.items() for k, v in members.items()}


def losses(place: Path, name: str) -> list[float]:
    lines = (place / "runs" / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if entry["kind"] == "train"]


# ---- the device itself -------------------------------------------------------------------------------------


def test_the_simulated_gpu_refuses_what_cuda_refuses_and_counts_what_it_waits_for(gpu):
    there = torch.ones(3, device="simgpu:0")
    with pytest.raises(RuntimeError, match="found at least two devices"):
        there + torch.ones(3)
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    assert gpu.synchronisations == 0
    assert float((there * 2).sum()) == 6
    assert gpu.synchronisations == 1
    assert (there.cpu() + torch.ones(3)).tolist() == [2, 2, 2]
    assert gpu.synchronisations == 2
    parameter = torch.ones(2, device="simgpu:0", requires_grad=True)
    parameter.grad = torch.ones(2, device="simgpu:0")
    optimiser = torch.optim.AdamW([parameter], fused=True)
    optimiser.state[parameter] = {
        "step": torch.tensor(1.0),
        "exp_avg": torch.zeros(2, device="simgpu:0"),
        "exp_avg_sq": torch.zeros(2, device="simgpu:0"),
    }
    with pytest.raises(RuntimeError, match="device"):
        optimiser.step()


# ---- samples -----------------------------------------------------------------------------------------------


def streams(folder: Path, device: torch.device) -> list[SampleStream]:
    """A stream of scans with all that is drawn, and one of phantoms."""
    scan = prepared_chest(folder / "chest")
    window = (-1000.0, -100.0)
    small = {"size": (80, 80, 64), "spacing": (4.4, 4.4, 5.0), "tips": 800, "landmarks": 20}
    phantoms = PhantomStore(folder / "phantoms", 1, window, lambda text: None, device=device, **small)
    all_of_it = Augmentation(one_lung_share=0.5, masked_share=1.0, blur_share=1.0, box_change_share=1.0)
    store = ScanStore([scan], window, device=device)
    return [
        SampleStream(store, Sampling(all_of_it), 5),
        SampleStream(store, Sampling(Augmentation(phantom_share=1.0)), 5, phantoms=phantoms),
    ]


def test_samples_made_on_a_gpu_are_those_of_the_cpu(tmp_path):
    numbers = [(n, side, target) for n in range(3) for side, target in ((64, 8), (64, 32), (128, 128))]
    cpu = [[s.sample(*n) for n in numbers] for s in streams(tmp_path, torch.device("cpu"))]
    with simulated_gpu() as gpu:
        for expected, stream in zip(cpu, streams(tmp_path, torch.device("simgpu", 0))):
            stream.sample(0, 64, 8)
            gpu.clear()
            found = [stream.sample(*n) for n in numbers]
            assert gpu.synchronisations <= (MOST_WAITS - 1) * len(numbers), gpu.waits
            for one, other in zip(expected, found):
                same_sample(one, other)


def same_sample(one: Sample, other: Sample) -> None:
    for name in ("images", "target", "weight", "lung"):
        on_gpu = getattr(other, name)
        assert isinstance(on_gpu, GpuTensor), name
        assert torch.equal(getattr(one, name), on_gpu.cpu()), name


# ---- training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("growth", ["random", "carry"])
def test_training_on_a_gpu_is_that_on_the_cpu_at_every_level_and_transition(place, monkeypatch, growth):
    network = {"width": 3, "growth": growth}
    run(place, f"cpu-{growth}", False, monkeypatch, until=13, network=network)
    waits = []
    step = Trainer._step

    def counted(self: Trainer, t: int, sample: Sample) -> tuple[float, float]:
        out = step(self, t, sample)
        waits.append(RECORD_OF[0].synchronisations)
        RECORD_OF[0].clear()
        return out

    monkeypatch.setattr(Trainer, "_step", counted)
    with simulated_gpu() as gpu:
        RECORD_OF[:] = [gpu]
        monkeypatch.setattr(Trainer, "_draw", cleared(Trainer._draw, gpu))
        trained = run(place, f"gpu-{growth}", True, monkeypatch, until=13, network=network)
        assert all(isinstance(p, GpuTensor) for p in trained.plain.parameters())
        assert trained.history, "it was validated"
    finest = [trained.schedule.finest(t) for t in range(13)]
    growing = [growth == "carry" and t > 0 and finest[t] > finest[t - 1] for t in range(13)]
    assert max(w for w, grows in zip(waits, growing) if not grows) <= MOST_WAITS, waits
    assert losses(place, f"gpu-{growth}") == pytest.approx(losses(place, f"cpu-{growth}"), rel=1e-3)
    one, other = weights(place, f"cpu-{growth}"), weights(place, f"gpu-{growth}")
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.allclose(value, other[key], rtol=1e-2, atol=1e-4), key


RECORD_OF: list[Record] = []


def cleared(draw, gpu: Record):
    """Count an iteration from where its sample is drawn; validation and checkpoints come between."""

    def drawn(self: Trainer, iteration: int) -> Sample:
        gpu.clear()
        return draw(self, iteration)

    return drawn


def test_resuming_adam_on_a_gpu_gives_the_weights_of_going_through(place, monkeypatch):
    adam = {"name": "adam", "learning_rate": 1e-3}
    with simulated_gpu():
        run(place, "whole", True, monkeypatch, until=5, optimiser=adam)
        run(place, "parts", True, monkeypatch, until=3, optimiser=adam)
        monkeypatch.setitem(SCHEDULE, "iterations", 5)
        run(place, "parts", True, monkeypatch, optimiser=adam)
    whole, parts = weights(place, "whole"), weights(place, "parts")
    assert whole.keys() == parts.keys()
    for key, value in whole.items():
        assert torch.equal(value, parts[key]), key


def test_the_average_follows_a_network_on_a_gpu_that_began_with_a_models_weights(place, monkeypatch):
    """Moving the network to the CPU and back left the average with tensors that were no longer its."""

    def ones(network: torch.nn.Module, _card: object, _stream: object) -> None:
        assert all(p.device.type == "cpu" for p in network.parameters())
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(1.0)

    monkeypatch.setattr(trainer_module, "inherit", ones)
    with simulated_gpu():
        trainer = run(place, "begun", True, monkeypatch, until=1)
        trainer._begin_with("lung-width8")
        with torch.no_grad():
            for parameter in trainer.plain.parameters():
                parameter.fill_(3.0)
        for t in range(40):
            trainer._update_average(t)
        for name, parameter in trainer.average.named_parameters():
            assert float(parameter.detach().min()) == pytest.approx(3.0, abs=0.1), name


def test_nothing_in_a_step_adds_up_without_an_order(gpu):
    """CUDA's backward passes of interpolation would give other weights in each run."""
    network = ProgressiveUNet(2).to("simgpu:0").train()
    images = torch.rand(1, 2, 64, 64, 64).to("simgpu:0")
    network(images, [0, 0.3, 0.7, 0, 0]).square().mean().backward()
    assert not gpu.unordered


def test_fields_are_brought_up_on_a_gpu_as_on_the_cpu(gpu):
    field = torch.randn(1, 3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    up = resize(field.to("simgpu:0"), 32)
    assert torch.allclose(up.cpu(), resize(field, 32), atol=1e-6)
