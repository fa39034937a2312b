"""The paper's figures: what is drawn is what was given, and the files can be read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.image import imread
from progressive_training import figures
from progressive_training.evaluation import MethodResult, PairResult
from progressive_training.schedule import Schedule
from ProgressiveRegistrationLib.errors import InputError


def made_up_result(name="1", seed=0, count=60) -> PairResult:
    """A pair whose second method is nearly right and whose first sees half of the motion;
    a blob as picture."""
    rng = np.random.default_rng(seed)
    fixed = rng.uniform(-100, 100, (count, 3))
    true = rng.normal(0, 1, (count, 3)) * (2, 4, 6) + (0, 3, 8)
    methods = {}
    for label, share, noise in (("baseline", 0.5, 1.0), ("progressive", 1.0, 0.3)):
        mapped = fixed + share * true + rng.normal(0, noise, (count, 3))
        errors = np.linalg.norm(mapped - fixed - true, axis=1)
        folding = {"lung_percent": 0.1, "field_of_view_percent": 0.2}
        methods[label] = MethodResult(mapped, errors, folding, 1.0, "own")
    y, x = np.mgrid[:80, :100]

    def blob(shift):
        return np.exp(-((x - 50) ** 2 + (y - 40 - shift) ** 2) / 300)

    pictures = {"fixed": blob(0), "before": blob(15), "baseline": blob(6), "progressive": blob(1)}
    labels = tuple(str(i) for i in range(count))
    before = np.linalg.norm(true, axis=1)
    return PairResult("Made up", name, labels, fixed, fixed + true, before, methods, pictures)


def write_log(folder, errors, tre, repeat_from=None):
    """A run's folder with a log: training entries every iteration, validations every 10."""
    folder.mkdir()
    schedule = Schedule.stages([20, 20, 20], [10, 10])
    lines = []
    for t in range(1, 81):
        lines.append({"kind": "train", "iteration": t, "loss": 100 / t, "alpha": schedule.alpha(t - 1)})
        if t % 10 == 0:
            k = t // 10 - 1
            lines.append(
                {"kind": "validation", "iteration": t, "lung_error_mm": errors[k], "tre_pair_mm": tre[k]}
            )
    if repeat_from:
        # A run that was stopped and resumed writes some iterations twice.
        lines += [{**entry, "again": True} for entry in lines if entry["iteration"] >= repeat_from]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def runs(tmp_path):
    k = np.arange(8)
    return (
        write_log(tmp_path / "progressive", (14 - 1.2 * k).tolist(), (6 - 0.5 * k).tolist(), repeat_from=60),
        write_log(tmp_path / "baseline", (14 - 0.8 * k).tolist(), (6.5 - 0.3 * k).tolist()),
    )


def lines_of(axes) -> dict:
    return {line.get_label(): line.get_xydata() for line in axes.get_lines()}


def test_figures_are_written_as_png_and_svg_that_do_not_change(tmp_path):
    paths = figures.save(figures.correlations([made_up_result()]), tmp_path, "figure")
    assert [p.name for p in paths] == ["figure.png", "figure.svg"]
    picture = imread(paths[0])
    assert min(picture.shape[:2]) > 400
    assert picture[..., :3].std() > 0.05
    assert "true displacement" in paths[1].read_text(encoding="utf-8")
    first = paths[1].read_bytes()
    figures.save(figures.correlations([made_up_result()]), tmp_path, "figure")
    assert paths[1].read_bytes() == first
    assert {p.name for p in tmp_path.iterdir()} == {"figure.png", "figure.svg"}


def test_a_resumed_run_counts_each_iteration_once(runs):
    log = figures.read_log(runs[0])
    keys = [(e["kind"], e["iteration"]) for e in log]
    assert len(keys) == len(set(keys)) == 88
    assert all(e.get("again", False) == (e["iteration"] >= 60) for e in log)
    x, y = figures.curve(log, "lung_error_mm")
    np.testing.assert_array_equal(x, np.arange(10, 81, 10))
    np.testing.assert_allclose(y, 14 - 1.2 * np.arange(8))


def test_what_a_run_went_back_on_is_left_out(tmp_path):
    """Validations of an abandoned stretch may lie between those of the stretch that counts."""
    kept = [("train", 10), ("validation", 10), ("train", 20)]
    abandoned = [("train", 30), ("validation", 35), ("train", 40)]
    again = [("train", 30), ("validation", 30), ("train", 40), ("validation", 50)]
    lines = [json.dumps({"kind": k, "iteration": i}) for k, i in kept + abandoned + again]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    found = [(e["kind"], e["iteration"]) for e in figures.read_log(tmp_path)]
    assert found == sorted(kept + again)


