"""The training loop, on Lightning Fabric: one sample an iteration and process (paper, section II-F)."""

from __future__ import annotations

import copy
import json
import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from ProgressiveRegistrationLib.errors import (
    InputError,
    ModelError,
    OutputError,
    ProgressiveRegistrationError,
)
from ProgressiveRegistrationLib.files import write_text
from ProgressiveRegistrationLib.network.model import find_card
from ProgressiveRegistrationLib.network.unet import channels_last

from . import checkpoint
from .cache import ScanStore, scan_name
from .config import Config, Optimiser, changed_settings, config_from_dict
from .dataset import prepare_data
from .feed import READERS, Draws, from_processes, from_threads
from .growth import carry
from .hardware import build_fabric, sampling_device, scan_memory
from .inherit import inherit
from .logs import Log
from .losses import EVALUATION_SIDE, lung_error, weighted_loss
from .network import ProgressiveUNet, grid_shape, image_side, pool_to, predict_field
from .pairs import prepare_pair, prepare_unlabelled
from .phantoms import PhantomStore
from .samples import Sample, SampleStream
from .unsupervised import dissimilarity, unsupervised_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROWTH_SAMPLES = 4
LEAST_RESERVE = 10.0  # seconds before a deadline, for an iteration and the last checkpoint


class TrainingStopped(ProgressiveRegistrationError):
    """Training cannot go on; the last good checkpoint is kept."""


