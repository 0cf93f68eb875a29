"""Step traces become a step table: every event is a row or a reject, whatever is wrong with the file."""

import gzip
import json
import re

import numpy as np
import pandas as pd
import pytest
from builders import source
from trace_builder import TraceBuilder, step_attributes

from h3.common.errors import InputError
from h3.sources.traces import blocks, lines, otlp, steps
from h3.steps import schema

NAME = "20260101-000000-llama-2-7b-tp1-general"


def ingest(root, builder, **options):
    builder.write(root, **options)
    return steps.load(source("traces", root))


def entry(ingested):
    return ingested.record["experiments"][NAME]


def reasons(ingested):
    return dict(zip(ingested.rejects["line"], ingested.rejects["reason"], strict=True))


def packed_line(builder, count, first, **changed):
    """Steps that share a line, all of one byte layout: the exporter's usual way."""
    return builder.open_line().steps(count, first=first, at_ms=20.0 * first, **changed).close_line()


def test_a_step_event_becomes_a_row_in_the_tables_units(tmp_path):
    builder = TraceBuilder().step(
        7, 0, prefill=1, prefill_tokens=16, decode=3, batch__num_finished=1, queue__waiting_depth=2
    )
    ingested = ingest(tmp_path, builder.step(9, 50, decode=4))
    row = ingested.table.iloc[0]
    expected = {
        "experiment": NAME,
        "log": "traces",
        "model": "llama-2-7b",
        "workload": "general",
        "clock": 0,
        "step_id": 7,
        "start_us": 0.0,
        "num_prefill_reqs": 1,
        "num_decode_reqs": 3,
        "prefill_tokens": 16.0,
        "decode_tokens": 3.0,
        "period_us": 25_000.0,
        "gap_steps": 2,
        "duration_us": 70.0,
        "running_reqs": 4.0,
        "waiting_reqs": 2.0,
        "kv_blocks_total": 1000.0,
        "kv_blocks_free": 900.0,
        "kv_usage_ratio": 0.1,
        "num_finished": 1.0,
        "num_preempted": 0.0,
        "max_num_batched_tokens": 2048.0,
    }
    assert {name: row[name] for name in expected} == expected
    assert reasons(ingested) == {2: "last_of_clock"}


def test_the_fast_reader_and_the_json_decoder_give_the_same_columns(tmp_path):
    rng = np.random.default_rng(3)
    builder = TraceBuilder()
    for line in range(6):
        builder.open_line()
        for step in range(40):
            number = 40 * line + step
            ratio = float(rng.choice([rng.random(), rng.random() * 1e-6, 0.5, 1.0]))
            duration, decode = int(10 ** rng.uniform(0, 17)), int(rng.integers(0, 2000))
            builder.step(
                number, 20.0 * number, decode=decode, step__duration_us=duration, kv__usage_gpu_ratio=ratio
            )
        builder.close_line()
    folder = builder.write(tmp_path / "compact")
    fast = list(otlp.read(folder / "traces.json"))
    spaced = tmp_path / "traces.json"
    spaced.write_text("".join(json.dumps(json.loads(line)) + "\n" for line in builder.lines))
    slow = list(otlp.read(spaced))
    assert len(fast[0].steps["line"]) == 240
    for name, column in slow[0].steps.items():
        np.testing.assert_allclose(fast[0].steps[name], column, rtol=1e-14, err_msg=name)


def test_lines_of_one_layout_need_no_json_decoder():
    builder = packed_line(TraceBuilder(), 100, 1)
    builder.open_line()
    for step in range(101, 140):
        builder.step(step, 20.0 * step, decode=2).snapshot(step, f"chat-{step}", "DECODE", step, 1)
    block = blocks.Block(1, builder.close_line().content())
    taken, columns, _ = lines.read(block, otlp.SCHEDULER_SCOPE, otlp.LAYOUT_NEEDS, {})
    assert taken.all()
    assert list(columns[otlp.STEP]["step.id"]) == list(range(1, 140))
    assert list(columns[otlp.SNAPSHOT]["request.num_computed_tokens"]) == list(range(101, 140))


