"""What every predictor is: fitted on a training table alone, then predicts from inputs without targets.

fitted = make("xgboost_residual", params).fit(train, Context(target="period_us", group="model", seed=0))
fitted.predict(inputs)                       # us, shape (rows,)
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Context:
    """What a fit may know besides the training rows: target column, group of the folds, seed, threads,
    feature options, ablation.

    base, inner and equal_weights are ideas that an ablation switches off (config.AblationConfig).
    """

    target: str = "period_us"
    group: str = "model"
    seed: int = 0
    threads: int = 1
    features: str = "scale_free"
    drop_groups: tuple[str, ...] = field(default_factory=tuple)
    base: bool = True
    inner: str = "group"
    equal_weights: bool = True


class Fitted(Protocol):
    """A fitted predictor."""

    def predict(self, inputs: pd.DataFrame) -> np.ndarray:
        """Predicted target in us, float64 of shape (rows,), finite and positive; `inputs` needs no target
        column.
        """

    def describe(self) -> dict:
        """JSON-serialisable content of the fit (coefficients, trees), the same for the same training data."""


class Predictor(Protocol):
    """An unfitted predictor with its parameters."""

    name: str

    def fit(self, train: pd.DataFrame, context: Context) -> Fitted:
        """Fit on the training rows of a step table."""


def digest(fitted: Fitted) -> str:
    """sha256 of what `describe` says: the same fit, the same digest."""
    return hashlib.sha256(json.dumps(fitted.describe(), sort_keys=True).encode()).hexdigest()
