"""A fitted predictor as the scheduler's step time: fast, and checked against the predictor itself.

    timer = step_time(fitted, experiment, limits, longest_tokens=1000)
    scheduler.simulate(requests, limits, timer.period_us)
    timer.describe()                       # how it is evaluated, and how far that is from fitted.predict

A predictor takes a table and needs milliseconds for one row; a replay asks for tens of thousands of steps one
after the other. The residual model is evaluated exactly, any other one from tables that it fills in batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from h3.latency.compositions import COUNTS, periods_us, probes
from h3.latency.exact import ResidualStepTime, serves
from h3.latency.tables import TabulatedStepTime
from h3.models.protocol import Fitted
from h3.server.requests import Limits, StepBatch
from h3.sources.experiment import Experiment

# A fast evaluation counts as exact while no probe is further off; XGBoost itself works in float32.
EXACT_RATIO = 1e-4


@dataclass(frozen=True)
class StepTimer:
    """period_us: StepBatch -> us. method: "exact" or "tables". The error ratios are |fast / direct - 1| over
    the probes.
    """

    period_us: Callable[[StepBatch], float]
    method: str
    largest_error_ratio: float
    mean_error_ratio: float

    def describe(self) -> dict:
        """What a record keeps."""
        return {
            "method": self.method,
            "largest_error_ratio": self.largest_error_ratio,
            "mean_error_ratio": self.mean_error_ratio,
        }


def step_time(fitted: Fitted, experiment: Experiment, limits: Limits, longest_tokens: int) -> StepTimer:
    """The step time of a predictor for the steps of one experiment.

    longest_tokens: the longest context (prompt and output) of its requests. Raises InputError naming a step's
    composition for which the predictor gives no finite, positive time.
    """
    frame = probes(experiment, limits, longest_tokens)
    direct = periods_us(fitted, frame)
    if hasattr(fitted, "fitted_by_route"):  # a bundle: one fit for dense models, one for MoE
        fitted = fitted.fitted_by_route()["moe" if experiment.architecture.num_experts >= 2 else "dense"]
    if serves(fitted):
        exact = ResidualStepTime(fitted, experiment, limits)
        errors = error_ratios(exact, frame, direct)
        if errors.max() <= EXACT_RATIO:
            return StepTimer(exact, "exact", float(errors.max()), float(errors.mean()))
    tables = TabulatedStepTime(fitted, experiment, limits, longest_tokens)
    errors = error_ratios(tables, frame, direct)
    return StepTimer(tables, "tables", float(errors.max()), float(errors.mean()))


def error_ratios(
    timer: Callable[[StepBatch], float], frame: pd.DataFrame, direct_us: np.ndarray
) -> np.ndarray:
    """|fast / direct - 1| of each row of compositions, shape (rows,)."""
    fast = [timer(batch_of(row)) for row in frame[list(COUNTS)].itertuples(index=False)]
    return np.abs(np.array(fast) / direct_us - 1)


def batch_of(row: tuple) -> StepBatch:
    """The scheduler's batch of one composition (a named tuple with the columns COUNTS)."""
    batch = StepBatch()
    for name in COUNTS:
        if name != "decode_tokens":
            setattr(batch, name, int(getattr(row, name)))
    return batch
