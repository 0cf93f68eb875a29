"""Replays of a fold: overheads are blind to what is held out, and whatever cannot be replayed never costs a
fold its errors.
"""

import json
import shutil

import pandas as pd
import pytest
from builders import Server

from h3.common.config import TrainConfig
from h3.evaluation.folds import make_split
from h3.evaluation.one_fold import Outcome
from h3.evaluation.result import FoldResult
from h3.latency.fold import replay_fold
from h3.models.peers.ridge_per_experiment import Params as RidgeParams
from h3.models.peers.ridge_per_experiment import RidgePerExperiment
from h3.models.protocol import Context
from h3.models.xgboost_residual import Params, XGBoostResidual
from h3.sources.requests import steps
from h3.train import train

TRAINED, HELD_OUT = "20260101-000000-llama-2-7b-tp1-general", "20260101-000001-llama-2-70b-tp4-general"
NO_ROOM = "20260101-000002-llama-2-70b-tp1-general"
PERIOD_US, USUAL_QUEUE_US = 15_000.0, 30_000.0


def write(folder, name, queue_us=USUAL_QUEUE_US):
    """A request log whose requests wait so long for their first token."""
    slower = 3 if name == NO_ROOM else 1  # one GPU reads 138 GB in 41 ms at best
    server = Server([slower * PERIOD_US] * 1500).serve_at_random(200)
    server.changes = {
        index: {"arrival_time_us": first - queue_us} for index, first in enumerate(server.first_us())
    }
    return server.write_tracev2(folder, name)


def config_of(folder, model="xgboost_residual", holdout="llama-2-70b", **settings):
    return TrainConfig(
        source={"name": "requests", "path": str(folder), "assume": {"prefill_tokens": "repeat"}},
        fold={"name": "lomo", "kind": "lomo", "holdout": holdout},
        model={"name": model, "params": {"n_estimators": 0} if model == "xgboost_residual" else {}},
        features={"name": "scale_free"},
        **settings,
    )


def outcome_of(config):
    """The fold's fit and split, without its errors."""
    table = steps.load(config.source).table
    split = make_split(table, config.fold)
    if config.model.name == "ridge_per_experiment":
        fitted = RidgePerExperiment(RidgeParams()).fit_inside(split.inputs, split.truth, Context())
    else:
        fitted = XGBoostResidual(Params(n_estimators=0)).fit(split.train, Context())
    errors = {"n_test": 0, "mape": None, "mape_interval": (None, None)}
    names = {"fold": "lomo", "kind": "lomo", "holdout": split.holdout, "model": config.model.name}
    result = FoldResult(**errors, **names, data_digest="")
    return Outcome(result, pd.DataFrame(), pd.DataFrame(), fitted, split, Context())


def replayed(outcome, config, **options):
    """What result.json keeps of the replay, and figures."""
    found, figures = replay_fold(outcome, config, **options)
    return found.recorded(), figures


@pytest.fixture
def runs(tmp_path):
    """Two experiments; the one held out keeps its requests waiting for a second."""
    write(tmp_path / "runs", TRAINED)
    write(tmp_path / "runs", HELD_OUT, queue_us=1e6)
    return tmp_path / "runs"


def test_a_fold_replays_its_held_out_experiments_and_its_overheads_do_not_see_their_queue(runs):
    config = config_of(runs)
    content, figures = replayed(outcome_of(config), config, biases_percent=(-5, 5))
    assert [entry["experiment"] for entry in content["experiments"]] == [HELD_OUT]
    overheads = content["overheads"]
    before_us = overheads["queueing_us"] + (1.5 + overheads["pipeline_steps"]) * PERIOD_US
    assert before_us == pytest.approx(USUAL_QUEUE_US, rel=0.02)
    assert content["overheads_estimated"]
    assert content["overheads_left_out"] == []
    assert set(figures) == {"replay_e2e_ecdf", "replay_running", "replay_sensitivity"}
    assert [point["bias_percent"] for point in content["sensitivity"]] == [-5, 0, 5]
    json.dumps(content)


def test_an_experiment_whose_kv_cache_has_no_room_is_listed_and_the_others_are_replayed(runs):
    write(runs, NO_ROOM)
    config = config_of(runs)
    content, _ = replayed(outcome_of(config), config)
    assert [entry["experiment"] for entry in content["experiments"]] == [HELD_OUT]
    (failed,) = content["failed"]
    assert failed["experiment"] == NO_ROOM
    assert "leave no room for a KV cache" in failed["reason"]


def test_a_training_log_whose_kv_cache_has_no_room_still_tells_of_overheads(runs):
    write(runs, NO_ROOM, queue_us=1e6)
    config = config_of(runs, holdout="llama-2-7b")
    content, _ = replayed(outcome_of(config), config)
    assert [entry["experiment"] for entry in content["experiments"]] == [TRAINED]
    assert content["overheads"]["queueing_us"] + content["overheads"]["pipeline_steps"] * PERIOD_US > 5e5


@pytest.mark.parametrize("broken", [TRAINED, HELD_OUT])
def test_a_log_that_cannot_be_read_is_listed_with_the_reason(runs, broken):
    config = config_of(runs)
    outcome = outcome_of(config)
    (runs / broken / "data.csv").write_text("no,such,columns\n")
    content, _ = replayed(outcome, config)
    listed = content["overheads_left_out" if broken == TRAINED else "failed"]
    assert [entry["experiment"] for entry in listed] == [broken]
    assert "unknown column 'no'" in listed[0]["reason"]
    assert content["overheads_estimated"] is (broken != TRAINED)


def test_a_replay_that_cannot_start_says_why(runs):
    config = config_of(runs)
    outcome = outcome_of(config)
    shutil.rmtree(runs)
    content, figures = replayed(outcome, config)
    assert list(content) == ["skipped"]
    assert "runs: does not exist" in content["skipped"]
    assert figures == {}


def test_a_fold_without_one_experiment_to_replay_keeps_its_errors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (TRAINED, "20260101-000003-codellama-34b-tp2-general", NO_ROOM):
        write(tmp_path / "runs", name)
    config = config_of(tmp_path / "runs", tracking={"uri": f"sqlite:///{tmp_path / 'mlflow.db'}"})
    assert train(config, tmp_path).mape > 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["mape"] > 0
    assert [entry["experiment"] for entry in result["replay"]["failed"]] == [NO_ROOM]


@pytest.mark.parametrize(("model", "noted"), [("ridge_per_experiment", True), ("xgboost_residual", False)])
def test_a_predictor_trained_inside_the_replayed_runs_is_marked(runs, model, noted):
    config = config_of(runs, model)
    content, _ = replayed(outcome_of(config), config)
    assert [entry["experiment"] for entry in content["experiments"]] == [HELD_OUT]
    assert ("trained on steps of the replayed runs" in content.get("note", "")) is noted
