"""python -m h3.train and h3.ingest as a user runs them: real processes, a real tracking store, what they
leave behind.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from processes import h3

QUICK = ("debug=quick",)
ROOT = Path(__file__).parents[2]


def result_of(folder: Path) -> dict:
    (path,) = folder.glob("outputs/*/*/result.json")
    return json.loads(path.read_text())


def store(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")


def runs(folder: Path) -> dict[str, list]:
    """All runs by role."""
    client = store(folder)
    found = client.search_runs([client.get_experiment_by_name("h3").experiment_id])
    return {role: [run for run in found if run.data.tags["h3.role"] == role] for role in ("sweep", "fold")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("single")
    return folder, h3(folder, "train", "fold=lowo_general", *QUICK)


def test_one_fold_leaves_a_complete_result(trained):
    folder, done = trained
    assert done.returncode == 0, done.stderr
    result = result_of(folder)
    named = {
        "fold",
        "kind",
        "holdout",
        "source",
        "n_train",
        "n_test",
        "mape",
        "mape_micro",
        "bias",
        "median_ape",
        "p99_ape",
        "pearson_r",
        "mape_base",
        "phases",
        "experiments",
        "mlflow_run_id",
        "model_digest",
        "seconds",
        "mape_interval",
    }
    assert named <= set(result)
    assert (result["fold"], result["kind"], result["holdout"]) == ("lowo_general", "lowo", "general")
    assert set(result["phases"]) == {"prefill", "decode", "mixed"}
    assert {row["workload"] for row in result["experiments"]} == {"general"}
    assert result["mape"] == pytest.approx(
        sum(row["mape"] for row in result["experiments"]) / len(result["experiments"])
    )
    assert result["mape_interval"][0] <= result["mape"] <= result["mape_interval"][1]
    assert sum(row["n"] for row in result["experiments"]) == result["n_test"]


def test_the_fold_table_and_the_way_to_the_ui_are_printed(trained):
    assert "| lowo_general |" in trained[1].stdout
    assert "make ui" in trained[1].stdout


def test_a_fold_is_a_nested_run_with_metrics_data_figures_and_model(trained):
    folder, _ = trained
    (parent,), (fold,) = runs(folder)["sweep"], runs(folder)["fold"]
    assert fold.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.info.status == fold.info.status == "FINISHED"
    result = result_of(folder)
    assert fold.info.run_id == result["mlflow_run_id"]
    assert fold.data.metrics["mape"] == pytest.approx(result["mape"])
    assert fold.data.params["fold"] == "lowo_general"
    assert {item.dataset.digest for item in fold.inputs.dataset_inputs} == {result["data_digest"]}
    artifacts = {item.path for item in store(folder).list_artifacts(fold.info.run_id)}
    assert {
        "predictions.parquet",
        "config.yaml",
        "result.json",
        "versions.json",
        "fit.json",
        "figures",
        "ingest.json",
    } <= artifacts
    figures = {item.path for item in store(folder).list_artifacts(fold.info.run_id, "figures")}
    expected = ("error_distribution", "predicted_against_measured", "error_by_batch_and_phase")
    assert {f"figures/{name}.png" for name in expected} <= figures


def test_predictions_are_logged_with_the_truth_that_the_metrics_came_from(trained):
    folder, _ = trained
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    path = mlflow.artifacts.download_artifacts(
        run_id=result_of(folder)["mlflow_run_id"], artifact_path="predictions.parquet"
    )
    frame = pd.read_parquet(path)
    errors = (frame["predicted_us"] / frame["observed_us"] - 1).abs() * 100
    assert errors.groupby(frame["experiment"]).mean().mean() == pytest.approx(result_of(folder)["mape"])


def test_the_logged_model_loads_and_gives_the_margin_of_the_trees(trained):
    folder, _ = trained
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    booster = mlflow.xgboost.load_model(f"runs:/{result_of(folder)['mlflow_run_id']}/model")
    assert booster.num_boosted_rounds() == result_of(folder)["params"]["n_estimators"]


def test_the_same_seed_gives_the_same_model_and_numbers(trained, tmp_path):
    again = h3(tmp_path, "train", "fold=lowo_general", *QUICK)
    assert again.returncode == 0, again.stderr
    first, second = result_of(trained[0]), result_of(tmp_path)
    assert second["model_digest"] == first["model_digest"]
    assert second["mape"] == pytest.approx(first["mape"], abs=1e-9)


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A sweep over the eight folds, two processes at a time."""
    folder = tmp_path_factory.mktemp("swept")
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "tune.trials=1")
    done = h3(folder, "train", "-m", "fold=glob([lomo_*,lowo_*])", *parallel, *QUICK)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_sweep_is_one_parent_with_a_child_a_fold_and_runs_in_parallel(swept):
    (parent,), folds = runs(swept)["sweep"], runs(swept)["fold"]
    assert {run.data.params["fold"] for run in folds} == {
        "lomo_llama2_7b",
        "lomo_llama2_70b",
        "lomo_codellama_34b",
        "lomo_mixtral",
        "lowo_general",
        "lowo_codegen",
        "lowo_roleplay",
        "lowo_reasoning",
    }
    assert {run.data.tags["mlflow.parentRunId"] for run in folds} == {parent.info.run_id}
    assert parent.info.status == "FINISHED"
    worst = max(run.data.metrics["mape"] for run in folds if run.data.params["kind"] == "lomo")
    assert parent.data.metrics["lomo_worst_mape"] == pytest.approx(worst)
    assert worst < 20


def results_of(folder: Path) -> dict[str, dict]:
    """fold → what its result.json says of the fold, without the run's id and times."""
    found = [json.loads(path.read_text()) for path in folder.glob("multirun/*/*/*/result.json")]
    return {
        result["fold"]: {
            key: value for key, value in result.items() if key not in ("mlflow_run_id", "seconds")
        }
        for result in found
    }


