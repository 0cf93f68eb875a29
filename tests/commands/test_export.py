"""Export: a bundle from a tracked run or another bundle, verification, and coefficients for an unmodified
BLIS.
"""

from __future__ import annotations

import re
from pathlib import Path

import builders
import numpy as np
import pandas as pd
import pytest
from processes import h3

from h3 import bundle, export
from h3.bundle import distil, standing
from h3.bundle.blis_terms import blis_terms
from h3.common.config import FeaturesConfig
from h3.common.errors import InputError
from h3.export import ExportConfig
from h3.latency.shipped_overheads import OverheadsConfig
from h3.models.peers.xgboost_raw import Params as RawParams
from h3.models.peers.xgboost_raw import XGBoostRaw
from h3.models.protocol import Context
from h3.models.xgboost_residual import Params, XGBoostResidual
from h3.server.overheads import STUDY_IN_STEPS, Overheads
from h3.steps import batch, catalog, physics
from h3.steps.batch import Deployment
from h3.tracking import find
from h3.tracking.store import open_store

DATA = "measured on H100: request logs, 12 experiments"
GOLDEN = Path(__file__).parents[2] / "go" / "h3bundle" / "testdata" / "bundle"
LLAMA = Deployment(catalog.MODELS["llama-2-7b"], 1, "H100")


@pytest.fixture
def steps() -> pd.DataFrame:
    made = builders.Steps(seed=1).run("llama-2-7b", rows=100).run("mixtral-8x7b-v0-1", rows=100)
    return made.timed(lambda table: 5000 + 30 * table["num_decode_reqs"].to_numpy(float)).table()


def tracked(fitted: object, uri: str, source: dict | None = None, held_out: tuple[str, ...] = ()) -> str:
    store = open_store(uri, "h3")
    with store.fold_run(store.start_parent("sweep", {}), "lomo_mixtral") as run_id:
        experiments = [{"experiment": name} for name in held_out]
        kept = builders.fold_result(experiments=experiments, data=DATA).recorded()
        config = {"source": source or {"name": "simulated"}}
        named = {"fit.json": fitted.describe(), "config.yaml": config, "result.json": kept}
        builders.keep(store, run_id, **named)
    return run_id


def config(run_id: str, uri: str, out: Path) -> ExportConfig:
    return ExportConfig.model_validate({"bundle": run_id, "out": str(out), "tracking": {"uri": uri}})


