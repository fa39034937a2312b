"""A study of variants: several small runs in step, on the same samples and the same initial weights.

As in the paper (section III) the networks train in parallel: every sample is made once and shown to all
variants that ask for the same one. What a variant costs is counted in floating-point operations, so that
"equal compute" does not depend on what else the machine does.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.files import write_text
from ProgressiveRegistrationLib.network.input import gradient_magnitude

from .config import Config, Network, config_from_dict
from .evaluation import held_out_errors, wilcoxon
from .losses import weighted_loss
from .network import ProgressiveUNet, grid_shape, image_side, pool_to
from .samples import COARSE_GAIN, Sample, SampleStream, Sampling
from .trainer import Trainer, TrainingStopped

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Variant:
    """One run of a study. ``against``: the variant that it is compared with. ``question``:
    what it answers."""

    name: str
    config: Config
    question: str = ""
    against: str = ""
    equal_compute_to: str = ""


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the nested ``changes`` put in; a key whose value is None is taken out."""
    out = copy.deepcopy(dict(base))
    for key, value in changes.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(out.get(key), Mapping):
            out[key] = merged(out[key], value)
        else:
            out[key] = copy.deepcopy(value)
    return out


def read_study(path: Path) -> tuple[list[Variant], int]:
    """A YAML file: ``base``, a configuration, and ``variants``: name -> {question, against,
    equal_compute_to, changes}.

    ``equal_compute_to``: train for as many iterations as cost what the named variant costs. ``size``: side of
    the networks' grid, 128 or, to save time, 64 or 32; displacements keep the unit of the 128 grid, so such
    networks are for comparison only and cannot be exported. ``pool``: see ``run_study``.

    Returns
    -------
    variants and pool. Raises InputError.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        base, variants = content["base"], content["variants"]
        entries = {str(name): dict(entry or {}) for name, entry in variants.items()}
        size, pool = content.get("size", 128), content.get("pool", 0)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"The study {path} needs the keys base and variants, as YAML.") from error
    if size not in (32, 64, 128):
        raise InputError(f"The study {path} has size {size!r}: it must be 32, 64 or 128.")
    if not isinstance(pool, int) or pool < 0:
        raise InputError(f"The study {path} has pool {pool!r}: it must be a number of samples, or 0.")
    out = []
    for name, entry in entries.items():
        unknown = set(entry) - {"question", "against", "equal_compute_to", "changes"}
        if unknown:
            raise InputError(
                f"The study {path}: the variant {name} has the unknown key {sorted(unknown)[0]}."
            )
        values = merged({"name": name, **base}, entry.pop("changes", None) or {})
        config = config_from_dict(values, path.parent.resolve())
        config = replace(config, network=replace(config.network, size=size))
        if size >> (config.network.levels - 1) < 4:
            raise InputError(f"The study {path}: {config.network.levels} levels do not fit in {size}^3.")
        variant = Variant(name, config, **entry)
        for key in (variant.against, variant.equal_compute_to):
            if key and key not in entries:
                raise InputError(f"The study {path}: the variant {name} names {key}, which is none.")
        out.append(variant)
    by_name = {v.name: v for v in out}
    out = [equal_compute(v, by_name[v.equal_compute_to]) if v.equal_compute_to else v for v in out]
    return out, pool


def level_cost(config: Config) -> list[float]:
    """Floating-point operations of one training iteration at each level, coarsest first;
    forward and backward."""
    return list(_level_cost(config.network))


@lru_cache(maxsize=32)
def _level_cost(options: Network) -> tuple[float, ...]:
    from torch.utils.flop_counter import FlopCounterMode

    model = ProgressiveUNet(
        options.width,
        options.levels,
        options.size,
        options.norm,
        options.momentum,
        correlated=options.correlated,
        composed=options.output == "composed",
    )
    costs = []
    for level in range(options.levels):
        alpha = [float(i == level) for i in range(options.levels)]
        # What is in the images does not matter; a correlation wants finer ones than its level's.
        side = model.size if options.correlated else model.side(level)
        images = torch.zeros(1, 2, side, side, side)
        with FlopCounterMode(display=False) as counter:
            field = model(images, alpha)
            weighted_loss(field, torch.ones_like(field), torch.ones_like(field[:, :1])).backward()
        costs.append(float(counter.get_total_flops()))
        model.zero_grad(set_to_none=True)
    return tuple(costs)


def total_cost(config: Config, iterations: int | None = None) -> float:
    """Floating-point operations of a whole run (or of its first ``iterations``)."""
    schedule, costs = config.build_schedule(), level_cost(config)
    count = config.schedule.iterations if iterations is None else iterations
    return sum(costs[schedule.finest(t)] for t in range(count))


def equal_compute(variant: Variant, other: Variant) -> Variant:
    """The variant with as many iterations as cost what ``other`` costs;
    for a schedule of one level (baseline)."""
    schedule = variant.config.build_schedule()
    if not schedule.is_baseline:
        raise InputError(f"The variant {variant.name} must be a baseline to be cut to equal compute.")
    count = max(1, round(total_cost(other.config) / level_cost(variant.config)[-1]))
    config = replace(variant.config, schedule=replace(variant.config.schedule, iterations=count))
    return replace(variant, config=config)


class _KeptStream:
    """A stream whose samples stay in memory: all variants are measured on the same few."""

    def __init__(self, stream: SampleStream) -> None:
        self.stream, self.store = stream, stream.store
        self._kept: dict[tuple, Sample] = {}

    def sample(self, *args: Any, **options: Any) -> Sample:
        key = (args, tuple(sorted(options.items())))
        if key not in self._kept:
            self._kept[key] = self.stream.sample(*args, **options)
        return self._kept[key]


class _Runner:
    """A trainer of one variant, driven from outside. ``opened``: data that an earlier variant has read."""

    def __init__(self, variant: Variant, report: Callable[[str], None], opened: dict[str, tuple]) -> None:
        self.variant = variant
        config = variant.config
        self.trainer = trainer = Trainer(config, report)
        trainer.fabric.launch()
        key = repr((config.data, config.sampling, config.validation, config.seed, config.folder))
        if key not in opened:
            trainer._open_data()
            if trainer.held_out is None:
                raise InputError("A study needs held-out scans: set data.validation or data.hold_out.")
            opened[key] = (trainer.stream, _KeptStream(trainer.held_out), trainer.pairs)
        trainer.stream, trainer.held_out, trainer.pairs = opened[key]
        trainer._build_network()
        self.curve: list[dict] = []
        self.seconds = 0.0
        self.diverged: int | None = None

    @property
    def end(self) -> int:
        return self.trainer.total

    def side(self, t: int) -> int:
        return self.trainer.plain.side(self.trainer.schedule.finest(t))

    def step(self, t: int, sample: Sample) -> bool:
        """Train on a sample; False if that made the loss infinite or nan, which ends this variant."""
        began = time.monotonic()
        self.trainer.plain.train()
        try:
            self.trainer._step(t, sample)
        except TrainingStopped:
            self.diverged = t
        self.trainer.iteration = t + 1
        self.seconds += time.monotonic() - began
        return self.diverged is None

    @property
    def held(self) -> SampleStream:
        assert self.trainer.held_out is not None  # else there is no runner
        return self.trainer.held_out

    def held_out(self, samples: int) -> tuple[np.ndarray, np.ndarray]:
        finest = self.side(self.trainer.iteration - 1)
        size = self.trainer.plain.size
        return held_out_errors(self.trainer.predict, self.held, samples, finest, size)

    def pair_errors(self) -> dict[str, np.ndarray]:
        """(n,) mm of every landmark of the configured pairs."""
        finest = self.side(self.trainer.iteration - 1)
        out = {}
        for pair in self.trainer.pairs:
            images = pool_to(pair.images, image_side(finest, self.trainer.plain.size))
            out[pair.name] = pair.tre(self.trainer.predict(images, 128)[0])
        return out


def _origin(stream: SampleStream) -> str:
    """What a stream's samples are made from: equal where they are."""
    scans = (stream.store.folders, stream.store.window, stream.phantoms and stream.phantoms.folders)
    pairs = ([(pair.name, pair.spacings) for pair in stream.pairs], stream.pair_share)
    return repr((stream.sampling, stream.key, stream.shape, scans, pairs))


