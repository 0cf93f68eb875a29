"""Trees trained in memory, from batches on disk, and by Dask's worker processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dask
import distributed
import numpy as np
import psutil
import pytest
import xgboost as xgb
from builders import Steps
from processes import h3

from h3.common.config import FeaturesConfig, ModelConfig, TrainConfig, validated
from h3.common.errors import InputError
from h3.models import physical_base, xgboost_residual, xgboost_scale_free, zoo
from h3.models.engines import dask_cluster, engine, external
from h3.models.engines.rows import Rows
from h3.models.protocol import Context, digest
from h3.steps import features, peak

MODELS = ("llama-2-7b", "llama-2-70b", "codellama-34b", "qwen3-14b", "yi-34b")
PARAMS = {
    "max_depth": 4,
    "learning_rate": 0.1,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "tree_method": "hist",
    "objective": "reg:squarederror",
    "base_score": 0.0,
    "seed": 3,
    "nthread": 1,
}
ROUNDS = 40
# Mean and largest |ln(prediction / prediction of memory)|.
CLOSE = {"external": (1e-3, 1e-2), "dask": (5e-3, 5e-2)}
PREDICTORS = {
    "xgboost_residual": {"n_estimators": ROUNDS},
    "xgboost_scale_free": {"n_estimators": ROUNDS, "min_child_weight": 5.0},
    "xgboost_raw": {"n_estimators": ROUNDS},
}


def served(rows: int = 800):
    """Steps of a server that takes a fifth longer than its roofline, and 50 us a layer."""
    built = Steps(0)
    for model in MODELS:
        built.run(model, rows)
    slower = built.timed(
        lambda steps: 1.2 * peak.roofline_us(peak.parts_us(steps)) + 50 * steps["num_layers"], noise=0.01
    )
    return slower.table()


TABLE = served()


def some_rows(weighted: bool = True) -> Rows:
    """What the base leaves over of four thousand steps, weighing between a half and two."""
    base = physical_base.fit(TABLE, "period_us").predict(TABLE)
    weight = np.random.default_rng(0).uniform(0.5, 2, len(TABLE))
    label = np.log(TABLE["period_us"].to_numpy() / base)
    return Rows(features.build("scale_free", TABLE), label, weight if weighted else None)


def off(booster: xgb.Booster, other: xgb.Booster, rows: Rows) -> tuple[float, float]:
    """Mean and largest difference of what two boosters say."""
    data = xgb.DMatrix(rows.matrix)
    difference = np.abs(booster.predict(data) - other.predict(data))
    return float(difference.mean()), float(difference.max())


def assert_close(difference: tuple[float, float], name: str):
    mean, largest = CLOSE[name]
    assert difference[0] <= mean and difference[1] <= largest


@contextmanager
def scheduler(workers: int):
    """A Dask scheduler of our own with so many worker processes."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        dask.config.set(temporary_directory=scratch),
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as started,
    ):
        yield started


@pytest.fixture(scope="module")
def cluster():
    """One for all tests here that give an address."""
    with scheduler(2) as started:
        yield started


def ranks(said: tuple[str, str]) -> set[str]:
    """Addresses of the workers that XGBoost says it trains on."""
    return set(re.findall(r"(\S+) got rank", "".join(said).replace("]:", " ")))


def at(cluster, **changes) -> Context:
    return Context(engine="dask", dask_address=cluster.scheduler_address, **changes)


@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "all the same"])
@pytest.mark.parametrize("rounds", [0, 1, ROUNDS])
def test_memory_is_xgboost_train_to_the_byte(weighted, rounds):
    rows = some_rows(weighted)
    data = xgb.DMatrix(rows.matrix, label=rows.label, weight=rows.weight)
    expected = xgb.train(PARAMS, data, rounds)
    assert engine.train(PARAMS, rows, rounds, Context()).save_raw("json") == expected.save_raw("json")


@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "all the same"])
@pytest.mark.parametrize("batch_rows", [300, 1000, 3999, 4000])
def test_external_memory_agrees_with_memory_however_many_batches(batch_rows, weighted):
    rows = some_rows(weighted)
    booster = external.train(PARAMS, rows, ROUNDS, batch_rows)
    memory = engine.train(PARAMS, rows, ROUNDS, Context())
    assert booster.num_boosted_rounds() == ROUNDS
    assert_close(off(booster, memory, rows), "external")


def test_external_memory_reads_so_many_batches_and_leaves_none_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    read, load = set(), np.load

    def watched(path, **options):
        read.add(path.parent.name)
        return load(path, **options)

    monkeypatch.setattr(np, "load", watched)
    external.train(PARAMS, some_rows(), 2, batch_rows=1000)
    assert len(read) == 4 and not list(tmp_path.iterdir())


def test_external_memory_leaves_nothing_behind_if_the_fit_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(xgb.core.XGBoostError):
        external.train({**PARAMS, "max_depth": -1}, some_rows(), 2, batch_rows=1000)
    assert not list(tmp_path.iterdir())


def test_both_worker_processes_of_a_scheduler_train_and_agree_with_memory(capfd):
    rows = some_rows(weighted=False)
    with scheduler(2) as cluster:
        booster = engine.train(PARAMS, rows, ROUNDS, at(cluster))
        with distributed.Client(cluster) as client:
            processes = client.run(os.getpid)
    assert len({os.getpid(), *processes.values()}) == 3
    assert ranks(capfd.readouterr()) == set(processes)
    assert booster.num_boosted_rounds() == ROUNDS
    assert_close(off(booster, engine.train(PARAMS, rows, ROUNDS, Context()), rows), "dask")


