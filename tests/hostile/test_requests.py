"""Request logs as strangers write them: each is read, or rejected line by line with a counted reason, or left
out or refused with one line that names file and place. Never a traceback, never a silently wrong table.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import Server, source

from h3.common.errors import InputError
from h3.sources.experiment import Ingested
from h3.sources.requests import steps

NAME = "20260101-000000-llama-2-7b-tp1-general"
PERIOD_US = 20_000.0
Rows = list[list[str]]
Edit = Callable[[Path], object]


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> str:
    """The lines of an honest log of forty requests."""
    server = Server([PERIOD_US] * 300).serve(0, 300, 50).serve_at_random(40, seed=2)
    return (server.write_tracev2(tmp_path_factory.mktemp("honest"), NAME) / "data.csv").read_text()


@pytest.fixture
def log(honest, tmp_path) -> Path:
    """A copy of the honest log, to be edited."""
    folder = Server([PERIOD_US] * 3).serve(0, 3).write_tracev2(tmp_path, NAME)
    (folder / "data.csv").write_text(honest)
    return folder


def load(folder: Path, **settings) -> Ingested:
    return steps.load(source("requests", folder.parent, sample_every=1, **settings))


def rows_of(folder: Path) -> Rows:
    return list(csv.reader(io.StringIO((folder / "data.csv").read_text())))


def write_rows(folder: Path, rows: Rows) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    (folder / "data.csv").write_text(text.getvalue())


def cell(column: str, value: str, row: int = 5) -> Edit:
    """One cell of one request."""

    def edit(folder: Path) -> None:
        rows = rows_of(folder)
        rows[row][rows[0].index(column)] = value
        write_rows(folder, rows)

    return edit


def column(name: str, change: Callable[[float], object]) -> Edit:
    """A number of every request."""

    def edit(folder: Path) -> None:
        rows = rows_of(folder)
        place = rows[0].index(name)
        for row in rows[1:]:
            row[place] = str(change(float(row[place])))
        write_rows(folder, rows)

    return edit


def times(change: Callable[[float], float]) -> Edit:
    """All times of every request."""

    def edit(folder: Path) -> None:
        for name in ("arrival_time_us", "first_chunk_time_us", "last_chunk_time_us"):
            column(name, change)(folder)

    return edit


def header(change: Callable[[list[str]], list[str]]) -> Edit:
    """The header line."""

    def edit(folder: Path) -> None:
        rows = rows_of(folder)
        write_rows(folder, [change(rows[0]), *rows[1:]])

    return edit


def text(change: Callable[[bytes], bytes]) -> Edit:
    """The file's bytes."""
    return lambda folder: (folder / "data.csv").write_bytes(change((folder / "data.csv").read_bytes()))


def packed(change: Callable[[bytes], bytes]) -> Edit:
    """The file packed by gzip, and then its packed bytes changed."""

    def edit(folder: Path) -> None:
        data = gzip.compress((folder / "data.csv").read_bytes(), mtime=0)
        (folder / "data.csv").unlink()
        (folder / "data.csv.gz").write_bytes(change(data))

    return edit


HUGE = ["1000000000", "1e12", "1e18", "1e300", "99999999999999999999"]
NO_NUMBERS = ["", "nan", "inf", "-inf", "many", "12 34", "0x10", "1,5", "None", "1e999"]
# One request that cannot be: which cell, and the reason that it is counted under.
CELLS = [
    *(("output_tokens", value, "longer_than_max_model_len") for value in HUGE),
    *(("input_tokens", value, "longer_than_max_model_len") for value in HUGE),
    *(("server_input_tokens", value, "longer_than_max_model_len") for value in HUGE),
    *(("output_tokens", value, "not_finite") for value in NO_NUMBERS),
    *(("input_tokens", value, "not_finite") for value in NO_NUMBERS),
    *(("first_chunk_time_us", value, "not_finite") for value in NO_NUMBERS),
    *(("last_chunk_time_us", value, "not_finite") for value in NO_NUMBERS),
    *(("arrival_time_us", value, "not_finite") for value in NO_NUMBERS),
    ("output_tokens", "-3", "not_whole_tokens"),
    ("output_tokens", "17.5", "not_whole_tokens"),
    ("input_tokens", "-1", "not_whole_tokens"),
    ("input_tokens", "0.1", "not_whole_tokens"),
    ("output_tokens", "0", "no_output_tokens"),
    ("input_tokens", "0", "no_prompt_tokens"),
    ("output_tokens", "2500", "faster_than_weights"),
    ("last_chunk_time_us", "1e15", "slower_than_a_minute_a_token"),
    ("last_chunk_time_us", "1e300", "slower_than_a_minute_a_token"),
    ("last_chunk_time_us", str(365 * 86_400e6), "slower_than_a_minute_a_token"),
    ("last_chunk_time_us", "0", "ends_before_start"),
    ("last_chunk_time_us", "-1e300", "ends_before_start"),
    ("first_chunk_time_us", "1e300", "ends_before_start"),
    ("first_chunk_time_us", "-5", "ends_before_start"),
    ("arrival_time_us", "1e300", "ends_before_start"),
    ("arrival_time_us", "-1e300", "waits_longer_than_a_day"),
    ("arrival_time_us", "-1e15", "waits_longer_than_a_day"),
    ("send_time_us", "1e300", "ends_before_start"),
    ("request_id", "3", "duplicate_request"),
]