def leaves(value: object, name: str = "") -> dict[str, object]:
    """Nested content as path → leaf."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for part, each in parts for key, leaf in leaves(each, f"{name}.{part}").items()}
    return {name: value}


def test_results_are_the_same_whatever_the_order_of_the_folds_and_the_number_of_processes(swept, tmp_path):
    done = h3(tmp_path, "train", "-m", "fold=lowo_codegen,lomo_mixtral", "tune.trials=1", *QUICK)
    assert done.returncode == 0, done.stderr
    parallel, serial = results_of(swept), results_of(tmp_path)
    assert set(serial) == {"lowo_codegen", "lomo_mixtral"}
    for fold, result in serial.items():
        expected, found = leaves(parallel[fold]), leaves(result)
        assert set(found) == set(expected)
        numbers = [name for name, value in expected.items() if isinstance(value, float)]
        assert len(numbers) > 20
        assert [found[name] for name in numbers] == pytest.approx(
            [expected[name] for name in numbers], rel=1e-9, abs=1e-9, nan_ok=True
        )
        assert {name: found[name] for name in set(found) - set(numbers)} == {
            name: expected[name] for name in set(found) - set(numbers)
        }


def test_a_fold_that_fails_fails_its_parent_and_the_others_still_run(tmp_path):
    done = h3(tmp_path, "train", "-m", "fold=lomo,lowo_general", *QUICK)
    assert done.returncode == 2
    assert (
        "fold.holdout=NAME; there are codellama-34b, llama-2-70b, llama-2-7b, mixtral-8x7b-v0-1"
        in done.stderr
    )
    (parent,), folds = runs(tmp_path)["sweep"], runs(tmp_path)["fold"]
    assert parent.info.status == "FAILED"
    assert sorted(run.info.status for run in folds) == ["FAILED", "FINISHED"]


def test_a_killed_run_leaves_nothing_running(tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "h3.train",
            "-m",
            "fold=lomo_mixtral,lowo_general",
            "source=simulated",
            "source.workers=1",
        ],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("[lomo_mixtral] data"):
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    ended = [run for role in runs(tmp_path).values() for run in role]
    assert {run.info.status for run in ended} == {"KILLED"}
    assert all("SIGTERM" in run.data.tags["h3.error"] for run in ended)


def test_two_processes_may_start_on_an_empty_store_at_once(tmp_path):
    command = [sys.executable, "-m", "h3.train", "fold=lomo_mixtral", *QUICK]
    options = {
        "env": {**os.environ, "MLFLOW_TRACKING_URI": ""},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    both = [subprocess.Popen(command, cwd=tmp_path, **options) for _ in range(2)]
    printed = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert len(runs(tmp_path)["fold"]) == 2


def test_the_generic_fold_takes_a_huggingface_id_and_within_folds_stay_inside_mixtral(tmp_path):
    done = h3(tmp_path, "train", "fold=lomo", "fold.holdout=mistralai/Mixtral-8x7B-v0.1", *QUICK)
    assert done.returncode == 0, done.stderr
    assert result_of(tmp_path)["holdout"] == "mixtral-8x7b-v0-1"
    within = tmp_path / "within"
    within.mkdir()
    done = h3(within, "train", "fold=within_mixtral", "fold.holdout=codegen", *QUICK)
    assert done.returncode == 0, done.stderr
    assert [row["model"] for row in result_of(within)["experiments"]] == ["mixtral-8x7b-v0-1"]
    assert result_of(within)["fold"] == "within_mixtral_codegen"


def test_the_studys_recipe_runs_on_its_own_clock_and_fails_as_it_did(tmp_path):
    done = h3(tmp_path, "train", "experiment=study_h3", "fold=lomo_llama2_7b", *QUICK)
    assert done.returncode == 0, done.stderr
    result = result_of(tmp_path)
    assert (result["target"], result["model"], result["features"]) == ("duration_us", "xgboost_raw", "raw30")
    assert result["mape"] > 50


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tune.trils=3",), "unknown key 'tune.trils'; expected one of trials, max_rows, storage"),
        (("+tune.trils=3",), "unknown key 'tune.trils'; expected one of trials, max_rows, storage"),
        (("tune.trials=-1",), "tune.trials=-1"),
        (("fold=nope",), "lomo_mixtral"),
        (("fold=lomo", "fold.holdout=gpt"), "model 'gpt' is not in the data; there are codellama-34b"),
        (("source=requests",), "source.path=DIR"),
        (
            ("source=requests", "source.path=nowhere"),
            "nowhere: does not exist; expected a folder of experiment folders",
        ),
        (("+model.params.depth=3",), "unknown parameter 'depth'"),
        (("tracking.uri=http://127.0.0.1:9",), "tracking store"),
        (
            ("source.name=guess",),
            "source.name='guess'; expected one of h100, h100_wide, stage_means, simulated",
        ),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, arguments, said):
    done = h3(tmp_path, "train", *arguments, *QUICK)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert said in errors[0]
    assert "Traceback" not in done.stderr
    assert "source.name" not in said or not (tmp_path / "mlruns").exists()


def test_ingest_writes_steps_and_rejects_that_training_can_read(tmp_path):
    done = h3(tmp_path, "ingest", "source=simulated", "source.scale=0.02", "out=steps.parquet")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "steps.rejects.parquet").is_file()
    done = h3(
        tmp_path, "train", "source=steps", "source.path=steps.parquet", "fold=lowo_general", "tune.trials=0"
    )
    assert done.returncode == 0, done.stderr
    assert result_of(tmp_path)["source"] == "steps"
