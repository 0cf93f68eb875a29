"""Folds of a sweep as jobs of a launcher: the same table, one parent, and one line where a job is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow.tracking import MlflowClient
from processes import h3

SWEEP = ("-m", "fold=lowo_general,lomo_mixtral", "debug=quick", "tune.trials=1")


def results(folder: Path) -> dict[str, dict]:
    """fold → its result.json, without the run's id and times."""
    found = [json.loads(path.read_text()) for path in folder.glob("multirun/*/*/*/result.json")]
    return {
        each["fold"]: {name: each[name] for name in set(each) - {"mlflow_run_id", "seconds"}}
        for each in found
    }


def runs(folder: Path, role: str) -> list:
    client = MlflowClient(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    return list(
        client.search_runs([client.get_experiment_by_name("h3").experiment_id], f"tags.`h3.role` = '{role}'")
    )


def table(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("| l")]


def test_jobs_of_submitit_give_the_table_of_a_serial_sweep_under_one_parent(tmp_path):
    printed = {}
    for name, launcher in {"serial": (), "submitit": ("hydra/launcher=submitit_local",)}.items():
        (tmp_path / name).mkdir()
        done = h3(tmp_path / name, "train", *SWEEP, *launcher)
        assert done.returncode == 0, done.stderr
        printed[name] = table(done.stdout)
    assert len(printed["serial"]) == 2 and printed["submitit"] == printed["serial"]
    assert len(results(tmp_path / "serial")) == 2
    assert results(tmp_path / "submitit") == results(tmp_path / "serial")
    (parent,) = runs(tmp_path / "submitit", "sweep")
    jobs = runs(tmp_path / "submitit", "fold")
    assert {run.data.tags["mlflow.parentRunId"] for run in jobs} == {parent.info.run_id}
    assert len({run.data.tags["h3.process"] for run in [*jobs, parent]}) == 3  # each a process of its own


def test_a_bad_fold_is_one_line_from_a_job_too_and_the_other_is_finished(tmp_path):
    done = h3(tmp_path, "train", "-m", "fold=lomo,lowo_general", *SWEEP[2:], "hydra/launcher=submitit_local")
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "fold=lomo needs fold.holdout=NAME" in line and "Traceback" not in done.stderr
    assert sorted(run.info.status for run in runs(tmp_path, "fold")) == ["FAILED", "FINISHED"]


@pytest.mark.parametrize("launcher", ["submitit_local", "laptop"])
def test_a_job_that_is_killed_is_one_line_and_its_fold_is_not_finished(tmp_path, launcher):
    sweep = subprocess.Popen(
        [sys.executable, "-m", "h3.train", *SWEEP, f"hydra/launcher={launcher}"],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(1000):  # until a fold is under way
        time.sleep(0.1)
        if (tmp_path / "mlruns" / "mlflow.db").is_file() and (there := started(tmp_path)):
            break
    assert psutil.Process(there).pid in {child.pid for child in psutil.Process(sweep.pid).children(True)}
    os.kill(there, signal.SIGKILL)
    _, err = sweep.communicate(timeout=200)
    assert sweep.returncode == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert "a job of the sweep was lost" in line and "resume=true" in line
    assert "Traceback" not in err.split("error:")[1]
    assert [run.info.status for run in runs(tmp_path, "sweep")] == ["FAILED"]
    assert "RUNNING" not in {run.info.status for run in runs(tmp_path, "fold")}


def started(folder: Path) -> int:
    """The process of a fold that runs; 0 while none does."""
    try:
        processes = [
            run.data.tags["h3.process"] for run in runs(folder, "fold") if run.info.status == "RUNNING"
        ]
    except Exception:
        return 0  # the database is being made
    return int(processes[0].split(":")[1]) if processes else 0


def test_jobs_of_slurm_are_told_their_sweep_and_ask_for_what_the_command_says(tmp_path):
    asked = ("partition=long", "timeout_min=30", "mem_gb=16")
    done = h3(
        tmp_path,
        "train",
        *("--cfg", "all", "-p", "hydra.launcher", "--resolve", "threads=3"),
        "hydra/launcher=slurm",
        *(f"hydra.launcher.{each}" for each in asked),
        H3_PARENT_RUN="0123abc",
    )
    assert done.returncode == 0, done.stderr
    launcher = yaml.safe_load(done.stdout)
    assert launcher["_target_"].endswith("SlurmLauncher")
    assert launcher["setup"] == ["export H3_PARENT_RUN=0123abc"]
    given = {name: launcher[name] for name in ("partition", "timeout_min", "mem_gb", "cpus_per_task")}
    assert given == {"partition": "long", "timeout_min": 30, "mem_gb": 16, "cpus_per_task": 3}
