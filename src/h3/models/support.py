"""Where a booster may speak: the ranges that its features had in training and, where it was tuned for them
only, the deployments.

    support = Support.of(matrix, train, known_only=True)
    support.trust(matrix, inputs)             # 1: believe the trees, 0: the base answers alone

Trees are constant beyond the training data, which is a guess, not knowledge. Trees whose number was chosen on
workloads held out were never asked about a deployment (model, TP degree, hardware) that is not in the data,
and stay silent there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from h3.steps import catalog, schema, shapes

DEPLOYMENT_COLUMNS = ("hardware", "tensor_parallelism", *schema.ARCHITECTURE_NAMES)


Deployed = dict[str, Any]  # the columns of a deployment


@dataclass(frozen=True)
class Support:
    """Range of each feature in training, float32 of shape (features,), and the deployments served (None:
    any).

    A deployment is a dict of DEPLOYMENT_COLUMNS, hardware by its name in catalog.HARDWARE.
    """

    low: np.ndarray
    high: np.ndarray
    deployments: tuple[Deployed, ...] | None = None

    @classmethod
    def of(cls, matrix: pd.DataFrame, train: pd.DataFrame, known_only: bool) -> Support:
        """Ranges and deployments of a training matrix and its step table; a feature that is null throughout
        has the range 0 to 0.
        """
        ends = [_ends(matrix[name].to_numpy(np.float32)) for name in matrix]
        low, high = np.array(ends, np.float32).reshape(-1, 2).T
        return cls(low, high, deployments_of(train) if known_only else None)

    def trust(self, matrix: pd.DataFrame | np.ndarray, inputs: pd.DataFrame) -> np.ndarray:
        """1 inside the training ranges, 0 from one range width outside on, linear between; shape (rows,).

        A feature that was constant in training has no width: another value (a model with experts after dense
        ones only) has no trust at all. Nor has a deployment that is none of `deployments`.
        """
        values = np.nan_to_num(np.asarray(matrix, np.float32))
        low, high = self.low.astype(float), self.high.astype(float)
        width = np.maximum(high - low, np.finfo(np.float32).tiny)
        outside = np.zeros(len(values))
        for number, column in enumerate(values.T.astype(float)):
            np.maximum(
                outside, np.maximum(low[number] - column, column - high[number]) / width[number], out=outside
            )
        return (1.0 - np.minimum(1.0, outside)) * self.serves(inputs)

    def serves(self, inputs: pd.DataFrame) -> np.ndarray:
        """Whether each row's deployment is one of `deployments`; bool of shape (rows,)."""
        if self.deployments is None:
            return np.ones(len(inputs), bool)
        return listed(inputs, self.deployments)

    def describe(self) -> dict[str, Any]:
        """JSON content: low, high and, unless any deployment is served, deployments."""
        ranges = {"low": self.low.tolist(), "high": self.high.tolist()}
        return ranges if self.deployments is None else {**ranges, "deployments": list(self.deployments)}


def listed(inputs: pd.DataFrame, deployments: tuple[Deployed, ...]) -> np.ndarray:
    """Whether each row's deployment is one of these; bool of shape (rows,)."""
    columns = {name: _values(inputs, name) for name in DEPLOYMENT_COLUMNS}
    found = np.zeros(len(inputs), bool)
    for deployment in deployments:
        alike = columns["hardware"] == deployment["hardware"]
        for name in DEPLOYMENT_COLUMNS[1:]:
            if not alike.any():
                break
            alike &= columns[name] == deployment[name]
        found |= alike
    return found


def deployments_of(table: pd.DataFrame) -> tuple[Deployed, ...]:
    """The distinct deployments of a step table, in the order of their values."""
    names = list(DEPLOYMENT_COLUMNS)
    _, rows = shapes.distinct(table, names)
    rows = pd.DataFrame({name: _values(rows, name) for name in names}).drop_duplicates().sort_values(names)
    return tuple({str(name): value for name, value in row.items()} for row in rows.to_dict("records"))


def _values(table: pd.DataFrame, name: str) -> np.ndarray:
    """A column as numbers (null: 0), hardware as names of the catalogue."""
    if name != "hardware":
        return np.nan_to_num(table[name].to_numpy(float))
    codes, names = pd.factorize(table["hardware"])
    return (
        np.array([catalog.hardware(str(found)).name for found in names], dtype=object)[codes]
        if len(codes)
        else np.empty(0, object)
    )


def _ends(column: np.ndarray) -> tuple[np.float32, np.float32]:
    known = np.nan_to_num(column)
    return known.min(), known.max()
