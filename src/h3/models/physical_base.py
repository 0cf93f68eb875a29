"""The physical base: a non-negative combination of the times and counts of one step (physics.terms_us).

    base = fit(train, "period_us")
    base.predict(inputs)

Fitted inside each training fold on relative errors, every model weighing the same. Two training models cannot
tell weights, communication and per-layer overhead apart (70b then misses by half), so coefficients are pulled
toward values measured on single kernels, which no serving log enters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from h3.steps import physics
from h3.steps.blocks import blocks
from h3.steps.priors import PRIOR
from h3.steps.weights import row_weights

# Weight of one prior scale against the mean squared relative error: 1 scale away costs as much as 5.5 %
# error.
PRIOR_STRENGTH = 0.003


@dataclass(frozen=True)
class Base:
    """A fitted base: coefficients in the order of physics.TERMS, all >= 0."""

    coefficients: np.ndarray

    def predict(self, inputs: pd.DataFrame) -> np.ndarray:
        """Predicted period in us, shape (rows,)."""
        return np.concatenate(
            [self.of_terms(physics.terms_us(inputs.iloc[rows])) for rows in blocks(len(inputs))]
        )

    def of_terms(self, terms: pd.DataFrame) -> np.ndarray:
        """Predicted period in us from terms already computed (physics.terms_us), shape (rows,)."""
        return terms.to_numpy() @ self.coefficients

    def parts_us(self, inputs: pd.DataFrame) -> pd.DataFrame:
        """The prediction split by term, us, shape (rows, terms)."""
        return physics.terms_us(inputs) * self.coefficients

    def describe(self) -> dict[str, list[str] | list[float]]:
        """JSON: names of the terms (physics.TERMS), and their coefficients in the same order."""
        return {"terms": list(physics.TERMS), "coefficients": [float(value) for value in self.coefficients]}


def constant(train: pd.DataFrame, target: str, weights: np.ndarray) -> Base:
    """No physics, for ablation: the weighted geometric mean of the target, us, for every step."""
    mean = np.exp(np.average(np.log(train[target].to_numpy(float)), weights=weights))
    return Base(np.array([mean if name == "step" else 0.0 for name in physics.TERMS]))


def fit(
    train: pd.DataFrame,
    target: str,
    weights: np.ndarray | None = None,
    strength: float = PRIOR_STRENGTH,
    centre: Base | None = None,
) -> Base:
    """Non-negative least squares on relative errors, pulled to the prior; works for any number of groups, one
    included.

    `weights` default to row_weights (models and experiments weigh the same). `centre`: another fit to be
    pulled to, with the prior's scales, instead of the prior's values.
    """
    from scipy.optimize import nnls  # slow to import; a fitted base does without

    observed = train[target].to_numpy(float)
    weights = row_weights(train) if weights is None else weights
    root = np.sqrt(weights / weights.sum())
    prior, scale = np.array([PRIOR[name] for name in physics.TERMS]).T
    prior = prior if centre is None else centre.coefficients
    pull = np.sqrt(strength) / scale
    reduced = _reduced(train, root, observed, np.column_stack([np.diag(pull), pull * prior]))
    coefficients, _ = nnls(reduced[:, :-1], reduced[:, -1])
    return Base(coefficients)


def _reduced(train: pd.DataFrame, root: np.ndarray, observed: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """The triangular factor of the weighted terms beside `root`, with the rows of the prior below, shape
    (terms + 1, terms + 1): as good as all rows to least squares (tall and skinny QR: Demmel et al. 2012,
    doi:10.1137/080731992).
    """
    factor = np.empty((0, prior.shape[1]))
    for rows in blocks(len(train)):
        design = physics.terms_us(train.iloc[rows]).to_numpy() * (root[rows] / observed[rows])[:, None]
        last = prior if rows.stop == len(train) else prior[:0]
        stacked = np.vstack([factor, np.column_stack([design, root[rows]]), last])
        factor = np.asarray(np.linalg.qr(stacked, mode="r"))
    return factor
