"""The roofline with nothing fitted: the larger of FLOPs and bytes at the data sheet's peak, plus all-reduce.

    fitted = Roofline(Params()).fit(train, Context())     # looks at no row
    fitted.predict(inputs)                                # physics.roofline_us

Source: Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785. Simplified: one roof for the whole
step instead of one per kernel, which hides work only where all of a step's FLOPs and bytes overlap; no host
time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from h3.models.peers.blackbox import SMALLEST_PREDICTION_US
from h3.models.protocol import Context
from h3.steps import physics


@dataclass(frozen=True)
class Params:
    """It takes none."""


@dataclass(frozen=True)
class FittedRoofline:
    """Has learned nothing."""

    def predict(self, inputs: pd.DataFrame) -> np.ndarray:
        """Roofline time of each step in us, shape (rows,)."""
        return np.maximum(physics.roofline_us(inputs), SMALLEST_PREDICTION_US)

    def describe(self) -> dict[str, Any]:
        """JSON: model, and no coefficients."""
        return {"model": "roofline", "coefficients": []}


@dataclass(frozen=True)
class Roofline:
    """The unfitted predictor, which is the fitted one."""

    params: Params
    name: str = "roofline"

    def fit(self, train: pd.DataFrame, context: Context) -> FittedRoofline:
        """Fits nothing."""
        return FittedRoofline()
