"""Export: a bundle from a tracked run or another bundle, verification, and coefficients for an unmodified BLIS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import builders
import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml

from h3 import batch, bundle, catalog, distil, export, physics, track
from h3.batch import Deployment
from h3.errors import InputError
from h3.export import ExportConfig
from h3.models.protocol import Context
from h3.models.xgboost_raw import Params as RawParams
from h3.models.xgboost_raw import XGBoostRaw
from h3.models.xgboost_residual import Params, XGBoostResidual

GOLDEN = Path(__file__).parent / "golden" / "bundle"
LLAMA = Deployment(catalog.MODELS["llama-2-7b"], 1, "H100")


def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "h3.export", *arguments], cwd=cwd, capture_output=True, text=True, env=os.environ)


@pytest.fixture
def steps() -> pd.DataFrame:
    made = builders.Steps(seed=1).run("llama-2-7b", rows=100).run("mixtral-8x7b-v0-1", rows=100)
    return made.timed(lambda table: 5000 + 30 * table["num_decode_reqs"].to_numpy(float)).table()


def tracked(fitted: object, uri: str) -> str:
    store = track.open_store(uri, "h3")
    with store.fold_run(store.start_parent("sweep", {}), "lomo_mixtral") as run_id:
        track.log_fit(fitted)
        mlflow.log_params({"fold": "lomo_mixtral", "holdout": "mixtral", "data_digest": "d" * 32})
    return run_id


def config(run_id: str, uri: str, out: Path) -> ExportConfig:
    return ExportConfig.model_validate({"model": {"name": run_id}, "out": str(out), "tracking": {"uri": uri}})


def test_a_tracked_run_becomes_a_bundle_that_predicts_the_same(steps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    fitted = XGBoostResidual(Params(n_estimators=4)).fit(steps, Context(group="workload"))
    run_id = tracked(fitted, uri)
    assert export.export(config(run_id, uri, tmp_path / "dist" / "blis"))["vectors"] >= 500
    read = bundle.read(tmp_path / "dist" / "blis")
    np.testing.assert_array_equal(read.predict(steps), fitted.predict(steps))
    assert read.manifest["provenance"]["data_digest"] == "d" * 32
    assert read.manifest["provenance"]["folds"][0]["run_id"] == run_id


def test_a_run_of_another_predictor_is_refused(steps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run_id = tracked(XGBoostRaw(RawParams()).fit(steps, Context(features="raw30")), uri)
    with pytest.raises(InputError, match="expected 'xgboost_residual'"):
        export.export(config(run_id, uri, tmp_path / "blis"))
    with pytest.raises(InputError, match="run 0000"):
        export.export(config("0" * 32, uri, tmp_path / "blis"))
    assert not (tmp_path / "blis").exists()


def test_the_command_line_copies_and_verifies_a_bundle(tmp_path):
    done = run([f"model={GOLDEN}", "out=dist/blis"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "golden vectors agree" in done.stdout
    verified = run(["verify=dist/blis"], tmp_path)
    assert verified.stdout == done.stdout
    (tmp_path / "dist" / "blis" / "booster.json").write_text("{}")
    damaged = run(["verify=dist/blis"], tmp_path)
    assert damaged.returncode == 2
    assert damaged.stderr.startswith("error: dist/blis/booster.json: 2 bytes; the manifest says")


def test_what_is_no_model_is_refused_in_one_line(tmp_path):
    done = run(["model=no/such/bundle"], tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_distilled_coefficients_give_the_model_back_for_one_deployment(tmp_path):
    read = bundle.read(GOLDEN)
    found = distil.distil(read.predict, {"llama": LLAMA}, read.overheads)
    assert found.mape < 3
    assert found.alpha == [9300.0, 1850.0, 0.0]
    assert len(found.beta) == 11
    assert min(found.beta) >= 0


def test_distilling_finds_known_coefficients_again():
    beta = np.array([0.5, 0.4, 1.3, 0.8, 30.0, 4.0, 120.0, 0, 0, 1.9, 0])
    known = distil.known_deployments()
    found = distil.distil(
        lambda table: distil.blis_terms(table).to_numpy() @ beta, {name: known[name] for name in known if "mixtral" not in name},
        bundle.Overheads(),
    )
    assert found.mape < 0.05


def test_blis_terms_count_as_the_coefficients_are_documented():
    table = batch.with_deployment(batch.uniform(np.array([2.0]), np.array([100.0]), np.array([10.0]), np.array([5.0])), Deployment(
        catalog.Architecture(3, 8, 4, 2, 2, 50, 16, 0, 0, 0, 0, 0, 2.0), 2, "H100",
    )).assign(prefill_before=5.0)
    terms = distil.blis_terms(table).iloc[0]
    d, d_kv, layers, tp, flops, bandwidth = 8, 4, 3, 2, 989.5e6, 3.35e6
    matrices = 2 * d * (2 * d + 2 * d_kv) * layers / tp + layers * 6 * d * 16 / tp
    attended = layers * 4 * (4 / tp) * 10 * (15 + 10 / 2) * 2
    assert terms["prefill_compute"] == pytest.approx((10 * matrices + attended) / flops)
    attended = layers * 4 * (4 / tp) * 200 * 2
    assert terms["decode_compute"] == pytest.approx((2 * matrices + attended) / flops)
    assert terms["weights"] == pytest.approx(2 * (d * (2 * d + 2 * d_kv) + 3 * d * 16) * layers / tp / bandwidth)
    assert terms["tp_communication"] == pytest.approx(2 * layers * 12 * d * 2 * 2 * (tp - 1) / tp / bandwidth)
    assert terms["prefill_kv"] == pytest.approx(layers * 2 * (d_kv / tp) * 10 * 2 / bandwidth)
    assert terms["decode_kv"] == pytest.approx(layers * 2 * (d_kv / tp) * 2 * (200 + 2) / bandwidth)
    assert terms[["us_per_layer", "us_per_request", "us_per_step", "us_per_moe_layer", "moe_dispatch"]].tolist() == [3, 3, 1, 0, 0]


def test_the_grid_holds_only_what_fits_into_memory():
    table = distil.grid_table(LLAMA, distil.Grid())
    held = physics.weight_bytes(table, np.full(len(table), 1e9)) + physics.kv_bytes_per_token(table) * table["decode_kv_tokens_sum"]
    assert held.max() < 80e9
    with pytest.raises(InputError, match="batches of the grid fit"):
        distil.grid_table(Deployment(catalog.MODELS["llama-2-70b"], 1, "H100"), distil.Grid())


def test_the_command_line_prints_what_defaults_yaml_holds(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({
        "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "intermediate_size": 11008, "vocab_size": 32000,
    }))
    options = ["format=trained_physics", f"model={GOLDEN}", "model_config=config.json", "tp=2", "hardware=H100", "out=blis.yaml"]
    done = run(options, tmp_path)
    assert done.returncode == 0, done.stderr
    content = yaml.safe_load(done.stdout)["trained_physics_coefficients"]
    assert (len(content["alpha_coeffs"]), len(content["beta_coeffs"])) == (3, 11)
    assert "differs from the model by" in done.stdout
    assert (tmp_path / "blis.yaml").read_text() == done.stdout
