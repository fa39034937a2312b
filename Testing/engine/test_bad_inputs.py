"""What users get wrong, and what machines do: one sentence, an exit code, and nothing written."""

from __future__ import annotations

import functools
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from ProgressiveRegistrationLib import cli, jobs, registration
from ProgressiveRegistrationLib.errors import Cancelled, OutputError
from ProgressiveRegistrationLib.files import staged_folder
from ProgressiveRegistrationLib.landmarks import Landmarks, read_landmarks, write_landmarks
from small_pair import (
    GRID,
    chest,
    fast_job,
    landmark_options,
    model_options,
    pair,
    run,
    write_small_pair,
    write_zero_model,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_small_pair(tmp_path_factory.mktemp("pair"))


def bad_image(name: str, path: Path, folder: Path) -> Path:
    """A file (or folder) that cannot be registered."""
    values = chest()
    target = path / f"{name}.nrrd"
    if name == "missing":
        return target
    if name == "truncated":
        data = (folder / "fixed.nrrd").read_bytes()
        target.write_bytes(data[: len(data) // 2])
        return target
    if name == "text":
        target.write_text("This is not an image.")
        return target
    if name == "empty":
        target.write_bytes(b"")
        return target
    if name == "empty_folder":
        (path / "dicom").mkdir()
        return path / "dicom"
    if name == "flat":
        image = GRID.image(values)[:, :, 20]
    elif name == "four":
        image = sitk.GetImageFromArray(np.stack([values[10:30]] * 2), isVector=False)
    elif name == "rgb":
        image = GRID.image(np.repeat(values[..., None] > 0, 3, -1).astype(np.uint8))
    elif name == "slice":
        image = GRID.image(values)[:, :, 20:21]
    elif name in ("nan", "inf"):
        values = values.astype(np.float32)
        values[3, 4, 5] = float(name)
        image = GRID.image(values)
    elif name == "constant":
        image = GRID.image(np.full_like(values, -1000))
    elif name == "no_lung":
        image = GRID.image(np.where(values < -500, np.where(np.abs(values + 850) < 1, 40, values), values))
    elif name == "mr":
        image = GRID.image(np.clip((values + 1000) // 2, 0, 600).astype(np.uint16))
    sitk.WriteImage(image, str(target))
    return target


BAD_IMAGES = {
    "missing": (3, "missing.nrrd"),
    "truncated": (3, "truncated.nrrd"),
    "text": (3, "text.nrrd"),
    "empty": (3, "empty.nrrd"),
    "empty_folder": (3, "dicom"),
    "flat": (3, "3D"),
    "four": (3, "time sequence of 2 volumes"),
    "rgb": (3, "rgb.nrrd"),
    "slice": (3, "slice"),
    "nan": (3, "finite"),
    "inf": (3, "finite"),
    "constant": (3, "constant.nrrd"),
    "no_lung": (4, "No lung"),
    "mr": (4, "Hounsfield"),
}


def assert_refused(ran: tuple[int, str, str], code: int, sentence: str) -> None:
    """One sentence on standard error, the exit code, nothing on standard output, no traceback."""
    assert ran[0] == code, ran
    assert ran[1] == ""
    lines = [line for line in ran[2].splitlines() if not re.match(r"\s*\d+ %", line)]
    assert len(lines) == 1, ran[2]
    assert sentence.lower() in lines[0].lower()
    assert "Traceback" not in ran[2]


# The moving image goes through the same code, so a few are enough.
SIDES = [("fixed", name) for name in BAD_IMAGES] + [
    ("moving", name) for name in ("missing", "nan", "no_lung")
]


@pytest.mark.parametrize(("side", "name"), SIDES)
def test_bad_images(capsys, folder, tmp_path, side, name):
    bad = bad_image(name, tmp_path, folder)
    images = [bad, pair(folder)[1]] if side == "fixed" else [pair(folder)[0], bad]
    before = sorted(tmp_path.rglob("*"))
    code, sentence = BAD_IMAGES[name]
    ran = run(capsys, "register", *images, "-o", tmp_path / "out", *model_options(folder))
    assert_refused(ran, code, sentence)
    assert str(bad) in ran[2]
    assert sorted(tmp_path.rglob("*")) == before


BAD_OPTIONS = [
    "different counts",
    "different names",
    "unreadable landmarks",
    "missing landmarks",
    "moving landmarks alone",
    "all outside",
    "unknown label",
    "unknown format",
    "unknown image format",
    "unknown preset",
    "bad boxes",
    "box inside out",
    "unknown device",
    "absent device",
    "unknown model",
    "empty mask",
    "mask elsewhere",
    "mask of colours",
    "output is a file",
    "output without parent",
    "output in a file",
]


def bad_options(folder: Path, tmp_path: Path) -> dict:
    """Name -> options, exit code and part of the sentence."""
    points = read_landmarks(folder / "fixed.mrk.json")
    write_landmarks(points.subset([0, 1]), tmp_path / "two.csv")
    write_landmarks(points.at(points.points + 5000), tmp_path / "away.csv")
    write_landmarks(Landmarks(points.points, list("abcx")), tmp_path / "other.csv")
    (tmp_path / "broken.mrk.json").write_text('{"markups": [')
    (tmp_path / "file").write_text("a file")
    sitk.WriteImage(GRID.image(np.zeros(GRID.shape, np.uint8)), str(tmp_path / "empty_mask.nrrd"))
    away = sitk.Image((20, 20, 20), sitk.sitkUInt8) + 1
    away.SetOrigin((5000.0, 0.0, 0.0))
    sitk.WriteImage(away, str(tmp_path / "away.nrrd"))
    sitk.WriteImage(GRID.image(np.ones((*GRID.shape, 3), np.uint8)), str(tmp_path / "colours.nrrd"))
    fixed = ["--fixed-landmarks", folder / "fixed.mrk.json"]
    return {
        "different counts": ([*fixed, "--moving-landmarks", tmp_path / "two.csv"], 3, "4 landmarks"),
        "different names": ([*fixed, "--moving-landmarks", tmp_path / "other.csv"], 3, "only some labels"),
        "unreadable landmarks": (["--fixed-landmarks", tmp_path / "broken.mrk.json"], 3, "broken.mrk.json"),
        "missing landmarks": (["--fixed-landmarks", tmp_path / "none.csv"], 3, "none.csv"),
        "moving landmarks alone": (["--moving-landmarks", folder / "moving.csv"], 3, "give both"),
        "all outside": ([*fixed, "--moving-landmarks", tmp_path / "away.csv"], 3, "outside the moving image"),
        "unknown label": ([*landmark_options(folder), "--exclude-landmark", "zz"], 3, "no landmark zz"),
        "unknown format": (["--transform-format", ".mat"], 3, ".mat"),
        "unknown image format": (["--image-format", ".jpg"], 3, ".jpg"),
        "unknown preset": (["--preset", "best"], 3, "best"),
        "bad boxes": (["--lung-boxes", "1,2,3"], 3, "own, shared"),
        "box inside out": (["--lung-boxes=9,9,9,1,1,1"], 3, "above its lower corner"),
        "unknown device": (["--device", "quantum"], 6, "quantum"),
        "absent device": (["--device", "cuda:77"], 6, "cuda:77"),
        "unknown model": (["--model", "no-such-model"], 5, "no-such-model"),
        "empty mask": (
            ["--fixed-mask", tmp_path / "empty_mask.nrrd"],
            4,
            "empty_mask.nrrd has no voxel above 0",
        ),
        "mask elsewhere": (["--moving-mask", tmp_path / "away.nrrd"], 3, "away.nrrd lies outside the image"),
        "mask of colours": (["--fixed-mask", tmp_path / "colours.nrrd"], 3, "colours.nrrd has 3 values"),
        "output is a file": (["-o", tmp_path / "file"], 7, "it is a file"),
        "output without parent": (["-o", tmp_path / "a" / "b"], 7, "no folder"),
        "output in a file": (["-o", tmp_path / "file" / "b"], 7, "no folder"),
    }


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options(capsys, folder, tmp_path, name):
    cases = bad_options(folder, tmp_path)
    assert list(cases) == BAD_OPTIONS
    options, code, sentence = cases[name]
    before = sorted(tmp_path.rglob("*"))
    output = [] if "-o" in options else ["-o", tmp_path / "out"]
    ran = run(capsys, "register", *pair(folder), *output, *model_options(folder), *options)
    assert_refused(ran, code, sentence)
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_transforms(capsys, folder, tmp_path):
    (tmp_path / "words.tfm").write_text("not a transform")
    (tmp_path / "words.nrrd").write_text("not a field")
    sitk.WriteTransform(sitk.AffineTransform(2), str(tmp_path / "flat.tfm"))
    cases = {
        "words.tfm": "words.tfm",
        "words.nrrd": "words.nrrd",
        "none.h5": "no transform file",
        "flat.tfm": "3D",
    }
    cases[str(folder / "fixed.nrrd")] = "fixed.nrrd"
    for name, sentence in cases.items():
        ran = run(
            capsys, "evaluate", tmp_path / name, "--fixed", folder / "fixed.nrrd", "-o", tmp_path / "out"
        )
        assert_refused(ran, 3, sentence)
        assert not (tmp_path / "out").exists()


def test_damaged_weights_are_refused(capsys, folder, tmp_path):
    write_zero_model(tmp_path / "zero")
    weights = next((tmp_path / "zero").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    options = ["--model", tmp_path / "zero" / "zero.json", "--preset", "fast"]
    ran = run(capsys, "register", *pair(folder), "-o", tmp_path / "out", *options)
    assert_refused(ran, 5, "checksum")
    weights.unlink()
    ran = run(capsys, "register", *pair(folder), "-o", tmp_path / "out", *options)
    assert_refused(ran, 5, weights.name)
    assert not (tmp_path / "out").exists()


ENDS_OF_MEMORY = {
    "torch": lambda: torch.empty(1 << 50),
    "ITK": lambda: sitk.Image(1 << 16, 1 << 16, 1 << 16, sitk.sitkUInt8),
    "numpy": lambda: np.empty(1 << 50),
}


@pytest.mark.parametrize("where", ENDS_OF_MEMORY)
def test_too_little_memory_is_one_sentence(capsys, folder, tmp_path, monkeypatch, where):
    def register(*images, **options):
        return ENDS_OF_MEMORY[where]()

    monkeypatch.setattr(registration, "register", register)
    ran = run(capsys, "register", *pair(folder), "-o", tmp_path / "out", *model_options(folder))
    assert_refused(ran, 1, "memory is too small")
    assert list(tmp_path.iterdir()) == []


def test_other_faults_stay_faults(folder, tmp_path, monkeypatch):
    def register(*images, **options):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(registration, "register", register)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        cli.main(
            [str(a) for a in ("register", *pair(folder), "-o", tmp_path / "out", *model_options(folder))]
        )
    assert list(tmp_path.iterdir()) == []


def start(arguments: list, **more) -> subprocess.Popen:
    """The program as its own process, as a user runs it: it hears Ctrl-C, also where the tests do not."""
    if os.name == "posix":
        more.setdefault("preexec_fn", functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL))
    command = [sys.executable, "-m", "ProgressiveRegistrationLib.cli", *(str(a) for a in arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", **more
    )


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_stopping_in_the_middle_leaves_nothing(folder, tmp_path, sent):
    process = start(["register", *pair(folder), "-o", tmp_path / "out", *model_options(folder)])
    line = process.stderr.readline()  # reading the images has begun
    assert "Reading" in line
    assert next(tmp_path.iterdir()).name.startswith(".writing-")
    process.send_signal(sent)
    out, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert out == ""
    assert "Cancelled; nothing was written." in told
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_cancelling_between_any_two_stages_leaves_nothing(folder, tmp_path):
    out = tmp_path / "out"
    heard: list[str] = []
    job = fast_job(folder, out)
    jobs.register_files(
        fast_job(folder, tmp_path / "whole"),
        progress=lambda stage, fraction, text: heard.append(stage),
    )
    stages = list(dict.fromkeys(heard))
    assert len(stages) > 4
    for last in stages[:-1]:
        seen: list[str] = []
        with pytest.raises(Cancelled):
            jobs.register_files(
                job,
                progress=lambda stage, fraction, text, seen=seen: seen.append(stage),
                cancelled=lambda last=last, seen=seen: last in seen,
            )
        assert [p.name for p in tmp_path.iterdir()] == ["whole"], last


LIMIT = 20_000


def small_files_only() -> None:
    """As on a full disk: a write beyond the limit fails."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


def test_a_write_that_fails_leaves_nothing(folder, tmp_path):
    process = start(
        ["register", *pair(folder), "-o", tmp_path / "out", *model_options(folder), "--no-report"],
        preexec_fn=small_files_only,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    out, told = process.communicate(timeout=120)
    assert process.returncode == 7, told
    assert "cannot be written" in told
    assert "Traceback" not in told
    assert out == ""
    assert list(tmp_path.iterdir()) == []


WRITE_ALL = """
import os, sys
import numpy as np
from ProgressiveRegistrationLib.errors import OutputError
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.images import write_image

grid = Grid((30, 30, 30), (1, 1, 1), (0, 0, 0))
noise = np.random.default_rng(0).normal(0, 9, (30, 30, 30, 3)).astype(np.float32)
field = DisplacementField(grid, noise)
image = grid.image(noise[..., 0])
for name, write in [
    *((f"t{e}", field.write) for e in (".tfm", ".nrrd", ".nii.gz", ".mha")),
    *((f"i{e}", lambda path: write_image(image, path)) for e in (".nrrd", ".nii.gz", ".mha")),
]:
    try:
        write(os.path.join(sys.argv[1], name))
        print(name, "written")
    except OutputError as error:
        print(name, "refused" if "cannot be written" in str(error) else error)
"""


def test_every_format_says_when_it_was_cut_off(tmp_path):
    for limit, expected in ((small_files_only, "refused"), (None, "written")):
        ran = subprocess.run(
            [sys.executable, "-c", WRITE_ALL, str(tmp_path)],
            preexec_fn=limit,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=True,
        )
        lines = [line.split() for line in ran.stdout.splitlines()]
        assert len(lines) == 7
        assert {word for _, word in lines} == {expected}, ran.stdout
        assert len(list(tmp_path.iterdir())) == (0 if limit else 7)


def test_a_full_disk_leaves_nothing(capsys, folder, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting a small tmpfs needs root; the limit on file sizes above covers the rest")
    try:
        ran = run(capsys, "register", *pair(folder), "-o", disk / "out", *model_options(folder))
        assert_refused(ran, 7, "MB are free")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_staged_folder_moves_in_at_the_end_only(tmp_path):
    with staged_folder(tmp_path / "new") as stage:
        (stage / "a").write_text("a")
        assert not (tmp_path / "new").exists()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a"]
    with pytest.raises(OutputError, match="No space"), staged_folder(tmp_path / "other"):
        raise OSError(28, "No space left on device")

    def interrupted() -> None:
        with staged_folder(tmp_path / "new") as stage:
            (stage / "a").write_text("b")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "new" / "a").read_text(encoding="utf-8") == "a"
    assert [p.name for p in tmp_path.rglob("*")] == ["new", "a"]
    with pytest.raises(OutputError, match="cannot be written"), staged_folder("/proc/nothing"):
        pass


def test_a_folder_of_a_results_name_costs_no_earlier_result(capsys, folder, tmp_path):
    (tmp_path / "warped.nrrd").mkdir()
    for name in ("report.json", "transform.h5"):
        (tmp_path / name).write_text("old")
    options = [*model_options(folder), "--no-report"]
    ran = run(capsys, "register", *pair(folder), "-o", tmp_path, *options)
    assert_refused(ran, 7, "warped.nrrd cannot be written: it is a folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "transform.h5", "warped.nrrd"]
    assert {(tmp_path / n).read_text(encoding="utf-8") for n in ("report.json", "transform.h5")} == {"old"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
# A new folder takes three moves; one with two namesakes takes five.
@pytest.mark.parametrize(
    ("exists", "step"), [*((False, n) for n in range(3)), *((True, n) for n in range(5))]
)
@pytest.mark.parametrize("after", [False, True])
def test_results_come_all_or_not_at_all(tmp_path, monkeypatch, error, exists, step, after):
    out = tmp_path / "out"
    if exists:
        out.mkdir()
        for name in ("a", "b", "mine"):
            (out / name).write_text("old")
    moves, move = [], os.replace

    def failing(source, target):
        moves.append(target)
        if len(moves) - 1 == step:
            if after:
                move(source, target)
            raise error
        move(source, target)

    def write() -> None:
        with staged_folder(out) as stage:
            for name in ("a", "b", "c"):
                (stage / name).write_text("new")
            monkeypatch.setattr(os, "replace", failing)

    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OutputError):
        write()
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == ([out] if exists else [])
    if exists:
        assert {p.name: p.read_text(encoding="utf-8") for p in out.iterdir()} == dict.fromkeys(
            ("a", "b", "mine"), "old"
        )
