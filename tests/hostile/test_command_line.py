"""Command lines that are none: one line and status 2, never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from builders import LLAMA_CONFIG
from processes import h3

CASES = [
    (
        ("train", "--nonsense"),
        "unrecognized arguments: --nonsense; expected KEY=VALUE (--help lists the keys)",
    ),
    (
        ("train", "model.params.foo=1", "debug=quick"),
        "unknown key 'model.params.foo'; expected +model.params.foo=VALUE, which adds it",
    ),
    (("train", "+model.params.foo=1", "debug=quick"), "unknown parameter 'foo'; expected some of"),
    (
        ("train", "+model.params.max_depth=x", "debug=quick"),
        "model xgboost_residual: max_depth='x': Input should be a valid integer",
    ),
    (
        ("train", "+model.params.learning_rate=[1]", "debug=quick"),
        "model xgboost_residual: learning_rate=[1]: Input should be a valid number",
    ),
    (
        ("train", "+model.params.subsample=7", "+model.params.n_estimators=3", "debug=quick"),
        "XGBoost cannot train with these parameters: ",
    ),
    (("train", "fold=lomo_mixtral", "resume=maybe"), "resume='maybe': Input should be a valid boolean"),
    (("sync", "from=x"), "unknown key 'from'; expected one of to"),
]
# Refused before there is a job: nothing else is printed.
GARBLED = [
    (("predict", "bundle=${nothing}"), "config: Interpolation key 'nothing' not found"),
    (
        ("predict", "bundle=\\"),
        "config: bundle='\\' cannot be read; expected KEY=VALUE, special characters in",
    ),
]


@pytest.mark.parametrize(("arguments", "expected"), CASES)
def test_a_command_that_is_none_is_one_line_and_status_2(tmp_path, arguments, expected):
    done = h3(tmp_path, *arguments)
    assert done.returncode == 2, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert expected in error
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("arguments", "expected"), GARBLED)
def test_a_value_that_is_none_is_all_that_is_said(tmp_path, arguments, expected):
    done = h3(tmp_path, *arguments)
    (error,) = done.stderr.splitlines()
    assert done.returncode == 2 and error.startswith(f"error: {expected}")


def test_a_reader_that_goes_away_ends_a_command_without_a_word(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_CONFIG))
    asked = f"{sys.executable} -m h3.predict config=config.json bundle=shipped batch=1:256:1 | head -1"
    done = subprocess.run(
        ["bash", "-c", asked], cwd=Path(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
