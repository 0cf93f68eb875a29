"""XGBoost without a fitted base: period = roofline(step) * exp(level + F(x)), F a shallow, regularised
boosting.

    fitted = XGBoostScaleFree(Params()).fit(train, Context())
    fitted.predict(inputs)

It asks the hypothesis of XGBoost alone. The scale is the data sheet's (steps/peak.py): no coefficient is
fitted or pulled, and no number measured on a kernel enters. So trees have to learn all that a server adds to
its roofline, from features that mean the same for any model. `level`, the weighted mean of
log(target / roofline), is what a tree without splits would say; F starts from it. Beyond the training data
trees are constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xgboost as xgb

from h3.models import boosting
from h3.models.boosted import Boosted, contributions
from h3.models.boosting import Boosting, Tuned, errors_by_rounds, weights_of
from h3.models.engines import engine
from h3.models.engines.rows import Rows
from h3.models.protocol import Context
from h3.steps import features, peak


@dataclass(frozen=True)
class Params(Boosting):
    """Boosting parameters; n_estimators 0 is one factor for all steps."""

    n_estimators: int = 100


@dataclass(frozen=True)
class FittedScaleFree:
    """A level and trees on the same features as in training."""

    level: float
    boosted: Boosted
    features: str
    drop_groups: tuple[str, ...]

    @property
    def booster(self) -> xgb.Booster:
        """XGBoost's booster of the trees."""
        return self.boosted.booster

    def inputs_matrix(self, inputs: pd.DataFrame) -> pd.DataFrame:
        """The trees' features of the given steps."""
        return features.build(self.features, inputs, self.drop_groups)

    def predict(self, inputs: pd.DataFrame) -> np.ndarray:
        """Predicted target in us, shape (rows,)."""
        margin = self.boosted.margin(self.inputs_matrix(inputs)).astype(float)
        return _scale_us(inputs) * np.exp(self.level + margin)

    def contributions(self, inputs: pd.DataFrame) -> pd.DataFrame:
        """Exact SHAP values of F in log units, shape (rows, features)."""
        return contributions(self.booster, self.inputs_matrix(inputs))

    def describe(self) -> dict[str, Any]:
        """JSON: model, level, the trees as XGBoost writes them, and the manifest of their features."""
        return {
            "model": "xgboost_scale_free",
            "level": self.level,
            "booster": self.boosted.described(),
            "features": features.manifest(self.features, self.drop_groups),
        }


@dataclass(frozen=True)
class XGBoostScaleFree:
    """The unfitted predictor."""

    params: Params
    name: str = "xgboost_scale_free"

    def fit(self, train: pd.DataFrame, context: Context) -> FittedScaleFree:
        """Fit level and booster on the training rows."""
        return _ready(train, context).boosted(self.params, self.params.n_estimators)


def _scale_us(table: pd.DataFrame) -> np.ndarray:
    return peak.roofline_us(peak.parts_us(table))


def _set_of(context: Context) -> str:
    """The usual set was made for trees beside a base, which knows the overheads."""
    return peak.NAME if context.features.name == features.USUAL else context.features.name


@dataclass(frozen=True)
class _Ready:
    """Training rows with all that the trees do not decide: level, features and labels."""

    level: float
    data: Rows
    features: str
    context: Context

    def boosted(self, params: Params, rounds: int) -> FittedScaleFree:
        """Level and so many trees."""
        name, dropped = self.features, self.context.features.drop_groups
        rising = features.monotone_constraints(name, dropped)
        booster = engine.train(params.booster_params(self.context, rising), self.data, rounds, self.context)
        return FittedScaleFree(self.level, Boosted.trained(booster), name, dropped)


def _ready(train: pd.DataFrame, context: Context) -> _Ready:
    name, dropped, weight = _set_of(context), context.features.drop_groups, weights_of(train, context)
    label = np.log(train[context.target].to_numpy(float) / _scale_us(train))
    level = float(np.average(label, weights=weight))
    data = Rows(features.build(name, train, dropped), label - level, weight)
    return _Ready(level, data, name, context)


def learning_curve(
    usual: Params, train: pd.DataFrame, held_out: pd.DataFrame, context: Context
) -> Callable[[Params], np.ndarray]:
    """What gives, for parameters of trees, the error on a held-out inner group after each number of trees in
    boosting.ROUNDS: weighted mean |log(predicted / observed)|. The first value is the level alone.
    """
    ready = _ready(train, context.in_memory())
    data = xgb.DMatrix(features.build(ready.features, held_out, context.features.drop_groups))
    label = np.log(held_out[context.target].to_numpy(float) / _scale_us(held_out)) - ready.level
    weight = weights_of(held_out, context)

    def curve(params: Params) -> np.ndarray:
        booster = ready.boosted(params, boosting.ROUNDS[-1]).booster

        def margin(rounds: int) -> np.ndarray:
            """What so many trees say."""
            margins: np.ndarray = booster.predict(data, iteration_range=(0, rounds))
            return margins

        return errors_by_rounds(margin, label, weight)

    return curve


TUNED = Tuned(
    "xgboost_scale_free",
    lambda context, groups: Params(),
    learning_curve,
    trees_must_gain=False,
    without_trees="level alone",
)
