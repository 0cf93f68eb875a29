"""Ctrl-C and SIGTERM: a process that is asked to stop says why, closes what it has open, and ends.

interrupts.listen()                         # once, at the start of a command
interrupts.reason(error)                    # "Ctrl-C", "SIGTERM", or "" for an error that comes of neither
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

STATUS = {"Ctrl-C": 130, "SIGTERM": 143}
_asked: list[str] = []


def listen() -> None:
    """Turn SIGINT and SIGTERM into KeyboardInterrupt and SystemExit(143), and remember which it was."""
    signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGTERM, _terminated)


def asked() -> str:
    """What asked this process to stop: "Ctrl-C", "SIGTERM", or "" while nothing has."""
    return _asked[0] if _asked else ""


def check() -> None:
    """End the process if it was asked to stop and something on the way swallowed that."""
    if _asked:
        sys.exit(STATUS[_asked[0]])


def reason(error: BaseException) -> str:
    """What asked to stop, if that is what an exception stands for or comes of; "" for any other."""
    if isinstance(error, KeyboardInterrupt):
        return asked() or "Ctrl-C"
    stops = isinstance(error, SystemExit) and error.code in STATUS.values()
    return asked() or ("SIGTERM" if stops else "")


def _interrupted(number: int, frame: FrameType | None) -> None:
    _asked.append("Ctrl-C")
    raise KeyboardInterrupt


def _terminated(number: int, frame: FrameType | None) -> None:
    _asked.append("SIGTERM")
    sys.exit(STATUS["SIGTERM"])
