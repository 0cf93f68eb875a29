"""Step tables of strangers: each file is refused in one line that names it, with column and row where there
is one; nothing is read by half.

Tables are written as anybody could write them, digests right where the case is about what lies behind them.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import Steps, source
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import limited

from h3.common.errors import InputError
from h3.sources import load, measured
from h3.steps import partitions, physics, schema

TABLE = Steps().run("llama-2-7b", rows=4).run("mixtral-8x7b-v0-1", rows=4).table()
NO_DIGEST = b'{"format_version":"1"}'


def store(path: Path, table: pd.DataFrame | pa.Table, **record: object) -> None:
    """A table with the metadata that h3.ingest writes, the digest that of its rows where it has one."""
    if isinstance(table, pd.DataFrame):
        record = {"digest": schema.digest(table), **record}
        table = pa.Table.from_pandas(table, preserve_index=False)
    described(path, json.dumps({"format_version": "1", **record}).encode(), table)


def described(path: Path, text: bytes | None, table: pa.Table | None = None) -> None:
    """A table with any bytes as its metadata."""
    table = pa.Table.from_pandas(TABLE, preserve_index=False) if table is None else table
    pq.write_table(table.replace_schema_metadata(None if text is None else {"h3": text}), path)


def refused(path: Path) -> str:
    """The one line with which source=steps refuses a file."""
    with pytest.raises(InputError) as caught:
        load.load(source("steps", path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


METADATA = {
    "none": (None, "step-table format None; expected '1'"),
    "not_json": (b"hello", "metadata 'h3' is no JSON (Expecting value: line 1 column 1 (char 0))"),
    "empty": (b"", "metadata 'h3' is no JSON (Expecting value: line 1 column 1 (char 0))"),
    "cut": (b'{"format_version":', "metadata 'h3' is no JSON (Expecting value: line 1 column 19 (char 18))"),
    "list": (b"[]", "metadata 'h3' is []; expected an object"),
    "null": (b"null", "metadata 'h3' is null; expected an object"),
    "number": (b"1", "metadata 'h3' is 1; expected an object"),
    "text": (b'"1"', "metadata 'h3' is \"1\"; expected an object"),
    "not_utf8": (
        b'{"format_version":"\xff"}',
        "metadata 'h3' is no JSON ('utf-8' codec can't decode byte 0xff",
    ),
    "utf16": ('{"format_version":"1"}'.encode("utf-16"), "metadata 'h3' is no JSON ('utf-8' codec"),
    "nested": (b"[" * 20_000, "metadata 'h3' is no JSON (nested too deeply); expected an object"),
    "digits": (b"1" * 5000, "metadata 'h3' is no JSON (Exceeds the limit (4300 digits)"),
    "no_version": (b"{}", "step-table format None; expected '1'"),
    "other_version": (b'{"format_version":"2"}', "step-table format '2'; expected '1'"),
    "version_a_number": (b'{"format_version":1}', "step-table format 1; expected '1'"),
    "version_long": (json.dumps({"format_version": "v" * 10**5}).encode(), "step-table format 'vvvv"),
    "no_digest": (NO_DIGEST, "metadata 'h3' has no digest; expected that of the rows"),
    "digest_null": (b'{"format_version":"1","digest":null}', "of the rows is not the None in its metadata"),
    "digest_list": (b'{"format_version":"1","digest":[]}', "of the rows is not the [] in its metadata"),
    "digest_other": (b'{"format_version":"1","digest":"00"}', "of the rows is not the 00 in its metadata"),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_that_h3_did_not_write_is_said_to_be_so(tmp_path, name):
    text, line = METADATA[name]
    described(tmp_path / "steps.parquet", text)
    said = refused(tmp_path / "steps.parquet")
    assert said.startswith(f"{tmp_path / 'steps.parquet'}: ") and line in said
    assert len(said) < 400


# column, value in row 5 (digest right), what is expected of the column
VALUES = {
    "period_1e300": ("period_us", 1e300, "at least 0 and at most 3.6e+09 us"),
    "period_two_hours": ("period_us", 7.2e9, "at least 0 and at most 3.6e+09 us"),
    "period_negative": ("period_us", -1.0, "at least 0 and at most 3.6e+09 us"),
    "period_infinite": ("period_us", np.inf, "at least 0 and at most 3.6e+09 us"),
    "duration_1e18": ("duration_us", 1e18, "at least 0 and at most 3.6e+09 us"),
    "start_after_a_century": ("start_us", 1e16, "at least -3.2e+15 and at most 3.2e+15 us"),
    "start_before_a_century": ("start_us", -1e16, "at least -3.2e+15 and at most 3.2e+15 us"),
    "gap_zero": ("gap_steps", 0, "at least 1 and at most 1e+09 steps"),
    "gap_2^60": ("gap_steps", 1 << 60, "at least 1 and at most 1e+09 steps"),
    "step_negative": ("step_id", -1, "at least 0 and at most 1e+12 steps"),
    "step_2^62": ("step_id", 1 << 62, "at least 0 and at most 1e+12 steps"),
    "ranks_zero": ("tensor_parallelism", 0, "at least 1 and at most 10000 GPUs"),
    "ranks_2^31": ("tensor_parallelism", 2**31 - 1, "at least 1 and at most 10000 GPUs"),
    "layers_zero": ("num_layers", 0, "at least 1 and at most 10000 layers"),
    "layers_2^31": ("num_layers", 2**31 - 1, "at least 1 and at most 10000 layers"),
    "hidden_2^31": ("hidden_size", 2**31 - 1, "at least 1 and at most 1e+06"),
    "heads_2^62": ("num_heads", 1 << 62, "at least 1 and at most 10000 heads"),
    "kv_heads_zero": ("num_kv_heads", 0, "at least 1 and at most 10000 heads"),
    "vocabulary_1e12": ("vocab_size", 10**12, "at least 1 and at most 1e+08 tokens"),
    "experts_negative": ("num_experts", -8, "at least 0 and at most 10000 experts"),
    "ffn_2^40": ("dense_ffn_size", 1 << 40, "at least 0 and at most 1e+06"),
    "bytes_zero": ("bytes_per_parameter", 0.0, "at least 0.05 and at most 16 bytes"),
    "bytes_2^30": ("bytes_per_parameter", 2.0**30, "at least 0.05 and at most 16 bytes"),
    "attention_bytes_zero": ("attention_bytes_per_parameter", 0.0, "at least 0.05 and at most 16 bytes"),
    "kv_bytes_zero": ("kv_bytes_per_value", 0.0, "at least 0.05 and at most 16 bytes"),
    "decode_requests_1e17": ("num_decode_reqs", 1e17, "at least 0 and at most 1e+06 requests"),
    "prefill_requests_negative": ("num_prefill_reqs", -2.0, "at least 0 and at most 1e+06 requests"),
    "prompt_1e300": ("prefill_tokens", 1e300, "at least 0 and at most 1e+12 tokens"),
    "kv_tokens_2e298": ("decode_kv_tokens_sum", 2e298, "at least 0 and at most 1e+12 tokens"),
    "pairs_1e30": ("prefill_attended_tokens", 1e30, "at least 0 and at most 1e+18 tokens"),
    "batch_limit_1e12": ("max_num_seqs", 1e12, "at least 0 and at most 1e+09 requests"),
    "blocks_1e300": ("kv_blocks_total", 1e300, "at least 0 and at most 1e+12 blocks"),
    "usage_in_percent": ("kv_usage_ratio", 87.0, "at least 0 and at most 1"),
    "sampling_7": ("truncated_sampling", 7.0, "at least 0 and at most 1"),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_that_no_server_has_is_refused_with_column_row_and_bounds(tmp_path, name):
    column, value, bounds = VALUES[name]
    table = TABLE.copy()
    table.loc[5, column] = value
    store(tmp_path / "steps.parquet", table)
    said = refused(tmp_path / "steps.parquet")
    assert said == (
        f"{tmp_path / 'steps.parquet'}: column {column!r} is {table[column].to_numpy()[5]} in row 5; expected"
        f" a finite number of {bounds}"
    )


PARTS = {
    "kv_heads": ("num_kv_heads", 64, "num_heads=32"),
    "moe_layers": ("num_moe_layers", 33, "num_layers=32"),
    "window_layers": ("num_window_layers", 40.0, "num_layers=32"),
    "experts_of_a_token": ("experts_per_token", 9, "num_experts=8"),
    "rotary_part": ("qk_rope_head_dim", 129.0, "head_dim=128"),
    "free_blocks": ("kv_blocks_free", 10_001.0, "kv_blocks_total=10000.0"),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_above_its_whole_is_refused_with_both(tmp_path, name):
    column, value, whole = PARTS[name]
    table = TABLE.copy()
    table.loc[6, column] = value
    store(tmp_path / "steps.parquet", table)
    said = refused(tmp_path / "steps.parquet")
    assert (
        said
        == f"{tmp_path / 'steps.parquet'}: column {column!r} is {value} in row 6; expected at most {whole}"
    )


def test_every_number_of_the_table_has_a_bound():
    for column in schema.COLUMNS:
        if column.kind != "text":
            table = TABLE.astype({column.name: "float64"})
            table.loc[2, column.name] = 1e30
            with pytest.raises(
                InputError, match=f"^here: column '{column.name}' is 1e\\+30 in row 2; expected"
            ):
                schema.check(table, "here")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_the_bounds_let_through_has_times_that_are_numbers(data):
    row = TABLE.iloc[[data.draw(st.sampled_from([0, 4]))]].copy()
    numbers = [column for column in (*schema.ARCHITECTURE, *schema.COMPOSITION) if column.kind != "text"]
    for column in data.draw(st.lists(st.sampled_from(numbers), max_size=8, unique=True)):
        row[column.name] = data.draw(st.sampled_from([column.minimum, column.maximum]))
    try:
        row = schema.check(row, "row")
    except InputError as error:
        assert re.search("expected at most (num_|head_dim)", str(error))  # a part above its whole
        return
    assert np.isfinite(physics.terms_us(row).to_numpy()).all()
    assert (physics.roofline_us(row) >= 0).all()


def _without(column: str) -> pa.Table:
    return pa.Table.from_pandas(TABLE.drop(columns=column), preserve_index=False)


def _as(column: str, values: pa.Array) -> pa.Table:
    table = pa.Table.from_pandas(TABLE, preserve_index=False)
    return table.set_column(table.column_names.index(column), column, values)


def _twice(column: str) -> pa.Table:
    table = pa.Table.from_pandas(TABLE, preserve_index=False)
    return table.append_column(column, table[column])


COLUMNS = {
    "missing": (
        lambda: _without("period_us").drop_columns("gap_steps"),
        "column 'gap_steps' is missing; expected count",
    ),
    "unknown": (
        lambda: _without("model").append_column("mood", pa.array([1] * 8)),
        "unknown column 'mood'; a step",
    ),
    "twice": (lambda: _twice("period_us"), "column 'period_us' is there twice; expected each once"),
    "of_lists": (
        lambda: _as("period_us", pa.array([[1.0]] * 8)),
        "column 'period_us' holds list<element: double>; expected numbers or texts",
    ),
    "of_records": (
        lambda: _as("model", pa.array([{"name": "x"}] * 8)),
        "column 'model' holds struct<name: string>; expected numbers or texts",
    ),
    "of_huge_numbers": (
        lambda: _as("num_layers", pa.array([1 << 63] * 8, pa.uint64())),
        "column 'num_layers' is 9223372036854775808 in row 0; expected a finite number of at",
    ),
    "of_bytes": (
        lambda: _as("model", pa.array([b"\xff"] * 8)),
        "column 'model' holds binary; expected numbers or texts",
    ),
    "of_times": (
        lambda: _as("start_us", pa.array([0] * 8, pa.timestamp("us"))),
        "column 'start_us' holds timestamp[us]; expected numbers or texts",
    ),
    "numbers_as_text": (
        lambda: _as("period_us", pa.array(["fast"] * 8)),
        "column 'period_us' holds str; expected real",
    ),
    "all_null": (
        lambda: _as("gap_steps", pa.nulls(8)),
        "column 'gap_steps' is null in row 0; expected count",
    ),
    "a_fraction": (
        lambda: _as("num_layers", pa.array([32.5] * 8)),
        "column 'num_layers' is 32.5 in row 0; expected a whole number",
    ),
    "a_long_name": (
        lambda: _as("model", pa.array(["m" * 2000] * 8)),
        "column 'model' holds a text of 2000 characters; expected at most 1000",
    ),
    "two_thousand": (
        lambda: pa.table({f"c{number}": [1] for number in range(2000)}),
        "2000 columns; expected at most 1000",
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_that_are_not_the_tables_are_named(tmp_path, name):
    make, line = COLUMNS[name]
    store(tmp_path / "steps.parquet", make())
    said = refused(tmp_path / "steps.parquet")
    assert said.startswith(f"{tmp_path / 'steps.parquet'}: {line}")


def _cut(path: Path) -> None:
    store(path, TABLE)
    path.write_bytes(path.read_bytes()[:-9])


def _damaged(path: Path) -> None:
    store(path, TABLE)
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)


FILES = {
    "absent": (lambda path: None, "no such file; expected a step table"),
    "folder": (lambda path: path.mkdir(), "is a folder without steps.json; expected a step table"),
    "fifo": (lambda path: os.mkfifo(path), "is no regular file; expected a step table"),
    "link_to_itself": (lambda path: path.symlink_to(path), "no such file; expected a step table"),
    "empty": (lambda path: path.touch(), "not a readable Parquet file (Parquet file size is 0 bytes"),
    "text": (
        lambda path: path.write_text("period_us\n1\n"),
        "not a readable Parquet file (Parquet magic bytes",
    ),
    "magic_only": (lambda path: path.write_bytes(b"PAR1" * 3), "not a readable Parquet file ("),
    "cut": (_cut, "not a readable Parquet file ("),
    "damaged": (_damaged, "not a readable Parquet file ("),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_parquet_file_is_refused(tmp_path, name):
    make, line = FILES[name]
    make(tmp_path / "steps.parquet")
    assert refused(tmp_path / "steps.parquet").startswith(f"{tmp_path / 'steps.parquet'}: {line}")


def _parts(path: Path, **changed: object) -> None:
    """A folder of two parts; keywords replace what its index says."""
    with partitions.writing(path) as made:
        for _, rows in TABLE.groupby("experiment", sort=False):
            made.add(rows.reset_index(drop=True), schema.empty_rejects())
        made.close({})
    index = json.loads((path / partitions.INDEX).read_text())
    (path / partitions.INDEX).write_text(json.dumps(index | changed))


def _index(path: Path, text: bytes) -> None:
    path.mkdir()
    (path / partitions.INDEX).write_bytes(text)


def _bad_part(path: Path) -> None:
    _parts(path)
    store(path / "00001.parquet", pa.table({"period_us": [[1.0]] * 4}))


def _absent_part(path: Path) -> None:
    _parts(path)
    (path / "00001.parquet").unlink()


FOLDERS = {
    "index_not_json": (lambda path: _index(path, b"hello"), "no step table (Expecting value: line 1"),
    "index_nested": (lambda path: _index(path, b"[" * 20_000), "no step table (maximum recursion depth"),
    "index_not_utf8": (
        lambda path: _index(path, b'{"a":"\xff"}'),
        "no step table ('utf-8' codec can't decode",
    ),
    "index_a_list": (lambda path: _index(path, b"[]"), "/steps.json: not an index of steps; expected what"),
    "index_null": (lambda path: _index(path, b"null"), "/steps.json: not an index of steps; expected what"),
    "outside": (
        lambda path: _parts(path, parts=[{"file": "../other.parquet"}]),
        "/steps.json: not an index of steps; expected what",
    ),
    "no_parts": (lambda path: _parts(path, parts=[]), ": 0 rows, steps.json says 8; expected what h3 wrote"),
    "rows_1e12": (
        lambda path: _parts(path, rows=10**12),
        ": 8 rows, steps.json says 1000000000000; expected",
    ),
    "other_digest": (lambda path: _parts(path, digest="00"), ": rows of another digest than steps.json says"),
    "other_version": (lambda path: _parts(path, format_version="9"), ": step-table format '9'; expected '1'"),
    "part_absent": (_absent_part, "/00001.parquet: no such file; expected a part of a step table"),
    "part_of_lists": (_bad_part, "/00001.parquet: column 'period_us' holds list<element: double>; expected"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_h3_did_not_write_is_refused(tmp_path, name):
    make, said = FOLDERS[name]
    make(tmp_path / "steps")
    line = refused(tmp_path / "steps")
    assert line.startswith(str(tmp_path / "steps")) and said in line


def test_a_table_that_grows_in_memory_out_of_proportion_is_refused_before_it_is_read(tmp_path):
    rows = 30_000_000
    path = tmp_path / "steps.parquet"
    ones = pa.array(np.ones(rows, np.int8))
    store(path, pa.table(dict.fromkeys(("gap_steps", "clock", "step_id", "num_layers", "num_heads"), ones)))
    assert path.stat().st_size < 1_000_000
    done = limited(tmp_path, "ingest", "source=steps", f"source.path={path}", "out=out.parquet")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert re.search(
        r"steps\.parquet: 30000000 rows of 5 columns in \d+ bytes; expected no more", done.stderr
    )


@pytest.mark.parametrize("verb", ["ingest", "train"])
def test_the_commands_end_with_the_line_and_status_2(tmp_path, verb):
    table = TABLE.assign(period_us=[*TABLE["period_us"][:-1], 1e300])
    store(tmp_path / "steps.parquet", table)
    out = ["out=out.parquet"] if verb == "ingest" else ["fold=lomo_mixtral"]
    done = limited(tmp_path, verb, "source=steps", "source.path=steps.parquet", *out)
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .endswith(
            "steps.parquet: column 'period_us' is 1e+300 in row 7; expected a finite number of"
            " at least 0 and at most 3.6e+09 us"
        )
    )
    assert "Traceback" not in done.stderr and not (tmp_path / "out.parquet").exists()


def _measured(path: Path, record: object, **changed: object) -> None:
    times = {"device_us": 9.0, "device_p10_us": 8.0, "device_p90_us": 10.0, "comm_us": 1.0}
    launched = {"part": "grid", "mode": "full", "padded_tokens": 8, "replays": 3}
    frame = TABLE.drop(columns=list(measured.TARGETS)).assign(**launched | times | changed)
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(arrow.replace_schema_metadata({"h3": json.dumps(record)}), path)


MEASURED = {
    "no_format": ({}, {}, "format None; expected 'h3-measured-1'"),
    "a_list": ([], {}, "metadata 'h3' is \\[\\]; expected an object"),
    "no_digest": ({"format": "h3-measured-1"}, {}, "metadata 'h3' has no digest; expected that of the rows"),
    "other_digest": ({"format": "h3-measured-1", "digest": 7}, {}, "digest .* of the rows is not the 7 in"),
    "time_1e300": (
        {"format": "h3-measured-1"},
        {"comm_us": 1e300},
        "column 'comm_us' is 1e\\+300 in row 0; expected a number of at least 0.0 and at most 3.6e\\+09",
    ),
    "time_infinite": (
        {"format": "h3-measured-1"},
        {"device_us": np.inf},
        "column 'period_us' is inf in row 0",
    ),
    "replays_zero": ({"format": "h3-measured-1"}, {"replays": 0}, "column 'replays' is 0 in row 0; expected"),
    "tokens_negative": (
        {"format": "h3-measured-1"},
        {"padded_tokens": -1},
        "column 'padded_tokens' is -1 in row",
    ),
    "bytes_zero": (
        {"format": "h3-measured-1"},
        {"bytes_per_parameter": 0.0},
        "column 'bytes_per_parameter' is 0",
    ),
}


@pytest.mark.parametrize("name", MEASURED)
def test_measured_tables_are_held_to_the_same(tmp_path, name):
    record, changed, line = MEASURED[name]
    path = tmp_path / "measured.parquet"
    _measured(path, record, **changed)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: {line}"):
        measured.read(path)
