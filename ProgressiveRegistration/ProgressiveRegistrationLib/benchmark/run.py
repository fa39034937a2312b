"""A benchmark from a table of pairs to ``benchmark.json``, ``benchmark.md`` and ``benchmark.html``."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..batch.table import BatchPair
from ..errors import ProgressiveRegistrationError
from ..files import write_text
from ..jobs import read_inputs
from ..lungs import find_lungs
from ..quality import quality_figures
from ..report.content import jsonable
from ..transforms import read_transform
from . import page
from .measure import measured
from .programs import Program

FORMAT = 1
TAIL_CHARACTERS = 400  # of what a failed program printed


def run_benchmark(
    pairs: list[BatchPair],
    programs: list[tuple[Program, str, str]],
    output: Path,
    *,
    threads: int,
    again: bool = False,
    notes: list[str] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run every program on every pair, one after the other; returns what ``benchmark.json`` holds.

    A run that is in the folder already, with the same version and threads, is not repeated unless ``again``.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / "benchmark.json"
    rows: list[dict[str, Any]] = []
    if path.is_file() and not again:
        rows = json.loads(path.read_text(encoding="utf-8"))["runs"]
    for pair in pairs:
        inputs = mask = None
        for program, python, version in programs:
            same = {"pair": pair.id, "program": program.name, "version": version, "threads": threads}
            if any(
                all(row[key] == value for key, value in same.items()) and not row["error"] for row in rows
            ):
                tell(f"{pair.id}, {program.name}: done before")
                continue
            if inputs is None:
                inputs = read_inputs(pair.files)
                mask = find_lungs(inputs.fixed, mask=inputs.fixed_mask, name=f"{pair.id}'s fixed image").mask
            tell(f"{pair.id}, {program.name} ...")
            row = {**same, "settings": program.settings, **_run(pair, program, python, threads, inputs, mask)}
            key = (pair.id, program.name)
            rows = [r for r in rows if (r["pair"], r["program"]) != key] + [row]
            tell(f"{pair.id}, {program.name}: {page.sentence(row)}")
            _write(path, rows, notes or [])
    return _write(path, rows, notes or [])


def _run(
    pair: BatchPair, program: Program, python: str, threads: int, inputs: Any, mask: Any
) -> dict[str, Any]:
    """Costs and figures of one run; ``error`` says why there are none."""
    folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
    try:
        log = folder / "log.txt"
        made = folder / "result"
        if program.preset is None:
            made.mkdir()
        cost = measured(program.command(python, pair.files, made, threads), log, threads)
        out: dict[str, Any] = {**asdict(cost), "error": None, "file_bytes": None, "figures": None}
        file = made / program.output
        if cost.exit_code != 0 or not file.is_file():
            said = log.read_text(encoding="utf-8", errors="replace").strip()[-TAIL_CHARACTERS:]
            out["error"] = f"ended with exit code {cost.exit_code} and no transform: {said}"
            return out
        out["file_bytes"] = file.stat().st_size
        try:
            figures = quality_figures(
                read_transform(file), inputs.fixed, lung_mask=mask, **inputs.landmarks.figures()
            )
        except ProgressiveRegistrationError as error:
            out["error"] = str(error)
            return out
        figures.pop("landmarks", None)
        out["figures"] = jsonable(figures)
        return out
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, rows: list[dict[str, Any]], notes: list[str]) -> dict[str, Any]:
    content = {"format": FORMAT, "machine": _machine(), "notes": notes, "runs": rows}
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    write_text(path.with_suffix(".md"), page.markdown(content))
    write_text(path.with_suffix(".html"), page.html(content))
    return content


def _machine() -> str:
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            found = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        name = found[0] if found else name
    except OSError:
        pass
    return f"{os.cpu_count()} CPUs, {name}, {platform.system()}"
