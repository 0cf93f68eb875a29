"""What every predictor is: fitted on a training table alone, then predicts from inputs without targets.

    fitted = make("xgboost_residual", params).fit(train, Context(target="period_us", group="model", seed=0))
    fitted.predict(inputs)                       # us, shape (rows,)

The one exception is an InsidePredictor, which is given held-out truth and is marked wherever it appears.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from h3.common.config import AblationConfig, Engine, FeaturesConfig, TrainConfig

if TYPE_CHECKING:
    import xgboost as xgb


USUAL_FEATURES, WHOLE = FeaturesConfig(), AblationConfig()


@dataclass(frozen=True)
class Context:
    """What a fit may know besides the training rows: target column, group of the folds, seed, threads,
    feature set, which idea an ablation switches off, and where trees are trained (models/engines).

    dask_address: of a Dask scheduler; None: two processes on this machine.
    """

    target: str = "period_us"
    group: str = "model"
    seed: int = 0
    threads: int = 1
    features: FeaturesConfig = USUAL_FEATURES
    ablation: AblationConfig = WHOLE
    engine: Engine = "memory"
    dask_address: str | None = None

    @classmethod
    def of(cls, config: TrainConfig, group: str) -> Context:
        """The context of a run's folds, which leave `group` ("model" or "workload") out."""
        return cls(
            config.target_column,
            group,
            config.seed,
            config.threads,
            config.features,
            config.ablation,
            config.model.engine,
            config.model.dask_address,
        )

    def in_memory(self) -> Context:
        """The same, trees trained in memory: for the few rows that a search over inner folds uses."""
        return replace(self, engine="memory", dask_address=None)

    def describe(self) -> dict[str, Any]:
        """JSON: everything that a fit follows from beside the rows (threads change nothing)."""
        engine = {} if self.engine == "memory" else {"engine": self.engine}
        return engine | {
            "target": self.target,
            "group": self.group,
            "seed": self.seed,
            "features": self.features.model_dump(mode="json"),
            "ablation": self.ablation.model_dump(mode="json"),
        }


class Predicts(Protocol):
    """Anything that gives steps their time: a fit, or a bundle of fits."""

    def predict(self, inputs: pd.DataFrame, /) -> np.ndarray:
        """Predicted target in us, float64 of shape (rows,), finite and positive; `inputs` needs no target."""


class Fitted(Predicts, Protocol):
    """A fitted predictor."""

    def describe(self) -> dict[str, Any]:
        """JSON-serialisable content of the fit (coefficients, trees), the same for the same training data."""


@runtime_checkable
class FittedTrees(Fitted, Protocol):
    """A fit that holds an XGBoost booster, which can be logged and explained."""

    @property
    def booster(self) -> xgb.Booster:
        """The booster."""

    def inputs_matrix(self, inputs: pd.DataFrame) -> pd.DataFrame:
        """The booster's features of the given steps, float32 of shape (rows, features)."""

    def contributions(self, inputs: pd.DataFrame) -> pd.DataFrame:
        """Exact SHAP values of the given steps, shape (rows, features)."""


class FittedInside(Fitted, Protocol):
    """A fit that was trained inside the held-out group."""

    @property
    def n_train(self) -> int:
        """How many of its steps trained it."""


class Predictor(Protocol):
    """An unfitted predictor with its parameters."""

    @property
    def name(self) -> str:
        """Its name in models/zoo.py."""

    def fit(self, train: pd.DataFrame, context: Context) -> Fitted:
        """Fit on the training rows of a step table."""


@runtime_checkable
class InsidePredictor(Predictor, Protocol):
    """A predictor that is trained on truth of the held-out group, and scored on the steps that it did not
    see.
    """

    def fit_inside(self, inputs: pd.DataFrame, truth: pd.DataFrame, context: Context) -> FittedInside:
        """Fit on a part of the held-out side."""

    def scored(self, inputs: pd.DataFrame) -> np.ndarray:
        """Which rows may be scored, bool of shape (rows,): those that fit_inside does not read."""


def digest(fitted: Fitted) -> str:
    """sha256 of what `describe` says: the same fit, the same digest."""
    return hashlib.sha256(json.dumps(fitted.describe(), sort_keys=True).encode()).hexdigest()
