"""A tracking server that is dead, hangs, fails or is lost on the way: said within half a minute, and no fold
is lost.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import h3
from servers import failing_server, free_port, hanging_server, mlflow_server
from sweeps_of import printed, results, runs, started, wait_for

SWEEP = ("-m", "fold=lowo_general,lomo_mixtral", "debug=quick")
PATIENCE_S, SLACK_S = 30, 30  # slack: imports on a machine that is busy


def test_a_server_that_is_dead_hangs_or_fails_is_named_within_half_a_minute(tmp_path):
    """All at once, so that the test waits for the slowest alone."""
    with ExitStack() as stack:
        hangs, fails = stack.enter_context(hanging_server()), stack.enter_context(failing_server())
        asked = [
            (("train", *SWEEP), f"http://127.0.0.1:{hangs}", "no answer in time"),
            (("compare",), f"http://127.0.0.1:{fails}", "its answer is a server error"),
            (
                ("train", "fold=lomo_mixtral"),
                f"http://h3:geheim@127.0.0.1:{free_port()}",
                "connection refused",
            ),
        ]
        processes = [_asking(tmp_path / str(number), *each[:2]) for number, each in enumerate(asked)]
        for process, (_, uri, said) in zip(processes, asked, strict=True):
            told = process.communicate(timeout=PATIENCE_S + SLACK_S)[0]
            assert process.returncode == 2, told
            (error,) = [line for line in told.splitlines() if line.startswith("error:")]
            assert error.endswith(f"cannot be reached: {said}; expected a running store")
            assert uri.replace("geheim", "***") in error
            assert "geheim" not in told and "Traceback" not in told


def _asking(folder: Path, verb: tuple[str, ...], uri: str) -> subprocess.Popen:
    folder.mkdir()
    command = [sys.executable, "-m", f"h3.{verb[0]}", *verb[1:], f"tracking.uri={uri}"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def lost(tmp_path_factory) -> tuple[Path, int]:
    """A sweep whose server was killed while its first fold was computed, and the server's port."""
    folder, port = tmp_path_factory.mktemp("lost"), free_port()
    with mlflow_server(folder, port):
        process = started(folder, *SWEEP, f"tracking.uri=http://127.0.0.1:{port}")
        wait_for(folder, "[lowo_general] tune", process)
    process.wait(timeout=120)
    assert process.returncode == 2
    return folder, port


def test_a_sweep_whose_server_is_lost_keeps_every_fold_and_says_where(lost):
    folder, _ = lost
    said = printed(folder)
    assert "[lowo_general] finished, not tracked: tracking store http://127.0.0.1:" in said
    assert "2 finished folds are kept in mlruns/unsent, `h3 sync` sends them" in said.splitlines()[-1]
    assert said.count("not sent yet |") == 2
    assert "Traceback" not in said
    assert set(results(folder)) == {"lowo_general", "lomo_mixtral"}
    for record in folder.glob("multirun/*/*/*/record.json"):
        kept = {path.name for path in (record.parent / "artifacts").iterdir()}
        assert {"predictions.parquet", "fit.json", "config.yaml", "figures"} <= kept


def test_sync_without_a_server_says_so_and_loses_nothing(lost):
    folder, _ = lost
    waiting = sorted(path.name for path in (folder / "mlruns" / "unsent").iterdir())
    done = h3(folder, "sync")
    assert done.returncode == 2
    assert "connection refused" in done.stderr
    assert sorted(path.name for path in (folder / "mlruns" / "unsent").iterdir()) == waiting


def test_sync_sends_what_waits_to_the_server_when_it_is_back(lost):
    folder, port = lost
    with mlflow_server(folder, port):
        done = h3(folder, "sync")
        again = h3(folder, "sync")
    assert done.returncode == 0, done.stderr
    assert "lomo_mixtral-xgboost_residual: sent, run " in done.stdout
    assert "closed, 2 of 2 folds finished" in done.stdout
    assert again.stdout == "nothing waits to be sent\n"
    known = runs(folder, "mlflow.db")
    assert [run["status"] for run in known] == ["FINISHED"] * 3
    assert sorted(run["name"] for run in known if run["role"] == "fold") == [
        "lomo_mixtral-xgboost_residual",
        "lowo_general-xgboost_residual",
    ]
    assert len(list((folder / "artifacts").rglob("predictions.parquet"))) == 2


def test_a_record_that_is_gone_is_named_with_what_to_delete(tmp_path):
    note = tmp_path / "mlruns" / "unsent" / "fold-1.json"
    note.parent.mkdir(parents=True)
    note.write_text(
        '{"folder": "nowhere", "run_id": "", "name": "lomo", "place":'
        ' {"uri": null, "experiment": "h3", "parent": "p"}}'
    )
    done = h3(tmp_path, "sync")
    assert done.returncode == 2
    assert "nowhere: no complete record of a fold" in done.stderr
    assert done.stderr.endswith("delete mlruns/unsent/fold-1.json\n")
    note.write_text("[]")
    assert "fold-1.json: list; expected a note of h3" in h3(tmp_path, "sync").stderr
