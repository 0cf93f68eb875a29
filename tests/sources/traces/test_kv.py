"""KV tokens of traced steps: exact from snapshots and journeys, by a named assumption, or null."""

import json

import numpy as np
import pytest
from builders import source
from trace_builder import TraceBuilder

from h3.common.config import validated
from h3.common.errors import InputError
from h3.ingest import IngestConfig
from h3.sources.traces import steps


def ingest(root, builder, **assumed):
    builder.write(root)
    return steps.load(source("traces", root, **assumed))


def entry(ingested):
    return next(iter(ingested.record["experiments"].values()))


def test_kv_tokens_are_null_unless_they_are_assumed_and_the_record_says_so(tmp_path):
    folder = tmp_path / "runs"
    TraceBuilder().step(1, 0, decode=4).step(2, 20, prefill=2, prefill_tokens=8, decode=4).step(3, 40).write(
        folder
    )
    assumed, null = (steps.load(source("traces", folder, kv_tokens=each)) for each in ("blocks", "none"))
    assert list(assumed.table["decode_kv_tokens_sum"]) == [1600.0, 1600.0]  # 100 used blocks of 16 tokens
    assert list(assumed.table["decode_kv_tokens_mean"]) == [400.0, 400.0]
    assert assumed.table["decode_kv_tokens_max"].isna().all()
    assert entry(assumed)["kv_tokens"] == "assumed blocks"
    assert null.table["decode_kv_tokens_sum"].isna().all()
    assert entry(null)["kv_tokens"] == "null"
    assert null.record["assumptions"]["kv_tokens"] == "none"
    np.testing.assert_array_equal(null.table["prefill_attended_tokens"], [0.0, np.nan])


def test_an_unknown_assumption_is_refused(tmp_path):
    asked = {
        "source": {"name": "traces", "path": str(tmp_path), "assume": {"kv_tokens": "guess"}},
        "out": "x",
    }
    with pytest.raises(InputError, match=r"source.assume.kv_tokens='guess': .*'blocks' or 'none'"):
        validated(asked, IngestConfig)


def snapshots(builder):
    """Step 1 decodes contexts of 40+1 and 100+1 and prefills 5 tokens after 32 and 3 after none; step 2
    decodes one.
    """
    builder.step(1, 0, prefill=2, prefill_tokens=8, decode=2)
    builder.snapshot(1, "a", "DECODE", 40, 1).snapshot(1, "b", "DECODE", 100, 1)
    builder.snapshot(1, "c", "PREFILL", 32, 5).snapshot(1, "d", "PREFILL", 0, 3).snapshot(
        1, "e", "PREFILL", 0, 0
    )
    return builder.step(2, 20, decode=1).snapshot(2, "a", "DECODE", 41, 1).step(3, 40).step(4, 60)


def brute_force_pairs(before, new):
    return sum(before + position + 1 for position in range(new))


def test_snapshots_give_exact_kv_tokens(tmp_path):
    ingested = ingest(tmp_path, snapshots(TraceBuilder()))
    rows = ingested.table
    assert entry(ingested)["kv_tokens"] == "snapshots"
    first = rows.iloc[0]
    assert (first["decode_kv_tokens_sum"], first["decode_kv_tokens_mean"], first["decode_kv_tokens_max"]) == (
        142,
        71,
        101,
    )
    assert first["prefill_kv_tokens_sum"] == 32
    assert first["prefill_attended_tokens"] == brute_force_pairs(32, 5) + brute_force_pairs(0, 3)
    assert list(
        rows.iloc[1][["decode_kv_tokens_sum", "prefill_kv_tokens_sum", "prefill_attended_tokens"]]
    ) == [42, 0, 0]
    assert np.isnan(rows["decode_kv_tokens_sum"].iloc[2])  # a step without snapshots
    assert entry(ingested)["rows_without_kv_tokens"] == 1


