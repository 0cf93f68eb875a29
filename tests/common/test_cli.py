"""The command line: words of before, text that looks like a sweep, places that cannot be written."""

from __future__ import annotations

import os

import pytest
from omegaconf import DictConfig

from h3.common import cli
from h3.common.errors import InputError


@pytest.mark.parametrize("key", ["model", "+model", "++model"])
def test_the_word_of_before_is_answered_with_the_new_one(key):
    with pytest.raises(InputError, match="model=champion: this is called bundle now; expected bundle="):
        cli.prepared([f"{key}=champion"], (), {"model": "bundle"})


def test_a_value_of_a_literal_key_is_text_and_a_quoted_one_stays():
    words = ["bundle=a=b", "bundle='a b'", "config=it's", "tp=1,2"]
    assert cli.prepared(words, ("bundle", "config"), {}) == [
        "bundle='a=b'",
        "bundle='a b'",
        "config='it\\'s'",
        "tp=1,2",
    ]


@pytest.mark.parametrize("job", [os.listdir, os.mkdir])
def test_a_place_that_cannot_be_used_is_one_line_and_status_2(job, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def main(cfg: DictConfig) -> None:
        job("/proc/no")

    with pytest.raises(SystemExit) as ended:
        cli.run(main, "predict", [])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: /proc/no")
    assert said.endswith("expected a place that can be read and written\n")
    assert said.count("\n") == 1
