"""Ours against a rival on the same steps: better, worse, or noise."""

import numpy as np
import pandas as pd
import pytest

from h3.common.errors import InputError
from h3.steps import metrics
from h3.verdict import significance


def predictions(errors, experiment="a", observed=100.0):
    errors = np.asarray(errors, dtype=float)
    return pd.DataFrame(
        {
            "experiment": experiment,
            "clock": "steps",
            "step_id": np.arange(len(errors)),
            "observed_us": observed,
            "predicted_us": observed * (1 + errors / 100),
            "ape": np.abs(errors),
        }
    )


NOISE = np.random.default_rng(0).normal(0, 5, 2000)


def test_a_rival_that_is_one_point_worse_everywhere_is_worse_without_doubt():
    found = significance.compare(predictions(np.abs(NOISE)), predictions(np.abs(NOISE) + 1))
    assert found.difference == pytest.approx(-1)
    assert found.interval == pytest.approx([-1, -1])
    assert (found.verdict, found.n_steps) == ("better", 2000)


def test_the_same_difference_the_other_way_round_is_worse():
    assert significance.compare(predictions(np.abs(NOISE) + 1), predictions(np.abs(NOISE))).verdict == "worse"


def test_errors_of_the_same_size_are_noise():
    other = np.random.default_rng(1).normal(0, 5, 2000)
    found = significance.compare(predictions(NOISE), predictions(other))
    assert found.verdict == "noise"
    assert found.interval[0] <= 0 <= found.interval[1]


def test_the_same_predictions_are_noise_not_a_win():
    assert significance.compare(predictions(NOISE), predictions(NOISE)).verdict == "noise"


def test_both_sides_are_drawn_with_the_same_blocks():
    ours, rival = predictions(NOISE), predictions(np.random.default_rng(2).normal(0, 6, 2000))
    experiment = ours["experiment"].to_numpy()
    difference = metrics.bootstrap_means(ours["ape"], experiment, 7) - metrics.bootstrap_means(
        rival["ape"], experiment, 7
    )
    assert significance.compare(ours, rival, seed=7).interval == pytest.approx(
        list(np.quantile(difference, [0.025, 0.975]))
    )


def test_experiments_weigh_the_same_however_long_they_are():
    # a: 300 steps, difference -2; b: 100 steps, difference +4; mean over experiments: +1.
    ours = pd.concat([predictions(np.full(300, 1.0), "a"), predictions(np.full(100, 5.0), "b")])
    rival = pd.concat([predictions(np.full(300, 3.0), "a"), predictions(np.full(100, 1.0), "b")])
    assert significance.compare(ours, rival).difference == pytest.approx(1)


def test_a_rival_scored_on_some_steps_is_compared_on_those():
    ours = predictions(np.r_[np.full(100, 50.0), np.full(50, 1.0)])
    rival = predictions(np.full(150, 2.0)).tail(50)
    found = significance.compare(ours, rival)
    assert (found.n_steps, found.difference) == (50, pytest.approx(-1))


def test_the_order_of_rows_does_not_matter():
    shuffled = predictions(NOISE + 1).sample(frac=1, random_state=0)
    assert significance.compare(predictions(NOISE), shuffled) == significance.compare(
        predictions(NOISE), predictions(NOISE + 1)
    )


def test_different_truths_are_refused():
    with pytest.raises(
        InputError,
        match=r"step 0 of a took 100 us in one run and 200 us in the other; expected the same target",
    ):
        significance.compare(predictions([1, 2]), predictions([1, 2], observed=200.0))


def test_nothing_in_common_is_refused():
    with pytest.raises(InputError, match="no step in common"):
        significance.compare(predictions([1, 2], "a"), predictions([1, 2], "b"))


def test_the_table_has_a_row_a_rival_that_has_predictions_in_their_order():
    rivals = {"x": lambda: predictions([2, 2]), "absent": lambda: None, "a": lambda: predictions([0, 0])}
    found = significance.table(predictions([1, 1]), rivals)
    assert [(row.predictor, row.verdict) for row in found] == [("x", "better"), ("a", "worse")]


def test_steps_with_equal_keys_are_told_apart_by_their_order_whatever_else_differs():
    twice = predictions([1, 3]).assign(step_id=0)
    found = significance.paired(twice, pd.concat([twice.assign(ape=5.0), predictions([9]).assign(step_id=7)]))
    assert found["ape_ours"].tolist() == [1, 3]
    assert found["ape_rival"].tolist() == [5, 5]
