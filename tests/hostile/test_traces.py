"""Traces of strangers: what is wrong with one event is a counted reject, what is wrong with the whole file
one line that names it. Never a traceback, a hang, a gigabyte, or a table that no server can have made.

The good part of each trace is thirty steps of 20 ms of Llama-2-7B on one H100, whose weights take 3945 us.
"""

from __future__ import annotations

import gzip
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import source
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import limited
from trace_builder import TraceBuilder, event, step_attributes

from h3.common.errors import InputError
from h3.sources.experiment import Ingested
from h3.sources.traces import steps
from h3.steps import schema

STEPS = 30
GOOD = TraceBuilder().steps(STEPS, decode=4)
LAST = {"last_of_clock": 1}


def trace(*, after: int = 15, **changed: object) -> bytes:
    """The good trace with the attributes of one step changed: `batch__num_decode_reqs` and the like."""
    builder = TraceBuilder().steps(after, decode=4)
    builder.step(after + 1, 20.0 * after, **{"decode": 4, **changed})
    return builder.steps(STEPS - after - 1, first=after + 2, at_ms=20.0 * (after + 1), decode=4).content()


def whole(**changed: object) -> bytes:
    """The good trace with the attributes of every step changed."""
    return TraceBuilder().steps(STEPS, **{"decode": 4, **changed}).content()


def with_line(line: bytes) -> bytes:
    """The good trace with one line more, in its middle."""
    lines = GOOD.content().splitlines(keepends=True)
    return b"".join([*lines[:15], line + b"\n", *lines[15:]])


def in_unit(nanoseconds: float, count: int = STEPS, period_ms: float = 20.0) -> bytes:
    """A trace whose start times count units of so many ns."""
    builder = TraceBuilder()
    for step in range(count):
        start = round((1e9 + step * period_ms * 1e6) / nanoseconds)
        builder.step(step + 1, 0, decode=4, step__ts_start_ns=start)
    return builder.content()


def one_line(events: str) -> bytes:
    """A line with so many events, given as JSON."""
    spans = (
        '{"resourceSpans":[{"scopeSpans":[{"scope":{"name":"vllm.scheduler"},"spans":[{"events":[%s]}]}]}]}'
    )
    return (spans % events).encode()


def folder(root: Path, content: bytes, packed: bool = False, config: str = "") -> Path:
    made = TraceBuilder().write(root)
    (made / "traces.json").unlink()
    (made / ("traces.json.gz" if packed else "traces.json")).write_bytes(content)
    with (made / "exp-config.yaml").open("a") as file:
        file.write(config)
    return made


def read(root: Path) -> Ingested:
    return steps.load(source("traces", root))


def line(root: Path) -> str:
    """The one line with which the traces are refused."""
    with pytest.raises(InputError) as caught:
        read(root)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    return str(caught.value)


