"""Cut, flipped and patched files: never a traceback, a crash, a hang or much memory.

``FUZZ_EXAMPLES=5000`` makes a long run of it (examples for each kind of file; 40 by itself). The counts are
printed at the end with ``pytest -s``.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from foreign_files import as_slicer_marks_it, ramp, write_enhanced, write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.landmarks import Landmarks, write_landmarks

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
LONGEST_S = 20.0
GRID = Grid((10, 9, 8), (1.5, 2.0, 2.5), (-20.0, 30.0, -100.0))
WORKER = Path(__file__).parents[1] / "fuzz_worker.py"
COUNTS: Counter[tuple[str, str]] = Counter()


class Worker:
    """A process that reads files; a new one when it dies."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None

    def ask(self, kind: str, path: Path) -> str:
        """``read``, ``refused``, or what went wrong."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
            assert self.process.stdout.readline().strip() == "ready"
        process = self.process
        process.stdin.write(f"{kind} {path}\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], LONGEST_S)[0]:
            self.stop()
            return f"fault: no answer in {LONGEST_S:.0f} s"
        answer = process.stdout.readline().strip()
        if not answer:
            code = process.wait()
            self.stop()
            return f"fault: the process died with {code}"
        return answer

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        self.process = None


@pytest.fixture(scope="module")
def worker():
    if not sys.platform.startswith("linux"):
        pytest.skip("the limit on memory is Linux's")
    worker = Worker()
    yield worker
    worker.stop()
    for (name, answer), count in sorted(COUNTS.items()):
        print(f"{name:14s} {answer:8s} {count}")


def make(name: str, folder: Path) -> tuple[str, Path, Path]:
    """What the program is to do, the path it is given, and the file in it that is damaged."""
    path = folder / name
    values = (np.arange(720).reshape(8, 9, 10) - 900).astype(np.int16)
    vectors = np.random.default_rng(0).normal(size=(8, 9, 10, 3)).astype(np.float32)
    points = Landmarks(np.arange(12.0).reshape(4, 3), list("abcd"))
    if name.startswith("field") and name.endswith((".h5", ".tfm")):
        transform = sitk.DisplacementFieldTransform(GRID.image(vectors.astype(float)))
        if "inverse" in name:
            as_slicer_marks_it(path, transform, "DisplacementField")
        else:
            sitk.WriteTransform(transform, str(path))
        return "field", path, path
    if name.startswith("field"):
        sitk.WriteImage(GRID.image(vectors), str(path))
        return "field", path, path
    if name == "series":
        write_series(path, ramp(9, 5, 4), 2.5 * np.arange(9))
        return "image", path, path / "I0004.dcm"
    if name == "enhanced.dcm":
        write_enhanced(path, ramp(9, 5, 4), list(2.5 * np.arange(9)))
        return "image", path, path
    if name.endswith((".json", ".csv", ".fcsv")):
        write_landmarks(points, path)
        return "points", path, path
    sitk.WriteImage(GRID.image(values), str(path), "packed" in name)
    return "image", path, path.with_suffix(".raw") if name == "voxels.mhd" else path


NAMES = [
    "plain.nrrd",
    "packed.nrrd",
    "plain.mha",
    "packed.mha",
    "header.mhd",
    "plain.nii",
    "packed.nii.gz",
    "pair.hdr",
    "series",
    "enhanced.dcm",
    "field.nrrd",
    "field.nii",
    "field.h5",
    "field.tfm",
    "field-inverse.h5",
    "field-inverse.tfm",
    "points.mrk.json",
    "points.csv",
    "points.fcsv",
]
place = st.one_of(st.integers(0, 360), st.integers(0, 1 << 16))  # headers more often than the rest
change = st.one_of(
    st.tuples(st.just("cut"), st.integers(0, 1 << 16)),
    st.tuples(st.just("flip"), place, st.integers(0, 7)),
    st.tuples(st.just("byte"), place, st.sampled_from([0, 1, 32, 45, 57, 127, 128, 255])),
    st.tuples(st.just("four"), place, st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31), 10**6, 0x7FC00000])),
    st.tuples(
        st.just("number"), st.integers(0, 40), st.sampled_from(["0", "-1", "1000000", "1e308", "nan", "x"])
    ),
    st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("remove"), place, st.integers(1, 64)),
)


def damaged(data: bytes, changes: list[tuple]) -> bytes:
    out = bytearray(data)
    for what, where, *more in changes:
        at = where % max(1, len(out))
        if what == "cut":
            del out[at:]
        elif what == "flip" and out:
            out[at] ^= 1 << more[0]
        elif what == "byte" and out:
            out[at] = more[0]
        elif what == "four":
            out[at : at + 4] = (more[0] & 0xFFFFFFFF).to_bytes(4, "little")
        elif what == "insert":
            out[at:at] = more[0]
        elif what == "remove":
            del out[at : at + more[0]]
        elif what == "number":
            found = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(out[:4096])))
            if found:
                match = found[where % len(found)]
                out[match.start() : match.end()] = more[0].encode()
    return bytes(out)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_read_or_refused_in_a_sentence(worker, tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("fuzz")
    kind, path, file = make(name, folder)
    whole = file.read_bytes()
    assert worker.ask(kind, path) == "read"

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(change, min_size=1, max_size=4))
    def never_a_fault(changes: list[tuple]) -> None:
        file.write_bytes(damaged(whole, changes))
        answer = worker.ask(kind, path)
        COUNTS[name, answer.split()[0]] += 1
        assert answer in ("read", "refused"), json.dumps([repr(c) for c in changes]) + answer

    never_a_fault()
    shutil.rmtree(folder)
