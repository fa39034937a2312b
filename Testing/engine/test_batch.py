"""A batch one by one: tables, records, what is done again and what is not, the summary, the lock."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import re
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from batch_helpers import Gates, Processes, options, statuses, until, write_table
from ProgressiveRegistrationLib import cli, jobs
from ProgressiveRegistrationLib.batch import (
    locks,
)
from ProgressiveRegistrationLib.batch import (
    pair as batch,
)
from ProgressiveRegistrationLib.batch import (
    record as batch_record,
)
from ProgressiveRegistrationLib.batch import (
    summary as batch_summary,
)
from ProgressiveRegistrationLib.batch import (
    table as batch_table,
)
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.files import staged_folder
from ProgressiveRegistrationLib.formats import transform_file
from ProgressiveRegistrationLib.options import PairFiles
from ProgressiveRegistrationLib.statistics import statistics
from small_pair import landmark_options, model_options, pair, run, write_small_pair


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_small_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def result(folder, tmp_path_factory) -> SimpleNamespace:
    """A batch with a good pair, a pair without landmarks that names its transform, and two that fail."""
    where = tmp_path_factory.mktemp("batch")
    air = sitk.Image(20, 20, 20, sitk.sitkInt16) - 1000
    air[5, 5, 5] = -900
    sitk.WriteImage(air, str(where / "air.nrrd"))
    # Relative paths, columns in another order, a column that is not ours.
    table = where / "pairs.csv"
    (where / "scans").symlink_to(folder)
    table.write_text(
        "\ufeffcomment,moving,id,fixed,transform,fixed_landmarks,moving_landmarks\n"
        ",scans/moving.nii.gz,good,scans/fixed.nrrd,,scans/fixed.mrk.json,scans/moving.csv\n"
        "\n"
        "odd,scans/moving.nii.gz,named,scans/fixed.nrrd,inhale_to_exhale,,\n"
        ",scans/moving.nii.gz,missing,scans/nothing.nrrd,,,\n"
        ",air.nrrd,air,scans/fixed.nrrd,,,\n",
        encoding="utf-8",
    )
    arguments = ["batch", table, "-o", where / "out", *model_options(folder)]
    printed, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
        code = cli.main([str(a) for a in arguments])
    return SimpleNamespace(
        out=where / "out", table=table, code=code, printed=printed.getvalue(), told=told.getvalue()
    )


def test_each_pair_gets_what_register_gives(capsys, folder, result, tmp_path):
    assert result.code == 8
    names = ["report.html", "report.json", "transform.h5", "warped.nrrd", "warped_landmarks.mrk.json"]
    assert sorted(p.name for p in (result.out / "good").iterdir()) == sorted([*names, "record.json"])
    single = [*pair(folder), "-o", tmp_path / "single", *landmark_options(folder), *model_options(folder)]
    assert run(capsys, "register", *single, "-q", "--no-report")[0] == 0
    for file in ("warped.nrrd", "warped_landmarks.mrk.json"):
        assert (tmp_path / "single" / file).read_bytes() == (result.out / "good" / file).read_bytes()
    for key in ("tre_mm", "folding", "landmarks", "model"):
        reports = [
            json.loads((p / "report.json").read_text(encoding="utf-8"))
            for p in (tmp_path / "single", result.out / "good")
        ]
        assert reports[0][key] == reports[1][key]
    # The report says how to do this pair alone.
    assert reports[1]["command"].startswith(
        f"progressive-registration register {result.table.parent}/scans/fixed"
    )
    named = result.out / "named"
    assert sitk.ReadTransform(str(named / "inhale_to_exhale.h5")).GetDimension() == 3
    assert json.loads((named / "report.json").read_text(encoding="utf-8"))["outputs"]["transform"].endswith(
        "inhale_to_exhale.h5"
    )


def test_failures_are_recorded_and_stop_nobody(result):
    assert statuses(result.out) == {"good": "done", "named": "done", "missing": "failed", "air": "failed"}
    record = json.loads((result.out / "missing" / "record.json").read_text(encoding="utf-8"))
    assert record["error"].endswith("nothing.nrrd does not exist; correct its path in the table of pairs.")
    record = json.loads((result.out / "air" / "record.json").read_text(encoding="utf-8"))
    assert (record["exit_code"], "lung" in record["error"], record["outputs"]) == (4, True, {})
    told = result.told.splitlines()
    assert told[0] == "Note: Columns of pairs.csv that are not used: comment."
    assert re.fullmatch(r"\[1/4\] good: TRE 42\.06 -> 0\.0\d mm \(4 landmarks\), folding 0 %, .* s", told[1])
    assert told[3].startswith("[3/4] missing: failed: ")
    assert "2 of 4 pairs done, 2 failed" in result.printed


def test_summary_has_a_row_a_pair_with_its_reports_figures(result):
    with open(result.out / "summary.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["id"], row["status"]) for row in rows] == [
        ("good", "done"),
        ("named", "done"),
        ("missing", "failed"),
        ("air", "failed"),
    ]
    report = json.loads((result.out / rows[0]["report"]).with_suffix(".json").read_text(encoding="utf-8"))
    for when in ("before", "after"):
        for name in ("mean", "sd", "median", "p95", "max"):
            value = float(rows[0][f"tre_{when}_{name}_mm"])
            assert value == pytest.approx(report["tre_mm"][when][name], rel=1e-5)
    assert float(rows[0]["seconds"]) == pytest.approx(report["seconds"]["total"], rel=1e-4)
    assert (rows[0]["landmarks"], rows[1]["landmarks"], rows[1]["tre_after_mean_mm"]) == ("4", "", "")
    page = (result.out / "summary.html").read_text(encoding="utf-8")
    links = re.findall(r'href="([^"]+)"', page)
    assert links == ["good/report.html", "named/report.html"]
    assert all((result.out / link).is_file() for link in links)
    assert "nothing.nrrd does not exist" in page
    assert "http" not in page.replace('http-equiv="refresh"', "")
    assert 'http-equiv="refresh"' not in page  # nothing is waiting


def test_totals_are_those_of_all_landmarks_together():
    random = np.random.default_rng(3)
    errors = [random.gamma(2.0, 1.5, n) for n in (300, 41, 1)]
    rows = []
    for values in errors:
        figures = statistics(values)
        both = {f"tre_{when}_{k}_mm": figures[k] for when in ("before", "after") for k in ("mean", "sd")}
        folding = {"folding_lung_percent": float(len(values)), "folding_field_of_view_percent": None}
        rows.append({"status": "done", "landmarks": len(values), "seconds": 2.0, **both, **folding})
    rows.append({"status": "failed"})
    total = batch_summary.totals(rows)
    together = np.concatenate(errors)
    assert total["landmarks"] == 342
    assert total["tre_after_mean_mm"] == pytest.approx(together.mean())
    assert total["tre_after_sd_mm"] == pytest.approx(together.std(ddof=1))
    assert total["tre_after_pairs_mm"] == pytest.approx(np.mean([e.mean() for e in errors]))
    assert total["folding_lung_percent"] == pytest.approx(114.0)
    assert total["folding_field_of_view_percent"] is None
    assert (total["done"], total["failed"], total["seconds_sum"]) == (3, 1, 6.0)


@pytest.fixture
def quick(result, monkeypatch):
    """The registration is replaced by the writing of its small files; returns the ids that were done."""
    report = json.loads((result.out / "good" / "report.json").read_text(encoding="utf-8"))
    done: list[str] = []

    def register_files(job, progress=None, cancelled=None):
        job.options.check()
        done.append(job.output.name)
        names = {
            "transform": transform_file(job.options.transform_formats[0], job.transform_name),
            "warped": f"warped{job.options.image_format}",
        }
        with staged_folder(job.output) as folder:
            for name in names.values():
                (folder / name).write_text("content")
        return {**report, "outputs": {key: str(job.output / name) for key, name in names.items()}}

    monkeypatch.setattr(jobs, "register_files", register_files)
    return done


@pytest.fixture
def copies(folder, tmp_path) -> Path:
    """The pair's files, to be changed by the test."""
    for name in ("fixed.nrrd", "moving.nii.gz", "fixed.mrk.json", "moving.csv"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    return tmp_path


def test_only_what_changed_is_done_again(capsys, folder, copies, quick):
    table, out = write_table(copies / "pairs.csv", copies, "ab"), copies / "out"
    given = ["batch", table, "-o", out, *options(folder), "-q"]

    def again(*more) -> list[str]:
        quick.clear()
        assert run(capsys, *given, *more)[0] == 0
        return list(quick)

    assert again() == ["a", "b"]
    assert again() == []
    (copies / "fixed.nrrd").touch()
    assert again("--device", "auto", "--threads", "1") == []
    (out / "a" / "warped.nrrd").unlink()
    assert again() == ["a"]
    (out / "b" / "displacement.nrrd").write_text("cut")
    assert again() == ["b"]
    (out / "b" / "record.json").write_text("{")
    assert again() == ["b"]
    # Another format: the files of the old one go, the user's own stay.
    (out / "a" / "mine.txt").write_text("mine")
    assert again("--image-format", "mha") == ["a", "b"]
    assert sorted(p.name for p in (out / "a").iterdir()) == [
        "displacement.nrrd",
        "mine.txt",
        "record.json",
        "warped.mha",
    ]
    assert again() == ["a", "b"]
    assert again("--lung-boxes", "shared") == ["a", "b"]
    assert again("--model", "none") == ["a", "b"]
    assert again() == ["a", "b"]
    with open(copies / "moving.csv", "a") as stream:
        stream.write("\n")
    assert again() == ["a", "b"]
    text = table.read_text(encoding="utf-8").replace("moving_landmarks", "moving_landmarks,transform")
    table.write_text(text.rstrip("\n") + ",name\n")
    assert again() == ["b"]
    card = json.loads((folder / "zero" / "zero.json").read_text(encoding="utf-8"))
    (copies / "newer.json").write_text(json.dumps({**card, "version": "1.1"}))
    assert again("--model", str(copies / "newer.json")) == ["a", "b"]


def test_results_stay_when_an_input_cannot_be_read(capsys, folder, copies, quick):
    table, out = write_table(copies / "pairs.csv", copies, "ab"), copies / "out"
    given = ["batch", table, "-o", out, *options(folder), "-q"]
    assert run(capsys, *given)[0] == 0
    (copies / "moving.nii.gz").rename(copies / "away")
    code, _, told = run(capsys, *given)
    assert (code, told.count("moving.nii.gz does not exist")) == (8, 2)
    assert "a,failed," in (out / "summary.csv").read_text(encoding="utf-8")
    (copies / "away").rename(copies / "moving.nii.gz")
    quick.clear()
    assert run(capsys, *given)[0] == 0
    assert quick == []
    assert "a,done," in (out / "summary.csv").read_text(encoding="utf-8")


def test_a_fault_in_the_program_costs_one_pair(capsys, folder, tmp_path, quick, monkeypatch):
    table, out = write_table(tmp_path / "pairs.csv", folder, "abc"), tmp_path / "out"
    sound = jobs.register_files

    def faulty(job, **more):
        if job.output.name == "b":
            (job.output / ".writing-left").mkdir()
            raise ZeroDivisionError("nothing to divide by")
        return sound(job, **more)

    monkeypatch.setattr(jobs, "register_files", faulty)
    code, _, told = run(capsys, "batch", table, "-o", out, *options(folder), "-q")
    assert code == 8
    assert told == "[2/3] b: failed: A fault in the program: ZeroDivisionError: nothing to divide by\n"
    record = json.loads((out / "b" / "record.json").read_text(encoding="utf-8"))
    assert "in faulty" in record["traceback"]
    assert [p.name for p in (out / "b").iterdir()] == ["record.json"]
    # A failed pair is tried again, the others are not.
    monkeypatch.setattr(jobs, "register_files", sound)
    quick.clear()
    assert run(capsys, "batch", table, "-o", out, *options(folder), "-q")[0] == 0
    assert quick == ["b"]


def test_the_summary_is_there_while_the_batch_runs_and_after_it_is_cancelled(
    capsys, folder, tmp_path, quick, monkeypatch
):
    table, out = write_table(tmp_path / "pairs.csv", folder, "abc"), tmp_path / "out"
    sound, seen = jobs.register_files, []

    def watched(job, **more):
        seen.append((out / "summary.csv").read_text(encoding="utf-8").splitlines()[1:])
        assert 'http-equiv="refresh"' in (out / "summary.html").read_text(encoding="utf-8")
        if len(seen) == 2:
            raise KeyboardInterrupt
        return sound(job, **more)

    monkeypatch.setattr(jobs, "register_files", watched)
    code, _, told = run(capsys, "batch", table, "-o", out, *options(folder))
    assert (code, told.splitlines()[-1]) == (130, "Cancelled; what is finished stays.")
    assert [[row.split(",")[1] for row in rows] for rows in seen] == [
        ["waiting", "waiting", "waiting"],
        ["done", "waiting", "waiting"],
    ]
    monkeypatch.setattr(jobs, "register_files", sound)
    quick.clear()
    code, printed, _ = run(capsys, "batch", table, "-o", out, *options(folder), "--json", "-q")
    assert (code, quick) == (0, ["b", "c"])
    answer = json.loads(printed)
    assert [row["status"] for row in answer["pairs"]] == ["done"] * 3
    assert answer["total"]["landmarks"] == 12


def test_two_batches_in_one_folder_are_kept_apart(capsys, folder, tmp_path):
    table, out = write_table(tmp_path / "pairs.csv", folder, "a"), tmp_path / "out"
    gates, processes = Gates(tmp_path / "gates"), Processes()
    gates.close("a")
    try:
        first = processes.batch(gates, [table, "-o", out, *options(folder)])
        gates.worker_of("a")
        code, printed, told = run(capsys, "batch", table, "-o", out, *options(folder))
        assert (code, printed) == (7, "")
        assert re.search(
            rf"Another batch works in .*out \(process {first.pid} on .* since .* UTC\); wait", told
        )
        # The lock of a dead process is none.
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert run(capsys, "batch", table, "-o", out, *options(folder))[0] == 0
        until(lambda: statuses(out) == {"a": "done"}, "a is done")
    finally:
        processes.stop()


def test_two_workers_do_one_pair_once(folder, tmp_path, quick, monkeypatch):
    """As when Dask takes a slow worker for lost and gives its pair to another."""
    (pair_,), _ = batch_table.read_pairs(write_table(tmp_path / "pairs.csv", folder, "a"))
    sound, gate, waits = jobs.register_files, threading.Event(), threading.Event()

    def slow(job, **more):
        report = sound(job, **more)
        assert gate.wait(60)
        return report

    monkeypatch.setattr(jobs, "register_files", slow)
    monkeypatch.setattr(
        locks, "time", SimpleNamespace(sleep=lambda seconds: waits.set() or time.sleep(seconds))
    )
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(batch.do_pair, pair_, tmp_path, batch.BatchOptions(model="none")) for _ in "12"]
        until(lambda: waits.is_set() or len(quick) == 2, "the other waits, or begins too")
        gate.set()
        records = [future.result() for future in both]
    assert quick == ["a"]
    assert sorted(record["reused"] for record in records) == [False, True]
    assert {record["status"] for record in records} == {"done"}


