"""Which model a person means: a bundle's folder, a version or alias in the registry, or the run of a fold.

    bundle = find("dist/blis")               # or "champion", "3"
"""

from __future__ import annotations

import importlib
import json
import re
import tempfile
from pathlib import Path

from h3 import bundle, track
from h3.bundle import Bundle
from h3.config import Strict, TrackingConfig
from h3.errors import InputError
from h3.models import restore
from h3.models.xgboost_residual import FittedResidual

RUN_ID = re.compile(r"[0-9a-f]{32}")


class ModelName(Strict):
    """Alias or version in the registry, folder of a bundle, or run id."""

    name: str | int = "champion"


def name_model(arguments: list[str]) -> list[str]:
    """Command-line arguments with `model=NAME` as `model.name='NAME'`: Hydra takes it for the group conf/model otherwise."""
    return [re.sub(r"^model=(['\"]?)([^'\"]*)\1$", r"model.name='\2'", argument) for argument in arguments]


def find(model: str) -> Bundle:
    """The bundle in that folder, or of that version or alias of the registry; raises InputError if there is none."""
    if Path(model).is_dir():
        return bundle.read(model)
    if "/" in model or model.startswith("."):
        raise InputError(f"model={model}: no such folder; expected a bundle, or a version or alias of the registry such as champion")
    try:
        registry = importlib.import_module("h3.registry")
    except ModuleNotFoundError:
        raise InputError(f"model={model}: no registry here; expected the folder of a bundle") from None
    return registry.load(model)


def from_run(run_id: str, tracking: TrackingConfig) -> tuple[FittedResidual, dict]:
    """The fit that a tracked fold run learned, and its provenance; raises InputError if the run holds no such fit."""
    store = track.open_store(tracking.uri, tracking.experiment)
    with tempfile.TemporaryDirectory() as folder:
        try:
            run = store.client.get_run(run_id)
            content = json.loads(Path(store.client.download_artifacts(run_id, "fit.json", folder)).read_text())
        except Exception as error:  # whatever the store raises
            raise InputError(f"run {run_id}: {str(error).splitlines()[0]}; expected a fold run with fit.json") from None
    params, metrics = run.data.params, run.data.metrics
    fold = {name: params.get(name) for name in ("fold", "kind", "holdout", "model")} | {"run_id": run_id, "mape": metrics.get("mape")}
    provenance = {
        "data_digest": params.get("data_digest", "unknown"), "commit": run.data.tags.get("git_commit", "unknown"), "folds": [fold],
        "note": f"one fold's fit: {params.get('holdout')} was held out",
    }
    return restore.from_description(content, f"run {run_id}: fit.json"), provenance
