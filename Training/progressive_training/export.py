"""From a checkpoint to a model that registers: the averaged U-Net in half precision, and its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ProgressiveRegistrationLib.errors import InputError, ModelError, OutputError
from ProgressiveRegistrationLib.model import ModelCard, write_model
from ProgressiveRegistrationLib.network_input import SIGMA, WINDOW

from . import checkpoint
from .config import Config, config_from_dict
from .schedule import Schedule

UNET = "unet."


def steps_by_level(schedule: Schedule, iterations: int, sides: list[int]) -> dict[str, int]:
    """Iterations in which each level was the finest active one."""
    counts = dict.fromkeys((str(s) for s in sides), 0)
    for t in range(iterations):
        counts[str(sides[schedule.finest(t)])] += 1
    counts["total"] = iterations
    return counts


def unet_weights(
    groups: dict[str, dict[str, torch.Tensor]], which: str = "average"
) -> dict[str, torch.Tensor]:
    """The RegistrationUNet's state dict in a checkpoint; ``which``: "average" or "network"."""
    weights = {k[len(UNET) :]: v for k, v in groups.get(which, {}).items() if k.startswith(UNET)}
    if not weights:
        raise ModelError(f"The checkpoint holds no {which} weights: it cannot be exported.")
    return weights


def export(
    path: Path,
    name: str,
    output: Path,
    version: str = "1.0",
    description: str = "",
    config: Config | None = None,
    default: bool = False,
) -> ModelCard:
    """Write ``name``.json and ``name``.safetensors into ``output``.

    Parameters
    ----------
    path : checkpoint. config : describes the training data in its place.

    Raises
    ------
    ModelError : the checkpoint is damaged, or its last level is not trained alone yet: the U-Net by itself would not give
        the field. InputError : other pre-processing than the engine's. OutputError : ``output`` cannot be written.
    """
    groups, state = checkpoint.load(path)
    try:
        run = config_from_dict(state["config"])
    except (KeyError, InputError) as error:
        raise ModelError(
            f"The checkpoint {path} does not tell how it was trained: it cannot be exported."
        ) from error
    data = (config or run).data
    iteration, schedule = int(state["iteration"]), run.build_schedule()
    alpha = schedule.alpha(iteration - 1)
    if alpha[-1] < 1:
        raise ModelError(
            f"The checkpoint {path} has reached iteration {iteration}, where the last level has a weight of "
            f"{alpha[-1]:.2f}: train until it is 1, then export."
        )
    if run.sampling.input != "gradient":
        raise InputError(
            f"The checkpoint {path} was trained on plain intensities, which the engine does not feed."
        )
    levels = run.network.levels
    sides = [run.network.size >> (levels - 1 - i) for i in range(levels)]
    last = [h for h in state.get("history", []) if h.get("level") == sides[-1]][-1:]
    metrics: dict[str, Any] = {}
    if last:
        metrics["validation while training, averaged weights"] = {
            k: round(v, 3) for k, v in last[0].items() if k.endswith("_mm")
        }
    output.mkdir(parents=True, exist_ok=True) if output.parent.is_dir() else None
    if not output.is_dir():
        raise OutputError(f"The folder {output} does not exist: make it first.")
    card = ModelCard(
        name=name,
        version=version,
        width=run.network.width,
        levels=levels,
        size=run.network.size,
        window=tuple(run.data.window) or WINDOW,
        sigma=run.sampling.sigma or SIGMA,
        output_unit="voxel",
        training_data=[dict(d) for d in data.training_data],
        training_steps=steps_by_level(schedule, iteration, sides),
        metrics=metrics,
        weights="",
        sha256="",
        description=description,
        extra={
            "default": default,
            "training_hours": round(float(state["seconds"]) / 3600, 2),
            "training_seed": run.seed,
            "optimiser": run.optimiser.name,
            "normalisation": run.network.norm,
            "weights": f"exponential average, {run.optimiser.ema}",
            "training": "progressive" if not schedule.is_baseline else "baseline (not progressive)",
            "licence_note": data.licence,
        },
    )
    return write_model(card, unet_weights(groups), output)
