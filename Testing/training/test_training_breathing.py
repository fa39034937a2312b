"""Modes of breathing: learned from registered phases, drawn from by the sampling, refused when damaged."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from progressive_training.breathing import left_by_boxes, modes_of, principal, read_modes
from progressive_training.cache import ScanStore
from progressive_training.cli import main
from progressive_training.config import read_config
from progressive_training.deformation import (
    FINE,
    TABLE_I,
    Lattice,
    draw_breathing,
    draw_control,
    evaluate,
    nearest_control,
)
from progressive_training.samples import Augmentation, SampleStream, Sampling, draw_deformation
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Box, Grid
from ProgressiveRegistrationLib.lungs import find_lungs, matched_boxes
from small_pair import GRID, chest

SPEC = TABLE_I["t21"]
FIXED, MOVING = Box((-90, -70, -80), (90, 70, 80)), Box((-95, -60, -60), (80, 75, 110))


def control_of(seed: int) -> torch.Tensor:
    return draw_control(np.random.default_rng(seed), SPEC, 0.4)


def field_over(fixed: Box, moving: Box, control: torch.Tensor) -> DisplacementField:
    """A registration of two boxes whose residual motion is ``control``'s, in mm, on its own lattice."""
    grid = Grid((90, 80, 90), (3.0, 3.0, 3.0), (-133.5, -118.5, -133.5))
    index = fixed.grid(FINE).world_to_index(grid.points().astype(float))
    rows = index.reshape(-1, 3)
    # Independent of ``evaluate``'s matrices: SciPy's splines of the same kind, point by point.
    from scipy.ndimage import map_coordinates

    where = (rows / FINE * (SPEC.grid - 1)).T[::-1]
    u = np.stack([map_coordinates(c.numpy(), where, order=3, mode="mirror") for c in control], -1)
    mapped = moving.grid(FINE).index_to_world(rows + u)
    return DisplacementField(grid, (mapped - grid.points().reshape(-1, 3)).reshape(*grid.shape, 3))


def test_what_boxes_leave_of_a_field_is_found_again_in_control_points():
    control = control_of(0)
    lung = FIXED.grid(64).image(np.ones((64, 64, 64), np.uint8))
    u, inside = left_by_boxes(field_over(FIXED, MOVING, control), FIXED, MOVING, lung)
    assert inside.all()
    torch.testing.assert_close(u, evaluate(control, Lattice(32)), atol=0.06, rtol=0)
    torch.testing.assert_close(nearest_control(u, inside, SPEC.grid), control, atol=0.1, rtol=0)


def test_principal_modes_span_the_fields_and_have_their_size():
    first, second = control_of(1), control_of(2)
    weights = np.random.default_rng(3).standard_normal((20, 2))
    modes, explained = principal([float(a) * first + float(b) * second for a, b in weights])
    assert explained == pytest.approx(1, abs=1e-6)
    # The mean square of all fields is the modes' together.
    squares = [float((float(a) * first + float(b) * second).square().sum()) for a, b in weights]
    assert (modes**2).sum() == pytest.approx(np.mean(squares), rel=1e-5)
    inside = np.linalg.lstsq(modes.reshape(3, -1).T, first.numpy().ravel(), rcond=None)[0] @ modes.reshape(
        3, -1
    )
    np.testing.assert_allclose(inside, first.numpy().ravel(), atol=1e-4)


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    """What ``sequence`` leaves of three phases; one moves by a known control grid, one by half of
    it."""
    folder = tmp_path_factory.mktemp("sequence")
    image = GRID.image(chest())
    sitk.WriteImage(image, str(folder / "chest.nrrd"))
    lungs = find_lungs(image)
    boxes = matched_boxes(lungs, lungs)
    control = control_of(4)
    entry = {
        "path": str(folder / "chest.nrrd"),
        "frame": None,
        "series": None,
        "landmarks": None,
        "mask": None,
    }
    report = {
        "reference": "T50",
        "phases": [{"name": n} for n in ("T50", "T00", "T30")],
        "inputs": [entry] * 3,
    }
    report["outputs"] = {f"field_{n}": f"/elsewhere/field_{n}.nrrd" for n in ("T00", "T30")}
    (folder / "sequence.json").write_text(json.dumps(report))
    for name, part in (("T00", 1.0), ("T30", 0.5)):
        field_over(*boxes, part * control).write(folder / f"field_{name}.nrrd")
    return folder, control, lungs.mask


