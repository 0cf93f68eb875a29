"""A database in a file is there with all its tables or not at all, whoever comes first: several commands at
once, or a server beside them.

    with alone("sqlite:////home/me/mlruns/mlflow.db"):
        ...                                     # the tables are there

MLflow makes the tables in some fifty migrations, and two processes that do so at once break each other's.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from mlflow.store.db.utils import _get_latest_schema_revision
from mlflow.tracking import MlflowClient

from h3.common import files

STILL_S, PAUSE_S = 5.0, 0.2


@contextmanager
def alone(uri: str) -> Iterator[None]:
    """Hold the lock beside the database while the block runs, its tables made; servers need none, and no lock
    is held while one is asked.
    """
    if not uri.startswith("sqlite:///") or ":memory:" in uri:
        yield
        return
    path = Path(uri.removeprefix("sqlite:///"))
    with files.lock(path.with_name(f"{path.name}.lock")):
        if not path.exists():
            _make(path)
        _wait_for_tables(path)
        yield


def _make(path: Path) -> None:
    """Make the database beside its place, and put it there when it is whole; another's stays."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        MlflowClient(f"sqlite:///{scratch}").search_experiments(max_results=1)
        with suppress(OSError):  # it is there by now; or no links here, and MLflow makes it in place
            os.link(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _wait_for_tables(path: Path) -> None:
    """Let a server that is making the tables finish; those of an earlier MLflow stay as they are."""
    newest, seen, changed = _get_latest_schema_revision(), "", time.monotonic()
    while path.exists() and (found := _revision(path)) != newest:
        now = time.monotonic()
        if found != seen:
            seen, changed = found, now
        if now - changed > STILL_S:
            return
        time.sleep(PAUSE_S)


def _revision(path: Path) -> str:
    """The revision of the tables; "" where there are none yet, or they cannot be read at the moment."""
    address = f"{path.absolute().as_uri()}?mode=ro"
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(address, uri=True)) as database:
        row = database.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else ""
    return ""
