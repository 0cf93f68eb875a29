"""Tracking on PostgreSQL through an MLflow server, as deploy/compose.yaml sets it up: a real database, the
service's own command and variables, several sweeps at once, artifacts behind the server.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import postgresql
import pytest
import yaml
from mlflow.tracking import MlflowClient
from processes import h3
from servers import free_port

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
FOLDS = ("lowo_general", "lomo_mixtral")
QUICK = ("debug=quick", "tune.trials=1")


@dataclass(frozen=True)
class Tracking:
    """An MLflow server, its artifacts, and the folder that its clients work in."""

    uri: str
    artifacts: Path
    folder: Path

    def runs(self, role: str) -> list:
        client = MlflowClient(self.uri)
        experiment = client.get_experiment_by_name("h3").experiment_id
        return list(client.search_runs([experiment], f"tags.`h3.role` = '{role}'"))


def healthy(uri: str, process: subprocess.Popen) -> None:
    for _ in range(600):
        assert process.poll() is None, "the MLflow server ended"
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail("the MLflow server does not answer")


@pytest.fixture(scope="module")
def tracking(tmp_path_factory) -> Iterator[Tracking]:
    folder = tmp_path_factory.mktemp("server")
    with postgresql.running() as server:
        address = server.database("mlflow")
        password = address.split(":")[2].split("@")[0]
        port, artifacts = free_port(), folder / "artifacts"
        there = {
            "MLFLOW_BACKEND_STORE_URI": address.replace(f":{password}@", "@"),
            "MLFLOW_ARTIFACTS_DESTINATION": str(artifacts),
            "MLFLOW_WORKERS": "1",
            "MLFLOW_HOST": "127.0.0.1",
            "MLFLOW_PORT": str(port),
        }
        service = COMPOSE["services"]["mlflow"]
        assert set(there) < set(service["environment"])
        (folder / "password").write_text(password)
        command = service["entrypoint"][-1].replace("$$", "$").replace("/run/secrets", str(folder))
        process = subprocess.Popen(
            ["sh", "-ec", command],
            cwd=folder,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            | service["environment"]
            | there,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            healthy(f"http://127.0.0.1:{port}", process)
            yield Tracking(f"http://127.0.0.1:{port}", artifacts, folder)
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture(scope="module")
def swept(tracking) -> Tracking:
    """Two sweeps at once, the first that the server sees."""
    sweep = ["-m", f"fold={','.join(FOLDS)}", *QUICK]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "h3.train", *sweep, f"seed={seed}"],
            cwd=tracking.folder,
            env={**os.environ, "MLFLOW_TRACKING_URI": tracking.uri},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for seed in (0, 1)
    ]
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(printed)
    return tracking


def test_two_sweeps_at_once_are_tracked_whole_with_their_artifacts_behind_the_server(swept):
    sweeps, folds = swept.runs("sweep"), swept.runs("fold")
    assert [run.info.status for run in sweeps + folds] == ["FINISHED"] * 6
    by_parent = sorted((run.data.tags["mlflow.parentRunId"], run.data.params["fold"]) for run in folds)
    assert by_parent == sorted((run.info.run_id, fold) for run in sweeps for fold in FOLDS)
    for run in folds:
        assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
        assert list(swept.artifacts.rglob(f"{run.info.run_id}/artifacts/predictions.parquet"))
        client = MlflowClient(swept.uri)
        assert "result.json" in {item.path for item in client.list_artifacts(run.info.run_id)}
    assert not list(swept.folder.glob("mlruns/*.db"))


def test_compare_and_promote_read_a_sweep_from_the_server_and_the_champion_is_registered_there(swept):
    done = h3(swept.folder, "compare", f"folds=[{','.join(FOLDS)}]", MLFLOW_TRACKING_URI=swept.uri)
    assert done.returncode == 0, done.stderr
    assert (swept.folder / "compare" / "report.html").is_file()
    folds = f"winner.folds=[{','.join(FOLDS)}]"
    done = h3(swept.folder, "promote", folds, "gate.architectures=5", MLFLOW_TRACKING_URI=swept.uri)
    assert done.returncode == 0, done.stderr + done.stdout
    assert MlflowClient(swept.uri).get_model_version_by_alias("blis-step-time", "champion").version == "1"
    done = h3(swept.folder, "export", "bundle=champion", "out=again", MLFLOW_TRACKING_URI=swept.uri)
    assert done.returncode == 0, done.stderr
    assert (swept.folder / "again" / "manifest.json").is_file()


def test_the_services_listen_on_loopback_and_no_password_stands_in_their_file():
    for service in COMPOSE["services"].values():
        assert service["ports"] and all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["secrets"] == ["password"]
        assert not [value for value in service["environment"].values() if ":" in value.split("//")[-1]]
    assert COMPOSE["secrets"] == {"password": {"file": "./password"}}


def test_the_servers_image_has_the_versions_that_h3_is_tested_with():
    image = COMPOSE["services"]["mlflow"]["build"]["dockerfile_inline"]
    project = (ROOT / "pyproject.toml").read_text()
    for pinned in image.partition("--no-cache-dir ")[2].replace("'", "").split():
        assert f'"{pinned}"' in project
