"""python -m h3.replay with every kind of model that it takes, as a user calls it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import builders
import numpy as np
import pandas as pd
import pytest
from processes import h3

from h3.models.protocol import Context
from h3.models.xgboost_residual import Params, XGBoostResidual
from h3.replay import ReplayJobConfig, load_model
from h3.server.overheads import NONE, STUDY_IN_STEPS, Overheads
from h3.tracking import registry
from h3.tracking.store import open_store

GOLDEN = Path(__file__).parents[2] / "go" / "h3bundle" / "testdata" / "bundle"
NAMES = ("20260101-000000-llama-2-7b-tp1-general", "20260101-000001-llama-2-70b-tp4-general")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, str, str]:
    """A folder with two request logs and a store with a champion (the golden bundle) and a fold run; store
    and run id.
    """
    folder = tmp_path_factory.mktemp("replay")
    for name in NAMES:
        builders.Server([15_000] * 400).serve_at_random(60).write_tracev2(folder / "runs", name)
    shutil.copytree(GOLDEN, folder / "model" / "artifacts" / "bundle")
    opened = builders.empty_registry(folder)
    uri = opened.store.uri
    opened.store.client.create_registered_model(registry.NAME)
    opened.store.client.create_model_version(registry.NAME, str(folder / "model"))
    opened.set_alias("champion", "1")
    steps = builders.Steps(seed=1).run("llama-2-7b").run("llama-2-70b").table()
    with opened.store.fold_run(opened.store.start_parent("sweep", {}), "lomo") as run_id:
        fitted = XGBoostResidual(Params(n_estimators=0)).fit(steps, Context())
        replayed = {"overheads": {"queueing_us": 7.0, "pipeline_steps": 1.0}}
        kept = builders.fold_result().recorded() | {"replay": replayed}
        builders.keep(opened.store, run_id, **{"fit.json": fitted.describe(), "result.json": kept})
    return folder, uri, run_id


def replay(world: tuple[Path, str, str], *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    asked = ("source=requests", f"source.path={world[0] / 'runs'}", "biases_percent=[]", *arguments)
    return h3(world[0], "replay", *asked, **environment)


def test_champion_number_and_folder_of_a_bundle_give_the_same_requests_and_say_whose_overheads(world):
    folder, uri, _ = world
    tables = []
    for number, model in enumerate(("champion", "1", "model/artifacts/bundle")):
        environment = {"MLFLOW_TRACKING_URI": uri} if number else {"MLFLOW_TRACKING_URI": ""}
        done = replay(
            world, f"bundle={model}", f"tracking.uri={uri}", f"out=out/{number}.parquet", **environment
        )
        assert done.returncode == 0, done.stderr
        assert (
            "overheads: queueing_us=9300, pipeline_steps=0, post_decode_us=1850, per_token_us=0 (the bundle's"
            " manifest: " in done.stdout
        )
        tables.append(pd.read_parquet(folder / "out" / f"{number}.parquet"))
    assert set(tables[0]["experiment"]) == set(NAMES)
    assert {"predicted_ttft_us", "measured_ttft_us", "predicted_e2e_us", "measured_e2e_us", "status"} <= set(
        tables[0].columns
    )
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


def test_steps_that_a_manifest_has_come_before_the_first_token(world):
    folder, _, _ = world
    shutil.copytree(GOLDEN, folder / "in_steps")
    manifest = json.loads((folder / "in_steps" / "manifest.json").read_text())
    manifest["overheads"]["pipeline_steps"] = 2.0
    (folder / "in_steps" / "manifest.json").write_text(json.dumps(manifest))
    builders.sign_manifest(folder / "in_steps")
    found = []
    for number, model in enumerate((GOLDEN, folder / "in_steps")):
        done = replay(world, f"bundle={model}", f"experiment_id={NAMES[1]}", f"out=steps/{number}.parquet")
        assert done.returncode == 0, done.stderr
        found.append(pd.read_parquet(folder / "steps" / f"{number}.parquet"))
    assert "pipeline_steps=2," in done.stdout
    without, with_steps = found
    later_us = with_steps["predicted_ttft_us"] - without["predicted_ttft_us"]
    np.testing.assert_allclose(later_us, 2 * without["predicted_itl_us"], rtol=1e-6)


def test_a_run_brings_its_own_overheads_and_one_experiment_can_be_asked_for(world):
    folder, uri, run_id = world
    done = replay(
        world, f"bundle={run_id}", f"experiment_id={NAMES[1]}", "out=one.parquet", MLFLOW_TRACKING_URI=uri
    )
    assert done.returncode == 0, done.stderr
    assert "overheads: queueing_us=7, pipeline_steps=1" in done.stdout
    assert "(estimated by the run from its training experiments)" in done.stdout
    assert pd.read_parquet(folder / "one.parquet")["experiment"].unique().tolist() == [NAMES[1]]
    result = max(folder.glob("outputs/*/*_replay/result.json"), key=lambda path: path.stat().st_mtime)
    content = json.loads(result.read_text())
    assert content["overheads_from"] == "estimated by the run from its training experiments"
    assert [entry["experiment"] for entry in content["replay"]["experiments"]] == [NAMES[1]]


@pytest.mark.parametrize(
    ("recorded", "estimated"),
    [
        ({"overheads": {"queueing_us": 0.0, "pipeline_steps": 0.0}, "overheads_estimated": False}, False),
        ({"overheads": {"queueing_us": 0.0, "pipeline_steps": 0.0}}, False),
        ({"skipped": "source=traces holds no requests"}, False),
        ({"overheads": {"queueing_us": 0.0, "pipeline_steps": 0.0}, "overheads_estimated": True}, True),
        ({"overheads": {"queueing_us": 7.0, "pipeline_steps": 0.0}}, True),
    ],
)
def test_only_overheads_that_a_run_estimated_are_taken_for_its_own(world, recorded, estimated):
    store = open_store(world[1], "h3")
    with store.fold_run(store.start_parent("sweep", {}), "lomo") as run_id:
        steps = builders.Steps(seed=1).run("llama-2-7b").table()
        fitted = XGBoostResidual(Params(n_estimators=0)).fit(steps, Context())
        kept = builders.fold_result().recorded() | {"replay": recorded}
        builders.keep(store, run_id, **{"fit.json": fitted.describe(), "result.json": kept})
    settings = {"bundle": run_id, "tracking": {"uri": world[1]}}
    _, overheads, origin = load_model(
        ReplayJobConfig(source={"name": "requests", "path": str(world[0] / "runs")}, **settings)
    )
    if estimated:
        assert overheads == Overheads(**recorded["overheads"])
        assert origin == "estimated by the run from its training experiments"
    else:
        assert overheads == STUDY_IN_STEPS
        assert (
            "mean over the study's request logs, the held-out model's included, so the replay is not blind"
            in origin
        )
    _, overheads, origin = load_model(ReplayJobConfig(source={"name": "simulated"}, **settings))
    assert (overheads, origin) == (NONE, "the simulated server has none")


def test_a_log_that_cannot_be_replayed_is_listed_and_without_any_other_an_error(world, tmp_path):
    for name in NAMES:
        shutil.copytree(world[0] / "runs" / name, tmp_path / "runs" / name)
    (tmp_path / "runs" / NAMES[0] / "data.csv").write_text("no,such,columns\n")
    done = replay((tmp_path, *world[1:]), f"bundle={GOLDEN}")
    assert done.returncode == 0, done.stderr
    assert f"| {NAMES[0]} | – | – | – | – | – |" in done.stdout
    done = replay((tmp_path, *world[1:]), f"bundle={GOLDEN}", f"experiment_id={NAMES[0]}")
    assert done.returncode == 2
    assert "no experiment could be replayed; " in done.stderr
    assert done.stderr.count("\n") == 1


def test_overheads_on_the_command_line_go_before_the_models(world):
    done = replay(world, f"bundle={GOLDEN}", f"experiment_id={NAMES[0]}", "overheads={queueing_us: 5.0}")
    assert done.returncode == 0, done.stderr
    assert (
        "overheads: queueing_us=5, pipeline_steps=0, post_decode_us=0, per_token_us=0 (given)" in done.stdout
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bundle=7",), "no mlruns/mlflow.db here"),
        (("bundle=nothing/here",), "nothing/here: no such folder; expected a bundle"),
        ((f"bundle={GOLDEN}", "experiment_id=other"), f"there are {NAMES[0]}, {NAMES[1]}"),
        (("bundle=" + "0" * 32,), "expected the id of a tracked fold run"),
    ],
)
def test_what_is_not_there_is_one_line(arguments, said, world, tmp_path):
    elsewhere = (tmp_path, *world[1:])
    (tmp_path / "runs").symlink_to(world[0] / "runs")
    done = replay(elsewhere, *arguments, MLFLOW_TRACKING_URI="")
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
