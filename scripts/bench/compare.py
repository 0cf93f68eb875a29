"""`python -m h3.compare` on a sweep of many runs, against merely reading their predictions."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from bench import tracked_sweep
from bench.figures import Figure
from h3.tracking.store import open_store

RUNS, STEPS = 200, 30_688  # 25 predictors on the eight folds; held-out steps a fold, as the built-in data
TARGET_S = 20.0


def measure(tiny: bool) -> Iterator[Figure]:
    """Wall seconds of the command in a process of its own."""
    runs, steps = (16, 400) if tiny else (RUNS, STEPS)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        uri = f"sqlite:///{scratch}/mlflow.db"
        parent = tracked_sweep.fill(open_store(uri, "h3"), runs, steps)
        kept = list(Path(scratch).rglob("predictions.parquet"))
        bare_s = _seconds(lambda: [pd.read_parquet(path) for path in kept])
        command = [sys.executable, "-m", "h3.compare", f"sweep={parent}", "out=compare"]
        environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
        whole_s = _seconds(
            lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        )
    yield Figure(
        "compare", f"{runs} runs of {steps:,} steps", whole_s, "s", target=None if tiny else TARGET_S
    )
    yield Figure("compare", "wall time / reading the predictions", whole_s / bare_s, "x")


def _seconds(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
