"""What a process costs: CPU and wall seconds and peak memory, its children included."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError


@dataclass(frozen=True)
class Cost:
    """cpu_seconds : user and system, children included. memory_bytes : the largest resident size."""

    cpu_seconds: float
    wall_seconds: float
    memory_bytes: int
    exit_code: int


def measured(command: list[str], log: Path, threads: int) -> Cost:
    """Run a command with so many threads and wait for it; what it prints goes to ``log``.

    Raises
    ------
    InputError : the system does not tell what a child costs (Windows).
    """
    if not hasattr(os, "wait4"):
        raise InputError(
            "This system does not tell what a process costs; run the benchmark on Linux or macOS."
        )
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads))}
    began = time.perf_counter()
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # Ctrl-C
            process.kill()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return Cost(
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        wall_seconds=time.perf_counter() - began,
        memory_bytes=usage.ru_maxrss * unit,
        exit_code=process.returncode,
    )
