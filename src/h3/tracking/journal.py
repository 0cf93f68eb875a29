"""The record of promotions: one at a time, each with a run of its own, and what a killed one left is
finished.

    with lock(registry):
        done = recover(registry, "dist/blis")
        ...                                                     # write the files of what is `unexported`
        end_entries(registry, done)
        with entry(registry, "promotion", {"sweep": sweep, "out": "/srv/dist/blis"}) as run_id:
            expect_export(registry, "3", "/srv/dist/blis")
            promote(registry, "3")
            ...                                                 # write its files
            exported(registry, "3")

A version's tag `state` is the journal: registered → gated → promoted, or refused; rolled_back; abandoned.
`recover` brings what a killed promotion left to one of the last four. The alias champion moves by one write
and is never taken away. Its tag `out` names the folder that is to have its files, before the alias moves, and
`exported` the same when they are there: what a kill leaves between the two is `unexported`. An entry ends
after the files are there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mlflow.entities import Run

from h3.common import files
from h3.common.errors import InputError
from h3.tracking import log
from h3.tracking.registry import CHAMPION, Registry
from h3.tracking.store import git_commit


@contextmanager
def lock(registry: Registry) -> Iterator[None]:
    """Held while the block runs; raises InputError if another process on this machine holds it.

    The file lies beside a SQLite store, else in the folder for temporary files; a process that dies lets go
    of it.
    """
    path = _lock_path(registry.store.uri)
    holder = path.with_suffix(".holder")
    try:
        with files.lock(path, wait=False):
            files.write_text(holder, str(os.getpid()))
            yield
    except BlockingIOError:
        process = holder.read_text() if holder.is_file() else "unknown"
        raise InputError(
            f"another promotion is running (process {process}); expected one at a time: wait until it is done"
        ) from None


def _lock_path(uri: str) -> Path:
    if uri.startswith("sqlite:///"):
        return Path(uri.removeprefix("sqlite:///")).with_name("promote.lock")
    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    own = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(own) / "h3" / f"promote-{name}.lock"


@contextmanager
def entry(registry: Registry, action: str, intent: Mapping[str, str]) -> Iterator[str]:
    """A run that records a promotion or rollback: intent.json first, then what the block logs; FAILED if the
    block raises, but open while the champion's files are not where they are to be.

    Entries are only ever added: each has a run of its own. `intent` also goes to the run's tags. Yields the
    run's id.
    """
    told = {f"h3.{key}": str(value) for key, value in intent.items()}
    tags, run_id = {"h3.role": action, "git_commit": git_commit(), **told}, ""
    try:
        with registry.store.active_run(action, tags) as run_id:
            log.json("intent.json", dict(intent))
            yield run_id
    except BaseException:
        if run_id and unexported(registry):
            registry.store.client.update_run(run_id, status="RUNNING")
        raise


def open_entries(registry: Registry) -> list[Run]:
    """Entries that never ended: their process was killed, or the files could not be written."""
    store = registry.store
    found = store.client.search_runs([store.experiment_id], "attributes.status = 'RUNNING'")
    return [run for run in found if run.data.tags.get("h3.role") in ("promotion", "rollback")]


def expect_export(registry: Registry, version: str, out: str) -> None:
    """Write down, before the alias moves, which folder is to have the files of a version."""
    registry.tag(version, exported="", out=os.path.abspath(out))


def exported(registry: Registry, version: str) -> None:
    """Write down that the folder has the files."""
    known = registry.version(version)
    registry.tag(version, exported=known.tags.get("out", "") if known else "")


def unexported(registry: Registry) -> tuple[str, str] | None:
    """The champion's version and the folder that is still to have its files; None where it has them."""
    champion = registry.version(CHAMPION)
    out = champion.tags.get("out") if champion else None
    if champion is None or not out or champion.tags.get("exported") == out:
        return None
    return str(champion.version), str(out)


def passed(registry: Registry) -> dict[str, str]:
    """Versions that passed the gate and did not get to be champion, oldest first, with the folder that is to
    have their files ("" in a record of an older h3).
    """
    found = [each for each in reversed(registry.versions()) if each.tags.get("state") == "gated"]
    return {str(each.version): each.tags.get("out", "") for each in found}


def promote(registry: Registry, version: str) -> None:
    """Make a version that passed the gate the champion: one write moves the alias. May be repeated."""
    registry.set_alias(CHAMPION, version)
    registry.tag(version, state="promoted")
    registry.drop_challenger(version)


def rollback_versions(registry: Registry) -> tuple[str, str]:
    """The champion, and the version that was it before; raises InputError if there is none."""
    current = registry.version(CHAMPION)
    before = current.tags.get("previous_champion") if current else None
    if current is None or not before:
        lacking = "version before the champion" if current else "champion"
        raise InputError(f"rollback: there is no {lacking}; expected an earlier promotion")
    return str(current.version), str(before)


def roll_back(registry: Registry, out: str, export: Callable[[str], object] | None = None) -> tuple[str, str]:
    """Move champion to the version that was champion before, whose files `out` is to have, then call `export`
    with it: (from, to).

    The entry ends after the export, so that `recover` sees one that was killed before. Raises InputError if
    there is none.
    """
    current, before = rollback_versions(registry)
    intent = {"from_version": current, "to_version": before, "out": os.path.abspath(out)}
    with entry(registry, "rollback", intent):
        expect_export(registry, before, out)
        registry.set_alias(CHAMPION, before)
        registry.tag(current, state="rolled_back")
        if export:
            export(before)
    return current, before


def recover(registry: Registry, out: str) -> dict[str, str]:
    """Finish or undo what killed promotions and rollbacks left, under the lock: {version: what became of it}.

    A version that had passed the gate becomes champion, one that had not been through it is abandoned; one
    that a rollback had already taken the alias from is rolled back. Files are not written and entries stay
    open. `out`: the folder of a version whose record, of an older h3, names none.
    """
    done = {}
    for version, folder in passed(registry).items():
        if not folder:
            expect_export(registry, version, out)
        promote(registry, version)
        done[version] = "promoted"
    for found in registry.versions():
        if found.tags.get("state") == "registered":
            version = str(found.version)
            registry.drop_challenger(version)
            registry.tag(version, state="abandoned")
            done[version] = "abandoned"
    champion = registry.aliases().get(CHAMPION)
    for run in open_entries(registry):
        tags = run.data.tags
        if tags["h3.role"] == "rollback" and tags["h3.to_version"] == champion:
            registry.tag(tags["h3.from_version"], state="rolled_back")
            done[tags["h3.from_version"]] = "rolled_back"
    return done


def end_entries(registry: Registry, done: Mapping[str, str]) -> None:
    """End the entries that are still open, once the champion's files are where they are to be."""
    outcome = f"recovered: {dict(done) or 'nothing to do'}"
    for run in open_entries(registry):
        registry.store.client.set_tag(run.info.run_id, "h3.outcome", outcome)
        registry.store.client.set_terminated(run.info.run_id, "KILLED")
