"""Logs of benchmark clients with one value replaced, wherever it stands: the request is rejected and counted,
or the log is refused with one line that names the file. What is read of the others stays as it was.
"""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from bench_logs import WRITERS, small_server
from builders import Server, source

from h3.common.errors import InputError
from h3.sources.requests import files, steps

NAME = "20260101-000000-llama-2-7b-tp1-general"
LOGS = {
    "vllm-bench": "vllm-results.json",
    "guidellm": "benchmarks.json",
    "genai-perf": "profile_export.json",
    "aiperf": "profile_export.jsonl",
    "inference-perf": files.LIFECYCLE,
}
VALUES = {
    "null": None,
    "text": "many",
    "number_as_text": "12",
    "list": [],
    "square_list": [[1.0, 2.0], [3.0, 4.0]],
    "object": {},
    "deep": json.loads("[" * 80 + "]" * 80),
    "negative": -1,
    "zero": 0,
    "1e12": 10**12,
    "1e300": 1e300,
    "400_digits": 10**400,
    "nan": float("nan"),
}
Place = tuple[Any, ...]
SOUND: set[bytes] = set()


def text_of(kind: str, server: Server) -> str:
    """The honest log."""
    if kind != "inference-perf":
        return WRITERS[kind](server)
    with TemporaryDirectory() as name:
        return (server.write_lifecycle(Path(name), NAME) / files.LIFECYCLE).read_text()


HONEST = {kind: text_of(kind, small_server()) for kind in LOGS}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with the setup of the samples and no log."""
    folder = Server([20_000.0] * 3).serve(0, 3).write_tracev2(tmp_path, NAME)
    (folder / "data.csv").unlink()
    return folder


def documents(kind: str) -> list[Any]:
    """The honest log's values: one, or one a line."""
    return (
        [json.loads(line) for line in HONEST[kind].splitlines()]
        if kind == "aiperf"
        else [json.loads(HONEST[kind])]
    )


def write(folder: Path, kind: str, values: list[Any]) -> None:
    (folder / LOGS[kind]).write_text("\n".join(json.dumps(value) for value in values))


def places(value: Any, above: Place = ()) -> Iterator[Place]:
    """Where a value stands, of lists the first entry only."""
    yield above
    if isinstance(value, dict):
        for key, each in value.items():
            yield from places(each, (*above, key))
    if isinstance(value, list) and value:
        yield from places(value[0], (*above, 0))


def replaced(values: list[Any], place: Place, by: Any) -> list[Any]:
    changed = copy.deepcopy(values)
    inside = changed
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = by
    return changed


def outcome(folder: Path, **settings) -> files.RequestLog | str:
    """What is read of the log, or the line that refuses it."""
    asked = source("requests", folder.parent, sample_every=1, **settings)
    try:
        experiment, log = steps.read_experiment(folder, asked)
        if (read := fingerprint(log)) not in SOUND:  # the same requests have the same steps
            periods_us = steps.from_log(experiment, log, asked).table["period_us"]
            assert np.isfinite(periods_us).all() and (periods_us > 0).all()
            SOUND.add(read)
        return log
    except InputError as error:
        return str(error)


def fingerprint(log: files.RequestLog) -> bytes:
    """Everything that is used of a log's requests."""
    times = [b"" if each is None else each.tobytes() for each in log.requests["token_times_us"]]
    return b"|".join([log.requests.drop(columns="token_times_us").to_csv().encode(), *times])


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("kind", LOGS)
def test_one_value_replaced_anywhere_costs_its_request_or_the_log_never_another(folder, kind, value):
    honest = documents(kind)
    write(folder, kind, honest)
    whole = outcome(folder)
    assert isinstance(whole, files.RequestLog) and len(whole.rejects) == 0
    for place in places(honest):
        if not place:
            continue
        write(folder, kind, replaced(honest, place, VALUES[value]))
        found = outcome(folder)
        if isinstance(found, str):
            assert "\n" not in found and len(found) < 600 and str(folder.parent) in found, (place, found)
            continue
        assert len(found.requests) + len(found.rejects) + found.failed == found.total, place
        assert len(found.requests) >= len(whole.requests) - 1 or found.total < whole.total, place
        assert (found.rejects["line"] > 0).all() and (found.rejects["reason"] != "").all(), place


TEXTS = {
    "nested": lambda text: "[" * 100_000,
    "nested_objects": lambda text: '{"a":' * 100_000,
    "integer_of_5000_digits": lambda text: text.replace(": 1", ": 1" + "0" * 5000, 1),
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "blank": lambda text: " \n\n",
    "null": lambda text: "null",
    "number": lambda text: "17",
    "text": lambda text: '"log"',
    "no_request": lambda text: "[]",
    "empty_object": lambda text: "{}",
    "nul_bytes": lambda text: "\0" * 1000,
    "twice": lambda text: text + text,
    "comment": lambda text: "// log\n" + text,
    "html": lambda text: "<html><body>502 Bad Gateway</body></html>",
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("kind", LOGS)
def test_a_text_that_is_no_log_is_refused_or_counted(folder, kind, name):
    path = folder / LOGS[kind]
    path.write_text(TEXTS[name](HONEST[kind]))
    found = outcome(folder)
    if isinstance(found, str):
        assert str(folder.parent) in found and "\n" not in found and len(found) < 600
    else:
        assert len(found.requests) + len(found.rejects) + found.failed == found.total


@pytest.mark.parametrize("kind", LOGS)
def test_a_log_in_another_encoding_is_read_or_refused(folder, kind):
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        path = folder / LOGS[kind]
        path.write_bytes(HONEST[kind].encode(encoding))
        found = outcome(folder)
        assert isinstance(found, files.RequestLog) or str(folder.parent) in found


@pytest.mark.parametrize("kind", LOGS)
def test_a_packed_log_that_unpacks_out_of_proportion_is_refused(folder, kind):
    path = folder / f"{LOGS[kind]}.gz"
    path.write_bytes(gzip.compress(HONEST[kind].encode() + b" " * 3_000_000))
    found = outcome(folder, max_file_gb=0.002)
    assert isinstance(found, str) and str(path) in found and "max_file_gb" in found
