"""A sequence of phases: one command to fields that agree, resumed where it stopped."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import SimpleITK as sitk
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.landmarks import Landmarks, write_landmarks
from ProgressiveRegistrationLib.sequence.cycle import adjusted, closing_error
from ProgressiveRegistrationLib.sequence.motion import amplitude, mean_image
from ProgressiveRegistrationLib.sequence.phases import find_phases
from ProgressiveRegistrationLib.sequence.run import _trajectories
from ProgressiveRegistrationLib.sequence.steps import DIRECT, plan
from small_pair import GRID, chest, run, write_dicom

SHIFTS = np.array(
    [[0, 0, 9.0], [2, 0, 6], [0, 0, 0], [-1, 3, 4]]
)  # of four phases; the third is the reference
POINTS = np.array([[-45.0, 0, 0], [45, 10, -40], [40, -20, 30]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One chest at four places, with landmarks: what lies between any two phases is a shift."""
    path = tmp_path_factory.mktemp("phases")
    rows = ["id,image,landmarks"]
    for k, shift in enumerate(SHIFTS):
        image = GRID.image(chest())
        image.SetOrigin(np.asarray(GRID.origin) + shift)
        sitk.WriteImage(image, str(path / f"p{k}.nrrd"))
        write_landmarks(Landmarks(POINTS + shift, ["a", "b", "c"]), path / f"p{k}.mrk.json")
        rows.append(f"p{k},p{k}.nrrd,p{k}.mrk.json")
    (path / "phases.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


OPTIONS = ["--reference", "p2", "--model", "none", "--preset", "fast", "--device", "cpu", "-q"]


def test_sequence_of_shifted_chests_is_known_exactly_and_not_done_twice(capsys, folder, tmp_path):
    out = tmp_path / "out"
    code, printed, _ = run(capsys, "sequence", folder, "-o", out, *OPTIONS, "--json")
    assert code == 0
    report = json.loads(printed)
    assert report == json.loads((out / "sequence.json").read_text(encoding="utf-8"))
    assert report["reference"] == "p2"
    for phase, shift in zip(report["phases"], SHIFTS):
        if phase["name"] == "p2":
            continue
        assert phase["tre_mm"]["before"]["mean"] == pytest.approx(np.linalg.norm(shift), abs=1e-3)
        assert phase["tre_mm"]["after"]["max"] < 1e-2
        warped = sitk.ReadImage(str(out / f"warped_{phase['name']}.nrrd"))
        inner = (slice(8, -8),) * 3
        same = sitk.GetArrayFromImage(warped)[inner] - chest()[inner]
        assert np.abs(same).max() <= 1
    assert report["closing_error_mm"]["max"] < 1e-2
    farthest = max(np.linalg.norm(a - b) for a in SHIFTS for b in SHIFTS)
    assert report["amplitude_mm"]["mean"] == pytest.approx(farthest, abs=1e-2)
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "amplitude.nrrd")))
    by_axis = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "amplitude_by_axis.nrrd")))
    assert np.isnan(values[0, 0, 0]), "beyond the lungs nobody looked"
    assert np.nanmin(values) == pytest.approx(farthest, abs=1e-2)
    assert np.isnan(by_axis).any(-1).tolist() == np.isnan(values).tolist()
    assert np.nanmax(by_axis, axis=(0, 1, 2)) == pytest.approx(np.ptp(SHIFTS, axis=0), abs=1e-2)
    with open(out / "trajectories.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 12
    for row in rows:
        wanted = POINTS["abc".index(row["label"])] + SHIFTS[int(row["phase"][1])]
        assert [float(row[f"{axis}_lps"]) for axis in "xyz"] == pytest.approx(wanted, abs=1e-2)
    # mid-position -> reference: the reference lies off the mean place by minus the mean shift
    back = DisplacementField.read(out / "midposition_field.nrrd")
    assert back.sample(POINTS) == pytest.approx(np.tile(-SHIFTS.mean(0), (3, 1)), abs=1e-2)
    assert "Motion amplitude" in (out / "sequence.html").read_text(encoding="utf-8")

    before = {p: p.stat().st_mtime_ns for p in (out / ".sequence").glob("*/field.nrrd")}
    assert len(before) == 7  # three phases, four steps round the cycle
    (out / ".sequence" / "direct_p0" / "field.nrrd").unlink()
    assert run(capsys, "sequence", folder, "-o", out, *OPTIONS)[0] == 0
    after = {p: p.stat().st_mtime_ns for p in (out / ".sequence").glob("*/field.nrrd")}
    assert sorted(p.parent.name for p in after if after[p] != before[p]) == ["direct_p0"]


def test_stopped_sequence_says_that_it_can_go_on_and_does(capsys, folder, tmp_path, monkeypatch):
    from ProgressiveRegistrationLib.sequence import run as sequence_run

    done, real = [], sequence_run.do_task

    def stopped_at_the_second(task, *rest):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(task.name)
        return real(task, *rest)

    given = ["sequence", folder, "-o", tmp_path / "out", *OPTIONS[:-1], "--no-warped", "--no-agreement"]
    monkeypatch.setattr(sequence_run, "do_task", stopped_at_the_second)
    code, _, err = run(capsys, *given)
    assert code == 130
    assert "finished registrations stay" in err
    assert not (tmp_path / "out" / "sequence.json").exists()
    monkeypatch.setattr(sequence_run, "do_task", real)
    code, _, err = run(capsys, *given)
    assert code == 0
    assert [line.split("]")[0] for line in err.splitlines() if "done before" in line] == ["[1/3"]
    assert (tmp_path / "out" / "sequence.json").exists()


def test_workers_do_what_one_process_does(capsys, folder, tmp_path):
    options = [*OPTIONS, "--no-warped", "--no-agreement"]
    assert run(capsys, "sequence", folder, "-o", tmp_path / "one", *options)[0] == 0
    assert run(capsys, "sequence", folder, "-o", tmp_path / "two", *options, "--workers", "2")[0] == 0
    for name in ("p0", "p1", "p3"):
        one, two = (
            DisplacementField.read(tmp_path / which / f"field_{name}.nrrd") for which in ("one", "two")
        )
        assert np.array_equal(one.displacement, two.displacement)


def test_arms_meet_opposite_to_the_reference(folder):
    phases = find_phases([folder])
    tasks = plan(phases, 2, cyclic=True, steps=True)
    starts = {t.moving.name: t.neighbour for t in tasks if t.kind == DIRECT}
    assert starts == {"p3": None, "p0": "direct_p3", "p1": None}
    assert [(t.fixed.name, t.moving.name) for t in tasks if t.kind != DIRECT] == [
        ("p0", "p1"),
        ("p1", "p2"),
        ("p2", "p3"),
        ("p3", "p0"),
    ]
    row = plan(phases, 1, cyclic=False, steps=True)
    assert {t.moving.name: t.neighbour for t in row if t.kind == DIRECT} == {
        "p2": None,
        "p3": "direct_p2",
        "p0": None,
    }
    assert [(t.fixed.name, t.moving.name) for t in row if t.kind != DIRECT] == [
        ("p0", "p1"),
        ("p1", "p2"),
        ("p2", "p3"),
    ]


def test_agreeing_fields_are_the_least_squares_solution():
    grid = Grid((3, 3, 3), (10.0, 10.0, 10.0), (0.0, 0.0, 0.0))
    rng = np.random.default_rng(1)

    def shift() -> DisplacementField:
        return DisplacementField(grid, np.broadcast_to(rng.normal(size=3), (*grid.shape, 3)))

    direct, steps = {k: shift() for k in (0, 2, 3)}, {k: shift() for k in range(4)}
    paths = adjusted(direct, steps, 4, 1, grid)[:, 1, 1, 1]
    # by hand: unknowns p0, p2, p3 with p1 = 0
    left = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, 1, 0], [0, -1, 1], [1, 0, -1]]
    right = [direct[k].displacement[0, 0, 0] for k in (0, 2, 3)] + [
        steps[k].displacement[0, 0, 0] for k in range(4)
    ]
    wanted = np.linalg.lstsq(np.array(left, float), np.array(right), rcond=None)[0]
    assert paths[[0, 2, 3]] == pytest.approx(wanted, abs=1e-5)
    assert np.all(paths[1] == 0)
    total = sum(f.displacement[0, 0, 0] for f in steps.values())
    assert closing_error(steps, 4, 1, np.full((2, 3), 10.0))["mean"] == pytest.approx(
        np.linalg.norm(total), abs=1e-5
    )


