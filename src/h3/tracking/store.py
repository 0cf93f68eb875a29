"""The tracking store: parent runs of sweeps, child runs of folds, what they hold. The only importer of
mlflow.

store = open_store(None, "h3")
parent = store.start_parent("sweep", {})
with store.fold_run(parent, "lomo_mixtral") as run: log_fold(run, outcome, ...)
store.finish_parent(parent)
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault(
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"
)  # a store that is down is reported in seconds, not minutes

import mlflow
import pandas as pd
import yaml
from matplotlib.figure import Figure
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from h3.common import strict_json
from h3.common.errors import InputError

DIGEST_LENGTH = 36
PACKAGES = (
    "mlflow",
    "xgboost",
    "optuna",
    "pandas",
    "scikit-learn",
    "shap",
    "hydra-core",
    "pyarrow",
    "numpy",
    "scipy",
    "h3",
)
PARENT_TAG, ERROR_TAG = "mlflow.parentRunId", "h3.error"
MOST_REASON = 500  # characters
for noisy in ("mlflow", "alembic", "mlflow.store.db.utils", "urllib3.connectionpool"):
    logging.getLogger(noisy).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="mlflow")


@dataclass(frozen=True)
class Store:
    """An open tracking store with one experiment."""

    uri: str
    experiment_id: str
    client: MlflowClient

    def start_parent(self, name: str, tags: dict[str, str]) -> str:
        """Create the parent run of a sweep; its id."""
        run = self.client.create_run(
            self.experiment_id, run_name=name, tags={"h3.role": "sweep", "git_commit": git_commit(), **tags}
        )
        return run.info.run_id

    def children(self, parent: str) -> list[Run]:
        """The child runs of a parent, oldest first."""
        query = f"tags.`{PARENT_TAG}` = '{parent}'"
        found, token = [], None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                query,
                max_results=1000,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                return found

    def finish_parent(self, parent: str, failed: bool = False) -> list[dict]:
        """Close a parent run with its fold table; FAILED if it or any child failed. Returns the table's
        rows.
        """
        children = self.children(parent)
        for run in children:
            if run.info.status == "RUNNING":
                self.client.set_terminated(run.info.run_id, "FAILED")
                failed = True
        failed = failed or any(run.info.status != "FINISHED" for run in children)
        rows = [_row(run) for run in children]
        self.client.log_dict(parent, {"folds": rows}, "folds.json")
        self.client.log_text(parent, markdown(rows), "folds.md")
        self._log_worst(parent, rows)
        self.client.set_terminated(parent, "FAILED" if failed else "FINISHED")
        return rows

    def _log_worst(self, parent: str, rows: list[dict]) -> None:
        for kind in sorted({row["kind"] for row in rows if row["mape"] is not None}):
            values = [row["mape"] for row in rows if row["kind"] == kind and row["mape"] is not None]
            self.client.log_metric(parent, f"{kind}_worst_mape", max(values))
            self.client.log_metric(parent, f"{kind}_mean_mape", sum(values) / len(values))

    @contextmanager
    def fold_run(self, parent: str, name: str) -> Iterator[str]:
        """A child run, active while the block runs; FAILED, and tagged with the reason, if the block raises,
        whatever it raises.
        """
        mlflow.set_tracking_uri(self.uri)
        tags = {PARENT_TAG: parent, "h3.role": "fold", "git_commit": git_commit()}
        run = self.client.create_run(self.experiment_id, run_name=name, tags=tags)
        status = "FAILED"
        try:
            with mlflow.start_run(run_id=run.info.run_id, log_system_metrics=False):
                yield run.info.run_id
            status = "FINISHED"
        except BaseException as error:
            self.client.set_tag(run.info.run_id, ERROR_TAG, f"{type(error).__name__}: {error}"[:MOST_REASON])
            raise
        finally:
            self.client.set_terminated(run.info.run_id, status)


def open_store(uri: str | None, experiment: str) -> Store:
    """Open (and on first use create) the store: `uri`, else MLFLOW_TRACKING_URI, else SQLite under mlruns/.

    Several processes may open it at once. Raises InputError if it cannot be reached.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    artifacts = None
    if not uri:
        root = Path("mlruns").absolute()
        root.mkdir(exist_ok=True)
        uri, artifacts = f"sqlite:///{root / 'mlflow.db'}", (root / "artifacts").as_uri()
    # Two processes that migrate an empty database at once collide, so the first holds a lock.
    with open(Path(tempfile.gettempdir()) / f"h3-store-{os.getuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            mlflow.set_tracking_uri(uri)
            client = MlflowClient(uri)
            found = client.get_experiment_by_name(experiment)
            experiment_id = (
                found.experiment_id
                if found
                else client.create_experiment(experiment, artifact_location=artifacts)
            )
        except (mlflow.MlflowException, SQLAlchemyError, OSError) as error:
            reason = str(error).splitlines()[0][:160]
            raise InputError(
                f"tracking store {uri} cannot be reached: {reason}; expected a running store"
            ) from None
    return Store(uri, experiment_id, client)


def git_commit() -> str:
    """The commit of the working directory, with "+changes" if it is not clean; "unknown" outside git."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+changes" if changed else "")


def package_versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    return {name: version(name) for name in PACKAGES}


METRICS = (
    "mape",
    "mape_micro",
    "bias",
    "median_ape",
    "p99_ape",
    "pearson_r",
    "mape_base",
    "n_train",
    "n_test",
)


def log_result(result: dict, seconds: dict[str, float]) -> None:
    """Log a fold's parameters and metrics to the active run, under names that compare across folds in the
    UI.
    """
    names = (
        "fold",
        "kind",
        "holdout",
        "source",
        "model",
        "features",
        "target",
        "seed",
        "data_digest",
        "model_digest",
        "tuning",
    )
    mlflow.log_params({name: str(result[name])[:500] for name in names})
    mlflow.log_params({f"param.{name}": value for name, value in result["params"].items()})
    values = {name: result[name] for name in METRICS}
    values |= {"mape_low": result["mape_interval"][0], "mape_high": result["mape_interval"][1]}
    values |= {f"mape_{name}": phase["mape"] for name, phase in result["phases"].items()}
    values |= {f"seconds_{name}": value for name, value in seconds.items()}
    summary = result.get("replay", {}).get("summary", {})
    values |= {f"replay_{name}": value for name, value in summary.items() if isinstance(value, int | float)}
    mlflow.log_metrics({name: float(value) for name, value in values.items() if value == value})


def log_record(config: dict, result: dict, record: dict) -> None:
    """Log what the run was made of: configuration, result, ingest record and package versions."""
    mlflow.log_dict(config, "config.yaml")
    mlflow.log_text(strict_json.dumps(result), "result.json")
    mlflow.log_text(strict_json.dumps(record), "ingest.json")
    mlflow.log_dict(package_versions(), "versions.json")


def log_frame(frame: pd.DataFrame, name: str) -> None:
    """Log a table as a Parquet artifact."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        frame.to_parquet(path)
        mlflow.log_artifact(str(path))


def log_figure(figure: Figure, name: str) -> None:
    """Log a figure as a picture and free it."""
    from matplotlib import pyplot as plt

    mlflow.log_figure(figure, f"figures/{name}.png")
    plt.close(figure)


def log_dataset(table: pd.DataFrame, source: str, digest: str, role: str) -> None:
    """Log a step table's name, digest, schema and size as an input of the run (its rows stay where they
    are).
    """
    dataset = mlflow.data.from_pandas(
        table, source=source, name=f"steps-{role}", digest=digest[:DIGEST_LENGTH]
    )
    mlflow.log_input(dataset, context=role)


def log_booster(booster: object, matrix: pd.DataFrame, margin: object) -> None:
    """Log an XGBoost booster as JSON with its signature (features in, margin or us out)."""
    signature = mlflow.models.infer_signature(matrix.astype("float64").head(5), margin)
    mlflow.xgboost.log_model(
        booster,
        name="model",
        model_format="json",
        signature=signature,
        pip_requirements=[f"xgboost=={version('xgboost')}"],
    )


def _row(run: Run) -> dict:
    params, metrics = run.data.params, run.data.metrics
    names = ("mape", "mape_low", "mape_high", "mape_base", "bias", "n_test")
    return {
        "fold": params.get("fold", run.info.run_name),
        "kind": params.get("kind", ""),
        "holdout": params.get("holdout", ""),
        "model": params.get("model", ""),
        "status": run.info.status,
        "run_id": run.info.run_id,
        **{name: metrics.get(name) for name in names},
    }


def markdown(rows: list[dict]) -> str:
    """The fold table as Markdown."""
    lines = [
        "| fold | model | MAPE % | 95 % interval | base alone % | bias % | steps | status |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["mape"] is None:
            lines.append(f"| {row['fold']} | {row['model']} | – | – | – | – | – | {row['status']} |")
            continue
        lines.append(
            f"| {row['fold']} | {row['model']} | {row['mape']:.2f} |"
            f" {row['mape_low']:.2f}–{row['mape_high']:.2f} | {row['mape_base']:.2f} | {row['bias']:+.2f} |"
            f" {row['n_test']:.0f} | {row['status']} |"
        )
    return "\n".join(lines) + "\n"


def log_fit(fitted: object) -> None:
    """Log everything that the fit learned (base coefficients, trees, feature manifest) as JSON."""
    mlflow.log_dict(fitted.describe(), "fit.json")


def load_fit(run_id: str) -> dict:
    """What a fold run's fit learned (`log_fit`), from the open store; raises InputError if there is no such
    run or artifact.
    """
    return load_json(run_id, "fit.json")


def load_config(run_id: str) -> dict:
    """The configuration that a fold run recorded, from the open store; raises InputError as `load_json`
    does.
    """
    return yaml.safe_load(_artifact(run_id, "config.yaml"))


def load_json(run_id: str, name: str) -> dict:
    """A JSON artifact of a run in the open store; raises InputError if there is no such run or artifact."""
    return json.loads(_artifact(run_id, name))


def _artifact(run_id: str, name: str) -> str:
    try:
        return mlflow.artifacts.load_text(f"runs:/{run_id}/{name}")
    except (mlflow.MlflowException, OSError) as error:
        raise InputError(
            f"run {run_id!r}: {str(error).splitlines()[0]}; expected the id of a tracked fold run with {name}"
        ) from None
