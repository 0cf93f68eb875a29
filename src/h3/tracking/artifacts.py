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
    """A JSON or YAML artifact (by its name), None if there is none; raises InputError if it holds no keys."""
    found = text(artifacts, name)
    return None if found is None else parsed(found, f"{artifacts}/{name}")


def parsed(text: str, where: str) -> dict[str, Any]:
    """The keys and values in the text of an artifact that is called .json or .yaml; InputError if none."""
    parse = json.loads if where.endswith(".json") else yaml.safe_load
    try:
        found = parse(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())[:120]
        raise InputError(f"{where}: {said}; expected what h3 tracked") from None
    if not isinstance(found, dict):
        raise InputError(f"{where}: {type(found).__name__}; expected keys and values, as h3 tracked them")
    return found


def frame(artifacts: str, name: str, columns: list[str] | None = None) -> pd.DataFrame | None:
    """A Parquet artifact, None if there is none of that name; raises InputError for another file."""
    return _read(artifacts, name, lambda path: pd.read_parquet(path, columns=columns))


def of_run(store: Store, run_id: str, name: str) -> str:
    """A text artifact of the run of that id; raises InputError if there is no such run or artifact."""
    found = text(store.run(run_id).info.artifact_uri, name)
    if found is None:
        raise InputError(f"run {run_id!r} has no {name}; expected the id of a tracked fold run with {name}")
    return found


def content_of_run(store: Store, run_id: str, name: str) -> dict[str, Any]:
    """A JSON or YAML artifact of the run of that id; raises InputError as `of_run` and `parsed` do."""
    return parsed(of_run(store, run_id, name), f"run {run_id}: {name}")


def _read(artifacts: str, name: str, read: Callable[[Path], Content]) -> Content | None:
    address = urlparse(artifacts)
    if address.scheme in ("", "file"):
        path = Path(unquote(address.path)) / name
        return _checked(path, artifacts, read) if path.is_file() else None
    with tempfile.TemporaryDirectory(prefix="h3-artifacts-") as folder:
        try:
            path = Path(
                mlflow.artifacts.download_artifacts(artifact_uri=f"{artifacts}/{name}", dst_path=folder)
            )
        except (MlflowException, OSError):
            return None
        return _checked(path, artifacts, read)


def _checked(path: Path, artifacts: str, read: Callable[[Path], Content]) -> Content:
    try:
        return read(path)
    except (OSError, ValueError) as error:  # text that is no UTF-8, a Parquet file that is none
        raise InputError(f"{artifacts}/{path.name}: {str(error)[:120]}; expected what h3 tracked") from None
