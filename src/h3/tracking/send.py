"""A complete record, sent to the tracking store: parameters, metrics, artifacts, data sets and the booster.

    send.fold(store, run_id, record.read(folder))

Sending again what was sent already changes nothing, so that a fold that was stopped here can be sent again.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import mlflow
import xgboost as xgb
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.models import Model, ModelSignature

from h3.evaluation import result as fold_result
from h3.evaluation.result import FoldResult
from h3.tracking.connect import persisting, reported
from h3.tracking.record import ARTIFACTS, BOOSTER, RESULT, SIGNATURE, Sealed
from h3.tracking.store import NOTE_TAG, Store

PARAMS = (
    *("fold", "kind", "holdout", "source", "model", "features", "target"),
    *("seed", "data", "data_digest", "model_digest", "tuning"),
)
METRICS = (
    *("mape", "mape_micro", "bias", "median_ape", "p99_ape", "pearson_r", "mape_base"),
    *("n_train", "n_test"),
)
MOST_PARAM = 500  # characters


def fold(store: Store, run_id: str, sealed: Sealed) -> FoldResult:
    """Send a fold's record to its run; the result with the run's id, which result.json has from then on.

    Raises connect.Lost if the store does not take it.
    """
    result = sealed.result.model_copy(update={"mlflow_run_id": run_id})
    for place in (sealed.folder / RESULT, sealed.folder / ARTIFACTS / RESULT):
        fold_result.write(result, place)
    with reported(store.uri):
        mlflow.set_tracking_uri(store.uri)
        mlflow.set_experiment(experiment_id=store.experiment_id)  # a model belongs to the active one
        _numbers(store, run_id, result, sealed.time_ms)
        store.client.log_artifacts(run_id, str(sealed.folder / ARTIFACTS))
        if sealed.datasets:
            inputs(store, run_id, sealed.datasets)
        _booster(store, run_id, sealed)
    return result


def _numbers(store: Store, run_id: str, found: FoldResult, time_ms: int) -> None:
    """Parameters and metrics, under names that compare across folds in the UI."""
    params = {name: str(getattr(found, name))[:MOST_PARAM] for name in PARAMS}
    params |= {f"param.{name}": str(value) for name, value in found.params.items()}
    store.client.log_batch(
        run_id,
        [Metric(name, value, time_ms, 0) for name, value in metrics(found).items()],
        [Param(name, value) for name, value in params.items()],
        [RunTag(NOTE_TAG, f"{found.holdout} held out. Data: {found.data or 'not said'}.")],
    )


def metrics(found: FoldResult) -> dict[str, float]:
    """The metrics of a fold's run by name."""
    values: dict[str, Any] = {name: getattr(found, name) for name in METRICS}
    values |= {"mape_low": found.low, "mape_high": found.high}
    values |= {f"mape_{name}": phase.mape for name, phase in found.phases.items()}
    values |= {f"seconds_{name}": value for name, value in found.seconds.items()}
    summary = found.replay.summary if found.replay else {}
    values |= {f"replay_{name}": value for name, value in summary.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in values.items() if value is not None}


def inputs(store: Store, run_id: str, datasets: tuple[dict[str, Any], ...]) -> None:
    """The data sets that a run read, as record.described gives them."""
    made = [
        DatasetInput(
            Dataset(**{name: value for name, value in each.items() if name != "role"}),
            [InputTag("mlflow.data.context", each["role"])],
        )
        for each in datasets
    ]
    persisting(lambda: store.client.log_inputs(run_id, made))


def _booster(store: Store, run_id: str, sealed: Sealed) -> None:
    """The booster as the run's model; one that an earlier try has logged gives way."""
    path = sealed.folder / BOOSTER
    if not path.is_file():
        return
    earlier = store.client.search_logged_models([store.experiment_id], f"source_run_id = '{run_id}'")
    for model in earlier:
        store.client.delete_logged_model(model.model_id)
    signature = json.loads((sealed.folder / SIGNATURE).read_text(encoding="utf-8"))
    Model.log(
        artifact_path=None,
        flavor=mlflow.xgboost,
        name="model",
        run_id=run_id,
        xgb_model=xgb.Booster(model_file=path),
        model_format="json",
        signature=ModelSignature.from_dict(signature),
        pip_requirements=[f"xgboost=={version('xgboost')}"],
    )
