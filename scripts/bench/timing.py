"""Times that can be compared: actions take turns, the least CPU time of each counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

CHUNK_BYTES = 1 << 20


def least_cpu_s(actions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The least CPU seconds (of this process, all threads) of each action over the repeats."""
    seconds = dict.fromkeys(actions, float("inf"))
    for _ in range(repeats):
        for name, action in actions.items():
            began = time.process_time()
            action()
            seconds[name] = min(seconds[name], time.process_time() - began)
    return seconds


def read_bytes(path: Path) -> None:
    """Every byte of a file once, nothing kept."""
    with path.open("rb", buffering=0) as file:
        while file.read(CHUNK_BYTES):
            pass
