"""A fold's predictor put to the test that users feel: replay of its held-out experiments, overheads from its
training ones.

    content, figures = replay_fold(outcome, config)       # result["replay"], and figures by name
    content["experiments"][0]["e2e_mean_error"]

Held-out measurements are read here for scoring alone, after the fit: neither the predictor nor the overheads
see them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from h3.common.config import SourceConfig, TrainConfig
from h3.common.errors import InputError
from h3.evaluation.one_fold import Outcome
from h3.latency import overheads as replay_overheads
from h3.latency import plots as replay_plots
from h3.latency.metrics import summary
from h3.latency.overheads import Overheads
from h3.latency.recorded import Recorded, from_log, from_simulation, simulated_cells
from h3.latency.replay_run import Replay, ReplayOptions, replay_recorded
from h3.models import zoo as registry
from h3.models.protocol import Fitted
from h3.sources.experiment import REQUEST_FILES, Assumptions, describe, find
from h3.sources.simulated import SimulatedConfig

# What an experiment that cannot be used raises: bad input, or a file that cannot be read.
UNUSABLE = (InputError, OSError)
SAW = (
    "the predictor was trained on steps of the replayed runs, and these are replayed whole: no error of runs"
    " left out"
)


@dataclass(frozen=True)
class Job:
    """How to replay: overheads, options, biases of the step time for the sensitivity figure (%), title of the
    figures, what is told each experiment's name, and the share of failed requests above which an experiment
    is not replayed.
    """

    overheads: Overheads = replay_overheads.NONE
    options: ReplayOptions = field(default_factory=ReplayOptions)
    biases_percent: tuple[float, ...] = ()
    title: str = "replay"
    say: Callable[[str], None] | None = None
    max_failed_ratio: float = 1.0


@dataclass(frozen=True)
class Replayed:
    """content: result["replay"], JSON-serialisable. figures by name. tables: a row a request, by
    experiment.
    """

    content: dict
    figures: dict[str, Figure]
    tables: dict[str, pd.DataFrame]


def replay_fold(
    outcome: Outcome,
    config: TrainConfig,
    biases_percent: Iterable[float] = (),
    say: Callable[[str], None] | None = None,
) -> tuple[dict, dict[str, Figure]]:
    """Replay a fold's held-out experiments: the content of result["replay"] (JSON-serialisable), and figures
    by name.

    Where there is nothing to replay (no request log, another target than the period) or the logs cannot be
    found the content is {"skipped": reason}: a replay never costs a fold its errors.
    """
    if config.target != "period":
        return {"skipped": f"target={config.target} is not the time of a step"}, {}
    if config.source.name not in ("requests", "logs", "simulated"):
        return {"skipped": f"source={config.source.name} holds no requests"}, {}
    try:
        held_out = find_recorded(config.source, set(outcome.split.inputs["experiment"]))
        training = find_recorded(config.source, set(outcome.split.train["experiment"]))
    except UNUSABLE as error:
        return {"skipped": f"the request logs cannot be found: {error}"}, {}
    if not held_out:
        return {"skipped": "no held-out experiment has a request log"}, {}
    # The simulated server has no overheads.
    overheads, left_out = _overheads(training if config.source.name != "simulated" else {})
    job = Job(
        overheads or replay_overheads.NONE,
        biases_percent=tuple(biases_percent),
        title=outcome.result["fold"],
        say=say,
    )
    done = replay_all(held_out, outcome.fitted, job)
    content = {**done.content, "overheads_estimated": overheads is not None, "overheads_left_out": left_out}
    if registry.sees_held_out(config.model.name):
        content["note"] = SAW
    return content, done.figures


def _overheads(training: Mapping[str, Callable[[], Recorded]]) -> tuple[Overheads | None, list[dict]]:
    """Overheads from the training experiments' request logs, None without any; and the logs that cannot be
    read.
    """
    recorded, left_out = [], []
    for name, make in training.items():
        try:
            recorded.append(make())
        except UNUSABLE as error:
            left_out.append({"experiment": name, "reason": str(error)})
    return replay_overheads.estimate(recorded), left_out


def find_recorded(source: SourceConfig, names: set[str] | None) -> dict[str, Callable[[], Recorded]]:
    """Experiment name → what reads its requests, for the named experiments of a source (None: all that have
    any).
    """
    if source.name == "simulated":
        config = SimulatedConfig(seed=source.seed, prefix_caching=source.prefix_caching, scale=source.scale)
        found = {
            name: partial(from_simulation, config, cell) for name, cell in simulated_cells(config).items()
        }
    else:
        assume = Assumptions(**source.assume.model_dump(), model_configs=source.model_configs)
        found = {folder.name: partial(_read, folder, assume) for folder in _folders(source)}
    return {name: make for name, make in found.items() if names is None or name in names}


def _read(folder: Path, assume: Assumptions) -> Recorded:
    return from_log(describe(folder, assume), assume)


def _folders(source: SourceConfig) -> list[Path]:
    """Folders with a request log below any of the source's paths; some paths may hold traces only."""
    if not source.path:
        raise InputError(
            f"source={source.name} needs source.path=DIR; expected a folder of experiment folders, or a list"
            " of such"
        )
    found, problems = [], []
    for path in [source.path] if isinstance(source.path, str) else source.path:
        try:
            found += find(path, REQUEST_FILES)
        except InputError as error:
            problems.append(error)
    if not found and problems and source.name == "requests":
        raise problems[0]
    return found


