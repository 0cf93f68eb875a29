"""What earlier versions of h3 tracked and registered still loads.

tests/golden/mlruns.tar.xz: an `mlruns/` that h3 0.1.0 made when its modules still lay in one folder: a sweep
of the eight simulated folds (debug=quick) and its champion, figures and fold models left out. The store is
in it as SQL, with @FOLDER@ where paths were.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import builders
import numpy as np
import pandas as pd
import pytest

from h3 import bundle
from h3.common.config import TrackingConfig
from h3.evaluation.fold_table import FoldRow
from h3.promotion.recipe import Recipe
from h3.steps import schema
from h3.tracking import artifacts, find, registry, runs

PACKED = Path(__file__).parents[1] / "golden" / "mlruns.tar.xz"
FOLDS = 8
# A process of its own: the champion brings the code that made it, and that is called h3 as well.
SERVED = (
    "import mlflow, pandas as pd; model = mlflow.pyfunc.load_model('models:/blis-step-time@champion'); "
    "model.predict(pd.read_parquet('rows.parquet')).to_parquet('served.parquet')"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder that holds the old mlruns/."""
    made = tmp_path_factory.mktemp("earlier")
    with tarfile.open(PACKED) as packed:
        packed.extractall(made, filter="data")
    for path in [made / "mlruns" / "mlflow.sql", *made.rglob("MLmodel")]:
        path.write_text(path.read_text().replace("@FOLDER@", str(made)))
    database = sqlite3.connect(made / "mlruns" / "mlflow.db")
    database.executescript((made / "mlruns" / "mlflow.sql").read_text())
    database.close()
    return made


@pytest.fixture
def tracking(folder, monkeypatch) -> TrackingConfig:
    monkeypatch.chdir(folder)
    return TrackingConfig(uri=f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")


def test_the_champion_of_an_earlier_version_answers_its_golden_vectors(tracking):
    path = registry.folder("champion", tracking)
    assert bundle.verify(path).vectors >= 500
    assert registry.load("champion", tracking).manifest.provenance["params"]["n_estimators"] == 96


def run(folder: Path, tracking: TrackingConfig, *arguments: str) -> str:
    """What Python prints in the folder of the old mlruns/."""
    environment = os.environ | {"MLFLOW_TRACKING_URI": str(tracking.uri)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_champion_of_an_earlier_version_serves_the_same_times_through_mlflow(folder, tracking):
    made = builders.Steps(seed=2).run("llama-2-70b").run("mixtral-8x7b-v0-1").table()
    rows = made.drop(columns=[column.name for column in schema.TARGETS])
    rows.astype(dict.fromkeys(rows.select_dtypes("category"), str)).to_parquet(folder / "rows.parquet")
    run(folder, tracking, "-c", SERVED)
    served = pd.read_parquet(folder / "served.parquet")["period_us"]
    np.testing.assert_allclose(registry.load("champion", tracking).predict(made), served, rtol=1e-12)


def test_the_folds_of_an_earlier_version_are_read_and_compared(folder, tracking):
    store = registry.open_registry(tracking).store
    folds = runs.read_runs(store, runs.find_sweep(store, None))
    assert len(folds) == FOLDS
    for fold in folds:
        assert 0 < fold.finished.mape < 100
        assert len(fold.frame("predictions.parquet")) == fold.finished.n_test
    assert "lomo_mixtral" in run(folder, tracking, "-m", "h3.compare", "out=compared")
    assert (folder / "compared" / "report.html").is_file()


def test_a_fold_run_of_an_earlier_version_becomes_a_bundle(folder, tracking):
    store = registry.open_registry(tracking).store
    first = runs.read_runs(store, runs.find_sweep(store, None))[0]
    assert find.from_run(first.run_id, tracking).provenance["folds"][0]["mape"] == first.finished.mape
    run(folder, tracking, "-m", "h3.export", f"bundle={first.run_id}", "out=dist/run")
    assert bundle.verify(folder / "dist" / "run").vectors >= 500


def test_the_recipe_of_an_earlier_champion_can_be_evaluated_again(tracking):
    opened = registry.open_registry(tracking)
    recorded = artifacts.content_of_run(opened.store, str(opened.version("1").run_id), "recipe.json")
    recipe, rows = Recipe.of(recorded["recipe"]), map(FoldRow.model_validate, recorded["rows"])
    assert [fold.name for fold in recipe.folds] == [row.fold for row in rows]
    assert recipe.params == recorded["recipe"]["params"]
