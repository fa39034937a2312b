"""The benchmark: what a process costs; programs found and left out; table, plot and page."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import SimpleITK as sitk
from ProgressiveRegistrationLib.batch.table import read_pairs
from ProgressiveRegistrationLib.benchmark import page, programs
from ProgressiveRegistrationLib.benchmark.measure import measured
from ProgressiveRegistrationLib.benchmark.run import run_benchmark
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.options import PairFiles
from ProgressiveRegistrationLib.report.charts import cost_accuracy_svg

GRID = Grid((24, 22, 20), (10.0, 10.0, 12.0), (-115.0, -105.0, -114.0))
SHIFT = (0.0, 0.0, 6.0)
# Stands in for a peer: writes the true shift, or fails, or writes no transform.
STAND_IN = """
import sys, SimpleITK as sitk
name, fixed, moving, output = sys.argv[1:5]
if name == "greedy":
    sys.exit("no licence to register")
if name != "ants":
    sitk.WriteTransform(sitk.TranslationTransform(3, (0.0, 0.0, 6.0)), output)
"""


@pytest.fixture
def pair(tmp_path) -> Path:
    """A made-up chest and the same 6 mm higher, with landmarks; gives the table."""
    points = GRID.points()
    for name, shift in (("fixed", (0.0, 0.0, 0.0)), ("moving", SHIFT)):
        at = points - np.asarray(shift, np.float32)
        hu = np.where((at[..., :2] ** 2).sum(-1) < 95**2, 40.0, -1000.0)
        for x in (-45.0, 45.0):
            lung = (((at - [x, 0.0, 0.0]) / [32.0, 50.0, 75.0]) ** 2).sum(-1) < 1
            hu = np.where(lung, -850.0 + 60 * np.sin(at[..., 2] / 9), hu)
        sitk.WriteImage(GRID.image(hu.astype(np.int16)), str(tmp_path / f"{name}.nrrd"))
        mask = (hu < -700) & ((at[..., :2] ** 2).sum(-1) < 95**2)
        sitk.WriteImage(GRID.image(mask.astype(np.uint8)), str(tmp_path / f"{name}_lungs.nrrd"))
        where = np.array([(-45, 0, 20), (45, 5, -30), (40, -10, 10)]) + shift
        rows = "\n".join(f"{n},{x},{y},{z}" for n, (x, y, z) in enumerate(where.tolist()))
        (tmp_path / f"{name}.csv").write_text(f"label,x_lps,y_lps,z_lps\n{rows}\n", encoding="utf-8")
    table = tmp_path / "pairs.csv"
    table.write_text(
        "id,fixed,moving,fixed_landmarks,moving_landmarks,fixed_mask\n"
        "chest,fixed.nrrd,moving.nrrd,fixed.csv,moving.csv,fixed_lungs.nrrd\n",
        encoding="utf-8",
    )
    return table


def stand_ins(tmp_path, monkeypatch) -> list:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN, encoding="utf-8")
    monkeypatch.setattr(programs, "PEER", script)
    names = ("elastix", "greedy", "ants", "convexadam")
    peers = (replace(programs.PROGRAMS[name], output="transform.h5") for name in names)
    return [(peer, sys.executable, "1.0") for peer in peers]


def test_a_process_costs_what_it_uses_its_children_included(tmp_path):
    work = "import time\nt = time.process_time()\nwhile time.process_time() - t < 0.4: pass\n"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {work!r}])\n"
    parent += "x = bytearray(200_000_000)\n"
    cost = measured([sys.executable, "-c", parent + work], tmp_path / "log", 1)
    assert cost.exit_code == 0
    assert 0.8 <= cost.cpu_seconds < 2.5
    assert 200e6 < cost.memory_bytes < 1e9


def test_peers_are_measured_and_failures_are_told(pair, tmp_path, monkeypatch):
    table, _ = read_pairs(pair)
    said: list[str] = []
    out = tmp_path / "out"
    peers = stand_ins(tmp_path, monkeypatch)
    options = {"threads": 1, "notes": ["A note."], "tell": said.append}
    content = run_benchmark(table, peers, out, **options)
    assert json.loads((out / "benchmark.json").read_text(encoding="utf-8")) == content
    rows = {row["program"]: row for row in content["runs"]}
    assert rows["elastix"]["figures"]["tre_mm"]["before"]["mean"] == pytest.approx(6.0)
    assert rows["elastix"]["figures"]["tre_mm"]["after"]["mean"] == pytest.approx(0.0, abs=1e-6)
    assert rows["elastix"]["figures"]["folding"]["lung_percent"] == 0
    assert rows["elastix"]["file_bytes"] > 100
    assert "no licence to register" in rows["greedy"]["error"]
    assert "no transform" in rows["ants"]["error"]
    text = (out / "benchmark.md").read_text(encoding="utf-8")
    assert "| elastix | 0.00 ± 0.00 | 0.00 | 0.0000 |" in text
    assert "| greedy | failed |" in text
    html = (out / "benchmark.html").read_text(encoding="utf-8")
    assert "A note." in html
    assert "no licence to register" in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    said.clear()
    run_benchmark(table, peers, out, **options)
    assert "chest, elastix: done before" in said
    assert not any("greedy: done before" in line for line in said)  # what failed is tried again


def test_what_is_not_installed_is_left_out_with_a_note_or_refused_when_asked_for(monkeypatch):
    monkeypatch.setattr(programs, "installed", lambda python: {"picsl-greedy": "1.2"})
    found, notes = programs.chosen([], None)
    assert [p.name for p, _, _ in found] == ["fast", "balanced", "accurate", "greedy"]
    assert any("elastix is not installed" in note for note in notes)
    with pytest.raises(InputError, match="pip install antspyx"):
        programs.chosen(["ants"], None)
    with pytest.raises(InputError, match="no program demons"):
        programs.chosen(["demons"], None)


def test_a_program_that_needs_weights_is_run_with_them_and_left_out_without(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "installed", lambda python: {"unigradicon": "1.0"})
    found, notes = programs.chosen([], None)
    assert "unigradicon" not in [p.name for p, _, _ in found]
    assert any("unigradicon needs its weights" in note for note in notes)
    with pytest.raises(InputError, match="--weights"):
        programs.chosen(["unigradicon"], None)
    weights = tmp_path / "weights.trch"
    with pytest.raises(InputError, match="do not exist"):
        programs.chosen(["unigradicon"], None, weights)
    weights.touch()
    [(program, python, _)], _ = programs.chosen(["unigradicon"], None, weights)
    command = program.command(python, PairFiles(Path("f.nrrd"), Path("m.nrrd")), tmp_path, 1)
    assert command[command.index("--weights") + 1] == str(weights)


def test_an_interpreter_that_does_not_run_is_told():
    assert set(programs.installed(sys.executable)) <= {p.package for p in programs.PROGRAMS.values()}
    with pytest.raises(InputError, match="does not run"):
        programs.installed("/no/such/python")


def test_the_plot_sets_cheap_to_the_left_and_accurate_below():
    svg = cost_accuracy_svg([("fast", 4.0, 2.1, True), ("elastix", 80.0, 1.3, False)])
    dots = ElementTree.fromstring(svg).findall("{http://www.w3.org/2000/svg}circle")
    (x1, y1), (x2, y2) = ((float(d.get("cx")), float(d.get("cy"))) for d in dots)
    assert x1 < x2
    assert y1 < y2  # SVG counts downwards: the larger error is higher up
    assert [d.get("fill") for d in dots] == ["#d9731a", "#2f7fc4"]


def test_names_lie_on_no_dot_and_no_other_name():
    near = [
        ("accurate", 14.7, 1.06),
        ("greedy", 18.5, 1.2),
        ("convexadam", 22.1, 1.1),
        ("elastix", 32.5, 1.09),
    ]
    svg = ElementTree.fromstring(cost_accuracy_svg([(*p, False) for p in near] + [("fast", 3.5, 2.2, True)]))
    dots = [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter("{http://www.w3.org/2000/svg}circle")]
    texts = [t for t in svg.iter("{http://www.w3.org/2000/svg}text") if t.text in [p[0] for p in near]]
    boxes = [(float(t.get("x")), float(t.get("y")) - 3.5, 3.2 * len(t.text)) for t in texts]
    assert len(boxes) == 4
    for k, (x, y, half) in enumerate(boxes):
        assert not [d for d in dots if abs(d[0] - x) < half and abs(d[1] - y) < 6]
        assert not [b for b in boxes[:k] if abs(b[0] - x) < half + b[2] and abs(b[1] - y) < 10]


def test_rows_stand_in_the_order_of_their_cost():
    def row(name: str, cpu: float) -> dict:
        error = {"mean": 1.0, "sd": 0.5, "p95": 2.0}
        figures = {"tre_mm": {"before": error, "after": error}, "folding": {"lung_percent": 0.0}}
        cost = {"cpu_seconds": cpu, "wall_seconds": cpu, "memory_bytes": 2**30, "file_bytes": 5_000_000}
        about = {"pair": "a", "program": name, "version": "1", "settings": "s", "error": None}
        return {**about, **cost, "figures": figures}

    content = {"machine": "m", "notes": [], "runs": [row("elastix", 80.0), row("fast", 4.0)]}
    assert [cells[0] for cells in page.tables(content)[0]["rows"]] == ["fast", "elastix"]