def test_a_tracked_run_becomes_a_bundle_that_predicts_the_same(steps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    fitted = XGBoostResidual(Params(n_estimators=4)).fit(steps, Context(group="workload"))
    run_id = tracked(fitted, uri)
    assert export.export(config(run_id, uri, tmp_path / "dist" / "blis")).vectors >= 500
    read = bundle.read(tmp_path / "dist" / "blis")
    np.testing.assert_array_equal(read.predict(steps), fitted.predict(steps))
    assert read.manifest.provenance["data_digest"] == "d" * 32
    assert read.manifest.provenance["folds"][0]["run_id"] == run_id
    assert DATA in standing.told(read)


def test_a_run_of_another_predictor_is_refused(steps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run_id = tracked(XGBoostRaw(RawParams()).fit(steps, Context(features=FeaturesConfig(name="raw30"))), uri)
    with pytest.raises(InputError, match="expected 'xgboost_residual'"):
        export.export(config(run_id, uri, tmp_path / "blis"))
    with pytest.raises(InputError, match=r"run .?0000"):
        export.export(config("0" * 32, uri, tmp_path / "blis"))
    assert not (tmp_path / "blis").exists()


def test_the_command_line_copies_and_verifies_a_bundle(tmp_path):
    done = h3(tmp_path, "export", f"bundle={GOLDEN}", "out=dist/blis")
    assert done.returncode == 0, done.stderr
    assert "golden vectors agree" in done.stdout
    verified = h3(tmp_path, "export", "verify=dist/blis")
    assert verified.stdout == done.stdout.splitlines(keepends=True)[0]
    assert "for tests only" in done.stdout.splitlines()[1]
    (tmp_path / "dist" / "blis" / "booster.json").write_text("{}")
    damaged = h3(tmp_path, "export", "verify=dist/blis")
    assert damaged.returncode == 2
    assert damaged.stderr.startswith("error: dist/blis/booster.json: 2 bytes; the manifest says")


def test_a_bundle_of_other_physics_is_exported_as_it_is_and_evaluated_by_none_of_the_commands(tmp_path):
    made = builders.other_physics(tmp_path / "made")
    said = r"constants: gemm_efficiency: 0\.7; expected 0\.8.*: evaluate it with the version that made it"
    report = export.export(ExportConfig.model_validate({"bundle": str(made), "out": str(tmp_path / "blis")}))
    assert re.search(said, bundle.describe("blis", report))
    assert "digests agree" in bundle.describe("blis", report)
    for use in (bundle.verify, find.find):
        with pytest.raises(InputError, match=said):
            use(str(tmp_path / "blis"))


def test_a_bundle_of_a_run_on_request_logs_has_overheads_measured_on_its_training_logs(
    steps, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for number, arrival_us in enumerate((30_000.0, 60_000.0)):
        server = builders.Server([10_000] * 1500).serve_at_random(200)
        server.changes = {
            index: {"arrival_time_us": max(0.0, first - arrival_us), "input_tokens": 8}
            for index, first in enumerate(server.first_us())
        }
        server.write_tracev2(tmp_path / "runs", f"20260101-00000{number}-llama-2-7b-tp1-general")
    fitted = XGBoostResidual(Params(n_estimators=0)).fit(steps, Context(group="workload"))
    run_id = tracked(
        fitted,
        uri,
        {"name": "requests", "path": str(tmp_path / "runs")},
        ("20260101-000001-llama-2-7b-tp1-general",),
    )
    export.export(config(run_id, uri, tmp_path / "blis"))
    read = bundle.read(tmp_path / "blis")
    waited_us = read.overheads.queueing_us + read.overheads.pipeline_steps * 10_000
    assert waited_us == pytest.approx(30_000 - 1.5 * 10_000, rel=0.02)
    assert read.overheads.post_decode_us == 0
    assert read.manifest.provenance["overheads"].startswith("estimated on 1 request logs: ")


def test_given_and_default_overheads_are_recorded_as_such(steps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run_id = tracked(XGBoostResidual(Params(n_estimators=0)).fit(steps, Context(group="workload")), uri)
    export.export(config(run_id, uri, tmp_path / "blis"))
    assert bundle.read(tmp_path / "blis").overheads == STUDY_IN_STEPS
    assert bundle.read(tmp_path / "blis").manifest.provenance["overheads"].startswith("default: ")
    given = config(run_id, uri, tmp_path / "blis").model_copy(
        update={"overheads": OverheadsConfig(queueing_us=1.0, post_decode_us=2.0)}
    )
    export.export(given)
    assert bundle.read(tmp_path / "blis").overheads == Overheads(queueing_us=1.0, post_decode_us=2.0)
    assert bundle.read(tmp_path / "blis").manifest.provenance["overheads"].startswith("given: ")


def test_what_is_no_model_is_refused_in_one_line(tmp_path):
    done = h3(tmp_path, "export", "bundle=no/such/bundle")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_distilled_coefficients_give_the_model_back_for_one_deployment(tmp_path):
    read = bundle.read(GOLDEN)
    found = distil.distil(read.predict, LLAMA, read.overheads)
    assert found.loss.held_out < 3
    assert found.alpha == [9300.0, 1850.0, 0.0]
    assert len(found.beta) == 11
    assert min(found.beta) >= 0


def test_distilling_finds_known_coefficients_again():
    beta = np.array([0.5, 0.4, 1.3, 0.8, 30.0, 4.0, 120.0, 0, 0, 1.9, 0])
    for name, deployment in distil.known_deployments().items():
        found = distil.distil(
            lambda table: blis_terms(table).to_numpy() @ beta, deployment, builders.CONSTANTS
        )
        assert found.loss.held_out < 0.05, name


def test_steps_that_are_scheduled_already_count_with_a_usual_period_whatever_long_prompts_take():
    def with_long_prompts(table: pd.DataFrame) -> np.ndarray:
        return np.where(table["prefill_tokens"] > 1000, 500_000.0, 20_000.0)

    found = distil.distil(with_long_prompts, LLAMA, Overheads(queueing_us=4000, pipeline_steps=1.5))
    assert found.period_us == pytest.approx(20_000)
    assert found.alpha == pytest.approx([34_000, 0, 0])


def expert_us(table: pd.DataFrame) -> np.ndarray:
    """The step time of a server that reads the experts it visits, and nothing that BLIS's terms could not
    say.
    """
    steady = 2000 + 0.9 * physics.kv_us(table) + 10 * physics.requests(table)
    return steady + physics.weight_us(
        table, table["decode_tokens"].to_numpy() + table["prefill_tokens"].to_numpy()
    )


def least_by_hand(period_us: np.ndarray, weight: np.ndarray) -> float:
    """Least weighted mean of |a + b * requests - period| / period over a, b >= 0, %: an optimum lies on two
    of the points.
    """
    sizes, least = np.arange(1, len(period_us) + 1), np.inf
    for one in range(len(sizes)):
        for other in range(one):
            slope = max(0.0, (period_us[one] - period_us[other]) / (sizes[one] - sizes[other]))
            start = period_us[one] - slope * sizes[one]
            if start >= 0:
                least = min(
                    least, np.average(np.abs((start + slope * sizes) / period_us - 1), weights=weight)
                )
    return 100 * least


def test_no_coefficients_do_better_than_those_found_where_experts_bend_the_curve():
    """At one context BLIS's time of a decode step is a line over the batch size, so the best line can be
    found by trying all.
    """
    mixtral = distil.known_deployments()["mixtral-8x7b-v0-1"]
    grid = distil.Grid(
        batch=tuple(range(1, 129)), context=(512,), prefill=(0,), before=(0,), decode_share=1.0
    )
    found = distil.distil(expert_us, mixtral, builders.CONSTANTS, grid)
    table = distil.grid_table(mixtral, grid)
    share = np.diff(
        np.interp(
            np.concatenate([[-1.0], np.arange(1, 128) + 0.5, [np.inf]]),
            distil.REQUESTS,
            distil.SHARE_OF_STEPS,
        )
    )
    assert found.loss.grid == pytest.approx(least_by_hand(expert_us(table), share), rel=1e-6)
    assert least_by_hand(expert_us(table), np.ones(128)) > 3


@pytest.mark.parametrize("name", distil.KNOWN)
def test_for_one_deployment_less_than_three_points_are_lost_on_batches_that_were_not_fitted(name):
    read = bundle.read(GOLDEN)
    found = distil.distil(read.predict, distil.known_deployments()[name], read.overheads)
    assert found.loss.held_out < 3
    assert found.loss.by_requests["33-128"] < 3


def test_the_held_out_batches_are_none_of_the_fitted_ones():
    keys = ["num_decode_reqs", "decode_kv_tokens_sum", "prefill_tokens", "prefill_kv_tokens_sum"]
    fitted, held_out = (distil.grid_table(LLAMA, grid)[keys] for grid in (distil.Grid(), distil.HELD_OUT))
    assert fitted.merge(held_out).empty


def test_errors_on_steps_are_those_of_the_periods_that_were_measured(steps):
    exact = distil.mape_on_steps(
        [0, 0, 0, 0, 0, 30, 5000, 0, 0, 0, 0],
        lambda table: 2 * table["period_us"].to_numpy(),
        steps.assign(
            num_prefill_reqs=0, prefill_tokens=0.0, prefill_attended_tokens=0.0, prefill_kv_tokens_sum=0.0
        ),
        LLAMA,
    )
    assert exact.steps == 100
    assert exact.distilled == pytest.approx(0, abs=1e-9)
    assert exact.model == pytest.approx(100)


def test_blis_terms_count_as_the_coefficients_are_documented():
    table = batch.with_deployment(
        batch.uniform(np.array([2.0]), np.array([100.0]), np.array([10.0]), np.array([5.0])),
        Deployment(
            catalog.Architecture(3, 8, 4, 2, 5, 50, 16, 0, 0, 0, 0, 0, 2.0),
            2,
            "H100",  # a head of 5, which BLIS takes for 8 / 4
        ),
    ).assign(prefill_before=5.0)
    terms = blis_terms(table).iloc[0]
    d, d_kv, layers, tp, flops, bandwidth = 8, 4, 3, 2, 989.5e6, 3.35e6
    matrices = 2 * d * (2 * d + 2 * d_kv) * layers / tp + layers * 6 * d * 16 / tp
    attended = layers * 4 * (4 / tp) * 10 * (15 + 10 / 2) * 2
    assert terms["prefill_compute"] == pytest.approx((10 * matrices + attended) / flops)
    attended = layers * 4 * (4 / tp) * 200 * 2
    assert terms["decode_compute"] == pytest.approx((2 * matrices + attended) / flops)
    assert terms["weights"] == pytest.approx(
        2 * (d * (2 * d + 2 * d_kv) + 3 * d * 16) * layers / tp / bandwidth
    )
    assert terms["tp_communication"] == pytest.approx(2 * layers * 12 * d * 2 * 2 * (tp - 1) / tp / bandwidth)
    assert terms["prefill_kv"] == pytest.approx(layers * 2 * (d_kv / tp) * 10 * 2 / bandwidth)
    assert terms["decode_kv"] == pytest.approx(layers * 2 * (d_kv / tp) * 2 * (200 + 2) / bandwidth)
    assert terms[
        ["us_per_layer", "us_per_request", "us_per_step", "us_per_moe_layer", "moe_dispatch"]
    ].tolist() == [3, 3, 1, 0, 0]


def test_the_grid_holds_only_what_fits_into_memory():
    table = distil.grid_table(LLAMA, distil.Grid())
    held = (
        physics.weight_bytes(table, np.full(len(table), 1e9))
        + physics.kv_bytes_per_token(table) * table["decode_kv_tokens_sum"]
    )
    assert held.max() < 80e9
    with pytest.raises(InputError, match="batches of the grid fit"):
        distil.grid_table(Deployment(catalog.MODELS["llama-2-70b"], 1, "H100"), distil.Grid())