def test_amplitude_is_the_largest_distance_of_two_places():
    u = np.zeros((3, 1, 1, 1, 3))
    u[1, ..., 0], u[2, ..., 1] = 3.0, -4.0
    largest, ranges = amplitude(u)
    assert largest.ravel() == pytest.approx([5.0])
    assert ranges.ravel() == pytest.approx([3.0, 4.0, 0.0])


def test_mean_image_counts_only_what_an_image_shows():
    one = GRID.image(np.full(GRID.shape, 10, np.int16))
    two = GRID.image(np.full(GRID.shape, 30, np.int16))
    away = sitk.TranslationTransform(3, (1000.0, 0.0, 0.0))
    still = sitk.Transform(3, sitk.sitkIdentity)
    assert np.all(sitk.GetArrayFromImage(mean_image([one, two], [still, still], GRID)) == 20)
    assert np.all(sitk.GetArrayFromImage(mean_image([one, two], [still, away], GRID)) == 10)


def test_phases_come_from_files_folders_sequences_and_dicom(folder, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    for k in (10, 2, 1):
        sitk.WriteImage(GRID.image(chest()), str(plain / f"phase{k}.nrrd"))
    assert [p.name for p in find_phases([plain])] == ["phase1", "phase2", "phase10"]
    assert [p.name for p in find_phases([folder / "p1.nrrd", folder / "p0.nrrd"])] == ["p1", "p0"]
    stack = np.stack([chest(), chest() + 1], -1)
    sitk.WriteImage(GRID.image(stack), str(tmp_path / "scan.seq.nrrd"))
    header = (tmp_path / "scan.seq.nrrd").read_bytes()
    assert header.count(b"kinds: vector") == 1
    # Slicer calls that axis a list
    (tmp_path / "scan.seq.nrrd").write_bytes(header.replace(b"kinds: vector", b"kinds: list", 1))
    sitk.WriteImage(
        sitk.JoinSeries([GRID.image(stack[..., 0].copy()), GRID.image(stack[..., 1].copy())]),
        str(tmp_path / "scan.nii.gz"),
    )
    for name in ("scan.seq.nrrd", "scan.nii.gz"):
        phases = find_phases([tmp_path / name])
        assert [p.frame for p in phases] == [0, 1]
        for k, phase in enumerate(phases):
            assert np.array_equal(sitk.GetArrayFromImage(phase.image()), stack[..., k])
    (tmp_path / "dicom").mkdir()
    for k in (1, 2):
        write_dicom(GRID.image(chest()), tmp_path / "dicom" / f"T{k}", f"1.2.{k}")
    phases = find_phases([tmp_path / "dicom"])
    assert [p.name for p in phases] == ["T1", "T2"]
    assert phases[0].image().GetSize() == GRID.size


def test_phases_lie_together_in_one_dicom_folder_as_series_or_in_one_series(tmp_path):
    import pydicom

    for k in (1, 2):
        write_dicom(GRID.image(chest() + k), tmp_path / "both", f"1.2.{k}")
    phases = find_phases([tmp_path / "both"])
    assert len(phases) == 2
    assert sorted(sitk.GetArrayFromImage(p.image())[0, 0, 0] for p in phases) == [-999, -998]
    # the same in one series, told apart by a tag alone
    for file in (tmp_path / "both").iterdir():
        data = pydicom.dcmread(file)
        data.TemporalPositionIdentifier = int(data.SeriesInstanceUID[-1])
        data.SeriesInstanceUID = "1.2.9"
        data.save_as(file)
    phases = find_phases([tmp_path / "both"])
    assert [p.name for p in phases] == ["1", "2"]
    assert [sitk.GetArrayFromImage(p.image())[0, 0, 0] for p in phases] == [-999, -998]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f, t: [t / "missing"], "does not exist"),
        (lambda f, t: [f / "p0.nrrd"], "two phases or more"),
        (lambda f, t: [f / "p0.nrrd", f / "p0.nrrd"], "there twice"),
        (lambda f, t: [t], "no images"),
    ],
)
def test_what_is_no_sequence_is_refused_with_a_sentence(folder, tmp_path, make, words):
    with pytest.raises(InputError, match=words):
        find_phases(make(folder, tmp_path))


