"""What a run keeps: parameters, metrics, tables, figures, data sets and models, logged to the active run.

    with store.fold_run(parent, "lomo_mixtral"):
        log.frame(predictions, "predictions.parquet")
        log.result(result)

The active run is one that store.py has opened.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from mlflow.data.pandas_dataset import from_pandas

from h3.common import strict_json
from h3.common.config import TrainConfig
from h3.evaluation import result as fold_result
from h3.evaluation.result import FoldResult
from h3.models.protocol import Fitted, FittedTrees
from h3.tracking.store import NOTE_TAG

DIGEST_LENGTH = 36
PACKAGES = (
    *("mlflow", "xgboost", "optuna", "pandas", "scikit-learn", "shap"),
    *("hydra-core", "pyarrow", "numpy", "scipy", "h3"),
)
PARAMS = (
    *("fold", "kind", "holdout", "source", "model", "features", "target"),
    *("seed", "data", "data_digest", "model_digest", "tuning"),
)
METRICS = (
    *("mape", "mape_micro", "bias", "median_ape", "p99_ape", "pearson_r", "mape_base"),
    *("n_train", "n_test"),
)


def result(found: FoldResult) -> None:
    """Log a fold's parameters and metrics, under names that compare across folds in the UI."""
    mlflow.log_params({name: str(getattr(found, name))[:500] for name in PARAMS})
    mlflow.log_params({f"param.{name}": value for name, value in found.params.items()})
    values: dict[str, Any] = {name: getattr(found, name) for name in METRICS}
    values |= {"mape_low": found.low, "mape_high": found.high}
    values |= {f"mape_{name}": phase.mape for name, phase in found.phases.items()}
    values |= {f"seconds_{name}": value for name, value in found.seconds.items()}
    summary = found.replay.summary if found.replay else {}
    values |= {f"replay_{name}": value for name, value in summary.items() if isinstance(value, int | float)}
    mlflow.log_metrics({name: float(value) for name, value in values.items() if value is not None})
    mlflow.set_tag(NOTE_TAG, f"{found.holdout} held out. Data: {found.data or 'not said'}.")


def record(config: TrainConfig, found: FoldResult, ingested: Mapping[str, object]) -> None:
    """Log what the run was made of: configuration, result, ingest record and package versions."""
    mlflow.log_dict(config.model_dump(mode="json"), "config.yaml")
    mlflow.log_text(fold_result.dumps(found), "result.json")
    mlflow.log_text(strict_json.dumps(ingested), "ingest.json")
    mlflow.log_dict({name: version(name) for name in PACKAGES}, "versions.json")


def frame(table: pd.DataFrame, name: str) -> None:
    """Log a table as a Parquet artifact."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        table.to_parquet(path)
        mlflow.log_artifact(str(path))


def figure(picture: Figure, name: str) -> None:
    """Log a figure as a picture and free it."""
    from matplotlib import pyplot as plt

    mlflow.log_figure(picture, f"figures/{name}.png")
    plt.close(picture)


def dataset(table: pd.DataFrame, source: str, digest: str, role: str) -> None:
    """Log a step table's name, digest, schema and size as an input of the run (its rows stay where they
    are).
    """
    made = from_pandas(table, source=source, name=f"steps-{role}", digest=digest[:DIGEST_LENGTH])
    mlflow.log_input(made, context=role)


def booster(fitted: FittedTrees, matrix: pd.DataFrame, predicted: np.ndarray) -> None:
    """Log a fit's XGBoost booster as JSON with its signature (features in, margin or us out)."""
    signature = mlflow.models.infer_signature(matrix.astype("float64").head(5), predicted)
    mlflow.xgboost.log_model(
        fitted.booster,
        name="model",
        model_format="json",
        signature=signature,
        pip_requirements=[f"xgboost=={version('xgboost')}"],
    )


def fit(fitted: Fitted) -> None:
    """Log everything that the fit learned (base coefficients, trees, feature manifest) as JSON."""
    mlflow.log_dict(fitted.describe(), "fit.json")


def json(name: str, content: Any) -> None:
    """Log JSON."""
    mlflow.log_dict(content, name)


def text(name: str, content: str) -> None:
    """Log a text."""
    mlflow.log_text(content, name)
