"""Whose run it is: the process that computes it, and whether that process is still there.

    tags = owner.tags()                         # when a run is opened
    owner.gone(run.data.tags)                   # "process 4711 on node3 is gone", "" while it lives

A process of this machine is asked for; one of another machine is believed to live while its runs say so
(`pulse`).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

OWNER_TAG, ALIVE_TAG = "h3.process", "h3.alive"
PULSE_S, DEAD_AFTER_S = 60.0, 900.0
START_TOLERANCE_S = 1.0  # psutil derives the start from the boot time, which clocks adjust


def tags() -> dict[str, str]:
    """The tags of a run that this process computes."""
    started = psutil.Process().create_time()
    return {OWNER_TAG: f"{_host()}:{os.getpid()}:{started:.2f}", ALIVE_TAG: f"{time.time():.0f}"}


def gone(found: Mapping[str, str]) -> str:
    """In words, that the process of a run with these tags is gone; "" if it lives or nothing is known."""
    host, _, rest = found.get(OWNER_TAG, "").rpartition(":")[0].rpartition(":")
    if not host:
        return ""
    number, started = int(rest), float(found[OWNER_TAG].rpartition(":")[2])
    if host != _host():
        silent = time.time() - float(found.get(ALIVE_TAG, "0"))
        return f"process {number} on {host} has not been heard of for {silent:.0f} s" * (
            silent > DEAD_AFTER_S
        )
    return "" if _lives(number, started) else f"process {number} on {host} is gone"


def _lives(number: int, started: float) -> bool:
    try:
        process = psutil.Process(number)
        same = abs(process.create_time() - started) < START_TOLERANCE_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


@cache
def _host() -> str:
    return socket.gethostname() or "unknown"


@contextmanager
def pulse(client: MlflowClient, uri: str, run_id: str) -> Iterator[None]:
    """Let a run say that it lives while the block runs; needless where only this machine can ask."""
    if uri.startswith("sqlite:"):
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(client, run_id, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()


def _beat(client: MlflowClient, run_id: str, stop: threading.Event) -> None:
    while not stop.wait(PULSE_S):
        with suppress(Exception):  # a lost server is found by who has something to say
            client.set_tag(run_id, ALIVE_TAG, f"{time.time():.0f}")