# What is in the middle of a good trace: (content, reject, its detail).
EVENTS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "batch_1e17": (
        lambda: trace(batch__num_decode_reqs=10**17),
        "above_max_num_seqs",
        r"step 16: 1\d+ requests; exp-config\.yaml says max_num_seqs=128",
    ),
    "batch_above_limit": (
        lambda: trace(decode=129),
        "above_max_num_seqs",
        r"step 16: 129 requests; exp-config\.yaml says max_num_seqs=128",
    ),
    "tokens_above_budget": (
        lambda: trace(prefill=1, prefill_tokens=4096),
        "above_max_num_batched_tokens",
        r"step 16: 4100 tokens; exp-config\.yaml says max_num_batched_tokens=2048",
    ),
    "free_above_total": (
        lambda: trace(kv__blocks_free_gpu=1001),
        "bad_value",
        r"step 16: kv\.blocks_free_gpu is 1001; expected at most kv\.blocks_total_gpu=1000",
    ),
    "usage_in_percent": (
        lambda: trace(kv__usage_gpu_ratio=87.5),
        "bad_value",
        r"step 16: kv_usage_ratio is 87\.5; expected at most 1",
    ),
    "blocks_1e15": (
        lambda: trace(kv__blocks_total_gpu=10**15),
        "bad_value",
        r"step 16: kv_blocks_total is 1e\+15; expected at most 1e\+12",
    ),
    "duration_of_a_day": (
        lambda: trace(step__duration_us=86_400_000_000),
        "bad_value",
        r"step 16: duration_us is 8\.64e\+10; expected at most 3\.6e\+09",
    ),
    "finished_negative": (
        lambda: trace(batch__num_finished=-3),
        "bad_value",
        r"step 16: attribute batch\.num_finished is -3; expected at least 0",
    ),
    "half_a_request": (
        lambda: trace(batch__num_decode_reqs=2.5),
        "bad_value",
        r"step 16: attribute batch\.num_decode_reqs is 2\.5; expected at least 0, counts whole",
    ),
    "waiting_1e18": (
        lambda: trace(queue__waiting_depth=10**18),
        "bad_value",
        r"step 16: waiting_reqs is 1e\+18; expected at most 1e\+09",
    ),
    "id_2^61": (
        lambda: trace(step__id=1 << 61),
        "bad_value",
        rf"attribute step\.id is {1 << 61}; expected 0 to 1e\+12",
    ),
    "id_negative": (
        lambda: trace(step__id=-7),
        "bad_value",
        r"attribute step\.id is -7; expected 0 to 1e\+12",
    ),
    "id_2^70": (
        lambda: trace(step__id=1 << 70),
        "not_finite",
        rf"attribute step\.id is '{1 << 70}'; expected a whole number below 2\^62",
    ),
    "id_of_5000_digits": (
        lambda: trace().replace(b'"intValue":"16"', b'"intValue":"' + b"9" * 5000 + b'"'),
        "not_finite",
        r"attribute step\.id is '9+\.\.\.9+'; expected a whole number below 2\^62",
    ),
    "id_a_text": (
        lambda: trace(step__id="sixteen"),
        "not_finite",
        r"attribute step\.id is 'sixteen'; expected a whole number",
    ),
    "id_a_fraction": (
        lambda: trace(step__id=16.5),
        "not_finite",
        r"attribute step\.id is 16\.5; expected a whole number",
    ),
    "duration_a_text": (
        lambda: trace(step__duration_us="long"),
        "not_finite",
        r"attribute step\.duration_us is 'long'; expected a finite number",
    ),
    "time_a_century_later": (
        lambda: trace(step__ts_start_ns=3_200_000_000_000_000_000),
        "bad_value",
        r"step 16: attribute step\.ts_start_ns is 32\d+; expected a time within a year of the log's middle",
    ),
    "time_negative": (
        lambda: trace(step__ts_start_ns=-5),
        "bad_value",
        r"step 16: attribute step\.ts_start_ns is -5; expected a time within a year",
    ),
    "byte_above_7f_in_a_name": (
        lambda: with_line(one_line('{"name":"\xff"}').replace(b"\xc3\xbf", b"\xff")),
        "broken_json",
        r"not UTF-8: byte 0xff",
    ),
    "byte_above_7f_in_an_event": (
        lambda: with_line(one_line('{"name":"step.BATCH_SUMMARY\x80"}').replace(b"\xc2\x80", b"\x80")),
        "broken_json",
        r"not UTF-8: byte 0x80",
    ),
    "nested_20000": (lambda: with_line(b'{"resourceSpans":' + b"[" * 20_000), "broken_json", "got `array`"),
    "nested_in_a_foreign_key": (
        lambda: with_line(b'{"x":' + b'{"x":' * 20_000),
        "broken_json",
        "nested too deep",
    ),
    "number_of_5000_digits": (
        lambda: with_line(b'{"resourceSpans":' + b"9" * 5000 + b"}"),
        "broken_json|malformed_otlp",
        "",
    ),
    "spans_a_number": (
        lambda: with_line(b'{"resourceSpans":7}'),
        "malformed_otlp",
        "Expected `array`, got `int`",
    ),
    "spans_null": (
        lambda: with_line(b'{"resourceSpans":null}'),
        "malformed_otlp",
        "Expected `array`, got `null`",
    ),
    "a_number": (lambda: with_line(b"7"), "malformed_otlp", "Expected `object|array`, got `int`"),
    "event_null": (lambda: with_line(one_line("null")), "malformed_otlp", "Expected `object`, got `null`"),
    "a_cut_line": (lambda: with_line(one_line("")[:-9]), "broken_json", "Input data was truncated"),
    "a_line_of_zeros": (lambda: with_line(bytes(500)), "broken_json", ""),
    "an_event_without_numbers": (
        lambda: with_line(one_line('{"name":"step.BATCH_SUMMARY"}')),
        "missing_attribute",
        r"step\.BATCH_SUMMARY has no attribute step\.id",
    ),
    "the_same_event_again": (
        lambda: with_line(GOOD.content().splitlines()[14]),
        "duplicate_step",
        "step 15: ",
    ),
    "the_same_step_at_another_time": (
        lambda: TraceBuilder().steps(15).step(15, 290).steps(15, first=16, at_ms=300).content(),
        "duplicate_step",
        "step 15: ",
    ),
    "a_thousand_times_too_fast": (
        lambda: TraceBuilder().steps(15).step(16, 280.02).steps(15, first=17, at_ms=300).content(),
        "faster_than_weights",
        r"step 15: period 20\.0 us; the weights take 3945 us at peak bandwidth",
    ),
    "a_snapshot_of_minus_one_token": (
        lambda: GOOD.content() + TraceBuilder().snapshot(3, "a", "DECODE", -1, 1).content(),
        "bad_value",
        r"attribute request\.num_computed_tokens is -1; expected 0 to 1e\+12",
    ),
    "a_journey_of_2^61_tokens": (
        lambda: GOOD.content() + TraceBuilder().journey("a", ("FINISHED", 9, 1 << 61, 5)).content(),
        "bad_value",
        r"attribute prefill\.done_tokens is 2\d+; expected 0 to 1e\+12|is 2\.\d+e\+18; expected 0 to",
    ),
}


