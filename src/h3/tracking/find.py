"""Which model a person means: a bundle's folder, a version or alias in the registry, or the run of a fold.

    bundle = find("dist/blis")               # or "champion", "3", "shipped"

Where no registry has a champion, the one that ships with h3 answers. A folder is read without MLflow, which
is imported only where the registry or a run is meant: a first answer does not wait for it.
"""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h3 import bundle
from h3.bundle import Bundle, standing
from h3.common.config import SourceConfig, TrackingConfig, validated
from h3.common.errors import InputError
from h3.evaluation import result as fold_result
from h3.models import restore
from h3.models.residual import FittedResidual

if TYPE_CHECKING:
    from h3.tracking.store import Store

CHAMPION, SHIPPED_NAME = "champion", "shipped"
IS_CHAMPION = "SELECT 1 FROM registered_model_aliases WHERE alias = ?"
# A folder that a promotion was to write, or has written, as the champion's: journal.py's tags of versions.
IS_CHAMPIONS_FOLDER = "SELECT 1 FROM model_version_tags WHERE key IN ('out', 'exported') AND value = ?"
RUN_ID = re.compile(r"[0-9a-f]{32}")


def is_run(name: str) -> bool:
    """Whether a name is the id of a run."""
    return bool(RUN_ID.fullmatch(name))


def find(name: str, tracking: TrackingConfig | None = None) -> Bundle:
    """The bundle in that folder, of that version or alias of the registry, or the shipped one; raises
    InputError if there is none.
    """
    return bundle.read(folder(name, tracking))


def folder(name: str, tracking: TrackingConfig | None = None) -> Path:
    """The folder of that bundle, unread; that of a version is downloaded. Raises InputError if there is
    none.
    """
    if Path(name).is_dir() or "/" in name or name.startswith("."):
        return bundle.inspect(name).path
    if name == SHIPPED_NAME or (name == CHAMPION and not has_champion(tracking)):
        return bundle.inspect(standing.SHIPPED).path
    from h3.tracking import registry

    return registry.folder(name, tracking)


def has_champion(tracking: TrackingConfig | None = None) -> bool:
    """Whether there is a registry to ask for the champion: one that is named, or one in mlruns/ that has it.

    The file is asked without MLflow, whose import takes longer than an answer.
    """
    if (tracking and tracking.uri) or os.environ.get("MLFLOW_TRACKING_URI"):
        return True
    asked = _asked(Path("mlruns/mlflow.db"), IS_CHAMPION, CHAMPION)
    return asked is not False  # MLflow says what is wrong with a file that cannot be asked


def _asked(path: Path, query: str, value: str) -> bool | None:
    """Whether a query of a SQLite store has an answer; None where it cannot be asked."""
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as store:
            return store.execute(query, (value,)).fetchone() is not None
    except sqlite3.Error:
        return None


def overtaken(path: str, digest: str, tracking: TrackingConfig) -> str:
    """In words, that a folder that a promotion wrote as the champion's holds another bundle than the
    champion; empty where it does not.

    Only a registry in a file of this machine is asked: a server may be slow, and files can be verified
    without it.
    """
    uri = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlruns/mlflow.db"
    store = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or not _asked(store, IS_CHAMPIONS_FOLDER, os.path.abspath(path)):
        return ""
    from h3.tracking import registry

    try:
        version = registry.number(CHAMPION, tracking)
        champion = bundle.inspect(registry.folder(CHAMPION, tracking)).digest
    except InputError as error:
        return f"{path}: whether it is the champion's is not known: {error}"
    if champion == digest:
        return ""
    again = write_again(path, tracking)
    return f"{path}: not the champion's: that is version {version}, digest {champion[:16]}; {again} writes it"


def write_again(out: str, tracking: TrackingConfig) -> str:
    """The command that writes the champion's files to a folder and writes that down."""
    uri = (f"tracking.uri={tracking.uri}",) if tracking.uri else ()
    return shlex.join(["python", "-m", "h3.promote", "action=export", f"out={out}", *uri])


@dataclass(frozen=True)
class FoldFit:
    """The fit that a tracked fold run learned, its provenance, its source and the experiments that it held
    out.
    """

    fitted: FittedResidual
    provenance: dict[str, Any]
    source: SourceConfig
    held_out: set[str]


def from_run(run_id: str, tracking: TrackingConfig) -> FoldFit:
    """What a tracked fold run learned; raises InputError if the run holds no such fit."""
    from h3.tracking import artifacts
    from h3.tracking.store import open_store

    store = open_store(tracking.uri, tracking.experiment)
    fitted = fit_of_run(store, run_id)
    result = fold_result.read(artifacts.of_run(store, run_id, "result.json"), f"run {run_id}")
    config = artifacts.content_of_run(store, run_id, "config.yaml")
    kept = result.model_dump(include={"fold", "kind", "holdout", "model", "mape"})
    provenance = {
        "data": result.data,
        "data_digest": result.data_digest,
        "commit": store.run(run_id).data.tags.get("git_commit", "unknown"),
        "folds": [kept | {"run_id": run_id}],
        "note": f"one fold's fit: {result.holdout} was held out",
    }
    held_out = {entry.experiment for entry in result.experiments}
    return FoldFit(fitted, provenance, validated(config.get("source"), SourceConfig), held_out)


def fit_of_run(store: Store, run_id: str) -> FittedResidual:
    """The fit that a tracked run learned; raises InputError if there is none that can be restored."""
    from h3.tracking import artifacts

    described = artifacts.content_of_run(store, run_id, "fit.json")
    return restore.from_description(described, f"run {run_id}: fit.json")
