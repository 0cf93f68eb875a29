"""Replay request logs with a model's step times: what it means for the latency that users feel.

    python -m h3.replay model=RUN_ID source=requests source.path=DIR
    python -m h3.replay model=bundle/ source=requests source.path=DIR experiment_id=NAME out=requests.parquet

A model is `champion` (the registry's), the folder of a bundle, or the id of a tracked fold run. Prints a line
an experiment; writes result.json and figures to the run's folder, and a row a request to `out`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pydantic import Field

from h3.common import cli, strict_json
from h3.common.config import SourceConfig, Strict, TrackingConfig, from_hydra
from h3.common.errors import InputError
from h3.latency.fold import Job, find_recorded, replay_all
from h3.latency.metrics import TIMES
from h3.latency.overheads import NONE, STUDY, Overheads
from h3.latency.recorded import Recorded
from h3.latency.replay_run import ReplayOptions
from h3.models import restore
from h3.models.protocol import Fitted
from h3.tracking import find as bundle_find
from h3.tracking import store as track
from h3.tracking.find import ModelName

SIMULATED = "the simulated server has none"
FALLBACK = (
    "the run estimated none of its own: mean over the study's request logs, the held-out model's included, so"
    " the replay is not blind in this respect"
)


class OverheadsConfig(Strict):
    """replay_overheads.Overheads."""

    queueing_us: float = 0.0
    pipeline_steps: float = 0.0
    post_decode_us: float = 0.0
    per_token_us: float = 0.0


class ReplayJobConfig(Strict):
    """conf/replay.yaml."""

    source: SourceConfig
    model: ModelName = ModelName()
    experiment_id: str | None = None
    out: str | None = None
    horizon_s: float | None = None
    biases_percent: list[float] = Field(default_factory=list)
    overheads: OverheadsConfig | None = None
    tracking: TrackingConfig = TrackingConfig()


def main(cfg: DictConfig) -> None:
    """One Hydra job; raises InputError for a model, source or experiment that is not there."""
    config: ReplayJobConfig = from_hydra(cfg, ReplayJobConfig)
    fitted, overheads, origin = load_model(config)
    options = ReplayOptions(horizon_us=inf if config.horizon_s is None else 1e6 * config.horizon_s)
    job = Job(
        overheads,
        options,
        tuple(config.biases_percent),
        str(config.model.name),
        print,
        config.source.max_failed_ratio,
    )
    done = replay_all(_experiments(config), fitted, job)
    folder = Path(HydraConfig.get().runtime.output_dir)
    content = {"model": config.model.name, "overheads_from": origin, "replay": done.content}
    strict_json.write(content, folder / "result.json")
    for name, figure in done.figures.items():
        figure.savefig(folder / f"{name}.png")
    if config.out and done.tables:
        path = Path(config.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.concat([table.assign(experiment=name) for name, table in done.tables.items()]).to_parquet(
            path, index=False
        )
    print(report(done.content))
    print(
        "\noverheads: "
        + ", ".join(f"{name}={value:g}" for name, value in overheads.describe().items())
        + f" ({origin})"
    )
    print(
        f"result and figures: {folder}" + (f"; requests: {config.out}" if config.out and done.tables else "")
    )
    if not done.tables:
        raise InputError(
            "no experiment could be replayed; "
            + "; ".join(entry["reason"] for entry in done.content["failed"])
        )


def _experiments(config: ReplayJobConfig) -> Mapping[str, Callable[[], Recorded]]:
    """The experiments asked for; raises InputError listing what is there."""
    recorded = find_recorded(config.source, None if config.experiment_id is None else {config.experiment_id})
    if not recorded:
        there = ", ".join(find_recorded(config.source, None))
        raise InputError(
            f"experiment_id={config.experiment_id!r} is not in source={config.source.name}; there are {there}"
        )
    return recorded


def load_model(config: ReplayJobConfig) -> tuple[Fitted, Overheads, str]:
    """The predictor, the overheads to replay with, and their origin.

    Overheads are those given; else none for the simulated server, which has none; else the run's or the
    bundle's own; else the study's.
    """
    given = None if config.overheads is None else Overheads(**config.overheads.model_dump())
    name = str(config.model.name)
    if bundle_find.RUN_ID.fullmatch(name):
        track.open_store(config.tracking.uri, config.tracking.experiment)
        fitted, (overheads, origin) = (
            restore.from_description(track.load_fit(name), f"run {name}: fit.json"),
            _overheads_of(name),
        )
    else:
        fitted = bundle_find.find(name, config.tracking)
        kept = fitted.overheads
        overheads = Overheads(kept.queueing_us, 0.0, kept.post_decode_us, kept.output_token_us)
        origin = (
            "the bundle's manifest:"
            f" {fitted.manifest['provenance'].get('overheads', 'constants as BLIS takes them')}"
        )
    if given is not None:
        return fitted, given, "given"
    return (fitted, NONE, SIMULATED) if config.source.name == "simulated" else (fitted, overheads, origin)


def _overheads_of(run_id: str) -> tuple[Overheads, str]:
    """The overheads that the run's own fold estimated; the study's where it replayed nothing or had no log to
    estimate from.
    """
    recorded = track.load_json(run_id, "result.json").get("replay") or {}
    overheads = recorded.get("overheads") or {}
    # Runs of before `overheads_estimated` have zeros where they estimated nothing.
    if recorded.get("overheads_estimated", any(overheads.values())):
        return Overheads(**overheads), "estimated by the run from its training experiments"
    return STUDY, FALLBACK


def report(content: dict) -> str:
    """The replay as a Markdown table: signed errors of the mean, p90 and p99 in %, and the summary."""
    lines = [
        "| experiment | E2E mean | p90 | p99 | TTFT mean | ITL mean | note |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in content["experiments"]:
        counts = [f"{entry[name]} {name}" for name in ("unfinished", "rejected") if entry[name]]
        note = ", ".join(["saturated"] * entry["saturated"] + counts)
        errors = (
            entry[name]
            for name in (
                "e2e_mean_error",
                "e2e_p90_error",
                "e2e_p99_error",
                "ttft_mean_error",
                "itl_mean_error",
            )
        )
        lines.append(
            f"| {entry['experiment']} | " + " | ".join(f"{error:+.1f} %" for error in errors) + f" | {note} |"
        )
    lines += [
        f"| {entry['experiment']} | – | – | – | – | – | {entry['reason']} |" for entry in content["failed"]
    ]
    for label in ("unsaturated", "all"):
        total = {
            time: [content["summary"][f"{label}_{time}_{statistic}"] for statistic in ("median", "worst")]
            for time in TIMES
        }
        errors = ", ".join(
            f"{time.upper()} {median:.1f} and {worst:.1f} %" for time, (median, worst) in total.items()
        )
        lines.append(f"\n{label}: |error of the mean|, median and worst: {errors}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.argv[1:] = bundle_find.name_model(sys.argv[1:])
    cli.run(main, "replay")