def test_the_command_learns_the_motion_of_a_registered_breath(sequence, tmp_path, capsys):
    folder, control, lungs = sequence
    main_without_exit(["breathing", str(folder), "--output", str(tmp_path / "modes.json")])
    assert "2 modes, 100 % of what lung boxes leave" in capsys.readouterr().out
    found = read_modes(tmp_path / "modes.json")
    # One direction, and in the lungs the field itself; control points that no lung reaches are free.
    inside = torch.from_numpy(sitk.GetArrayFromImage(over_lungs().resample(lungs))) > 0
    expected = evaluate(control, Lattice(32))[:, inside]
    mode = evaluate(torch.from_numpy(found.modes[0]), Lattice(32))[:, inside]
    alike = float((mode * expected).sum() / (mode.norm() * expected.norm()))
    assert abs(alike) > 0.99
    assert float(mode.norm() / expected.norm()) == pytest.approx(np.sqrt((1 + 0.25) / 2), rel=0.05)
    assert found.residual_mm[1] == pytest.approx(found.residual_mm[0] / 2, rel=0.02)


def over_lungs() -> Grid:
    lungs = find_lungs(GRID.image(chest()))
    return matched_boxes(lungs, lungs)[0].grid(32)


def main_without_exit(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code in (0, None)


def test_samples_of_the_breathing_share_move_along_the_modes(sequence, tmp_path):
    folder, _, _ = sequence
    main_without_exit(["breathing", str(folder), "--output", str(tmp_path / "modes.json")])
    modes = read_modes(tmp_path / "modes.json").modes
    plain = Augmentation.none()
    moved = Sampling(
        Augmentation(**{**vars(plain), "breathing_share": 1.0}), breathing_modes=str(tmp_path / "modes.json")
    )
    shares, sizes = [], []
    span = np.linalg.qr(modes.reshape(len(modes), -1).T)[0]
    for seed in range(30):
        values = draw_deformation(np.random.default_rng(seed), moved).t21.numpy().ravel()
        shares.append(np.linalg.norm(span.T @ values) / np.linalg.norm(values))
        sizes.append(np.abs(values).max())
    made_up = [draw_breathing(np.random.default_rng(seed), SPEC).numpy().ravel() for seed in range(30)]
    others = [np.linalg.norm(span.T @ v) / np.linalg.norm(v) for v in made_up]
    assert np.median(shares) > 0.7 > 0.5 > np.median(others)
    # An eighth to three eighths of the largest range, and at most a quarter beside it.
    assert 0.1 * SPEC.ranges[2] < np.min(sizes) < np.max(sizes) < 0.65 * SPEC.ranges[2]


def test_a_configuration_finds_its_modes_beside_itself_or_says_what_is_wrong(sequence, tmp_path):
    folder, _, _ = sequence
    path = tmp_path / "config.yaml"
    path.write_text(
        "data: {train: [data]}\n"
        "sampling: {breathing_modes: modes.json, augmentation: {breathing_share: 0.5}}\n"
    )

    def stream() -> SampleStream:
        return SampleStream(ScanStore([], (-1000, -100), 1.0), read_config(path).sampling, 0)

    with pytest.raises(InputError, match=r"modes\.json cannot be read: No such file"):
        stream()
    (tmp_path / "modes.json").write_text('{"version": 1, "modes": [[1, 2]]}')
    with pytest.raises(InputError, match="holds no breathing modes; make them with"):
        stream()
    main_without_exit(["breathing", str(folder), "--output", str(tmp_path / "modes.json")])
    assert stream().sampling.breathing_modes == str(tmp_path / "modes.json")


def test_a_folder_that_no_sequence_wrote_is_refused(tmp_path):
    with pytest.raises(InputError, match="give a folder that sequence wrote"):
        modes_of([tmp_path])
