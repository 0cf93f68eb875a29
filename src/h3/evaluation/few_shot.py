"""Few-shot: a fit adapted to one server from a little of its log, validated on what came later.

    found = adapt(fitted, table)
    found.fitted, found.strength, found.before, found.after

The first part of each experiment's steps fits, the last part judges, in time order; leaving the fit as it is
is a candidate, and an adaptation must gain. What is judged best is then fitted on all steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from h3.common.errors import InputError
from h3.evaluation.intervals import Group, residuals
from h3.models.calibration import TARGET, refit
from h3.models.protocol import Predicts
from h3.models.residual import FittedResidual
from h3.steps import metrics

# Pull to the fit as it was: from three times the base's own (0.003) to as good as none.
STRENGTHS = (0.01, 0.03, 0.1)
FIT_SHARE, JUDGE_FROM = 0.65, 0.7  # what lies between would share windows of the clock with both
LEAST_GAIN = 0.05
LEAST_STEPS = 40


@dataclass(frozen=True)
class Adapted:
    """The adapted fit, its strength (None: as it was), MAPE in % on the later steps before and after, and
    those steps' errors under the fit that had not seen them.
    """

    fitted: FittedResidual
    strength: float | None
    before: float
    after: float
    steps: int
    later: Group


def adapt(fitted: FittedResidual, table: pd.DataFrame) -> Adapted:
    """The fit adapted to the table's server; raises InputError for fewer steps than LEAST_STEPS."""
    if len(table) < LEAST_STEPS:
        raise InputError(f"{len(table)} steps to calibrate on; expected at least {LEAST_STEPS}: a longer log")
    place = table.groupby("experiment")["step_id"].rank(pct=True).to_numpy()
    early = table[place <= FIT_SHARE].reset_index(drop=True)
    later = table[place > JUDGE_FROM].reset_index(drop=True)
    before = mape(fitted, later)
    judged = {strength: mape(refit(fitted, early, strength), later) for strength in STRENGTHS}
    best = min(judged, key=lambda strength: judged[strength])
    if judged[best] > (1 - LEAST_GAIN) * before:
        return Adapted(fitted, None, before, before, len(table), _errors(fitted, later))
    errors = _errors(refit(fitted, early, best), later)
    return Adapted(refit(fitted, table, best), best, before, judged[best], len(table), errors)


def _errors(fitted: Predicts, table: pd.DataFrame) -> Group:
    predictions = table[["experiment"]].assign(
        observed_us=table[TARGET].to_numpy(float), predicted_us=np.asarray(fitted.predict(table))
    )
    return residuals("later part", predictions)


def mape(fitted: Predicts, table: pd.DataFrame) -> float:
    """Macro MAPE on a table's steps, %."""
    observed = table[TARGET].to_numpy(float)
    return metrics.macro_mape(np.asarray(fitted.predict(table)), observed, table["experiment"].to_numpy())
