"""Sweeps and their runs, as they are read for comparison and promotion.

    sweep = find_sweep(store, None)                     # newest; a run id for another
    runs = read_runs(store, sweep)                      # every child run, failed ones too
    runs[0].result.mape, runs[0].frame("predictions.parquet")

A run that failed has no result; `trouble` says why.
"""

from __future__ import annotations

import datetime
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from mlflow.entities import Run

from h3.common.errors import InputError
from h3.evaluation import result as fold_result
from h3.evaluation.result import FoldResult
from h3.tracking import artifacts
from h3.tracking.connect import reported
from h3.tracking.store import ERROR_TAG, Store

LISTED, READERS = 5, 4
SWEEPS = "tags.`h3.role` = 'sweep'"


@dataclass(frozen=True)
class Sweep:
    """A parent run; `overrides` None: one fold, not a multirun."""

    run_id: str
    overrides: str | None
    source: str
    commit: str
    status: str
    started: str

    @property
    def ablation(self) -> str:
        """The override that makes it an ablation, such as experiment=ablation; "" without one."""
        parts = (self.overrides or "").split()
        return next((part for part in parts if "ablation" in part and part != "ablation=none"), "")

    @property
    def kind(self) -> Literal["sweep", "ablation", "within", "single"]:
        """What it was run for."""
        if self.overrides is None:
            return "single"
        if self.ablation:
            return "ablation"
        return "within" if "fold=within" in self.overrides else "sweep"

    @property
    def ended(self) -> bool:
        """Whether it came to its end, whatever that was."""
        return self.status not in ("RUNNING", "KILLED")

    def __str__(self) -> str:
        return f"{self.run_id} ({self.started}, {self.kind}: {self.overrides or 'one fold'})"


@dataclass(frozen=True)
class FoldRun:
    """A child run; `result` None: it did not get that far; `error` what it failed with, if known."""

    run_id: str
    name: str
    status: str
    commit: str
    artifacts: str
    result: FoldResult | None
    error: str = ""

    @property
    def finished(self) -> FoldResult | None:
        """The result, if the run ended well with an error that is a number."""
        ended = self.status == "FINISHED" and self.result is not None and self.result.mape is not None
        return self.result if ended else None

    @property
    def trouble(self) -> str:
        """Why an unfinished run has no number."""
        if self.status == "FINISHED" and self.result is not None:
            return f"run {self.run_id} finished with mape={self.result.mape}"
        return f"run {self.run_id} {self.status.lower()}: {self.error or 'no result'}"

    def frame(self, name: str, columns: list[str] | None = None) -> pd.DataFrame | None:
        """A Parquet artifact, None if the run has none of that name."""
        return artifacts.frame(self.artifacts, name, columns)

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON artifact, None if the run has none of that name."""
        return artifacts.content(self.artifacts, name)

    def config(self) -> dict[str, Any] | None:
        """The configuration that the run recorded; None without one."""
        return artifacts.content(self.artifacts, "config.yaml")


def find_sweep(store: Store, run_id: str | None) -> Sweep:
    """The sweep of that id; None: the newest multirun that is no ablation and no within check, else the
    newest single run. One that still runs or was killed comes after all others.

    Raises InputError listing the newest five if there is none.
    """
    found = sweeps(store)
    if run_id is not None:
        chosen = [sweep for sweep in found if sweep.run_id == run_id]
    else:
        chosen = [sweep for sweep in found if sweep.kind == "sweep"]
        chosen = chosen or [sweep for sweep in found if sweep.kind == "single"]
        chosen = sorted(chosen, key=lambda sweep: not sweep.ended)
    if chosen:
        return chosen[0]
    if not found:
        made = "python -m h3.train -m 'fold=glob([lomo_*,lowo_*])'"
        raise InputError(f"no sweep in the tracking store {store.uri}; expected one made by {made}")
    newest = "; ".join(str(sweep) for sweep in found[:LISTED])
    raise InputError(
        f"sweep {run_id or 'of all folds'} is not in the tracking store; the newest are {newest}"
    )


def said_of(store: Store, chosen: Sweep) -> str:
    """In words, what a reader of a chosen sweep should know: that it never ended, or that a newer one did
    not; "" where there is nothing to say.
    """
    if not chosen.ended:
        state = "is still running" if chosen.status == "RUNNING" else "was killed"
        return f"sweep {chosen.run_id} {state}: not all of its folds are there"
    newer = next(iter(sweep for sweep in sweeps(store) if sweep.kind == chosen.kind), chosen)
    if newer.ended:
        return ""
    state = "still runs" if newer.status == "RUNNING" else "was killed"
    return f"sweep {newer.run_id} is newer but {state}; judged here: {chosen.run_id} (sweep=ID for another)"


def find_beside(store: Store, kind: str, run_id: str | None, digest: str) -> Sweep | None:
    """The ablation or within sweep of that id; None: the newest with data of this digest, or None if there is
    none.

    Raises InputError if a given id is not there.
    """
    if run_id is not None:
        return find_sweep(store, run_id)
    same = (sweep for sweep in sweeps(store) if sweep.kind == kind and digest in _digests(store, sweep))
    return next(same, None)


def _digests(store: Store, sweep: Sweep) -> set[str | None]:
    return {run.data.params.get("data_digest") for run in store.children(sweep.run_id)}


def sweeps(store: Store) -> list[Sweep]:
    """Parent runs, newest first, at most a thousand."""
    newest_first = ["attributes.start_time DESC"]
    with reported(store.uri):
        found = store.client.search_runs(
            [store.experiment_id], SWEEPS, max_results=1000, order_by=newest_first
        )
    return [_sweep(run) for run in found]


def ended_sweeps(store: Store, only: str | None) -> list[Sweep]:
    """Sweeps that have ended, newest first; or the one asked for, ended or not."""
    found = sweeps(store)
    chosen = [sweep for sweep in found if (sweep.run_id == only if only else sweep.ended)]
    if only and not chosen:
        newest = ", ".join(sweep.run_id for sweep in found[:3]) or "none yet"
        raise InputError(f"sweep={only}: no such sweep; expected the id of a parent run, such as {newest}")
    return chosen


def _sweep(run: Run) -> Sweep:
    tags = run.data.tags
    started = datetime.datetime.fromtimestamp(run.info.start_time / 1e3, datetime.UTC)
    return Sweep(
        run.info.run_id,
        tags.get("overrides"),
        tags.get("source", "unknown"),
        tags.get("git_commit", "unknown"),
        run.info.status,
        started.strftime("%Y-%m-%d %H:%M:%S"),
    )


def read_runs(store: Store, sweep: Sweep) -> list[FoldRun]:
    """The child runs of a sweep, oldest first, each with its result."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(_fold_run, store.children(sweep.run_id)))


def _fold_run(run: Run) -> FoldRun:
    info, tags = run.info, run.data.tags
    text = artifacts.text(info.artifact_uri, "result.json")
    result = None if text is None else fold_result.read(text, f"run {info.run_id}")
    commit, error = tags.get("git_commit", "unknown"), tags.get(ERROR_TAG, "")
    return FoldRun(info.run_id, info.run_name, info.status, commit, info.artifact_uri, result, error)


def log_files(store: Store, run_id: str, paths: list[Path]) -> None:
    """Add files to a run as artifacts."""
    for path in paths:
        store.client.log_artifact(run_id, str(path))
