"""The study's baseline: Ridge on the thirty raw features, trained INSIDE each held-out experiment. It sees
held-out truth.

    predictor = RidgePerExperiment(Params())
    fitted = predictor.fit_inside(inputs, truth, Context())      # inputs and truth of the held-out side
    fitted.predict(inputs[predictor.scored(inputs)])             # the last 20 % of each experiment

No generaliser, but the measure of what generalising costs. Each experiment is cut in time order: 60 % train,
20 % choose alpha by MAPE, 20 % test, all that may be scored. Source: inference-sim, branch stepml-experiments
(temporal 60/20/20, Ridge). Simplified: features are standardised by the training part, unknown ones are 0 as
in the study, and the chosen fit is not repeated on 80 %. `sees_held_out` marks it; `fit`, which every other
predictor has, refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from h3.common.errors import InputError
from h3.models.peers.blackbox import SMALLEST_PREDICTION_US
from h3.models.protocol import Context
from h3.steps import features, metrics

TRAIN_SHARE, TEST_SHARE = 0.6, 0.2
LEAST_STEPS = 5
FEATURES = "raw30"


@dataclass(frozen=True)
class Params:
    """Alphas to choose from: 10^low to 10^high, a power of ten apart."""

    low: int = -3
    high: int = 5

    def alphas(self) -> list[float]:
        """The penalties to choose from, ascending."""
        return [10.0**power for power in range(self.low, self.high + 1)]


def parts(inputs: pd.DataFrame) -> np.ndarray:
    """ "train", "choose" or "test" of each row, shape (rows,): 60/20/20 of its experiment in the order of
    clock and step.
    """
    order = inputs.reset_index(drop=True).sort_values(["experiment", "clock", "step_id"], kind="stable")
    groups = order.groupby("experiment")
    share = (groups.cumcount() / groups["step_id"].transform("size")).sort_index().to_numpy()
    return np.select([share < TRAIN_SHARE, share < 1 - TEST_SHARE], ["train", "choose"], default="test")


@dataclass(frozen=True)
class Ridge:
    """Linear in standardised features: mean, scale, slopes of shape (features,), slopes in us a standard
    deviation.
    """

    alpha: float
    mean: np.ndarray
    scale: np.ndarray
    slopes: np.ndarray
    intercept_us: float

    @classmethod
    def of(cls, matrix: np.ndarray, observed: np.ndarray, alpha: float) -> Ridge:
        """Least squares with the penalty alpha * |slopes|^2 (Hoerl and Kennard 1970); sums without BLAS."""
        mean, scale = matrix.mean(axis=0), matrix.std(axis=0)
        scale[scale == 0] = 1.0
        centred = (matrix - mean) / scale
        gram = np.einsum("ij,ik->jk", centred, centred) + alpha * np.eye(len(mean))
        slopes = np.linalg.solve(gram, np.einsum("ij,i->j", centred, observed - observed.mean()))
        return cls(alpha, mean, scale, slopes, float(observed.mean()))

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        """Predicted us, shape (rows,), at least SMALLEST_PREDICTION_US."""
        predicted = self.intercept_us + np.einsum("ij,j->i", (matrix - self.mean) / self.scale, self.slopes)
        return np.maximum(predicted, SMALLEST_PREDICTION_US)

    def describe(self) -> dict[str, Any]:
        """JSON: penalty, mean, scale and slope of each feature, intercept in us."""
        return {
            "alpha": self.alpha,
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "slopes": self.slopes.tolist(),
            "intercept_us": self.intercept_us,
        }


def _matrix(table: pd.DataFrame) -> np.ndarray:
    return np.nan_to_num(features.build(FEATURES, table).to_numpy(float))


@dataclass(frozen=True)
class FittedRidgePerExperiment:
    """A Ridge for each held-out experiment, and how many of its steps trained it."""

    ridges: dict[str, Ridge]
    n_train: int

    def predict(self, inputs: pd.DataFrame) -> np.ndarray:
        """Predicted target in us, shape (rows,); raises InputError for an experiment that it was not trained
        inside.
        """
        unknown = sorted(set(inputs["experiment"]) - set(self.ridges))
        if unknown:
            raise InputError(
                f"ridge_per_experiment was not trained inside {unknown[0]!r}; expected"
                f" {', '.join(sorted(self.ridges))}"
            )
        matrix, predicted = _matrix(inputs), np.empty(len(inputs))
        for name, ridge in self.ridges.items():
            rows = (inputs["experiment"] == name).to_numpy()
            predicted[rows] = ridge.predict(matrix[rows])
        return predicted

    def describe(self) -> dict[str, Any]:
        """JSON: model, that it sees held-out truth, training steps, and each experiment's ridge."""
        ridges = {name: ridge.describe() for name, ridge in sorted(self.ridges.items())}
        return {
            "model": "ridge_per_experiment",
            "sees_held_out": True,
            "n_train": self.n_train,
            "ridges": ridges,
        }


@dataclass(frozen=True)
class RidgePerExperiment:
    """The unfitted predictor; the only one that is given held-out truth."""

    params: Params
    name: str = "ridge_per_experiment"
    sees_held_out: ClassVar[bool] = True

    def fit(self, train: pd.DataFrame, context: Context) -> FittedRidgePerExperiment:
        """Refuses: it learns nothing from other experiments."""
        raise InputError(
            "ridge_per_experiment trains inside held-out experiments; expected fit_inside(inputs, truth,"
            " context)"
        )

    def scored(self, inputs: pd.DataFrame) -> np.ndarray:
        """Which rows may be scored, bool of shape (rows,): those that fit_inside does not read."""
        return parts(inputs) == "test"

    def fit_inside(
        self, inputs: pd.DataFrame, truth: pd.DataFrame, context: Context
    ) -> FittedRidgePerExperiment:
        """Train on the first 60 % of each held-out experiment and choose alpha on the next 20 %.

        Raises InputError for an experiment of fewer than LEAST_STEPS steps.
        """
        part, matrix, observed = parts(inputs), _matrix(inputs), truth[context.target].to_numpy(float)
        ridges = {}
        for name in sorted(inputs["experiment"].unique()):
            rows = (inputs["experiment"] == name).to_numpy()
            if rows.sum() < LEAST_STEPS:
                raise InputError(
                    f"ridge_per_experiment: {name} has {rows.sum()} steps; expected at least {LEAST_STEPS}"
                )
            train, choose = rows & (part == "train"), rows & (part == "choose")
            tried = [Ridge.of(matrix[train], observed[train], alpha) for alpha in self.params.alphas()]
            ridges[name] = min(
                tried, key=lambda ridge: metrics.mape(ridge.predict(matrix[choose]), observed[choose])
            )
        return FittedRidgePerExperiment(ridges, int((part == "train").sum()))
