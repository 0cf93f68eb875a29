"""Sweeps written into a store, a run a fold and predictor with steps of known error.

    parent = Sweeps(tmp_path).sweep(errors={OURS: 5.0, RIVAL: 8.0})

Runs keep what a trained fold keeps for a comparison, through the same functions.
"""

import contextlib
import functools
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from h3.common import strict_json
from h3.common.config import TrackingConfig, fold, study
from h3.common.errors import InputError
from h3.compare import CompareConfig, compare
from h3.evaluation.one_fold import summarise
from h3.evaluation.result import FoldResult
from h3.tracking import send
from h3.tracking.record import Record
from h3.tracking.store import open_store

FOLDS = [fold(name) for name in study().folds]
OURS, RIVAL, INSIDE = "xgboost_residual", "roofline_layers", "ridge_per_experiment"
ALONE = "xgboost_scale_free"
STEPS = 120


@functools.cache
def empty_store():
    """A migrated store to copy: making one takes seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        open_store(f"sqlite:///{path}", "other")
        return path.read_bytes()


def predictions(error, base=0.0, seed=0):
    """Steps of two experiments, off by the error in % and a little noise that is the same for every
    predictor; base: error of the physical base, %.
    """
    rng = np.random.default_rng(seed)
    observed = rng.uniform(5e3, 4e4, STEPS)
    frame = pd.DataFrame(
        {
            "experiment": np.repeat(["one", "two"], STEPS // 2),
            "model": "m",
            "workload": "w",
            "log": "l",
            "clock": 0,
            "step_id": np.arange(STEPS),
            "start_us": 0.0,
            "num_prefill_reqs": 0.0,
            "num_decode_reqs": 16.0,
            "prefill_tokens": 0.0,
            "decode_tokens": 16.0,
            "decode_kv_tokens_sum": 4000.0,
            "observed_us": observed,
            "base_us": observed * (1 + base / 100),
            "phase": "decode",
        }
    )
    frame["predicted_us"] = observed * (1 + error / 100 + rng.normal(0, 0.002, STEPS))
    return frame.assign(ape=100 * (frame["predicted_us"] / observed - 1).abs())


class Sweeps:
    """A store of its own, and sweeps written into it."""

    def __init__(self, folder):
        self.folder = folder
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        (folder / "mlflow.db").write_bytes(empty_store())
        self.store = open_store(self.uri, "h3")

    def parent(self, overrides):
        return self.store.start_parent("sweep", {"overrides": overrides, "source": "simulated"})

    def sweep(
        self,
        overrides="fold=glob([lomo_*,lowo_*]) model=glob(*)",
        folds=FOLDS,
        digest="d1",
        errors=None,
        failed=(),
    ):
        """A sweep's id, with a run a fold and predictor; errors: predictor → %; failed: (fold, predictor)."""
        parent = self.parent(overrides)
        for each in folds:
            for model, error in (errors or {OURS: 5.0, RIVAL: 8.0}).items():
                self.run(parent, each, model, None if (each.name, model) in failed else error, digest)
        self.store.client.set_terminated(parent, "FINISHED")
        time.sleep(0.002)  # sweeps are ordered by their start, in milliseconds
        return parent

    def run(self, parent, of, model, error, digest="d1", without=(), base=0.0, **changed):
        """One run's id; with no error it failed before it had a result; without: what its result lacks."""
        fails = contextlib.suppress(InputError) if error is None else contextlib.nullcontext()
        with fails, self.store.fold_run(parent, f"{of.name}-{model}") as run_id:
            if error is None:
                raise InputError("it broke")
            frame = predictions(error, base)
            known = {
                "fold": of.name,
                "kind": of.kind,
                "holdout": of.holdout,
                "source": "simulated",
                "model": model,
                "data_digest": digest,
                "n_train": 1000,
                "mape_train": 1.0,
                "tuning": "off",
            }
            result = FoldResult(**(dict(summarise(frame, 0)) | known | changed))
            record = Record(self.folder / "records" / run_id)
            record.frame(frame, "predictions.parquet")
            record.json({"h3": "0.1"}, "versions.json")
            sent = send.fold(self.store, run_id, record.seal(result))
            content = {name: value for name, value in sent.recorded().items() if name not in without}
            self.store.client.log_text(run_id, strict_json.dumps(content), "result.json")
        return run_id

    def compare(self, **options):
        """Compare into the store's folder."""
        config = {"out": str(self.folder / "out"), "tracking": TrackingConfig(uri=self.uri)} | options
        return compare(CompareConfig(**(study().model_dump() | config)))

    def written(self, name):
        """A file that the comparison has written."""
        return (self.folder / "out" / name).read_text()
