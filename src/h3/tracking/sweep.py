"""The parent run of a sweep or of a single fold: opened or gone on with before the first fold, closed after
the last, also when a fold fails or the process is stopped.

    opened = begin(tracking, "sweep", tags, key, resume=False)
    told = end(opened, failed=False)            # the fold table is printed; lines for what went wrong

Hydra calls SweepParent through `hydra.callbacks` (conf/config.yaml). The jobs, which may be processes of
their own, find the parent's id in an environment variable.
"""

from __future__ import annotations

import atexit
import os
import shlex
import sys
import traceback
from dataclasses import dataclass
from typing import Any

from hydra.experimental.callback import Callback
from mlflow.entities import Run
from omegaconf import DictConfig, OmegaConf

from h3.common import cli, interrupts, secrets
from h3.common.config import SourceConfig, TrackingConfig
from h3.common.errors import InputError
from h3.common.progress import Progress
from h3.evaluation.fold_table import FoldRow, markdown
from h3.sources.load import load
from h3.tracking import record, resume, unsent
from h3.tracking.connect import Lost
from h3.tracking.resume import KEY_TAG
from h3.tracking.store import Store, open_store
from h3.tracking.unsent import Place

PARENT_VARIABLE = "H3_PARENT_RUN"
SYNC = "`h3 sync` sends them"


@dataclass(frozen=True)
class Opened:
    """A parent run under way; store None: a job whose sweep's store was lost since."""

    store: Store | None
    place: Place


def begin(tracking: TrackingConfig, name: str, tags: dict[str, str], key: str, again: bool) -> Opened:
    """Open a parent run of that key, or `again` go on with the newest one of it; raises InputError where the
    store cannot be reached or another process is at that sweep.
    """
    store = open_store(tracking.uri, tracking.experiment)
    found = resume.interrupted(store, key) if again else None
    if again:
        _say(_continued(store, found))
    elif left := _newest_stopped(store, key):
        _say(
            f"an interrupted sweep of the same code and configuration is kept ({_finished(store, left)});"
            " resume=true goes on with it (make train ARGS=resume=true)"
        )
    parent = store.reopen(found.info.run_id) if found else store.start_parent(name, {**tags, KEY_TAG: key})
    return Opened(store, Place(tracking.uri, tracking.experiment, parent))


def joined(tracking: TrackingConfig, parent: str) -> Opened:
    """The parent run that another process has opened; a store that was lost since costs no fold."""
    place = Place(tracking.uri, tracking.experiment, parent)
    try:
        return Opened(open_store(tracking.uri, tracking.experiment), place)
    except Lost as lost:
        _say(f"{lost}; the folds are kept here until {SYNC}")
        return Opened(None, place)


def end(opened: Opened, failed: bool) -> list[str]:
    """Close a parent run and print its fold table, what was kept and how to go on; lines for what is not in
    the store.
    """
    assert opened.store is not None  # whoever ends a sweep has begun it
    stopped, lost = interrupts.asked(), ""
    try:
        rows = opened.store.finish_parent(opened.place.parent, failed, stopped)
    except Lost as error:
        unsent.sweep(opened.place, failed, stopped)
        rows, lost = _kept_rows(opened.place.parent), str(error)
    print_table(rows)
    if stopped:
        finished = sum(row.status == "FINISHED" for row in rows)
        print(
            f"stopped by {stopped}: {finished} finished folds are kept; go on with: {_again()}",
            file=sys.stderr,
        )
    waiting = unsent.folds(opened.place.parent)
    if waiting or lost:
        kept = f"{len(waiting)} finished folds are kept in {unsent.FOLDER}"
        return [f"{lost or 'the tracking store did not take everything'}; {kept}, {SYNC}"]
    return []


def _continued(store: Store, found: Run | None) -> str:
    if found is None:
        return "nothing to go on with: no sweep of this code and configuration; it starts anew"
    return f"goes on with the sweep of {_finished(store, found)}"


def _newest_stopped(store: Store, key: str) -> Run | None:
    newest = next(iter(resume.parents(store, key)), None)
    return newest if newest is not None and newest.info.status == "KILLED" else None


def _finished(store: Store, parent: Run) -> str:
    statuses = [run.info.status for run in store.children(parent.info.run_id)]
    return f"run {parent.info.run_id}, {statuses.count('FINISHED')} folds finished"


def _kept_rows(parent: str) -> list[FoldRow]:
    """The fold table of what is on disk, where the store cannot be asked."""
    rows = []
    for each in unsent.folds(parent):
        result = record.read(each.folder).result
        rows.append(FoldRow.of(result).model_copy(update={"status": "not sent yet"}))
    return rows


def _again() -> str:
    arguments = [each for each in sys.argv[1:] if not each.startswith("resume=")]
    return secrets.hidden(shlex.join(["python", "-m", "h3.train", *arguments, "resume=true"]))


def _say(text: str) -> None:
    print(text, file=sys.stderr)


class SweepParent(Callback):
    """Opens and closes the parent run of a multirun."""

    def __init__(self) -> None:
        self.opened: Opened | None = None
        self.process = 0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Open the parent run and make the simulated data once; Hydra calls it before the first job."""
        overrides = list(config.hydra.overrides.task)
        shown = " ".join(each for each in overrides if not each.startswith("resume="))
        tags = {"overrides": secrets.hidden(shown), "source": str(config.source.name)}
        try:
            known = resume.sweep_key(config, overrides)
            self.opened = begin(
                TrackingConfig(**config.tracking), "sweep", tags, known, _asks_to_resume(overrides)
            )
        except InputError as error:
            cli.fail(str(error))  # Hydra makes a warning of an exception, and goes on without a parent
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        self.process = os.getpid()
        os.environ[PARENT_VARIABLE] = self.opened.place.parent
        # Hydra does not call on_multirun_end when a job failed; the parent must not stay RUNNING.
        atexit.register(self._close_at_exit)
        self._warm_cache(config)

    def _warm_cache(self, config: DictConfig) -> None:
        """Simulate once, before jobs that may run side by side all want the same data."""
        if config.source.name == "simulated":
            source = OmegaConf.to_container(config.source, resolve=True)
            say = Progress("sweep")
            load(SourceConfig.model_validate(source), lambda text: say("data", detail=text))
            say.finish()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Close the parent run and print the fold table; Hydra calls it after the last job, if none
        failed.
        """
        for line in self._close(False):
            cli.report(line)

    def _close_at_exit(self) -> None:
        for line in self._close(True):
            print(f"error: {line}", file=sys.stderr)

    def _close(self, failed: bool) -> list[str]:
        if self.opened is None or os.getpid() != self.process:
            return []
        opened, self.opened = self.opened, None
        os.environ.pop(PARENT_VARIABLE, None)
        told = end(opened, failed)
        print(f"parent run {opened.place.parent}", file=sys.stderr)
        return told


def _asks_to_resume(overrides: list[str]) -> bool:
    return (
        OmegaConf.from_dotlist([each for each in overrides if each.startswith("resume=")]).get("resume")
        is True
    )


def print_table(rows: list[FoldRow]) -> None:
    """Print the fold table, and how to look at the runs."""
    print("\n" + markdown(rows))
    print("Look at the runs with `make ui`, then open http://127.0.0.1:5000 in a browser.")
