"""A batch on worker processes: Dask's scheduler and workers as they are started on a cluster,
and what is killed in the middle."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk
from batch_helpers import Gates, Processes, end, is_alive, leftovers, options, statuses, until, write_table
from ProgressiveRegistrationLib.batch import pools as batch_pools
from small_pair import SHIFT, run, write_small_pair

pytest.importorskip("distributed")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills processes the POSIX way")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_small_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def gates(tmp_path) -> Gates:
    return Gates(tmp_path / "gates")


@pytest.fixture
def processes():
    found = Processes()
    yield found
    found.stop()


class DaskCluster:
    """``dask scheduler`` and ``dask worker`` processes, on loopback only."""

    def __init__(self, processes: Processes, gates: Gates, path: Path) -> None:
        self.processes, self.gates, self.path = processes, gates, path
        self.file = path / "scheduler.json"
        self.scheduler = self._dask(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", self.file
        )
        until(lambda: self.file.is_file() and self.file.stat().st_size > 0, "the scheduler is up")

    @property
    def address(self) -> str:
        import json

        return json.loads(self.file.read_text(encoding="utf-8"))["address"]

    def add_worker(self) -> None:
        options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"]
        self._dask("worker", "--scheduler-file", self.file, *options, "--local-directory", self.path)

    def _dask(self, *arguments):
        environment = self.gates.environment()
        with open(self.path / "dask.log", "a") as log:
            command = [sys.executable, "-m", "dask", *arguments]
            return self.processes.start(command, environment, stdout=log, stderr=log)


@pytest.fixture
def cluster(processes, gates, tmp_path) -> DaskCluster:
    cluster = DaskCluster(processes, gates, tmp_path)
    cluster.add_worker()
    cluster.add_worker()
    return cluster


def assert_whole(output: Path, ids: str) -> None:
    """Every pair is done, its transform is right, and nothing half-written is left."""
    assert statuses(output) == dict.fromkeys(ids, "done")
    assert leftovers(output) == []
    for letter in ids:
        field = sitk.ReadImage(str(output / letter / "displacement.nrrd"), sitk.sitkVectorFloat64)
        transform = sitk.DisplacementFieldTransform(field)
        assert transform.TransformPoint((0.0, 0.0, 0.0)) == pytest.approx(tuple(SHIFT), abs=0.05)
    rows = (output / "summary.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert [row.split(",")[:2] for row in rows] == [[letter, "done"] for letter in ids]


def test_a_worker_killed_in_the_middle_loses_nothing(capsys, folder, tmp_path, gates, processes, cluster):
    table, out = write_table(tmp_path / "pairs.csv", folder, "abcd"), tmp_path / "out"
    arguments = [table, "-o", out, "--scheduler", cluster.address, *options(folder)]
    gates.close("b")
    batch = processes.batch(gates, arguments)
    worker = gates.worker_of("b")
    assert worker != batch.pid
    next(p for p in processes.all if p.pid == worker).send_signal(signal.SIGKILL)
    until(lambda: gates.begun().count("b") == 2, "the other worker begins b")
    assert gates.worker_of("b") != worker
    gates.open("b")
    code, printed, told = end(batch)
    assert code == 0, told
    assert "4 of 4 pairs done, 0 failed" in printed
    assert sorted(gates.begun()) == ["a", "b", "b", "c", "d"]
    assert {pid for _, pid, _ in gates.log("begun")} <= {p.pid for p in processes.all if p is not batch}
    assert_whole(out, "abcd")
    # The same again, by other means: nothing to do.
    code, _, told = run(capsys, "batch", table, "-o", out, *options(folder))
    assert (code, told.count("done before")) == (0, 4)


def test_a_new_batch_waits_for_the_worker_of_a_killed_one(folder, tmp_path, gates, processes, cluster):
    table, out = write_table(tmp_path / "pairs.csv", folder, "ab"), tmp_path / "out"
    arguments = [table, "-o", out, "--scheduler", cluster.address, *options(folder)]
    gates.close("a")
    killed = processes.batch(gates, arguments)
    gates.worker_of("a")
    until(lambda: statuses(out).get("b") == "done", "b is done")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    # The worker is still at a; the new batch, once it has begun, must leave it to it.
    summary = out / "summary.csv"
    before = summary.stat().st_mtime_ns
    again = processes.batch(gates, arguments)
    until(lambda: summary.stat().st_mtime_ns != before, "the new batch begins")
    gates.open("a")
    code, _, told = end(again)
    assert code == 0, told
    assert sorted(gates.begun()) == ["a", "b"]
    assert_whole(out, "ab")


def test_a_lost_scheduler_is_told_and_what_is_finished_stays(folder, tmp_path, gates, processes, cluster):
    table, out = write_table(tmp_path / "pairs.csv", folder, "ab"), tmp_path / "out"
    gates.close("a")
    arguments = [table, "-o", out, *options(folder)]
    batch = processes.batch(gates, [*arguments, "--scheduler", cluster.address])
    gates.worker_of("a")
    until(lambda: statuses(out).get("b") == "done", "b is done")
    cluster.scheduler.send_signal(signal.SIGKILL)
    code, _, told = end(batch)
    assert code == 9
    assert "was lost; what is finished stays: start the batch again to go on." in told
    assert statuses(out) == {"b": "done"}


@pytest.mark.parametrize("where", [[], ["--workers", "2"]])
def test_a_killed_batch_goes_on_where_it_stopped(capsys, folder, tmp_path, gates, processes, where):
    table, out = write_table(tmp_path / "pairs.csv", folder, "abc"), tmp_path / "out"
    arguments = [table, "-o", out, *options(folder), *where]
    gates.close("b")
    batch = processes.batch(gates, arguments)
    at_work = gates.worker_of("b")
    finished = "ac" if where else "a"
    until(lambda: statuses(out) == dict.fromkeys(finished, "done"), f"{finished} are done")
    assert leftovers(out)  # b is in the middle of its work
    batch.send_signal(signal.SIGKILL)
    batch.wait()
    until(lambda: not is_alive(at_work), "workers end with their batch")
    assert statuses(out) == dict.fromkeys(finished, "done")
    code, _, told = run(capsys, "batch", table, "-o", out, *options(folder))
    assert code == 0, told
    assert [line[6:].partition(": done before")[1] != "" for line in told.splitlines()] == [
        letter in finished for letter in "abc"
    ]
    assert_whole(out, "abc")


def test_a_pair_that_kills_its_workers_fails_alone(folder, tmp_path, gates, processes):
    table, out = write_table(tmp_path / "pairs.csv", folder, "abc"), tmp_path / "out"
    (gates.folder / "b.deadly").touch()
    arguments = [table, "-o", out, *options(folder), "--workers", "2", "--threads", "3"]
    batch = processes.batch(gates, arguments, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0")
    code, printed, told = end(batch)
    assert code == 8, told
    assert "2 of 3 pairs done, 1 failed" in printed
    assert "b: failed: Several workers died while they did this pair" in told
    assert statuses(out) == {"a": "done", "b": "failed", "c": "done"}
    assert "b,failed," in (out / "summary.csv").read_text(encoding="utf-8")
    assert leftovers(out / "b") == []
    assert {threads for _, _, threads in gates.log("begun")} == {3}


def test_a_polite_stop_ends_the_workers_at_once(folder, tmp_path, gates, processes):
    table, out = write_table(tmp_path / "pairs.csv", folder, "ab"), tmp_path / "out"
    gates.close("b")
    batch = processes.batch(gates, [table, "-o", out, *options(folder), "--workers", "2"])
    at_work = gates.worker_of("b")
    until(lambda: statuses(out) == {"a": "done"}, "a is done")
    batch.send_signal(signal.SIGTERM)
    code, _, told = end(batch)
    assert (code, told.splitlines()[-1]) == (130, "Cancelled; what is finished stays.")
    assert not is_alive(at_work)
    assert statuses(out) == {"a": "done"}
    assert leftovers(out) == []


def test_no_scheduler_no_batch(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_pools, "CONNECT_SECONDS", 0.5)
    table = write_table(tmp_path / "pairs.csv", folder, "a")
    arguments = [table, "-o", tmp_path / "out", "--scheduler", "tcp://127.0.0.1:9", *options(folder)]
    code, printed, told = run(capsys, "batch", *arguments)
    assert (code, printed) == (9, "")
    assert told.splitlines()[-1].startswith("Error: No Dask scheduler answers at tcp://127.0.0.1:9;")


@pytest.fixture(scope="module")
def small_cluster():
    """A scheduler and a worker in the test's own process."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def lacks_torch(options):
    raise ModuleNotFoundError("No module named 'torch'")


