"""A training run's configuration: a YAML file, checked key by key against these dataclasses (``values``)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Union

from ProgressiveRegistrationLib.constants import WINDOW_HU
from ProgressiveRegistrationLib.errors import InputError
from pydantic import BeforeValidator, ConfigDict, PlainValidator, Strict

from .losses import LOSSES
from .network import NORMS
from .samples import Sampling
from .schedule import LearningRate, Schedule
from .unsupervised import Similarity
from .values import (
    DEFAULTS,
    LIST,
    Anything,
    Count,
    Flag,
    NotNegative,
    Number,
    Numbers,
    PerLevel,
    Texts,
    TwoNumbers,
    Whole,
    Wholes,
    one_of,
    read,
    within,
    wrong,
)


def _size(value: Any) -> int | tuple[int, int, int]:
    value = tuple(value) if isinstance(value, (list, tuple)) else value
    if any(type(n) is not int for n in (value if isinstance(value, tuple) else (value,))) or (
        isinstance(value, tuple) and len(value) != 3
    ):
        raise wrong("must be a whole number of cells, or three: along x, y and z")
    return value


Size = Annotated[Union[int, tuple[int, int, int]], PlainValidator(_size)]


def _data_set(value: Any) -> Any:
    if not isinstance(value, Mapping) or not isinstance(value.get("scans", 0), int):
        raise wrong("must be a list of {name, licence, scans}, scans a whole number")
    return value


DataSet = Annotated[Any, BeforeValidator(_data_set)]


def _data_sets(value: Any) -> Any:
    """Nothing at all (or "", as once in checkpoints) is a list of none."""
    return value if isinstance(value, (list, tuple)) else (value,) if value else ()


@dataclass(frozen=True)
class TrainingPair:
    """Two images of one patient, to train on without known displacements."""

    name: str
    fixed: str
    moving: str


@dataclass(frozen=True)
class Data:
    """Folders are relative to the configuration file. ``train``, ``validation``:
    LIDC-IDRI trees or volume folders.

    ``hold_out``: about this share of the patients of ``train`` is kept for validation, see
    ``dataset.is_held_out``. ``training_data``: list of {name, licence, scans}, for the model card.
    ``pairs``: real pairs, for unsupervised training; ``pair_share``: the part of the samples that they are.
    """

    train: Texts = ()
    validation: Texts = ()
    hold_out: Annotated[Number, within(0, 1, end=False)] = 0.0
    cache: str = "../cache"
    window: TwoNumbers = WINDOW_HU
    memory_gb: Number = 4.0
    training_data: Annotated[tuple[DataSet, ...], BeforeValidator(_data_sets)] = ()
    licence: str = ""
    pairs: Annotated[tuple[TrainingPair, ...], LIST] = ()
    pair_share: Annotated[Number, within(0, 1)] = 0.5


@dataclass(frozen=True)
class Network:
    """``size``: side of the grid, 128 (paper), 64 or 32; or its cells along x, y and z, each divisible by
    2^(levels - 1). ``growth``: how a new level begins, "random"
    (paper) or "carry" (see ``growth``). ``correlated``: levels, 0 the finest, that see the images'
    correlation (none in the paper). ``output``: "finest" (paper) or "composed" (its section IV-F).
    """

    width: Count = 8
    levels: Count = 5
    size: Size = 128
    norm: Annotated[str, one_of(*NORMS)] = "renorm"
    momentum: Number = 0.01
    growth: Annotated[str, one_of("random", "carry")] = "random"
    correlated: Wholes = ()
    output: Annotated[str, one_of("finest", "composed")] = "finest"


@dataclass(frozen=True)
class Phases:
    """One way of writing the schedule: ``baseline``; ``plateau`` and ``transition`` per level; or eq.
    2's tau, Delta, delta.

    ``Delta`` and ``delta`` may be single numbers (then tau follows the paper) or lists. ``iterations``: when
    training ends.
    """

    iterations: Count = 21000
    baseline: Flag = False
    plateau: Numbers | None = None
    transition: Numbers | None = None
    Delta: PerLevel | None = None
    delta: PerLevel | None = None
    tau: Numbers | None = None


@dataclass(frozen=True)
class Optimiser:
    """``learning_rate`` and ``final_learning_rate``: one number, or one per level (coarsest first).

    ``loss``: "squared" (eq. 4) or "distance", see ``losses.weighted_loss``.
    """

    name: Annotated[str, one_of("adam", "sgd")] = "adam"
    loss: Annotated[str, one_of(*LOSSES)] = "squared"
    learning_rate: PerLevel = 1e-3
    final_learning_rate: PerLevel | None = None
    warmup: Whole = 0
    momentum: Number = 0.5
    weight_decay: Number = 0.0
    clip: Number = 0.0
    ema: Annotated[Number, within(0, 1, end=False)] = 0.999


@dataclass(frozen=True)
class Hardware:
    """Handed to Lightning Fabric. ``precision`` "auto": bfloat16 where the device multiplies it natively,
    else 16-bit mixed on a GPU of NVIDIA's, and float32 on others and on a CPU.

    ``workers``: processes that make samples on the CPU; 0: a thread of the training, where it trains.
    """

    accelerator: str = "auto"
    devices: Anything = 1
    nodes: Whole = 1
    precision: str = "auto"
    threads: Whole = 0
    prefetch: Flag = True
    workers: NotNegative = 0


@dataclass(frozen=True)
class ValidationPair:
    """A real pair with landmarks. ``exclude``: labels of landmarks to leave out. ``translate``:
    mm added to the moving frame."""

    name: str
    fixed: str
    moving: str
    landmarks: str
    exclude: Texts = ()


@dataclass(frozen=True)
class Validation:
    every: Whole = 250
    samples: Whole = 4
    pairs: Annotated[tuple[ValidationPair, ...], LIST] = ()


@dataclass(frozen=True)
class Output:
    """``checkpoint_every``, ``snapshot_every``, ``log_every``, ``pictures_every`` in iterations; 0 = never.

    ``mirror``: a second place for the last checkpoint, in a folder of the run's name.
    """

    folder: str = "../runs"
    checkpoint_minutes: Number = 5.0
    checkpoint_every: Whole = 0
    keep: Whole = 2
    snapshot_every: Whole = 0
    log_every: Whole = 10
    pictures_every: Whole = 1000
    mirror: str | None = None


@dataclass(frozen=True)
class Config:
    """Everything that defines a run.

    ``training``: "supervised" (paper) or "unsupervised" (its section IV-F), by ``similarity``.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    name: str
    seed: Whole = 0
    training: Annotated[str, one_of("supervised", "unsupervised")] = "supervised"
    data: Annotated[Data, DEFAULTS] = field(default_factory=Data)
    network: Annotated[Network, DEFAULTS] = field(default_factory=Network)
    schedule: Annotated[Phases, DEFAULTS] = field(default_factory=Phases)
    optimiser: Annotated[Optimiser, DEFAULTS] = field(default_factory=Optimiser)
    sampling: Annotated[Sampling, DEFAULTS] = field(default_factory=Sampling)
    similarity: Annotated[Similarity, DEFAULTS] = field(default_factory=Similarity)
    hardware: Annotated[Hardware, DEFAULTS] = field(default_factory=Hardware)
    validation: Annotated[Validation, DEFAULTS] = field(default_factory=Validation)
    output: Annotated[Output, DEFAULTS] = field(default_factory=Output)
    folder: Annotated[Path, Strict()] = Path()  # of the file; no key of it

    def path(self, text: str) -> Path:
        """A path of the configuration, relative to its file."""
        path = Path(text).expanduser()
        return path if path.is_absolute() else (self.folder / path)

    @property
    def run_folder(self) -> Path:
        return self.path(self.output.folder) / self.name

    @property
    def mirror_folder(self) -> Path | None:
        """Where the last checkpoint is copied to;
        never that of another run that this one takes its settings from."""
        if not self.output.mirror:
            return None
        folder = self.path(self.output.mirror)
        return folder if folder.name == self.name else folder / self.name

    def build_schedule(self) -> Schedule:
        """The schedule; raises InputError if it is impossible."""
        levels, phases = self.network.levels, self.schedule
        if phases.baseline:
            return Schedule.baseline(levels)
        if phases.plateau is not None or phases.transition is not None:
            if phases.Delta is not None or phases.delta is not None or phases.tau is not None:
                raise InputError(
                    "Give the schedule either as plateau and transition or as Delta, delta and tau, not both."
                )
            if phases.plateau is None or phases.transition is None:
                raise InputError("The schedule needs both plateau and transition.")
            plateau, transition = phases.plateau, phases.transition
            if len(plateau) != levels:
                raise InputError(
                    f"schedule.plateau needs {levels} numbers, one per level; got {len(plateau)}."
                )
            return Schedule.stages(plateau, transition)
        Delta = 6000 if phases.Delta is None else phases.Delta
        delta = 2000 if phases.delta is None else phases.delta
        if phases.tau is None and not isinstance(Delta, tuple) and not isinstance(delta, tuple):
            return Schedule.paper(Delta, delta, levels)
        lists = [_per_level(v, levels, f"schedule.{k}") for v, k in ((Delta, "Delta"), (delta, "delta"))]
        if phases.tau is None:
            raise InputError("A schedule with a Delta or delta per level needs tau too, one per level.")
        return Schedule(_per_level(phases.tau, levels, "schedule.tau"), *lists).checked()

    def build_learning_rate(self) -> LearningRate:
        options, levels = self.optimiser, self.network.levels
        start = _per_level(options.learning_rate, levels, "optimiser.learning_rate")
        end = start
        if options.final_learning_rate is not None:
            end = _per_level(options.final_learning_rate, levels, "optimiser.final_learning_rate")
        return LearningRate(start, end, options.warmup)

    def checked(self) -> Config:
        """Itself; raises InputError for values that cannot work."""
        self.build_schedule()
        rate = self.build_learning_rate()
        # As in a study: below 4^3 there is no image left to see motion in.
        self._check_size()
        levels = self.network.levels
        if any(not 0 < level < levels for level in self.network.correlated):
            raise InputError(
                f"network.correlated must hold levels from 1 (0 is the finest) to {levels - 1}; got "
                f"{list(self.network.correlated)}."
            )
        if self.network.output == "composed" and self.network.growth == "carry":
            raise InputError(
                "network.growth must be random where network.output is composed: a carried level would move "
                "everything twice."
            )
        if self.data.pairs and self.training == "supervised":
            raise InputError("data.pairs have no known displacements: set training to unsupervised.")
        if min(*rate.start, *rate.end) <= 0:
            raise InputError("optimiser.learning_rate must be positive.")
        if set(self.sampling.table) != {"t1", "t21", "t22"}:
            raise InputError("sampling.table needs exactly the transforms t1, t21 and t22.")
        if not self.data.window[0] < self.data.window[1]:
            low, high = self.data.window
            raise InputError(f"data.window must rise, as in [-1000, -100]; got [{low:g}, {high:g}].")
        if modes := self.sampling.breathing_modes:  # samples are made where nobody knows of this file
            return replace(self, sampling=replace(self.sampling, breathing_modes=str(self.path(modes))))
        return self

    def _check_size(self) -> None:
        size, levels = self.network.size, self.network.levels
        one = isinstance(size, int)
        sides = (size,) * 3 if isinstance(size, int) else size
        if one and size not in (32, 64, 128):
            raise InputError(
                f"network.size must be 32, 64 or 128, or three numbers, as in [{size}, {size}, {size}]; got "
                f"{size}."
            )
        if min(sides) >> (levels - 1) < 4:
            most = min(sides).bit_length() - 2
            what = f"{size}^3" if one else " x ".join(map(str, sides))
            raise InputError(f"network.levels must be at most {most}, for the {what} grid; got {levels}.")
        # Levels but the finest two are fed from a grid of half as many cells.
        part = 2 ** max(1, levels - 1)
        if any(n % part for n in sides):
            raise InputError(
                f"network.size must be divisible by {part} along each axis, for {levels} levels; got {size}."
            )
        if not one and self.training == "unsupervised":
            raise InputError("network.size must be 32, 64 or 128 where training is unsupervised.")

    def architecture(self) -> dict[str, Any]:
        """What a checkpoint must share with a configuration that continues it."""
        size = self.network.size
        found: dict[str, Any] = {"width": self.network.width, "levels": self.network.levels}
        found["size"] = size if isinstance(size, int) else list(size)
        if self.network.correlated:
            found["correlated"] = list(self.network.correlated)
        if self.network.output != "finest":
            found["output"] = self.network.output
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; paths as they were written."""
        out = dataclasses.asdict(self)
        del out["folder"]
        return json.loads(json.dumps(out))


def _per_level(value: float | tuple[float, ...], levels: int, key: str) -> tuple[float, ...]:
    values = value if isinstance(value, tuple) else (value,) * levels
    if len(values) != levels:
        raise InputError(f"{key} needs one number, or {levels}: one per level; got {len(values)}.")
    return values


def _checked(values: Any, where: str, folder: Path) -> Config:
    config = dataclasses.replace(read(Config, values, where), folder=folder)
    try:
        return config.checked()
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def config_from_dict(values: Mapping[str, Any], folder: Path | None = None) -> Config:
    """What ``Config.to_dict`` gave, as a configuration again."""
    return _checked(values, "The stored configuration", folder or Path())


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` over ``base``: sections are merged key by key, anything else is replaced."""
    out = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merge(out[key], value) if both else value
    return out


