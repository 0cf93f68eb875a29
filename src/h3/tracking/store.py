"""The tracking store: parent runs of sweeps, child runs of folds.

    store = open_store(None, "h3")
    parent = store.start_parent("sweep", {})
    with store.fold_run(parent, "lomo_mixtral") as run_id:
        ...
    store.finish_parent(parent)

A run whose block raises is FAILED, or KILLED where the process was asked to stop, with the reason in a tag. A
run whose process is gone is closed as KILLED by the next process that opens the store.
"""

from __future__ import annotations

import logging
import os
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from h3.common import interrupts
from h3.common.errors import InputError
from h3.evaluation.fold_table import FoldRow, markdown
from h3.tracking import connect, owner
from h3.tracking.connect import Lost, reported

PARENT_TAG, ERROR_TAG, ROLE_TAG = "mlflow.parentRunId", "h3.error", "h3.role"
FOLD_TAG, MODEL_TAG = "h3.fold", "h3.model"  # of a run that has no parameters yet
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
        known = {ROLE_TAG: "sweep", "git_commit": git_commit(), **owner.tags()}
        with reported(self.uri):
            run = self.client.create_run(self.experiment_id, run_name=name, tags=known | tags)
        return str(run.info.run_id)

    def children(self, parent: str) -> list[Run]:
        """The child runs of a parent, oldest first."""
        return self.search(f"tags.`{PARENT_TAG}` = '{parent}'", "attributes.start_time ASC")

    def search(self, query: str, order: str = "attributes.start_time DESC") -> list[Run]:
        """All runs of the experiment that a query finds; raises Lost."""
        found: list[Run] = []
        token = None
        with reported(self.uri):
            while True:
                page = self.client.search_runs(
                    [self.experiment_id], query, max_results=1000, order_by=[order], page_token=token
                )
                found += page
                token = page.token
                if not token:
                    return found

    def finish_parent(self, parent: str, failed: bool = False, stopped: str = "") -> list[FoldRow]:
        """Close a parent run with its table, folds by name: KILLED if it was stopped, FAILED if it or any
        child failed. Children that still run are KILLED: theirs were processes of this sweep. Returns the
        table's rows.
        """
        for run in self.children(parent):
            if run.info.status == "RUNNING":
                self.close(run.info.run_id, "KILLED", stopped or "its process ended before the fold did")
        children = self.children(parent)
        failed = failed or any(run.info.status != "FINISHED" for run in children)
        rows = sorted((_row(run) for run in children), key=lambda row: (row.fold, row.model))
        content = [row.model_dump(exclude={"moe"}) for row in rows]
        table = markdown(rows)
        with reported(self.uri):
            self.client.log_dict(parent, {"folds": content}, "folds.json")
            self.client.log_text(parent, table, "folds.md")
            self.client.set_tag(parent, NOTE_TAG, table)
            self._log_worst(parent, rows)
            if not stopped and ERROR_TAG in self.client.get_run(parent).data.tags:
                self.client.delete_tag(parent, ERROR_TAG)  # it was gone on with
        status = "KILLED" if stopped else "FAILED" if failed else "FINISHED"
        self.close(parent, status, stopped)
        return rows

    def _log_worst(self, parent: str, rows: list[FoldRow]) -> None:
        for kind in sorted({row.kind for row in rows if row.mape is not None}):
            values = [row.mape for row in rows if row.kind == kind and row.mape is not None]
            self.client.log_metric(parent, f"{kind}_worst_mape", max(values))
            self.client.log_metric(parent, f"{kind}_mean_mape", sum(values) / len(values))

    def close(self, run_id: str, status: str, reason: str = "") -> None:
        """End a run with a status and, where it ended badly, a reason in a tag; raises Lost."""
        with reported(self.uri):
            if reason:
                self.client.set_tag(run_id, ERROR_TAG, reason[:MOST_REASON])
            self.client.set_terminated(run_id, status)

    def reopen(self, run_id: str) -> str:
        """Let a run that ended go on as one of this process; its id."""
        with reported(self.uri):
            for key, value in owner.tags().items():
                self.client.set_tag(run_id, key, value)
            if ERROR_TAG in self.client.get_run(run_id).data.tags:
                self.client.delete_tag(run_id, ERROR_TAG)
            self.client.update_run(run_id, status="RUNNING")
        return run_id

    def close_orphans(self) -> None:
        """Close runs of sweeps and folds whose process is gone, as KILLED with the reason."""
        for run in self.search("attributes.status = 'RUNNING'"):
            reason = owner.gone(run.data.tags)
            if reason and run.data.tags.get(ROLE_TAG) in ("sweep", "fold"):
                self.close(run.info.run_id, "KILLED", reason)

    @contextmanager
    def fold_run(
        self, parent: str, name: str, tags: dict[str, str] | None = None, again: str = ""
    ) -> Iterator[str]:
        """A child run that is RUNNING while the block runs; `again`: the id of one that goes on."""
        known = {PARENT_TAG: parent, ROLE_TAG: "fold", "git_commit": git_commit(), **owner.tags()}
        run_id = self.reopen(again) if again else self._created(name, known | (tags or {}))
        with self._ended(run_id), owner.pulse(self.client, self.uri, run_id):
            yield run_id

    @contextmanager
    def active_run(self, name: str, tags: dict[str, str]) -> Iterator[str]:
        """A new run, MLflow's active one while the block runs; it ends as the block does."""
        mlflow.set_tracking_uri(self.uri)
        with reported(self.uri):  # another store's experiment may be the active one
            mlflow.set_experiment(experiment_id=self.experiment_id)
        run_id = self._created(name, tags | owner.tags())
        with self._ended(run_id), mlflow.start_run(run_id=run_id, log_system_metrics=False):
            yield run_id

    def _created(self, name: str, tags: dict[str, str]) -> str:
        with reported(self.uri):
            return str(self.client.create_run(self.experiment_id, run_name=name, tags=tags).info.run_id)

    @contextmanager
    def _ended(self, run_id: str) -> Iterator[None]:
        """FINISHED, KILLED or FAILED with the reason, as the block ends; a lost store is not asked again."""
        try:
            yield
        except Lost:
            raise
        except BaseException as error:
            stopped = interrupts.reason(error)
            told = f"stopped by {stopped}" if stopped else f"{type(error).__name__}: {error}"
            self.close(run_id, "KILLED" if stopped else "FAILED", told)
            raise
        self.close(run_id, "FINISHED")

    def run(self, run_id: str) -> Run:
        """The run of that id; raises InputError if there is none."""
        try:
            return self.client.get_run(run_id)
        except connect.TROUBLES as error:
            said = connect.why(error, self.uri)
            raise InputError(f"run {run_id!r}: {said}; expected the id of a tracked fold run") from None


def open_store(uri: str | None, experiment: str) -> Store:
    """Open (and on first use create) the store: `uri`, else MLFLOW_TRACKING_URI, else SQLite under mlruns/.

    Several processes may open it at once. Runs whose process is gone are closed. Raises Lost if it cannot be
    reached.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    artifacts = None
    if not uri:
        root = Path("mlruns").absolute()
        root.mkdir(exist_ok=True)
        uri, artifacts = f"sqlite:///{root / 'mlflow.db'}", (root / "artifacts").as_uri()
    store = Store(uri, connect.experiment_id(uri, experiment, artifacts), MlflowClient(uri))
    store.close_orphans()
    return store


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
    params, metrics, tags = run.data.params, run.data.metrics, run.data.tags
    numbers = ("mape", "mape_low", "mape_high", "mape_base", "bias", "n_test")
    return FoldRow(
        fold=params.get("fold") or tags.get(FOLD_TAG, run.info.run_name),
        model=params.get("model") or tags.get(MODEL_TAG, ""),
        **{name: params.get(name, "") for name in ("kind", "holdout", "data")},
        **{name: metrics.get(name) for name in numbers},
        status=run.info.status,
        run_id=run.info.run_id,
    )
