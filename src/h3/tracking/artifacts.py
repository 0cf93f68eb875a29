"""The one reader of what runs left: texts, JSON and tables, wherever the artifacts lie.

    artifacts.text(run.info.artifact_uri, "result.json")         # None if the run has none of that name

Artifacts in a folder of this machine are read where they lie; others are downloaded.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse

import mlflow
import pandas as pd
import yaml
from mlflow.exceptions import MlflowException

from h3.common.errors import InputError
from h3.tracking.store import Store

Content = TypeVar("Content")


def text(artifacts: str, name: str) -> str | None:
    """A text artifact below the artifact URI of a run; None if there is none of that name."""
    return _read(artifacts, name, lambda path: path.read_text(encoding="utf-8"))


def content(artifacts: str, name: str) -> dict[str, Any] | None:
    """A JSON artifact, None if there is none of that name."""
    found = text(artifacts, name)
    return None if found is None else json.loads(found)


def frame(artifacts: str, name: str, columns: list[str] | None = None) -> pd.DataFrame | None:
    """A Parquet artifact, None if there is none of that name."""
    return _read(artifacts, name, lambda path: pd.read_parquet(path, columns=columns))


def of_run(store: Store, run_id: str, name: str) -> str:
    """A text artifact of the run of that id; raises InputError if there is no such run or artifact."""
    found = text(store.run(run_id).info.artifact_uri, name)
    if found is None:
        raise InputError(f"run {run_id!r} has no {name}; expected the id of a tracked fold run with {name}")
    return found


def json_of_run(store: Store, run_id: str, name: str) -> Any:
    """A JSON artifact of the run of that id; raises InputError as `of_run` does."""
    return json.loads(of_run(store, run_id, name))


def yaml_of_run(store: Store, run_id: str, name: str) -> Any:
    """A YAML artifact of the run of that id; raises InputError as `of_run` does."""
    return yaml.safe_load(of_run(store, run_id, name))


def _read(artifacts: str, name: str, read: Callable[[Path], Content]) -> Content | None:
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
