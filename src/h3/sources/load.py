"""The step table of a configured source: the one door from configuration to data.

ingested = load(config.source)              # Ingested: table, rejects, record
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from h3.common.config import SourceConfig
from h3.common.errors import InputError
from h3.sources import logs, measured, simulated
from h3.sources.experiment import Assumptions, Ingested
from h3.sources.requests import steps as requests
from h3.sources.requests.steps import RequestOptions
from h3.sources.traces import steps as traces
from h3.steps import schema

Progress = Callable[[str], None] | None


def load(config: SourceConfig, progress: Progress = None) -> Ingested:
    """The steps of a source; raises InputError where there are none to be had."""
    if config.name == "simulated":
        return simulated.load(_simulated(config), progress)
    if config.name == "measured":
        return measured.load(_measured(config))
    if not config.path:
        raise InputError(
            f"source={config.name} needs source.path=DIR; expected a folder of experiment folders, or a list"
            " of such"
        )
    if config.name == "steps":
        return _steps(config)
    assume, options = _assumptions(config), RequestOptions(config.sample_every, config.max_failed_ratio)
    if config.name == "traces":
        return traces.load(config.path, assume, progress)
    if config.name == "requests":
        return requests.load(config.path, assume, options, progress)
    return logs.load(config.path, assume, options, progress)


def _simulated(config: SourceConfig) -> simulated.SimulatedConfig:
    return simulated.SimulatedConfig(
        seed=config.seed,
        prefix_caching=config.prefix_caching,
        scale=config.scale,
        workers=config.workers,
        cache_dir=config.cache_dir,
    )


def _measured(config: SourceConfig) -> measured.MeasuredConfig:
    if config.path is not None and not isinstance(config.path, str):
        raise InputError(
            f"source=measured: source.path={config.path!r}; expected one Parquet file of"
            " scripts/measure_steps.py pack"
        )
    return measured.MeasuredConfig(config.path, tuple(config.parts), config.view)


def _assumptions(config: SourceConfig) -> Assumptions:
    return Assumptions(**config.assume.model_dump(), model_configs=config.model_configs)


def _steps(config: SourceConfig) -> Ingested:
    if not isinstance(config.path, str):
        raise InputError(
            f"source=steps: source.path={config.path!r}; expected one Parquet file written by h3.ingest"
        )
    table, record = schema.read(Path(config.path))
    return Ingested(table, schema.empty_rejects(), {"read_from": config.path, **record})
