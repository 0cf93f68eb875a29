"""The step clock of a trace: how long steps took, from the ids and start times of the steps that were
sampled.

>>> clock = read([5, 10, 11], [0.0, 90_000.0, 110_000.0])
>>> clock.period_us.tolist()                    # the last step of a clock has no successor
[18000.0, 20000.0, nan]
>>> clock.reason.tolist()
['', '', 'last_of_clock']

About one step in ten is sampled. Consecutive samples i < j of one server give the mean period of the steps
i..j-1, `(start_j - start_i) / (id_j - id_i)`; the gap `id_j - id_i` is kept, because a mean over fewer steps
says more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

STRETCH_SAMPLES = 100
IDLE_MULTIPLE = 4.0
IDLE_TOKENS_PER_MULTIPLE = 300.0


@dataclass(frozen=True)
class TraceClock:
    """One entry a sampled step, in the order given.

    clock: int64, number of the step counter; a restarted server starts a new one.
    period_us: float64, mean period up to the next sample of the clock; NaN where there is none.
    gap_steps: int64, steps over which the period is a mean; 0 where there is none.
    reason: why the step cannot be used ("": it can): duplicate_step, last_of_clock, zero_period, idle_gap.
    """

    clock: np.ndarray
    period_us: np.ndarray
    gap_steps: np.ndarray
    reason: np.ndarray


def read(
    step_id: np.ndarray,
    start_us: np.ndarray,
    tokens: np.ndarray | None = None,
    drained: np.ndarray | None = None,
    budget_tokens: float = 2048.0,
) -> TraceClock:
    """The clock of one experiment's sampled steps, in file order.

    step_id, start_us: ids and start times (us).
    tokens: scheduled tokens of each step (None or NaN: a full budget).
    drained: true where nothing was left to run after the step.
    budget_tokens: most tokens that a step may schedule.

    Guarantees: periods are exact means, `sum(period * gap)` over a clock is its last start minus its first,
    rejected idle gaps included; no period spans a restart. A step id or a time that goes back is a restart;
    an event seen before (same id and time), or the id of the sample just before it, is a duplicate.

    A period is not the time of steps (reason idle_gap) where the server had nothing left to run after the
    step (`drained`), or where it is longer than its steps could take (`_too_long`).
    """
    ids = np.asarray(step_id, dtype=np.int64)
    start = np.asarray(start_us, dtype=np.float64)
    reason = np.full(len(ids), "", dtype=object)
    unique = _first_seen(ids, start)
    reason[~unique] = "duplicate_step"
    clock = _clock_numbers(ids, start, unique)
    period, gap = _periods(ids, start, clock, unique)
    reason[unique & (gap == 0)] = "last_of_clock"
    reason[unique & (gap > 0) & (period <= 0)] = "zero_period"
    load = (
        np.full(len(ids), budget_tokens)
        if tokens is None
        else np.nan_to_num(np.asarray(tokens, float), nan=budget_tokens)
    )
    idle = _too_long(clock, period, gap, load, budget_tokens)
    if drained is not None:
        idle |= np.asarray(drained, dtype=bool)
    reason[idle & (reason == "")] = "idle_gap"
    return TraceClock(clock, period, gap, reason)


def _first_seen(ids: np.ndarray, start: np.ndarray) -> np.ndarray:
    """False for an event that repeats an earlier one, or the step id just before it."""
    if (np.diff(ids) > 0).all() and (np.diff(start) >= 0).all():
        return np.ones(len(ids), dtype=bool)
    first = ~pd.DataFrame({"id": ids, "start": start}).duplicated().to_numpy()
    rows = np.flatnonzero(first)
    repeats = (np.diff(ids[rows]) == 0) & (np.diff(start[rows]) >= 0)
    first[rows[1:][repeats]] = False
    return first


def _clock_numbers(ids: np.ndarray, start: np.ndarray, unique: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(unique)
    restart = np.zeros(len(ids), dtype=np.int64)
    restart[rows[1:]] = (np.diff(ids[rows]) <= 0) | (np.diff(start[rows]) < 0)
    return np.cumsum(restart)


def _periods(
    ids: np.ndarray, start: np.ndarray, clock: np.ndarray, unique: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean period and gap from each unique row to the next of its clock; NaN and 0 where there is none."""
    period, gap = np.full(len(ids), np.nan), np.zeros(len(ids), dtype=np.int64)
    rows = np.flatnonzero(unique)
    same = np.diff(clock[rows]) == 0
    here, after = rows[:-1][same], rows[1:][same]
    gap[here] = ids[after] - ids[here]
    period[here] = (start[after] - start[here]) / gap[here]
    return period, gap


def _too_long(
    clock: np.ndarray, period: np.ndarray, gap: np.ndarray, load: np.ndarray, budget: float
) -> np.ndarray:
    """True where a period exceeds what its steps could take: local median x (4 + tokens / 300).

    The median is over the stretch of about 100 samples around it; tokens are those of the sampled step, and a
    full budget for each unsampled one. 300 tokens are the ridge of an H100 (peak FLOP/s over bytes/s): beyond
    it, that many tokens cost as much as reading the weights once, which bounds a decode step from below. So
    genuine prefill passes at any budget. Measured on two Llama-2-70B runs (12,671 steps): the rule takes
    three periods, of 569, 316 and 289 ms, 31, 17 and 16 times the local median; the longest that it keeps is
    88 ms, 5 steps with 2046 prefill tokens in the first, 4.4 times it. What it cannot see is idle time
    shorter than the bound between samples that are both busy.
    """
    typical = np.full(len(period), np.nan)
    timed = np.flatnonzero(~np.isnan(period))
    for rows in np.split(timed, np.flatnonzero(np.diff(clock[timed])) + 1):  # clocks follow one another
        for stretch in np.array_split(rows, len(rows) // STRETCH_SAMPLES + 1):
            typical[stretch] = np.median(period[stretch]) if len(stretch) else np.nan
    steps = np.maximum(gap, 1)
    mean_tokens = (np.minimum(load, budget) + (steps - 1) * budget) / steps
    with np.errstate(invalid="ignore"):
        return period > typical * (IDLE_MULTIPLE + mean_tokens / IDLE_TOKENS_PER_MULTIPLE)
