"""Metrics against loops that a child could check, one number each worked by hand, and NaN for nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h3.steps import metrics

EMPTY = np.empty(0)
PREDICTED, OBSERVED = np.array([90.0, 220.0, 400.0]), np.array([100.0, 200.0, 400.0])
PAIRS = st.lists(
    st.tuples(st.floats(0.1, 1e6), st.floats(0.1, 1e6), st.sampled_from("abc")), min_size=1, max_size=30
)


def columns(pairs):
    predicted, observed, experiment = zip(*pairs, strict=True)
    return np.array(predicted), np.array(observed), np.array(experiment)


def loop_ape(predicted, observed):
    return [100 * abs(p - o) / o for p, o in zip(predicted, observed, strict=True)]


def test_ten_percent_low_ten_percent_high_and_exact_by_hand():
    assert metrics.ape(PREDICTED, OBSERVED).tolist() == [10, 10, 0]
    assert metrics.mape(PREDICTED, OBSERVED) == pytest.approx(20 / 3)
    assert metrics.bias(PREDICTED, OBSERVED) == pytest.approx(0)
    assert metrics.bias(np.array([110.0, 150.0]), np.array([100.0, 100.0])) == 30
    assert metrics.quantile_ape(PREDICTED, OBSERVED, 0.5) == 10
    assert metrics.quantile_ape(
        np.array([100.0, 110.0, 120.0, 130.0, 140.0]), np.full(5, 100.0), 0.75
    ) == pytest.approx(30)
    assert metrics.pearson_r(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])) == pytest.approx(0.5)


def test_each_experiment_weighs_the_same_whatever_its_size_by_hand():
    predicted, observed = np.array([110.0, 110.0, 110.0, 130.0]), np.full(4, 100.0)
    assert metrics.macro_mape(predicted, observed, np.array(["a", "a", "a", "b"])) == pytest.approx(20)
    assert metrics.mape(predicted, observed) == pytest.approx(15)


@settings(max_examples=50, deadline=None)
@given(PAIRS)
def test_errors_are_those_of_a_naive_loop(pairs):
    predicted, observed, experiment = columns(pairs)
    naive = loop_ape(predicted, observed)
    assert metrics.ape(predicted, observed) == pytest.approx(naive)
    assert metrics.mape(predicted, observed) == pytest.approx(sum(naive) / len(naive))
    signed = sum(100 * (p - o) / o for p, o in zip(predicted, observed, strict=True)) / len(predicted)
    assert metrics.bias(predicted, observed) == pytest.approx(signed, rel=1e-9, abs=1e-6)
    by_experiment = {}
    for name, error in zip(experiment, naive, strict=True):
        by_experiment.setdefault(name, []).append(error)
    macro = sum(sum(errors) / len(errors) for errors in by_experiment.values()) / len(by_experiment)
    assert metrics.macro_mape(predicted, observed, experiment) == pytest.approx(macro)


@settings(max_examples=50, deadline=None)
@given(PAIRS, st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_between_the_sorted_errors_around_its_rank(pairs, q):
    predicted, observed, _ = columns(pairs)
    errors = sorted(loop_ape(predicted, observed))
    rank = q * (len(errors) - 1)
    low, high = errors[math.floor(rank)], errors[math.ceil(rank)]
    assert low - 1e-6 * (1 + low) <= metrics.quantile_ape(predicted, observed, q) <= high + 1e-6 * (1 + high)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 1000)), min_size=2, max_size=20))
def test_the_correlation_is_that_of_a_naive_loop(pairs):
    x, y = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in pairs)
    spread = math.sqrt(sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y))
    if spread == 0:
        assert math.isnan(metrics.pearson_r(x, y))
    else:
        assert metrics.pearson_r(x, y) == pytest.approx(covariance / spread, abs=1e-9)


def test_no_rows_give_nan_never_zero():
    values = [
        metrics.mape(EMPTY, EMPTY),
        metrics.bias(EMPTY, EMPTY),
        metrics.quantile_ape(EMPTY, EMPTY, 0.5),
        metrics.pearson_r(EMPTY, EMPTY),
        metrics.macro_mape(EMPTY, EMPTY, EMPTY),
        *metrics.interval(EMPTY, EMPTY, seed=0),
    ]
    assert all(math.isnan(value) for value in values)
    assert len(metrics.ape(EMPTY, EMPTY)) == len(metrics.phase(EMPTY, EMPTY)) == 0


def test_one_row_or_a_constant_side_has_no_correlation():
    assert math.isnan(metrics.pearson_r(np.array([1.0]), np.array([1.0])))
    assert math.isnan(metrics.pearson_r(np.array([1.0, 2.0]), np.array([3.0, 3.0])))


def naive_bootstrap(errors, experiment, seed, resamples):
    """Macro means of block resamples, drawn block by block: fifty rows each, fewer where that left less than
    twenty blocks.
    """
    rng = np.random.default_rng(seed)
    totals = np.zeros(resamples)
    names = sorted(set(experiment))
    for name in names:
        own = [error for error, of in zip(errors, experiment, strict=True) if of == name]
        block = 50
        while block > 1 and len(own) / block < 20:
            block -= 1
        starts = rng.integers(0, len(own) - block + 1, size=(resamples, max(1, round(len(own) / block))))
        for index, drawn in enumerate(starts):
            picked = [value for start in drawn for value in own[start : start + block]]
            totals[index] += sum(picked) / len(picked) / len(names)
    return totals


def test_bootstrap_means_are_those_of_blocks_drawn_one_by_one():
    rng = np.random.default_rng(1)
    errors, experiment = rng.exponential(5, 1525), np.array(["a"] * 1400 + ["b"] * 110 + ["c"] * 15)
    naive = naive_bootstrap(errors, experiment, 3, metrics.RESAMPLES)
    assert metrics.bootstrap_means(errors, experiment, 3) == pytest.approx(naive)


def test_the_interval_holds_the_mean_is_the_same_for_a_seed_and_narrows_with_data():
    rng = np.random.default_rng(2)
    few, many = rng.exponential(5, 500), rng.exponential(5, 20_000)
    low, high = metrics.interval(few, np.array(["a"] * 500), seed=0)
    assert low < few.mean() < high
    assert metrics.interval(few, np.array(["a"] * 500), seed=0) == (low, high)
    wide = metrics.interval(few, np.array(["a"] * 500), seed=0, level=0.99)
    assert wide[0] < low < high < wide[1]
    narrow = metrics.interval(many, np.array(["a"] * 20_000), seed=0)
    assert narrow[1] - narrow[0] < (high - low) / 3


def test_errors_that_stay_alike_for_many_steps_widen_the_interval():
    rng = np.random.default_rng(3)
    alike = np.repeat(rng.exponential(5, 100), 50)
    apart = rng.permutation(alike)
    name = np.array(["a"] * 5000)
    spread = [
        high - low for low, high in (metrics.interval(alike, name, 0), metrics.interval(apart, name, 0))
    ]
    assert spread[0] > 3 * spread[1]


@pytest.mark.parametrize(
    ("prefill", "decode", "phase"),
    [
        (95.0, 5.0, "prefill"),
        (0.0, 7.0, "decode"),
        (50.0, 50.0, "mixed"),
        (90.0, 10.0, "mixed"),
        (91.0, 9.0, "prefill"),
        (10.0, 90.0, "mixed"),
        (9.0, 91.0, "decode"),
        (16.0, 0.0, "prefill"),
    ],
)
def test_a_phase_needs_more_than_nine_tenths_of_the_tokens(prefill, decode, phase):
    assert metrics.phase(np.array([prefill]), np.array([decode])).tolist() == [phase]
