"""Time that a request spends outside model steps, estimated from the request logs of a training fold.

    overheads = estimate([recorded, ...])          # training experiments only
    overheads.queueing_us, overheads.pipeline_steps

Where nobody queues, a first token takes: the way into the queue, the rest of the running step (half a step in
the mean), the steps that are already scheduled when the request arrives (asynchronous scheduling makes the
next batch while the present one runs), and the prefill step. So TTFT = queueing + (1.5 + pipeline_steps) x
period, fitted over logs whose periods differ. The step clock is recovered from times at the client and ends
with the last token there, so what follows a step (post-decode, time per token) is already in it and 0 here.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from h3.latency.recorded import Recorded, max_num_seqs
from h3.server.overheads import Overheads

# A request is in line for a free place from here on; its wait says nothing about overheads.
FREE_SHARE = 0.8
# New prompt tokens that add nothing visible to a step.
SMALL_PREFILL_TOKENS = 64
LEAST_REQUESTS, BINS = 50, 4
# Half a step until the running one ends, and the prefill step itself.
OWN_STEPS = 1.5


def estimate(training: Iterable[Recorded], pipeline_steps: float | None = None) -> Overheads | None:
    """Overheads over the training experiments, each weighing the same; None where no log has requests that
    did not queue. With pipeline_steps given, queueing_us holds what they leave: with 0 all of the wait.

    With periods that hardly differ the intercept is not identified and falls to the non-negative fit's
    choice.
    """
    bins = [rows for recorded in training for rows in [_bins(recorded)] if len(rows)]
    if not bins:
        return None
    table = pd.concat(bins)
    if pipeline_steps is not None:
        return Overheads(
            queueing_us=_beyond(table, OWN_STEPS + pipeline_steps), pipeline_steps=pipeline_steps
        )
    relative = 1 / table["ttft_us"].to_numpy()
    design = np.column_stack([np.ones(len(table)), table["period_us"]]) * relative[:, None]
    queueing_us, slope = nnls(design, np.ones(len(table)))[0]
    if slope < OWN_STEPS:
        queueing_us, slope = _beyond(table, OWN_STEPS), OWN_STEPS
    return Overheads(queueing_us=float(queueing_us), pipeline_steps=float(slope - OWN_STEPS))


def _beyond(table: pd.DataFrame, steps: float) -> float:
    """What TTFT is beyond so many periods in the mean, us."""
    return max(0.0, float((table["ttft_us"] - steps * table["period_us"]).mean()))


def _bins(recorded: Recorded) -> pd.DataFrame:
    """Mean TTFT and period of one experiment's requests that found a free place, in BINS groups by period."""
    frame = free(recorded)
    return (
        frame.groupby(pd.qcut(frame["period_us"].rank(method="first"), BINS, labels=False)).mean()
        if len(frame)
        else frame
    )


def free(recorded: Recorded) -> pd.DataFrame:
    """TTFT and mean period, us, of the requests that found a free place and little to prefill; empty below
    LEAST_REQUESTS: such a log says nothing of overheads.
    """
    rows = recorded.requests
    rows = rows[(rows["output_tokens"] > 1) & np.isfinite(rows["last_us"]) & np.isfinite(rows["first_us"])]
    free = running_at(rows, rows["arrival_us"].to_numpy()) < FREE_SHARE * max_num_seqs(recorded.experiment)
    small = (rows["prompt_tokens"] - rows["cached_tokens"]).to_numpy() <= SMALL_PREFILL_TOKENS
    rows = rows[free & small]
    if len(rows) < LEAST_REQUESTS:
        return pd.DataFrame()
    return pd.DataFrame(
        {
            "ttft_us": rows["first_us"] - rows["arrival_us"],
            "period_us": (rows["last_us"] - rows["first_us"]) / (rows["output_tokens"] - 1),
        }
    )


def running_at(rows: pd.DataFrame, times_us: np.ndarray) -> np.ndarray:
    """Requests between first and last token at the given times, shape of times_us."""
    first, last = np.sort(rows["first_us"].to_numpy()), np.sort(rows["last_us"].to_numpy())
    return np.searchsorted(first, times_us, side="right") - np.searchsorted(last, times_us, side="right")
