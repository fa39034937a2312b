"""The script that registers pairs inside Slicer: run as the application runs it,
on the stand-in application, and by plain Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from batch_helpers import ENGINE, HERE, options, statuses, write_table
from small_pair import write_small_pair

SCRIPT = ENGINE / "Scripts" / "register_pairs.py"
# What "Slicer --no-main-window --python-script" does: the application is there, the script is executed as
# __main__ with the arguments that follow it, and slicer.util.exit asks the application for an exit code.
APPLICATION = """
import runpy, sys
from types import SimpleNamespace
HIDDEN
import slicer_harness
slicer_harness.install()
import slicer
codes = []
slicer.app.commandOptions = lambda: SimpleNamespace(runPythonAndExit=True)
slicer.app.exit = codes.append
sys.argv = [sys.argv[1], "--", *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
assert len(codes) == 1
sys.exit(codes[0])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_small_pair(tmp_path_factory.mktemp("pair"))


def in_slicer(*arguments, hidden: str = "") -> subprocess.CompletedProcess:
    pytest.importorskip("slicer")
    pytest.importorskip("PySide6")
    code = f"import sys; sys.path.insert(0, {str(HERE)!r})\n" + APPLICATION.replace("HIDDEN", hidden)
    command = [sys.executable, "-c", code, SCRIPT, *arguments]
    return subprocess.run(
        [str(a) for a in command], capture_output=True, text=True, encoding="utf-8", check=False
    )


def test_slicer_and_plain_python_do_the_same(folder, tmp_path):
    table, out = write_table(tmp_path / "pairs.csv", folder, "ab"), tmp_path / "out"
    ran = in_slicer(table, "-o", out, *options(folder))
    assert ran.returncode == 0, ran.stderr
    assert "2 of 2 pairs done, 0 failed" in ran.stdout
    assert statuses(out) == {"a": "done", "b": "done"}
    assert (
        json.loads((out / "a" / "report.json").read_text(encoding="utf-8"))["tre_mm"]["after"]["mean"] < 0.05
    )
    # Goes on in the folder that Slicer began.
    table.write_text(table.read_text(encoding="utf-8").replace("fixed.nrrd", "nothing.nrrd", 1))
    command = [sys.executable, SCRIPT, table, "-o", out, *options(folder)]
    ran = subprocess.run(
        [str(a) for a in command], capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, check=False
    )
    assert ran.returncode == 8, ran.stderr
    assert "[1/2] a: failed: " in ran.stderr
    assert "[2/2] b: done before" in ran.stderr


def test_without_torch_slicer_is_told_the_command_to_run(folder, tmp_path):
    table, out = write_table(tmp_path / "pairs.csv", folder, "a"), tmp_path / "out"
    ran = in_slicer(table, "-o", out, *options(folder), hidden="sys.modules['torch'] = None")
    assert ran.returncode == 1
    assert 'PythonSlicer -m pip install "torch>=' in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not out.exists()


def test_fault_in_the_program_ends_slicer_with_its_traceback(tmp_path):
    """An exception that leaves the script would keep a Slicer without windows open for ever."""
    hidden = """
def fault(*_):
    raise ValueError("surprise")
sys.modules["ProgressiveRegistrationLib.batch.command"] = SimpleNamespace(main=fault)
"""
    ran = in_slicer(tmp_path / "pairs.csv", "-o", tmp_path / "out", hidden=hidden)
    assert ran.returncode == 1
    assert "Traceback" in ran.stderr
    assert "ValueError: surprise" in ran.stderr
    assert "assert len(codes) == 1" not in ran.stderr


def test_without_dask_the_command_to_run_names_slicers_python(tmp_path):
    folder = tmp_path / "Program Files"
    folder.mkdir()
    python = folder / "PythonSlicer"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    code = f"""
import os, runpy, sys
os.environ["PATH"] = {str(folder)!r}
runpy.run_path({str(SCRIPT)!r})["prepare_workers"]()
sys.modules["distributed"] = None
from ProgressiveRegistrationLib.batch.pair import BatchOptions
from ProgressiveRegistrationLib.batch.pools import make_pool
with make_pool(2, None, BatchOptions()):
    pass
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert f'install it: "{python}" -m pip install dask distributed' in ran.stderr


def test_worker_processes_of_slicer_run_its_python(tmp_path):
    """multiprocessing would start the application itself again."""
    code = f"""
import multiprocessing.spawn, os, runpy, sys
os.environ["PATH"] = {str(tmp_path)!r}
module = runpy.run_path({str(SCRIPT)!r})
module["prepare_workers"]()
path = os.environ["PYTHONPATH"].split(os.pathsep)[0]
print(os.fsdecode(multiprocessing.spawn.get_executable()), path, sep="|")
"""
    python = tmp_path / "PythonSlicer"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert ran.stdout.strip() == f"{python}|{ENGINE}"