class _Samples:
    """Each sample is made once for all variants with the same sampling.

    ``size`` : side of the networks' grid. ``pool`` : how many samples there are, seen in turn; 0: a new one
    every time.
    """

    def __init__(self, size: int, pool: int = 0) -> None:
        self.size, self.pool = size, pool
        self._made: dict[tuple, tuple[dict[str, torch.Tensor], Sample]] = {}
        self.seconds = 0.0

    def get(self, stream: SampleStream, t: int, side: int) -> Sample:
        """Sample ``t`` with its truth at ``side``;
        for networks up to 32^3 the trainer's own (means of means)."""
        number = t % self.pool if self.pool else t
        pooled = image_side(self.size, self.size) == 64
        made_at = self.size if pooled else side
        # Both kinds of input from the same grey values: making the pair is what costs. Real pairs have no
        # grey values any more.
        grey = copy.copy(stream)
        grey.sampling = stream.sampling if stream.pairs else replace(stream.sampling, input="intensity")
        key = (_origin(grey), number, made_at)
        if key not in self._made:
            began = time.monotonic()
            made = grey.sample(number, image_side(side, self.size), made_at)
            self._made[key] = self._with_inputs(made, grey.sampling)
            self.seconds += time.monotonic() - began
        inputs, made = self._made[key]
        sample = replace(made, images=inputs[stream.sampling.input])
        if not pooled:
            return sample
        target, weight, lung = (pool_to(t, side) for t in (sample.target, sample.weight, sample.lung))
        return replace(sample, target=target, weight=weight, lung=lung)

    def _with_inputs(self, sample: Sample, sampling: Sampling) -> tuple[dict[str, torch.Tensor], Sample]:
        side = sample.images.shape[-1]
        inputs = {sampling.input: sample.images}
        if sampling.input == "intensity":
            gradient = gradient_magnitude(sample.images, sampling.sigma)
            inputs["gradient"] = gradient * COARSE_GAIN if side == 64 else gradient
        if side == 64:
            # What a network of this size would do first.
            inputs = {name: pool_to(images, self.size) for name, images in inputs.items()}
        return inputs, sample

    def after(self, t: int) -> None:
        """Forget what will not be seen again."""
        if not self.pool:
            self._made.clear()


