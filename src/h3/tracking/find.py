"""Which model a person means: a bundle's folder, a version or alias in the registry, or the run of a fold.

bundle = find("dist/blis")               # or "champion", "3"
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from h3 import bundle
from h3.bundle import Bundle
from h3.bundle import files as bundle_files
from h3.common.config import SourceConfig, Strict, TrackingConfig
from h3.common.errors import InputError
from h3.models import restore
from h3.models.xgboost_residual import FittedResidual
from h3.tracking import registry
from h3.tracking import store as track

RUN_ID = re.compile(r"[0-9a-f]{32}")


class ModelName(Strict):
    """Alias or version in the registry, folder of a bundle, or run id."""

    name: str | int = "champion"


def name_model(arguments: list[str]) -> list[str]:
    """Command-line arguments with `model=NAME` as `model.name='NAME'`: Hydra takes it for the group
    conf/model otherwise.
    """
    return [re.sub(r"^model=(['\"]?)([^'\"]*)\1$", r"model.name='\2'", argument) for argument in arguments]


def find(model: str, tracking: TrackingConfig | None = None) -> Bundle:
    """The bundle in that folder, or of that version or alias of the registry; raises InputError if there is
    none.
    """
    return bundle.read(folder(model, tracking))


def folder(model: str, tracking: TrackingConfig | None = None) -> Path:
    """The folder of that bundle, unread; that of a version is downloaded. Raises InputError if there is
    none.
    """
    if Path(model).is_dir():
        return Path(model)
    if "/" in model or model.startswith("."):
        return bundle_files.inspect(model).path  # there, if a killed export left it beside its place
    return registry.folder(model, tracking)


@dataclass(frozen=True)
class FoldFit:
    """The fit that a tracked fold run learned, its provenance, its source and the experiments that it held
    out.
    """

    fitted: FittedResidual
    provenance: dict
    source: SourceConfig
    held_out: set[str]


def from_run(run_id: str, tracking: TrackingConfig) -> FoldFit:
    """What a tracked fold run learned; raises InputError if the run holds no such fit."""
    store = track.open_store(tracking.uri, tracking.experiment)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            run = store.client.get_run(run_id)
            content = json.loads(
                Path(store.client.download_artifacts(run_id, "fit.json", scratch)).read_text()
            )
        except Exception as error:  # whatever the store raises
            raise InputError(
                f"run {run_id}: {str(error).splitlines()[0]}; expected a fold run with fit.json"
            ) from None
    params, metrics = run.data.params, run.data.metrics
    fold = {name: params.get(name) for name in ("fold", "kind", "holdout", "model")} | {
        "run_id": run_id,
        "mape": metrics.get("mape"),
    }
    provenance = {
        "data_digest": params.get("data_digest", "unknown"),
        "commit": run.data.tags.get("git_commit", "unknown"),
        "folds": [fold],
        "note": f"one fold's fit: {params.get('holdout')} was held out",
    }
    return FoldFit(
        restore.from_description(content, f"run {run_id}: fit.json"), provenance, *_recorded(run_id)
    )


def _recorded(run_id: str) -> tuple[SourceConfig, set[str]]:
    """Source and held-out experiments that a run of the open store recorded; raises InputError if it did
    not.
    """
    held_out = {
        entry["experiment"] for entry in track.load_json(run_id, "result.json").get("experiments", [])
    }
    return SourceConfig.model_validate(track.load_config(run_id)["source"]), held_out
