"""Inputs are never written over, what killed runs left is cleared up, and output goes through any console."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk
from ProgressiveRegistrationLib.errors import OutputError
from ProgressiveRegistrationLib.files import replacing, staged_folder, write_text
from ProgressiveRegistrationLib.images import write_image
from small_pair import GRID, chest, landmark_options, model_options, pair, run, write_small_pair


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    return write_small_pair(tmp_path / "in")


def refused(ran: tuple[int, str, str], path: Path) -> None:
    assert ran[0] == 7, ran
    assert f"{path} cannot be written: it is an input of this run" in ran[2]


@pytest.mark.parametrize("link", [None, "folder", "file"])
def test_a_scan_called_like_a_result_is_not_replaced(capsys, folder, tmp_path, link):
    scan, output = folder / "warped.nrrd", folder
    os.rename(folder / "fixed.nrrd", scan)
    if link == "folder":
        output = tmp_path / "elsewhere"
        output.symlink_to(folder, target_is_directory=True)
    if link == "file":
        output = tmp_path / "other"
        output.mkdir()
        (output / "warped.nrrd").symlink_to(scan)
    before = scan.read_bytes()
    names = sorted(p.name for p in folder.iterdir())
    ran = run(capsys, "register", scan, folder / "moving.nii.gz", "-o", output, *model_options(folder))
    refused(ran, output / "warped.nrrd")
    assert scan.read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == names


def test_apply_and_evaluate_keep_their_inputs(capsys, folder):
    image, transform = folder / "fixed.nrrd", folder / "t.tfm"
    sitk.WriteTransform(sitk.TranslationTransform(3, (0, 0, 1)), str(transform))
    ran = run(capsys, "apply", transform, "--moving", image, "--reference", image, "-o", image)
    refused(ran, image)
    points = folder / "moving.csv"
    refused(run(capsys, "apply", transform, "--landmarks", points, "-o", points), points)
    report = folder / "report.json"
    os.rename(folder / "fixed.mrk.json", report)
    options = ["--fixed-landmarks", report, "--moving-landmarks", folder / "moving.csv"]
    ran = run(capsys, "evaluate", transform, "--fixed", image, *options, "-o", folder)
    refused(ran, report)
    assert json.loads(report.read_text(encoding="utf-8"))["markups"]


def test_a_result_may_replace_an_earlier_result(capsys, folder, tmp_path):
    for _ in range(2):
        options = [*model_options(folder), *landmark_options(folder), "--no-report"]
        assert run(capsys, "register", *pair(folder), "-o", tmp_path / "out", *options)[0] == 0


def test_a_phantom_replaces_phantoms_only(capsys, tmp_path, monkeypatch):
    out = tmp_path / "p"
    out.mkdir()
    (out / "fixed.nrrd").write_text("mine")
    ran = run(capsys, "phantom", "-o", out)
    assert ran[0] == 7
    assert "holds a fixed.nrrd that is not of an earlier run" in ran[2]
    assert [p.name for p in out.iterdir()] == ["fixed.nrrd"]
    assert (out / "fixed.nrrd").read_text(encoding="utf-8") == "mine"


def test_a_batch_keeps_its_table(capsys, folder):
    table = folder / "summary.csv"
    table.write_text("id,fixed,moving\na,fixed.nrrd,moving.nii.gz\n")
    ran = run(capsys, "batch", table, "-o", folder, "--model", folder / "zero" / "zero.json")
    refused(ran, table)


@pytest.mark.parametrize("link", [False, True])
def test_no_pair_of_a_batch_replaces_a_scan_of_another(capsys, folder, link):
    """Pair a would write a/warped.nrrd, which is the scan of pair b."""
    scan = folder / "a" / "warped.nrrd"
    scan.parent.mkdir()
    os.rename(folder / "fixed.nrrd", scan)
    named = scan
    if link:
        named = folder / "scan.nrrd"
        named.symlink_to(scan)
    before = scan.read_bytes()
    table = folder / "pairs.csv"
    table.write_text(f"id,fixed,moving\na,moving.nii.gz,moving.nii.gz\nb,moving.nii.gz,{named}\n")
    ran = run(capsys, "batch", table, "-o", folder, "--model", folder / "zero" / "zero.json")
    refused(ran, scan)
    assert scan.read_bytes() == before
    assert not (folder / "a" / "record.json").exists()  # nothing was begun


def test_a_pair_may_go_on_from_what_another_made(capsys, folder, tmp_path):
    table, out = folder / "pairs.csv", tmp_path / "out"
    table.write_text(f"id,fixed,moving\na,fixed.nrrd,moving.nii.gz\nb,fixed.nrrd,{out}/a/warped.nrrd\n")
    for _ in range(2):
        ran = run(capsys, "batch", table, "-o", out, *model_options(folder), "--no-report")
        assert ran[0] == 0, ran


@pytest.mark.parametrize("command", ["convert", "suggest", "ventilation"])
def test_the_other_commands_keep_their_inputs_too(capsys, folder, command):
    if command == "convert":
        kept = folder / "t.h5"
        sitk.WriteTransform(sitk.TranslationTransform(3, (0, 0, 1)), str(kept))
        options = [kept, "--fixed", folder / "fixed.nrrd", "-o", kept]
    elif command == "suggest":
        kept = folder / "lungs.csv"
        os.rename(folder / "fixed.nrrd", kept.with_suffix(".nrrd"))
        kept = kept.with_suffix(".nrrd")
        link = folder / "link.fcsv"
        link.symlink_to(kept)
        options, kept = [kept, "-o", link], link
    else:
        transform = folder / "t.tfm"
        sitk.WriteTransform(sitk.TranslationTransform(3, (0, 0, 1)), str(transform))
        kept = folder / "zones.nrrd"
        os.rename(folder / "fixed.nrrd", kept)
        options = [transform, "--fixed", kept, "--moving", folder / "moving.nii.gz", "-o", folder]
    before = kept.read_bytes()
    refused(run(capsys, command, *options), kept)
    assert kept.read_bytes() == before


def killed_in(code: str, place: Path) -> None:
    """A process that runs this code in a folder and dies at once, without any clearing up."""
    program = f"import os\nfrom ProgressiveRegistrationLib import files\n{code}\nos._exit(9)"
    done = subprocess.run([sys.executable, "-c", program], cwd=place, check=False)
    assert done.returncode == 9


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path):
    code = "c = files.staged_folder('out'); s = c.__enter__(); (s / 'half').write_text('x')"
    killed_in(code, tmp_path)
    killed_in("c = files.replacing('a.txt'); c.__enter__().write_text('x')", tmp_path)
    assert any(p.name.startswith(".writing-") for p in tmp_path.iterdir())
    with staged_folder(tmp_path / "new") as stage:
        (stage / "a").write_text("a")
        living = stage  # of a process that lives: this one
        with staged_folder(tmp_path / "newer") as second:
            (second / "b").write_text("b")
        assert living.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "newer"]


def test_what_a_killed_run_had_moved_away_comes_back(tmp_path):
    (tmp_path / "old.txt").write_text("old")
    code = (
        "o = files._own_folder('replaced', __import__('pathlib').Path('.')); os.replace('old.txt', o / "
        "'old.txt')"
    )
    killed_in(code, tmp_path)
    assert not (tmp_path / "old.txt").exists()
    write_text(tmp_path / "new.txt", "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.txt", "old.txt"]


def test_a_format_of_two_files_is_refused_and_not_half_written(tmp_path):
    for name in ("a.mhd", "a.nhdr", "a.hdr"):
        with pytest.raises(OutputError, match="would be two files"):
            write_image(GRID.image(chest()), tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    with replacing(tmp_path / "one.txt") as path:
        path.write_text("x")


@pytest.mark.parametrize("code", ["cp1252", "ascii"])
def test_a_report_goes_through_any_console(folder, tmp_path, code):
    named = folder / "Müller → 1.nrrd"
    os.rename(folder / "fixed.nrrd", named)
    command = [
        sys.executable,
        "-m",
        "ProgressiveRegistrationLib.cli",
        "register",
        named,
        folder / "moving.nii.gz",
    ]
    options = ["-o", tmp_path / "out", *model_options(folder), "--no-report", "-q", "--json"]
    environment = dict(os.environ, PYTHONIOENCODING=code, PYTHONUTF8="0")
    done = subprocess.run(
        [*map(str, command), *map(str, options)], capture_output=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode(code))["inputs"]["fixed"]["path"] == str(named)


@pytest.mark.parametrize("code", ["latin-1", "ascii"])
def test_ids_of_a_batch_go_through_any_console(folder, tmp_path, code):
    ids = ["Müller, Jörg 1.5", "日本"]
    table = folder / "pairs.csv"
    table.write_text(f'id,fixed,moving\n"{ids[0]}",no.nrrd,no.nrrd\n{ids[1]},no.nrrd,no.nrrd\n', "utf-8")
    command = [sys.executable, "-m", "ProgressiveRegistrationLib.cli", "batch", table]
    options = ["-o", tmp_path / "out", "--model", "none", "--json"]
    environment = dict(os.environ, PYTHONIOENCODING=code, PYTHONUTF8="0")
    done = subprocess.run(
        [*map(str, command), *map(str, options)], capture_output=True, env=environment, check=False
    )
    assert done.returncode == 8, done.stderr  # no such scans
    assert [row["id"] for row in json.loads(done.stdout.decode(code))["pairs"]] == ids


def test_a_reader_that_goes_away_makes_no_failure(folder, tmp_path):
    command = [sys.executable, "-m", "ProgressiveRegistrationLib.cli", "register", *pair(folder)]
    options = ["-o", tmp_path / "out", *model_options(folder), "--no-report", "-q", "--json"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*map(str, command), *map(str, options)], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.json").exists()