@pytest.mark.parametrize("name", EVENTS)
def test_what_is_wrong_with_one_event_is_one_reject_and_the_rest_is_read(tmp_path, name):
    content, reason, detail = EVENTS[name]
    folder(tmp_path, content())
    ingested = read(tmp_path)
    rejects = ingested.rejects[ingested.rejects["reason"] != "last_of_clock"]
    assert len(rejects) == 1
    assert re.fullmatch(reason, rejects["reason"].iloc[0]) and re.search(detail, rejects["detail"].iloc[0])
    assert len(rejects["detail"].iloc[0]) < 300
    assert len(ingested.table) >= STEPS - 3
    usual = ingested.table["period_us"].between(19_000, 42_000)
    assert usual.all()
    pd_table = schema.check(ingested.table, "traces")
    assert len(pd_table) == len(ingested.table)


# What is wrong with all of a trace: (content, further configuration, the line).
WHOLE: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "times_in_us": (
        lambda: in_unit(1e3),
        "",
        r"a step takes 20 us in the mean, the weights take 3945 us to be read; the times in"
        r" step\.ts_start_ns look like us, expected ns",
    ),
    "times_in_ms": (
        lambda: in_unit(1e6),
        "",
        r"a step takes 0\.02 us in the mean, .* look like ms, expected ns",
    ),
    "times_in_s": (
        lambda: in_unit(1e9, count=300),
        "",
        r"a step takes 2\.\d+e-05 us in the mean, .* look like s, expected ns",
    ),
    "batches_above_limit": (
        lambda: whole(decode=200),
        "",
        r"over 10% of 30 steps are impossible: above_max_num_seqs \(first: step 1: 200 requests; exp-config",
    ),
    "a_wrong_limit": (
        lambda: whole(decode=4),
        "max_num_seqs: 2\n",
        r"above_max_num_seqs \(first: step 1: 4 requests; exp-config\.yaml says max_num_seqs=2\)",
    ),
    "prompts_above_budget": (
        lambda: whole(prefill=1, prefill_tokens=9000),
        "",
        r"above_max_num_batched_tokens \(first: step 1: 9004 tokens; exp-config",
    ),
    "free_above_total": (
        lambda: whole(kv__blocks_free_gpu=2000),
        "",
        r"bad_value \(first: step 1: kv\.blocks_free_gpu is 2000; expected at most kv\.blocks_total",
    ),
    "batches_1e17": (
        lambda: whole(batch__num_decode_reqs=10**17),
        "",
        r"above_max_num_seqs \(first: step 1: 1\d+ requests; exp-config\.yaml says max_num_seqs=128",
    ),
    "twice_as_fast_as_memory": (
        lambda: TraceBuilder().steps(STEPS, period_ms=1.9, decode=4).content(),
        "",
        r"10% of 30 steps are impossible: faster_than_weights \(first: step 1: period 1900\.0 us; the",
    ),
    "steps_of_two_minutes": (
        lambda: TraceBuilder().steps(STEPS, period_ms=120_000, decode=4).content(),
        "",
        r"slower_than_a_minute \(first: step 1: period 120000000 us; expected a minute at most\)",
    ),
    "a_run_of_a_century": (
        lambda: TraceBuilder().steps(100, period_ms=3.15e10, decode=4).content(),
        "",
        r"10% of 100 steps are impossible: bad_value.* expected a time within a year of the log's middle",
    ),
    "two_servers_in_one_file": (
        lambda: b"".join(
            TraceBuilder().step(step + 1000 * (step % 2), 20.0 * step).content() for step in range(400)
        ),
        "",
        r"step ids or times go back \d+ times in 400 steps; expected one server a folder",
    ),
    "requests_above_max_model_len": (
        lambda: b"".join(
            TraceBuilder().step(step, 20.0 * step).snapshot(step, "a", "DECODE", 5000, 1).content()
            for step in range(1, STEPS)
        ),
        "max_model_len: 4096\n",
        r"above_max_model_len \(first: step 1: a request of more tokens than max_model_len=4096\)",
    ),
    "no_attributes": (
        lambda: one_line(",".join(['{"name":"step.BATCH_SUMMARY"}'] * 50)),
        "",
        r"no usable step\.BATCH_SUMMARY event of scope vllm\.scheduler \(rejected: 50 missing_attribute\)",
    ),
    "another_scope": (
        lambda: GOOD.content().replace(b"vllm.scheduler", b"sglang.engine"),
        "",
        r"no usable step\.BATCH_SUMMARY event of scope vllm\.scheduler \(rejected: none\); expected some",
    ),
    "utf_16": (
        lambda: GOOD.content().decode().encode("utf-16"),
        "",
        r"traces\.json: UTF-16; expected UTF-8",
    ),
    "utf_16_without_mark": (
        lambda: GOOD.content().decode().encode("utf-16-le"),
        "",
        r"traces\.json: UTF-16; expected UTF-8",
    ),
    "utf_32": (lambda: GOOD.content().decode().encode("utf-32"), "", r"traces\.json: UTF-16; expected UTF-8"),
    "zeros": (lambda: bytes(10_000), "", r"traces\.json: UTF-16; expected UTF-8"),
    "noise": (
        lambda: np.random.default_rng(1).integers(128, 256, 20_000, dtype=np.uint8).tobytes(),
        "",
        r"no usable step\.BATCH_SUMMARY event of scope vllm\.scheduler \(rejected: \d+ broken_json\)",
    ),
    "a_long_line": (
        lambda: GOOD.content() + b"x" * (33 << 20),
        "",
        r"traces\.json: line \d+ has over 32 MB; expected one resourceSpans object a line",
    ),
    "twenty_thousand_broken_lines": (
        lambda: GOOD.content() + b"{\n" * 20_000,
        "",
        r"20000 rejects against 30 steps so far, the first in line 31 \(broken_json: Input data was",
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_wrong_with_the_whole_trace_is_one_line(tmp_path, name):
    content, config, expected = WHOLE[name]
    folder(tmp_path, content(), config=config)
    assert re.search(expected, line(tmp_path))


def packed(content: bytes, level: int = 9) -> bytes:
    return gzip.compress(content, level)


def _flipped(content: bytes, place: int) -> bytes:
    damaged = bytearray(content)
    damaged[place] ^= 0xFF
    return bytes(damaged)


# gzip files: (content, the rejects that are counted, whether all steps are there) or the line of a refusal.
GZIP: dict[str, tuple[Callable[[], bytes], dict[str, int] | str]] = {
    "whole": (lambda: packed(GOOD.content()), LAST),
    "of_two_members": (lambda: packed(GOOD.content()[:4000]) + packed(GOOD.content()[4000:]), LAST),
    "cut_in_the_trailer": (lambda: packed(GOOD.content())[:-3], {**LAST, "truncated_gzip": 1}),
    "wrong_checksum": (lambda: _flipped(packed(GOOD.content()), -6), {**LAST, "damaged_gzip": 1}),
    "rubbish_after_the_end": (
        lambda: packed(GOOD.content()) + b"rubbish" * 9,
        {**LAST, "bytes_after_gzip": 1},
    ),
    "cut_in_the_header": (lambda: packed(GOOD.content())[:5], "no usable step|not a gzip file"),
    "empty": (lambda: b"", "no usable step"),
    "not_gzip": (
        lambda: GOOD.content(),
        r"traces\.json\.gz: not a gzip file .*; expected gzip-compressed OTLP",
    ),
    "newlines": (
        lambda: packed(b"\n" * (96 << 20)),
        r"traces\.json\.gz: more than 67108864 bytes unpacked; expected less, or bounds that allow it"
        r" \(source\.max_file_gb, source\.max_file_ratio\)",
    ),
    "braces": (
        lambda: packed(b"{\n" * (40 << 20)),
        r"traces\.json\.gz: line 1 has over 32 MB; expected one resourceSpans object a line",
    ),
    "braces_after_steps": (
        lambda: packed(GOOD.content() + b"{\n" * (2 << 20)),
        r"\d+ rejects against 30 steps so far, the first in line 31",
    ),
    "zeros": (lambda: packed(bytes(90 << 20)), r"traces\.json\.gz: UTF-16; expected UTF-8"),
    "utf_16": (
        lambda: packed(GOOD.content().decode().encode("utf-16")),
        r"traces\.json\.gz: UTF-16; expected",
    ),
}


@pytest.mark.parametrize("name", GZIP)
def test_a_gzip_file_gives_what_is_whole_or_a_line(tmp_path, name):
    content, expected = GZIP[name]
    folder(tmp_path, content(), packed=True)
    began = time.monotonic()
    if isinstance(expected, str):
        assert re.search(expected, line(tmp_path))
    else:
        ingested = read(tmp_path)
        assert dict(Counter(ingested.rejects["reason"])) == expected
        assert len(ingested.table) == STEPS - 1
    assert time.monotonic() - began < 30


def test_a_gzip_file_that_is_cut_gives_the_steps_before_and_says_so(tmp_path):
    content = packed(TraceBuilder().steps(3000).content())
    folder(tmp_path, content[: int(0.3 * len(content))], packed=True)
    ingested = read(tmp_path)
    assert dict(Counter(ingested.rejects["reason"])) == {**LAST, "truncated_gzip": 1}
    assert 100 < len(ingested.table) < 1500
    assert re.search(r"the gzip stream ends early, after \d+ bytes", ingested.rejects["detail"].iloc[-1])


def test_a_higher_ratio_lets_a_large_file_in(tmp_path):
    folder(tmp_path, packed(GOOD.content() + b"\n" * (70 << 20)), packed=True)
    assert "source.max_file_ratio" in line(tmp_path)
    ingested = steps.load(source("traces", tmp_path, max_file_ratio=5000.0))
    assert len(ingested.table) == STEPS - 1


def test_a_byte_order_mark_is_no_part_of_the_trace(tmp_path):
    folder(tmp_path, b"\xef\xbb\xbf" + GOOD.content())
    assert dict(Counter(read(tmp_path).rejects["reason"])) == LAST


def test_a_file_that_holds_everything_twice_gives_each_step_once(tmp_path):
    folder(tmp_path, GOOD.content() * 2)
    ingested = read(tmp_path)
    assert dict(Counter(ingested.rejects["reason"])) == {"duplicate_step": STEPS, "last_of_clock": 1}
    assert ingested.table["step_id"].tolist() == list(range(1, STEPS))


def test_one_bad_trace_is_left_out_with_its_reason_and_the_others_are_read(tmp_path):
    GOOD.write(tmp_path)
    TraceBuilder().steps(STEPS, decode=300).write(tmp_path, name="20260101-000000-llama-2-7b-tp1-codegen")
    ingested = read(tmp_path)
    assert set(ingested.table["workload"]) == {"general"}
    (left,) = ingested.record["left_out"]
    assert left["experiment"].endswith("codegen") and "above_max_num_seqs" in left["reason"]


def test_a_tenth_of_the_steps_may_be_impossible(tmp_path):
    builder = TraceBuilder()
    for step in range(1, 301):
        builder.step(step, 20.0 * step, decode=4 if step % 12 else 500)
    folder(tmp_path, builder.content())
    ingested = read(tmp_path)
    assert dict(Counter(ingested.rejects["reason"])) == {"above_max_num_seqs": 24, **LAST}
    assert (ingested.table["num_decode_reqs"] == 4).all() and not ingested.record["left_out"]


def test_a_weight_that_is_read_by_more_ranks_takes_less_time(tmp_path):
    content = TraceBuilder().steps(STEPS, period_ms=1.9, decode=4).content()
    made = folder(tmp_path, content, config="tensor_parallelism: 4\n")
    made.rename(tmp_path / "20260101-000000-llama-2-7b-tp4-general")
    assert len(read(tmp_path).table) == STEPS - 1


LOADS: dict[str, Callable[[], bytes]] = {
    "many_restarts": lambda: b"".join(
        TraceBuilder().step(9 - step % 2, 20.0 * step).content() for step in range(5000)
    ),
    "one_request_of_60000_events": lambda: (
        GOOD.content()
        + TraceBuilder().journey("a", *[("SCHEDULED", step, 0, 0) for step in range(60_000)]).content()
    ),
    "an_event_of_100000_attributes": lambda: with_line(
        one_line(json.dumps(event("step.BATCH_SUMMARY", {f"a{number}": number for number in range(100_000)})))
    ),
    "a_million_empty_events": lambda: with_line(one_line(",".join(["{}"] * 1_000_000))),
    "a_name_of_a_million_letters": lambda: with_line(one_line('{"name":"%s"}' % ("x" * 1_000_000))),
    "empty_lines": lambda: GOOD.content() + b"\n" * (8 << 20),
}


@pytest.mark.parametrize("name", LOADS)
def test_no_small_file_takes_long(tmp_path, name):
    folder(tmp_path, LOADS[name]())
    began = time.process_time()
    try:
        assert len(read(tmp_path).table) == STEPS - 1
    except InputError as error:
        assert "step ids or times go back 2500 times in 5000 steps" in str(error) and name == "many_restarts"
    assert time.process_time() - began < 10


COMMANDS: dict[str, tuple[Callable[[], bytes], bool, str]] = {
    "braces": (GZIP["braces"][0], True, "traces.json.gz: line 1 has over 32 MB; expected one resourceSpans"),
    "newlines": (
        GZIP["newlines"][0],
        True,
        "traces.json.gz: more than 67108864 bytes unpacked; expected less",
    ),
    "times_in_ms": (WHOLE["times_in_ms"][0], False, "look like ms, expected ns"),
    "nested": (lambda: b"[" * 20_000, False, "no usable step.BATCH_SUMMARY event"),
}


@pytest.mark.parametrize("verb", ["ingest", "train"])
@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_end_with_the_line_and_status_2_in_two_gigabytes(tmp_path, verb, name):
    content, is_packed, expected = COMMANDS[name]
    folder(tmp_path / "runs", content(), packed=is_packed)
    rest = ["out=out.parquet"] if verb == "ingest" else ["fold=lomo", "fold.holdout=llama-2-7b"]
    done = limited(tmp_path, verb, "source=traces", "source.path=runs", *rest, memory_bytes=2 << 30)
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr and not (tmp_path / "out.parquet").exists()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_change_of_a_byte_gives_a_valid_table_or_a_line(tmp_path_factory, data):
    content = bytearray(GOOD.content()[:8000])
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    root = tmp_path_factory.mktemp("runs")
    folder(root, bytes(content))
    try:
        ingested = read(root)
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert len(schema.check(ingested.table, "traces")) + len(ingested.rejects) >= 2
    assert (ingested.table["period_us"] >= 1900).all()


ATTRIBUTES = sorted(set(step_attributes(1, 0)) - {"step.ts_end_ns"})
NUMBERS = st.one_of(
    st.integers(-(1 << 64), 1 << 64),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -1, 1, 1 << 31, (1 << 62) - 1, 1 << 62, 10**17, 1e300]),
)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from(ATTRIBUTES), NUMBERS, min_size=1, max_size=4), st.booleans())
def test_any_number_in_any_attribute_gives_a_valid_table_or_a_line(tmp_path_factory, numbers, everywhere):
    changed = {name.replace(".", "__"): number for name, number in numbers.items()}
    root = tmp_path_factory.mktemp("runs")
    folder(root, whole(**changed) if everywhere else trace(**changed))
    try:
        table = read(root).table
    except InputError as error:
        assert "\n" not in str(error)
        return
    schema.check(table, "traces")
    assert (table["num_prefill_reqs"] + table["num_decode_reqs"] <= 128).all()
    assert not (table["kv_blocks_free"] > table["kv_blocks_total"]).any()
