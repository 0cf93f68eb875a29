"""What an interrupted sweep has left, for one that goes on with it.

    known = key(config)                         # of a fold: its code and configuration
    parent = interrupted(store, sweep_key)      # the newest sweep of the same code and configuration, or None
    left = left_of(store, parent, known)        # its fold: finished, complete on disk, or to be run again

Folds are kept only if code, configuration and, once they are read, data are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Run
from omegaconf import DictConfig, OmegaConf

from h3.common import code
from h3.common.config import TrainConfig
from h3.common.errors import InputError
from h3.evaluation import result as fold_result
from h3.evaluation.result import FoldResult
from h3.tracking import artifacts, owner, record, unsent
from h3.tracking.record import Sealed
from h3.tracking.store import ROLE_TAG, Store

KEY_TAG = "h3.key"
# What changes where and how fast, but no number.
ELSEWHERE = {
    "tracking": ...,
    "threads": ...,
    "resume": ...,
    "source": {"workers", "cache_dir"},
    "tune": {"storage", "workers"},
}
NOT_OF_A_SWEEP = (
    *("resume=", "tracking.", "threads=", "source.workers=", "source.cache_dir="),
    *("tune.storage=", "tune.workers="),
)


def key(config: TrainConfig) -> str:
    """sha256 (hex) of a fold's code and configuration, without what changes no number."""
    return _hash(config.model_dump(mode="json", exclude=ELSEWHERE))  # type: ignore[arg-type]


def sweep_key(config: DictConfig, overrides: Sequence[str]) -> str:
    """The same of a sweep: its configuration as composed before the jobs, and its overrides."""
    composed = OmegaConf.to_container(config, resolve=False)
    assert isinstance(composed, dict)
    kept = {name: value for name, value in composed.items() if name not in ("hydra", "tracking", "resume")}
    return _hash([kept, [each for each in overrides if not each.startswith(NOT_OF_A_SWEEP)]])


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps([code.digest(), content], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Left:
    """What is left of a fold: its run ("": none), its result if the run is finished, and its record if it is
    complete on this machine's disk.
    """

    run_id: str = ""
    finished: FoldResult | None = None
    sealed: Sealed | None = None

    def of(self, digest: str) -> Left:
        """The same if it was on data of this digest; raises InputError if it was not."""
        result = self.finished or (self.sealed.result if self.sealed else None)
        if result is not None and result.data_digest != digest:
            raise InputError(
                f"resume=true: the data of {result.fold} are not those of the interrupted sweep (digest"
                f" {digest}, then {result.data_digest}); expected the same data, or a sweep without resume"
            )
        return self


def parents(store: Store, known: str) -> list[Run]:
    """The sweeps of that code and configuration, newest first."""
    return store.search(f"tags.`{KEY_TAG}` = '{known}' and tags.`{ROLE_TAG}` = 'sweep'")


def interrupted(store: Store, known: str) -> Run | None:
    """The newest sweep of that code and configuration, to go on with; None if there is none.

    Raises InputError if a living process is at it.
    """
    found = next(iter(parents(store, known)), None)
    if found is not None and found.info.status == "RUNNING":
        process = found.data.tags.get(owner.OWNER_TAG, "unknown")
        raise InputError(
            f"resume=true: sweep {found.info.run_id} is still running (process {process}); expected one at a"
            " time: wait until it is done"
        )
    return found


def busy(store: Store, parent: str, known: str) -> str:
    """The living process (host:number) that computes the fold of that code and configuration; "" if none."""
    runs = [run for run in _folds(store, parent, known) if run.info.status == "RUNNING"]
    living = [run.data.tags.get(owner.OWNER_TAG, "") for run in runs if not owner.gone(run.data.tags)]
    return living[-1].rpartition(":")[0] if living else ""


def _folds(store: Store, parent: str, known: str) -> list[Run]:
    return [run for run in store.children(parent) if run.data.tags.get(KEY_TAG) == known]


def left_of(store: Store, parent: str, known: str) -> Left:
    """What a sweep has left of the fold of that code and configuration."""
    runs = _folds(store, parent, known)
    waiting = {each.run_id: each for each in unsent.folds(parent)}
    if not runs:
        return Left(sealed=_complete([each for each in waiting.values() if not each.run_id], known))
    run = runs[-1]
    if run.info.status == "FINISHED":
        text = artifacts.text(run.info.artifact_uri, "result.json")
        return Left(run.info.run_id, fold_result.read(text, f"run {run.info.run_id}") if text else None)
    here = [each for each in waiting.values() if each.run_id == run.info.run_id]
    return Left(run.info.run_id, sealed=_complete(here, known))


def _complete(waiting: list[unsent.Fold], known: str) -> Sealed | None:
    for each in waiting:
        try:
            sealed = record.read(each.folder)
        except InputError:
            continue  # deleted since: it is run again
        if sealed.key == known:
            return sealed
    return None
