"""One worker of a shared search, as a process of its own: `python tuning_process.py OPTIONS OUT [PAUSE_AT]`.

OPTIONS: tune settings as JSON. OUT: the trials, parameters and note that came out, and how many trials this
process made. PAUSE_AT: within its own trial of that number (from 0) it writes its "pid" to OUT and waits to
be killed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from builders import Steps

from h3.common import files
from h3.common.config import TuneConfig
from h3.evaluation import tune
from h3.models import physical_base, xgboost_residual
from h3.models.protocol import Context
from h3.steps import physics

MODELS = ("llama-2-7b", "codellama-34b", "mixtral-8x7b-v0-1", "llama-2-70b")
SLOW_S = 0.1  # before each of the four fits of a trial, so that workers meet


def served_us(rows):
    """A server whose large batches are slower than physics says, the same way for every model."""
    terms = physics.terms_us(rows)
    base = sum(terms[name].to_numpy() * prior for name, (prior, _) in physical_base.PRIOR.items())
    return base * np.where(rows["num_decode_reqs"] > 60, 1.3, 0.8)


def table():
    """Steps of four models, two workloads each."""
    built = Steps(11)
    for model in MODELS:
        for workload in ("general", "codegen"):
            built.run(model, 60, workload=workload)
    return built.timed(served_us, 0.02).table()


def slow(pause_at: int | None, out: Path):
    """The learning curve of a longer search; in this process's trial `pause_at` it stops to be killed."""
    calls: list[int] = []

    def curve(*arguments):
        whole = xgboost_residual.learning_curve(*arguments)

        def fitted(params):
            calls.append(1)
            if pause_at is not None and len(calls) == pause_at * len(MODELS) + 2:
                files.write_text(out, json.dumps({"pid": os.getpid()}))
                time.sleep(600)
            time.sleep(SLOW_S)
            return whole(params)

        return fitted

    return replace(xgboost_residual.TUNED, learning_curve=curve)


def main(options: str, out: str, pause_at: str = "") -> None:
    """Search, and write what was found."""
    made: list[int] = []
    asked = json.loads(options)
    tuned = xgboost_residual.TUNED  # which other processes of this one can import
    if asked.get("workers", 1) == 1:
        tuned = slow(int(pause_at) if pause_at else None, Path(out))
    found = tune.search(table(), Context(), TuneConfig(**asked), tuned, lambda done, total: made.append(done))
    told = {"trials": found.trials.to_json(double_precision=15), "params": asdict(found.params)}
    files.write_text(Path(out), json.dumps({**told, "note": found.note, "made": len(made)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
