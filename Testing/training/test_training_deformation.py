"""The random deformations, against gryds and analytic truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from progressive_training.deformation import (
    FINE,
    TABLE_I,
    Deformation,
    GrydsDeformation,
    Lattice,
    SplineSpec,
    draw,
    draw_control,
    folds,
    identity,
    jacobian_determinant,
    look_up,
)
from scipy.ndimage import map_coordinates


def gryds_field(control: torch.Tensor, lattice: Lattice) -> np.ndarray:
    """u (3, D, H, W) x, y, z in fine voxels, from gryds."""
    gryds = pytest.importorskip("gryds")
    p = (lattice.positions() / FINE).astype(np.float32)
    points = np.array(np.meshgrid(p, p, p, indexing="ij"), np.float32)
    spline = gryds.BSplineTransformation(control.numpy()[::-1] / FINE, order=3)
    moved = spline.transform(points.reshape(3, -1)).reshape(points.shape)
    return (moved - points)[::-1] * FINE


@pytest.mark.parametrize("name", list(TABLE_I))
@pytest.mark.parametrize("lattice", [Lattice(FINE), Lattice(64, 3)], ids=["fine", "coarse, padded"])
def test_each_spline_of_table_1_is_that_of_gryds(name, lattice):
    control = draw_control(np.random.default_rng(3), TABLE_I[name])
    ours = Deformation(control, control, control).t1_field(lattice).numpy()
    assert np.abs(ours - gryds_field(control, lattice)).max() < 1e-3


def test_t2_is_t21_after_t22_as_gryds_composes_them():
    deformation = draw(np.random.default_rng(4))
    lattice = Lattice(64)
    reference = GrydsDeformation(deformation.t1, deformation.t21, deformation.t22).t2_field(lattice)
    swapped = GrydsDeformation(deformation.t1, deformation.t22, deformation.t21).t2_field(lattice)
    error = (deformation.t2_field(lattice) - reference).abs()
    # T2,1 is looked up trilinearly at T2,2(x), two fine voxels apart: not exact, and far from the other
    # order.
    assert error.max() < 0.1
    assert error.mean() < 0.02
    assert (swapped - reference).abs().max() > 1.0


def test_control_points_run_through_table_1s_ranges_with_z_the_longest():
    rng = np.random.default_rng(0)
    draws = torch.stack([draw_control(rng, TABLE_I["t21"]) for _ in range(60)])
    largest = draws.abs().amax((0, 2, 3, 4))
    assert torch.allclose(largest, torch.tensor([3.2, 6.4, 12.8]), rtol=0.02)
    assert (largest <= torch.tensor([3.2, 6.4, 12.8]) + 1e-5).all()


def test_a_cells_centre_is_the_mean_of_the_fine_centres_in_it():
    fine = np.arange(FINE).reshape(64, 2).mean(1)
    assert np.allclose(Lattice(64).positions(), fine)
    assert np.allclose(Lattice(64, 2).positions()[2:-2], fine)


def test_look_up_interpolates_trilinearly_as_scipy_does():
    rng = np.random.default_rng(5)
    field = rng.normal(size=(1, 32, 32, 32)).astype(np.float32)
    points = rng.uniform(2, FINE - 3, (3, 1, 1, 200)).astype(np.float32)
    lattice = Lattice(32)
    found = look_up(torch.from_numpy(field), lattice, torch.from_numpy(points)).numpy().ravel()
    cells = lattice.cell(torch.from_numpy(points)).numpy().reshape(3, -1)
    assert np.allclose(found, map_coordinates(field[0], cells[::-1], order=1), atol=1e-4)


def test_t1_of_t2_composes_the_two():
    deformation = draw(np.random.default_rng(6))
    lattice = Lattice(64)
    u = deformation.t2_field(lattice)
    points = (identity(lattice) + u).numpy()
    both = deformation.t1_of_t2(u, lattice).numpy()
    spline = [
        map_coordinates(
            deformation.t1[c].numpy().astype(float),
            points[::-1].reshape(3, -1) / FINE * (deformation.t1.shape[-1] - 1),
            order=3,
            mode="mirror",
        ).reshape(points.shape[1:])
        for c in range(3)
    ]
    assert np.abs(both - points - np.stack(spline)).max() < 0.01  # a look-up two fine voxels apart


def test_a_moving_box_that_differs_adds_its_affine_map():
    zero = torch.zeros(3, 4, 4, 4)
    deformation = Deformation(zero, zero, zero, (1.1, 0.9, 1.0), (2.0, -1.0, 0.5))
    lattice = Lattice(64)
    i = identity(lattice).numpy()
    expected = np.stack([0.1 * i[0] + 2.0, -0.1 * i[1] - 1.0, 0 * i[2] + 0.5])
    assert np.allclose(deformation.t2_field(lattice).numpy(), expected, atol=1e-4)


def test_the_jacobian_of_an_affine_map_is_its_determinant():
    matrix = np.array([[1.1, 0.2, 0.0], [0.05, 0.9, -0.1], [0.0, 0.3, 1.2]])
    lattice = Lattice(32)
    i = identity(lattice).numpy()
    u = np.einsum("ab,bzyx->azyx", matrix - np.eye(3), i)
    found = jacobian_determinant(torch.from_numpy(u.astype(np.float32)), lattice.step).numpy()
    assert np.allclose(found, np.linalg.det(matrix), atol=1e-3)


def test_folding_is_noticed_and_never_drawn():
    sharp = torch.zeros(3, 8, 8, 8)
    sharp[2, 3], sharp[2, 4] = 14.0, -14.0
    nothing = torch.zeros(3, 2, 2, 2)
    assert folds(Deformation(nothing, nothing, sharp))
    assert not folds(Deformation(nothing, nothing, 0.2 * sharp))
    table = {**TABLE_I, "t22": SplineSpec(8, (6.0, 6.0, 6.0))}
    for seed in range(3):
        deformation = draw(np.random.default_rng(seed), table, attempts=60)
        assert jacobian_determinant(deformation.t2_field(Lattice(32)), 4.0).min() > 0


def test_ranges_that_always_fold_end_with_a_message():
    table = {**TABLE_I, "t22": SplineSpec(8, (200.0, 200.0, 200.0))}
    with pytest.raises(ValueError, match="displacement ranges smaller"):
        draw(np.random.default_rng(0), table, attempts=3)
