"""Few-shot: the champion adapted to one's own server, from one log of as few as 200 requests.

    python -m h3.calibrate source=requests source.path=DIR out=dist/calibrated
    python -m h3.calibrate source=requests source.path=DIR requests=200 bundle=dist/blis

Validated in time order: the first part of the log fits, the last part judges; where nothing is gained the
bundle is written as it was, and says so.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from pydantic import Field

from h3 import bundle
from h3.bundle import Bundle
from h3.bundle.uncertainty import Evidence, merged, trained_on
from h3.common import cli
from h3.common.config import SourceConfig, Strict, TrackingConfig, from_hydra
from h3.common.errors import InputError
from h3.common.progress import Progress
from h3.evaluation.few_shot import Adapted, adapt
from h3.sources.experiment import Ingested, combine
from h3.sources.load import holds_requests, load, request_logs
from h3.sources.requests import caching
from h3.sources.requests.files import RequestLog
from h3.sources.requests.steps import from_log
from h3.steps import basis, catalog, schema
from h3.tracking.find import find

# Fewer made three of four unseen models worse (EXPERIMENTS.md, few-shot).
LEAST_REQUESTS = 200


class CalibrateConfig(Strict):
    """conf/calibrate.yaml."""

    source: SourceConfig
    bundle: str = "champion"
    requests: int | None = Field(None, ge=LEAST_REQUESTS)
    out: str = "dist/calibrated"
    tracking: TrackingConfig = TrackingConfig()


def calibrate(config: CalibrateConfig) -> tuple[Adapted, str]:
    """Write the calibrated bundle to `out`; what was found, and its note.

    Raises InputError for a log that cannot be used, one with dense and MoE models, or too few steps.
    """
    say = Progress("calibrate")
    say("data")
    ingested = first_requests(config.source, config.requests)
    for line in caching.lines(ingested.record, brief=True):
        say.note(line)
    read = find(config.bundle, config.tracking)
    say("fit")
    adapted = adapt(_served(read, ingested.table), ingested.table)
    note = _note(adapted, ingested.table, config)
    say("write")
    _write(read, adapted, note, ingested.table, config.out)
    say.finish()
    return adapted, note


def first_requests(source: SourceConfig, count: int | None) -> Ingested:
    """The steps of the source, or of the first `count` requests of each of its logs."""
    if count is None:
        return load(source)
    if not holds_requests(source):
        raise InputError(f"requests={count}: source={source.name} holds no requests; expected request logs")
    return combine([from_log(found[0], _head(found[1], count), source) for found in _logged(source)])


def _logged(source: SourceConfig) -> list[Any]:
    return [make() for make in request_logs(source).values()]


def _head(log: RequestLog, count: int) -> RequestLog:
    kept = log.requests.sort_values("arrival_us", kind="stable").head(count).reset_index(drop=True)
    return replace(log, requests=kept, total=len(kept), failed=0)


def _served(read: Bundle, table: pd.DataFrame) -> Any:
    """The fit that serves the table's models."""
    moe = catalog.is_moe(table)
    fits = read.fitted_by_route()
    if moe.any() and not moe.all() and fits["dense"] is not fits["moe"]:
        raise InputError("the logs are of dense and MoE models, which have a fit each; expected one kind")
    return fits["moe" if moe.all() else "dense"]


def _note(adapted: Adapted, table: pd.DataFrame, config: CalibrateConfig) -> str:
    """What was done, in words."""
    models = ", ".join(sorted(table["model"].unique()))
    took = "" if config.requests is None else f" (the first {config.requests} requests)"
    data = f"{adapted.steps} steps of {models}, {basis.described(table)}{took}"
    if adapted.strength is None:
        return (
            f"calibration on {data} gained nothing: as it was, MAPE {adapted.before:.1f} % on the later part"
        )
    errors = (
        f"MAPE on the later part, which also chose how far, {adapted.before:.1f} % before,"
        f" {adapted.after:.1f} % after"
    )
    return f"calibrated on {data}: {errors}; the folds are those of the bundle before"


def _write(read: Bundle, adapted: Adapted, note: str, table: pd.DataFrame, out: str) -> None:
    """The bundle with the adapted fit in the place of the one that it was made from."""
    fits = read.fitted_by_route()
    served = _served(read, table)
    changed = {route: adapted.fitted if fit is served else fit for route, fit in fits.items()}
    provenance = {
        **read.manifest.provenance,
        "note": note,
        "calibrated": {"data_digest": schema.digest(table), "from_bundle": read.digest},
    }
    evidence = _extended(read.evidence, adapted, table)
    bundle.write(changed, out, provenance, read.overheads, evidence)
    bundle.verify(out)


def _extended(evidence: Evidence, adapted: Adapted, table: pd.DataFrame) -> Evidence:
    """The logs' deployments are known now. Widths stay those of the bundle before; what a known deployment's
    hold is measured on the later part of the logs.
    """
    trained, before = merged(evidence.trained_on, trained_on(table)), evidence.uncertainty
    known = before.kinds.get("known")
    if known is None:
        return Evidence(trained, before)
    covered = tuple(adapted.later.covered(float(np.log(high))) for high in known.high)
    words = f"{known.words}; coverage on the later part of the logs of calibration"
    kinds = {**before.kinds, "known": known.model_copy(update={"coverage": covered, "words": words})}
    return Evidence(trained, before.model_copy(update={"kinds": kinds}))


def main(cfg: DictConfig) -> None:
    """One Hydra job."""
    config = from_hydra(cfg, CalibrateConfig)
    _, note = calibrate(config)
    print(f"{note}\nbundle: {config.out}")


if __name__ == "__main__":
    cli.run(main, "calibrate", sys.argv[1:], literal=("bundle",))
