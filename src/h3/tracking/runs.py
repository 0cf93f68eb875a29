"""Reading the tracking store: sweeps, their runs, what those left behind. With track.py the only importer of
mlflow.

    sweep = find_sweep(store, None)                     # newest; a run id for another
    runs = read_runs(store, sweep)                      # every child run, failed ones too
    runs[0].result["mape"], runs[0].frame("predictions.parquet")

Artifacts in a folder of this machine are read where they lie; others are downloaded.
"""

from __future__ import annotations

import datetime
import json
import math
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import mlflow
import pandas as pd
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from h3.common.errors import InputError
from h3.tracking import store as track

LISTED, READERS = 5, 4


@dataclass(frozen=True)
class Sweep:
    """A parent run; `kind` is sweep, ablation, within, or single (one fold, not a multirun)."""

    run_id: str
    kind: str
    overrides: str
    source: str
    commit: str
    status: str
    started: str

    def __str__(self) -> str:
        return f"{self.run_id} ({self.started}, {self.kind}: {self.overrides or 'one fold'})"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass(frozen=True)
class FoldRun:
    """A child run; `result` is its result.json, None where the run did not get that far; `error` what it
    failed with, if known.
    """

    run_id: str
    name: str
    status: str
    commit: str
    artifacts: str
    result: dict | None
    error: str = ""

    @property
    def finished(self) -> bool:
        """Whether the run ended well, with an error that is a number."""
        return self.status == "FINISHED" and self.result is not None and _is_number(self.result["mape"])

    @property
    def trouble(self) -> str:
        """Why an unfinished run has no number."""
        if self.status == "FINISHED" and self.result is not None:
            return f"run {self.run_id} finished with mape={self.result['mape']}"
        return f"run {self.run_id} {self.status.lower()}: {self.error or 'no result'}"

    def frame(self, name: str, columns: list[str] | None = None) -> pd.DataFrame | None:
        """A Parquet artifact, None if the run has none of that name."""
        return _read(self.artifacts, name, lambda path: pd.read_parquet(path, columns=columns))

    def json(self, name: str) -> dict | None:
        """A JSON artifact, None if the run has none of that name."""
        return _read(self.artifacts, name, lambda path: json.loads(path.read_text()))


def find_sweep(store: track.Store, run_id: str | None) -> Sweep:
    """The sweep of that id; None: the newest multirun that is no ablation and no within check, else the
    newest single run.

    Raises InputError listing the newest five if there is none.
    """
    found = sweeps(store)
    if run_id is not None:
        chosen = [sweep for sweep in found if sweep.run_id == run_id]
    else:
        chosen = [sweep for sweep in found if sweep.kind == "sweep"] or [
            sweep for sweep in found if sweep.kind == "single"
        ]
    if chosen:
        return chosen[0]
    if not found:
        made = "python -m h3.train -m 'fold=glob([lomo_*,lowo_*])'"
        raise InputError(f"no sweep in the tracking store {store.uri}; expected one made by {made}")
    newest = "; ".join(str(sweep) for sweep in found[:LISTED])
    raise InputError(
        f"sweep {run_id or 'of all folds'} is not in the tracking store; the newest are {newest}"
    )


def find_beside(store: track.Store, kind: str, run_id: str | None, digest: str) -> Sweep | None:
    """The ablation or within sweep of that id; None: the newest with data of this digest, or None if there is
    none.

    Raises InputError if a given id is not there.
    """
    if run_id is not None:
        return find_sweep(store, run_id)
    same = (sweep for sweep in sweeps(store) if sweep.kind == kind and digest in _digests(store, sweep))
    return next(same, None)


def _digests(store: track.Store, sweep: Sweep) -> set[str | None]:
    return {run.data.params.get("data_digest") for run in store.children(sweep.run_id)}


def sweeps(store: track.Store) -> list[Sweep]:
    """Parent runs, newest first, at most a thousand."""
    try:
        found = store.client.search_runs(
            [store.experiment_id],
            "tags.`h3.role` = 'sweep'",
            max_results=1000,
            order_by=["attributes.start_time DESC"],
        )
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0][:160]
        raise InputError(
            f"tracking store {store.uri} cannot be read: {reason}; expected a running store"
        ) from None
    return [_sweep(run) for run in found]


def _sweep(run: Run) -> Sweep:
    tags = run.data.tags
    started = datetime.datetime.fromtimestamp(run.info.start_time / 1e3, datetime.UTC).strftime(
        "%Y-%m-%d %H:%M:%S"
    )
    overrides = tags.get("overrides")
    source, commit = tags.get("source", "unknown"), tags.get("git_commit", "unknown")
    return Sweep(run.info.run_id, _kind(overrides), overrides or "", source, commit, run.info.status, started)


def _kind(overrides: str | None) -> str:
    if overrides is None:
        return "single"
    if "ablation" in overrides:
        return "ablation"
    return "within" if "fold=within" in overrides else "sweep"


def read_runs(store: track.Store, sweep: Sweep) -> list[FoldRun]:
    """The child runs of a sweep, oldest first, each with its result.json."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(_fold_run, store.children(sweep.run_id)))


def _fold_run(run: Run) -> FoldRun:
    info = run.info
    result = _read(info.artifact_uri, "result.json", lambda path: json.loads(path.read_text()))
    commit, error = run.data.tags.get("git_commit", "unknown"), run.data.tags.get(track.ERROR_TAG, "")
    return FoldRun(info.run_id, info.run_name, info.status, commit, info.artifact_uri, result, error)


def _read(artifacts: str, name: str, read: Callable[[Path], Any]) -> Any:
    """What `read` makes of an artifact, which is downloaded if it is not on this machine; None if it is not
    there.
    """
    parsed = urlparse(artifacts)
    if parsed.scheme in ("", "file"):
        path = Path(unquote(parsed.path)) / name
        return read(path) if path.is_file() else None
    with tempfile.TemporaryDirectory(prefix="h3-artifacts-") as folder:
        try:
            path = Path(
                mlflow.artifacts.download_artifacts(artifact_uri=f"{artifacts}/{name}", dst_path=folder)
            )
        except (MlflowException, OSError):
            return None
        return read(path)


def log_files(store: track.Store, run_id: str, paths: list[Path]) -> None:
    """Add files to a run as artifacts."""
    for path in paths:
        store.client.log_artifact(run_id, str(path))