@pytest.mark.parametrize("packed", [False, True])
def test_blocks_of_lines_join_without_a_seam(tmp_path, monkeypatch, packed):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 5000)
    monkeypatch.setattr(blocks, "CHUNK_BYTES", 999)
    ingested = ingest(tmp_path, TraceBuilder().steps(200), packed=packed)
    assert list(ingested.table["step_id"]) == list(range(1, 200))
    assert (ingested.table["period_us"] == 20_000).all()
    assert reasons(ingested) == {200: "last_of_clock"}


def test_numbers_may_come_as_strings_or_as_json_numbers(tmp_path):
    builder = TraceBuilder().steps(3)
    builder.lines = [re.sub(r'"intValue":"(\d+)"', r'"intValue":\1', line) for line in builder.lines]
    assert list(ingest(tmp_path, builder).table["step_id"]) == [1, 2]


def test_a_broken_line_is_one_reject_and_the_rest_is_read(tmp_path):
    builder = packed_line(TraceBuilder(), 5, 1)
    packed_line(builder, 5, 6)
    packed_line(builder, 5, 11)
    builder.lines[1] = builder.lines[1].replace("}},{", "}},,{", 1)
    ingested = ingest(tmp_path, builder)
    assert reasons(ingested) == {2: "broken_json", 3: "last_of_clock"}
    assert list(ingested.table["step_id"]) == [1, 2, 3, 4, 5, 11, 12, 13, 14]
    assert entry(ingested)["rejected"] == {"broken_json": 1, "last_of_clock": 1}


@pytest.mark.parametrize("place", range(0, 1500, 37))
def test_no_damaged_byte_slips_past_the_fast_reader(tmp_path, place):
    builder = packed_line(TraceBuilder(), 3, 1)
    line = builder.lines[0]
    builder.lines[0] = line[:place] + "\x01" + line[place + 1 :]
    packed_line(builder, 3, 4)
    ingested = ingest(tmp_path, builder)
    assert reasons(ingested)[1] in ("broken_json", "malformed_otlp")
    assert list(ingested.table["step_id"]) == [4, 5]


