"""The way to a tracking server or its database: how long it may take, what is said when it is lost, and who
makes a fresh database.

    with reported(uri):                         # what MLflow, its database or the network raise: one line
        client.get_experiment_by_name("h3")
"""

from __future__ import annotations

import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import mlflow
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from h3.common import secrets
from h3.common.errors import InputError
from h3.tracking import fresh_database

Found = TypeVar("Found")
# What a store raises: its own errors, its database's, the network's and the disk's.
TROUBLES = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError)
MOST_REASON = 200  # characters
TRIES = 6
# Several processes insert the same row at once, or migrate the same fresh database: the next try finds it.
PASSING = re.compile(r"UNIQUE constraint|duplicate key|already exists|database is locked|no such table", re.I)
CAUSES = {
    r"Connection refused": "connection refused",
    r"Name or service not known|Failed to resolve|nodename nor servname": "no such host",
    r"timed out|Read timed out|timeout": "no answer in time",
    r"too many (?:5\d\d|429) error|error code 5\d\d|Internal Server Error": "its answer is a server error",
}


class Lost(InputError):
    """The tracking store cannot be reached, or does not take what it is given."""


@contextmanager
def reported(uri: str) -> Iterator[None]:
    """What a store raises while the block runs, as Lost: where, why, and what was expected, in one line."""
    try:
        yield
    except TROUBLES as error:
        where = f"tracking store {secrets.hidden(uri)}"
        raise Lost(f"{where} cannot be reached: {why(error, uri)}; expected a running store") from None


def why(error: BaseException, uri: str) -> str:
    """The cause of an error of the store at `uri`, short and without a password."""
    said = " ".join(str(error).split()).split(" [SQL:")[0]
    if isinstance(error, ImportError):
        return f"{said}; `pip install 'h3[cluster]'` has the drivers of databases"
    for pattern, words in CAUSES.items():
        if re.search(pattern, said):
            return words
    said = secrets.hidden(said, uri)
    # MLflow wraps: the cause is at the end where there is one in brackets, else at the start.
    return said if len(said) <= MOST_REASON else f"{said[: MOST_REASON // 2]} … {said[-MOST_REASON // 2 :]}"


def persisting(act: Callable[[], Found]) -> Found:
    """Do what several processes may do at once to one database; again where another was first.

    MLflow looks a row up and then inserts it (data sets, experiments), and makes tables where it finds none.
    """
    for left in reversed(range(TRIES)):
        try:
            return act()
        except TROUBLES as error:
            if not left or not PASSING.search(str(error)):
                raise
            time.sleep(random.uniform(0.1, 0.5))
    raise AssertionError("unreachable")


def experiment_id(uri: str, name: str, artifacts: str | None) -> str:
    """The id of an experiment, which is made where it is missing; raises Lost."""
    with reported(uri), fresh_database.alone(uri):
        mlflow.set_tracking_uri(uri)
        return persisting(lambda: _experiment(uri, name, artifacts))


def _experiment(uri: str, name: str, artifacts: str | None) -> str:
    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name, artifact_location=artifacts))
