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
    weights = 1.0 / table["gap_steps"].to_numpy(float)
    experiment, model = shapes.numbers(table["experiment"]), shape_groups(table)
    named = table["experiment"].array
    weights /= pd.Series(weights).groupby(named, observed=True).transform("sum").to_numpy()
    weights /= _experiments(model, experiment)[model]
    total = weights.sum()
    weights *= len(table)
    weights /= total
    return weights


def _experiments(model: np.ndarray, experiment: np.ndarray) -> np.ndarray:
    """How many experiments each model has, shape (models,)."""
    pairs = np.unique(model * (experiment.max(initial=0) + 1) + experiment)
    return np.bincount(pairs // (experiment.max(initial=0) + 1))


def shape_groups(table: pd.DataFrame) -> np.ndarray:
    """Number of each row's model, from 0, models that step alike as one; int of shape (rows,)."""
    if not set(schema.SHAPE_NAMES) <= set(table.columns):
        return shapes.numbers(table["model"])
    shape = shapes.groups(table)
    first = np.unique(shape, return_index=True)[1]
    return shapes.numbers(table["model"].iloc[first])[shape]  # of one name: one model
