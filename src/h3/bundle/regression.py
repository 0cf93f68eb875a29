"""Non-negative regression on relative errors, and what it loses.

>>> design, weights = np.array([[2.0, 0.0], [1.0, 0.5], [1.0, 1.0]]), np.array([0.4, 0.2, 0.4])
>>> beta = fit(design, weights)
>>> beta.round(3).tolist()
[0.5, 0.5]
>>> round(Batches(design, weights, np.array([1, 16, 64])).loss(beta), 3)        # weighted MAPE, %
5.0

It is solved as a linear program, so nothing with non-negative coefficients loses less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from h3.common.errors import InputError

RANGES = ((0, 8), (9, 32), (33, 128))  # of decoding requests, for which the loss is told apart


@dataclass(frozen=True)
class Batches:
    """Batches of one deployment: BLIS's terms over the model's time, shape (batches, 11); weight, 1 in sum;
    decoding requests.
    """

    design: np.ndarray
    weight: np.ndarray
    decodes: np.ndarray

    def loss(self, beta: np.ndarray, low: int = 0, high: int = 10**9) -> float:
        """Weighted MAPE over the batches with `low` to `high` decoding requests, %; NaN where there are
        none.
        """
        rows = (self.decodes >= low) & (self.decodes <= high)
        miss = np.abs(self.design[rows] @ beta - 1)
        return 100 * float(np.average(miss, weights=self.weight[rows])) if rows.any() else float("nan")

    def by_requests(self, beta: np.ndarray) -> dict[str, float]:
        """`loss` in %, in each of RANGES of decoding requests, named "low-high"."""
        return {f"{low}-{high}": self.loss(beta, low, high) for low, high in RANGES}


def fit(design: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The non-negative coefficients b, shape (columns,), with the least sum of weights * |design @ b - 1|.

    Raises InputError for numbers that are not finite.
    """
    rows, columns = design.shape
    largest = np.abs(design).max(axis=0)
    scaled = sparse.csr_matrix(design / np.maximum(largest, 1e-30))
    equal = sparse.hstack([scaled, sparse.eye(rows), -sparse.eye(rows)], format="csc")
    cost = np.concatenate([np.zeros(columns), weights, weights])
    found = linprog(cost, A_eq=equal, b_eq=np.ones(rows), bounds=(0, None), method="highs")
    if found.x is None:
        raise InputError(f"distillation: {found.message}; expected finite step times above 0")
    return np.where(largest > 0, found.x[:columns] / np.maximum(largest, 1e-30), 0.0)
