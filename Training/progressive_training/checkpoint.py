"""Checkpoints: one safetensors file with the weights, their average and the optimiser's state; no pickle.

The scalars (iteration, architecture, ...) are JSON in the file's metadata, so that a checkpoint is replaced
whole.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from ProgressiveRegistrationLib.errors import ModelError, OutputError
from ProgressiveRegistrationLib.files import replacing
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

ENDING = ".safetensors"
PREFIX = "iteration-"


def save(path: Path, groups: dict[str, dict[str, torch.Tensor]], state: dict[str, Any]) -> None:
    """Write tensors by group, and JSON-able ``state``; whole or not at all, in a folder that is made.
    Raises OutputError."""
    make_folder(path.parent)
    tensors = {
        f"{group}/{name}": t.detach().cpu().contiguous().clone()
        for group, members in groups.items()
        for name, t in members.items()
    }
    with replacing(path) as temporary:
        try:
            save_file(tensors, str(temporary), metadata={"state": json.dumps(state)})
        except SafetensorError as error:
            raise OSError(str(error)) from error


def make_folder(folder: Path) -> None:
    """Make a folder, if it is not there. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be made: {error.strerror}.") from error


def load(path: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Read what ``save`` wrote. Raises ModelError."""
    groups: dict[str, dict[str, torch.Tensor]] = {}
    try:
        with safe_open(str(path), "pt") as file:
            state = json.loads((file.metadata() or {})["state"])
            for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                group, name = key.split("/", 1)
                groups.setdefault(group, {})[name] = file.get_tensor(key)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelError(
            f"The checkpoint {path} cannot be read: it is missing, damaged or not a checkpoint."
        ) from error
    return groups, state


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return sorted(folder.glob(f"{PREFIX}*{ENDING}"), key=lambda p: int(p.stem[len(PREFIX) :]))


def checkpoint_path(folder: Path, iteration: int) -> Path:
    return folder / f"{PREFIX}{iteration:07d}{ENDING}"


def prune(folder: Path, keep: int) -> None:
    """Remove all but the last ``keep``."""
    for path in checkpoints(folder)[: -max(1, keep)]:
        path.unlink()


def mirror(path: Path, folder: Path) -> None:
    """Copy a checkpoint to a second place as ``latest``. Raises OutputError."""
    make_folder(folder)
    with replacing(folder / f"latest{ENDING}") as temporary:
        shutil.copyfile(path, temporary)


def check_architecture(state: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    """Raises ModelError when a checkpoint holds another network than the configuration's."""
    found = state.get("architecture", {})
    different = [f"{k} {found.get(k)} instead of {v}" for k, v in wanted.items() if found.get(k) != v]
    if different:
        raise ModelError(
            f"The checkpoint {path} is of another architecture ({', '.join(different)}): change the "
            "configuration or start a run under another name."
        )