def test_without_an_address_two_processes_are_started_and_end_with_the_fit(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows, before = some_rows(), set(psutil.Process().children())
    booster = engine.train(PARAMS, rows, ROUNDS, Context(engine="dask"))
    trained = ranks(capfd.readouterr())
    assert len(trained) == 2 and all(worker.startswith("tls://127.0.0.1:") for worker in trained)
    assert not list(tmp_path.iterdir())
    left = set(psutil.Process().children()) - before
    assert not [each for each in left if "spawn_main" in " ".join(each.cmdline())]
    assert_close(off(booster, engine.train(PARAMS, rows, ROUNDS, Context()), rows), "dask")


@pytest.mark.parametrize("name", PREDICTORS)
def test_a_predictor_says_about_the_same_from_each_engine(cluster, name):
    features_of = "raw30" if name == "xgboost_raw" else "scale_free"
    context = Context(features=FeaturesConfig(name=features_of))
    elsewhere = {"dask_address": cluster.scheduler_address}
    predictor = zoo.make(name, PREDICTORS[name])
    memory = predictor.fit(TABLE, context).predict(TABLE)
    for other, address in (("external", {}), ("dask", elsewhere)):
        fitted = predictor.fit(TABLE, replace(context, engine=other, **address))
        assert fitted.booster.num_boosted_rounds() == ROUNDS
        assert np.abs(np.log(fitted.predict(TABLE) / memory)).mean() <= 0.02


def test_fits_of_an_engine_are_the_same_twice():
    predictor = zoo.make("xgboost_residual", {"n_estimators": 5})
    assert len({digest(predictor.fit(TABLE, Context(engine="external"))) for _ in range(2)}) == 1


@pytest.mark.parametrize("tuned", [xgboost_residual, xgboost_scale_free], ids=lambda module: module.__name__)
def test_learning_curves_of_the_search_stay_in_memory(tuned):
    train, held_out = TABLE[TABLE["model"] != MODELS[0]], TABLE[TABLE["model"] == MODELS[0]]
    usual = tuned.Params()
    curves = [
        tuned.learning_curve(usual, train.reset_index(drop=True), held_out, context)(usual)
        for context in (Context(), Context(engine="dask", dask_address="tcp://127.0.0.1:1"))
    ]
    assert (curves[0] == curves[1]).all()


def test_what_a_fit_follows_from_names_the_engine_only_if_it_is_not_memory():
    assert "engine" not in Context().describe()
    assert Context(engine="external").describe() == {**Context().describe(), "engine": "external"}


def test_a_run_trains_where_its_configuration_says():
    model = {"name": "xgboost_residual", "engine": "dask", "dask_address": "tcp://host:8786"}
    content = {
        "source": {"name": "simulated"},
        "fold": {"name": "lomo", "kind": "lomo"},
        "model": model,
        "features": {},
    }
    context = Context.of(validated(content, TrainConfig), "model")
    assert (context.engine, context.dask_address) == ("dask", "tcp://host:8786")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"engine": "gpu"}, "engine='gpu'.*'memory', 'external' or 'dask'"),
        ({"dask_address": "tcp://a:1"}, "dask_address=tcp://a:1 needs engine=dask, not engine=memory"),
    ],
)
def test_an_engine_that_is_none_is_refused_in_one_line(given, line):
    with pytest.raises(InputError, match=line):
        validated({"name": "xgboost_residual", **given}, ModelConfig)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://host", "127.0.0.1:99999", "a b"])
def test_an_address_that_does_not_answer_is_one_line(address, monkeypatch):
    monkeypatch.setattr(dask_cluster, "ANSWER_S", 1)
    with pytest.raises(InputError, match="no Dask scheduler answers") as caught:
        engine.train(PARAMS, some_rows(), 2, Context(engine="dask", dask_address=address))
    assert address in str(caught.value) and "\n" not in str(caught.value)


def test_a_scheduler_without_workers_is_one_line(monkeypatch):
    monkeypatch.setattr(dask_cluster, "ANSWER_S", 1)
    with scheduler(0) as alone, pytest.raises(InputError, match="the scheduler has no worker"):
        engine.train(PARAMS, some_rows(), 2, at(alone))


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """A sweep over the engines where Dask cannot be imported."""
    folder = tmp_path_factory.mktemp("swept")
    missing = "raise ModuleNotFoundError(\"No module named 'distributed'\", name='distributed')\n"
    (folder / "distributed.py").write_text(missing)
    path = f"{folder}:{Path(zoo.__file__).parents[2]}"
    asked = ("fold=lowo_general", "+model.params.n_estimators=40", "model.engine=memory,external,dask")
    return folder, h3(folder, "train", "-m", "debug=quick", *asked, PYTHONPATH=path)


def test_without_dask_the_command_says_so_in_one_line(swept):
    _, done = swept
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "error" in line] == [
        "error: model.engine=dask needs Dask, which is not installed; expected pip install 'h3[cluster]', or"
        " model.engine=memory"
    ]
    assert "Traceback" not in done.stderr


def test_a_fold_trained_from_disk_errs_as_one_trained_in_memory_neither_needs_dask(swept):
    folder, _ = swept
    found = {}
    for path in folder.glob("multirun/*/*/*/result.json"):
        (engine_of,) = re.findall(r"model.engine=(\w+)", (path.parent / ".hydra/overrides.yaml").read_text())
        found[engine_of] = json.loads(path.read_text())
    assert set(found) == {"memory", "external"}
    assert found["external"]["mape"] == pytest.approx(found["memory"]["mape"], abs=0.05)
    assert abs(found["memory"]["mape"] - found["memory"]["mape_base"]) > 0.05