@pytest.mark.parametrize(("name", "value", "reason"), CELLS)
def test_one_impossible_request_is_a_counted_reject_and_bends_no_other(log, name, value, reason):
    cell(name, value)(log)
    found = load(log)
    assert found.rejects["reason"].tolist() == [reason]
    assert found.rejects["line"].tolist() == [6]
    assert f"request {3 if name == 'request_id' else 4}" in found.rejects["detail"][0]
    assert found.table["period_us"].to_numpy() == pytest.approx(PERIOD_US, rel=0.02)
    assert len(found.table) == pytest.approx(300, abs=4)


# What is read as if nobody had touched it.
HARMLESS = {
    "status in capitals": column("output_tokens", int),
    "spaces about the status": cell("status", " OK "),
    "CR LF": text(lambda data: data.replace(b"\n", b"\r\n")),
    "CR alone": text(lambda data: data.replace(b"\n", b"\r")),
    "byte-order mark": text(lambda data: b"\xef\xbb\xbf" + data),
    "no last newline": text(lambda data: data.rstrip(b"\n")),
    "packed": packed(lambda data: data),
    "packed twice, one after the other": packed(lambda data: data + gzip.compress(b"")),
    "numbers with an exponent": column("output_tokens", lambda value: f"{value:e}"),
    "spaces in the header": header(lambda names: [f" {name} " for name in names]),
    "a name with an emoji": cell("client_id", "\N{ROCKET}"),
    "formula": cell("error_message", "=cmd|' /C calc'!A0"),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_change_changes_nothing(log, name):
    HARMLESS[name](log)
    found = load(log)
    assert found.rejects.empty
    assert found.table["period_us"].to_numpy() == pytest.approx(PERIOD_US, rel=0.01)


# What keeps the lines before a damage, and counts it.
DAMAGED = {
    "gzip cut": (packed(lambda data: data[: len(data) * 7 // 10]), "truncated_gzip"),
    "gzip without its trailer": (packed(lambda data: data[:-8]), "truncated_gzip"),
    "gzip of a wrong CRC": (packed(lambda data: data[:-8] + b"\0" * 4 + data[-4:]), "damaged_gzip"),
    "gzip of a wrong length": (packed(lambda data: data[:-4] + b"\0" * 4), "damaged_gzip"),
    "bytes after gzip": (packed(lambda data: data + b"rubbish"), "bytes_after_gzip"),
    "zeros after gzip": (packed(lambda data: data + b"\0" * 512), "bytes_after_gzip"),
    "a line of too few fields": (text(lambda data: data + b"1,2,3\n"), "broken_line"),
    "a line of too many fields": (text(lambda data: data + b"1," * 50 + b"\n"), "broken_line"),
    "a blank line": (text(lambda data: data + b"\n\n"), "broken_line"),
    "no UTF-8": (text(lambda data: data + b"\xff\xfe\xfd\n"), "broken_line"),
    "NUL": (text(lambda data: data + b"\0\0\0\n"), "broken_line"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_log_keeps_what_is_whole_and_counts_what_is_not(log, name):
    edit, reason = DAMAGED[name]
    edit(log)
    found = load(log)
    assert set(found.rejects["reason"]) == {reason}
    assert found.table["period_us"].to_numpy() == pytest.approx(PERIOD_US, rel=0.02)
    assert str(log) in found.rejects["file"][0]


# What cannot be used at all: the one line.
REFUSED = {
    "empty": (text(lambda _: b""), r"data\.csv: empty; expected a TraceV2 header"),
    "empty gzip": (packed(lambda _: gzip.compress(b"")), r"data\.csv\.gz: empty; expected a TraceV2 header"),
    "no gzip": (packed(lambda _: b"request_id\n"), r"data\.csv\.gz: not gzip \(.*\); expected a gzip file"),
    "gzip of nothing but its head": (packed(lambda data: data[:12]), r"data\.csv\.gz: empty; expected"),
    "UTF-16": (text(lambda data: data.decode().encode("utf-16")), r"data\.csv: UTF-16; expected UTF-8"),
    "an unknown column": (
        header(lambda names: ["id", *names[1:]]),
        r"data\.csv: unknown column 'id'; TraceV2 has request_id, ",
    ),
    "a huge column name": (
        header(lambda names: ["x" * 10_000, *names[1:]]),
        r"data\.csv: unknown column 'x{60}'; TraceV2 has",
    ),
    "a missing column": (
        text(lambda data: data.replace(b"output_tokens,", b"text_tokens,", 1)),
        r"data\.csv: column 'output_tokens' is missing; expected a TraceV2 header",
    ),
    "a column twice": (
        header(lambda names: ["request_id" if name == "client_id" else name for name in names]),
        r"data\.csv: column 'request_id' is there twice; expected one",
    ),
    "binary": (
        text(lambda _: bytes(range(256)) * 40),
        r"data\.csv: (line \d+: .*; expected|unknown column|UTF-16; expected)",
    ),
    "an unclosed quote": (
        text(lambda data: data[:1500] + b'\n"' + data * 100),
        r"data\.csv: line \d+: field larger than field limit \(131072\); expected a line of TraceV2",
    ),
    "a field of 200 kB": (
        cell("error_message", "x" * 200_000),
        r"data\.csv: line 6: field larger than field limit \(131072\); expected a line of TraceV2",
    ),
    "a header alone": (
        text(lambda data: data.split(b"\n")[0] + b"\n"),
        r"no step in any experiment \(20260101-000000-llama-2-7b-tp1-general: the log holds no request\)",
    ),
    "all failed": (
        text(lambda data: data.replace(b",ok,", b",timeout,")),
        r"(\d+) of \1 requests failed, more than max_failed_ratio=0.1",
    ),
    "one token each": (
        column("output_tokens", lambda _: 1),
        r"no usable request with two or more output tokens \(rejected: none\)",
    ),
    "no tokens": (
        column("output_tokens", lambda _: 0),
        r"no usable request with two or more output tokens \(rejected: no_output_tokens \d+\)",
    ),
    "all times not a number": (
        times(lambda _: float("nan")),
        r"no usable request with two or more output tokens \(rejected: not_finite \d+\)",
    ),
    "times in ms": (
        times(lambda value: value / 1e3),
        r": 20 us a token, less than the weights take to be read \(\d+ us\); the times look like ms",
    ),
    "times in s": (
        times(lambda value: value / 1e6),
        r": 0.02 us a token, less than the weights take to be read \(\d+ us\); the times look like s",
    ),
    "times in ns": (
        times(lambda value: value * 1e4),
        r"of \d+ requests are impossible: slower_than_a_minute_a_token \d+",
    ),
    "a century": (
        column("last_chunk_time_us", lambda value: value + 100 * 365 * 86_400e6),
        r"(\d+) of \1 requests are impossible: slower_than_a_minute_a_token \1",
    ),
    "prompts of 1e300 tokens": (
        column("input_tokens", lambda _: 1e300),
        r"(\d+) of \1 requests are impossible: longer_than_max_model_len \1",
    ),
    "one id": (
        column("request_id", lambda _: 7),
        r"(\d+) of \d+ requests are impossible: duplicate_request \1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_log_that_cannot_be_used_is_one_line_that_says_why(log, name):
    edit, expected = REFUSED[name]
    edit(log)
    with pytest.raises(InputError, match=expected) as error:
        load(log)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1200


def test_every_row_twice_is_counted_and_changes_no_step(log):
    before = load(log).table
    text(lambda data: data + data.split(b"\n", 1)[1])(log)
    found = load(log)
    assert set(found.rejects["reason"]) == {"duplicate_request"}
    assert len(found.rejects) == len(rows_of(log)) // 2
    assert found.table["period_us"].tolist() == before["period_us"].tolist()


def test_every_row_twice_under_other_ids_is_more_than_the_server_lets(log):
    def edit(data: bytes) -> bytes:
        lines = data.split(b"\n", 1)[1]
        return data + b"".join(b"again-" + line + b"\n" for line in lines.splitlines())

    folder = log
    for _ in range(3):
        text(edit)(folder)
    config = (folder / "exp-config.yaml").read_text().replace("max_num_seqs: 128", "max_num_seqs: 8")
    (folder / "exp-config.yaml").write_text(config)
    with pytest.raises(InputError, match=r"\d+ requests decode at once; exp-config.yaml says max_num_seqs=8"):
        load(folder)


def test_a_log_of_more_than_a_week_of_decoding_is_refused_before_its_clock_takes_memory(log):
    """Requests of a day each, one after the other, are each possible."""
    rows, day_us = rows_of(log), 86_300e6
    for index, row in enumerate(rows[1:]):
        named = dict(zip(rows[0], row, strict=True))
        named |= {"arrival_time_us": str(index * day_us), "first_chunk_time_us": str(index * day_us + 1)}
        named |= {"last_chunk_time_us": str((index + 1) * day_us), "output_tokens": "3000"}
        rows[index + 1] = list(named.values())
    write_rows(log, rows)
    with pytest.raises(InputError, match=r"\d+ days of decoding; expected at most 7"):
        load(log)


BOMBS = {
    "zeros": b"\0" * 400_000_000,
    "short lines": b",\n" * 100_000_000,
    "newlines": b"\n" * 200_000_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_unpacks_to_much_costs_one_line(log, name):
    (log / "data.csv").unlink()
    (log / "data.csv.gz").write_bytes(gzip.compress(BOMBS[name], compresslevel=1))
    with pytest.raises(
        InputError, match=r"data\.csv\.gz: more than \d+ bytes unpacked; expected less, or bounds"
    ):
        load(log)


def test_the_bounds_can_be_raised(log):
    text(lambda data: data + b"\n" * 50_000)(log)
    packed(lambda data: data)(log)
    with pytest.raises(InputError, match="more than 10000 bytes unpacked"):
        load(log, max_file_gb=1e-5)
    assert len(load(log, max_file_gb=1.0).table)


def test_lines_that_are_none_are_counted_up_to_a_bound(log):
    text(lambda data: data + b"x\n" * 200_000)(log)
    with pytest.raises(
        InputError, match=r"data\.csv: line \d+: more than 100000 broken lines, this one of 1 fie"
    ):
        load(log)


LIMIT_BYTES = 3 << 30


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))


@pytest.mark.parametrize("name", ["an unclosed quote", "times in ms", "a century"])
def test_the_command_says_it_in_one_line_with_little_memory(log, name):
    edit, expected = REFUSED[name]
    edit(log)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "h3.ingest",
            "source=requests",
            f"source.path={log.parent}",
            "out=steps.parquet",
        ],
        cwd=log.parent,
        capture_output=True,
        text=True,
        timeout=100,
        preexec_fn=limited,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert re.search(expected, error)
    assert not (log.parent / "steps.parquet").exists()


def test_training_says_what_ingest_says(log):
    cell("output_tokens", "1e12")(log)
    asked = ["source=requests", f"source.path={log.parent}"]
    said = [
        subprocess.run(
            [sys.executable, "-m", f"h3.{verb}", *asked, *rest],
            cwd=log.parent.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        for verb, rest in (
            ("ingest", ["out=steps.parquet"]),
            ("train", ["fold=lowo", "fold.holdout=general"]),
        )
    ]
    line = "rejected rows: longer_than_max_model_len 1"
    assert line in said[0].stdout
    assert line in said[1].stderr


def test_a_request_of_the_longest_context_there_is_passes_where_no_limit_is_named(log):
    config = (log / "exp-config.yaml").read_text().replace("max_model_len: 4096\n", "")
    (log / "exp-config.yaml").write_text(config)
    cell("input_tokens", "1000000")(log)
    assert load(log).rejects.empty
    cell("input_tokens", "11000000")(log)
    assert load(log).rejects["reason"].tolist() == ["longer_than_max_model_len"]
    assert "the longest context of any model" in load(log).rejects["detail"][0]
    assert np.isfinite(load(log).table["decode_kv_tokens_sum"]).all()
