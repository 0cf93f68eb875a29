"""A fold's predictor put to the test that users feel: replay of its held-out experiments, overheads from its
training ones.

    found, figures = replay_fold(outcome, config)         # a ReplayResult, and figures by name
    found.experiments[0].e2e_mean_error

Held-out measurements are read here for scoring alone, after the fit: neither the predictor nor the overheads
see them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from h3.common.config import SourceConfig, TrainConfig
from h3.common.errors import InputError
from h3.common.records import LeftOut
from h3.evaluation.one_fold import Outcome
from h3.evaluation.replay_result import ReplayResult, SensitivityPoint
from h3.latency import plots
from h3.latency.metrics import summary
from h3.latency.overheads import estimate
from h3.latency.recorded import Recorded, from_log, from_simulation
from h3.latency.replay_run import Replay, ReplayOptions, replay_recorded
from h3.models import zoo
from h3.models.protocol import Predicts
from h3.server.overheads import NONE, Overheads
from h3.sources import simulated
from h3.sources.load import holds_requests, request_logs
from h3.sources.requests.files import Logged
from h3.steps import basis

Experiments = Mapping[str, Callable[[], Recorded]]
# What an experiment that cannot be used raises: bad input, or a file that cannot be read.
UNUSABLE = (InputError, OSError)
SAW = (
    "the predictor was trained on steps of the replayed runs, and these are replayed whole: no error of runs"
    " left out"
)


@dataclass(frozen=True)
class Job:
    """How to replay: overheads, options, biases of the step time for the sensitivity figure (%), title of the
    figures and what their truth is, what is told each experiment's name, and the share of failed requests
    above which an experiment is not replayed.
    """

    overheads: Overheads = NONE
    options: ReplayOptions = field(default_factory=ReplayOptions)
    biases_percent: tuple[float, ...] = ()
    title: str = "replay"
    observed: str = "measured"
    say: Callable[[str], None] | None = None
    max_failed_ratio: float = 1.0


@dataclass(frozen=True)
class Replayed:
    """What was found, figures by name, and tables of a row a request by experiment."""

    found: ReplayResult
    figures: dict[str, Figure]
    tables: dict[str, pd.DataFrame]


def replays(config: TrainConfig) -> bool:
    """Whether a fold's held-out experiments are replayed: as asked, else where the source holds requests."""
    on = config.replay.enabled
    return replayable(config.source) if on is None else on


def replayable(source: SourceConfig) -> bool:
    """Whether the source holds requests that can be replayed."""
    return source.name == "simulated" or holds_requests(source)


def replay_fold(
    outcome: Outcome,
    config: TrainConfig,
    biases_percent: Iterable[float] = (),
    say: Callable[[str], None] | None = None,
) -> tuple[ReplayResult, dict[str, Figure]]:
    """Replay a fold's held-out experiments: what it found, and figures by name.

    Where there is nothing to replay (no request log, another target than the period) or the logs cannot be
    found the result says why it was skipped: a replay never costs a fold its errors.
    """
    if config.target != "period":
        return ReplayResult(skipped=f"target={config.target} is not the time of a step"), {}
    if not replayable(config.source):
        return ReplayResult(skipped=f"source={config.source.name} holds no requests"), {}
    try:
        held_out = find_recorded(config.source, set(outcome.split.inputs["experiment"]))
        training = find_recorded(config.source, set(outcome.split.train["experiment"]))
    except UNUSABLE as error:
        return ReplayResult(skipped=f"the request logs cannot be found: {error}"), {}
    if not held_out:
        return ReplayResult(skipped="no held-out experiment has a request log"), {}
    # The simulated server has no overheads.
    overheads, left_out = _overheads(training if config.source.name != "simulated" else {})
    job = Job(
        overheads or NONE,
        biases_percent=tuple(biases_percent),
        title=outcome.result.title,
        observed=basis.observed(outcome.result.data),
        say=say,
    )
    done = replay_all(held_out, outcome.fitted, job)
    known = {
        "overheads_estimated": overheads is not None,
        "overheads_left_out": left_out,
        "note": SAW if zoo.sees_held_out(config.model.name) else None,
    }
    return done.found.model_copy(update=known), done.figures


