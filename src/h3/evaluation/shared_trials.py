"""The finished trials of one search, wherever they are kept, and who is at which.

    with open_trials("mlruns/tune", name, generation=4) as kept:    # or sqlite:///FILE, postgresql://HOST/DATABASE
        with kept.claimed(7) as mine:                               # False: another worker is at trial 7
            kept.add(7, trial)
        kept.finished()                                             # number → trial

A claim saves work and no more: what a trial draws and finds follows from its number and from the generations
before it, so two workers at one trial find the same. A worker that dies lets go of what it has claimed: its
file locks, or the session of the database that holds them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from h3.common import files, secrets
from h3.common.errors import InputError

NUMBER = "number"  # a stored trial's own; the storage counts in the order of their ends
SQLITE, POSTGRESQL = "sqlite:///", "postgresql"
WAIT_S = 60.0  # for another's write to one SQLite file
# A database that does not answer is given up after so many seconds, and lets go of the claims of a machine
# that has lost its power after a minute.
REACHABLE = {
    "connect_timeout": 10,
    "options": "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3",
}
MOST_REASON = 200  # characters

Claim = Callable[[int], AbstractContextManager[bool]]


@dataclass(frozen=True)
class Trials:
    """The finished trials of one study, and claims on those that are not."""

    study: optuna.Study
    claimed: Claim

    def finished(self) -> dict[int, FrozenTrial]:
        """Number → trial, in the order of the numbers."""
        found: dict[int, FrozenTrial] = {}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            number = trial.user_attrs[NUMBER]
            attributes = {key: value for key, value in trial.user_attrs.items() if key != NUMBER}
            found.setdefault(number, _copy(trial, attributes))
        return dict(sorted(found.items()))

    def add(self, number: int, trial: FrozenTrial) -> None:
        """Keep a finished trial under its number, whole or not at all."""
        self.study.add_trial(_copy(trial, {**trial.user_attrs, NUMBER: number}))


def _copy(trial: FrozenTrial, attributes: dict[str, object]) -> FrozenTrial:
    return create_trial(
        params=trial.params, distributions=trial.distributions, value=trial.value, user_attrs=attributes
    )


@contextmanager
def open_trials(storage: str | None, name: str, generation: int) -> Iterator[Trials]:
    """The study of that name in a folder (a journal), a SQLite file or PostgreSQL; None: in memory.

    generation: how many trials may be claimed at once. Raises InputError, also from the block, where the
    database cannot be reached.
    """
    if storage is None:
        yield _trials(InMemoryStorage(), name, lambda number: nullcontext(True))
    elif "://" not in storage:
        journal = Path(storage) / f"{name}.log"
        claim = _file_claims(journal, generation)
        with files.lock(journal.with_suffix(".lock")):
            kept = _trials(JournalStorage(JournalFileBackend(str(journal))), name, claim)
        yield kept
    else:
        with _reported(storage):
            yield _of_database(storage, name, generation)


def _trials(storage: BaseStorage, name: str, claim: Claim) -> Trials:
    return Trials(optuna.create_study(study_name=name, storage=storage, load_if_exists=True), claim)


def _of_database(url: str, name: str, generation: int) -> Trials:
    """The study in a database, whose tables are made by one worker alone."""
    if url.startswith(SQLITE):
        path = Path(url.removeprefix(SQLITE))
        with files.lock(path.with_name(f"{path.name}.lock")):
            storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": WAIT_S}})
            return _trials(storage, name, _file_claims(path.with_name(f"{path.name}.{name}"), generation))
    if not url.startswith(POSTGRESQL):
        raise InputError(
            f"tune.storage={secrets.hidden(url)}; expected a folder, sqlite:///FILE or postgresql://HOST/DATABASE"
        )
    with _session(url) as session:
        session.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_lock(_key("tables"))))
        storage = RDBStorage(url, engine_kwargs={"pool_pre_ping": True, "connect_args": REACHABLE})
        return _trials(storage, name, _session_claims(url, name))


def _file_claims(path: Path, generation: int) -> Claim:
    """Claims by locked files beside `path`, one for each trial of a generation."""

    @contextmanager
    def claimed(number: int) -> Iterator[bool]:
        with ExitStack() as held:
            mine = False
            with suppress(BlockingIOError):
                held.enter_context(files.lock(path.with_suffix(f".{number % generation}.lock"), wait=False))
                mine = True
            yield mine

    return claimed


def _session_claims(url: str, name: str) -> Claim:
    """Claims by PostgreSQL's advisory locks, which end with the session that took them."""

    @contextmanager
    def claimed(number: int) -> Iterator[bool]:
        with _session(url) as session:
            lock = sqlalchemy.func.pg_try_advisory_lock(_key(f"{name} {number}"))
            yield bool(session.scalar(sqlalchemy.select(lock)))

    return claimed


@contextmanager
def _session(url: str) -> Iterator[sqlalchemy.Connection]:
    """A connection of its own, which is closed and not put back; one that broke has let go already."""
    engine = sqlalchemy.create_engine(
        url, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT", connect_args=REACHABLE
    )
    connection = engine.connect()
    try:
        yield connection
    finally:
        with suppress(SQLAlchemyError):
            connection.close()


def _key(text: str) -> int:
    """A number of 63 bits, as PostgreSQL's locks have."""
    return int.from_bytes(hashlib.sha256(f"h3 {text}".encode()).digest()[:8], "big") >> 1


@contextmanager
def _reported(url: str) -> Iterator[None]:
    """What a database raises while the block runs, as one line without the password."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, ImportError) as error:
        said = " ".join(str(error.__cause__ or error).split()).split(" [SQL:")[0]
        if isinstance(error, ImportError):
            said += "; `pip install 'h3[cluster]'` has the driver"
        where, reason = secrets.hidden(url), secrets.hidden(said, url)[:MOST_REASON]
        raise InputError(f"tune.storage={where}: {reason}; expected a database that can be reached") from None