def test_snapshots_tell_what_each_request_attends_to_in_layers_with_a_window(tmp_path):
    config = {"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "vocab_size": 32000}
    config |= {"intermediate_size": 11008, "model_type": "mistral", "sliding_window": 34}
    folder = snapshots(TraceBuilder()).snapshot(2, "f", "DECODE", 7, 1).write(tmp_path)
    (folder / "config.json").write_text(json.dumps(config))
    rows = steps.load(source("traces", tmp_path)).table
    first = rows.iloc[0]
    assert first["decode_window_tokens_sum"] == 34 + 34  # contexts of 41 and 101
    seen = [min(32 + token, 34) for token in range(1, 6)] + [1, 2, 3]
    assert first["prefill_window_attended_tokens"] == sum(seen)
    assert np.isnan(rows["decode_window_tokens_sum"].iloc[2])  # a step without snapshots


def test_snapshots_that_miss_a_request_give_no_kv_tokens(tmp_path):
    builder = TraceBuilder().step(1, 0, decode=2).snapshot(1, "a", "DECODE", 40, 1).step(2, 20)
    assert ingest(tmp_path, builder).table["decode_kv_tokens_sum"].isna().all()


def test_snapshots_of_a_restarted_server_stay_with_its_steps(tmp_path):
    builder = TraceBuilder()
    for server, computed in enumerate((40, 70)):
        for step in (1, 2):
            builder.step(step, 1000 * server + 20 * step).snapshot(step, "a", "DECODE", computed + step, 1)
    assert list(ingest(tmp_path, builder).table["decode_kv_tokens_sum"]) == [42.0, 72.0]


def test_a_snapshot_that_lacks_an_attribute_is_rejected(tmp_path):
    builder = (
        TraceBuilder()
        .step(1, 0)
        .event("step.REQUEST_SNAPSHOT", {"step.id": 1, "request.phase": "DECODE"})
        .step(2, 20)
    )
    ingested = ingest(tmp_path, builder)
    assert list(ingested.rejects[["line", "reason"]].iloc[0]) == [2, "missing_attribute"]
    assert entry(ingested)["events"] == 2


def test_journeys_place_requests_in_steps(tmp_path):
    builder = TraceBuilder()
    builder.step(1, 0, prefill=1, prefill_tokens=84, decode=0)
    builder.step(2, 20, prefill=1, prefill_tokens=100, decode=1).step(3, 40, decode=2).step(
        4, 60, decode=1
    ).step(5, 80, decode=0)
    builder.journey(
        "a", ("QUEUED", 0, 0, 0), ("SCHEDULED", 1, 16, 0), ("FIRST_TOKEN", 1, 100, 1), ("FINISHED", 3, 100, 3)
    )
    builder.journey("b", ("SCHEDULED", 2, 0, 0), ("FIRST_TOKEN", 2, 100, 1), ("FINISHED", 4, 100, 3))
    ingested = ingest(tmp_path, builder)
    assert entry(ingested)["kv_tokens"] == "journeys"
    columns = [
        "decode_kv_tokens_sum",
        "decode_kv_tokens_max",
        "prefill_kv_tokens_sum",
        "prefill_attended_tokens",
    ]
    assert ingested.table[columns].to_numpy().tolist() == [
        [0, 0, 16, brute_force_pairs(16, 84)],
        [101, 101, 0, brute_force_pairs(0, 100)],
        [203, 102, 0, 0],
        [102, 102, 0, 0],
    ]


def test_a_preempted_request_comes_back_with_its_output(tmp_path):
    """Preempted in step 4 after 3 tokens, computed anew in step 6 (its fourth token), it decodes in steps 7
    and 8.
    """
    builder = TraceBuilder()
    for step, decode in enumerate((0, 1, 1, 0, 0, 1, 1, 1), start=1):
        builder.step(step, 20 * step, decode=decode, prefill=int(decode == 0))
    builder.step(9, 180).journey(
        "a",
        ("SCHEDULED", 1, 0, 0),
        ("FIRST_TOKEN", 1, 100, 1),
        ("PREEMPTED", 4, 100, 3),
        ("SCHEDULED", 6, 0, 3),
        ("FINISHED", 8, 100, 6),
    )
    kv = ingest(tmp_path, builder).table.set_index("step_id")["decode_kv_tokens_sum"]
    assert [kv[step] for step in (2, 3, 7, 8)] == [101, 102, 104, 105]
    assert np.isnan(kv[6])  # the log counts it as decoding while it computes its prompt anew: not known


def test_journeys_that_disagree_with_the_batch_give_null(tmp_path):
    builder = TraceBuilder().step(1, 0).step(2, 20, decode=5).step(3, 40)
    builder.journey("a", ("SCHEDULED", 0, 0, 0), ("FIRST_TOKEN", 0, 100, 1))
    np.testing.assert_array_equal(ingest(tmp_path, builder).table["decode_kv_tokens_sum"], [101, np.nan])
