"""A fit drawn toward the steps of one server: the base fitted anew, pulled to what it was.

    near = refit(fitted, table, strength=0.03)

The prior's scales say how far each term may go; trees stay as they are.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from h3.models import physical_base
from h3.models.residual import FittedResidual

TARGET = "period_us"


def refit(fitted: FittedResidual, table: pd.DataFrame, strength: float) -> FittedResidual:
    """The fit with its base drawn toward the table's periods; what trees add is taken off them before.

    strength: weight of one prior scale against the mean squared relative error (physical_base.fit).
    """
    observed = table[TARGET].to_numpy(float)
    numbers = fitted.numbers(table)
    without_trees = table.assign(**{TARGET: observed * numbers.base_us / numbers.us})
    base = physical_base.fit(without_trees, TARGET, strength=strength, centre=fitted.base)
    return replace(fitted, base=base)
