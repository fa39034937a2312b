"""What a run leaves behind while it trains: JSON lines, TensorBoard, a progress bar."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from ProgressiveRegistrationLib.errors import OutputError

if TYPE_CHECKING:
    from .config import Config
    from .trainer import Trainer


class Log:
    """Writes ``metrics.jsonl`` and TensorBoard events into the run's folder; process 0 only.

    Raises OutputError when they cannot be begun; later a full disk is no reason to stop, and is only told.
    """

    def __init__(self, config: Config, active: bool, progress: bool, first: int, end: int) -> None:
        self.active, self.every = active, max(1, config.output.log_every)
        self.file = self.board = self.bar = None
        self._loss = self._zero = self._seconds = 0.0
        self._count = 0
        self._failing = False
        if not active:
            return
        from torch.utils.tensorboard import SummaryWriter

        folder = config.run_folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.file = open(folder / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first)
        except OSError as error:
            raise OutputError(
                f"The log cannot be written into {folder}: {error.strerror or error}."
            ) from error
        if progress:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            )
            self.bar.start()
            self.task = self.bar.add_task("training", total=end, completed=first)

    def step(self, trainer: Trainer, t: int, loss: float, zero: float, seconds: float) -> None:
        """Count an iteration; every so many, write their mean."""
        if not self.active:
            return
        self._loss += loss
        self._zero += zero
        self._seconds += seconds
        self._count += 1
        if self.bar:
            self.bar.update(self.task, completed=t + 1, description=f"loss {loss:8.2f}")
        if (t + 1) % self.every:
            return
        n = self._count
        values = {
            "loss": self._loss / n,
            "zero_loss": self._zero / n,
            "seconds_per_iteration": self._seconds / n,
            "learning_rate": trainer.rates.at(trainer.schedule, t, trainer.total),
        }
        alpha = trainer.schedule.alpha(t)
        self._write(trainer, {"kind": "train", "iteration": t + 1, **values, "alpha": alpha})
        scalars = {f"train/{name}": value for name, value in values.items()}
        scalars.update({f"alpha/{trainer.plain.side(level)}": a for level, a in enumerate(alpha)})
        self._show(trainer, scalars, t + 1)
        self._loss = self._zero = self._seconds = 0.0
        self._count = 0

    def validation(self, trainer: Trainer, result: dict) -> None:
        """Write and print a validation."""
        if not self.active:
            return
        self._write(trainer, {"kind": "validation", **result})
        scalars = {f"validation/{name}": value for name, value in result.items() if name.endswith("_mm")}
        self._show(trainer, scalars, result["iteration"])
        figures = ", ".join(f"{k} {v:.2f}" for k, v in result.items() if k.endswith("_mm"))
        trainer.report(
            f"iteration {result['iteration']} (level {result['level']}, {result['seconds']:.0f} s): {figures}"
        )

    def pictures(self, trainer: Trainer) -> None:
        """Level maps (paper, Fig. 7) and an overlay of a held-out pair, or of a training one when there is none."""
        if not self.board:
            return
        import torch

        from .pictures import level_maps
        from .trainer import image_side

        alpha = trainer.schedule.alpha(trainer.iteration - 1)
        side = image_side(trainer.plain.side(trainer.schedule.finest(trainer.iteration - 1)))
        stream = trainer.stream if trainer.held_out is None else trainer.held_out
        sample = stream.sample(0, side, side, scan=0)
        images = sample.images.to(trainer.fabric.device, memory_format=torch.channels_last_3d)
        with torch.no_grad(), trainer.fabric.autocast():
            fields = trainer.average.level_outputs(images, alpha)
            total = trainer.average(images, alpha)
        figure = level_maps(sample, fields, total, trainer.iteration)
        self._show(trainer, {"levels": figure}, trainer.iteration)

    def _write(self, trainer: Trainer, values: dict) -> None:
        try:
            self.file.write(json.dumps(values) + "\n")
            self.file.flush()
            self._failing = False
        except OSError as error:
            # Some lines wait in memory, and are written once there is room.
            if not self._failing:
                trainer.report(
                    f"Warning: {self.file.name} cannot be written at iteration {trainer.iteration}: "
                    f"{error.strerror or error}."
                )
            self._failing = True

    def _show(self, trainer: Trainer, entries: dict, iteration: int) -> None:
        """Scalars and figures for TensorBoard, whose writer does not work again once it has failed."""
        if not self.board:
            return
        try:
            for name, value in entries.items():
                add = self.board.add_scalar if isinstance(value, (int, float)) else self.board.add_figure
                add(name, value, iteration)
        except OSError as error:
            trainer.report(
                f"Warning: nothing more for TensorBoard from iteration {iteration} on: {error.strerror or error}."
            )
            self.board = None

    def close(self) -> None:
        if self.bar:
            self.bar.stop()
        for output in (self.file, self.board):
            # What could not be written was told.
            with contextlib.suppress(OSError):
                if output:
                    output.close()
