"""Places that cannot be written: below a file, where a folder should be. One line that names the place,
status 2, and what was there before is as it was.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import LLAMA_CONFIG
from processes import h3

FOLD = ("train", "fold=lowo_general", "debug=quick", "tune.trials=1")
PREDICT = ("predict", "config=config.json", "bundle=shipped")
# A command, and the key whose place is below a file.
PLACES = {
    "cache": (FOLD, "source.cache_dir"),
    "search": (FOLD, "tune.storage"),
    "output_of_a_fold": (FOLD, "hydra.run.dir"),
    "output_of_a_sweep": (("train", "-m", *FOLD[1:]), "hydra.sweep.dir"),
    "output_of_a_command": (PREDICT, "hydra.run.dir"),
    "steps": (("ingest", "source=simulated", "source.scale=0.02"), "out"),
    "steps.parquet": (("ingest", "source=simulated", "source.scale=0.02"), "out"),
    "predictions": (PREDICT, "out"),
    "bundle": (("export", "bundle=shipped"), "out"),
    "coefficients": (("export", "bundle=shipped", "format=trained_physics"), "out"),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_CONFIG))
    (tmp_path / "file").write_text("mine")
    return tmp_path


def refused(folder: Path, *command: str) -> str:
    """The one line of a command that is refused."""
    done = h3(folder, *command)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert (folder / "file").read_text() == "mine"
    return error


@pytest.mark.parametrize("name", PLACES)
def test_a_place_below_a_file_is_named_in_one_line(folder, name):
    command, key = PLACES[name]
    error = refused(folder, *command, f"{key}={folder / 'file' / name}")
    assert str(folder / "file") in error and "expected" in error


def test_a_store_that_is_a_file_is_named_in_one_line(folder):
    (folder / "mlruns").write_text("mine too")
    assert "mlruns" in refused(folder, *FOLD)
    assert (folder / "mlruns").read_text() == "mine too"