def test_unknown_reference_and_wrong_number_of_landmark_files_are_told(capsys, folder, tmp_path):
    code, _, err = run(capsys, "sequence", folder, "-o", tmp_path / "out", "--reference", "p9", *OPTIONS[2:])
    assert code == 3
    assert "There is no phase p9" in err
    code, _, err = run(capsys, "sequence", folder, "-o", tmp_path / "out", "--landmarks", "-", *OPTIONS[2:])
    assert code == 3
    assert "1 landmark files were given for 4 phases" in err


# ---- the landmarks of public 4DCT sets -------------------------------------------------------------------


def still(phases, images, reference: int):
    """The trajectories with fields that move nothing: what they say before is in the files alone."""
    grid = Grid.from_image(images[reference]).with_spacing(60.0)
    fields = {k: DisplacementField.identity(grid) for k in range(len(phases))}
    marks = [phase.points(image) for phase, image in zip(phases, images)]
    return _trajectories(phases, marks, reference, fields)


def test_popi_landmarks_of_ten_phases_are_followed(shared, tmp_path):
    grid = Grid((60, 46, 36), (8.0, 8.0, 8.0), (0.0, 0.0, 0.0))  # as large as POPI's image
    sitk.WriteImage(grid.image(np.zeros(grid.shape, np.int16)), str(tmp_path / "0.nrrd"))
    images, files = [], []
    for k in range(10):
        (tmp_path / f"{10 * k:02d}.nrrd").write_bytes((tmp_path / "0.nrrd").read_bytes())
        images.append(tmp_path / f"{10 * k:02d}.nrrd")
        files.append(shared / "landmarks" / "popi" / f"{10 * k:02d}-Landmarks.pts")
    phases = find_phases(images, files)
    read = [sitk.ReadImage(str(path)) for path in images]
    found = still(phases, read, 1)
    raw = [np.loadtxt(file, comments="#") for file in files]
    assert found.marked.shape == (10, len(raw[0]), 3)
    for k in (0, *range(2, 10)):  # the reference is where they start
        wanted = np.linalg.norm(raw[k] - raw[1], axis=1)
        assert found.summary(k)["after"]["mean"] == pytest.approx(wanted.mean(), abs=1e-6)
        assert found.summary(k)["after"]["count"] == len(wanted)
    assert found.summary(1) is None
    assert found.summary(5)["after"]["mean"] > found.summary(2)["after"]["mean"] > 0


