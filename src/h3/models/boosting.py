"""What the boosted predictors share: parameters, numbers of trees that are looked at, error by number of
trees, and what the search over inner folds (evaluation/tune.py) needs to know of each.

    TUNED = Tuned("xgboost_residual", usual, learning_curve, trees_must_gain=True, without_trees="base alone")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from h3.models.protocol import Context
from h3.steps.weights import row_weights

ROUNDS = (0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 200)


@dataclass(frozen=True)
class Boosting:
    """Parameters of the trees, as XGBoost calls them."""

    n_estimators: int = 0
    max_depth: int = 3
    learning_rate: float = 0.05
    min_child_weight: float = 20.0
    subsample: float = 0.8
    colsample_bytree: float = 0.8
    reg_lambda: float = 10.0

    def booster_params(self, context: Context, monotone: dict[str, int]) -> dict[str, Any]:
        """XGBoost's parameters for these; monotone: feature → 1 where a prediction may only grow with it.

        base_score is 0, so that the margin of the exported JSON is the sum of the leaves.
        """
        names = [field.name for field in fields(Boosting) if field.name != "n_estimators"]
        return {name: getattr(self, name) for name in names} | {
            "objective": "reg:squarederror",
            "tree_method": "hist",
            "base_score": 0.0,
            "seed": context.seed,
            "nthread": context.threads,
            "monotone_constraints": monotone,
        }


@dataclass(frozen=True)
class Tuned:
    """A predictor whose number of trees is searched.

    usual: its parameters where nothing was searched, by context and number of training groups.
    learning_curve: of usual parameters, training and held-out rows and context: what gives, for parameters of
    the trees, the error on the held-out rows after each number of trees in ROUNDS, shape (len(ROUNDS),), of
    a fit on the training rows. All that no trial changes is computed once.
    trees_must_gain: it answers well without trees, so they must earn their place.
    without_trees: what answers then, in words.
    """

    name: str
    usual: Callable[[Context, int], Boosting]
    learning_curve: Callable[[Any, pd.DataFrame, pd.DataFrame, Context], Callable[[Any], np.ndarray]]
    trees_must_gain: bool
    without_trees: str


def weights_of(table: pd.DataFrame, context: Context) -> np.ndarray:
    """How much each row counts, shape (rows,): models and experiments alike, unless ablation says all the
    same.
    """
    return row_weights(table) if context.ablation.equal_weights else np.ones(len(table))


def errors_by_rounds(
    margin_of: Callable[[int], np.ndarray], label: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """Weighted mean |margin - label| for each number of trees in ROUNDS, shape (len(ROUNDS),).

    margin_of: number of trees (above 0) → log of the correction, (rows,); without trees it is 0. label: log
    of observed over what answers without trees, (rows,).
    """
    return np.array(
        [np.average(np.abs((margin_of(n) if n else 0.0) - label), weights=weight) for n in ROUNDS]
    )