HEAD = "id,fixed,moving\n"
BAD_TABLES = {
    "missing column": ("id,fixed\na,f\n", "has no column moving; its first line must name"),
    "column twice": ("id,fixed,moving,fixed\na,f,m,f\n", "has the column fixed twice"),
    "slip in a column": ("id,fixed,moving,fixed_landmark\na,f,m,l\n", "rename it to fixed_landmarks"),
    "empty file": ("\n \n", "is empty"),
    "no pair": (HEAD, "has no pair"),
    "no id": (HEAD + ",f,m\n", "line 2: the cell id is empty"),
    "no moving image": (HEAD + "a,f\n", "line 2: the cell moving is empty"),
    "id twice": (HEAD + "a,f,m\n\nA,f,m\n", "line 4: the id A is that of line 2 already"),
    "id leaves the folder": (HEAD + "../a,f,m\n", "line 2: the id '../a' cannot be the name of a folder"),
    "id is hidden": (HEAD + ".batch,f,m\n", "cannot be the name of a folder"),
    "id with a slash": (HEAD + "a/b,f,m\n", "cannot be the name of a folder"),
    "id is the summary": (HEAD + "summary.csv,f,m\n", "cannot be the name of a folder"),
    "id of a device": (HEAD + "nul.x,f,m\n", "cannot be the name of a folder"),
    "id too long": (HEAD + "a" * 101 + ",f,m\n", "cannot be the name of a folder"),
    "transform over the report": (
        "id,fixed,moving,transform\na,f,m,report\n",
        "cannot be the name of a file",
    ),
    "cell too many": (HEAD + "a,f,m,x\n", "line 2: 4 cells, but 3 columns"),
    "not text": (b"\xff\xfe\x00PK", "is not UTF-8 text"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables(capsys, folder, tmp_path, name):
    content, sentence = BAD_TABLES[name]
    table = tmp_path / "pairs.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, printed, told = run(capsys, "batch", table, "-o", tmp_path / "out", *options(folder))
    assert (code, printed, told.count("\n")) == (3, "", 1)
    assert told.startswith("Error: ")
    assert sentence in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_as_spreadsheets_write_them(tmp_path, separator):
    lines = [
        ["ID", "Fixed", "moving", "Fixed landmarks", "exclude-landmarks", "fixed_columns"],
        ["x-1", "a b/f.nrrd", "/data/m", "p.csv", '"35; no 7"', "baseline"],
        ["y", "f", "m", "", "", ""],
    ]
    table = tmp_path / "pairs.csv"
    table.write_text("\r\n".join(separator.join(line) for line in lines), encoding="utf-8-sig", newline="")
    (first, second), notes = batch_table.read_pairs(table)
    assert first == batch_table.BatchPair(
        "x-1",
        PairFiles(
            tmp_path / "a b" / "f.nrrd",
            Path("/data/m"),
            fixed_landmarks=tmp_path / "p.csv",
            exclude_landmarks=("35", "no 7"),
            fixed_columns="baseline",
        ),
    )
    assert second == batch_table.BatchPair("y", PairFiles(tmp_path / "f", tmp_path / "m"))
    assert notes == []


def test_bad_options_begin_nothing(capsys, folder, tmp_path):
    table, out = write_table(tmp_path / "pairs.csv", folder, "a"), tmp_path / "out"
    for more, code, sentence in (
        (["--model", "nobody"], 5, "There is no model nobody"),
        (["--preset", "best"], 3, "There is no preset best"),
        (["--device", "cuda:9"], 6, "cuda:9"),
        (["--image-format", "png"], 3, ".png"),
        (["--lung-boxes", "1,2"], 3, "1,2"),
        (["--workers", "0"], 3, "0 workers cannot do anything"),
        (["--threads", "0"], 3, "0 threads cannot do anything"),
        (["--workers", "2", "--scheduler", "tcp://x"], 2, "not allowed with"),
        (["--wrokers", "2"], 2, "--wrokers"),
    ):
        found, printed, told = run(capsys, "batch", table, "-o", out, *options(folder), *more)
        assert (found, printed) == (code, ""), told
        assert sentence in told
        assert not list(out.glob("*"))[1:], "only the folder with the lock"
    file = tmp_path / "file"
    file.write_text("mine")
    assert run(capsys, "batch", table, "-o", file, *options(folder))[0] == 7
    assert run(capsys, "batch", table, "-o", tmp_path / "no" / "folder", *options(folder))[0] == 7
    assert run(capsys, "batch", tmp_path / "no.csv", "-o", out, *options(folder))[0] == 3


def test_without_dask_workers_are_refused_with_the_command_to_run(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    table = write_table(tmp_path / "pairs.csv", folder, "a")
    code, _, told = run(capsys, "batch", table, "-o", tmp_path / "out", *options(folder), "--workers", "2")
    assert code == 9
    assert "python -m pip install dask distributed" in told


def test_help_documents_columns_and_exit_codes(capsys):
    code, printed, _ = run(capsys, "batch", "--help")
    printed = " ".join(printed.split())
    assert code == 0
    for column in batch_table.COLUMNS:
        assert column in printed
    for meaning in ("0 all pairs are done", "8 some pairs failed", "9 Dask", "130 cancelled"):
        assert meaning in printed
    assert "batch" in run(capsys, "--help")[1]


def test_checksums_tell_files_folders_and_detached_voxels_apart(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert batch_record.checksum(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(InputError, match="nothing does not exist"):
        batch_record.checksum(tmp_path / "nothing")

    def changes(path: Path, part: Path) -> bool:
        before = batch_record.checksum(path)
        assert before == batch_record.checksum(path)
        content = bytearray(part.read_bytes())
        content[-1] ^= 1
        part.write_bytes(bytes(content) + b"x")
        return batch_record.checksum(path) != before

    series = tmp_path / "series"
    series.mkdir()
    for name in ("1.dcm", "2.dcm"):
        (series / name).write_bytes(name.encode())
    assert changes(series, series / "2.dcm")
    before = batch_record.checksum(series)
    (series / "2.dcm").rename(series / "3.dcm")
    assert batch_record.checksum(series) != before
    image = sitk.Image(4, 4, 4, sitk.sitkInt16)
    for name, part in (("i.mhd", "i.raw"), ("i.nhdr", "i.raw"), ("i.hdr", "i.img")):
        sitk.WriteImage(image, str(tmp_path / name))
        assert changes(tmp_path / name, tmp_path / part)


def test_ids_of_any_letters_become_safe_folders_and_stay_as_they_are(tmp_path):
    ids = ["Müller Anna 1.2", "a b", "a_b", "日本", "patient 7 (left)", "x+1"]
    rows = "".join(f"{name},f.nrrd,m.nrrd\n" for name in ids)
    (tmp_path / "t.csv").write_text(HEAD + rows, encoding="utf-8")
    pairs, _ = batch_table.read_pairs(tmp_path / "t.csv")
    assert [pair.id for pair in pairs] == ids
    folders = [pair.folder for pair in pairs]
    assert len(set(folders)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", folder) for folder in folders)
    assert folders[0].startswith("Muller_Anna_1.2-")
    assert (folders[2], folders[5]) == ("a_b", "x+1")
