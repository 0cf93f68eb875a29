"""Replay: the trace that comes out is the one that went in, timed by the predictor, and bad input is refused
or counted.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import Server, Steps, simulated_source, source

from h3.common.errors import InputError
from h3.latency import metrics as replay_metrics
from h3.latency import overheads as replay_overheads
from h3.latency.compositions import periods_us, probes
from h3.latency.fold import Job, replay_all
from h3.latency.recorded import Recorded, from_log, from_simulation, limits
from h3.latency.replay_run import ReplayOptions, replay_experiment, replay_recorded
from h3.latency.tables import TabulatedStepTime
from h3.latency.timer import error_ratios, step_time
from h3.models.boosted import Boosted
from h3.models.protocol import Context
from h3.models.trees import STATISTICS, rebuilt
from h3.models.xgboost_residual import Params, XGBoostResidual
from h3.server.overheads import Overheads
from h3.sources import simulated
from h3.sources.experiment import REQUEST_FILES, find
from h3.sources.requests import clock
from h3.sources.requests.steps import read_experiment
from h3.steps import features, physics

SHARED = Path(__file__).parents[3] / "shared" / "data" / "requests"
LOGS = source("requests", prefill_tokens="repeat", shared_prefix_tokens={"reasoning": 100})


def experiment_of(model):
    return simulated.Cell(0, model, simulated.WORKLOADS[0]).experiment


SEVEN_B = experiment_of("llama-2-7b")


def requests(arrival_us, prompt=100, output=20, cached=0):
    """A table of requests, none of them measured."""
    n = len(arrival_us)
    columns = {"prompt_tokens": prompt, "output_tokens": output, "cached_tokens": cached}
    return pd.DataFrame(
        {
            "request": [str(index) for index in range(n)],
            "arrival_us": np.asarray(arrival_us, float),
            "prefix_group": -1,
            "first_us": np.nan,
            "last_us": np.nan,
            **{name: np.broadcast_to(value, n) for name, value in columns.items()},
        }
    )


class Smooth:
    """A predictor that is neither base nor trees: a smooth function of the composition."""

    def predict(self, inputs):
        tokens = inputs["decode_tokens"] + inputs["prefill_tokens"]
        kv = inputs["decode_kv_tokens_sum"] + inputs["prefill_kv_tokens_sum"]
        return (6000 + 20 * tokens + 0.1 * kv + 1e-3 * inputs["prefill_attended_tokens"]).to_numpy(float)


class Constant:
    """A predictor that always says the same."""

    def __init__(self, value):
        self.value = value

    def predict(self, inputs):
        return np.full(len(inputs), self.value)


@pytest.fixture(scope="module")
def residual():
    """A residual model with trees, fitted on made-up steps."""
    table = (
        Steps(seed=3)
        .run("llama-2-7b", 600)
        .run("llama-2-70b", 600)
        .run("mixtral-8x7b-v0-1", 600)
        .timed(
            lambda rows: (
                physics.terms_us(rows).sum(axis=1).to_numpy()
                * (1 + 0.3 * np.sin(rows["num_decode_reqs"] / 9))
            ),
            noise=0.02,
        )
        .table()
    )
    return XGBoostResidual(Params(n_estimators=80, learning_rate=0.2, min_child_weight=1)).fit(
        table, Context(group="workload")
    )


# --- the step time


@pytest.mark.parametrize("model", ["llama-2-7b", "llama-2-70b", "mixtral-8x7b-v0-1"])
def test_the_residual_model_is_evaluated_exactly(residual, model):
    experiment = experiment_of(model)
    timer = step_time(residual, experiment, limits(experiment), 1000)
    assert timer.check.method == "exact"
    assert timer.check.largest_error_ratio < 1e-5
    assert np.ptp(residual.margin(probes(experiment, limits(experiment), 1000))) > 0.1, (
        "the trees must matter in this test"
    )


@pytest.mark.parametrize("predictor", [Smooth(), "base"])
def test_tables_of_a_smooth_predictor_are_within_three_per_mille(residual, predictor):
    if predictor == "base":
        predictor = XGBoostResidual(Params()).fit(
            Steps(seed=1).run("llama-2-7b", 100).table(), Context(group="workload")
        )
    frame = probes(SEVEN_B, limits(SEVEN_B), 1000)
    errors = error_ratios(
        TabulatedStepTime(predictor, SEVEN_B, limits(SEVEN_B), 1000), frame, periods_us(predictor, frame)
    )
    assert np.quantile(errors, 0.95) < 0.003
    assert errors.mean() < 0.001
    assert errors.max() < 0.02  # where a step turns compute-bound


def chain(length: int) -> dict:
    """A tree whose every right child splits again."""
    inner = [node for node in range(2 * length + 1) if node % 2 == 0 and node < 2 * length]
    count, nothing = 2 * length + 1, [0.0] * (2 * length + 1)
    left, right = [-1] * count, [-1] * count
    for node in inner:
        left[node], right[node] = node + 1, node + 2
    return {
        "left_children": left,
        "right_children": right,
        "split_indices": [0] * count,
        "split_conditions": [0.01 / (node + 1) for node in range(count)],
        "default_left": [0] * count,
        **dict.fromkeys(STATISTICS, nothing),
    }


def test_a_strangers_tree_that_is_a_chain_takes_no_more_room_than_it_has_nodes(residual):
    names = [entry["name"] for entry in features.manifest(residual.features, residual.drop_groups)]
    content = rebuilt([chain(4000), *(chain(1) for _ in range(2000))], names, [3, 2, 0])
    deep = dataclasses.replace(residual, boosted=Boosted.read(content, names, "booster.json"))
    assert deep.boosted.trees.left.nbytes < 10e6
    timer = step_time(deep, SEVEN_B, limits(SEVEN_B), 1000)
    assert timer.check.method == "tables"


def test_a_predictor_without_a_fast_form_is_tabulated():
    timer = step_time(Smooth(), SEVEN_B, limits(SEVEN_B), 1000)
    assert timer.check.method == "tables"


@pytest.mark.parametrize("value", [0.0, -5.0, np.nan, np.inf])
def test_a_predicted_time_that_cannot_be_one_names_the_step(value):
    with pytest.raises(
        InputError, match=r"expected a finite time above 0; it has num_prefill_reqs=\d+, num_decode_reqs=\d+"
    ):
        step_time(Constant(value), SEVEN_B, limits(SEVEN_B), 1000)


@pytest.mark.parametrize("value", [0.0, -5.0, np.nan, np.inf])
def test_a_step_time_that_cannot_be_one_stops_the_replay(value):
    with pytest.raises(InputError, match="num_decode_reqs=0"):
        replay_experiment(requests([0.0]), SEVEN_B, lambda batch: value)


# --- the replay


def test_one_request_is_timed_by_hand():
    table = replay_experiment(requests([500.0], output=11), SEVEN_B, lambda batch: 1000.0)
    row = table.iloc[0]
    assert (row["predicted_ttft_us"], row["predicted_itl_us"], row["predicted_e2e_us"]) == (
        1000.0,
        1000.0,
        11_000.0,
    )
    assert row["status"] == "ok"
    overheads = replay_overheads.Overheads(
        queueing_us=300, pipeline_steps=1.5, post_decode_us=70, per_token_us=10
    )
    row = replay_experiment(requests([500.0], output=11), SEVEN_B, lambda batch: 1000.0, overheads).iloc[0]
    assert row["predicted_ttft_us"] == pytest.approx(300 + 1500 + 1000 + 10)
    assert row["predicted_itl_us"] == pytest.approx(1010)
    assert row["predicted_e2e_us"] == pytest.approx(
        row["predicted_ttft_us"] + 10 * row["predicted_itl_us"] + 70
    )


def test_outputs_of_no_and_of_one_token_have_no_itl():
    table = replay_experiment(requests([0.0, 0.0, 0.0], output=[0, 1, 2]), SEVEN_B, lambda batch: 1000.0)
    assert table["status"].tolist() == ["ok"] * 3
    assert table["predicted_e2e_us"].tolist() == [1000.0, 1000.0, 2000.0]
    assert table["predicted_itl_us"].isna().tolist() == [True, True, False]
    assert table["predicted_ttft_us"].isna().tolist() == [True, False, False]


def test_the_order_of_the_log_does_not_matter():
    rng = np.random.default_rng(0)
    table = requests(np.sort(rng.uniform(0, 1e7, 200)), output=rng.integers(1, 60, 200))
    shuffled = table.sample(frac=1, random_state=1)
    straight, mixed = (
        replay_experiment(t, SEVEN_B, lambda batch: 5000 + 30 * batch.num_decode_reqs)
        for t in (table, shuffled)
    )
    assert mixed["request"].tolist() == shuffled["request"].tolist()
    assert mixed.sort_index()["predicted_e2e_us"].tolist() == straight["predicted_e2e_us"].tolist()


def test_a_request_longer_than_the_kv_cache_is_rejected_and_counted():
    longest = limits(SEVEN_B).kv_blocks * 16
    table = replay_experiment(requests([0.0, 1.0], prompt=[longest + 1, 50]), SEVEN_B, lambda batch: 1000.0)
    assert table["status"].tolist() == ["rejected", "ok"]
    assert np.isnan(table["predicted_e2e_us"][0])
    assert replay_metrics.experiment_metrics("one", table)["rejected"] == 1


@pytest.mark.parametrize("model", ["llama-2-70b", "mixtral-8x7b-v0-1"])
def test_weights_and_kv_cache_fit_in_memory_where_more_ranks_than_kv_heads_each_hold_one(model):
    for ranks in (8, 16, 32):
        experiment = dataclasses.replace(experiment_of(model), tensor_parallelism=ranks)
        table = pd.DataFrame([experiment.columns() | {"num_prefill_reqs": 0, "num_decode_reqs": 0}])
        cache = limits(experiment).kv_blocks * 16 * physics.kv_bytes_per_token(table)[0]
        weights = physics.weight_bytes(table, np.array([1e9]))[0]
        assert 0.98 * simulated.SERVING_BYTES < cache + weights <= simulated.SERVING_BYTES


def test_requests_left_at_the_horizon_are_counted():
    table = replay_experiment(
        requests([0.0, 5000.0, 90_000.0], output=10),
        SEVEN_B,
        lambda batch: 1000.0,
        options=ReplayOptions(horizon_us=12_000),
    )
    assert table["status"].tolist() == ["ok", "unfinished", "unfinished"]
    metrics = replay_metrics.experiment_metrics("one", table)
    assert (metrics["requests"], metrics["unfinished"]) == (3, 2)


@pytest.mark.parametrize("start_us", [0.0, 7e6, 1.7e15], ids=["zero", "later", "epoch"])
def test_the_horizon_counts_from_the_first_arrival(start_us):
    overheads = Overheads(queueing_us=300)
    table = replay_experiment(
        requests(start_us + np.array([0.0, 5000.0, 90_000.0]), output=10),
        SEVEN_B,
        lambda batch: 1000.0,
        overheads,
        ReplayOptions(horizon_us=12_000),
    )
    assert table["status"].tolist() == ["ok", "unfinished", "unfinished"]


def cell(number):
    return list(simulated.cells().values())[number]


def test_a_replay_is_deterministic(residual):
    recorded = from_simulation(simulated_source(scale=0.02), cell(5))
    first, second = (replay_recorded(recorded, residual) for _ in range(2))
    pd.testing.assert_frame_equal(first.table, second.table)
    assert first.run == second.run


def test_the_true_step_time_gives_back_the_simulated_run():
    config = simulated_source(scale=0.02)
    recorded = from_simulation(config, cell(1))
    truth = cell(1).step_time(config)
    table = replay_experiment(recorded.requests, recorded.experiment, truth)
    assert table["predicted_e2e_us"].to_numpy() == pytest.approx(table["measured_e2e_us"].to_numpy())


# --- overheads and metrics


def test_overheads_are_found_in_logs_of_servers_with_different_periods():
    rng = np.random.default_rng(0)
    parts = []
    for model, period in (("llama-2-7b", 8000.0), ("llama-2-70b", 20_000.0)):
        periods = period * rng.uniform(0.8, 1.2, 300)
        table = requests(np.sort(rng.uniform(0, 3e8, 300)), prompt=16)
        wait = 5000 + 1.2 * periods + periods * rng.uniform(1, 2, 300)
        table = table.assign(first_us=table["arrival_us"] + wait)
        experiment = experiment_of(model)
        served = table.assign(last_us=table["first_us"] + 19 * periods)
        parts.append(Recorded(experiment, served, "recorded", len(served)))
    found = replay_overheads.estimate(parts)
    assert found.queueing_us == pytest.approx(5000, abs=1500)
    assert found.pipeline_steps == pytest.approx(1.2, abs=0.15)


def test_without_logs_there_are_no_overheads():
    assert replay_overheads.estimate([]) is None


@pytest.mark.parametrize(("rate", "grows"), [(0.9, False), (1.2, True)])
def test_a_queue_that_grows_is_flagged(rate, grows):
    arrival = np.arange(4000) * 1e5
    wait = np.maximum(0.0, (rate - 1) * arrival) + np.random.default_rng(0).exponential(2e5, 4000)
    first = arrival + wait
    table = pd.DataFrame({"arrival_us": arrival, "first_us": first, "last_us": first + 5e6, "status": "ok"})
    assert replay_metrics.saturated(table, "first_us", "last_us") is grows


def test_metrics_of_a_table_worked_by_hand():
    table = replay_experiment(requests([0.0, 50_000.0], output=11), SEVEN_B, lambda batch: 1000.0)
    table = table.assign(
        measured_e2e_us=[10_000.0, 10_000.0], first_us=[500.0, 50_500.0], last_us=[10_000.0, 60_000.0]
    )
    metrics = replay_metrics.experiment_metrics("one", table)
    assert metrics["e2e_mean_error"] == pytest.approx(10.0)
    assert metrics["e2e_mape"] == pytest.approx(10.0)
    assert metrics["throughput_error"] == pytest.approx(100 * (60_000 / 61_000 - 1))
    assert np.isnan(metrics["ttft_mean_error"])
    assert not metrics["saturated"]


# --- from a log


def test_a_log_of_one_request_replays(tmp_path):
    folder = Server([10_000] * 80).serve(3, 50).write_tracev2(tmp_path / "runs")
    recorded = from_log(*read_experiment(folder, LOGS), LOGS.assume)
    done = replay_recorded(recorded, Constant(10_000.0))
    assert done.run.requests == 1
    assert done.run.itl_mean_error == pytest.approx(0, abs=0.01)
    assert recorded.prefix_hits == "assumed: prefill_tokens=repeat"


def test_prefix_hits_of_the_log_go_before_the_assumption(tmp_path):
    cells = {"prefix_group": "a", "prefix_length": 64, "input_tokens": 36}
    server = Server([10_000] * 80).serve(3, 50, logged=cells).serve(5, 50, logged=cells)
    recorded = from_log(*read_experiment(server.write_tracev2(tmp_path / "runs"), LOGS), LOGS.assume)
    assert recorded.requests["cached_tokens"].tolist() == [64, 64]
    assert recorded.prefix_hits == "recorded"
    assert recorded.requests["prefix_group"].nunique() == 1


def test_an_entry_counts_the_requests_that_were_replayed_beside_those_of_the_log(tmp_path):
    folder = Server([10_000] * 400).serve_at_random(60).fail(5).write_tracev2(tmp_path / "runs")
    found = replay_all(
        {folder.name: lambda: from_log(*read_experiment(folder, LOGS), LOGS.assume)},
        Constant(10_000.0),
        Job(),
    ).found
    (run,) = found.experiments
    assert run.requests >= 60
    assert (run.logged, run.failed) == (run.requests + 5, 5)


def oracle(recorded):
    """The step time as a function of simulated time: the recovered clock's period; it keeps time as the
    scheduler does.
    """
    rows = recorded.requests[recorded.requests["output_tokens"] > 1]
    first, last, steps = (rows[name].to_numpy(float) for name in ("first_us", "last_us", "output_tokens"))
    found = clock.invert(clock.Intervals(first, last, steps - 1))
    times = np.arange(rows["first_us"].min(), rows["last_us"].max(), 50_000.0)
    period = pd.Series(found.clock.window_at(found.clock.steps_at(times))[2]).ffill().bfill().tolist()
    arrival, start, state = recorded.requests["arrival_us"].to_numpy(), times[0], {"now": 0.0}

    def step_us(batch):
        for request, _, _ in batch.chunks:
            state["now"] = max(state["now"], arrival[request])
        taken = period[min(max(int((state["now"] - start) / 50_000), 0), len(period) - 1)]
        state["now"] += taken
        return taken

    return step_us


@pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"no shared request logs at {SHARED.parent.name}/{SHARED.name}"
)
@pytest.mark.parametrize(
    "name", ["llama-2-7b-tp1-roleplay", "llama-2-70b-hf-tp4-codegen", "codellama-34b-tp2-roleplay"]
)
def test_the_recovered_clock_as_predictor_gives_the_measured_latency(name):
    folder = next(path for path in find(SHARED, REQUEST_FILES) if path.name.endswith(name))
    recorded = from_log(*read_experiment(folder, LOGS), LOGS.assume)
    overheads = replay_overheads.estimate([recorded])
    table = replay_experiment(recorded.requests, recorded.experiment, oracle(recorded), overheads)
    metrics = replay_metrics.experiment_metrics(folder.name, table)
    assert abs(metrics["e2e_mean_error"]) < 2
    assert abs(metrics["itl_mean_error"]) < 2
