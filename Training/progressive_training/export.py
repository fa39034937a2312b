"""From a checkpoint to a model that registers: the averaged U-Net in half precision, and its card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ProgressiveRegistrationLib.constants import WINDOW_HU
from ProgressiveRegistrationLib.errors import InputError, ModelError, OutputError
from ProgressiveRegistrationLib.network.input import SIGMA
from ProgressiveRegistrationLib.network.model import ModelCard, write_model

from . import checkpoint
from .config import Config, config_from_dict
from .deformation import FINE
from .network import grid_shape, own_voxels
from .samples import COARSE_GAIN

UNET = "unet."


def described_data(
    described: Any, scans: list[str] | None, report: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """The configuration's ``training_data``, with no other numbers of scans
    than the checkpoint's record bears out.

    ``scans``: that record; None for older checkpoints, which have none.
    """
    data = [dict(entry) for entry in described or ()]
    counts = [entry.get("scans", 0) for entry in data]
    if scans is None or sum(counts) == len(scans):
        return data
    report(
        f"Warning: the configuration describes {sum(counts)} training scan(s) and the checkpoint was "
        f"trained on {len(scans)}: correct data.training_data; the card gives the latter number."
    )
    for entry in data:
        # Of several it cannot be told which number is wrong.
        entry.pop("scans", None)
        if len(data) == 1:
            entry["scans"] = len(scans)
    return data


def counted_steps(
    state: dict[str, Any], run: Config, report: Callable[[str], None] = print
) -> dict[str, int]:
    """Iterations that each level was the finest one in, and in all;
    by the schedule for checkpoints that did not count."""
    levels, iteration = run.network.levels, int(state["iteration"])
    size = run.network.size
    depths = range(levels - 1, -1, -1)
    if isinstance(size, int):
        sides = [str(size >> depth) for depth in depths]
    else:
        sides = ["x".join(str(n >> depth) for n in size) for depth in depths]
    planned = run.build_schedule().steps(iteration)
    counted = list(state.get("steps", planned))
    if counted != planned:
        report(
            f"Warning: the levels were trained for {', '.join(map(str, counted))} iterations, and by the "
            f"last schedule it would be {', '.join(map(str, planned))}: the card gives the former."
        )
    return {**dict(zip(sides, counted)), "total": sum(counted)}


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
    passes: int = 1,
    mirrored: bool = False,
    symmetric: bool = False,
    report: Callable[[str], None] = print,
) -> ModelCard:
    """Write ``name``.json and ``name``.safetensors into ``output``.

    Parameters
    ----------
    path : checkpoint. passes, mirrored, symmetric : how the engine asks the model, see ``network.passes``.
        config : describes the training data in its place. report : told where a description and the
        checkpoint's own record of its training disagree; the card then follows the record.

    Raises
    ------
    ModelError : the checkpoint is damaged, or its last level is not trained alone yet: the U-Net by itself
        would not give the field. InputError : other pre-processing than the engine's. OutputError :
        ``output`` cannot be written.
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
    nominal, _ = grid_shape(run.network.size)
    if nominal not in (64, FINE):
        raise InputError(
            f"The checkpoint {path} is of a network of {run.network.size}^3, for studies only: the engine "
            f"runs 64^3 and {FINE}^3."
        )
    scans = state.get("scans")
    last = [h for h in state.get("history", []) if h.get("level") == nominal][-1:]
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
        levels=run.network.levels,
        size=run.network.size if isinstance(run.network.size, int) else list(run.network.size),
        window=run.data.window or WINDOW_HU,
        sigma=run.sampling.sigma or SIGMA,
        output_unit="voxel",
        training_data=described_data(data.training_data, scans, report),
        training_steps=counted_steps(state, run, report),
        metrics=metrics,
        weights="",
        sha256="",
        correlated=run.network.correlated,
        output=run.network.output,
        passes=passes,
        mirrored=mirrored,
        symmetric=symmetric,
        description=description,
        extra={
            "default": default,
            "training_hours": round(float(state["seconds"]) / 3600, 2),
            "training_seed": run.seed,
            "optimiser": run.optimiser.name,
            "normalisation": run.network.norm,
            "weights": f"exponential average, {run.optimiser.ema}",
            "training": _way(state, run),
            **({"supervision": run.similarity.measure} if run.training == "unsupervised" else {}),
            "licence_note": data.licence,
            **({} if scans is None else {"training_scans": len(scans)}),
            **({"begun_with": state["begun_with"]} if state.get("begun_with") else {}),
        },
    )
    weights = unet_weights(groups)
    if run.network.output == "composed":
        # Every level's own output goes along; the U-Net counts levels from the finest.
        for level in range(1, run.network.levels):
            for part in ("weight", "bias"):
                name = f"outputs.{run.network.levels - 1 - level}.{part}"
                weights[f"heads.{level - 1}.{part}"] = groups["average"][name]
    return write_model(card, own_units(weights, card.size), output)


def _way(state: dict[str, Any], run: Config) -> str:
    """How it was trained, in a few words."""
    if state.get("begun_with"):
        before = state["begun_with"]
        return f"the weights of {before['name']} {before['version']}, trained on at {run.network.size}^3"
    return "baseline (not progressive)" if run.build_schedule().is_baseline else "progressive"


def own_units(weights: dict[str, torch.Tensor], size: int | list[int]) -> dict[str, torch.Tensor]:
    """The weights of a network of ``size`` that takes plain gradients and answers in voxels of its own grid.

    While training one of 64^3 is given ``COARSE_GAIN`` times the gradients, and all answer in voxels of the
    128 grid.
    """
    if size == FINE:
        return weights
    first = "down.0.0.conv.weight"
    out = dict(weights)
    if grid_shape(size)[0] < FINE:
        out[first] = out[first].float() * COARSE_GAIN
    scale = own_voxels(size)
    for name in out:
        if name.startswith(("out.", "heads.")):
            out[name] = out[name].float() * scale.view(3, *([1] * (out[name].ndim - 1)))
    return out