def test_dirlab_75_landmarks_of_six_phases_are_voxels_on_their_way_in_mm(shared, tmp_path):
    """As DIR-Lab gives them, 75 points each of T00 to T50: files made from the public ones of both ends."""
    grid = Grid((256, 256, 94), (0.97, 0.97, 2.5), (0.0, 0.0, 0.0))  # case 1
    folder = shared / "landmarks" / "dirlab_4dct"
    ends = [np.loadtxt(folder / f"case1_300_{name}_xyz.txt")[::4] for name in ("T00", "T50")]
    voxels = [np.rint(ends[0] + k / 5 * (ends[1] - ends[0])).astype(int) for k in range(6)]
    images, files = [], []
    for k, rows in enumerate(voxels):
        images.append(tmp_path / f"T{k}0.nrrd")
        sitk.WriteImage(grid.image(np.zeros(grid.shape, np.uint8)), str(images[-1]), True)
        files.append(tmp_path / f"case1_4D75_T{k}0_xyz.txt")
        np.savetxt(files[-1], rows, fmt="%d")
    found = still(find_phases(images, files), [sitk.ReadImage(str(path)) for path in images], 5)
    places = [(rows - 1) * [0.97, 0.97, 2.5] for rows in voxels]  # voxels from 1
    table = list(csv.DictReader(found.to_csv().splitlines()))
    assert len(table) == 6 * 75
    for row in table:
        i, k = int(row["label"]) - 1, int(row["phase"][1])
        assert [float(row[f"{axis}_lps"]) for axis in "xyz"] == pytest.approx(places[5][i], abs=1e-3)
        assert [float(row[f"marked_{axis}_lps"]) for axis in "xyz"] == pytest.approx(places[k][i], abs=1e-3)
        wanted = np.linalg.norm(places[k][i] - places[5][i])
        assert row["tre_mm"] == "" if k == 5 else float(row["tre_mm"]) == pytest.approx(wanted, abs=1e-3)
    for k in range(5):
        assert found.summary(k)["after"]["count"] == 75


