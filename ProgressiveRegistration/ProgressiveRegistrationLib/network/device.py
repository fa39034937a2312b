"""Where the network and the refinement run: devices, their precision, and the CPU where a GPU fails."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch

from ..errors import OUT_OF_MEMORY, DeviceError

Result = TypeVar("Result")
_working: set[str] = set()


def choose_device(device: str = "auto") -> torch.device:
    """The device of a name: auto, cpu, cuda, cuda:N, mps. Raises DeviceError."""
    name = str(device).lower()
    if name == "auto":
        for kind, module in (("cuda", torch.cuda), ("mps", torch.backends.mps)):
            if module.is_available() and not gpu_trouble(kind):
                return torch.device(kind)
        return torch.device("cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"The device {device} is unknown; use auto, cpu, cuda, cuda:N or mps.")
    if chosen.type == "cuda" and (chosen.index or 0) >= (
        torch.cuda.device_count() if torch.cuda.is_available() else 0
    ):
        raise DeviceError(f"The device {device} is not on this machine; use auto or cpu.")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("The device mps is not on this machine; use auto or cpu.")
    return chosen


def gpu_trouble(kind: str) -> str:
    """Why a GPU ("cuda" or "mps") that torch knows of cannot run the network's layers; empty if it can.

    Early versions of torch lack some of them for Apple GPUs, later ones do not know old NVIDIA cards, and a
    card may be full: then it is asked again the next time.
    """
    if kind not in _working:
        try:
            with torch.inference_mode():
                x = torch.zeros(1, 2, 4, 4, 4, device=kind)
                x = torch.nn.functional.max_pool3d(torch.nn.Conv3d(2, 2, 3, padding=1).to(kind)(x), 2)
                torch.nn.ConvTranspose3d(2, 2, 2, stride=2).to(kind)(x).cpu()
        except (RuntimeError, AssertionError) as error:  # torch.cuda asserts that it was built with CUDA
            return _first_line(error)
        _working.add(kind)
    return ""


def passed_over() -> list[str]:
    """Sentences about the GPUs that "auto" does not take."""
    notes = []
    for kind, module in (("cuda", torch.cuda), ("mps", torch.backends.mps)):
        trouble = gpu_trouble(kind) if module.is_available() else ""
        if trouble:
            notes.append(f"The GPU ({kind}) cannot be used ({trouble}); the CPU is used instead.")
    return notes


def on_gpu_or_cpu(
    device: torch.device, work: Callable[[torch.device], Result], what: str, notes: list[str]
) -> Result:
    """``work(device)``; where a GPU fails, ``work`` of the CPU, and ``notes`` says so.

    A GPU runs out of memory, has none left for its libraries, or is not known to this version of torch: all
    of it is a RuntimeError. What is wrong with the work itself comes again on the CPU.
    """
    try:
        return work(device)
    except RuntimeError as error:
        if device.type == "cpu":
            raise
        notes.append(_failure(device, what, error))
    # out here, where the error no longer keeps what it was working on
    with contextlib.suppress(RuntimeError):
        torch.cuda.empty_cache()
    return work(torch.device("cpu"))


def device_name(device: torch.device) -> str:
    """cpu, mps, or cuda with the card's name."""
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError, AssertionError):
            return f"cuda ({torch.cuda.get_device_name(device)})"
    return str(device)


def _failure(device: torch.device, what: str, error: RuntimeError) -> str:
    text = str(error).lower()
    full = isinstance(error, torch.OutOfMemoryError) or any(
        words in text for words in (*OUT_OF_MEMORY, "alloc_failed")
    )
    name = device_name(device)
    reason = f"The memory of {name} was not enough" if full else f"{name} failed ({_first_line(error)})"
    return f"{reason}; {what} ran on the CPU instead."


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def available_devices() -> list[tuple[str, str]]:
    """(name for ``device=``, what a user reads) of each device here."""
    devices = [("auto", "Auto"), ("cpu", "CPU")]
    if torch.cuda.is_available():
        devices += [(f"cuda:{i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append(("mps", "Apple GPU"))
    return devices


@lru_cache(maxsize=1)
def _cpu_has_bfloat16() -> bool:
    """Does the CPU multiply bfloat16 in hardware (AVX512_BF16, AMX, Arm BF16)?
    Emulated it is slower than float32."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        check = getattr(torch.cpu, name, None)
        if check is not None and check():
            return True
    if platform.machine().lower() in ("aarch64", "arm64"):
        try:
            return " bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
        except OSError:
            return False
    return False


def choose_precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, float32 otherwise."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32
