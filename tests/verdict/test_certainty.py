"""Intervals over groups: models that disagree make them wide, whatever many steps each was seen on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from h3.verdict.certainty import over_groups

ERRORS = st.lists(st.floats(0, 100), min_size=2, max_size=12)


def width(interval):
    return interval[1] - interval[0]


def test_the_interval_of_two_groups_is_that_of_students_table():
    # mean 3, standard error 1, and 12.706 of it: t of one degree of freedom at 97.5 %
    assert over_groups([2.0, 4.0]) == pytest.approx((3 - 12.706, 3 + 12.706), abs=1e-3)


def test_models_that_disagree_widen_it_and_models_that_agree_leave_no_width():
    alike, unlike = over_groups([3.0, 3.1, 2.9, 3.0]), over_groups([1.0, 5.0, 0.5, 5.5])
    assert width(unlike) > 10 * width(alike)
    assert over_groups([3.0] * 4) == (3.0, 3.0)


def test_one_group_alone_says_nothing_about_others_and_groups_without_a_number_do_not_count():
    assert over_groups([]) == over_groups([3.0]) == over_groups([3.0, None]) == (None, None)
    assert over_groups([3.0, None, 5.0]) == over_groups([3.0, 5.0])


@given(ERRORS)
def test_it_holds_the_mean_and_an_error_never_falls_below_zero(errors):
    low, high = over_groups(errors, least=0.0)
    assert 0 <= low <= np.mean(errors) + 1e-9 and np.mean(errors) <= high + 1e-9


def test_it_holds_the_true_mean_of_four_models_nineteen_times_in_twenty():
    rng = np.random.default_rng(0)
    found = [over_groups(rng.normal(3, 1, 4).tolist()) for _ in range(2000)]
    assert np.mean([low <= 3 <= high for low, high in found]) == pytest.approx(0.95, abs=0.02)
