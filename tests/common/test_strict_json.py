"""What h3 writes as JSON, any reader takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from h3.common import files, strict_json


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(VALUES)
def test_no_number_that_json_does_not_have_is_written(value):
    json.loads(strict_json.dumps(value), parse_constant=refuse)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (float("nan"), None),
        (float("-inf"), None),
        (np.float32(1.5), 1.5),
        (np.int64(3), 3),
        (np.float64("nan"), None),
        (np.True_, True),
        ((1, 2), [1, 2]),
        ({1: Path("a")}, {"1": "a"}),
        (True, True),
    ],
)
def test_numbers_stay_and_what_is_none_is_null(value, written):
    assert json.loads(strict_json.dumps(value)) == written


def test_a_file_is_written_whole_and_replaces_another(tmp_path):
    for value in (3.0, float("nan")):
        files.write_text(tmp_path / "result.json", strict_json.dumps({"mape": value}))
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert json.loads((tmp_path / "result.json").read_text()) == {"mape": None}
