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

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import xgboost as xgb

from h3.models import physical_base
from h3.models.boosted import Boosted
from h3.models.protocol import Context
from h3.models.residual import FittedResidual
from h3.models.support import Support
from h3.steps import features, physics
from h3.steps.weights import row_weights

ROUNDS = (0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 200)


@dataclass(frozen=True)
class Params:
    """Boosting parameters; n_estimators 0 is the base alone.

    known_only: the trees serve the deployments of the training data only, and may learn how far the base
    misses each of them on the whole. Else they serve any, and learn only how the miss varies from step to
    step.
    """

    n_estimators: int = 0
    max_depth: int = 3
    learning_rate: float = 0.05
    min_child_weight: float = 20.0
    subsample: float = 0.8
    colsample_bytree: float = 0.8
    reg_lambda: float = 10.0
    known_only: bool = False

    def booster_params(self, context: Context) -> dict[str, Any]:
        """XGBoost's parameters for these."""
        values = asdict(self)
        own = ("n_estimators", "known_only")
        return {name: value for name, value in values.items() if name not in own} | {
            "objective": "reg:squarederror",
            "tree_method": "hist",
            "base_score": 0.0,
            "seed": context.seed,
            "nthread": context.threads,
            "monotone_constraints": features.monotone_constraints(
                context.features.name, context.features.drop_groups
            ),
        }


@dataclass(frozen=True)
class XGBoostResidual:
    """The unfitted predictor."""

    params: Params
    name: str = "xgboost_residual"

    def fit(self, train: pd.DataFrame, context: Context) -> FittedResidual:
        """Fit base and booster on the training rows."""
        return _fit(train, context, self.params, self.params.n_estimators)


def _fit(train: pd.DataFrame, context: Context, params: Params, rounds: int) -> FittedResidual:
    weight = _row_weights(train, context)
    fitted_base = (
        physical_base.fit(train, context.target, weight)
        if context.ablation.base
        else physical_base.constant(train, context.target, weight)
    )
    terms = physics.terms_us(train)
    matrix = features.build(context.features.name, train, context.features.drop_groups, terms)
    label = np.log(train[context.target].to_numpy(float) / fitted_base.of_terms(terms))
    if not params.known_only and context.group == "model" and context.ablation.base:
        label = label - _model_levels(train, label, weight)
    data = xgb.DMatrix(matrix, label=label, weight=weight)
    booster = xgb.train(params.booster_params(context), data, rounds)
    return FittedResidual(
        fitted_base,
        Boosted.trained(booster),
        Support.of(matrix, train, params.known_only),
        context.features.name,
        context.features.drop_groups,
    )


def _row_weights(table: pd.DataFrame, context: Context) -> np.ndarray:
    return row_weights(table) if context.ablation.equal_weights else np.ones(len(table))


def _model_levels(train: pd.DataFrame, label: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Each row's model's weighted mean label, shape (rows,).

    How far the base misses a training model on the whole says nothing about a model never seen; trees that
    are to serve such a one learn only how the miss varies from step to step.
    """
    frame = pd.DataFrame({"model": train["model"].to_numpy(), "weighted": label * weight, "weight": weight})
    sums = frame.groupby("model")[["weighted", "weight"]].transform("sum")
    return (sums["weighted"] / sums["weight"]).to_numpy()


def learning_curve(
    params: Params, train: pd.DataFrame, held_out: pd.DataFrame, context: Context
) -> np.ndarray:
    """Error on a held-out inner group after each number of trees in ROUNDS: weighted mean |log(predicted /
    observed)|.

    The first value is the base alone, so that "no trees" is always among the candidates.
    """
    fitted = _fit(train, context, params, ROUNDS[-1])
    terms = physics.terms_us(held_out)
    matrix = features.build(context.features.name, held_out, context.features.drop_groups, terms)
    trust, data = fitted.support.trust(matrix, held_out), xgb.DMatrix(matrix)
    label = np.log(held_out[context.target].to_numpy(float) / fitted.base.of_terms(terms))
    weight = _row_weights(held_out, context)

    def error(rounds: int) -> float:
        margin = trust * fitted.booster.predict(data, iteration_range=(0, rounds)) if rounds else 0.0
        return float(np.average(np.abs(margin - label), weights=weight))

    return np.array([error(rounds) for rounds in ROUNDS])
