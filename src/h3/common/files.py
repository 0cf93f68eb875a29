"""Files that are whole or not there, and locks between processes.

    write_text(Path("result.json"), text)
    with lock(Path("mlruns/promote.lock")):
        ...

A process that dies lets go of its locks.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """Make a file whole or not at all: `fill` writes a file beside it, which then takes its place; folders
    above it are made.

    Raises OSError if it cannot be written; what was there before is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        fill(scratch)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, UTF-8."""
    write(path, lambda scratch: scratch.write_text(text, encoding="utf-8"))


@contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock file while the block runs; a process that dies lets go of it.

    wait: False raises BlockingIOError at once if another process holds it. Raises OSError if there can be no
    such file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # FileLock waits for ever where the file cannot be made; a link is not followed.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))
        with FileLock(path, timeout=-1 if wait else 0):
            yield
    except Timeout:
        raise BlockingIOError(f"{path} is held by another process") from None
