"""BLIS's black box: period = b0 + b1 * prefill tokens + b2 * decode tokens, and the least squares that its
peers share.

    fitted = Blackbox(Params()).fit(train, Context())
    fitted.coefficients                                  # us, us/token, us/token

Source: inference-sim/inference-sim (blis.md, "Blackbox Optimization"). BLIS searches its coefficients by
simulating whole requests, once per model, GPU and TP degree; simplified here to least squares on the steps,
and one set of coefficients for all training rows, since the point is a configuration without coefficients of
its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.linalg import solve_triangular
from scipy.optimize import nnls

from h3.models.protocol import Context
from h3.steps import physics

TERMS = ("step", "prefill_tokens", "decode_tokens")
SMALLEST_PREDICTION_US = 1.0  # BLIS's smallest step time
COLLINEAR = (
    1e-12  # added to the squared length 1 of each column: splits what no row tells apart, moves nothing else
)


def nonnegative_least_squares(design: np.ndarray, observed: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Coefficients >= 0 of shape (columns,) that minimise sum(weights * (design @ coefficients -
    observed)^2).

    design: (rows, columns); observed, weights: (rows,). Sums without BLAS, so that the number of threads
    changes no bit. A column of zeros gets 0. Source: Lawson and Hanson 1974, ch. 23, on the Cholesky factor
    of the scaled normal equations.
    """
    root = np.sqrt(weights)
    columns, target = design * root[:, None], observed * root
    length = np.sqrt(np.einsum("ij,ij->j", columns, columns))
    length[length == 0] = 1.0
    columns = columns / length
    gram = np.einsum("ij,ik->jk", columns, columns) + COLLINEAR * np.eye(len(length))
    lower = np.linalg.cholesky(gram)
    coefficients, _ = nnls(
        lower.T, solve_triangular(lower, np.einsum("ij,i->j", columns, target), lower=True)
    )
    return coefficients / length


def combine(design: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Predicted us of shape (rows,): design @ coefficients, at least SMALLEST_PREDICTION_US."""
    return np.maximum(np.einsum("ij,j->i", design, coefficients), SMALLEST_PREDICTION_US)


def terms(table: pd.DataFrame) -> np.ndarray:
    """1, prefill tokens and decode tokens of each step, shape (rows, 3)."""
    return np.column_stack([np.ones(len(table)), physics.prefill_tokens(table), physics.decode_tokens(table)])


@dataclass(frozen=True)
class Params:
    """It takes none."""


@dataclass(frozen=True)
class FittedBlackbox:
    """Coefficients in the order of TERMS, all >= 0: us a step, us a prefill token, us a decode token."""

    coefficients: np.ndarray

    def predict(self, inputs: pd.DataFrame) -> np.ndarray:
        """Predicted target in us, shape (rows,)."""
        return combine(terms(inputs), self.coefficients)

    def describe(self) -> dict[str, Any]:
        """JSON: model, names of the terms, and their coefficients in the same order, us."""
        return {"model": "blackbox", "terms": list(TERMS), "coefficients": self.coefficients.tolist()}


@dataclass(frozen=True)
class Blackbox:
    """The unfitted predictor."""

    params: Params
    name: str = "blackbox"

    def fit(self, train: pd.DataFrame, context: Context) -> FittedBlackbox:
        """Non-negative least squares on plain errors in us, all rows weighing the same, as BLIS does it."""
        observed = train[context.target].to_numpy(float)
        return FittedBlackbox(nonnegative_least_squares(terms(train), observed, np.ones(len(train))))
