"""What a process costs: CPU and wall seconds and peak memory, its children included."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
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


# Linux counts the memory of the process that starts another one as that one's, too: so a small one starts it.
LAUNCHER = """
import json, os, sys
process = os.spawnvp(os.P_NOWAIT, sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(process, 0)
with open(sys.argv[1], "w") as out:
    json.dump([os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss], out)
"""


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
    with tempfile.TemporaryDirectory() as folder, open(log, "wb") as out:
        usage = Path(folder) / "usage.json"
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", LAUNCHER, str(usage), *command],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            process.wait()
        except BaseException:  # Ctrl-C
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        exit_code, seconds, memory = json.loads(usage.read_text(encoding="utf-8"))
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return Cost(
        cpu_seconds=seconds,
        wall_seconds=time.perf_counter() - began,
        memory_bytes=memory * unit,
        exit_code=exit_code,
    )
