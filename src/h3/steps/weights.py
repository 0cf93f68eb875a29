"""How much a row of the step table counts.

>>> names = {"model": ["7b", "7b", "70b"], "experiment": ["7b-chat", "7b-chat", "70b-chat"]}
>>> row_weights(pd.DataFrame({**names, "gap_steps": [1, 1, 10]}))
array([0.75, 0.75, 1.5 ])
"""

from __future__ import annotations

import numpy as np
import pandas as pd


def row_weights(table: pd.DataFrame) -> np.ndarray:
    """Weights of shape (rows,), mean 1: models weigh the same, within a model its experiments, within those
    1/gap_steps.

    A row's composition is known for one step of the gap that its period averages, so a long gap says less
    about it.
    """
    row = 1.0 / table["gap_steps"].to_numpy(float)
    per_experiment = pd.Series(row).groupby(table["experiment"].to_numpy()).transform("sum").to_numpy()
    experiments = table.groupby("model")["experiment"].nunique()
    weights = row / per_experiment / table["model"].map(experiments).to_numpy(float)
    return weights * len(table) / weights.sum()
