"""What the process keeps of its memory, counted in the pages that the system had to hand out; what its
threads spend while they wait."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
from ProgressiveRegistrationLib import memory

COUNT = """
import resource, sys
import numpy as np
from ProgressiveRegistrationLib.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(3):
    np.full(50_000_000, 1.0, np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.full(50_000_000, 1.0, np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

WAITING = """
import ProgressiveRegistrationLib
import time
import numpy as np
a = np.ones((400, 400))
spent = 0.0
for _ in range(20):
    a @ a
    began = time.process_time()
    time.sleep(0.05)
    spent += time.process_time() - began
print(spent)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator has these settings")
def test_freed_memory_is_used_again():
    def faults(how: str) -> int:
        run = subprocess.run(
            [sys.executable, "-c", COUNT, how], capture_output=True, encoding="utf-8", check=True
        )
        return int(run.stdout)

    assert faults("keep") < 0.05 * faults("as it is")


def test_elsewhere_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False


def test_what_imports_make_is_not_searched_for_garbage():
    code = (
        "import gc, sys; from ProgressiveRegistrationLib.memory import collect_seldom\n"
        "if sys.argv[1] == 'seldom': collect_seldom()\n"
        "import xml.dom.minidom, email.message, unittest, decimal, typing, asyncio\n"
        "kept = [[i] for i in range(60_000)]\n"
        "print(sum(g['collections'] for g in gc.get_stats()))"
    )

    def collections(how: str) -> int:
        run = subprocess.run(
            [sys.executable, "-c", code, how], capture_output=True, encoding="utf-8", check=True
        )
        return int(run.stdout)

    assert collections("seldom") < 0.5 * collections("as it is")


def test_numpys_threads_sleep_while_they_wait(monkeypatch):
    """As OpenBLAS comes they spin: 0.05 CPU seconds in these pauses, on two cores."""
    for name in ("OPENBLAS_NUM_THREADS", "OPENBLAS_THREAD_TIMEOUT", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    run = subprocess.run([sys.executable, "-c", WAITING], capture_output=True, encoding="utf-8", check=True)
    assert float(run.stdout) < 0.02
