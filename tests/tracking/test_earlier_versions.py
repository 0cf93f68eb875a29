"""What earlier versions of h3 tracked and registered still loads.

tests/golden/mlruns.tar.xz: an `mlruns/` that h3 0.1.0 made when its modules still lay in one folder: a sweep
of the eight simulated folds (debug=quick) and its champion, figures and fold models left out. The store is
in it as SQL, with @FOLDER@ where paths were.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from h3 import bundle
from h3.bundle import golden
from h3.common.config import TrackingConfig
from h3.common.errors import InputError
from h3.evaluation.fold_table import FoldRow
from h3.promotion.recipe import Recipe
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


def test_the_champion_of_an_earlier_version_is_copied_whole_and_only_that_version_evaluates_it(
    tracking, tmp_path
):
    path = registry.folder("champion", tracking)
    report = bundle.copy_verified(path, tmp_path / "copy")
    assert report.digest == bundle.inspect(path).digest
    assert "evaluate it with the version that made it" in report.not_evaluated
    with pytest.raises(bundle.OtherPhysics, match="evaluate it with the version that made it"):
        registry.load("champion", tracking)


def run(folder: Path, tracking: TrackingConfig, *arguments: str) -> str:
    """What Python prints in the folder of the old mlruns/."""
    environment = os.environ | {"MLFLOW_TRACKING_URI": str(tracking.uri)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_champion_of_an_earlier_version_still_serves_its_own_times_through_mlflow(folder, tracking):
    made = json.loads((registry.folder("champion", tracking) / "golden.json").read_text())
    # What that version read from other configs, this one reads otherwise.
    alike = ("llama-2-7b", "llama-2-70b", "codellama-34b", "mixtral-8x7b", "small-1b", "fine-experts-30b")
    vectors = [each for each in made["vectors"] if each["config"] in alike][:100]
    chosen = [[each[key] for key in ("config", "tensor_parallelism", "hardware")] for each in vectors]
    cases = [(*place, each["requests"]) for place, each in zip(chosen, vectors, strict=True)]
    golden.table_of(cases, made["configs"]).to_parquet(folder / "rows.parquet")
    run(folder, tracking, "-c", SERVED)
    served = pd.read_parquet(folder / "served.parquet")["period_us"]
    np.testing.assert_allclose(served, [max(1.0, each["us"]) for each in vectors], rtol=1e-9)


def test_the_folds_of_an_earlier_version_are_read_and_compared(folder, tracking):
    store = registry.open_registry(tracking).store
    folds = runs.read_runs(store, runs.find_sweep(store, None))
    assert len(folds) == FOLDS
    for fold in folds:
        assert 0 < fold.finished.mape < 100
        assert len(fold.frame("predictions.parquet")) == fold.finished.n_test
    assert "lomo_mixtral" in run(folder, tracking, "-m", "h3.compare", "out=compared")
    assert (folder / "compared" / "report.html").is_file()


def test_a_fold_run_of_an_earlier_version_is_refused_with_what_to_do(folder, tracking):
    store = registry.open_registry(tracking).store
    first = runs.read_runs(store, runs.find_sweep(store, None))[0]
    with pytest.raises(
        InputError, match=r"fitted with other physics.*train it anew, or export it with the version"
    ):
        find.from_run(first.run_id, tracking)


def test_the_recipe_of_an_earlier_champion_can_be_evaluated_again(tracking):
    opened = registry.open_registry(tracking)
    recorded = artifacts.content_of_run(opened.store, str(opened.version("1").run_id), "recipe.json")
    recipe, rows = Recipe.of(recorded["recipe"]), map(FoldRow.model_validate, recorded["rows"])
    assert [fold.name for fold in recipe.folds] == [row.fold for row in rows]
    assert recipe.params == recorded["recipe"]["params"]
