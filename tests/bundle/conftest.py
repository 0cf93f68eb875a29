"""A fit with trees, and bundles to read and to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import builders
import numpy as np
import pandas as pd
import pytest

from h3 import bundle
from h3.models.protocol import Context
from h3.models.residual import FittedResidual
from h3.models.xgboost_residual import Params, XGBoostResidual


def truth_us(table: pd.DataFrame) -> np.ndarray:
    """A period with something for trees to find."""
    new, decodes = table["prefill_tokens"].to_numpy(), table["num_decode_reqs"].to_numpy()
    return 5000 + 30 * decodes + 4 * new * (new > 200)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The committed bundle, which no test changes."""
    return Path(__file__).parents[2] / "go" / "h3bundle" / "testdata" / "bundle"


@pytest.fixture(scope="session")
def provenance() -> dict:
    return {"data_digest": "d" * 32, "commit": "c" * 40, "folds": [{"fold": "lomo_mixtral", "mape": 5.0}]}


@pytest.fixture(scope="session")
def steps() -> pd.DataFrame:
    made = builders.Steps(seed=1)
    for model in ("llama-2-7b", "llama-2-70b", "mixtral-8x7b-v0-1"):
        made.run(model, rows=200)
    return made.timed(truth_us).table()


@pytest.fixture(scope="session")
def fitted(steps) -> FittedResidual:
    return XGBoostResidual(Params(n_estimators=8, min_child_weight=0.0)).fit(steps, Context(group="workload"))


@pytest.fixture(scope="session")
def both(fitted) -> dict[str, FittedResidual]:
    """One fit for both routes."""
    return {"dense": fitted, "moe": fitted}


@pytest.fixture(scope="session")
def two(steps, fitted) -> dict[str, FittedResidual]:
    """A fit for each route."""
    dense = XGBoostResidual(Params(n_estimators=5, min_child_weight=0.0)).fit(
        steps[steps["num_experts"] == 0], Context(group="workload")
    )
    return {"dense": dense, "moe": fitted}


@pytest.fixture
def written(both, provenance, tmp_path) -> Path:
    return bundle.write(both, tmp_path / "blis", provenance, builders.CONSTANTS, builders.EVIDENCE)


@pytest.fixture
def copied(golden, tmp_path) -> Path:
    """The committed bundle in a folder of the test's own."""
    return Path(shutil.copytree(golden, tmp_path / "golden"))
