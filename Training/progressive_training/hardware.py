"""The devices that training runs on."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import torch
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.network.device import choose_precision

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from .config import Hardware

GPU_SHARE = 0.5  # of a GPU's memory, for scans that samples are made of there


def sampling_device(device: torch.device, workers: int) -> torch.device:
    """Where samples are made: on the GPU that trains, unless processes (or a CPU) make them."""
    return torch.device("cpu") if workers or device.type in ("cpu", "mps") else device


def scan_memory(device: torch.device, gigabytes: float) -> float:
    """How many GB of scans are kept on a device: ``gigabytes`` on a CPU, half of a GPU's memory."""
    if device.type != "cuda":
        return gigabytes
    return GPU_SHARE * torch.cuda.get_device_properties(device).total_memory / 1e9


def _native_precision(accelerator: str) -> str:
    """bfloat16 where the device multiplies it natively; a CPU that does not takes up to sixty times as long
    for it as for float32."""
    if accelerator == "cpu":
        return "bf16-mixed" if choose_precision(torch.device("cpu")) is torch.bfloat16 else "32-true"
    if not torch.cuda.is_available():  # an Apple GPU, or none: Fabric tells
        return "32-true"
    return "bf16-mixed" if choose_precision(torch.device("cuda")) is torch.bfloat16 else "16-mixed"


def build_fabric(hardware: Hardware) -> tuple[Fabric, str]:
    """Lightning Fabric for the configured hardware, and the precision chosen.
    Raises InputError if it is not to be had."""
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    accelerator, precision = hardware.accelerator, hardware.precision
    several = hardware.nodes > 1 or (hardware.devices not in (1, "1"))
    try:
        if hardware.threads:
            torch.set_num_threads(hardware.threads)
        if accelerator == "auto":
            accelerator = "cuda" if torch.cuda.is_available() else "cpu"
        if precision == "auto":
            precision = _native_precision(accelerator)
        fabric = Fabric(
            accelerator=accelerator,
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            precision=cast(Any, precision),
            # Levels that are not active yet have parameters without gradients. The others wait while one
            # process prepares the scans, for hours with the whole of LIDC-IDRI.
            strategy=DDPStrategy(find_unused_parameters=True, timeout=timedelta(hours=24))
            if several
            else "auto",
        )
    except (
        AssertionError,
        ImportError,
        MisconfigurationException,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(
            f"The hardware of the configuration (accelerator {accelerator}, devices "
            f"{hardware.devices}, nodes {hardware.nodes}, precision {precision}, threads "
            f"{hardware.threads}) cannot be used: {' '.join(str(error).split())}"
        ) from error
    return fabric, precision