def replay_all(experiments: Mapping[str, Callable[[], Recorded]], fitted: Fitted, job: Job) -> Replayed:
    """Replay experiments (name → what reads its requests) one after the other.

    An experiment whose log cannot be read or whose KV cache has no room, for which the predictor gives a time
    that cannot be one, or whose failed requests (load that left no lengths) are too many, is listed under
    "failed" with the reason.
    """
    replays, failed, curves = {}, [], []
    for name, make in experiments.items():
        if job.say:
            job.say(name)
        try:
            done = _replay_one(make(), fitted, job)
            curves += _sensitivity(done, job)
        except UNUSABLE as error:
            failed.append({"experiment": name, "reason": str(error)})
            continue
        replays[name] = done
    tables = {name: done.table for name, done in replays.items()}
    figures = replay_plots.replay_figures(tables, job.title) if tables else {}
    if curves:
        figures["replay_sensitivity"] = replay_plots.sensitivity(pd.DataFrame(curves), job.title)
    entries = [
        {**done.recorded.record, **done.metrics, "step_time": done.timer.describe()}
        for done in replays.values()
    ]
    content = {
        "experiments": entries,
        "failed": failed,
        "overheads": job.overheads.describe(),
        "summary": summary(entries),
        "sensitivity": curves,
    }
    return Replayed(content, figures, tables)


def _replay_one(recorded: Recorded, fitted: Fitted, job: Job) -> Replay:
    """Replay an experiment; raises InputError where too many of its requests failed, and as replay_recorded
    does.
    """
    lost, total = recorded.record["failed"], recorded.record["logged"]
    if lost > job.max_failed_ratio * total:
        raise InputError(
            f"{lost} of {total} requests failed, more than max_failed_ratio={job.max_failed_ratio:g}"
        )
    return replay_recorded(recorded, fitted, job.overheads, job.options)


def _sensitivity(done: Replay, job: Job) -> list[dict]:
    """Error of mean E2E, %, at each bias of the step time and at none; empty where no bias is asked for."""
    out = []
    for bias in sorted({0.0, *map(float, job.biases_percent)}) if job.biases_percent else []:
        options = replace(job.options, step_bias=job.options.step_bias * (1 + bias / 100))
        metrics = done.again(job.overheads, options).metrics if bias else done.metrics
        out.append(
            {
                "experiment": done.recorded.experiment.name,
                "bias_percent": bias,
                "e2e_mean_error": metrics["e2e_mean_error"],
                "saturated": metrics["saturated_predicted"],
            }
        )
    return out
