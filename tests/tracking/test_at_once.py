"""Several commands and a server at once, from the first second of a fresh database."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers import free_port, mlflow_server
from sweeps_of import runs, started

from h3.common.errors import InputError
from h3.tracking.store import open_store

OPENS = "from h3.tracking.store import open_store; print(open_store(None, 'h3').experiment_id)"


def test_four_sweeps_at_once_beside_a_server_are_all_whole(tmp_path):
    """Each has the same data: MLflow looks a data set up and then inserts it."""
    store = tmp_path / "mlruns"
    store.mkdir()
    folders = [tmp_path / str(number) for number in range(4)]
    uri = {"MLFLOW_TRACKING_URI": f"sqlite:///{store / 'mlflow.db'}"}
    with mlflow_server(store, free_port(), wait=False) as server:
        for folder in folders:
            folder.mkdir()
        asked = ("-m", "fold=lomo_mixtral", "debug=quick", "source.workers=1", "tune.trials=1")
        sweeps = [started(folder, *asked, **uri) for folder in folders]
        for folder, sweep in zip(folders, sweeps, strict=True):
            assert sweep.wait(timeout=200) == 0, (folder / "printed").read_text()
        assert server.poll() is None, (store / "server.log").read_text()
    known = runs(store, "mlflow.db")
    assert [run["status"] for run in known] == ["FINISHED"] * 8
    assert sum(run["role"] == "sweep" for run in known) == 4


def test_a_fresh_database_is_made_once_and_whole(tmp_path):
    options = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    openers = [subprocess.Popen([sys.executable, "-c", OPENS], env=environment, **options) for _ in range(4)]
    said = [opener.communicate(timeout=100) for opener in openers]
    assert [opener.returncode for opener in openers] == [0] * 4, said
    assert len({out for out, _ in said}) == 1
    left = {path.name for path in (tmp_path / "mlruns").iterdir()}
    assert left == {"mlflow.db", "mlflow.db.lock"}


def test_no_lock_lies_in_a_folder_that_users_share(tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv("TMPDIR", str(shared))
    monkeypatch.setattr("tempfile.tempdir", str(shared))
    open_store(f"sqlite:///{tmp_path / 'mlflow.db'}", "h3")
    assert list(shared.iterdir()) == []


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    Path(tmp_path / "mlflow.db.lock").symlink_to(victim)
    with pytest.raises(InputError, match="symbolic links"):
        open_store(f"sqlite:///{tmp_path / 'mlflow.db'}", "h3")
    assert victim.read_text() == "mine"
