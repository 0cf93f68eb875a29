"""Several workers tune one fold in a shared storage: the same outcome as one, whoever dies on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import postgresql
import pytest
from processes import h3

WORKER = Path(__file__).with_name("tuning_process.py")
SEARCH = {"trials": 6, "max_rows": 400, "generation": 3}
STORAGES = ("folder", "sqlite", "postgresql")


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.Server]:
    with postgresql.running() as server:
        yield server


@pytest.fixture
def storage(request, tmp_path) -> str:
    if request.param == "postgresql":
        return request.getfixturevalue("server").database(f"d{time.time_ns()}")
    return {"folder": str(tmp_path / "tune"), "sqlite": f"sqlite:///{tmp_path}/tune.db"}[request.param]


def worker(out: Path, storage: str | None, *pause_at: str, **changed: int) -> subprocess.Popen:
    options = json.dumps({**SEARCH, "storage": storage, **changed})
    return subprocess.Popen([sys.executable, str(WORKER), options, str(out), *pause_at])


def told(out: Path, process: subprocess.Popen) -> dict:
    assert process.wait(timeout=200) == 0
    return json.loads(out.read_text())


def wait_for(path: Path) -> None:
    for _ in range(1000):
        if path.exists():
            return
        time.sleep(0.1)
    pytest.fail(f"{path} was not written")


def outcome(found: dict) -> dict:
    return {key: found[key] for key in ("trials", "params", "note")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    """What one process finds that shares with nobody."""
    out = tmp_path_factory.mktemp("alone") / "out.json"
    found = told(out, worker(out, None))
    assert found["made"] == SEARCH["trials"] and found["params"]["n_estimators"] > 0
    return found


@pytest.mark.parametrize("storage", STORAGES, indirect=True)
def test_two_processes_that_share_a_search_find_what_one_finds_and_each_makes_a_part(
    storage, tmp_path, alone
):
    outs = [tmp_path / "first.json", tmp_path / "second.json"]
    processes = [worker(out, storage) for out in outs]
    found = [told(out, process) for out, process in zip(outs, processes, strict=True)]
    assert [outcome(each) for each in found] == [outcome(alone)] * 2
    assert sum(each["made"] for each in found) == SEARCH["trials"]
    assert all(each["made"] for each in found)


@pytest.mark.parametrize("storage", STORAGES, indirect=True)
def test_the_trial_of_a_worker_that_is_killed_is_made_by_the_one_that_is_left(storage, tmp_path, alone):
    killed, out = tmp_path / "killed.json", tmp_path / "out.json"
    first = worker(killed, storage, "1")
    second = worker(out, storage)
    wait_for(killed)
    os.kill(json.loads(killed.read_text())["pid"], signal.SIGKILL)
    assert first.wait(timeout=10) == -signal.SIGKILL
    found = told(out, second)
    assert outcome(found) == outcome(alone)
    assert 0 < found["made"] < SEARCH["trials"]


@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
def test_a_search_that_was_killed_goes_on_with_the_trials_that_it_had(storage, tmp_path, alone):
    killed, out = tmp_path / "killed.json", tmp_path / "out.json"
    first = worker(killed, storage, "4")
    wait_for(killed)
    first.kill()
    first.wait(timeout=10)
    found = told(out, worker(out, storage))
    assert outcome(found) == outcome(alone)
    assert found["made"] == 2


@pytest.mark.parametrize("kept", [True, False])
def test_workers_of_one_command_find_what_one_worker_finds(kept, tmp_path, alone):
    out = tmp_path / "out.json"
    found = told(out, worker(out, str(tmp_path / "tune") if kept else None, workers=3))
    assert outcome(found) == outcome(alone)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("tune.storage=mysql://h3:geheim@db/h3",),
            "mysql://h3:***@db/h3; expected a folder, sqlite:///FILE or",
        ),
        (("tune.storage=postgresql://h3:geheim@127.0.0.1:9/h3",), "postgresql://h3:***@127.0.0.1:9/h3: "),
        (("tune.storage=sqlite:////dev/null/tune.db",), "/dev/null"),
        (("tune.workers=2",), "expected tune.generation=2 or more"),
        (("tune.generation=0",), "tune.generation=0"),
    ],
)
def test_a_storage_that_cannot_be_shared_is_one_line_without_its_password(tmp_path, arguments, said):
    done = h3(tmp_path, "train", "fold=lowo_general", "debug=quick", *arguments)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert said in line
    assert "Traceback" not in done.stderr and "geheim" not in done.stderr + done.stdout
