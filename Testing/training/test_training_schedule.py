"""The level weights, against the paper's equations written out."""

from __future__ import annotations

import numpy as np
import pytest
from progressive_training.schedule import LearningRate, Schedule
from ProgressiveRegistrationLib.errors import InputError


def equation_2(t: float, i: int, Delta: float, delta: float, levels: int = 5) -> float:
    """Eq. 2 as printed, with the text's exceptions: the last level stays at 1, the first is there at once."""
    tau = -Delta / 2 + (Delta - delta) * i
    if t < tau:
        return 0.0
    if t <= tau + delta:
        return (t - tau) / delta
    if t <= tau + Delta - delta or i == levels - 1:
        return 1.0
    if t <= tau + Delta:
        return (tau + Delta - t) / delta
    return 0.0


@pytest.mark.parametrize(("Delta", "delta"), [(3000, 1000), (4000, 2000), (6000, 2000), (12000, 4000)])
def test_table_4s_rows_follow_equation_2(Delta, delta):
    schedule = Schedule.paper(Delta, delta)
    for t in range(0, 5 * Delta, 137):
        assert schedule.alpha(t) == pytest.approx([equation_2(t, i, Delta, delta) for i in range(5)])
    assert not schedule.warnings()


@pytest.mark.parametrize(
    "schedule", [Schedule.paper(), Schedule.stages([10, 0, 7, 5, 9], [4, 5, 3, 2]), Schedule.baseline()]
)
def test_the_weights_sum_to_one_and_at_most_two_levels_are_active(schedule):
    for t in np.linspace(0, 30000, 4001).tolist() + list(range(70)):
        alpha = schedule.alpha(t)
        assert sum(alpha) == pytest.approx(1)
        assert min(alpha) >= 0
        assert sum(a > 0 for a in alpha) <= 2


def test_training_begins_with_the_coarsest_and_ends_with_the_finest_level():
    schedule = Schedule.paper()
    assert schedule.alpha(0) == [1, 0, 0, 0, 0]
    assert schedule.alpha(10**7) == [0, 0, 0, 0, 1]
    assert schedule.tau == (-3000, 1000, 5000, 9000, 13000)


def test_stages_give_each_level_its_length():
    schedule = Schedule.stages([10, 20, 30], [4, 6])
    assert schedule.tau == (0, 10, 34)
    assert schedule.alpha(9) == [1, 0, 0]
    assert schedule.alpha(12) == pytest.approx([0.5, 0.5, 0])
    assert schedule.alpha(14) == [0, 1, 0]
    assert schedule.alpha(37) == pytest.approx([0, 0.5, 0.5])
    assert schedule.alpha(1000) == [0, 0, 1]


def test_no_delta_and_no_Delta_is_the_baseline():
    assert Schedule.paper(0, 0).alpha(0) == [0, 0, 0, 0, 1]
    assert not Schedule.paper(0, 0).warnings()


def test_without_transitions_it_warns_that_the_loss_explodes():
    schedule = Schedule.paper(4000, 0)
    assert schedule.alpha(1999) == [1, 0, 0, 0, 0]
    assert schedule.alpha(2000) == [0, 1, 0, 0, 0]
    assert "explodes" in schedule.warnings()[0]


@pytest.mark.parametrize(
    "schedule",
    [Schedule.paper(), Schedule.paper(4000, 0), Schedule.stages([10, 0, 7, 5, 9], [4, 5, 3, 2.5])],
)
def test_it_warns_of_training_that_ends_before_the_last_level_is_alone(schedule):
    enough = next(n for n in range(1, 10**5) if schedule.alpha(n - 1) == [0, 0, 0, 0, 1])
    assert schedule.warnings(enough) == schedule.warnings()
    assert schedule.warnings(enough - 1)[-1].endswith(f"make it at least {enough}.")
    assert "a weight of 0.00" in schedule.warnings(1)[-1]
    assert not Schedule.baseline().warnings(1)


@pytest.mark.parametrize(
    ("tau", "Delta", "delta", "message"),
    [
        ((0, 5), (20, 20), (0, 5), "overlap"),
        ((0, 30), (20, 20), (0, 5), "gap"),
        ((0, 10, 12), (15, 8, 9), (0, 5, 6), "still rises"),
        ((5, 20), (20, 20), (0, 5), "iteration 0"),
        ((0, 10), (15,), (0, 5), "as many"),
    ],
)
def test_impossible_schedules_say_what_is_wrong(tau, Delta, delta, message):
    with pytest.raises(InputError, match=message):
        Schedule(tau, Delta, delta).checked()


def test_the_learning_rate_falls_within_each_level_and_starts_anew():
    schedule = Schedule.stages([100, 100], [50])
    rates = LearningRate((1e-3, 5e-4), (1e-4, 5e-5))
    values = [rates.at(schedule, t, 300) for t in range(300)]
    assert values[0] == pytest.approx(1e-3)
    assert values[99] == pytest.approx(1e-4, rel=0.01)
    assert values[100] == pytest.approx(5e-4)
    assert values[299] == pytest.approx(5e-5, rel=0.01)
    assert all(a >= b for a, b in zip(values[:100], values[1:100]))


def test_a_constant_rate_is_the_papers():
    rates = LearningRate((1e-2,) * 5, (1e-2,) * 5)
    assert {rates.at(Schedule.paper(), t, 20000) for t in (0, 999, 5000, 19999)} == {1e-2}
