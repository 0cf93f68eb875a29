"""Intervals hold the share of steps that they say, on groups that did not set them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from h3.evaluation import intervals
from h3.evaluation.intervals import Group


def group(generator: np.random.Generator, bias: float, spread: float, steps: int = 400) -> Group:
    logs = bias * generator.normal() + spread * generator.standard_t(4, steps)
    return Group("g", logs, np.full(steps, 1 / steps))


@pytest.mark.parametrize(("bias", "spread"), [(0.05, 0.005), (0.03, 0.03), (0.005, 0.03)])
@pytest.mark.parametrize("count", [4, 11])
def test_nine_in_ten_steps_of_a_new_group_lie_inside_whatever_rules_the_error(bias, spread, count):
    generator = np.random.default_rng(1)
    shares = []
    for _ in range(150):
        groups = [group(generator, bias, spread) for _ in range(count)]
        shares.append(group(generator, bias, spread).covered(intervals.half_width(groups, 0.9)))
    assert 0.85 <= np.mean(shares) <= 0.96


def test_coverage_is_of_the_group_that_did_not_set_the_width():
    inside = [Group(name, np.array([-0.01, 0.01]), np.array([0.5, 0.5])) for name in "ab"]
    far = Group("c", np.array([0.2, 0.2]), np.array([0.5, 0.5]))
    assert intervals.coverage([*inside, far], 0.9) == pytest.approx(2 / 3)
    assert intervals.coverage(inside, 0.9) is None


@given(st.integers(2, 12), st.floats(0, 0.2), st.floats(0.001, 0.1), st.integers(0, 100))
def test_a_higher_level_is_never_narrower(count, bias, spread, seed):
    generator = np.random.default_rng(seed)
    groups = [group(generator, bias, spread, 60) for _ in range(count)]
    widths = [intervals.half_width(groups, level) for level in intervals.LEVELS]
    assert widths == sorted(widths)


def test_experiments_of_a_fold_weigh_the_same_whatever_their_number_of_steps():
    rows = {"experiment": ["a"] * 9 + ["b"], "observed_us": [110.0] * 9 + [90.0], "predicted_us": 100.0}
    found = intervals.residuals("fold", pd.DataFrame(rows))
    assert found.bias == pytest.approx((np.log(1.1) + np.log(0.9)) / 2)
    assert found.covered(0.1) == pytest.approx(0.5)


def test_thirds_are_contiguous_in_time_and_leave_experiments_of_few_steps_in():
    table = pd.DataFrame(
        {"experiment": ["long"] * 12 + ["short"] * 2, "clock": 0, "step_id": [*range(11, -1, -1), 0, 1]}
    )
    first, middle, last = intervals.thirds(table)
    assert sorted(table["step_id"][first]) == [0, 1, 2, 3]
    assert sorted(table["step_id"][middle]) == [4, 5, 6, 7]
    assert sorted(table["step_id"][last]) == [8, 9, 10, 11]
    assert not (first | middle | last)[12:].any()
