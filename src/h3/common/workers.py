"""Processes beside this one that do the same work, and end with it.

    with beside(3, work, argument):             # three more processes are at work(argument)
        work(argument)

For work that is shared through files or a database: nothing comes back, and one that dies is not missed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

from h3.common.errors import InputError


@contextmanager
def beside(count: int, work: Callable[..., object], *arguments: Any) -> Iterator[None]:
    """Let `count` more processes do `work(*arguments)` while the block runs; they are ended with it."""
    context = get_context("spawn")  # a forked process may not use OpenMP again
    processes = [context.Process(target=_work, args=(work, arguments), daemon=True) for _ in range(count)]
    # A start waits until the process has read its arguments.
    starts = [Thread(target=process.start) for process in processes]
    for start in starts:
        start.start()
    try:
        yield
    finally:
        for start, process in zip(starts, processes, strict=True):
            start.join()
            process.terminate()
        for process in processes:
            process.join()


def _work(work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's to answer
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(*arguments)
    except (InputError, OSError):
        sys.exit(2)  # the first process meets the same, and says so


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
