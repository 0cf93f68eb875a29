"""The champion that ships is what the code makes of the packaged measurements, and answers where no registry
does.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import builders
import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from processes import h3

from h3 import bundle
from h3.bundle import standing
from h3.common.config import CONF, TrainConfig, fold_with_group, from_hydra
from h3.promotion import gate
from h3.promotion.recipe import Recipe
from h3.promotion.trees import kept_trees
from h3.sources.load import load
from h3.steps import basis
from h3.tracking.find import find
from h3.tracking.store import open_store

CONFIG = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "intermediate_size": 14336,
}


@pytest.fixture(scope="module")
def shipped():
    return bundle.read(standing.SHIPPED)


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A folder without a registry, with a model's config.json."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_the_shipped_champion_is_what_the_code_makes_of_the_packaged_data(shipped):
    said = shipped.manifest.provenance
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = from_hydra(compose("config", [f"source={said['source']}"]), TrainConfig)
    table = load(config.source).table
    assert basis.described(table) == said["data"]  # its digest is of one CPU: the last bits differ on another
    fits = Recipe(config, said["params"], ()).fit(table)
    for route, fit in shipped.fitted_by_route().items():
        assert fit.base.coefficients == pytest.approx(fits[route].base.coefficients, rel=1e-9)
        assert (
            fit.boosted.described()["learner"]["gradient_booster"]
            == (fits[route].boosted.described()["learner"]["gradient_booster"])
        )
        np.testing.assert_allclose(fit.support.low, fits[route].support.low)
        np.testing.assert_allclose(fit.support.high, fits[route].support.high)
    rows = table.iloc[::997]
    np.testing.assert_allclose(shipped.predict(rows), bundle.predict(fits, rows)["us"].to_numpy(), rtol=1e-9)


def test_the_shipped_champion_is_verified_passes_the_gate_and_names_fifteen_folds(shipped):
    assert bundle.verify(standing.SHIPPED).vectors > 100
    assert gate.monotone(shipped.predict).passed and gate.positive(shipped.predict, 50, 0).passed
    folds = shipped.manifest.provenance["folds"]
    assert len(folds) == 15 and all(fold["mape_high"] < 20 for fold in folds)
    assert gate.real_trees(shipped, shipped.manifest.provenance["data"]).passed


def test_without_a_registry_the_shipped_champion_answers_and_says_what_stands_behind_it(alone):
    start = time.monotonic()
    done = h3(alone, "predict", "config=config.json", MLFLOW_TRACKING_URI="")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 15
    assert "the champion that ships with h3: data measured on H100" in done.stdout
    assert "15 held-out folds, MAPE" in done.stdout and "at worst (" in done.stdout
    assert find("champion").path == find("shipped").path == standing.SHIPPED


def test_a_store_without_a_champion_leaves_the_answer_to_the_shipped_one_and_a_registry_of_ones_own_does_not(
    alone, monkeypatch
):
    open_store(None, "h3")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it for its own children
    assert (alone / "mlruns" / "mlflow.db").is_file()
    assert find("champion").path == standing.SHIPPED
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{alone / 'other.db'}")
    with pytest.raises(Exception, match="champion"):
        find("champion")


def test_the_shipped_champion_is_exported_as_a_bundle_and_as_a_service_that_gives_the_same_times(
    alone, shipped
):
    done = h3(alone, "export", "out=dist/blis", MLFLOW_TRACKING_URI="")
    assert done.returncode == 0, done.stderr
    assert standing.told(shipped).partition(": ")[2] in done.stdout
    assert bundle.read(alone / "dist" / "blis").digest == shipped.digest
    done = h3(alone, "export", "format=service", "out=dist/service", MLFLOW_TRACKING_URI="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mlflow models serve -m dist/service")
    step = builders.step(decode=[600] * 32)
    step.to_parquet("step.parquet")
    code = (
        "import mlflow, pandas; rows = pandas.read_parquet('step.parquet')\n"
        "print(mlflow.pyfunc.load_model('dist/service').predict(rows)['period_us'][0])"
    )
    served = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert float(served.stdout.split()[-1]) == pytest.approx(shipped.predict(step)[0]), served.stderr
    again = h3(alone, "export", "format=service", "out=dist/service", MLFLOW_TRACKING_URI="")
    assert again.returncode == 2
    assert again.stderr == "error: dist/service: exists; expected a new folder for the service\n"


def table_of(log: str) -> pd.DataFrame:
    made = builders.Steps(seed=3)
    for model in ("llama-2-7b", "llama-2-70b", "mixtral-8x7b-v0-1"):
        made.run(model, rows=40, workload="general").run(model, rows=40, workload="codegen")
    rows = made.timed(lambda table: 9000.0 + 40 * table["num_decode_reqs"], noise=0.02).table()
    return rows.assign(log=log)


@pytest.mark.parametrize(("log", "ships"), [("simulated", False), ("requests", True)])
def test_trees_learned_from_a_simulator_do_not_ship_and_those_from_measurements_may(log, ships):
    fold = fold_with_group("lowo_codegen")
    config = TrainConfig(source={"name": log}, fold=fold, model={"name": "xgboost_residual"}, features={})
    recipe = Recipe(config, {"n_estimators": 3, "min_child_weight": 0.0, "known_only": True}, (fold,))
    kept = kept_trees(recipe, table_of(log), tolerance_percent=100.0)
    assert (kept.recipe.params["n_estimators"] > 0) == ships
    assert kept.why == ("" if ships else "they were learned from simulated H100 steps")


def test_trees_that_make_more_work_faster_do_not_ship():
    fold = fold_with_group("lowo_codegen")
    config = TrainConfig(
        source={"name": "requests"}, fold=fold, model={"name": "xgboost_residual"}, features={}
    )
    recipe = Recipe(config, {"n_estimators": 3, "min_child_weight": 0.0}, (fold,))
    kept = kept_trees(recipe, table_of("requests"), tolerance_percent=-1.0)
    assert kept.recipe.params["n_estimators"] == 0
    assert "less time where" in kept.why


def test_the_gate_refuses_trees_from_simulated_data(shipped):
    golden = bundle.read(Path(__file__).parents[2] / "go" / "h3bundle" / "testdata" / "bundle")
    assert max(model.trees for model in golden.manifest.models.values()) > 0
    refused = gate.real_trees(golden, "simulated H100: 16 experiments")
    assert not refused.passed and refused.line().startswith("FAILED real_trees (trees: ")
    assert gate.real_trees(golden, "measured on H100: request logs, 13 experiments").passed


def test_go_embeds_the_champion_that_ships_without_its_golden_vectors():
    embedded = Path(__file__).parents[2] / "go" / "h3bundle" / "champion"
    files = {path.name: path.read_bytes() for path in standing.SHIPPED.iterdir()}
    there = {path.name: path.read_bytes() for path in embedded.iterdir() if path.suffix != ".go"}
    assert there == {name: data for name, data in files.items() if name != "golden.json"}
