"""A run's artifacts that are not what h3 tracked: one line that names the file."""

from __future__ import annotations

import pytest

from h3.common.errors import InputError
from h3.tracking import artifacts


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("fit.json", b"{", "Expecting property name"),
        ("fit.json", b"[" * 100_000, "recursion"),
        ("fit.json", b"\xff\xfe", "can't decode"),
        ("recipe.json", b"[1]", "list; expected keys and values"),
        ("config.yaml", b"a: [", "while parsing"),
        ("config.yaml", b"[]", "list; expected keys and values"),
    ],
)
def test_text_that_holds_no_keys_and_values_is_refused(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        artifacts.content(str(tmp_path), name)
    assert f"/{name}: " in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_that_is_none_is_refused(tmp_path):
    (tmp_path / "predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"/predictions\.parquet: .*; expected what h3 tracked"):
        artifacts.frame(str(tmp_path), "predictions.parquet")


def test_what_is_not_there_is_none(tmp_path):
    assert artifacts.content(str(tmp_path), "fit.json") is None
    assert artifacts.frame(str(tmp_path), "predictions.parquet") is None
