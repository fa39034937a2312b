"""Fields that agree with each other round the breathing cycle, and how far they disagreed before.

Known are, with errors that are independent in part: the direct maps F_k from the reference to each phase k,
and the steps N_k from each phase to the next. Wanted is for each point x of the reference one path p_k
through all phases. It is the least-squares solution of  p_k = F_k(x)  and  p_k+1 - p_k = N_k(F_k(x)) -
F_k(x),  all with the same weight: linear, and the same small matrix for every voxel.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..field import DisplacementField
from ..geometry import Grid
from ..progress import Stop, check
from ..statistics import statistics


def adjusted(
    direct: Mapping[int, DisplacementField],
    steps: Mapping[int, DisplacementField],
    count: int,
    reference: int,
    grid: Grid,
    *,
    cancelled: Stop = None,
) -> np.ndarray:
    """(count, z, y, x, 3) float32 mm: the displacement from the reference to every phase, on ``grid``.

    Parameters
    ----------
    direct : phase -> field from the reference to it; all but the reference itself.
    steps : phase -> field from it to the next one (after the last comes the first); without any, the direct
        fields are it.
    """
    paths = np.zeros((count, *grid.shape, 3), np.float32)
    from_direct, from_steps = _solution(count, reference, sorted(steps))
    points = grid.points()
    for z in range(grid.shape[0]):
        check(cancelled)
        x = points[z].reshape(-1, 3).astype(float)
        u = np.zeros((count, *x.shape))
        for k, field in direct.items():
            u[k] = field.sample(x)
        if steps:
            moves = np.stack([steps[k].sample(x + u[k]) for k in sorted(steps)])
            u = np.tensordot(from_direct, u, 1) + np.tensordot(from_steps, moves, 1)
        paths[:, z] = u.reshape(count, *points[z].shape)
    return paths


def _solution(count: int, reference: int, steps: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Matrices (count, count) and (count, steps): paths from direct displacements and from the steps'
    moves.
    """
    difference = np.zeros((len(steps), count))
    for row, k in enumerate(steps):
        difference[row, (k + 1) % count] += 1
        difference[row, k] -= 1
    free = [k for k in range(count) if k != reference]
    normal = np.linalg.inv(np.eye(count - 1) + difference[:, free].T @ difference[:, free])
    from_direct, from_steps = np.zeros((count, count)), np.zeros((count, len(steps)))
    from_direct[np.ix_(free, free)] = normal
    from_steps[free] = normal @ difference[:, free].T
    return from_direct, from_steps


def closing_error(
    steps: Mapping[int, DisplacementField], count: int, reference: int, points: np.ndarray
) -> dict:
    """Statistics in mm of |C(x) - x|, C being all steps one after the other, round the breath from the
    reference and back.

    ``points``: LPS mm (n, 3) in the reference's lungs. It says how far ``count`` registrations in a row are
    off together; no field that is written went that way.
    """
    x = np.asarray(points, float)
    for k in range(count):
        x = steps[(reference + k) % count].warp_points(x)
    return statistics(np.linalg.norm(x - points, axis=1))


def step_disagreement(
    paths: Mapping[int, DisplacementField],
    steps: Mapping[int, DisplacementField],
    count: int,
    points: np.ndarray,
) -> dict[int, dict]:
    """Phase -> statistics in mm of |N_k(p_k) - p_k+1| at reference points (n, 3): the transitivity error of
    three maps.
    """
    out = {}
    for k, step in steps.items():
        here, there = paths[k].warp_points(points), paths[(k + 1) % count].warp_points(points)
        out[k] = statistics(np.linalg.norm(step.warp_points(here) - there, axis=1))
    return out
