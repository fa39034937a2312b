"""A GPU made of CPU tensors, to test GPU code on a machine without one.

Tensors say that they lie on ``simgpu:0`` and hold CPU data; what CUDA forbids is an error here (an operation
on tensors of two devices, ``numpy()``), and what makes a program wait for a GPU is counted, with its place.
Kernels are the CPU's, so results must equal the CPU's but for the order of sums.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "simgpu"
OURS = ("ProgressiveRegistrationLib", "progressive_training")
aten = torch.ops.aten
# They hand back numbers or shapes that depend on values: the program waits for the GPU.
WAITING = (aten.nonzero.default, aten.masked_select.default, aten.equal.default, aten.is_nonzero.default)
INDEXING = ("aten.index", "aten.index_put", "aten.index_put_")
# CUDA adds up in any order in these, so that results differ from run to run.
UNORDERED = (
    "aten.grid_sampler_3d_backward",
    "aten.upsample_trilinear3d_backward",
    "aten.avg_pool3d_backward",
    "aten.index_add",
    "aten.scatter_add",
)


class GpuTensor(torch.Tensor):
    """A tensor on the simulated GPU: ``data_`` is where its values are."""

    @staticmethod
    def __new__(cls, data: torch.Tensor) -> GpuTensor:
        out = torch.Tensor._make_wrapper_subclass(
            cls,
            data.size(),
            strides=data.stride(),
            storage_offset=data.storage_offset(),
            dtype=data.dtype,
            device=torch.device(NAME, 0),
        )
        out.data_ = data
        return out

    def __repr__(self) -> str:
        return f"GpuTensor({tuple(self.data_.shape)}, {self.data_.dtype})"

    def numpy(self, *_args: Any, **_kwargs: Any) -> None:
        raise TypeError("can't convert simgpu:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Makes tensors on the GPU where they are asked for: ``torch.zeros(3, device="simgpu:0")``."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Record:
    """What was done: places where a program waited, kernels, and sums without an order."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.waits: Counter[str] = Counter()
        self.unordered: Counter[str] = Counter()
        self.kernels = 0

    @property
    def synchronisations(self) -> int:
        return sum(self.waits.values())


RECORD = Record()


def _place() -> str:
    """The line of ours that is being run."""
    for frame in reversed(traceback.extract_stack()):
        if any(name in frame.filename for name in OURS):
            return f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.line}"
    return "elsewhere"


def _is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _plain(value: Any) -> Any:
    return value.data_ if isinstance(value, GpuTensor) else value


def _on_gpu(value: Any) -> Any:
    return GpuTensor(value) if isinstance(value, torch.Tensor) and not isinstance(value, GpuTensor) else value


def _moved(func: Any, args: tuple, kwargs: dict) -> Any:
    """A copy from device to device, or within one."""
    source, device = args[0], kwargs.get("device")
    to_gpu = isinstance(source, GpuTensor) if device is None else _is_gpu(device)
    if isinstance(source, GpuTensor) and not to_gpu:
        RECORD.waits["cpu() " + _place()] += 1
    options = {**kwargs, "device": torch.device("cpu")} if device is not None else kwargs
    out = func(_plain(source), *args[1:], **options)
    if out.untyped_storage()._cdata == _plain(source).untyped_storage()._cdata:
        out = out.clone()
    return _on_gpu(out) if to_gpu else out


def _check(name: str, args: tuple, flat: list[Any]) -> None:
    """Raise what CUDA raises, and count what it waits for."""
    cpu = [x for x in flat if isinstance(x, torch.Tensor) and not isinstance(x, GpuTensor)]
    if name in INDEXING:
        index = [i for i in args[1] if isinstance(i, torch.Tensor)]
        masks = [i for i in index if i.dtype in (torch.bool, torch.uint8)]
        foreign = [i for i in index if not isinstance(i, GpuTensor)]
        if masks or foreign:
            RECORD.waits["index " + _place()] += 1
        cpu = [] if isinstance(args[0], GpuTensor) else cpu
    if name == "aten.copy_":
        if not isinstance(args[0], GpuTensor):
            RECORD.waits["copy_ " + _place()] += 1
        return
    # A number may lie on the CPU, but not where all of a list is worked on at once.
    fused = name.startswith("aten._fused")
    if any(x.dim() > 0 or fused for x in cpu):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{NAME}:0 and cpu! ({name}, {_place()})"
        )


def _run(func: Any, args: tuple, kwargs: dict) -> Any:
    if func._schema.name == "aten::to":
        names = [a.name for a in func._schema.arguments]
        given = {k: v for k, v in {**dict(zip(names, args)), **kwargs}.items() if v is not None}
        kept = ("dtype", "device", "memory_format", "non_blocking", "layout")
        source = given["self"]
        return _run(aten._to_copy.default, (source,), {k: v for k, v in given.items() if k in kept})
    flat, _ = tree_flatten((args, kwargs))
    here = any(isinstance(x, GpuTensor) for x in flat)
    wanted = _is_gpu(kwargs.get("device"))
    if func is aten._to_copy.default:
        return _moved(func, args, kwargs)
    if func is aten._local_scalar_dense.default and here:
        RECORD.waits["item() " + _place()] += 1
        return func(args[0].data_)
    if not here and not wanted:
        return func(*args, **kwargs)
    if wanted:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    name = ".".join(str(func).split(".")[:2])
    RECORD.kernels += 1
    if func in WAITING:
        RECORD.waits[f"{name} {_place()}"] += 1
    if name in UNORDERED:
        kind = next(x.dtype for x in flat if isinstance(x, GpuTensor))
        RECORD.unordered[f"{name} {kind} {_place()}"] += 1
    if here:
        _check(name, args, flat)
    out = func(*tree_map(_plain, args), **tree_map(_plain, kwargs))
    if name.endswith("_"):  # in place: the tensor that was given
        if isinstance(out, torch.Tensor) and isinstance(args[0], torch.Tensor):
            return args[0]
        return out if out is None else tree_map(_on_gpu, out)
    return tree_map(_on_gpu, out)


class _Module:
    """What torch asks of ``torch.simgpu``."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(_seed: int) -> None:
        pass

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def _register() -> None:
    """Tell torch of the device, while tests are collected: its first backward pass counts the devices."""
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as setup
    except ImportError:
        pytest.skip(
            "this torch cannot have a device written in Python; the pinned one can", allow_module_level=True
        )
    setup(rename=NAME, backend_module=_Module())


_register()


def _making(function: Any) -> Any:
    """``torch.tensor`` and its like, which take the data to the device themselves."""

    def made(*args: Any, device: Any = None, requires_grad: bool = False, **kwargs: Any) -> torch.Tensor:
        if _is_gpu(device):
            out = function(*args, **kwargs).to(device)
        else:
            out = function(*args, **kwargs, **({} if device is None else {"device": device}))
        return out.requires_grad_() if requires_grad else out

    return made


@contextmanager
def simulated_gpu() -> Iterator[Record]:
    """Within this, the device ``simgpu:0`` works; gives the record of what is done on it."""
    RECORD.clear()
    with ExitStack() as stack:
        for name in ("tensor", "as_tensor"):
            made = _making(getattr(torch, name))
            stack.enter_context(mock.patch.object(torch, name, made))
        stack.enter_context(_Mode())
        yield RECORD
