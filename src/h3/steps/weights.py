"""How much a row of the step table counts.

>>> names = {"model": ["7b", "7b", "70b"], "experiment": ["7b-chat", "7b-chat", "70b-chat"]}
>>> row_weights(pd.DataFrame({**names, "gap_steps": [1, 1, 10]}))
array([0.75, 0.75, 1.5 ])
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from h3.steps import schema, shapes


def row_weights(table: pd.DataFrame) -> np.ndarray:
    """Weights of shape (rows,), mean 1: models weigh the same, within a model its experiments, within those
    1/gap_steps. Models that step alike (shapes.py) are one where the table has the shape's columns.

    A row's composition is known for one step of the gap that its period averages, so a long gap says less
    about it.
    """
    row = 1.0 / table["gap_steps"].to_numpy(float)
    per_experiment = pd.Series(row).groupby(table["experiment"].to_numpy()).transform("sum").to_numpy()
    model = _models(table)
    experiments = table.groupby(model)["experiment"].nunique()
    weights = row / per_experiment / pd.Series(model).map(experiments).to_numpy(float)
    return weights * len(table) / weights.sum()


def _models(table: pd.DataFrame) -> np.ndarray:
    """The model of each row, shape (rows,); models that step alike have the name of the first."""
    if not set(schema.SHAPE_NAMES) <= set(table.columns):
        return table["model"].to_numpy()
    return table["model"].groupby(shapes.groups(table)).transform("first").to_numpy()


def shape_groups(table: pd.DataFrame) -> np.ndarray:
    """Number of each row's model, from 0, models that step alike as one; int of shape (rows,)."""
    return np.asarray(pd.factorize(_models(table))[0])
