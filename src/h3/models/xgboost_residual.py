"""XGBoost on what physics leaves over: period = base(step) * exp(trust(x) * F(x)), F a shallow, regularised
boosting.

    fitted = XGBoostResidual(Params(n_estimators=40)).fit(train, Context())
    fitted.predict(inputs)

The label is log(target / base), so that an error of 10 % costs the same for every model, and trees, which
cannot extrapolate, only carry a factor near 1. Trained with base_score=0 and without base_margin, so that the
margin of the exported JSON is F itself (XGBoost writes base_score to the JSON and adds it at prediction).

What comes of it is residual.FittedResidual.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import xgboost as xgb

from h3.models import boosting, physical_base
from h3.models.boosted import Boosted
from h3.models.boosting import Boosting, Tuned, errors_by_rounds, weights_of
from h3.models.engines import engine
from h3.models.engines.rows import Rows
from h3.models.physical_base import Base
from h3.models.protocol import Context
from h3.models.residual import FittedResidual, features_and_base
from h3.models.support import Support
from h3.steps import base_shares, features
from h3.steps.weights import shape_groups

# Fewer models show a few levels, which anything that differs between them "explains".
LEVEL_MODELS = 8
LEAF_MODELS = 1.5


@dataclass(frozen=True)
class Params(Boosting):
    """Boosting parameters; n_estimators 0 is the base alone.

    known_only: the trees serve the deployments of the training data only, and may learn how far the base
    misses each of them on the whole. Else they serve any, and learn only how the miss varies from step to
    step; or, with levels, also how far it misses a model on the whole, from the shares of the base's own
    terms (features.base_shares). A leaf then holds the weight of LEAF_MODELS models at least, on all rows:
    what one model alone shows is not learned.
    """

    known_only: bool = False
    levels: bool = False


@dataclass(frozen=True)
class XGBoostResidual:
    """The unfitted predictor."""

    params: Params
    name: str = "xgboost_residual"

    def fit(self, train: pd.DataFrame, context: Context) -> FittedResidual:
        """Fit base and booster on the training rows."""
        params, rounds = self.params, self.params.n_estimators
        return _ready(train, context, params, params.levels and rounds > 0).boosted(params, rounds)


@dataclass(frozen=True)
class _Ready:
    """Training rows with all that the trees do not decide: base, features and labels. Every trial of a search
    boosts on the same.
    """

    base: Base
    data: Rows
    weight: np.ndarray
    models: np.ndarray
    support: Support
    features: str
    context: Context
    levels: bool

    def boosted(self, params: Params, rounds: int) -> FittedResidual:
        """Base and so many trees."""
        names, dropped = self.features, self.context.features.drop_groups
        params = _guarded(params, self.weight, self.models) if self.levels else params
        rising = features.monotone_constraints(names, dropped)
        booster = engine.train(params.booster_params(self.context, rising), self.data, rounds, self.context)
        return FittedResidual(self.base, Boosted.trained(booster), self.support, names, dropped)


def _ready(train: pd.DataFrame, context: Context, params: Params, levels: bool) -> _Ready:
    weight = weights_of(train, context)
    fitted_base = (
        physical_base.fit(train, context.target, weight)
        if context.ablation.base
        else physical_base.constant(train, context.target, weight)
    )
    names, dropped = base_shares.NAME if levels else context.features.name, context.features.drop_groups
    matrix, base_us = features_and_base(names, dropped, fitted_base, train)
    label = np.log(train[context.target].to_numpy(float) / base_us)
    if not levels and not params.known_only and context.group == "model" and context.ablation.base:
        label = label - _model_levels(train, label, weight)
    data = Rows(matrix, label, weight)
    support = Support.of(matrix, train, params.known_only)
    return _Ready(fitted_base, data, weight, shape_groups(train), support, names, context, levels)


def _guarded(params: Params, weight: np.ndarray, models: np.ndarray) -> Params:
    """The parameters under which no leaf can name a model: its rows weigh more than any one model's do.

    weight, models: each row's weight and number of its model, (rows,). A row's weight is its hessian.
    """
    heaviest = np.bincount(models, weights=weight).max()
    least = max(params.min_child_weight, LEAF_MODELS * float(heaviest))
    return replace(params, min_child_weight=least, subsample=1.0)


def _model_levels(train: pd.DataFrame, label: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Each row's model's weighted mean label, shape (rows,).

    How far the base misses a training model on the whole says nothing about a model never seen; trees that
    are to serve such a one learn only how the miss varies from step to step.
    """
    model = train["model"].array
    weighted, weights = (
        pd.Series(values).groupby(model, observed=True).transform("sum").to_numpy()
        for values in (label * weight, weight)
    )
    return np.asarray(weighted / weights)


def learning_curve(
    usual: Params, train: pd.DataFrame, held_out: pd.DataFrame, context: Context
) -> Callable[[Params], np.ndarray]:
    """What gives, for parameters of trees that are else as usual, the error on a held-out inner group after
    each number of trees in boosting.ROUNDS: weighted mean |log(predicted / observed)|.

    The first value is the base alone, so that "no trees" is always among the candidates.
    """
    ready = _ready(train, context.in_memory(), usual, usual.levels)
    dropped = context.features.drop_groups
    matrix, base_us = features_and_base(ready.features, dropped, ready.base, held_out)
    trust, data = ready.support.trust(matrix, held_out), xgb.DMatrix(matrix)
    label = np.log(held_out[context.target].to_numpy(float) / base_us)
    weight = weights_of(held_out, context)

    def curve(params: Params) -> np.ndarray:
        booster = ready.boosted(params, boosting.ROUNDS[-1]).booster

        def margin(rounds: int) -> np.ndarray:
            """The correction of so many trees."""
            margins: np.ndarray = trust * booster.predict(data, iteration_range=(0, rounds))
            return margins

        return errors_by_rounds(margin, label, weight)

    return curve


def _usual(context: Context, groups: int) -> Params:
    """Trees that are tested on workloads held out speak of the deployments in the data only; a base of one
    constant needs them for all. With so many models in training, levels between them can be learned, unless
    the run asks for features of its own.
    """
    levels = context.group == "model" and groups >= LEVEL_MODELS and context.features.name == features.USUAL
    return Params(
        known_only=context.group == "workload" and context.ablation.base,
        levels=levels and context.ablation.base,
    )


TUNED = Tuned("xgboost_residual", _usual, learning_curve, trees_must_gain=True, without_trees="base alone")
