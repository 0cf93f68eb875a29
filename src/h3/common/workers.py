"""Processes beside this one that do the same work, and end with it.

    with beside(3, work, argument):             # three more processes are at work(argument)
        work(argument)

For work that is shared through files or a database: nothing comes back, and one that dies is not missed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

from joblib.externals.loky import ProcessPoolExecutor

from h3.common.errors import InputError

LOOK_S = 1.0


@contextmanager
def beside(count: int, work: Callable[..., object], *arguments: Any) -> Iterator[None]:
    """Let `count` more processes do `work(*arguments)` while the block runs. It ends when they are done too;
    where it raises they are killed.
    """
    # Starts without importing the main module, and also in a process that is a job of a launcher.
    executor = ProcessPoolExecutor(max_workers=count)
    jobs = [executor.submit(_work, os.getpid(), work, arguments) for _ in range(count)]
    try:
        yield
        for job in jobs:
            with suppress(BrokenExecutor):  # one was killed
                job.result()
    finally:
        executor.shutdown(kill_workers=True)


def _work(parent: int, work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's to answer
    Thread(target=_end_with, args=(parent,), daemon=True).start()
    with suppress(InputError, OSError):  # the first process meets the same, and says so
        work(*arguments)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os._exit(1)
