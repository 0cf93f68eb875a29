"""A request trace through the scheduler with predicted step times: what a model means for the latency that
users feel.

    table = replay_experiment(recorded.requests, recorded.experiment, timer.period_us, overheads)
    replay = replay_recorded(recorded, fitted, overheads)        # table, run and timer, of a fitted predictor

Arrivals and lengths are the recorded ones; everything that happens in between is the project's one scheduler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np
import pandas as pd

from h3.evaluation.replay_result import ReplayedRun
from h3.latency.metrics import experiment_metrics
from h3.latency.recorded import Recorded, limits
from h3.latency.timer import StepTimer
from h3.latency.timer import step_time as make_step_time
from h3.models.protocol import Predicts
from h3.server import scheduler
from h3.server.overheads import NONE, Overheads
from h3.server.requests import Requests, Run, StepBatch
from h3.sources.experiment import Experiment


@dataclass(frozen=True)
class ReplayOptions:
    """horizon_us: no step starts so long after the first arrival (requests left over are counted as
    unfinished). step_bias: multiplies every step time."""

    horizon_us: float = inf
    step_bias: float = 1.0


@dataclass(frozen=True)
class Replay:
    """One experiment's replay: the table of its requests, what it found, and the step time that drove it."""

    recorded: Recorded
    table: pd.DataFrame
    run: ReplayedRun
    timer: StepTimer

    def again(self, overheads: Overheads, options: ReplayOptions) -> Replay:
        """The same experiment and step time with other overheads or options."""
        return _replay(self.recorded, self.timer, overheads, options)


def replay_experiment(
    requests: pd.DataFrame,
    experiment: Experiment,
    step_time: Callable[[StepBatch], float],
    overheads: Overheads = NONE,
    options: ReplayOptions | None = None,
) -> pd.DataFrame:
    """Replay requests (recorded.py: columns and units; any order) with a step time; one row a request, in
    the order given.

    Columns: request, arrival_us, prompt_tokens, cached_tokens, output_tokens, first_us, last_us (measured),
    predicted_first_us, predicted_last_us, {predicted,measured}_{queueing,ttft,itl,e2e}_us as far as known
    (NaN: never), preemptions, status: "ok", "rejected" (longer than the KV cache) or "unfinished" (at the
    horizon). ITL is (E2E - TTFT) / (output_tokens - 1). Raises InputError naming the batch for a step time
    that cannot be one.
    """
    options = options or ReplayOptions()
    period_us = step_time if options.step_bias == 1 else lambda batch: options.step_bias * step_time(batch)
    arrival = requests["arrival_us"].to_numpy(float)
    run = scheduler.simulate(
        Requests(
            arrival + overheads.queueing_us,
            requests["prompt_tokens"].to_numpy(),
            requests["output_tokens"].to_numpy(),
            requests["cached_tokens"].to_numpy(),
            requests["prefix_group"].to_numpy(),
        ),
        limits(experiment),
        period_us,
        iter(()),
        arrival.min(initial=inf) + overheads.queueing_us + options.horizon_us,
    )
    return _table(requests, run, overheads)


def _table(requests: pd.DataFrame, run: Run, overheads: Overheads) -> pd.DataFrame:
    output, arrival = requests["output_tokens"].to_numpy(), requests["arrival_us"].to_numpy(float)
    gaps = np.maximum(output - 1, 1)
    step_us = np.where(output > 1, (run.finish_us - run.first_token_us) / gaps, np.nan)
    usual_us = np.nanmedian(step_us) if np.isfinite(step_us).any() else 0.0
    pipeline_us = overheads.pipeline_steps * np.where(np.isnan(step_us), usual_us, step_us)
    first = run.first_token_us + pipeline_us + overheads.output_token_us
    last = run.finish_us + pipeline_us + overheads.output_token_us * np.maximum(output, 1)
    e2e = last + overheads.post_decode_us - arrival
    status = np.select([run.rejected, np.isnan(run.finish_us)], ["rejected", "unfinished"], "ok")
    columns = [
        "request",
        "arrival_us",
        "prompt_tokens",
        "cached_tokens",
        "output_tokens",
        "first_us",
        "last_us",
    ]
    measured_itl = np.where(output > 1, (requests["last_us"] - requests["first_us"]) / gaps, np.nan)
    return requests[columns].assign(
        predicted_first_us=first,
        predicted_last_us=last,
        predicted_queueing_us=run.scheduled_us + pipeline_us - arrival,
        predicted_ttft_us=first - arrival,
        predicted_itl_us=np.where(output > 1, (last - first) / gaps, np.nan),
        predicted_e2e_us=e2e,
        measured_ttft_us=requests["first_us"] - arrival,
        measured_itl_us=measured_itl,
        measured_e2e_us=requests["last_us"] - arrival,
        preemptions=run.preemptions,
        status=status,
    )


def replay_recorded(
    recorded: Recorded, fitted: Predicts, overheads: Overheads = NONE, options: ReplayOptions | None = None
) -> Replay:
    """Replay one recorded experiment with a fitted predictor."""
    requests = recorded.requests
    longest = int((requests["prompt_tokens"] + requests["output_tokens"]).max())
    timer = make_step_time(fitted, recorded.experiment, limits(recorded.experiment), longest)
    return _replay(recorded, timer, overheads, options)


def _replay(
    recorded: Recorded, timer: StepTimer, overheads: Overheads, options: ReplayOptions | None
) -> Replay:
    table = replay_experiment(recorded.requests, recorded.experiment, timer.period_us, overheads, options)
    run = ReplayedRun(
        **experiment_metrics(recorded.experiment.name, table),
        prefix_hits=recorded.prefix_hits,
        logged=recorded.logged,
        failed=recorded.failed,
        rejected_lines=recorded.rejected_lines,
        step_time=timer.check,
    )
    return Replay(recorded, table, run, timer)