def test_a_cut_gzip_file_keeps_what_was_read(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "CHUNK_BYTES", 1000)
    builder = TraceBuilder().steps(400)
    whole = len(gzip.compress(builder.content()))
    ingested = ingest(tmp_path, builder, packed=True, cut=whole // 2)
    assert sorted(ingested.rejects["reason"]) == ["last_of_clock", "truncated_gzip"]
    assert 100 < len(ingested.table) < 300
    assert (ingested.table["period_us"] == 20_000).all()


def test_a_gz_file_that_is_no_gzip_is_refused(tmp_path):
    folder = TraceBuilder().steps(2).write(tmp_path)
    (folder / "traces.json").rename(folder / "traces.json.gz")
    with pytest.raises(InputError, match=r"traces\.json\.gz: not a gzip file"):
        steps.load(source("traces", tmp_path))


@pytest.mark.parametrize(
    "missing", ["step.id", "batch.num_decode_reqs", "kv.usage_gpu_ratio", "step.duration_us"]
)
def test_an_event_that_lacks_an_attribute_is_rejected_by_its_name(tmp_path, missing):
    builder = (
        TraceBuilder().steps(3).step(4, 60, **{missing.replace(".", "__"): None}).steps(3, first=5, at_ms=80)
    )
    ingested = ingest(tmp_path, builder)
    rejects = ingested.rejects.set_index("line")
    assert rejects.loc[4, "reason"] == "missing_attribute"
    assert missing in rejects.loc[4, "detail"]
    assert list(ingested.table["step_id"]) == [1, 2, 3, 5, 6]
    assert entry(ingested)["events"] == 7 == len(ingested.table) + len(ingested.rejects)


def test_an_attribute_that_no_event_has_is_null(tmp_path):
    ingested = ingest(tmp_path, TraceBuilder().steps(4, kv__usage_gpu_ratio=None))
    assert len(ingested.table) == 3
    assert ingested.table["kv_usage_ratio"].isna().all()


@pytest.mark.parametrize("raw", ['"NaN"', "NaN", "Infinity", '"Infinity"', '"many"'])
def test_numbers_that_are_not_finite_reject_the_event(tmp_path, raw):
    builder = TraceBuilder().steps(5)
    builder.lines[1] = builder.lines[1].replace('"doubleValue":0.1', f'"doubleValue":{raw}')
    ingested = ingest(tmp_path, builder)
    assert reasons(ingested) == {2: "not_finite", 5: "last_of_clock"}
    assert "kv.usage_gpu_ratio" in ingested.rejects["detail"].iloc[0]


def test_a_negative_count_rejects_the_event(tmp_path):
    ingested = ingest(tmp_path, TraceBuilder().step(1, 0).step(2, 20, decode=-1).step(3, 40).step(4, 60))
    assert reasons(ingested) == {2: "bad_value", 4: "last_of_clock"}


def test_step_ids_that_go_back_start_a_new_clock(tmp_path):
    ingested = ingest(tmp_path, TraceBuilder().steps(3, first=50).steps(3, first=1, at_ms=5000))
    assert list(ingested.table["clock"]) == [0, 0, 1, 1]
    assert (ingested.table["period_us"] == 20_000).all()
    assert entry(ingested)["clocks"] == 2
    assert reasons(ingested) == {3: "last_of_clock", 6: "last_of_clock"}


def test_a_drained_server_gives_an_idle_gap(tmp_path):
    builder = (
        TraceBuilder().steps(5).step(6, 100, decode=2, batch__num_finished=2).steps(3, first=7, at_ms=135)
    )
    ingested = ingest(tmp_path, builder)
    assert reasons(ingested) == {6: "idle_gap", 9: "last_of_clock"}


def test_events_of_other_scopes_and_names_are_none_of_its_business(tmp_path):
    builder = TraceBuilder().steps(3)
    builder.event("step.BATCH_SUMMARY", step_attributes(99, 900), scope="other.scheduler").event(
        "step.OTHER", {"step.id": 98}
    )
    builder.text('{"resourceLogs":[]}').text("")
    ingested = ingest(tmp_path, builder)
    assert entry(ingested)["events"] == 3
    assert reasons(ingested) == {3: "last_of_clock"}


def test_a_pretty_printed_document_is_read_as_one_line(tmp_path):
    folder = TraceBuilder().open_line().steps(4).close_line().write(tmp_path)
    path = folder / "traces.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=2))
    ingested = steps.load(source("traces", tmp_path))
    assert list(ingested.table["step_id"]) == [1, 2, 3]
    assert reasons(ingested) == {1: "last_of_clock"}


def test_a_line_beyond_the_limit_is_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "LONGEST_LINE", 2000)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(blocks, "CHUNK_BYTES", 500)
    TraceBuilder().step(1, 0).open_line().steps(20).close_line().write(tmp_path)
    with pytest.raises(InputError, match=r"line 2 has over .*one resourceSpans object a line"):
        steps.load(source("traces", tmp_path))


@pytest.mark.parametrize("text", ["", "\n\n", "not json\n", '{"resourceSpans":[]}\n'])
def test_a_file_without_steps_is_an_error_of_one_line(tmp_path, text):
    folder = TraceBuilder().write(tmp_path)
    (folder / "traces.json").write_text(text)
    with pytest.raises(InputError, match=r"traces\.json: no usable step\.BATCH_SUMMARY event") as caught:
        steps.load(source("traces", tmp_path))
    assert "\n" not in str(caught.value)


def test_a_single_step_leaves_nothing_to_learn_from(tmp_path):
    with pytest.raises(InputError, match="1 last_of_clock"):
        ingest(tmp_path, TraceBuilder().step(1, 0))


def test_two_folders_with_one_experiment_name_are_refused(tmp_path):
    for root in ("one", "two"):
        TraceBuilder().steps(2).write(tmp_path / root)
    with pytest.raises(InputError, match="is there twice"):
        steps.load(source("traces", [tmp_path / "one", tmp_path / "two"]))


def test_the_table_is_a_step_table_as_it_is(tmp_path):
    table = ingest(tmp_path, TraceBuilder().steps(5)).table
    pd.testing.assert_frame_equal(table, schema.check(table, "traces"))