def run_study(variants: list[Variant], pool: int = 0, report: Callable[[str], None] = print) -> dict:
    """Train all variants in step and measure them. Returns what ``study_table`` prints.

    ``pool``: how many samples there are, seen in turn; 0: a new one in every iteration.

    ``validation.every`` and ``validation.samples`` of each variant say when its learning curve is taken, and
    on how many deformations of each held-out scan the last errors are.
    """
    if not variants:
        raise InputError("The study has no variants.")
    opened: dict[str, tuple] = {}
    runners = [_Runner(v, report, opened) for v in variants]
    size, _ = grid_shape(variants[0].config.network.size)
    samples = _Samples(size, pool)
    for t in range(max(r.end for r in runners)):
        for runner in runners:
            if t >= runner.end or runner.diverged is not None:
                continue
            if not runner.step(t, samples.get(runner.trainer.stream, t, runner.side(t))):
                report(
                    f"{runner.variant.name}: the loss is not finite at iteration {t}; it trains no further"
                )
                continue
            every = runner.variant.config.validation.every
            if (every and (t + 1) % every == 0) or t + 1 == runner.end:
                errors, zeros = runner.held_out(max(1, runner.variant.config.validation.samples // 4))
                runner.curve.append({"iteration": t + 1, "error_mm": float(errors.mean())})
                report(
                    f"{runner.variant.name}, iteration {t + 1}: {errors.mean():.2f} of {zeros.mean():.2f} mm"
                )
        samples.after(t)
    return {**measure(runners, samples.seconds), "pool": pool}


def measure(runners: list[_Runner], sample_seconds: float) -> dict:
    """The last errors of every variant, and the tests of each against its partner."""
    errors, rows = {}, []
    for runner in runners:
        config = runner.variant.config
        row = {
            "name": runner.variant.name,
            "question": runner.variant.question,
            "against": runner.variant.against,
            "iterations": runner.end,
            "diverged_at": runner.diverged,
            "tflop": round(total_cost(config) / 1e12, 2),
            "training_seconds": round(runner.seconds, 1),
            "curve": runner.curve,
        }
        rows.append(row)
        if runner.diverged is not None:
            continue
        found, zeros = runner.held_out(config.validation.samples)
        landmarks = runner.pair_errors()
        errors[runner.variant.name] = (found, landmarks)
        row.update(
            held_out_mm=float(found.mean()),
            held_out_sd_mm=float(found.std()),
            zero_field_mm=float(zeros.mean()),
            deformations=len(found),
            tre_mm={name: float(e.mean()) for name, e in landmarks.items()},
        )
    if not errors:
        raise InputError("Every variant of the study diverged: lower the learning rates.")
    for row in rows:
        if row["name"] in errors and row["against"] in errors:
            mine, other = errors[row["name"]], errors[row["against"]]
            # One-sided, as in the paper: is this variant worse than the one that it is held against?
            row["worse_than_partner"] = {
                "held_out": wilcoxon(mine[0], other[0]),
                **{name: wilcoxon(mine[1][name], other[1][name]) for name in mine[1]},
            }
    first = runners[0]
    return {
        "rows": rows,
        "sample_seconds": round(sample_seconds, 1),
        "size": first.variant.config.network.size,
        "levels": first.variant.config.network.levels,
        "width": first.variant.config.network.width,
        "seed": first.variant.config.seed,
        "scans": len(first.trainer.stream.store),
        "held_out_scans": len(first.held.store),
        "before_mm": {p.name: float(p.before.mean()) for p in first.trainer.pairs},
    }


def study_table(result: dict) -> str:
    """The study's figures as a Markdown table; the pairs' tests are over landmarks,
    which are not independent."""
    pairs = list(result["before_mm"])
    head = ["Variant", "Iterations", "TFLOP", "Held-out error (mm)"]
    head += [f"TRE {p} (mm)" for p in pairs] + ["Against", "Difference (mm)", "W, p (one-sided)"]
    head += [f"TRE {p}: difference (mm); W, p over landmarks (one-sided)" for p in pairs]
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("|---|" + "---:|" * (3 + len(pairs)) + "---|---:|---|" + "---|" * len(pairs))
    zero = _zero_field(result)
    cells = ["zero field", "", "", f"{zero:.2f}", *(f"{result['before_mm'][p]:.2f}" for p in pairs)]
    lines.append("| " + " | ".join([*cells, "", "", "", *("" for _ in pairs)]) + " |")
    for row in result["rows"]:
        cells = [row["name"], f"{row['iterations']:,}", f"{row['tflop']:.1f}"]
        if row.get("diverged_at") is not None:
            cells += [
                f"diverged at {row['diverged_at']:,}",
                *("" for _ in pairs),
                row["against"] or "",
                "",
                "",
                *("" for _ in pairs),
            ]
            lines.append("| " + " | ".join(cells) + " |")
            continue
        cells.append(f"{row['held_out_mm']:.2f} ± {row['held_out_sd_mm']:.2f}")
        cells += [f"{row['tre_mm'][p]:.2f}" for p in pairs]
        tests = row.get("worse_than_partner", {})
        test = tests.get("held_out")
        if test:
            cells += [row["against"], f"{test['mean_difference_mm']:+.2f}", _statistic(test)]
        else:
            cells += ["", "", ""]
        for p in pairs:
            test = tests.get(p)
            cells.append(f"{test['mean_difference_mm']:+.2f}; {_statistic(test)}" if test else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _statistic(test: dict) -> str:
    return f"{test['W']:g}, {test['p']:.2g}"


def _zero_field(result: dict) -> float:
    """Mean |u| of the held-out deformations, mm: the same for all variants."""
    return next(row["zero_field_mm"] for row in result["rows"] if "zero_field_mm" in row)


def curves_figure(result: dict) -> Figure:
    """Learning curves of all variants."""
    from .figures import COLOURS, _figure, _tidy

    figure = _figure(7.2, 4.2)
    axes = figure.subplots()
    for number, row in enumerate(result["rows"]):
        x = [e["iteration"] for e in row["curve"]]
        y = [e["error_mm"] for e in row["curve"]]
        style = ("-", "--", ":")[number // len(COLOURS) % 3]
        axes.plot(x, y, style, color=COLOURS[number % len(COLOURS)], label=row["name"])
    axes.axhline(_zero_field(result), color="black", linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate(
        "zero field",
        (0.99, _zero_field(result)),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        fontsize=8,
    )
    axes.set_xlabel("iteration")
    axes.set_ylabel("held-out error in the lung (mm)")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _tidy(axes)
    return figure


def write_study(result: dict, folder: Path) -> None:
    """``study.json``, ``study.md`` (the table) and ``study.png``/``.svg`` (the curves)."""
    from .figures import save

    write_text(folder / "study.json", json.dumps(result, indent=1) + "\n")
    write_text(folder / "study.md", study_table(result))
    save(curves_figure(result), folder, "study")
