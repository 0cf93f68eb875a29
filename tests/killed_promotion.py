"""A promotion that fits nothing, and the same or a rollback in a process that is killed at one of its
steps.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from mlflow import MlflowClient

from h3 import promote
from h3.bundle import files
from h3.evaluation.fold_table import FoldRow
from h3.promotion import gate
from h3.promotion.config import PromoteConfig
from h3.tracking import registry
from h3.tracking.registry import CHALLENGER, CHAMPION, Registry

# What the process is killed in place of: the n-th call of a function, of those with that argument.
PLACES = {
    "tag": (MlflowClient, "set_model_version_tag", None),
    "alias": (Registry, "set_alias", CHAMPION),
    "challenger": (Registry, "drop_challenger", None),
    "export": (promote, "_export", None),
    "file": (os, "fsync", None),
    "exchange": (files, "exchange", None),
    "cleanup": (files, "_repair", None),
    "end": (MlflowClient, "set_terminated", None),
}
ROWS = [FoldRow(fold="lomo_mixtral", mape=5.0, mape_low=4.0, mape_high=6.0, status="FINISHED")]


def run(config: PromoteConfig, sweep: str, source: Path) -> int:
    """`h3.promote` of a sweep whose winner is already fitted: its model lies in `source`. Its one fold has an
    error of 5 %, and the gate has no other check than the folds' limits.
    """

    def register(opened: Registry, run_id: str, *_: object) -> str:
        tags = {"state": "registered", "sweep": sweep}
        made = opened.store.client.create_model_version(registry.NAME, str(source), run_id=run_id, tags=tags)
        opened.set_alias(CHALLENGER, str(made.version))
        return str(made.version)

    fakes = {
        "pick": lambda *_: (SimpleNamespace(sweep=sweep), []),
        "refit": lambda *_: None,
        "register": register,
        "check": lambda _, config, *__: [gate.limits(ROWS, config.gate, "fold_limits")],
    }
    with patch.multiple(promote, **fakes), patch.object(registry, "read_version"):
        return promote.promote(config)


def killed(config: PromoteConfig, sweep: str, source: Path, place: str, number: int) -> int | None:
    """The exit status of a process that runs it and is killed; of one that was not, what it ended with.

    A server that has imported everything forks each process: h3.promote takes seconds to import.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([promote.__name__])
    process = context.Process(target=_die, args=(config, sweep, source, place, number))
    process.start()
    process.join()
    return process.exitcode


def _die(config: PromoteConfig, sweep: str, source: Path, place: str, number: int) -> None:
    owner, name, argument = PLACES[place]
    real, calls = getattr(owner, name), []

    def killing(*arguments: object, **more: object) -> object:
        if argument is None or argument in arguments:
            calls.append(name)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **more)

    setattr(owner, name, killing)
    run(config, sweep, source)