class Trainer:
    """One run of a configuration: ``Trainer(config).run(resume=True)``."""

    def __init__(self, config: Config, report: Callable[[str], None] = print, progress: bool = False) -> None:
        self.config, self._report, self._show_progress = config, report, progress
        self.schedule = config.build_schedule()
        self.rates = config.build_learning_rate()
        self.total = config.schedule.iterations
        if config.sampling.generator == "gryds" and find_spec("gryds") is None:
            raise InputError(
                "sampling.generator is gryds, which is not installed: pip install gryds, or choose fast."
            )
        self.fabric, self.precision = build_fabric(config.hardware)
        self.stop_reason = ""
        self.deadline, self._reserve = math.inf, LEAST_RESERVE
        # What the weights were trained on, for the model card; None: an older checkpoint does not tell.
        self.scans: list[str] | None = []
        # The model that the weights began as, if any.
        self.begun_with: dict | None = None

    def report(self, text: str) -> None:
        if self.fabric.is_global_zero:
            try:
                self._report(text)
            except OSError:
                # Often into a file on the disk that is full, or to a terminal that is gone: no reason to
                # stop.
                pass

    # Building -----------------------------------------------------------------------------------------------

    def _open_data(self) -> None:
        config = self.config
        cache = config.path(config.data.cache)
        # One process prepares; the others find everything prepared, or what is wrong.
        if not self.fabric.is_global_zero:
            self.fabric.barrier()
        try:
            folders, held_out = prepare_data(config, self.report)
            options = config.sampling.augmentation
            phantoms = None
            device = sampling_device(self.fabric.device, config.hardware.workers)
            if options.phantom_share:
                phantoms = PhantomStore(
                    cache / "phantoms", options.phantoms, config.data.window, self.report, device=device
                )
        finally:
            if self.fabric.is_global_zero:
                self.fabric.barrier()
        memory = scan_memory(device, config.data.memory_gb)
        store = ScanStore(folders, config.data.window, memory, device)
        pairs = [prepare_unlabelled(config, p) for p in config.data.pairs]
        _, shape = grid_shape(config.network.size)
        self.stream = SampleStream(
            store, config.sampling, config.seed, "train", phantoms, pairs, config.data.pair_share, shape
        )
        self.scans = sorted(map(scan_name, folders)) + [
            f.name for f in (phantoms.folders if phantoms else ())
        ]
        self.scans += [p.name for p in pairs]
        self.held_out = None
        if held_out:
            store = ScanStore(held_out, config.data.window, config.data.memory_gb, device)
            self.held_out = SampleStream.held_out(store, config.sampling, shape=shape)
        self.pairs = (
            [prepare_pair(config, p) for p in config.validation.pairs] if self.fabric.is_global_zero else []
        )

    def _build_network(self) -> None:
        options = self.config.network
        network = ProgressiveUNet(
            options.width,
            options.levels,
            options.size,
            options.norm,
            options.momentum,
            self.config.seed,
            options.correlated,
            options.output == "composed",
        )
        self.average = copy.deepcopy(network).eval()
        # Before the optimiser is built, which must know the parameters where they are.
        network = channels_last(network, self.fabric.device)
        self.average = channels_last(self.average, self.fabric.device)
        chosen = self.config.optimiser
        if chosen.name == "sgd":
            optimiser: torch.optim.Optimizer = torch.optim.SGD(
                network.parameters(), 1.0, momentum=chosen.momentum, weight_decay=chosen.weight_decay
            )
        else:
            optimiser = torch.optim.AdamW(
                network.parameters(), 1.0, weight_decay=chosen.weight_decay, fused=True
            )
        self.network, self.optimiser = self.fabric.setup(network, optimiser)
        self.plain = network
        pairs = list(zip(self.average.state_dict().values(), network.state_dict().values()))
        self._averaged = [p for p in pairs if p[1].is_floating_point()]
        self._counted = [p for p in pairs if not p[1].is_floating_point()]
        sides = [network.side(level) for level in range(options.levels)]
        self.draws = Draws(self.stream, self.schedule, sides, self.fabric.world_size, self.fabric.global_rank)
        self.iteration, self.seconds = 0, 0.0
        self.history: list[dict] = []
        self.steps = [0] * options.levels

    # Checkpoints --------------------------------------------------------------------------------------------

    @property
    def checkpoint_folder(self) -> Path:
        return self.config.run_folder / "checkpoints"

    def _optimiser_tensors(self) -> dict[str, torch.Tensor]:
        names = {id(p): n for n, p in self.plain.named_parameters()}
        inner = getattr(self.optimiser, "_optimizer", self.optimiser)
        return {
            f"{names[id(p)]}|{key}": value if torch.is_tensor(value) else torch.tensor(float(value))
            for p, entries in inner.state.items()
            if id(p) in names
            for key, value in entries.items()
            if value is not None
        }

    def save(self) -> Path | None:
        """Write a checkpoint (process 0); raises OutputError,
        after which the earlier checkpoints still stand."""
        if not self.fabric.is_global_zero:
            return None
        folder = self.checkpoint_folder
        path = checkpoint.checkpoint_path(folder, self.iteration)
        state = {
            "format": 1,
            "iteration": self.iteration,
            "seconds": self.seconds,
            "architecture": self.config.architecture(),
            "alpha": self.schedule.alpha(max(0, self.iteration - 1)),
            "config": self.config.to_dict(),
            "history": self.history[-400:],
            "steps": self.steps,
            "scans": self.scans,
            "begun_with": self.begun_with,
        }
        groups = {
            "network": self.plain.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self._optimiser_tensors(),
        }
        if not all(bool(torch.isfinite(t).all()) for t in groups["network"].values()):
            raise TrainingStopped(
                f"The weights are not finite at iteration {self.iteration}; {self._last_good()}"
            )
        began = time.monotonic()
        checkpoint.save(path, groups, state)
        self._reserve = max(self._reserve, LEAST_RESERVE + 2 * (time.monotonic() - began))
        checkpoint.prune(folder, self.config.output.keep)
        if self.config.mirror_folder:
            checkpoint.mirror(path, self.config.mirror_folder)
        return path

    def _last_good(self) -> str:
        found = checkpoint.checkpoints(self.checkpoint_folder)
        return f"the last good checkpoint is {found[-1]}." if found else "there is no checkpoint yet."

    def load(self, path: Path, new_run: bool = False) -> None:
        """Continue from a checkpoint; only a ``new_run`` may use another optimiser,
        whose state then begins anew.

        Raises ModelError for another architecture or a damaged file, InputError for another optimiser.
        """
        groups, state = checkpoint.load(path)
        checkpoint.check_architecture(state, self.config.architecture(), path)
        changed = changed_settings(self.config, state.get("config", {}))
        if "optimiser.name" in changed:
            if not new_run:
                before = state["config"].get("optimiser", {}).get("name", Optimiser.name)
                raise InputError(
                    f"The checkpoint {path} was trained with optimiser.name {before} instead of "
                    f"{self.config.optimiser.name}: change it back, or begin another run with --start-from."
                )
            groups["optimiser"] = {}
        if changed:
            self.report(
                f"Warning: the checkpoint {path} was trained with other values of {', '.join(changed)}."
            )
        try:
            self.plain.load_state_dict(groups["network"])
            self.average.load_state_dict(groups["average"])
        except (KeyError, RuntimeError) as error:
            raise ModelError(f"The checkpoint {path} does not fit the configured network.") from error
        inner = getattr(self.optimiser, "_optimizer", self.optimiser)
        parameters = dict(self.plain.named_parameters())
        inner.state.clear()
        for key, value in groups.get("optimiser", {}).items():
            name, entry = key.split("|")
            parameter = parameters[name]
            # Fused Adam counts its steps beside the parameter; the rest has the parameter's layout.
            value = value.to(parameter.device)
            if value.ndim == 5:
                value = value.to(memory_format=torch.channels_last_3d)
            inner.state.setdefault(parameter, {})[entry] = value
        self.iteration, self.seconds = int(state["iteration"]), float(state["seconds"])
        self.history = list(state.get("history", []))
        self.begun_with = state.get("begun_with")
        self._take_over_record(state, changed)

    def _begin_with(self, model: str) -> None:
        """Take over the weights of an exported model, see ``inherit``."""
        card = find_card(model)
        # On a copy: moving the network itself would leave its average with tensors that are no longer its.
        network = copy.deepcopy(self.plain).to("cpu")
        inherit(network, card, self.stream)
        self.plain.load_state_dict(network.state_dict())
        self.average.load_state_dict(network.state_dict())
        self.begun_with = {
            "name": card.name,
            "version": card.version,
            "sha256": card.sha256,
            "training_steps": card.training_steps,
            "training_hours": card.extra.get("training_hours"),
        }
        self.report(f"Starting with the weights of {card.name} {card.version}")

    def _take_over_record(self, state: dict, changed: list[str]) -> None:
        """Add what a checkpoint's weights were trained on to this run's record;
        older ones must be guessed at."""
        if "steps" in state:
            self.steps = list(state["steps"])
        else:
            try:
                schedule = config_from_dict(state["config"]).build_schedule()
            except (KeyError, InputError):
                schedule = self.schedule
            self.steps = schedule.steps(self.iteration)
        # A checkpoint without a record was trained on these scans too, unless the configuration has changed.
        same = not any(key in ("data.train", "data.hold_out") or "phantom" in key for key in changed)
        now, before = self.scans, state.get("scans", self.scans if same and state.get("config") else None)
        known = before is not None and now is not None
        self.scans = sorted((Counter[str](before) | Counter[str](now)).elements()) if known else None

    # Running ------------------------------------------------------------------------------------------------

    def run(
        self,
        resume: bool = False,
        start_from: Path | None = None,
        until: int | None = None,
        deadline: float = math.inf,
    ) -> int:
        """Train to the end of the schedule (or to ``until``); returns the iteration reached.

        ``resume``: from the run's latest checkpoint. ``start_from``: begin this run with another
        checkpoint, or with the weights of a model (a name, or a card's path); then iterations count from 0.
        ``deadline``: by ``time.monotonic()``; training stops so that its checkpoint is written by then.
        """
        self.deadline = deadline
        self.fabric.launch()
        found = checkpoint.checkpoints(self.checkpoint_folder)
        if found and not resume:
            raise InputError(
                f"The run {self.config.run_folder} exists already: add --resume to continue it, or give the "
                "configuration another name."
            )
        # Before the scans are prepared, which may take hours.
        checkpoint.make_folder(self.config.run_folder)
        self._open_data()
        self._build_network()
        if resume and found:
            self.load(found[-1])
            self.report(f"Continuing at iteration {self.iteration} from {found[-1]}")
        elif start_from is not None and start_from.suffix != checkpoint.ENDING:
            self._begin_with(str(start_from))
        elif start_from is not None:
            self.load(start_from, new_run=True)
            self.report(f"Starting at iteration {self.iteration} from {start_from}")
        for text in self.schedule.warnings(self.total):
            self.report(f"Warning: {text}")
        if self.fabric.is_global_zero:
            write_text(self.config.run_folder / "config.json", json.dumps(self.config.to_dict(), indent=1))
        previous = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                previous[number] = signal.signal(number, self._on_signal)
            except ValueError:  # not the main thread
                pass
        try:
            self._loop(min(self.total, until or self.total))
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self.iteration

    def _stopping(self) -> bool:
        """Was a signal received, or is the time over but for writing a checkpoint?"""
        if not self.stop_reason and time.monotonic() + self._reserve > self.deadline:
            self.stop_reason = "the time that it was given is over; --resume goes on"
        return bool(self.stop_reason)

    def _on_signal(self, number: int, _frame: object) -> None:
        self.stop_reason = "signal received"

    def _anywhere(self, flag: bool) -> bool:
        """Is it so in any process? All must ask together:
        one that stops alone leaves the others waiting for it."""
        if self.fabric.world_size == 1:
            return flag
        found = torch.tensor(float(flag), device=self.fabric.device)
        return bool(cast(torch.Tensor, self.fabric.all_reduce(found, reduce_op="max")) > 0)

    def _loop(self, end: int) -> None:
        log = Log(
            self.config, self.fabric.is_global_zero, self._show_progress, self.iteration, end, self.report
        )
        self.plain.train()
        try:
            with self._samples(end) as samples:
                self._iterate(samples, end, log)
            self.save()
        finally:
            log.close()

    def _draw(self, iteration: int) -> Sample:
        return self.draws[iteration]

    def _samples(self, end: int) -> AbstractContextManager[Iterator[Sample]]:
        """The samples from here to ``end``, made ahead."""
        hardware = self.config.hardware
        if hardware.workers:
            return from_processes(self.draws, self.iteration, end, hardware.workers)
        on_cpu = self.stream.store.device.type == "cpu"
        return from_threads(self._draw, self.iteration, end, hardware.prefetch * (1 if on_cpu else READERS))

    def _iterate(self, samples: Iterator[Sample], end: int, log: Log) -> None:
        output = self.config.output
        last_save = time.monotonic()
        while self.iteration < end:
            began = time.monotonic()
            t = self.iteration
            loss, zero = self._step(t, next(samples))
            self.iteration += 1
            self.steps[self.schedule.finest(t)] += 1
            taken = time.monotonic() - began
            self.seconds += taken
            self._reserve = max(self._reserve, LEAST_RESERVE + 2 * taken)
            log.step(t, loss, zero, taken, self.rates.at(self.schedule, t, self.total), self._weights(t))
            if output.snapshot_every and self.iteration % output.snapshot_every == 0:
                self._or_warn("snapshot", self._snapshot)
            # Who stops training, often with a deadline, does not wait for what is only to be looked at.
            stopping = self._anywhere(self._stopping())
            if not stopping:
                self._look(log)
                due = output.checkpoint_every and self.iteration % output.checkpoint_every == 0
                if due or time.monotonic() - last_save > 60 * output.checkpoint_minutes:
                    self._or_warn("checkpoint", self.save)
                    last_save = time.monotonic()
                stopping = self._anywhere(self._stopping())
            if stopping:
                reason = self.stop_reason or "another process stops"
                self.report(f"Stopping after iteration {self.iteration}: {reason}.")
                break

    def _look(self, log: Log) -> None:
        """Validation and pictures, where they are due."""
        every, pictures = self.config.validation.every, self.config.output.pictures_every
        if every and self.iteration % every == 0:
            result = self.validate()
            if result:
                self.history.append(result)
                log.validation(result)
        if pictures and self.iteration % pictures == 0 and not self.stop_reason and log.board:
            log.figure("levels", self._level_maps(), self.iteration)

    def _level_maps(self) -> Figure:
        """Level maps (paper, Fig. 7) and an overlay of a held-out pair,
        or of a training one when there is none."""
        from .pictures import level_maps

        alpha = self.schedule.alpha(self.iteration - 1)
        side = image_side(self.plain.side(self.schedule.finest(self.iteration - 1)), self.plain.size)
        stream = self.stream if self.held_out is None else self.held_out
        sample = stream.sample(0, side, side, scan=0).to(torch.device("cpu"))
        images = sample.images.to(self.fabric.device, memory_format=torch.channels_last_3d)
        with torch.no_grad(), self.fabric.autocast():
            fields = self.average.level_outputs(images, alpha)
            total = self.average(images, alpha)
        return level_maps(sample, fields, total, self.iteration)

    def _or_warn(self, what: str, write: Callable[[], object]) -> None:
        """Write in passing: a full disk must not end a run of days,
        and what was written before still stands."""
        try:
            write()
        except OutputError as error:
            self.report(f"Warning: no {what} at iteration {self.iteration}: {error}")
        except TrainingStopped:
            # The last save says it again, when no other process waits for this one.
            self.stop_reason = "the weights are not finite"

    def _weights(self, t: int) -> dict[int, float]:
        """alpha at an iteration, by the levels' sides."""
        return {self.plain.side(level): a for level, a in enumerate(self.schedule.alpha(t))}

    def _grow(self, t: int) -> None:
        """At the first iteration of a level, let it begin where the level below stands, if so configured."""
        level = self.schedule.finest(t)
        if self.config.network.growth != "carry" or t == 0 or self.schedule.finest(t - 1) == level:
            return
        side = self.plain.side(level)
        # The same samples in every process, so that all grow alike.
        images = [
            self.stream.sample(10**9 + 100 * t + k, image_side(side, self.plain.size), 8).images
            for k in range(GROWTH_SAMPLES)
        ]
        images = [i.to(self.fabric.device, memory_format=torch.channels_last_3d) for i in images]
        with self.fabric.autocast():
            carry(self.plain, level, images, self.schedule.alpha(t))
        self.average.load_state_dict(self.plain.state_dict())

    def _step(self, t: int, sample: Sample) -> tuple[float, float]:
        """One iteration; returns the loss and what a zero field would have."""
        self._grow(t)
        alpha = self.schedule.alpha(t)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rates.at(self.schedule, t, self.total)
        sample = sample.to(self.fabric.device)
        images = sample.images.contiguous(memory_format=torch.channels_last_3d)
        target, weight = sample.target, sample.weight
        predicted = self.network(images, alpha)
        if self.config.training == "unsupervised":
            loss = unsupervised_loss(predicted.float(), images, weight, self.config.similarity)
            with torch.no_grad():
                unmoved = dissimilarity(images, None, weight, self.config.similarity)
        else:
            kind = self.config.optimiser.loss
            loss = weighted_loss(predicted.float(), target, weight, kind)
            unmoved = weighted_loss(torch.zeros_like(target), target, weight, kind)
        both = torch.stack([loss.detach(), unmoved])
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        if self.config.optimiser.clip:
            self.fabric.clip_gradients(
                self.network, self.optimiser, max_norm=self.config.optimiser.clip, error_if_nonfinite=False
            )
        self.optimiser.step()
        self._update_average(t)
        # Last and at once: for this a GPU is waited for.
        value, zero = both.tolist()
        finite = math.isfinite(value)
        if self._anywhere(not finite):
            what = "loss of another process is not finite" if finite else f"loss is {value}"
            raise TrainingStopped(f"The {what} at iteration {t}: training stopped; {self._last_good()}")
        return value, zero

    @torch.no_grad()
    def _update_average(self, t: int) -> None:
        """Exponential average of weights and running statistics; it begins anew with each level."""
        first, _ = self.schedule.span(self.schedule.phase(t), self.total)
        done = t - first
        decay = min(self.config.optimiser.ema, (1 + done) / (10 + done))
        torch._foreach_lerp_([a for a, _ in self._averaged], [w for _, w in self._averaged], 1 - decay)
        if self._counted:
            torch._foreach_copy_([a for a, _ in self._counted], [n for _, n in self._counted])

    def _snapshot(self) -> None:
        """The averaged weights in half precision, for evaluation later (paper, section III-A)."""
        if self.fabric.is_global_zero:
            folder = self.config.run_folder / "snapshots"
            half = {k: v.half() if v.is_floating_point() else v for k, v in self.average.state_dict().items()}
            state = {
                "iteration": self.iteration,
                "architecture": self.config.architecture(),
                "alpha": self.schedule.alpha(self.iteration - 1),
            }
            checkpoint.save(checkpoint.checkpoint_path(folder, self.iteration), {"average": half}, state)

    @torch.no_grad()
    def predict(self, images: torch.Tensor, side: int, iteration: int | None = None) -> torch.Tensor:
        """The averaged network's field (1, 3, side, side, side) for images,
        at the weights of an iteration."""
        alpha = self.schedule.alpha(self.iteration - 1 if iteration is None else iteration)
        images = images.to(self.fabric.device, memory_format=torch.channels_last_3d)
        with self.fabric.autocast():
            return predict_field(self.average, images, alpha, side)

    @torch.no_grad()
    def validate(self) -> dict | None:
        """Held-out error inside the lung, mm, on a fixed list of deformations,
        and TRE on the configured pairs.

        None when a signal comes meanwhile (a mean over fewer would be another figure), and in processes but
        the first.
        """
        if not self.fabric.is_global_zero:
            return None
        finest = self.plain.side(self.schedule.finest(self.iteration - 1))
        result: dict = {"iteration": self.iteration, "level": finest, "seconds": round(self.seconds, 1)}
        if self.held_out is not None:
            errors, zeros = [], []
            scans = len(self.held_out.store)
            for number in range(self.config.validation.samples * scans):
                if self._stopping():
                    return None
                sample = self.held_out.sample(
                    number, image_side(finest, self.plain.size), EVALUATION_SIDE, scan=number % scans
                )
                field = self.predict(sample.images, max(EVALUATION_SIDE, finest))
                error, zero = lung_error(pool_to(field, self.plain.cells(EVALUATION_SIDE)), sample)
                errors.append(error)
                zeros.append(zero)
            result.update({"lung_error_mm": float(np.mean(errors)), "zero_field_mm": float(np.mean(zeros))})
        for pair in self.pairs:
            if self._stopping():
                return None
            side = image_side(finest, self.plain.size)
            images = pool_to(pair.images, self.plain.cells(side))
            result[f"tre_{pair.name}_mm"] = float(pair.tre(self.predict(images, 128)[0]).mean())
            result[f"before_{pair.name}_mm"] = float(pair.before.mean())
        return result