def test_the_training_figure_shows_schedule_and_curves(runs):
    logs = {"progressive": figures.read_log(runs[0]), "baseline": figures.read_log(runs[1])}
    curves = {"error (mm)": {label: figures.curve(log, "lung_error_mm") for label, log in logs.items()}}
    figure = figures.training_curves(logs, [32, 64, 128], curves)
    schedule, errors = figure.axes
    drawn = lines_of(schedule)
    assert set(drawn) == {"32³", "64³", "128³"}
    np.testing.assert_allclose(sum(d[:, 1] for d in drawn.values()), 1)
    expected = Schedule.stages([20, 20, 20], [10, 10])
    np.testing.assert_allclose(drawn["64³"][:, 1], [expected.alpha(t)[1] for t in range(80)])
    np.testing.assert_allclose(lines_of(errors)["baseline"][:, 1], 14 - 0.8 * np.arange(8))


def test_the_scatter_pairs_the_same_iterations_of_both_runs(runs):
    progressive, baseline = figures.runs_together(*runs)
    np.testing.assert_allclose(progressive, 6 - 0.5 * np.arange(8))
    np.testing.assert_allclose(baseline, 6.5 - 0.3 * np.arange(8))
    figure = figures.snapshot_scatter(progressive, baseline)
    axes = figure.axes[0]
    points = axes.get_lines()[-1].get_xydata()
    np.testing.assert_allclose(points, np.stack([baseline, progressive], 1))
    assert axes.get_title() == "progressive better in 8 of 8"
    with pytest.raises(InputError, match="same snapshots"):
        figures.snapshot_scatter(progressive, baseline[:-1])


def test_the_scatters_density_is_highest_where_the_points_are():
    rng = np.random.default_rng(0)
    progressive, baseline = rng.normal(3, 0.2, 200), rng.normal(5, 0.3, 200)
    image = figures.snapshot_scatter(progressive, baseline).axes[0].get_images()[0]
    density = image.get_array()
    row, column = np.unravel_index(np.argmax(density), density.shape)
    low, high = image.get_extent()[:2]
    x, y = (low + (high - low) * k / (len(density) - 1) for k in (column, row))
    assert (x, y) == pytest.approx((5, 3), abs=0.3)


def test_points_on_a_line_are_drawn_without_a_density():
    figure = figures.snapshot_scatter(np.arange(5.0), np.arange(5.0))
    assert not figure.axes[0].get_images()


def test_level_maps_have_a_row_for_each_level_and_the_truth_beside():
    truth = np.linspace(-4, 4, 64).reshape(8, 8)
    history = {
        10: {"8³": truth[:2, :2], "progressive": truth / 2},
        20: {"8³": truth[:2, :2], "16³": truth[:4, :4], "progressive": truth},
    }
    figure = figures.level_maps(history, truth)
    rows = [a.get_ylabel() for a in figure.axes if a.get_ylabel() and "voxels" not in a.get_ylabel()]
    assert rows == ["8³", "16³", "progressive"]
    pictures = [a.get_images()[0] for a in figure.axes if a.get_images()]
    # Two of 8³, one of 16³, two of the sum, the truth.
    assert len(pictures) == 6
    assert {p.get_clim() for p in pictures} == {(-4.0, 4.0)}
    np.testing.assert_array_equal(pictures[-1].get_array(), truth)


def test_overlays_show_fixed_orange_and_moving_blue():
    result = made_up_result()
    figure = figures.overlays([result])
    pictures = [a.get_images()[0].get_array() for a in figure.axes]
    assert [a.get_title().split(":")[0] for a in figure.axes] == ["before", "baseline", "progressive"]
    # Above the moved blob only the fixed one is bright, below it only the moving one.
    above, below = pictures[0][25, 50].astype(int), pictures[0][70, 50].astype(int)
    assert above[0] > above[2] + 40
    assert below[2] > below[0] + 40
    colourfulness = [np.ptp(p.astype(int), axis=-1).mean() for p in pictures]
    assert colourfulness == sorted(colourfulness, reverse=True)


def test_overlays_of_many_pairs_keep_the_easiest_and_the_hardest():
    results = [made_up_result(str(k), seed=k) for k in range(9)]
    figure = figures.overlays(results, most=3)
    order = sorted(results, key=lambda r: r.before.mean())
    shown = [a.get_ylabel().split()[-1] for a in figure.axes if a.get_ylabel()]
    assert len(shown) == 3
    assert {order[0].name, order[-1].name} <= set(shown)


def test_correlations_are_those_of_the_displacements():
    results = [made_up_result(str(k), seed=k) for k in range(2)]
    figure = figures.correlations(results)
    assert len(figure.axes) == 6
    for panel in figure.axes:
        x, y = panel.get_lines()[-1].get_xydata().T
        assert len(x) == 120
        assert panel.get_title().endswith(f"r = {np.corrcoef(x, y)[0, 1]:.3f}")
    slope = [np.polyfit(*figure.axes[k].get_lines()[-1].get_xydata().T, 1)[0] for k in (2, 5)]
    assert slope == pytest.approx([0.5, 1.0], abs=0.1)


def test_figures_without_data_say_so(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        figures.read_log(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="is empty"):
        figures.read_log(tmp_path)
    with pytest.raises(InputError, match="no pictures"):
        figures.overlays([])
    with pytest.raises(InputError, match="no results"):
        figures.correlations([])
    with pytest.raises(InputError, match="no level maps"):
        figures.level_maps({}, np.zeros((2, 2)))
