"""What was measured, as JSON lines that survive a cut: appended, flushed to the disk, and continued by key.

    log = Log("out/steps.jsonl", done=["earlier.jsonl"])
    log.add("step", key=step.key, device_us=10_250.0)
    step.key in log.done                              # also after the process was killed and started anew

Kinds of lines: "session" (card, versions, ceilings), "step" (a time), "skipped" (why there is none).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from h3.common.errors import InputError


class Log:
    """An open file of results, and the keys of all steps that it and earlier files hold."""

    def __init__(self, path: str | Path, done: Iterable[str | Path] = ()) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.done = {line["key"] for other in done for line in read(other) if "key" in line}
        if path.exists():
            mend(path)
            self.done |= {line["key"] for line in read(path) if "key" in line}
        self.file = path.open("a")

    def add(self, kind: str, **fields: object) -> None:
        """Append one line; it is on the disk when this returns."""
        self.file.write(json.dumps({"kind": kind, **fields}, separators=(",", ":")) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        if "key" in fields:
            self.done.add(str(fields["key"]))

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def mend(path: Path) -> None:
    """Cut a last line that was not written to its end."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))


def read(path: str | Path) -> list[dict]:
    """All whole lines of a file; a torn last line is left out. Raises InputError for any other line that is
    not JSON.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected results of measure_steps.py run") from None
    lines = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            raise InputError(
                f"{path}: line {number} is not JSON; expected results of measure_steps.py run"
            ) from None
        if not isinstance(entry, dict) or entry.get("kind") not in ("session", "step", "skipped"):
            raise InputError(
                f"{path}: line {number} has no kind of result; expected session, step or skipped"
            )
        lines.append(entry)
    return lines
