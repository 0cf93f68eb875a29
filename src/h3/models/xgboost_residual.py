"""XGBoost on what physics leaves over: period = base(step) * exp(trust(x) * F(x)), F a shallow, regularised
boosting.

    fitted = XGBoostResidual(Params(n_estimators=40)).fit(train, Context())
    fitted.predict(inputs)

The label is log(target / base), so that an error of 10 % costs the same for every model, and trees, which
cannot extrapolate, only carry a factor near 1. Trained with base_score=0 and without base_margin, so that the
margin of the exported JSON is F itself (XGBoost writes base_score to the JSON and adds it at prediction).

`trust` (support.py) falls from 1 to 0 outside the training data, where the base answers alone.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

# Two trainings at once spin on each other's threads otherwise (30 times slower); read when libgomp loads.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
import pandas as pd
import xgboost as xgb

from h3.evaluation import folds
from h3.models import physical_base as base
from h3.models.protocol import Context
from h3.models.support import Support
from h3.steps import features, physics

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

    def booster_params(self, context: Context) -> dict:
        """XGBoost's parameters for these."""
        values = asdict(self)
        own = ("n_estimators", "known_only")
        return {name: value for name, value in values.items() if name not in own} | {
            "objective": "reg:squarederror",
            "tree_method": "hist",
            "base_score": 0.0,
            "seed": context.seed,
            "nthread": context.threads,
            "monotone_constraints": features.monotone_constraints(context.features, context.drop_groups),
        }


@dataclass(frozen=True)
class Numbers:
    """features: float32 (rows, features); base_us; trust, 0 to 1; margin: sum of leaves, float32; arrays of
    shape (rows,).
    """

    features: pd.DataFrame
    base_us: np.ndarray
    trust: np.ndarray
    margin: np.ndarray

    @property
    def us(self) -> np.ndarray:
        """Predicted target, us."""
        return self.base_us * np.exp(self.trust * self.margin.astype(float))


@dataclass(frozen=True)
class FittedResidual:
    """A base and a booster on the same features as in training."""

    base: base.Base
    booster: xgb.Booster
    support: Support
    features: str
    drop_groups: tuple[str, ...]

    def inputs_matrix(self, inputs: pd.DataFrame) -> pd.DataFrame:
        """The booster's features of the given steps."""
        return features.build(self.features, inputs, self.drop_groups)

    def margin(self, inputs: pd.DataFrame) -> np.ndarray:
        """trust(x) * F(x), the log of the correction, shape (rows,)."""
        numbers = self.numbers(inputs)
        return numbers.trust * numbers.margin.astype(float)

    def numbers(self, inputs: pd.DataFrame) -> Numbers:
        """The prediction and what it is made of; the physics is computed once for base and features."""
        terms = physics.terms_us(inputs)
        matrix = features.build(self.features, inputs, self.drop_groups, terms)
        margin = self._leaves(matrix) if len(matrix) else np.zeros(0, np.float32)
        return Numbers(matrix, self.base.of_terms(terms), self.support.trust(matrix, inputs), margin)

    def _leaves(self, matrix: pd.DataFrame) -> np.ndarray:
        return self.booster.predict(xgb.DMatrix(matrix.to_numpy(), feature_names=list(matrix.columns)))

    def predict(self, inputs: pd.DataFrame) -> np.ndarray:
        """Predicted target in us, shape (rows,)."""
        return self.numbers(inputs).us

    def contributions(self, inputs: pd.DataFrame) -> pd.DataFrame:
        """Exact SHAP values of F in log units, shape (rows, features) (Lundberg 2018, arXiv:1802.03888)."""
        matrix = self.inputs_matrix(inputs)
        values = self.booster.predict(xgb.DMatrix(matrix), pred_contribs=True)
        return pd.DataFrame(values[:, :-1], columns=matrix.columns)

    def describe(self) -> dict:
        """JSON: model, base, the booster as XGBoost writes it, manifest of its features, and support."""
        return {
            "model": "xgboost_residual",
            "base": self.base.describe(),
            "booster": json.loads(self.booster.save_raw("json")),
            "features": features.manifest(self.features, self.drop_groups),
            "support": self.support.describe(),
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
        base.fit(train, context.target, weight)
        if context.base
        else base.constant(train, context.target, weight)
    )
    terms = physics.terms_us(train)
    matrix = features.build(context.features, train, context.drop_groups, terms)
    label = np.log(train[context.target].to_numpy(float) / fitted_base.of_terms(terms))
    if not params.known_only and context.group == "model" and context.base:
        label = label - _model_levels(train, label, weight)
    data = xgb.DMatrix(matrix, label=label, weight=weight)
    booster = xgb.train(params.booster_params(context), data, rounds)
    return FittedResidual(
        fitted_base,
        booster,
        Support.of(matrix, train, params.known_only),
        context.features,
        context.drop_groups,
    )


def _row_weights(table: pd.DataFrame, context: Context) -> np.ndarray:
    return folds.row_weights(table) if context.equal_weights else np.ones(len(table))


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
    matrix = features.build(context.features, held_out, context.drop_groups, terms)
    trust, data = fitted.support.trust(matrix, held_out), xgb.DMatrix(matrix)
    label = np.log(held_out[context.target].to_numpy(float) / fitted.base.of_terms(terms))
    weight = _row_weights(held_out, context)

    def error(rounds: int) -> float:
        margin = trust * fitted.booster.predict(data, iteration_range=(0, rounds)) if rounds else 0.0
        return float(np.average(np.abs(margin - label), weights=weight))

    return np.array([error(rounds) for rounds in ROUNDS])
