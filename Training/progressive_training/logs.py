"""What a run leaves behind while it trains: JSON lines, TensorBoard, a progress bar."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import IO, TYPE_CHECKING

from ProgressiveRegistrationLib.errors import OutputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .config import Config


class Log:
    """Writes ``metrics.jsonl`` and TensorBoard events into the run's folder; process 0 only.

    Raises OutputError when they cannot be begun; later a full disk is no reason to stop, and is only told.
    """

    def __init__(
        self,
        config: Config,
        active: bool,
        progress: bool,
        first: int,
        end: int,
        report: Callable[[str], None] = print,
    ) -> None:
        self._report = report
        self.active, self.every = active, max(1, config.output.log_every)
        self.file: IO[str] | None = None
        self.board = self.bar = None
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

    def step(
        self, t: int, loss: float, zero: float, seconds: float, rate: float, alpha: dict[int, float]
    ) -> None:
        """Count iteration ``t``; every so many, write their mean. ``alpha``: weights by the levels' sides."""
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
            "learning_rate": rate,
        }
        self._write({"kind": "train", "iteration": t + 1, **values, "alpha": list(alpha.values())})
        scalars = {f"train/{name}": value for name, value in values.items()}
        scalars.update({f"alpha/{side}": a for side, a in alpha.items()})
        self._show(scalars, t + 1)
        self._loss = self._zero = self._seconds = 0.0
        self._count = 0

    def validation(self, result: dict) -> None:
        """Write and print a validation."""
        if not self.active:
            return
        self._write({"kind": "validation", **result})
        scalars = {f"validation/{name}": value for name, value in result.items() if name.endswith("_mm")}
        self._show(scalars, result["iteration"])
        figures = ", ".join(f"{k} {v:.2f}" for k, v in result.items() if k.endswith("_mm"))
        self._report(
            f"iteration {result['iteration']} (level {result['level']}, {result['seconds']:.0f} s): {figures}"
        )

    def figure(self, name: str, figure: Figure, iteration: int) -> None:
        """Show a figure in TensorBoard."""
        self._show({name: figure}, iteration)

    def _write(self, values: dict) -> None:
        if self.file is None:
            return
        try:
            self.file.write(json.dumps(values) + "\n")
            self.file.flush()
            self._failing = False
        except OSError as error:
            # Some lines wait in memory, and are written once there is room.
            if not self._failing:
                self._report(
                    f"Warning: {self.file.name} cannot be written at iteration {values['iteration']}: "
                    f"{error.strerror or error}."
                )
            self._failing = True

    def _show(self, entries: dict, iteration: int) -> None:
        """Scalars and figures for TensorBoard, whose writer does not work again once it has failed."""
        if not self.board:
            return
        try:
            for name, value in entries.items():
                add = self.board.add_scalar if isinstance(value, (int, float)) else self.board.add_figure
                add(name, value, iteration)
        except OSError as error:
            self._report(
                f"Warning: nothing more for TensorBoard from iteration {iteration} on: "
                f"{error.strerror or error}."
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
