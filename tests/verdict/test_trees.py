"""What trees add to the base: said with an interval over groups, never over steps alone."""

import numpy as np
import pandas as pd
import pytest

from h3.common.config import fold, study
from h3.evaluation.result import FoldResult
from h3.verdict.trees import gain

FOLDS = [fold(name) for name in study().folds]


def predictions(base, with_trees, experiments=3, apart=0.0, rows=200):
    """Steps of some experiments: signed errors in % of the base and with trees, `apart` points between
    experiments.
    """
    observed = np.random.default_rng(0).uniform(5e3, 4e4, rows * experiments)
    number = np.repeat(np.arange(experiments), rows)
    shift = apart * (number - (experiments - 1) / 2)
    return pd.DataFrame(
        {
            "experiment": [f"run-{each}" for each in number],
            "observed_us": observed,
            "base_us": observed * (1 + base / 100),
            "predicted_us": observed * (1 + (with_trees + shift) / 100),
        }
    )


def results(trees):
    return [
        FoldResult(
            fold=each.name,
            kind=each.kind,
            holdout=each.holdout,
            model="xgboost_residual",
            data_digest="d1",
            n_test=600,
            mape=1.0,
            mape_interval=(1.0, 1.0),
            params={"n_estimators": trees.get(each.name, 0)},
        )
        for each in FOLDS
    ]


ALL = {each.name: 64 for each in FOLDS}


def test_trees_that_help_on_every_fold_are_said_to_with_points_and_interval():
    gains = [2.0, 2.2, 1.8, 2.1, 1.9, 2.0, 2.3, 1.7]
    frames = {each.name: predictions(5.0, 5.0 - won) for each, won in zip(FOLDS, gains, strict=True)}
    found = gain(results(ALL), frames)
    assert found.mean_gain == pytest.approx(2.0)
    assert 1.5 < found.interval[0] < 2.0 < found.interval[1] < 2.5
    assert found.sentence.startswith("Trees improve on the base by +2.00 points [+1.8")
    first = found.folds[0]
    assert (first.base, first.with_trees, first.gain) == pytest.approx((5, 3, 2)) and first.trees == 64


def test_gains_that_go_both_ways_are_nothing_that_can_be_told_apart_from_zero():
    gains = [1.0, -0.8, 0, 0, 0.6, -0.4, 0, 0]
    frames = {each.name: predictions(5.0, 5.0 - won) for each, won in zip(FOLDS, gains, strict=True)}
    some = {FOLDS[number].name: 8 for number in (0, 1, 4, 5)}
    found = gain(results(some), frames)
    assert found.interval[0] < 0 < found.interval[1]
    assert found.sentence.startswith("Trees add nothing that 8 folds can tell apart from 0: +0.05 points")
    assert found.sentence.endswith(
        f"physics answers alone on {', '.join(FOLDS[number].name for number in (2, 3, 6, 7))}."
    )


def test_trees_that_harm_everywhere_are_said_to():
    frames = {each.name: predictions(3.0, 4.0 + number / 10) for number, each in enumerate(FOLDS)}
    assert gain(results(ALL), frames).sentence.startswith("Trees make the base worse: they take -1.35 points")


def test_without_a_tree_in_any_fold_physics_answers_alone():
    found = gain(results({}), {each.name: predictions(3.0, 3.0) for each in FOLDS})
    assert (found.mean_gain, found.interval) == (0.0, (0.0, 0.0))
    assert found.sentence == "Trees are in none of 8 folds: physics answers alone."


def test_a_folds_interval_widens_where_its_experiments_disagree_however_many_steps_they_have():
    (name,) = (FOLDS[0].name,)

    def width(apart, rows=200):
        ((low, high),) = (
            each.interval
            for each in gain(results(ALL), {name: predictions(5.0, 4.0, apart=apart, rows=rows)}).folds
        )
        return high - low

    assert width(1.0) > 5 * width(0.1)
    assert width(1.0, rows=2000) == pytest.approx(width(1.0), rel=0.01)


def test_a_fold_of_one_experiment_has_no_interval_and_a_single_fold_no_verdict():
    found = gain(results(ALL), {FOLDS[0].name: predictions(5.0, 4.0, experiments=1)})
    assert found.folds[0].interval == found.interval == (None, None)
    assert found.sentence.startswith("Too few folds")


def test_a_sweep_without_the_residual_model_says_nothing_of_trees():
    assert gain([], {}) is None
