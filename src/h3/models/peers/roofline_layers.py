"""The strongest simple rival: period = a * roofline + b * layers, two coefficients >= 0.

    fitted = RooflineLayers(Params()).fit(train, Context())
    fitted.coefficients                                   # a (1 is the data sheet's peak), b in us a layer

Source: the roofline of Williams 2009 (doi:10.1145/1498765.1498785) with one efficiency for the whole machine
and the launch and floor time of a layer's kernels. Leaves out that GEMMs, attention and all-reduce reach
different efficiencies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from h3.models.peers.blackbox import combine, nonnegative_least_squares
from h3.models.protocol import Context
from h3.steps import physics
from h3.steps.weights import row_weights

TERMS = ("roofline_us", "layers")


def terms(table: pd.DataFrame) -> np.ndarray:
    """Roofline time in us and number of layers of each step, shape (rows, 2)."""
    return np.column_stack([physics.roofline_us(table), table["num_layers"].to_numpy(float)])


@dataclass(frozen=True)
class Params:
    """It takes none."""


@dataclass(frozen=True)
class FittedRooflineLayers:
    """Coefficients in the order of TERMS, both >= 0."""

    coefficients: np.ndarray

    def predict(self, inputs: pd.DataFrame) -> np.ndarray:
        """Predicted target in us, shape (rows,)."""
        return combine(terms(inputs), self.coefficients)

    def describe(self) -> dict[str, Any]:
        """JSON: model, names of the terms, and their coefficients in the same order."""
        return {"model": "roofline_layers", "terms": list(TERMS), "coefficients": self.coefficients.tolist()}


@dataclass(frozen=True)
class RooflineLayers:
    """The unfitted predictor."""

    params: Params
    name: str = "roofline_layers"

    def fit(self, train: pd.DataFrame, context: Context) -> FittedRooflineLayers:
        """Non-negative least squares on relative errors, models weighing the same (row_weights)."""
        observed = train[context.target].to_numpy(float)
        weights = row_weights(train) / observed**2
        return FittedRooflineLayers(nonnegative_least_squares(terms(train), observed, weights))