UNFIT = {
    "another version": ("__version__", "9.9", "here it is 9.9; install the same version."),
    "torch missing": (
        "check_options",
        lacks_torch,
        "cannot import what a registration needs (No module named",
    ),
    "other disk": (
        "_is_file",
        lambda path: False,
        "inputs and results must lie where every worker finds them",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_unfit_workers_are_told_before_anything_begins(
    capsys, folder, tmp_path, monkeypatch, small_cluster, name
):
    what, value, sentence = UNFIT[name]
    monkeypatch.setattr(batch_pools, what, value)
    table, out = write_table(tmp_path / "pairs.csv", folder, "a"), tmp_path / "out"
    arguments = [table, "-o", out, "--scheduler", small_cluster, *options(folder), "-q"]
    code, printed, told = run(capsys, "batch", *arguments)
    assert (code, printed) == (9, "")
    assert sentence in told
    assert statuses(out) == {}


def test_a_scheduler_does_not_hide_wrong_options(capsys, folder, tmp_path, small_cluster):
    table = write_table(tmp_path / "pairs.csv", folder, "a")
    arguments = [table, "-o", tmp_path / "out", "--scheduler", small_cluster, "--model", "nobody", "-q"]
    code, _, told = run(capsys, "batch", *arguments)
    assert code == 5
    assert told.startswith("Error: There is no model nobody")
