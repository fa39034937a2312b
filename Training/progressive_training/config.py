"""A training run's configuration: a YAML file, checked key by key against these dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ProgressiveRegistrationLib.constants import WINDOW_HU
from ProgressiveRegistrationLib.errors import InputError

from .deformation import SplineSpec
from .losses import LOSSES
from .network import NORMS
from .samples import Augmentation, Sampling
from .schedule import LearningRate, Schedule
from .unsupervised import Similarity


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

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    hold_out: float = 0.0
    cache: str = "../cache"
    window: tuple[float, float] = WINDOW_HU
    memory_gb: float = 4.0
    training_data: Any = ()
    licence: str = ""
    pairs: tuple[TrainingPair, ...] = ()
    pair_share: float = 0.5


@dataclass(frozen=True)
class Network:
    """``size``: side of the grid, 128 (paper), 64 or 32; or its cells along x, y and z, each divisible by
    2^(levels - 1). ``growth``: how a new level begins, "random"
    (paper) or "carry" (see ``growth``). ``correlated``: levels, 0 the finest, that see the images'
    correlation (none in the paper). ``output``: "finest" (paper) or "composed" (its section IV-F).
    """

    width: int = 8
    levels: int = 5
    size: Any = 128
    norm: str = "renorm"
    momentum: float = 0.01
    growth: str = "random"
    correlated: tuple[int, ...] = ()
    output: str = "finest"


@dataclass(frozen=True)
class Phases:
    """One way of writing the schedule: ``baseline``; ``plateau`` and ``transition`` per level; or eq.
    2's tau, Delta, delta.

    ``Delta`` and ``delta`` may be single numbers (then tau follows the paper) or lists. ``iterations``: when
    training ends.
    """

    iterations: int = 21000
    baseline: bool = False
    plateau: tuple[float, ...] | None = None
    transition: tuple[float, ...] | None = None
    Delta: Any = None
    delta: Any = None
    tau: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Optimiser:
    """``learning_rate`` and ``final_learning_rate``: one number, or one per level (coarsest first).

    ``loss``: "squared" (eq. 4) or "distance", see ``losses.weighted_loss``.
    """

    name: str = "adam"
    loss: str = "squared"
    learning_rate: Any = 1e-3
    final_learning_rate: Any = None
    warmup: int = 0
    momentum: float = 0.5
    weight_decay: float = 0.0
    clip: float = 0.0
    ema: float = 0.999


@dataclass(frozen=True)
class Hardware:
    """Handed to Lightning Fabric. ``precision`` "auto": bfloat16 where there is it, else 16-bit mixed.

    ``workers``: processes that make samples on the CPU; 0: a thread of the training, where it trains.
    """

    accelerator: str = "auto"
    devices: Any = 1
    nodes: int = 1
    precision: str = "auto"
    threads: int = 0
    prefetch: bool = True
    workers: int = 0


@dataclass(frozen=True)
class Pair:
    """A real pair with landmarks. ``exclude``: labels of landmarks to leave out. ``translate``:
    mm added to the moving frame."""

    name: str
    fixed: str
    moving: str
    landmarks: str
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Validation:
    every: int = 250
    samples: int = 4
    pairs: tuple[Pair, ...] = ()


@dataclass(frozen=True)
class Output:
    """``checkpoint_every``, ``snapshot_every``, ``log_every``, ``pictures_every`` in iterations; 0 = never.

    ``mirror``: a second place for the last checkpoint, in a folder of the run's name.
    """

    folder: str = "../runs"
    checkpoint_minutes: float = 5.0
    checkpoint_every: int = 0
    keep: int = 2
    snapshot_every: int = 0
    log_every: int = 10
    pictures_every: int = 1000
    mirror: str | None = None


@dataclass(frozen=True)
class Config:
    """Everything that defines a run.

    ``training``: "supervised" (paper) or "unsupervised" (its section IV-F), by ``similarity``.
    """

    name: str
    seed: int = 0
    training: str = "supervised"
    data: Data = field(default_factory=Data)
    network: Network = field(default_factory=Network)
    schedule: Phases = field(default_factory=Phases)
    optimiser: Optimiser = field(default_factory=Optimiser)
    sampling: Sampling = field(default_factory=Sampling)
    similarity: Similarity = field(default_factory=Similarity)
    hardware: Hardware = field(default_factory=Hardware)
    validation: Validation = field(default_factory=Validation)
    output: Output = field(default_factory=Output)
    folder: Path = Path()

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
        if phases.iterations < 1:
            raise InputError(f"schedule.iterations must be at least 1; got {phases.iterations}.")
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
        if (
            phases.tau is None
            and not isinstance(Delta, (list, tuple))
            and not isinstance(delta, (list, tuple))
        ):
            return Schedule.paper(_number(Delta, "schedule.Delta"), _number(delta, "schedule.delta"), levels)
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
        choices = {
            "network.norm": (self.network.norm, NORMS),
            "training": (self.training, ("supervised", "unsupervised")),
            "similarity.measure": (self.similarity.measure, ("lncc", "mind")),
            "network.growth": (self.network.growth, ("random", "carry")),
            "network.output": (self.network.output, ("finest", "composed")),
            "optimiser.name": (self.optimiser.name, ("adam", "sgd")),
            "optimiser.loss": (self.optimiser.loss, tuple(LOSSES)),
            "sampling.generator": (self.sampling.generator, ("fast", "gryds")),
            "sampling.input": (self.sampling.input, ("gradient", "intensity")),
            "sampling.mask": (self.sampling.mask, ("body", "bore")),
            "sampling.mask_moved_with": (self.sampling.mask_moved_with, ("t1", "t1t2")),
        }
        for key, (value, allowed) in choices.items():
            if value not in allowed:
                raise InputError(f"{key} must be one of {', '.join(allowed)}; got {value!r}.")
        for key, value in (("network.width", self.network.width), ("network.levels", self.network.levels)):
            if value < 1:
                raise InputError(f"{key} must be at least 1; got {value}.")
        # As in a study: below 4^3 there is no image left to see motion in.
        self._check_size()
        levels = self.network.levels
        if any(not 0 < level < levels for level in self.network.correlated):
            raise InputError(
                f"network.correlated must hold levels from 1 (0 is the finest) to {levels - 1}; got "
                f"{list(self.network.correlated)}."
            )
        if self.hardware.workers < 0:
            raise InputError(f"hardware.workers must not be negative; got {self.hardware.workers}.")
        if self.network.output == "composed" and self.network.growth == "carry":
            raise InputError(
                "network.growth must be random where network.output is composed: a carried level would move "
                "everything twice."
            )
        if self.data.pairs and self.training == "supervised":
            raise InputError("data.pairs have no known displacements: set training to unsupervised.")
        if not 0 <= self.data.pair_share <= 1:
            raise InputError(f"data.pair_share must be in [0, 1]; got {self.data.pair_share}.")
        if self.similarity.radius < 1:
            raise InputError(f"similarity.radius must be at least 1; got {self.similarity.radius}.")
        if min(*rate.start, *rate.end) <= 0:
            raise InputError("optimiser.learning_rate must be positive.")
        if not 0 <= self.data.hold_out < 1:
            raise InputError(f"data.hold_out must be in [0, 1); got {self.data.hold_out}.")
        if not 0 <= self.optimiser.ema < 1:
            raise InputError(f"optimiser.ema must be in [0, 1); got {self.optimiser.ema}.")
        if set(self.sampling.table) != {"t1", "t21", "t22"}:
            raise InputError("sampling.table needs exactly the transforms t1, t21 and t22.")
        for name, spline in self.sampling.table.items():
            if spline.grid < 2:
                raise InputError(f"sampling.table.{name}.grid must be at least 2; got {spline.grid}.")
        if not self.data.window[0] < self.data.window[1]:
            low, high = self.data.window
            raise InputError(f"data.window must rise, as in [-1000, -100]; got [{low:g}, {high:g}].")
        _check_description(self.data.training_data)
        return self

    def _check_size(self) -> None:
        size, levels = self.network.size, self.network.levels
        one = isinstance(size, int) and not isinstance(size, bool)
        sides = (size,) * 3 if one else size
        if (
            not isinstance(sides, (list, tuple))
            or len(sides) != 3
            or not all(isinstance(n, int) and not isinstance(n, bool) for n in sides)
        ):
            raise InputError(
                f"network.size must be a whole number of cells, or three: along x, y and z; got {size!r}."
            )
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


def _number(value: Any, where: str) -> float:
    """A finite number, as YAML 1.1 reads it (1e-3 comes as text); raises InputError."""
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
        raise InputError(f"{where} must be a number; got {value!r}.")
    return number


def _check_description(entries: Any) -> None:
    """Raises InputError for what is no list of data sets; nothing at all (or "", as once in checkpoints)
    is one of none."""
    for entry in entries if isinstance(entries, tuple) else (entries,) if entries else ():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("scans", 0), int):
            raise InputError(
                f"data.training_data must be a list of {{name, licence, scans}}, scans a whole number; got "
                f"{entry!r}."
            )


def _per_level(value: Any, levels: int, key: str) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * levels
    if len(values) != levels:
        raise InputError(f"{key} needs one number, or {levels}: one per level; got {len(values)}.")
    return tuple(float(_number(v, key)) for v in values)


# Which fields hold other dataclasses.
_NESTED = {
    (Config, "data"): Data,
    (Config, "network"): Network,
    (Config, "schedule"): Phases,
    (Config, "optimiser"): Optimiser,
    (Config, "sampling"): Sampling,
    (Config, "similarity"): Similarity,
    (Config, "hardware"): Hardware,
    (Config, "validation"): Validation,
    (Config, "output"): Output,
    (Sampling, "augmentation"): Augmentation,
}

_LISTS = {(Validation, "pairs"): Pair, (Data, "pairs"): TrainingPair}


def _build(kind: type, values: Any, where: str) -> Any:
    """A dataclass from a mapping; raises InputError on unknown keys and wrong kinds of value."""
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must hold keys and values; got {values!r}.")
    fields = {f.name: f for f in dataclasses.fields(kind) if (kind, f.name) != (Config, "folder")}
    given = {}
    for key, value in values.items():
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it may hold {', '.join(fields)}."
            raise InputError(f"{where} has an unknown key {key!r}: {hint}")
        name = f"{where}: {key}"
        if (kind, key) in _NESTED:
            value = _build(_NESTED[kind, key], value, name)
        elif (kind, key) == (Sampling, "table"):
            if not isinstance(value, Mapping):
                raise InputError(f"{name} must hold keys and values; got {value!r}.")
            value = {k: _build(SplineSpec, v, f"{name}.{k}") for k, v in value.items()}
        elif (kind, key) in _LISTS:
            if not isinstance(value or (), (list, tuple)):
                raise InputError(f"{name} must be a list; got {value!r}.")
            value = tuple(_build(_LISTS[kind, key], v, name) for v in value or ())
        else:
            value = _plain(fields[key], value, name)
        given[key] = value
    try:
        return kind(**given)
    except TypeError as error:
        raise InputError(f"{where} is incomplete: {error}.") from error


def _plain(spec: dataclasses.Field, value: Any, where: str) -> Any:
    """A number, text, flag or tuple of the field's kind."""
    kind = str(spec.type)
    if kind == "Any" or (value is None and "None" in kind):
        return tuple(value) if isinstance(value, list) else value
    if kind.startswith("tuple"):
        if isinstance(value, (str, int, float)):
            value = [value]
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{where} must be a list; got {value!r}.")
        count = kind.count("float")
        if "..." not in kind and len(value) != count:
            raise InputError(f"{where} must be {count} numbers; got {list(value)}.")
        if "int" in kind:
            if any(not isinstance(v, int) or isinstance(v, bool) for v in value):
                raise InputError(f"{where} must be whole numbers; got {list(value)}.")
            return tuple(value)
        return tuple(str(v) if "str" in kind else _number(v, where) for v in value)
    if kind.startswith("bool"):
        wanted = bool
    elif kind.startswith("int"):
        wanted = int
    elif kind.startswith("float"):
        wanted = (int, float)
        if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
            try:
                value = float(value)
            except ValueError:
                pass
    else:
        wanted = str
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise InputError(f"{where} must be {kind}; got {value!r}.")
    return value


def config_from_dict(values: Mapping[str, Any], folder: Path | None = None) -> Config:
    """What ``Config.to_dict`` gave, as a configuration again."""
    config = _build(Config, values, "The stored configuration")
    return dataclasses.replace(config, folder=folder or Path()).checked()


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
    values = dict(values)
    base = _read_yaml(path.parent / str(values.pop("base")), depth + 1)
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
    config = _build(Config, values, str(path))
    return dataclasses.replace(config, folder=path.parent.resolve()).checked()