def _overheads(training: Experiments) -> tuple[Overheads | None, tuple[LeftOut, ...]]:
    """Overheads from the training experiments' request logs, None without any; and the logs that cannot be
    read.
    """
    recorded, left_out = [], []
    for name, make in training.items():
        try:
            recorded.append(make())
        except UNUSABLE as error:
            left_out.append(LeftOut(experiment=name, reason=str(error)))
    return estimate(recorded), tuple(left_out)


def find_recorded(source: SourceConfig, names: set[str] | None) -> dict[str, Callable[[], Recorded]]:
    """Experiment name → what reads its requests, for the named experiments of a source (None: all that have
    any).
    """
    found: dict[str, Callable[[], Recorded]]
    if source.name == "simulated":
        found = {name: partial(from_simulation, source, cell) for name, cell in simulated.cells().items()}
    else:
        found = {name: partial(_read, make, source) for name, make in request_logs(source).items()}
    return {name: make for name, make in found.items() if names is None or name in names}


def _read(make: Callable[[], Logged], source: SourceConfig) -> Recorded:
    return from_log(*make(), source.assume)


def replay_all(experiments: Experiments, fitted: Predicts, job: Job) -> Replayed:
    """Replay experiments (name → what reads its requests) one after the other.

    An experiment whose log cannot be read or whose KV cache has no room, for which the predictor gives a time
    that cannot be one, or whose failed requests (load that left no lengths) are too many, is listed under
    `failed` with the reason.
    """
    replays: dict[str, Replay] = {}
    failed, curves = [], []
    for name, make in experiments.items():
        if job.say:
            job.say(name)
        try:
            done = _replay_one(make(), fitted, job)
            curves += _sensitivity(done, job)
        except UNUSABLE as error:
            failed.append(LeftOut(experiment=name, reason=str(error)))
            continue
        replays[name] = done
    tables = {name: done.table for name, done in replays.items()}
    runs = tuple(done.run for done in replays.values())
    found = ReplayResult(
        experiments=runs,
        failed=tuple(failed),
        overheads=job.overheads,
        summary=summary(runs),
        sensitivity=tuple(curves),
    )
    return Replayed(found, _figures(tables, found, job), tables)


def _figures(tables: dict[str, pd.DataFrame], found: ReplayResult, job: Job) -> dict[str, Figure]:
    figures = plots.replay_figures(tables, job.title, job.observed) if tables else {}
    if found.sensitivity:
        curves = pd.DataFrame([point.model_dump() for point in found.sensitivity])
        figures["replay_sensitivity"] = plots.sensitivity(curves, job.title)
    return figures


def _replay_one(recorded: Recorded, fitted: Predicts, job: Job) -> Replay:
    """Replay an experiment; raises InputError where too many of its requests failed, and as replay_recorded
    does.
    """
    lost, total = recorded.failed, recorded.logged
    if lost > job.max_failed_ratio * total:
        raise InputError(
            f"{lost} of {total} requests failed, more than max_failed_ratio={job.max_failed_ratio:g}"
        )
    return replay_recorded(recorded, fitted, job.overheads, job.options)


def _sensitivity(done: Replay, job: Job) -> list[SensitivityPoint]:
    """Error of mean E2E, %, at each bias of the step time and at none; empty where no bias is asked for."""
    out = []
    for bias in sorted({0.0, *map(float, job.biases_percent)}) if job.biases_percent else []:
        options = replace(job.options, step_bias=job.options.step_bias * (1 + bias / 100))
        run = done.again(job.overheads, options).run if bias else done.run
        out.append(
            SensitivityPoint(
                experiment=run.experiment,
                bias_percent=bias,
                e2e_mean_error=run.e2e_mean_error,
                saturated=bool(run.saturated_predicted),
            )
        )
    return out
