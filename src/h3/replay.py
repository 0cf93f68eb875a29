"""Replay request logs with a model's step times: what it means for the latency that users feel.

    python -m h3.replay bundle=RUN_ID source=requests source.path=DIR
    python -m h3.replay bundle=dist/blis source=requests source.path=DIR experiment_id=NAME out=FILE

A bundle is `champion` (the registry's), a folder, or the id of a tracked fold run. Prints a line an
experiment; writes result.json and figures to the run's folder, and a row a request to `out`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from h3.bundle import Bundle, standing
from h3.common import cli, files, strict_json
from h3.common.config import SourceConfig, Strict, TrackingConfig, from_hydra
from h3.common.errors import InputError
from h3.latency.fold import Job, Replayed, find_recorded, replay_all
from h3.latency.recorded import Recorded
from h3.latency.replay_run import ReplayOptions
from h3.latency.report import report
from h3.models.protocol import Predicts
from h3.server.overheads import NONE, Overheads
from h3.tracking.replayed import model_and_overheads

SIMULATED = "the simulated server has none"


class ReplayJobConfig(Strict):
    """conf/replay.yaml."""

    source: SourceConfig
    bundle: str = "champion"
    experiment_id: str | None = None
    out: str | None = None
    horizon_s: float | None = None
    biases_percent: tuple[float, ...] = ()
    overheads: Overheads | None = None
    tracking: TrackingConfig = TrackingConfig()


def main(cfg: DictConfig) -> None:
    """One Hydra job; raises InputError for a model, source or experiment that is not there."""
    config = from_hydra(cfg, ReplayJobConfig)
    fitted, overheads, origin = load_model(config)
    options = ReplayOptions(horizon_us=inf if config.horizon_s is None else 1e6 * config.horizon_s)
    ratio = config.source.max_failed_ratio
    simulated = config.source.name == "simulated"
    job = Job(
        overheads=overheads,
        options=options,
        biases_percent=config.biases_percent,
        title=f"{config.bundle} on source={config.source.name}",
        observed="simulated" if simulated else "measured",
        say=print,
        max_failed_ratio=ratio,
    )
    done = replay_all(_experiments(config), fitted, job)
    folder = Path(HydraConfig.get().runtime.output_dir)
    _write(done, config, origin, folder)
    print(report(done.found))
    told = ", ".join(f"{name}={value:g}" for name, value in overheads.recorded().items())
    print(f"\noverheads: {told} ({origin})")
    if isinstance(fitted, Bundle):
        print(standing.told(fitted))
    print(
        f"result and figures: {folder}" + (f"; requests: {config.out}" if config.out and done.tables else "")
    )
    if not done.tables:
        reasons = "; ".join(entry.reason for entry in done.found.failed)
        raise InputError(f"no experiment could be replayed; {reasons}")


def _write(done: Replayed, config: ReplayJobConfig, origin: str, folder: Path) -> None:
    content = {"model": config.bundle, "overheads_from": origin, "replay": done.found.recorded()}
    files.write_text(folder / "result.json", strict_json.dumps(content))
    for name, figure in done.figures.items():
        figure.savefig(folder / f"{name}.png")
    if config.out and done.tables:
        rows = pd.concat([table.assign(experiment=name) for name, table in done.tables.items()])
        files.write(Path(config.out), lambda scratch: rows.to_parquet(scratch, index=False))


def _experiments(config: ReplayJobConfig) -> Mapping[str, Callable[[], Recorded]]:
    """The experiments asked for; raises InputError listing what is there."""
    recorded = find_recorded(config.source, None if config.experiment_id is None else {config.experiment_id})
    if not recorded:
        there = ", ".join(find_recorded(config.source, None))
        raise InputError(
            f"experiment_id={config.experiment_id!r} is not in source={config.source.name}; there are {there}"
        )
    return recorded


def load_model(config: ReplayJobConfig) -> tuple[Predicts, Overheads, str]:
    """The predictor, the overheads to replay with, and their origin.

    Overheads are those given; else none for the simulated server, which has none; else the run's or the
    bundle's own; else the study's.
    """
    fitted, overheads, origin = model_and_overheads(config.bundle, config.tracking)
    if config.overheads is not None:
        return fitted, config.overheads, "given"
    return (fitted, NONE, SIMULATED) if config.source.name == "simulated" else (fitted, overheads, origin)


if __name__ == "__main__":
    cli.run(main, "replay", sys.argv[1:], literal=("bundle",), renamed={"model": "bundle"})
