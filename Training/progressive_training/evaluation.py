"""How well models register a test set: landmark errors, folding and their significance (paper, Table II).

TRE is |T(x) - y| in mm for a fixed landmark x and its moving landmark y; neither is snapped to a voxel.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ProgressiveRegistrationLib.constants import WINDOW_HU
from ProgressiveRegistrationLib.errors import InputError, ModelError, ProgressiveRegistrationError
from ProgressiveRegistrationLib.lungs import find_lungs, matched_boxes
from ProgressiveRegistrationLib.network.device import choose_device, choose_precision
from ProgressiveRegistrationLib.network.input import SIGMA, network_input
from ProgressiveRegistrationLib.network.model import load_model
from ProgressiveRegistrationLib.network.unet import channels_last
from ProgressiveRegistrationLib.quality import field_of_view, folding
from ProgressiveRegistrationLib.registration import register
from ProgressiveRegistrationLib.report.pictures import choose_planes, quick_map, slice_of
from ProgressiveRegistrationLib.transforms import map_points

from . import checkpoint
from .benchmarks import BenchmarkPair, PairData
from .cache import ScanStore
from .config import Config
from .dataset import prepare_data
from .deformation import FINE
from .losses import EVALUATION_SIDE, lung_error
from .network import ProgressiveUNet, grid_shape, image_side, own_voxels, pool_to, predict_field, resize
from .pairs import PreparedPair
from .samples import COARSE_GAIN, SampleStream


class CheckpointModel:
    """A checkpoint or snapshot of a run as something that ``register`` can use,
    at whatever level it has reached.

    ``which``: "average" (what is exported) or "network". Its window and sigma are those of the run.
    """

    def __init__(self, path: Path, device: str = "auto", which: str = "average") -> None:
        groups, state = checkpoint.load(path)
        settings = run_settings(path, state)
        if settings["input"] != "gradient":
            raise InputError(
                f"The checkpoint {path} was trained on plain intensities, which the engine does not feed."
            )
        self.torch_device = choose_device(device)
        self.device = str(self.torch_device)
        self.notes: list[str] = []
        self.iteration, self.alpha = int(state["iteration"]), list(state["alpha"])
        shape = state["architecture"]
        self.network = ProgressiveUNet(
            shape["width"],
            shape["levels"],
            shape["size"],
            correlated=shape.get("correlated", ()),
            composed=shape.get("output") == "composed",
        )
        weights = {k: v.float() if v.is_floating_point() else v for k, v in groups.get(which, {}).items()}
        try:
            self.network.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(f"The checkpoint {path} has no {which} weights of its architecture.") from error
        self.network = channels_last(self.network.eval(), self.torch_device)
        self.dtype = choose_precision(self.torch_device)
        self.precision = str(self.dtype).split(".")[-1]
        name = f"{settings['name']}, iteration {self.iteration}"
        # The grid that ``register`` samples the images on.
        nominal, full = grid_shape(shape["size"])
        size = image_side(FINE, nominal) if isinstance(shape["size"], int) else full
        self.card = SimpleNamespace(name=name, size=size, window=settings["window"], sigma=settings["sigma"])

    @torch.inference_mode()
    def predict_tensor(self, images: torch.Tensor, side: int = FINE) -> torch.Tensor:
        """(1, 3, side, side, side) float32, voxels of the 128 grid, for images (1, 2, S, S, S)."""
        images = images.to(self.torch_device, memory_format=torch.channels_last_3d)
        low = self.dtype != torch.float32
        with torch.autocast(self.torch_device.type, self.dtype, enabled=low):
            return predict_field(self.network, images, self.alpha, side).float().cpu()

    def predict(self, images: torch.Tensor) -> np.ndarray:
        """(3, S, S, S) float32 voxels of the grid of ``card.size``; as the engine's ``Model``.

        The lower levels were trained on the input of ``image_side``, averaged from the full grid here.
        """
        finest = self.network.side(max(i for i, a in enumerate(self.alpha) if a > 0))
        size, nominal = self.card.size, self.network.size
        images = images * COARSE_GAIN if nominal < FINE else images
        seen = pool_to(images, self.network.cells(image_side(finest, nominal)))
        field = self.predict_tensor(seen, size if isinstance(size, int) else FINE)
        return (field[0] * own_voxels(size)).numpy()


def run_settings(path: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """``name``, ``window``, ``sigma`` and ``input`` of the run that a checkpoint belongs to.

    A checkpoint holds its configuration; a snapshot's is ``config.json`` in the run's folder. Raises
    ModelError.
    """
    config = state.get("config")
    if config is None:
        file = path.resolve().parent.parent / "config.json"
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"The snapshot {path} needs its run's configuration, {file}, which cannot be read."
            ) from error
    data, sampling = config.get("data", {}), config.get("sampling", {})
    return {
        "window": tuple(data.get("window", WINDOW_HU)),
        "sigma": float(sampling.get("sigma", SIGMA)),
        "input": sampling.get("input", "gradient"),
        "name": str(config.get("name") or path.name),
    }


def open_model(name_or_path: str | Path | None, device: str = "auto") -> Any:
    """A model by name or card (None: the default one), or a training checkpoint (``.safetensors``).
    Raises ModelError or InputError."""
    if name_or_path is not None and str(name_or_path).endswith(checkpoint.ENDING):
        return CheckpointModel(Path(name_or_path), device)
    return load_model(name_or_path, device)


# A test set -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MethodResult:
    """One method on one pair. ``mapped``: T(x) (n, 3) LPS mm; ``errors``: TRE (n,) mm; ``folding``:
    see ``quality``."""

    mapped: np.ndarray
    errors: np.ndarray
    folding: dict
    seconds: float
    lung_boxes: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairResult:
    """All methods on one pair. Points (n, 3) LPS mm; ``before``: |x - y| (n,) mm.

    pictures : name -> (h, w) in [0, 1], coronal slices of "fixed", "before" and each method's warped moving
        image.
    """

    data_set: str
    name: str
    labels: tuple[str, ...]
    fixed_points: np.ndarray
    moving_points: np.ndarray
    before: np.ndarray
    methods: dict[str, MethodResult]
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


def evaluate(
    pairs: Iterable[BenchmarkPair],
    models: Mapping[str, Any],
    *,
    lung_boxes: str = "own",
    refinement: str | None = None,
    device: str = "auto",
    report: Callable[[str], None] = print,
) -> tuple[list[PairResult], list[str]]:
    """Register every pair with every model.

    Parameters
    ----------
    models : label -> ``Model``, ``CheckpointModel`` or "none" (box-to-box affine alone).
    lung_boxes : "own" or "shared" (the paper's), see ``register``. device : of what is done without a
        network.

    Returns
    -------
    results, and sentences about pairs that could not be used.

    Raises
    ------
    InputError : no pair could be used, or no model was given.
    """
    if not models:
        raise InputError("There is no model to evaluate: give at least one.")
    results, notes = [], []
    for pair in pairs:
        title = f"{pair.data_set} {pair.name}"
        try:
            result = evaluate_pair(pair, models, lung_boxes=lung_boxes, refinement=refinement, device=device)
        except ProgressiveRegistrationError as error:
            notes.append(f"{title} is left out: {error}")
            report(notes[-1])
            continue
        results.append(result)
        figures = ", ".join(f"{label} {m.errors.mean():.2f}" for label, m in result.methods.items())
        report(f"{title}: TRE before {result.before.mean():.2f} mm, {figures} mm")
    if not results:
        raise InputError("No pair of the test set could be evaluated" + (f": {notes[0]}" if notes else "."))
    return results, notes


def evaluate_pair(
    pair: BenchmarkPair,
    models: Mapping[str, Any],
    *,
    lung_boxes: str = "own",
    refinement: str | None = None,
    device: str = "auto",
) -> PairResult:
    """One pair with every model; see ``evaluate``."""
    data = pair.load()
    fov = field_of_view(data.fixed)
    methods: dict[str, MethodResult] = {}
    pictures: dict[str, Any] = {}
    for label, model in models.items():
        began = time.monotonic()
        done = register(
            data.fixed,
            data.moving,
            model=model,
            device=device,
            lung_boxes=lung_boxes,
            preset=refinement or "fast",
            fixed_mask=data.fixed_mask,
            moving_mask=data.moving_mask,
        )
        seconds = time.monotonic() - began
        mapped = map_points(done.field, data.fixed_points)
        methods[label] = MethodResult(
            mapped,
            np.linalg.norm(mapped - data.moving_points, axis=1),
            folding(done.field, done.fixed_lungs.mask, fov),
            seconds,
            done.lung_boxes,
            tuple(done.notes),
        )
        coronal = choose_planes(data.fixed, done.fixed_lungs.mask)[0]
        if not pictures:
            pictures["fixed"] = slice_of(data.fixed, coronal)
            pictures["before"] = slice_of(data.moving, coronal)
        pictures[label] = slice_of(data.moving, coronal, quick_map(done.field, [coronal]))
    before = np.linalg.norm(data.fixed_points - data.moving_points, axis=1)
    return PairResult(
        pair.data_set,
        pair.name,
        data.labels,
        data.fixed_points,
        data.moving_points,
        before,
        methods,
        pictures,
    )


def wilcoxon(worse: np.ndarray, better: np.ndarray) -> dict:
    """One-sided Wilcoxon signed-rank test that ``better`` is smaller than ``worse`` (paired, (n,)).

    ``W`` is the sum of the ranks where it is (the paper's W = 153 is all of 17 pairs), ``p`` as scipy gives
    it (exact for few pairs without ties, else normal). Without any difference p is 1.
    """
    from scipy import stats

    worse, better = np.asarray(worse, float), np.asarray(better, float)
    difference = worse - better
    summary = {
        "n": int(difference.size),
        "mean_difference_mm": float(difference.mean()) if difference.size else None,
        "better_in": int(np.count_nonzero(difference > 0)),
    }
    if not np.any(difference):
        return {**summary, "W": 0.0, "p": 1.0}
    test = stats.wilcoxon(worse, better, alternative="greater")
    return {**summary, "W": float(test.statistic), "p": float(test.pvalue)}


def compare(results: list[PairResult], worse: str, better: str) -> dict:
    """``wilcoxon`` on the pairs' mean errors (the paper's test) and on all landmarks,
    of two methods by label."""
    means = [np.array([r.methods[label].errors.mean() for r in results]) for label in (worse, better)]
    errors = [np.concatenate([r.methods[label].errors for r in results]) for label in (worse, better)]
    return {
        "hypothesis": f"{better} has smaller errors than {worse}",
        "pairs": wilcoxon(*means),
        # Landmarks of one pair are not independent: this p is too small, and only a supplement.
        "landmarks": wilcoxon(*errors),
    }


# Throughout training ----------------------------------------------------------------------------------------


def prepared(
    name: str,
    data: PairData,
    window: tuple[float, float],
    sigma: float,
    lung_boxes: str = "own",
    size: int | tuple[int, int, int] = FINE,
) -> PreparedPair:
    """A pair on grids of ``size``, for many networks in turn; ``lung_boxes`` as in ``register``."""
    lungs = [
        find_lungs(image, mask=mask, name=f"the {role} image")
        for role, image, mask in (
            ("fixed", data.fixed, data.fixed_mask),
            ("moving", data.moving, data.moving_mask),
        )
    ]
    shared = (lungs[0].box.union(lungs[1].box),) * 2
    boxes = shared if lung_boxes == "shared" else matched_boxes(*lungs)
    images = torch.stack(
        [
            network_input(im, box.grid(size), window, sigma)
            for im, box in zip((data.fixed, data.moving), boxes)
        ]
    )[None]
    fixed, moving = (box.grid(FINE) for box in boxes)
    return PreparedPair(name, images, fixed, moving, data.fixed_points, data.moving_points)


def _prepared_pairs(
    pairs: list[BenchmarkPair], model: CheckpointModel, lung_boxes: str, report: Callable[[str], None]
) -> list[PreparedPair]:
    ready, notes, card = [], [], model.card
    for pair in pairs:
        title = f"{pair.data_set} {pair.name}"
        try:
            ready.append(prepared(title, pair.load(), card.window, card.sigma, lung_boxes, card.size))
        except ProgressiveRegistrationError as error:
            notes.append(f"{title} is left out: {error}")
            report(notes[-1])
    if not ready:
        raise InputError("No pair of the test set could be evaluated" + (f": {notes[0]}" if notes else "."))
    return ready


def snapshots(run: Path) -> list[Path]:
    """The snapshots of a run's folder, oldest first; InputError if there is none."""
    found = checkpoint.checkpoints(run / "snapshots")
    if not found:
        raise InputError(f"The run {run} has no snapshots: set output.snapshot_every in its configuration.")
    return found


def snapshot_errors(
    run: Path,
    pairs: list[BenchmarkPair],
    *,
    lung_boxes: str = "own",
    device: str = "auto",
    report: Callable[[str], None] = print,
) -> list[dict]:
    """The test set's TRE at every snapshot of a run (paper, Figs. 5B and 6).

    Returns
    -------
    one dict a snapshot: ``iteration``, ``pairs`` (name -> mean TRE, mm) and ``tre_mm``, the mean over all
    landmarks.

    Raises
    ------
    InputError : no snapshots, or no pair that can be used; one that cannot is left out, as in ``evaluate``.
    """
    ready: list[PreparedPair] = []
    rows = []
    for path in snapshots(run):
        model = CheckpointModel(path, device)
        if not ready:
            ready = _prepared_pairs(pairs, model, lung_boxes, report)
        errors = {
            p.name: p.tre(torch.from_numpy(model.predict(p.images)) / own_voxels(model.card.size))
            for p in ready
        }
        rows.append(
            {
                "iteration": model.iteration,
                "pairs": {name: float(e.mean()) for name, e in errors.items()},
                "tre_mm": float(np.concatenate(list(errors.values())).mean()),
            }
        )
        report(f"{run.name}, iteration {model.iteration}: TRE {rows[-1]['tre_mm']:.2f} mm")
    return rows


def held_out_stream(config: Config, report: Callable[[str], None] = print) -> SampleStream:
    """The trainer's validation samples: deformations with a fixed seed of the configuration's held-out scans.

    Raises
    ------
    InputError : neither ``data.validation`` nor ``data.hold_out`` gives a usable scan.
    """
    _, folders = prepare_data(config, report, only_held_out=True)
    if not folders:
        raise InputError(
            f"The configuration {config.name} names no held-out scans: set data.validation or data.hold_out."
        )
    store = ScanStore(folders, config.data.window, config.data.memory_gb)
    return SampleStream.held_out(store, config.sampling)


def predictor(model: Any) -> tuple[Callable[[torch.Tensor, int], torch.Tensor], int, int]:
    """What ``held_out_errors`` needs of a ``Model``, a ``CheckpointModel`` or "none": predict, finest side
    and size."""
    if not isinstance(model, str) and not isinstance(model.card.size, int):
        raise InputError(
            f"The model {model.card.name} has a grid of {' x '.join(map(str, model.card.size))}: held-out "
            "deformations are made for 64^3 and 128^3; see the validation of its training."
        )
    if isinstance(model, CheckpointModel):
        finest = model.network.side(max(i for i, a in enumerate(model.alpha) if a > 0))
        return model.predict_tensor, finest, model.network.size
    if isinstance(model, str):
        return lambda _, side: torch.zeros(1, 3, side, side, side), FINE, FINE
    size = model.card.size

    def predict(images: torch.Tensor, side: int) -> torch.Tensor:
        # The exported weights expect plain gradients and answer in voxels of their own grid.
        plain = images / COARSE_GAIN if images.shape[-1] < FINE else images
        return resize(torch.from_numpy(model.predict(plain))[None] * (FINE / size), side)

    return predict, size, size


def held_out_errors(
    predict: Callable[[torch.Tensor, int], torch.Tensor],
    stream: SampleStream,
    samples: int,
    finest: int,
    size: int = FINE,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean |u - û| and |u| inside the fixed lung, mm,
    for each of ``samples`` deformations of each held-out scan.

    The deformations are fixed by the stream's seed and their numbers, so every network meets the same ones.

    Parameters
    ----------
    predict : (images (1, 2, S, S, S), side) -> field (1, 3, side, side, side), voxels of the 128 grid.
    finest : side of the network's finest active level. size : side of its input.

    Returns
    -------
    errors, zero_field : each (samples x scans,).
    """
    errors, zeros = [], []
    scans = len(stream.store)
    for number in range(samples * scans):
        sample = stream.sample(number, image_side(finest, size), EVALUATION_SIDE, scan=number % scans)
        result = predict(sample.images, max(EVALUATION_SIDE, finest))
        error, zero = lung_error(pool_to(result, EVALUATION_SIDE), sample)
        errors.append(error)
        zeros.append(zero)
    return np.array(errors), np.array(zeros)
