"""Sweeps in processes of their own that are stopped on the way, and what they leave in their store."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

RUNS = """SELECT name, status,
    (SELECT value FROM tags WHERE tags.run_uuid = runs.run_uuid AND key = 'h3.role') AS role,
    (SELECT value FROM tags WHERE tags.run_uuid = runs.run_uuid AND key = 'h3.error') AS error
    FROM runs ORDER BY start_time"""


def started(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    """`python -m h3.train ARGUMENTS` in a folder and in a process group of its own; what it prints goes to
    `printed` there.
    """
    with (folder / "printed").open("w") as printed:
        return subprocess.Popen(
            [sys.executable, "-m", "h3.train", *arguments],
            cwd=folder,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "MLFLOW_TRACKING_URI": "", **environment},
        )


def stopped_at(
    folder: Path, line: str, number: int, *arguments: str, after_s: float = 0.0
) -> tuple[int, str]:
    """The status of a sweep that gets a signal once it has printed a line, and all that it printed; SIGKILL
    goes to its workers too, as when the power is cut.
    """
    process = started(folder, *arguments)
    wait_for(folder, line, process)
    time.sleep(after_s)
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    process.wait(timeout=60)
    return process.returncode, printed(folder)


def wait_for(folder: Path, line: str, process: subprocess.Popen) -> None:
    """Return once a line begins with `line`, or the process has ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None and not any(each.startswith(line) for each in printed(folder).splitlines()):
        assert time.monotonic() < deadline, f"{line!r} was not printed in two minutes: {printed(folder)}"
        time.sleep(0.02)


def printed(folder: Path) -> str:
    """What the sweep has printed so far."""
    return (folder / "printed").read_text()


def runs(folder: Path, store: str = "mlruns/mlflow.db") -> list[dict[str, str]]:
    """Name, status, role and reason of every run in the store, oldest first."""
    with sqlite3.connect(folder / store) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(RUNS)]


def results(folder: Path) -> dict[str, dict]:
    """Fold → the newest result.json of the folder's sweeps, without the run's id and times."""
    found = sorted(folder.glob("multirun/*/*/*/result.json"), key=lambda path: path.parts)
    contents = [json.loads(path.read_text()) for path in found]
    for content in contents:
        del content["mlflow_run_id"], content["seconds"]
    return {content["fold"]: content for content in contents}
