"""What waits in mlruns/unsent, sent to its place: folds first, then the sweeps that wait for them are closed.

lines = send_all(to=None)                   # to: another store than the one that was lost
"""

from __future__ import annotations

from dataclasses import replace

from mlflow.exceptions import MlflowException

from h3.common.errors import InputError
from h3.tracking import record, send, unsent
from h3.tracking.resume import KEY_TAG
from h3.tracking.store import ERROR_TAG, PARENT_TAG, Store, open_store
from h3.tracking.unsent import Place


def send_all(to: str | None) -> list[str]:
    """Send all that waits; a line each. Raises InputError where a store cannot be reached or a record is not
    there any more.
    """
    moved = _Moved(to)
    lines = [_fold(each, moved) for each in unsent.folds()]
    return lines + [_sweep(each, moved) for each in unsent.sweeps() if not unsent.folds(each.place.parent)]


class _Moved:
    """The stores of places, and where in `to` the sweeps of other stores go on."""

    def __init__(self, to: str | None) -> None:
        self.to, self.parents = to, dict[str, str]()

    def store(self, place: Place) -> tuple[Store, str]:
        """The open store of a place, and the sweep's parent run there; a new one where it is not there."""
        store = open_store(self.to or place.uri, place.experiment)
        if place.parent not in self.parents:
            there = _has(store, place.parent)
            self.parents[place.parent] = (
                place.parent if there else store.start_parent("sweep", {"h3.sweep_elsewhere": place.parent})
            )
        return store, self.parents[place.parent]


def _has(store: Store, run_id: str) -> bool:
    try:
        return bool(store.client.get_run(run_id).info.experiment_id == store.experiment_id)
    except MlflowException:
        return False


def _fold(each: unsent.Fold, moved: _Moved) -> str:
    try:
        sealed = record.read(each.folder)
    except InputError as error:
        raise InputError(f"{error}; if that fold is not wanted any more, delete {each.note}") from None
    store, parent = moved.store(each.place)
    run = store.client.get_run(each.run_id) if each.run_id and _has(store, each.run_id) else None
    if run is not None and run.info.status == "FINISHED":
        each.note.unlink()
        return f"{each.name}: is there already, run {each.run_id}"
    again = each.run_id if run is not None and run.data.tags.get(PARENT_TAG) == parent else ""
    with store.fold_run(parent, each.name, {KEY_TAG: sealed.key}, again) as run_id:
        send.fold(store, run_id, sealed)
    each.note.unlink()
    _wait_for_sweep(each, store, moved.to or each.place.uri, parent)
    return f"{each.name}: sent, run {run_id}"


def _wait_for_sweep(each: unsent.Fold, store: Store, uri: str | None, parent: str) -> None:
    """A sweep that was begun anew in another store is closed there; one that was closed before its folds came
    is closed again, with them in its table.
    """
    place = replace(each.place, uri=uri, parent=parent)
    known = {sweep.place.parent for sweep in unsent.sweeps()}
    if not known & {parent, each.place.parent}:
        run = store.client.get_run(parent)
        killed = run.info.status == "KILLED"
        unsent.sweep(place, failed=False, stopped=run.data.tags.get(ERROR_TAG, "killed") if killed else "")


def _sweep(each: unsent.Sweep, moved: _Moved) -> str:
    store, parent = moved.store(each.place)
    rows = store.finish_parent(parent, each.failed, each.stopped)
    each.note.unlink()
    finished = sum(row.status == "FINISHED" for row in rows)
    return f"sweep {parent}: closed, {finished} of {len(rows)} folds finished"
