"""A fitted predictor as the scheduler's step time: fast, and checked against the predictor itself.

    timer = step_time(fitted, experiment, limits, longest_tokens=1000)
    scheduler.simulate(requests, limits, timer.period_us)
    timer.check                            # how it is evaluated, and how far that is from fitted.predict

A predictor takes a table and needs milliseconds for one row; a replay asks for tens of thousands of steps one
after the other. The residual model is evaluated exactly, any other one from tables that it fills in batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from h3.bundle import Bundle
from h3.evaluation.replay_result import StepTimeCheck
from h3.latency.compositions import COUNTS, periods_us, probes
from h3.latency.exact import ResidualStepTime, serves
from h3.latency.tables import TabulatedStepTime
from h3.models.protocol import Predicts
from h3.models.residual import FittedResidual
from h3.server.requests import Limits, StepBatch
from h3.sources.experiment import Experiment

# A fast evaluation counts as exact while no probe is further off; XGBoost itself works in float32.
EXACT_RATIO = 1e-4


@dataclass(frozen=True)
class StepTimer:
    """period_us: StepBatch → us. check: how it is evaluated, and |fast / direct - 1| over the probes."""

    period_us: Callable[[StepBatch], float]
    check: StepTimeCheck

    @classmethod
    def of(cls, period_us: Callable[[StepBatch], float], method: str, errors: np.ndarray) -> StepTimer:
        """A timer with what its probes showed."""
        largest, mean = float(errors.max()), float(errors.mean())
        return cls(
            period_us, StepTimeCheck(method=method, largest_error_ratio=largest, mean_error_ratio=mean)
        )


def step_time(fitted: Predicts, experiment: Experiment, limits: Limits, longest_tokens: int) -> StepTimer:
    """The step time of a predictor for the steps of one experiment.

    longest_tokens: the longest context (prompt and output) of its requests. Raises InputError naming a step's
    composition for which the predictor gives no finite, positive time.
    """
    frame = probes(experiment, limits, longest_tokens)
    direct = periods_us(fitted, frame)
    own = fitted.fit_for(experiment.architecture) if isinstance(fitted, Bundle) else fitted
    if isinstance(own, FittedResidual) and serves(own, experiment):
        exact = ResidualStepTime(own, experiment, limits)
        errors = error_ratios(exact, frame, direct)
        if errors.max() <= EXACT_RATIO:
            return StepTimer.of(exact, "exact", errors)
    tables = TabulatedStepTime(own, experiment, limits, longest_tokens)
    return StepTimer.of(tables, "tables", error_ratios(tables, frame, direct))


def error_ratios(
    timer: Callable[[StepBatch], float], frame: pd.DataFrame, direct_us: np.ndarray
) -> np.ndarray:
    """|fast / direct - 1| of each row of compositions, shape (rows,)."""
    fast = [timer(batch_of(row)) for row in frame[list(COUNTS)].itertuples(index=False)]
    return np.abs(np.array(fast) / direct_us - 1)


def batch_of(row: tuple[Any, ...]) -> StepBatch:
    """The scheduler's batch of one composition (a named tuple with the columns COUNTS)."""
    batch = StepBatch()
    for name in COUNTS:
        if name != "decode_tokens":
            setattr(batch, name, int(getattr(row, name)))
    return batch
