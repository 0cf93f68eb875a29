"""A tracking store with a finished sweep of any size: random errors, predictions of the size of the built-in
data, SHAP rankings, replays."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from h3.common.config import Fold, fold, study
from h3.evaluation import explain
from h3.evaluation.one_fold import summarise
from h3.evaluation.replay_result import ReplayedRun, ReplayResult
from h3.evaluation.result import FoldResult
from h3.models import zoo
from h3.tracking import send
from h3.tracking.record import Record
from h3.tracking.store import Store

PER_FOLD = 4  # experiments that a fold of the built-in data holds out
FEATURES = 20
PHASES = np.array(["decode", "mixed", "prefill"])
FOLDS = [fold(name) for name in study().folds]


def steps(of: Fold, rows: int) -> pd.DataFrame:
    """The held-out steps of a fold, without a prediction: random, the same for every predictor."""
    rng = np.random.default_rng([0, FOLDS.index(of)])
    experiment = np.sort(np.arange(rows) % PER_FOLD)
    names = np.array([f"2026010{number}-000000-{of.holdout}-tp1-part{number}" for number in range(PER_FOLD)])
    decode = rng.integers(0, 129, rows).astype(float)
    observed_us = rng.uniform(8e3, 4e4, rows)
    return pd.DataFrame(
        {
            "experiment": names[experiment],
            "model": of.holdout,
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


def replayed(table: pd.DataFrame, seed: int) -> ReplayResult:
    """A replay of each experiment."""
    rng = np.random.default_rng([3, seed])
    runs = []
    for name in table["experiment"].unique():
        e2e, ttft, itl = rng.normal(0, 5, 3).tolist()
        errors = {"e2e_mean_error": e2e, "ttft_mean_error": ttft, "itl_mean_error": itl}
        runs.append(ReplayedRun(experiment=name, saturated=bool(rng.random() < 0.2), **errors))
    return ReplayResult(experiments=tuple(runs))


def result(frame: pd.DataFrame, of: Fold, model: str, seed: int) -> FoldResult:
    """What a run on those predictions says about itself."""
    return FoldResult(
        **dict(summarise(frame, 0)),
        fold=of.name,
        kind=of.kind,
        holdout=of.held_out(()),
        source="simulated",
        model=model,
        data_digest="bench",
        n_train=3 * len(frame),
        mape_train=4.0,
        tuning="off",
        replay=replayed(frame, seed),
    )


def fill(store: Store, runs: int, rows: int) -> str:
    """A sweep of so many finished runs, predictor after predictor on the study's folds; its run id."""
    overrides = "fold=glob([lomo_*,lowo_*]) model=glob(*)"
    parent = store.start_parent("sweep", {"overrides": overrides, "source": "simulated"})
    tables = [steps(of, rows) for of in FOLDS]
    known = list(zoo.PREDICTORS)
    for number in range(runs):
        order, place = divmod(number, len(FOLDS))
        model = known[order] if order < len(known) else f"rival_{order}"
        frame = predicted(tables[place], 5 + order, number)
        with (
            tempfile.TemporaryDirectory() as folder,
            store.fold_run(parent, f"{FOLDS[place].name}-{model}") as run_id,
        ):
            record = Record(Path(folder))
            record.frame(frame, "predictions.parquet")
            if order < 5:
                record.frame(ranking(number), "shap_ranking.parquet")
            record.json({"h3": "bench"}, "versions.json")
            send.fold(store, run_id, record.seal(result(frame, FOLDS[place], model, number)))
    store.client.set_terminated(parent, "FINISHED")
    return parent
