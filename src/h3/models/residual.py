"""A fitted residual model: period = base(step) * exp(trust(x) * F(x)), F the sum of leaves of shallow trees.

    fitted.predict(inputs)                       # us
    fitted.numbers(inputs)                       # features, base_us, trust, margin, us

xgboost_residual.py trains it, restore.py reads it from a file; neither is needed to predict. `trust`
(support.py) falls from 1 to 0 outside the training data, where the base answers alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from h3.models.boosted import Boosted, contributions
from h3.models.physical_base import Base
from h3.models.support import Support
from h3.steps import features, physics
from h3.steps.blocks import blocks

if TYPE_CHECKING:
    import xgboost as xgb


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

    def table(self) -> pd.DataFrame:
        """Everything as columns: features, base_us, trust, margin, us."""
        return self.features.assign(base_us=self.base_us, trust=self.trust, margin=self.margin, us=self.us)


def features_and_base(
    names: str, drop_groups: tuple[str, ...], base: Base, table: pd.DataFrame
) -> tuple[pd.DataFrame, np.ndarray]:
    """Features of a set, float32 of shape (rows, features), and the base's us, shape (rows,), of the same
    physics.
    """
    matrix = np.empty((len(features.manifest(names, drop_groups)), len(table)), np.float32)
    base_us = np.empty(len(table))
    for rows in blocks(len(table)):
        terms = physics.terms_us(table.iloc[rows])
        built = features.build(names, table.iloc[rows], drop_groups, terms)
        matrix[:, rows], base_us[rows] = built.to_numpy().T, base.of_terms(terms)
    return pd.DataFrame(matrix.T, index=table.index, columns=built.columns, copy=False), base_us


@dataclass(frozen=True)
class FittedResidual:
    """A base and trees on the same features as in training."""

    base: Base
    boosted: Boosted
    support: Support
    features: str
    drop_groups: tuple[str, ...]

    @property
    def booster(self) -> xgb.Booster:
        """XGBoost's booster of the trees."""
        return self.boosted.booster

    def inputs_matrix(self, inputs: pd.DataFrame) -> pd.DataFrame:
        """The trees' features of the given steps."""
        return features.build(self.features, inputs, self.drop_groups)

    def margin(self, inputs: pd.DataFrame) -> np.ndarray:
        """trust(x) * F(x), the log of the correction, shape (rows,)."""
        numbers = self.numbers(inputs)
        return numbers.trust * numbers.margin.astype(float)

    def numbers(self, inputs: pd.DataFrame) -> Numbers:
        """The prediction and what it is made of; the physics is computed once for base and features."""
        matrix, base_us = features_and_base(self.features, self.drop_groups, self.base, inputs)
        trust = self.support.trust(matrix, inputs)
        return Numbers(matrix, base_us, trust, self.boosted.margin(matrix))

    def predict(self, inputs: pd.DataFrame) -> np.ndarray:
        """Predicted target in us, shape (rows,)."""
        return self.numbers(inputs).us

    def contributions(self, inputs: pd.DataFrame) -> pd.DataFrame:
        """Exact SHAP values of F in log units, shape (rows, features)."""
        return contributions(self.booster, self.inputs_matrix(inputs))

    def describe(self) -> dict[str, Any]:
        """JSON: model, base, the trees as XGBoost writes them, manifest of their features, and support."""
        return {
            "model": "xgboost_residual",
            "base": self.base.describe(),
            "booster": self.boosted.described(),
            "features": features.manifest(self.features, self.drop_groups),
            "support": self.support.describe(),
        }
