"""Levels between models: learned from what the base leaves out, and only where that carries over to a model
never seen."""

from __future__ import annotations

import numpy as np
import pytest
from builders import Steps

from h3.common.config import TuneConfig
from h3.evaluation import folds, tune
from h3.models import physical_base
from h3.models.protocol import Context
from h3.models.xgboost_residual import Params, XGBoostResidual
from h3.steps import catalog, features, metrics, physics
from h3.steps.weights import shape_groups

CONTEXT = Context(group="model")
PRIOR = np.array([physical_base.PRIOR[name][0] for name in physics.TERMS])
OPTIONS = TuneConfig(trials=4)
HELD_OUT = "mistral-nemo-instruct-2407"


def served(level_of, rows=60):
    """Steps of every known model, each as much slower than expected as `level_of` its own number says."""
    built = Steps()
    for name in catalog.MODELS:
        built.run(name, rows)
    table = built.timed(lambda steps: physics.terms_us(steps).to_numpy() @ PRIOR, noise=0.01).table()
    return table.assign(period_us=table["period_us"] * np.exp(level_of(table)))


def from_shares(table):
    """A miss that follows from what small kernels take of a step: the same rule for every model."""
    return np.where(features.build("base_shares", table)["layers_share"] > 0.1, 0.15, -0.15)


def shuffled(table):
    """The same misses, given to models by lot."""
    models = shape_groups(table)
    means = [from_shares(table)[models == number].mean() for number in range(models.max() + 1)]
    return np.random.default_rng(1).permutation(means)[models]


def found(table):
    split = folds.make_split(table, folds.Fold(name="f", kind="lomo", holdout=HELD_OUT))
    outcome = tune.search(split.train, CONTEXT, OPTIONS)
    truth = split.truth["period_us"].to_numpy()
    base = physical_base.fit(split.train, "period_us").predict(split.inputs)
    fitted = XGBoostResidual(outcome.params).fit(split.train, CONTEXT)
    return outcome, fitted, metrics.mape(base, truth) - metrics.mape(fitted.predict(split.inputs), truth)


def test_a_level_that_follows_from_shares_is_learned_for_a_model_never_seen():
    outcome, fitted, gain = found(served(from_shares))
    assert outcome.params.levels and outcome.params.n_estimators > 0
    assert fitted.features == "base_shares"
    assert gain > 2


def test_levels_of_shuffled_identities_are_not_learned():
    outcome, fitted, gain = found(served(shuffled))
    assert outcome.params.n_estimators == 0 and fitted.features == "scale_free"
    assert gain == pytest.approx(0, abs=1e-9)


def test_no_leaf_speaks_of_a_single_model():
    table = served(lambda steps: np.where(steps["model"] == "yi-34b", 0.5, 0.0))
    fitted = XGBoostResidual(Params(n_estimators=20, levels=True, min_child_weight=1)).fit(table, CONTEXT)
    leaves = fitted.booster.trees_to_dataframe().query("Feature == 'Leaf'")
    assert leaves["Cover"].min() >= 1.5 * len(table) / (shape_groups(table).max() + 1) * 0.99


def test_fewer_models_learn_no_levels():
    table = served(from_shares)
    few = table[table["model"].isin(list(catalog.MODELS)[:6])].reset_index(drop=True)
    outcome = tune.search(few, CONTEXT, OPTIONS)
    assert not outcome.params.levels


@pytest.mark.parametrize(
    ("gains", "chosen"),
    [
        ([0.02] * 8, 1),
        ([0.05] * 7 + [-0.02], 1),  # one model may lose
        ([0.1] + [-0.01] * 7, 0),  # a gain that is one model's
        ([0.002] * 8, 0),  # too little
    ],
)
def test_trees_count_where_the_gain_over_models_is_sure(gains, chosen):
    base = np.full(8, 0.1)
    assert tune.surest_rounds(np.column_stack([base, base - np.array(gains)])) == chosen