# Settings that decide what is learned, but for those below them; schedule, hardware and outputs may change on
# the way.
LEARNED = (
    "seed",
    "training",
    "data.train",
    "data.pairs",
    "data.pair_share",
    "data.hold_out",
    "data.window",
    "network",
    "optimiser",
    "sampling",
    "similarity",
)
NOT_LEARNED = ("optimiser.learning_rate", "optimiser.final_learning_rate", "optimiser.warmup")


def changed_settings(config: Config, stored: Mapping[str, Any]) -> list[str]:
    """Keys whose values decide what is learned and differ from ``stored``, what ``Config.to_dict`` once gave.

    A key that was not known then had its default of today.
    """
    if not stored:
        return []
    before, now = _flat(merge(Config("").to_dict(), stored)), _flat(config.to_dict())
    changed = [key for key, value in now.items() if before.get(key) != value]
    return [key for key in changed if _is_below(key, LEARNED) and not _is_below(key, NOT_LEARNED)]


def _is_below(key: str, sections: tuple[str, ...]) -> bool:
    return any(f"{key}.".startswith(f"{section}.") for section in sections)


def _flat(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Nested sections as one mapping, with keys like "data.train"."""
    out = {}
    for key, value in values.items():
        out.update(_flat(value, f"{where}{key}.") if isinstance(value, Mapping) else {where + key: value})
    return out


def _read_yaml(path: Path, depth: int = 0) -> Any:
    """The values of a file over those of its ``base``, a file beside it."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The configuration {path} cannot be read: {error.strerror or error}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" near line {mark.line + 1}" if mark else ""
        raise InputError(f"The configuration {path} is not valid YAML{line}.") from error
    if not isinstance(values, Mapping) or "base" not in values:
        return values
    if depth > 8:
        raise InputError(f"The configuration {path} has a base that comes back to itself.")
    if not isinstance(values["base"], str):
        raise InputError(f"The configuration {path}: base must be the name of a file beside it.")
    values = dict(values)
    base = _read_yaml(path.parent / values.pop("base"), depth + 1)
    # A run is not its base: it gets the name of its own file.
    return merge({k: v for k, v in dict(base or {}).items() if k != "name"}, values)


def read_config(path: str | Path) -> Config:
    """Read and check a YAML configuration; raises InputError with one sentence for anything wrong.

    ``base: other.yaml`` takes over what another file says; sections are merged key by key.
    """
    path = Path(path)
    values = _read_yaml(path)
    if isinstance(values, Mapping):
        values = {"name": path.stem, **values}
    return _checked(values, str(path), path.parent.resolve())
