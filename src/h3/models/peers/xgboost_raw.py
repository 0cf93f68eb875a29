"""The study's own recipe: XGBoost on thirty raw features and the raw target, so that its failure can be
reproduced.

    fitted = XGBoostRaw(Params()).fit(train, Context(target="duration_us", features="raw30"))

Source: inference-sim, branch stepml-experiments, idea 1 H3 (depth 6, 300 trees, rate 0.05, min child weight
5, subsample and colsample 0.8, all rows weighing the same).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import xgboost as xgb

from h3.models.boosted import contributions
from h3.models.engines import engine
from h3.models.engines.rows import Rows
from h3.models.protocol import Context
from h3.steps import features

SMALLEST_PREDICTION_US = 1.0


@dataclass(frozen=True)
class Params:
    """The study's parameters."""

    n_estimators: int = 300
    max_depth: int = 6
    learning_rate: float = 0.05
    min_child_weight: float = 5.0
    subsample: float = 0.8
    colsample_bytree: float = 0.8


@dataclass(frozen=True)
class FittedRaw:
    """A booster that predicts microseconds directly."""

    booster: xgb.Booster
    features: str
    drop_groups: tuple[str, ...]

    def inputs_matrix(self, inputs: pd.DataFrame) -> pd.DataFrame:
        """The booster's features of the given steps."""
        return features.build(self.features, inputs, self.drop_groups)

    def predict(self, inputs: pd.DataFrame) -> np.ndarray:
        """Predicted target in us, shape (rows,); at least one, since raw trees may predict below zero."""
        matrix = self.inputs_matrix(inputs)
        return np.maximum(self.booster.predict(xgb.DMatrix(matrix)).astype(float), SMALLEST_PREDICTION_US)

    def contributions(self, inputs: pd.DataFrame) -> pd.DataFrame:
        """Exact SHAP values in us, shape (rows, features)."""
        return contributions(self.booster, self.inputs_matrix(inputs))

    def describe(self) -> dict[str, Any]:
        """JSON: model, the booster as XGBoost writes it, and the manifest of its features."""
        return {
            "model": "xgboost_raw",
            "booster": json.loads(self.booster.save_raw("json")),
            "features": features.manifest(self.features, self.drop_groups),
        }


@dataclass(frozen=True)
class XGBoostRaw:
    """The unfitted predictor."""

    params: Params
    name: str = "xgboost_raw"

    def fit(self, train: pd.DataFrame, context: Context) -> FittedRaw:
        """Fit on the training rows."""
        values = asdict(self.params)
        rounds = values.pop("n_estimators")
        rows = Rows(
            features.build(context.features.name, train, context.features.drop_groups),
            train[context.target].to_numpy(float),
        )
        params = values | {
            "objective": "reg:squarederror",
            "tree_method": "hist",
            "seed": context.seed,
            "nthread": context.threads,
        }
        booster = engine.train(params, rows, rounds, context)
        return FittedRaw(booster, context.features.name, context.features.drop_groups)