def test_landmarks_of_other_phases_serve_where_the_reference_has_none(capsys, folder, tmp_path):
    rows = (folder / "phases.csv").read_text(encoding="utf-8").splitlines()
    rows = [row.replace("p2.mrk.json", "").replace("p3.mrk.json", "") for row in rows]
    rows = [
        ",".join([row.split(",")[0], *(c and str(folder / c) for c in row.split(",")[1:])])
        for row in rows[1:]
    ]
    (tmp_path / "t.csv").write_text("\n".join(["id,image,landmarks", *rows]), encoding="utf-8")
    out = tmp_path / "out"
    given = ["sequence", tmp_path / "t.csv", "-o", out, *OPTIONS, "--json", "--no-warped", "--no-agreement"]
    code, printed, _ = run(capsys, *given)
    assert code == 0
    report = json.loads(printed)
    errors = [phase.get("tre_mm") for phase in report["phases"]]
    assert [error is not None for error in errors] == [False, True, False, False]
    assert errors[1]["before"]["mean"] == pytest.approx(np.linalg.norm(SHIFTS[0] - SHIFTS[1]), abs=1e-3)
    assert errors[1]["after"]["max"] < 2e-2
    assert any(
        "The reference p2 has no landmarks: those of p0 were brought" in note for note in report["notes"]
    )
    with open(out / "trajectories.csv", encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            wanted = POINTS["abc".index(row["label"])] + SHIFTS[int(row["phase"][1])]
            assert [float(row[f"{axis}_lps"]) for axis in "xyz"] == pytest.approx(wanted, abs=2e-2)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p1.csv", "label,x_lps,y_lps,z_lps\na,900,900,900\n", "lie outside the phase p1"),
        ("p1.csv", "label,x_lps,y_lps,z_lps\na,0,0,0\n", "has 1"),
        ("p1.xyz", "1 2 3", "p1.xyz"),
    ],
)
def test_landmarks_that_do_not_fit_are_told_before_anything_is_registered(
    capsys, folder, tmp_path, name, text, words
):
    (tmp_path / name).write_text(text, encoding="utf-8")
    marks = ["--landmarks", folder / "p0.mrk.json", "--landmarks", tmp_path / name]
    images = [folder / f"p{k}.nrrd" for k in (0, 1)]
    given = [*OPTIONS, "--reference", "p0", "--not-cyclic"]
    code, _, err = run(capsys, "sequence", *images, *marks, "-o", tmp_path / "out", *given)
    assert code == 3
    assert words in err
    assert not list((tmp_path / "out" / ".sequence").glob("*/field.nrrd"))


def test_dirlab_landmarks_are_voxels_of_their_own_phase(shared, tmp_path):
    grid = Grid((256, 256, 94), (0.97, 0.97, 2.5), (0.0, 0.0, 0.0))  # case 1
    image = grid.image(np.zeros(grid.shape, np.uint8))
    paths = [tmp_path / "T00.nrrd", tmp_path / "T50.nrrd"]
    for path in paths:
        sitk.WriteImage(image, str(path), True)
    folder = shared / "landmarks" / "dirlab_4dct"
    phases = find_phases(paths, [folder / f"case1_300_{name}_xyz.txt" for name in ("T00", "T50")])
    found = still(phases, [image, image], 1)
    assert found.summary(0)["after"]["mean"] == pytest.approx(3.89, abs=0.01)  # as published
    assert found.summary(0)["after"]["count"] == 300
    assert len(found.to_csv().splitlines()) == 1 + 2 * 300


@pytest.mark.parametrize(
    ("index", "names"),
    [
        ("0 50.5 100", ["phase0", "phase50.5", "phase100"]),
        ("full%20inhale middle exhale", ["full_inhale", "middle", "exhale"]),
        ("a a b", ["phase00", "phase01", "phase02"]),  # not one name a phase: by their order
        ("0 1", ["phase00", "phase01", "phase02"]),
    ],
)
def test_index_of_slicers_sequence_names_the_phases(tmp_path, index, names):
    image = sitk.Image([4, 4, 4], sitk.sitkVectorInt16, 3)
    image.SetMetaData("axis 0 index values", index)
    sitk.WriteImage(image, str(tmp_path / "scan.seq.nrrd"))
    assert [phase.name for phase in find_phases([tmp_path / "scan.seq.nrrd"])] == names
