"""Kill sweeps, tuning, promotions and calibrations at random moments, go on with each, and hold what they
leave against commands that nobody killed.

    python scripts/kill_sweeps.py --kills 50 --seed 0

A line a kill and a summary; status 1 if a number differs by more than 1e-9, a run is there twice or still
RUNNING, or files are left over. Every kill is SIGKILL to the whole process group, as when the power is cut,
at a moment drawn evenly over the time that the command takes. Some kills come in the middle of going on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STORED = ("debug=quick", "tune.storage=mlruns/tune")
SWEEP = ("train", "-m", "fold=lowo_general,lowo_codegen,lomo_mixtral", *STORED)
TUNING = ("train", "-m", "fold=lowo_general", *STORED, "tune.trials=12")
PROMOTE = (
    *("promote", "winner.folds=[lowo_general,lowo_codegen,lomo_mixtral]", "gate.max_fold_mape=90"),
    *("gate.max_moe_fold_mape=90", "gate.architectures=20"),
)
CALIBRATE = ("calibrate", "source=h100", "bundle=shipped", "requests=200", "out=dist/calibrated")
RUNS = """SELECT name, status,
    (SELECT value FROM tags WHERE tags.run_uuid = runs.run_uuid AND key = 'h3.role') FROM runs"""


@dataclass(frozen=True)
class Job:
    """A command, how it is gone on with, what it needs in its folder first, and what it leaves."""

    name: str
    command: tuple[str, ...]
    again: tuple[str, ...]
    needs: tuple[str, ...]
    left: Callable[[Path], Any]


def results(folder: Path) -> dict[str, dict[str, float]]:
    """Fold → the numbers of its newest result.json."""
    found = sorted(folder.glob("multirun/*/*/*/result.json"), key=lambda path: path.parts)
    contents = [json.loads(path.read_text()) for path in found]
    return {
        each["fold"]: {name: value for name, value in each.items() if isinstance(value, float | int | str)}
        | {"mlflow_run_id": ""}
        for each in contents
    }


def bundle_at(place: str) -> Callable[[Path], str]:
    """What reads the digest of the bundle at a place, verified; "" where there is none."""

    def read(folder: Path) -> str:
        if not (folder / place).is_dir():
            return ""
        run(folder, ("export", f"verify={place}"))
        return (folder / place / "manifest.sha256").read_text()

    return read


def command(arguments: tuple[str, ...]) -> list[str]:
    """The words of `python -m h3.VERB ...`."""
    return [sys.executable, "-m", f"h3.{arguments[0]}", *arguments[1:]]


def run(folder: Path, arguments: tuple[str, ...]) -> float:
    """Run to the end; the seconds that it took. Raises RuntimeError for a status that is not 0."""
    start = time.monotonic()
    done = subprocess.run(
        command(arguments), cwd=folder, capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)}: status {done.returncode}: {done.stderr[-2000:]}")
    return time.monotonic() - start


def kill(folder: Path, arguments: tuple[str, ...], after_s: float) -> bool:
    """Whether the command was still running when it was killed after so many seconds."""
    with (folder / "printed").open("w") as printed:
        process = subprocess.Popen(
            command(arguments),
            cwd=folder,
            stdout=printed,
            stderr=printed,
            start_new_session=True,
            env=ENVIRONMENT,
        )
    try:
        process.wait(after_s)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


ENVIRONMENT = {**os.environ, "MLFLOW_TRACKING_URI": ""}


def wrong(folder: Path, job: Job, expected: Any) -> Iterator[str]:
    """What is not as a command leaves it that nobody killed."""
    found = job.left(folder)
    if not same(found, expected):
        yield f"other results: {found} instead of {expected}"
    names = []
    if (folder / "mlruns" / "mlflow.db").is_file():
        with closing(sqlite3.connect(folder / "mlruns" / "mlflow.db")) as database:
            for name, status, role in database.execute(RUNS):
                names += [name] if role == "fold" else []
                if status == "RUNNING":
                    yield f"run {name} is RUNNING"
    if len(names) != len(set(names)):
        yield f"a run twice: {sorted(names)}"
    for path in (folder / "mlruns").glob("unsent/*"):
        yield f"left over: {path.name}"


def same(found: Any, expected: Any) -> bool:
    """Equal, numbers to 1e-9."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and set(found) == set(expected)
            and all(same(found[key], expected[key]) for key in expected)
        )
    if isinstance(expected, float):
        return isinstance(found, float | int) and abs(found - expected) <= 1e-9
    return bool(found == expected)


JOBS = (
    Job("sweep", SWEEP, (*SWEEP, "resume=true"), (), results),
    Job("tuning", TUNING, (*TUNING, "resume=true"), (), results),
    Job("promotion", PROMOTE, PROMOTE, SWEEP, lambda folder: bool(bundle_at("dist/blis")(folder))),
    Job("calibration", CALIBRATE, CALIBRATE, (), bundle_at("dist/calibrated")),
)


def prepared(root: Path, job: Job) -> Path:
    """A folder with what the job needs."""
    folder = root / f"before_{job.name}"
    folder.mkdir()
    if job.needs:
        run(folder, job.needs)
    return folder


def killed_twice(
    root: Path, job: Job, before: Path, took_s: float, draw: random.Random, number: int
) -> list[str]:
    """Kill a job once or twice, go on, and say what is wrong."""
    folder = root / f"{job.name}_{number}"
    shutil.copytree(before, folder)
    if (folder / "mlruns").is_dir():
        move_store(folder, before)
    moment = draw.uniform(0.1, took_s)
    hit = kill(folder, job.command, moment)
    said = f"{job.name} killed at {moment:.1f} of {took_s:.1f} s" if hit else f"{job.name} was faster"
    if hit and draw.random() < 0.25:
        second = draw.uniform(0.1, took_s)
        said += f", again at {second:.1f} s" if kill(folder, job.again, second) else ""
    run(folder, job.again)
    found = list(wrong(folder, job, EXPECTED[job.name]))
    print(f"{number:3d} {said}: {'; '.join(found) or 'as if nobody had'}", flush=True)
    shutil.rmtree(folder)
    return found


def move_store(folder: Path, before: Path) -> None:
    """Let the copied store's artifacts be those of the copy: it knows them by their path."""
    with closing(sqlite3.connect(folder / "mlruns" / "mlflow.db")) as database:
        old, new = str(before), str(folder)
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("logged_models", "artifact_location"),
        ):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (old, new))
        database.commit()


EXPECTED: dict[str, Any] = {}


def main() -> None:
    """Measure each job once, then kill."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, failures = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory(prefix="h3-kills-") as scratch:
        root = Path(scratch)
        before = {job.name: prepared(root, job) for job in JOBS}
        took = {}
        for job in JOBS:
            folder = root / f"whole_{job.name}"
            shutil.copytree(before[job.name], folder)
            if (folder / "mlruns").is_dir():
                move_store(folder, before[job.name])
            took[job.name] = run(folder, job.command)
            EXPECTED[job.name] = job.left(folder)
        for number in range(options.kills):
            job = JOBS[number % len(JOBS)]
            failures += bool(killed_twice(root, job, before[job.name], took[job.name], draw, number))
    print(f"{options.kills} kills, {failures} left something wrong")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
