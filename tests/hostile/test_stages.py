"""Stage means of strangers: one line that names file and row, or a stage that is left out with its reason."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import source
from processes import limited

from h3.common.errors import InputError
from h3.sources import stage_means

COLUMNS = (
    *("experiment", "model", "hardware", "workload", "tensor_parallelism", "requests_per_s"),
    *("prompt_tokens", "output_tokens", "e2e_mean_ms", "ttft_mean_ms"),
)
ROW = dict(
    zip(
        COLUMNS, ("mine", "llama-2-7b", "H100", "general", "1", "2", "500", "101", "1100", "100"), strict=True
    )
)


def stages(*changes: dict[str, str]) -> bytes:
    """A good CSV with a row for each of the changes of a good row."""
    rows = [",".join((ROW | change).values()) for change in changes]
    return "\n".join([",".join(COLUMNS), *rows, ""]).encode()


GOOD = stages({}, {"requests_per_s": "3"})


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        stage_means.load(source("stage_means", path))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    return str(caught.value)


ABOVE, MOST = "expected a number above 0", "expected a number of at most"
# What is in the third row of the file.
ROWS: dict[str, tuple[dict[str, str], str]] = {
    "rate_1e300": ({"requests_per_s": "1e300"}, f"requests_per_s=1e+300; {MOST} 1e+09"),
    "rate_zero": ({"requests_per_s": "0"}, f"requests_per_s=0; {ABOVE}"),
    "rate_nan": ({"requests_per_s": "nan"}, f"requests_per_s=nan; {ABOVE}"),
    "rate_infinite": ({"requests_per_s": "inf"}, f"requests_per_s=inf; {ABOVE}"),
    "prompt_text": ({"prompt_tokens": "many"}, f"prompt_tokens=many; {ABOVE}"),
    "prompt_negative": ({"prompt_tokens": "-5"}, f"prompt_tokens=-5; {ABOVE}"),
    "prompt_5000_digits": ({"prompt_tokens": "9" * 5000}, f"prompt_tokens={'9' * 60}; {ABOVE}"),
    "output_1e12": ({"output_tokens": "1e12"}, f"output_tokens=1000000000000.0; {MOST} 1e+09"),
    "output_one": ({"output_tokens": "1"}, "output_tokens=1.0; expected 2 or more"),
    "latency_of_a_year": ({"e2e_mean_ms": "3.15e10"}, f"e2e_mean_ms=31500000000.0; {MOST} 6.1e+08"),
    "first_token_last": ({"ttft_mean_ms": "1100"}, "e2e_mean_ms=1100.0 is not above ttft_mean_ms=1100.0"),
    "ranks_2^31": ({"tensor_parallelism": "2147483647"}, f"tensor_parallelism=2147483647; {MOST} 10000"),
    "no_name": ({"model": ""}, "model is empty; expected a name"),
    "a_long_name": ({"workload": "w" * 300}, "workload has more than 250 characters; expected a name"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_that_cannot_be_is_named(tmp_path, name):
    change, line = ROWS[name]
    path = tmp_path / "stages.csv"
    path.write_bytes(stages({}, change))
    assert refused(path) == f"{path}: row 3: {line}"


FILES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "empty": ("stages.csv", lambda: b"", "cannot be read (No columns to parse from file); expected a CSV"),
    "zeros": ("stages.csv", lambda: bytes(5000), "UTF-16; expected UTF-8"),
    "utf_16": ("stages.csv", lambda: GOOD.decode().encode("utf-16"), "UTF-16; expected UTF-8"),
    "not_utf8": ("stages.csv", lambda: GOOD.replace(b"mine", b"m\xffne"), "cannot be read ('utf-8' codec"),
    "an_open_quote": ("stages.csv", lambda: GOOD + b'"mine,', "cannot be read (Error tokenizing data"),
    "more_cells": ("stages.csv", lambda: GOOD + b"," * 40 + b"\n", "cannot be read (Error tokenizing data"),
    "another_table": ("stages.csv", lambda: b"a,b\n1,2\n", "unknown column 'a'; expected experiment, model"),
    "header_only": ("stages.csv", lambda: GOOD.splitlines()[0], "no row below the header; expected a row"),
    "a_million_rows": (
        "stages.csv",
        lambda: GOOD + GOOD.splitlines(keepends=True)[1] * 100_000,
        "100002 stages; expected at most 10000",
    ),
    "a_zip": ("stages.zip", lambda: b"PK\x03\x04" + b"\xff" * 99, "cannot be read ('utf-8' codec"),
    "not_gzip": ("stages.csv.gz", lambda: GOOD, "not gzip (Error -3 while decompressing data"),
    "cut_gzip": ("stages.csv.gz", lambda: gzip.compress(GOOD)[:-9], "truncated_gzip; expected a whole CSV"),
    "zeros_in_gzip": (
        "stages.csv.gz",
        lambda: gzip.compress(bytes(99 << 20)),
        "more than 67108864 bytes unpacked",
    ),
    "commas_in_gzip": (
        "stages.csv.gz",
        lambda: gzip.compress(b",\n" * (20 << 20)),
        "41943040 bytes; expected a whole CSV of at most 16777216 bytes",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_table_of_stages_is_refused(tmp_path, name):
    file, content, line = FILES[name]
    (tmp_path / file).write_bytes(content())
    assert refused(tmp_path / file).startswith(f"{tmp_path / file}: {line}")


def test_a_pipe_a_folder_and_nothing_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    assert refused(tmp_path / "pipe.csv").startswith(f"{tmp_path / 'pipe.csv'}: no regular file")
    assert "no regular file" in refused(tmp_path)
    assert "No such file or directory" in refused(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"e2e_mean_ms": "1.1", "ttft_mean_ms": "0.1"},
            r"impossible: a step of 0.01 ms, less than the weights",
        ),
        ({"requests_per_s": "900"}, "saturated: rate and latency imply 900 requests at once"),
    ],
)
def test_a_stage_that_no_server_can_have_made_is_left_out_with_the_reason(tmp_path, change, reason):
    (tmp_path / "stages.csv").write_bytes(stages({}, change))
    ingested = stage_means.load(source("stage_means", tmp_path / "stages.csv"))
    assert len(ingested.table) == 1
    (left,) = ingested.record["left_out"]
    assert left["experiment"] == "mine, stage 1" and left["reason"].startswith(reason)


def test_times_in_seconds_leave_no_stage_and_say_so(tmp_path):
    change = {"e2e_mean_ms": "1.1", "ttft_mean_ms": "0.1"}
    (tmp_path / "stages.csv").write_bytes(stages(change, change | {"requests_per_s": "3"}))
    assert "no stage is left (impossible: a step of 0.01 ms" in refused(tmp_path / "stages.csv")


def test_the_command_ends_with_the_line_and_status_2(tmp_path):
    (tmp_path / "stages.csv.gz").write_bytes(FILES["commas_in_gzip"][1]())
    arguments = ("source=stage_means", "source.path=stages.csv.gz", "out=out.parquet")
    done = limited(tmp_path, "ingest", *arguments, memory_bytes=2 << 30)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "stages.csv.gz: 41943040 bytes; expected a whole CSV" in done.stderr.strip().splitlines()[-1]
