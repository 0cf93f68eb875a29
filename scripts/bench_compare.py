"""How long does `python -m h3.compare` take on a large sweep?

    python scripts/bench_compare.py                                  # 200 runs: 25 predictors on the eight
    folds python scripts/bench_compare.py --runs 80 --steps 30688 --keep DIR

Writes a tracking store of finished runs (predictions of the size of the built-in data, SHAP rankings,
replays, random errors), then compares it in a process of its own. Printed: seconds, seconds a run, CPU
seconds (on a busy machine the first two tell little) and the target of 20 s for 200 runs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from h3.evaluation import explain
from h3.evaluation import one_fold as evaluate
from h3.models import zoo as registry
from h3.tracking import store as track
from h3.verdict import hypothesis as verdict

TARGET_S, TARGET_RUNS = 20.0, 200
PER_FOLD = 4  # experiments that a fold of the built-in data holds out
FEATURES = 20
PHASES = np.array(["decode", "mixed", "prefill"])


def steps(fold: verdict.Expected, rows: int) -> pd.DataFrame:
    """The held-out steps of a fold as evaluate.predict leaves them, without a prediction: random, the same
    for every predictor.
    """
    rng = np.random.default_rng([0, verdict.NAMES.index(fold.fold)])
    experiment = np.sort(np.arange(rows) % PER_FOLD)
    names = np.array(
        [f"2026010{number}-000000-{fold.holdout}-tp1-part{number}" for number in range(PER_FOLD)]
    )
    decode = rng.integers(0, 129, rows).astype(float)
    observed_us = rng.uniform(8e3, 4e4, rows)
    return pd.DataFrame(
        {
            "experiment": names[experiment],
            "model": fold.holdout,
            "workload": "general",
            "log": "simulated",
            "clock": 0,
            "step_id": np.arange(rows),
            "start_us": 2e5 * np.arange(rows),
            "num_prefill_reqs": rng.integers(0, 3, rows).astype(float),
            "num_decode_reqs": decode,
            "prefill_tokens": rng.integers(0, 2000, rows).astype(float),
            "decode_tokens": decode,
            "decode_kv_tokens_sum": decode * rng.integers(100, 2000, rows),
            "observed_us": observed_us,
            "base_us": observed_us * rng.lognormal(0, 0.05, rows),
            "phase": PHASES[rng.choice(3, rows, p=[0.7, 0.25, 0.05])],
        }
    )


def predicted(table: pd.DataFrame, error_percent: float, seed: int) -> pd.DataFrame:
    """The steps with predictions that are off by about so much."""
    rng = np.random.default_rng([1, seed])
    predicted_us = table["observed_us"] * (1 + error_percent / 100) * rng.lognormal(0, 0.03, len(table))
    return table.assign(predicted_us=predicted_us, ape=100 * (predicted_us / table["observed_us"] - 1).abs())


def ranking(seed: int) -> pd.DataFrame:
    """A SHAP ranking of FEATURES features."""
    values = np.random.default_rng([2, seed]).exponential(size=(5, FEATURES)) / np.arange(1, FEATURES + 1)
    return explain.ranking(pd.DataFrame(values, columns=[f"feature_{number}" for number in range(FEATURES)]))


def replayed(table: pd.DataFrame, seed: int) -> dict:
    """A replay of each experiment, as result.json holds it."""
    rng = np.random.default_rng([3, seed])
    names = [f"{time_of}_mean_error" for time_of in ("e2e", "ttft", "itl")]
    entries = [
        {
            "experiment": name,
            **dict(zip(names, rng.normal(0, 5, 3).tolist(), strict=True)),
            "saturated": bool(rng.random() < 0.2),
        }
        for name in table["experiment"].unique()
    ]
    return {"experiments": entries, "failed": []}


def fill(store: track.Store, runs: int, rows: int) -> str:
    """A sweep of so many finished runs, predictor after predictor on the eight folds; the id of its parent
    run.
    """
    parent = store.start_parent(
        "sweep", {"overrides": "fold=glob([lomo_*,lowo_*]) model=glob(*)", "source": "simulated"}
    )
    tables = {fold.fold: steps(fold, rows) for fold in verdict.EXPECTED}
    known = list(registry.PREDICTORS)
    for number in range(runs):
        fold, order = verdict.EXPECTED[number % len(verdict.EXPECTED)], number // len(verdict.EXPECTED)
        model = known[order] if order < len(known) else f"rival_{order}"
        name = f"{fold.fold}-{model}"
        tags = {track.PARENT_TAG: parent, "h3.role": "fold", "git_commit": "bench"}
        info = store.client.create_run(store.experiment_id, run_name=name, tags=tags).info
        folder = Path(info.artifact_uri.removeprefix("file://"))
        folder.mkdir(parents=True)
        frame = predicted(tables[fold.fold], 5 + order, number)
        frame.to_parquet(folder / "predictions.parquet")
        if order < 5:
            ranking(number).to_parquet(folder / "shap_ranking.parquet")
        result = {
            "fold": fold.fold,
            "kind": fold.kind,
            "holdout": fold.holdout,
            "source": "simulated",
            "model": model,
            "seed": 0,
            "ablation": "none",
            "target": "period_us",
            "data_digest": "bench",
            "n_train": 3 * rows,
            "mape_train": 4.0,
            "tuning": "off",
            "left_out": [],
            "assumptions": {},
            "sees_held_out": False,
            **evaluate.summarise(frame, 0),
            "replay": replayed(frame, number),
        }
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "versions.json").write_text('{"h3": "bench"}')
        store.client.set_terminated(info.run_id, "FINISHED")
    store.client.set_terminated(parent, "FINISHED")
    return parent


def main() -> None:
    """Build the store, compare it, print the time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=TARGET_RUNS)
    parser.add_argument(
        "--steps", type=int, default=30_688, help="held-out steps a fold (default: as the built-in data)"
    )
    parser.add_argument(
        "--keep", type=Path, help="folder for the store and the report; default: a temporary one"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="h3-bench-") as scratch:
        folder = (options.keep or Path(scratch)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        start = time.perf_counter()
        parent = fill(track.open_store(uri, "h3"), options.runs, options.steps)
        print(
            f"store of {options.runs} runs, {options.steps:,} steps each:"
            f" {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        start = time.perf_counter()
        command = [sys.executable, "-m", "h3.compare", f"sweep={parent}", "out=compare"]
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "MLFLOW_TRACKING_URI": uri}
        )
        seconds = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"compare: {seconds:.1f} s, {1e3 * seconds / options.runs:.0f} ms a run,"
            f" {used.ru_utime + used.ru_stime:.1f} s of CPU (target: {TARGET_S:g} s for {TARGET_RUNS} runs)"
        )


if __name__ == "__main__":
    main()
