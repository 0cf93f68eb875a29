"""A sweep that is stopped on the way, and gone on with: nothing finished is lost, nothing is there twice."""

from __future__ import annotations

import signal
from pathlib import Path

import pandas as pd
import pytest
from processes import h3
from sweeps_of import results, runs, stopped_at

from h3.steps import schema

FOLDS = "fold=lowo_general,lomo_mixtral"
QUICK = ("-m", FOLDS, "debug=quick", "tune.storage=mlruns/tune")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, dict]:
    """Results of the sweep that nobody stops."""
    folder = tmp_path_factory.mktemp("whole")
    done = h3(folder, "train", *QUICK)
    assert done.returncode == 0, done.stderr
    return results(folder)


def check_whole(folder: Path, expected: dict[str, dict]) -> None:
    """The same table to 1e-9, a run a fold, nothing running and nothing that waits."""
    found = results(folder)
    assert set(found) == set(expected)
    for fold, result in expected.items():
        numbers = [name for name, value in result.items() if isinstance(value, float)]
        assert [found[fold][name] for name in numbers] == pytest.approx(
            [result[name] for name in numbers], abs=1e-9
        )
        assert found[fold]["model_digest"] == result["model_digest"]
    known = runs(folder)
    assert [run["status"] for run in known] == ["FINISHED"] * len(known)
    assert sorted(run["name"] for run in known if run["role"] == "fold") == [
        "lomo_mixtral-xgboost_residual",
        "lowo_general-xgboost_residual",
    ]
    assert not list((folder / "mlruns" / "unsent").glob("*"))


@pytest.mark.parametrize(("line", "after_s"), [("[lowo_general] tune", 0.2), ("[lomo_mixtral] track", 0.05)])
def test_a_killed_sweep_ends_with_the_same_table_and_no_run_twice(whole, tmp_path, line, after_s):
    stopped_at(tmp_path, line, signal.SIGKILL, *QUICK, after_s=after_s)
    again = h3(tmp_path, "train", *QUICK, "resume=true")
    assert again.returncode == 0, again.stderr
    assert "goes on with the sweep of run " in again.stderr
    check_whole(tmp_path, whole)


def test_ctrl_c_marks_runs_killed_and_says_what_is_kept_and_how_to_go_on(whole, tmp_path):
    status, said = stopped_at(tmp_path, "[lomo_mixtral] data", signal.SIGINT, *QUICK, after_s=0.1)
    assert status == 130
    assert "stopped by Ctrl-C: 1 finished folds are kept; go on with: python -m h3.train -m" in said
    assert said.splitlines()[-2].endswith("resume=true")
    assert "Traceback" not in said
    assert [(run["role"], run["status"]) for run in runs(tmp_path)] == [
        ("sweep", "KILLED"),
        ("fold", "FINISHED"),
        ("fold", "KILLED"),
    ]
    assert "Ctrl-C" in runs(tmp_path)[-1]["error"]
    assert h3(tmp_path, "train", *QUICK, "resume=true").returncode == 0
    check_whole(tmp_path, whole)


def test_whoever_comes_next_closes_a_killed_sweep_says_so_and_passes_over_it(tmp_path):
    stopped_at(tmp_path, "[lomo_mixtral] data", signal.SIGKILL, *QUICK)
    assert {run["status"] for run in runs(tmp_path)} == {"RUNNING", "FINISHED"}
    done = h3(tmp_path, "compare")
    assert "was killed: not all of its folds are there" in done.stderr
    killed = [run for run in runs(tmp_path) if run["status"] == "KILLED"]
    assert {run["role"] for run in killed} == {"sweep", "fold"}
    assert all("is gone" in run["error"] for run in killed)
    done = h3(tmp_path, "train", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "an interrupted sweep of the same code and configuration is kept" in done.stderr
    assert "1 folds finished); resume=true goes on with it (make train ARGS=resume=true)" in done.stderr
    stopped_at(tmp_path, "[lowo_general] tune", signal.SIGKILL, *QUICK)
    done = h3(tmp_path, "compare")
    assert done.returncode == 0, done.stderr
    assert "is newer but was killed; judged here:" in done.stderr


def test_without_one_to_go_on_with_a_sweep_starts_anew_and_says_so(tmp_path):
    done = h3(tmp_path, "train", "fold=lomo_mixtral", "debug=quick", "resume=true")
    assert done.returncode == 0, done.stderr
    assert "nothing to go on with" in done.stderr


def test_folds_of_other_data_are_not_kept(tmp_path):
    path = tmp_path / "steps.parquet"
    made = h3(tmp_path, "ingest", "source=simulated", "source.scale=0.02", f"out={path}")
    assert made.returncode == 0, made.stderr
    asked = ("source=steps", f"source.path={path}", "fold=lomo_mixtral", "tune.trials=0")
    assert h3(tmp_path, "train", *asked).returncode == 0
    kept = h3(tmp_path, "train", *asked, "resume=true")
    assert "kept: run" in kept.stderr and "fit" not in kept.stderr
    table, _ = schema.read(path)
    path.unlink()
    schema.write(table.iloc[:-1], pd.DataFrame({"reason": []}), path, {})
    changed = h3(tmp_path, "train", *asked, "resume=true")
    assert changed.returncode == 2
    assert "resume=true: the data of lomo_mixtral are not those of the interrupted sweep" in changed.stderr
    assert "Traceback" not in changed.stderr
