"""The tracking store: parent runs of sweeps, child runs of folds.

    store = open_store(None, "h3")
    parent = store.start_parent("sweep", {})
    with store.fold_run(parent, "lomo_mixtral") as run:
        ...                                             # log.py logs to the active run
    store.finish_parent(parent)

A run whose block raises is FAILED, with the reason in a tag.
"""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# A store that is down is reported in seconds, not minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")

import mlflow
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from h3.common import files
from h3.common.errors import InputError
from h3.evaluation.fold_table import FoldRow, markdown

PARENT_TAG, ERROR_TAG = "mlflow.parentRunId", "h3.error"
NOTE_TAG = "mlflow.note.content"  # what the UI shows as a run's description
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
        known = {"h3.role": "sweep", "git_commit": git_commit()}
        run = self.client.create_run(self.experiment_id, run_name=name, tags=known | tags)
        return str(run.info.run_id)

    def children(self, parent: str) -> list[Run]:
        """The child runs of a parent, oldest first."""
        query, oldest_first = f"tags.`{PARENT_TAG}` = '{parent}'", ["attributes.start_time ASC"]
        found: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], query, max_results=1000, order_by=oldest_first, page_token=token
            )
            found += page
            token = page.token
            if not token:
                return found

    def finish_parent(self, parent: str, failed: bool = False) -> list[FoldRow]:
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
        content = [row.model_dump(exclude={"moe"}) for row in rows]
        self.client.log_dict(parent, {"folds": content}, "folds.json")
        table = markdown(rows)
        self.client.log_text(parent, table, "folds.md")
        self.client.set_tag(parent, NOTE_TAG, table)
        self._log_worst(parent, rows)
        self.client.set_terminated(parent, "FAILED" if failed else "FINISHED")
        return rows

    def _log_worst(self, parent: str, rows: list[FoldRow]) -> None:
        for kind in sorted({row.kind for row in rows if row.mape is not None}):
            values = [row.mape for row in rows if row.kind == kind and row.mape is not None]
            self.client.log_metric(parent, f"{kind}_worst_mape", max(values))
            self.client.log_metric(parent, f"{kind}_mean_mape", sum(values) / len(values))

    @contextmanager
    def fold_run(self, parent: str, name: str) -> Iterator[str]:
        """A child run, active while the block runs; FAILED, and tagged with the reason, if the block raises,
        whatever it raises.
        """
        tags = {PARENT_TAG: parent, "h3.role": "fold", "git_commit": git_commit()}
        with self.active_run(name, tags) as run_id:
            yield run_id

    @contextmanager
    def active_run(self, name: str, tags: dict[str, str]) -> Iterator[str]:
        """A new run, active while the block runs; it ends as FINISHED, or as FAILED with the reason in a
        tag.
        """
        mlflow.set_tracking_uri(self.uri)
        run_id = self.client.create_run(self.experiment_id, run_name=name, tags=tags).info.run_id
        status = "FAILED"
        try:
            with mlflow.start_run(run_id=run_id, log_system_metrics=False):
                yield run_id
            status = "FINISHED"
        except BaseException as error:
            self.client.set_tag(run_id, ERROR_TAG, f"{type(error).__name__}: {error}"[:MOST_REASON])
            raise
        finally:
            self.client.set_terminated(run_id, status)

    def run(self, run_id: str) -> Run:
        """The run of that id; raises InputError if there is none."""
        try:
            return self.client.get_run(run_id)
        except (mlflow.MlflowException, OSError) as error:
            said = str(error).splitlines()[0]
            raise InputError(f"run {run_id!r}: {said}; expected the id of a tracked fold run") from None


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
    try:
        with files.lock(Path(tempfile.gettempdir()) / f"h3-store-{os.getuid()}.lock"):
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
        commit, changed = (_git(*words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain")))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+changes" if changed else "")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()


def _row(run: Run) -> FoldRow:
    params, metrics = run.data.params, run.data.metrics
    numbers = ("mape", "mape_low", "mape_high", "mape_base", "bias", "n_test")
    return FoldRow(
        fold=params.get("fold", run.info.run_name),
        **{name: params.get(name, "") for name in ("kind", "holdout", "model", "data")},
        **{name: metrics.get(name) for name in numbers},
        status=run.info.status,
        run_id=run.info.run_id,
    )
