"""What a run is doing, how far it is and how long it will take: one updating line on a terminal, plain lines
elsewhere.

>>> say = Progress("lomo_mixtral", sys.stdout)
>>> say("tune", 5, 20)          # after a second also: ", 12 s, about 36 s left"
[lomo_mixtral] tune 5/20
"""

from __future__ import annotations

import sys
import time
from typing import TextIO

PLAIN_EVERY_S = 10.0


class Progress:
    """Reports for one run; stages are timed in `seconds`."""

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        self.name, self.stream = name, stream or sys.stderr
        self.seconds: dict[str, float] = {}
        self._stage, self._start, self._printed = "", time.monotonic(), 0.0

    def __call__(self, stage: str, done: int = 0, total: int = 0, detail: str = "") -> None:
        """Report `done` of `total` of a stage; a new stage ends and times the one before."""
        if stage != self._stage:
            self.finish()
            self._stage, self._start, self._printed = stage, time.monotonic(), 0.0
        elapsed = time.monotonic() - self._start
        text = f"[{self.name}] {stage}"
        if total:
            text += f" {done}/{total}"
            if 0 < done < total and elapsed > 1:
                text += f", {elapsed:.0f} s, about {elapsed / done * (total - done):.0f} s left"
        self._write(text + (f" {detail}" if detail else ""), done == 0 or done == total)

    def _write(self, text: str, important: bool) -> None:
        now = time.monotonic()
        if self.stream.isatty():
            self.stream.write(f"\r\x1b[2K{text[:118]}")
        elif important or now - self._printed >= PLAIN_EVERY_S:
            self.stream.write(text + "\n")
            self._printed = now
        self.stream.flush()

    def note(self, text: str) -> None:
        """A line that stays, whatever the stage."""
        print(f"[{self.name}] {text}", file=self.stream)

    def finish(self) -> None:
        """End the current stage and remember its seconds."""
        if self._stage:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + time.monotonic() - self._start
            if self.stream.isatty():
                self.stream.write("\r\x1b[2K")
        self._stage = ""
