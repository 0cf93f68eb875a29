"""Folds of one process share the steps that they read, and read anew what has changed."""

from __future__ import annotations

import pytest
from builders import Server

from h3.common.config import SourceConfig
from h3.common.errors import InputError
from h3.sources.load import load_once


@pytest.fixture
def source(tmp_path) -> SourceConfig:
    for number in range(2):
        server = Server([20_000.0] * 2000).serve(0, 2000, 50).serve_at_random(300, seed=number)
        server.write_tracev2(tmp_path, f"20260101-{number:06d}-llama-2-7b-tp1-general", max_model_len=8192)
    return SourceConfig(name="requests", path=str(tmp_path))


def reads(source: SourceConfig) -> list[str]:
    """The experiments that are read on the way."""
    said: list[str] = []
    load_once(source, said.append)
    return said


def test_what_is_as_it_was_is_read_once(source):
    assert len(reads(source)) == 2
    assert reads(source) == []


def test_a_changed_file_is_read_anew(source, tmp_path):
    first = load_once(source).table
    log = next(tmp_path.glob("*000001*/data.csv"))
    lines = log.read_text().splitlines()
    log.write_text("\n".join(lines[:200]) + "\n")
    assert not load_once(source).table.equals(first)


def test_another_configuration_is_read_anew(source):
    every = len(load_once(source).table)
    assert len(load_once(source.model_copy(update={"sample_every": 20})).table) < every


def test_a_log_that_is_gone_is_missed(source, tmp_path):
    load_once(source)
    for log in tmp_path.glob("*/data.csv"):
        log.unlink()
    with pytest.raises(InputError, match="expected"):
        load_once(source)
