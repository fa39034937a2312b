"""Tables of pairs for the batch's tests, and the batch in a process of
its own with gates (``batch_gates``)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENGINE = HERE.parent / "ProgressiveRegistration"


def options(folder: Path) -> list[str]:
    """A network of known output, and small results."""
    model = ["--model", str(folder / "zero" / "zero.json"), "--preset", "fast", "--device", "cpu"]
    return [*model, "--no-report", "--transform-format", ".nrrd"]


def write_table(path: Path, folder: Path, ids: str) -> Path:
    """A row of the small pair for every letter."""
    lines = ["id,fixed,moving,fixed_landmarks,moving_landmarks"]
    names = ("fixed.nrrd", "moving.nii.gz", "fixed.mrk.json", "moving.csv")
    lines += [",".join([letter, *(str(folder / name) for name in names)]) for letter in ids]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def until(condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
    """Wait for a condition; a failure only when it never comes."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class Gates:
    """See ``batch_gates``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def close(self, letter: str) -> None:
        (self.folder / f"{letter}.closed").touch()

    def open(self, letter: str) -> None:
        (self.folder / f"{letter}.closed").unlink()

    def log(self, name: str) -> list[tuple[str, int, int]]:
        """(id, pid, threads) of each line that is complete."""
        path = self.folder / f"{name}.log"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        words = [line.split() for line in lines if line.endswith("\n")]
        return [(letter, int(pid), int(threads)) for letter, pid, threads in words]

    def begun(self) -> list[str]:
        return [line[0] for line in self.log("begun")]

    def worker_of(self, letter: str) -> int:
        """Waits until that pair is at work; returns the last process that began it."""
        until(lambda: letter in self.begun(), f"{letter} begins")
        return [pid for name, pid, _ in self.log("begun") if name == letter][-1]

    def environment(self, **more: str) -> dict[str, str]:
        paths = os.pathsep.join([str(HERE), str(ENGINE), os.environ.get("PYTHONPATH", "")])
        return {
            **os.environ,
            "PYTHONPATH": paths.rstrip(os.pathsep),
            "BATCH_GATES": str(self.folder),
            "DASK_DISTRIBUTED__WORKER__PRELOAD": "batch_gates",
            "OMP_NUM_THREADS": "1",
            **more,
        }


class Processes:
    """Processes that end with the test."""

    def __init__(self) -> None:
        self.all: list[subprocess.Popen] = []

    def start(self, arguments: list, environment: dict, **more) -> subprocess.Popen:
        process = subprocess.Popen([str(a) for a in arguments], env=environment, **more)
        self.all.append(process)
        return process

    def batch(self, gates: Gates, arguments: list, **environment: str) -> subprocess.Popen:
        """``progressive-registration batch``; without workers with the gates in its own process."""
        alone = not {"--workers", "--scheduler"} & set(arguments)
        code = (
            f"import sys{', batch_gates' * alone}; from ProgressiveRegistrationLib import cli; "
            "sys.exit(cli.main())"
        )
        return self.start(
            [sys.executable, "-c", code, "batch", *arguments],
            gates.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def stop(self) -> None:
        for process in self.all:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()


def end(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    out, err = process.communicate(timeout=400)
    return process.returncode, out, err


def statuses(output: Path) -> dict[str, str]:
    """What the records in the pairs' folders say."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(output.glob("*/record.json"))]
    return {record["id"]: record["status"] for record in records}


def leftovers(output: Path) -> list[Path]:
    return list(output.rglob(".writing-*"))
