"""Which model a person means: a bundle's folder, a version or alias in the registry, or the run of a fold.

    bundle = find("dist/blis")               # or "champion", "3"

A folder is read without MLflow, which is imported only where the registry or a run is meant: a first answer
from a folder does not wait for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h3 import bundle
from h3.bundle import Bundle
from h3.common.config import SourceConfig, TrackingConfig, validated
from h3.evaluation import result as fold_result
from h3.models import restore
from h3.models.residual import FittedResidual

if TYPE_CHECKING:
    from h3.tracking.store import Store

RUN_ID = re.compile(r"[0-9a-f]{32}")


def is_run(name: str) -> bool:
    """Whether a name is the id of a run."""
    return bool(RUN_ID.fullmatch(name))


def find(name: str, tracking: TrackingConfig | None = None) -> Bundle:
    """The bundle in that folder, or of that version or alias of the registry; raises InputError if there is
    none.
    """
    return bundle.read(folder(name, tracking))


def folder(name: str, tracking: TrackingConfig | None = None) -> Path:
    """The folder of that bundle, unread; that of a version is downloaded. Raises InputError if there is
    none.
    """
    if Path(name).is_dir() or "/" in name or name.startswith("."):
        return bundle.inspect(name).path
    from h3.tracking import registry

    return registry.folder(name, tracking)


@dataclass(frozen=True)
class FoldFit:
    """The fit that a tracked fold run learned, its provenance, its source and the experiments that it held
    out.
    """

    fitted: FittedResidual
    provenance: dict[str, Any]
    source: SourceConfig
    held_out: set[str]


def from_run(run_id: str, tracking: TrackingConfig) -> FoldFit:
    """What a tracked fold run learned; raises InputError if the run holds no such fit."""
    from h3.tracking import artifacts
    from h3.tracking.store import open_store

    store = open_store(tracking.uri, tracking.experiment)
    fitted = fit_of_run(store, run_id)
    result = fold_result.read(artifacts.of_run(store, run_id, "result.json"), f"run {run_id}")
    config = artifacts.content_of_run(store, run_id, "config.yaml")
    kept = result.model_dump(include={"fold", "kind", "holdout", "model", "mape"})
    provenance = {
        "data_digest": result.data_digest,
        "commit": store.run(run_id).data.tags.get("git_commit", "unknown"),
        "folds": [kept | {"run_id": run_id}],
        "note": f"one fold's fit: {result.holdout} was held out",
    }
    held_out = {entry.experiment for entry in result.experiments}
    return FoldFit(fitted, provenance, validated(config.get("source"), SourceConfig), held_out)


def fit_of_run(store: Store, run_id: str) -> FittedResidual:
    """The fit that a tracked run learned; raises InputError if there is none that can be restored."""
    from h3.tracking import artifacts

    described = artifacts.content_of_run(store, run_id, "fit.json")
    return restore.from_description(described, f"run {run_id}: fit.json")
