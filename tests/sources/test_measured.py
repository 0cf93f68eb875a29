"""From results of the collector to a table, a source and a fold: pack, check and source=measured on made-up
times."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from builders import source
from omegaconf import OmegaConf

from h3.common.config import SourceConfig, TrainConfig, from_hydra
from h3.common.errors import InputError
from h3.common.progress import Progress
from h3.evaluation.one_fold import run_fold
from h3.latency.fold import replays
from h3.sources import cost_model, load, measured
from h3.steps import physics, schema

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from measure import check, compositions, grid, pack, results, shard
from measure.plan import Plan, Step

SESSION = {
    "session": "2026-01-01T00:00:00+00:00",
    "card": "NVIDIA H100 80GB HBM3",
    "driver": "580.1",
    "versions": {"torch": "2.11.0"},
    "script_digest": "0" * 32,
    "errors": {},
    "ceilings": {"copy_bytes_s": 3e12, "read_bytes_s": 2.9e12, "matmul_flops": 8e14},
}


def device_us(plan: Plan, step: Step) -> float:
    """A made-up time: the rank's weights and KV cache at 3 TB/s, and 2 us a token."""
    own = shard.of(plan.models[step.model], step.tp, step.model)
    return (own.single_token_bytes + sum(step.contexts) * own.kv_token_bytes) / 3e6 + 2.0 * step.tokens


def write_results(
    plan: Plan, path: Path, session: dict = SESSION, off: float = 1.0, skip: set[str] = frozenset()
) -> Path:
    """Results as the collector writes them; repeats take `off` times as long."""
    log = results.Log(path)
    log.add("session", **session)
    for step in plan.steps:
        line = {"key": step.key, "part": step.part, "model": step.model, "tp": step.tp, "repeat": step.repeat}
        if step.key in skip:
            log.add("skipped", **line, reason="too little memory: 9 KV pages, room for 3")
            continue
        time_us = device_us(plan, step) * (off if step.repeat else 1.0)
        log.add(
            "step",
            **line,
            mode="full",
            padded_tokens=step.tokens,
            device_us=time_us,
            device_p10_us=0.99 * time_us,
            device_p90_us=1.02 * time_us,
            replays=6,
            session=session["session"],
        )
    log.close()
    return path


@pytest.fixture(scope="module")
def plan() -> Plan:
    return grid.with_grids(compositions.planned(steps=20, scale=0.01))


@pytest.fixture(scope="module")
def table(plan, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    big = {step.key for step in plan.steps if step.part == "grid" and sum(step.contexts) > 300_000}
    pack.pack(plan, [write_results(plan, folder / "steps.jsonl", skip=big)], folder / "measured.parquet")
    return folder / "measured.parquet"


def test_the_packed_table_holds_the_sixteen_experiments_and_where_they_come_from(plan, table):
    ingested = measured.load(source("measured", table))
    assert ingested.table["experiment"].nunique() == 16
    assert ingested.table.groupby(["model", "workload"]).ngroups == 16
    assert set(ingested.table["log"]) == {"measured"} and set(ingested.table["hardware"]) == {"H100"}
    assert len(ingested.table) == 16 * 20
    assert ingested.record["provenance"]["sessions"][0]["ceilings"] == SESSION["ceilings"]
    assert ingested.record["provenance"]["skipped"] > 0
    assert ingested.rejects.empty


def test_the_target_is_the_time_on_the_card_and_the_row_describes_the_rank_that_was_timed(plan, table):
    rows = measured.load(source("measured", table)).table
    frame, _ = measured.read(table)
    kept = frame[frame["part"] == "compositions"].reset_index(drop=True)
    np.testing.assert_array_equal(rows["period_us"], kept["device_us"])
    assert (rows["gap_steps"] == 1).all() and rows["duration_us"].isna().all()
    assert (rows["tensor_parallelism"] == 1).all() and (physics.all_reduces(rows) == 0).all()
    for cost in (
        physics.kv_us,
        lambda steps: physics.averaged(steps, physics.weight_us),
        physics.prefill_attention_us,
    ):
        np.testing.assert_allclose(cost(rows), cost(kept), rtol=1e-6)
    for (model, tp), group in kept.groupby(["model", "tensor_parallelism"]):
        own = shard.of(plan.models[model], tp, model)
        row = rows.loc[group.index[0]]
        assert (row["num_heads"], row["num_kv_heads"], row["vocab_size"]) == (
            own.heads,
            own.kv_heads,
            own.vocab,
        )
        assert (row["dense_ffn_size"], row["expert_ffn_size"], row["shared_ffn_size"]) == (
            own.dense_ffn,
            own.expert_ffn,
            own.shared_ffn,
        )


def test_the_servers_view_adds_the_modelled_all_reduce_and_nothing_else(table):
    rank, server = (measured.load(source("measured", table, view=view)).table for view in ("rank", "server"))
    frame, _ = measured.read(table)
    comm_us = frame.loc[frame["part"] == "compositions", "comm_us"].to_numpy()
    np.testing.assert_allclose(server["period_us"] - rank["period_us"], comm_us, atol=1e-6)
    assert (comm_us[server["tensor_parallelism"] == 1] == 0).all() and (
        comm_us[server["tensor_parallelism"] > 1] > 0
    ).all()
    row = server.query("model == 'llama-2-70b'").iloc[0]
    tokens = int(row["decode_tokens"] + row["prefill_tokens"])
    each_us = cost_model.all_reduce_us(2.0 * 8192 * cost_model.padded_tokens(tokens), 4, graph=True)
    assert comm_us[row.name] == pytest.approx(160 * each_us)


def test_other_parts_are_read_on_request_only(table):
    rows = measured.load(source("measured", table, parts=["grid", "shards", "zeroshot"])).table
    assert set(rows["workload"]) == {"grid", "shards", "zeroshot"}
    assert {"llama-3.1-8b", "qwen2.5-14b", "qwen3-30b-a3b"} < set(rows["model"])
    assert rows.groupby("experiment")["tensor_parallelism"].nunique().max() == 1


def test_the_source_is_chosen_by_configuration_and_its_folds_train(table):
    config = TrainConfig(
        source={"name": "measured", "path": str(table)},
        fold={"name": "lomo_llama2_70b", "kind": "lomo", "holdout": "llama-2-70b"},
        model={"name": "roofline"},
        features={"name": "scale_free"},
        tune={"trials": 0},
    )
    outcome = run_fold(load.load(config.source), config, Progress("test"))
    assert outcome.result.n_test == 80 and outcome.result.mape < 30
    assert not replays(config)


def test_without_a_packaged_table_one_line_says_how_to_come_by_one(monkeypatch, tmp_path):
    monkeypatch.setattr(measured, "PACKAGED", tmp_path / "absent.parquet")
    with pytest.raises(
        InputError, match=r"scripts/measure_steps.py .* source.path=FILE, or use source=simulated$"
    ) as caught:
        load.load(SourceConfig(name="measured"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "absent.parquet"}, "absent.parquet: no such file"),
        ({"path": ["a", "b"]}, "expected one Parquet file"),
        ({"parts": ["shards", "compositions"]}, "expected some of those in the table: compositions"),
        ({"parts": []}, "source.parts="),
    ],
)
def test_wrong_settings_of_the_source_are_named(plan, tmp_path, change, message):
    own = Plan(plan.models, tuple(step for step in plan.steps if step.part == "compositions")[:4])
    pack.pack(own, [write_results(own, tmp_path / "steps.jsonl")], tmp_path / "own.parquet")
    with pytest.raises(InputError, match=message):
        load.load(SourceConfig(**{"name": "measured", "path": str(tmp_path / "own.parquet"), **change}))


def test_files_that_are_no_measured_table_are_refused(table, tmp_path):
    frame, provenance = measured.read(table)
    (tmp_path / "text.parquet").write_text("nothing")
    schema.write(
        measured.load(source("measured", table)).table, schema.empty_rejects(), tmp_path / "steps.parquet", {}
    )
    for name, message in (
        ("text.parquet", "not a readable Parquet file"),
        ("steps.parquet", "expected 'h3-measured-1'"),
    ):
        with pytest.raises(InputError, match=message):
            measured.read(tmp_path / name)
    for broken, message in (
        (frame.drop(columns="comm_us"), "column 'comm_us' is missing"),
        (frame.assign(device_us=np.nan), "'device_us' is nan in row 0"),
        (frame.assign(replays=0), "'replays' is 0 in row 0"),
        (frame.assign(num_layers=np.nan), "'num_layers' is null"),
    ):
        with pytest.raises(InputError, match=message):
            measured.write(broken, provenance, tmp_path / "broken.parquet")


def test_a_table_changed_by_hand_is_noticed(table, tmp_path):
    arrow = pq.read_table(table)
    times = arrow.schema.get_field_index("device_us")
    changed = arrow.set_column(times, "device_us", [pd.array(arrow["device_us"].to_pandas() * 2).to_numpy()])
    pq.write_table(changed, tmp_path / "changed.parquet")
    with pytest.raises(InputError, match="digest"):
        measured.read(tmp_path / "changed.parquet")


def test_packing_refuses_results_that_do_not_belong_together(plan, tmp_path):
    own = Plan(plan.models, plan.steps[:3])
    good = write_results(own, tmp_path / "good.jsonl")
    other = write_results(own, tmp_path / "other.jsonl", {**SESSION, "card": "NVIDIA H200"})
    cpu = write_results(own, tmp_path / "cpu.jsonl", {**SESSION, "card": "cpu"})
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "text.jsonl").write_text("no results\n")
    for paths, message in (
        ([good, other], "results of 2 cards"),
        ([cpu], "unknown hardware 'cpu'"),
        ([tmp_path / "empty.jsonl"], "no step was measured"),
        ([tmp_path / "text.jsonl"], "line 1 is not JSON"),
        ([tmp_path / "absent.jsonl"], "No such file"),
    ):
        with pytest.raises(InputError, match=message):
            pack.pack(own, paths, tmp_path / "out.parquet")
    with pytest.raises(InputError, match="not in the plan"):
        pack.pack(Plan(plan.models, plan.steps[5:]), [good], tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_a_step_measured_in_two_files_counts_once_the_first_time(plan, tmp_path):
    own = Plan(plan.models, plan.steps[:3])
    paths = [write_results(own, tmp_path / f"{number}.jsonl") for number in range(2)]
    assert pack.pack(own, paths, tmp_path / "out.parquet") == {"compositions": 3, "skipped": 0}


def test_check_tells_spread_repeats_single_tokens_and_coverage(plan, tmp_path):
    found = {
        finding.name: finding
        for finding in check.findings(plan, [write_results(plan, tmp_path / "good.jsonl", off=1.01)])
    }
    assert (
        found["spread (p90 - p10) / median"].reached
        and "median 3.00%" in found["spread (p90 - p10) / median"].text
    )
    assert (
        found["repeated steps"].reached and "32 differ by 1.00% at the median" in found["repeated steps"].text
    )
    singles = [finding for name, finding in found.items() if name.startswith("batch 1, ")]
    assert len(singles) == 4 and all(finding.reached for finding in singles)
    assert found["experiments"].reached is False  # 20 of the 300 steps that were asked for
    assert (
        found["part grid"].reached is None
        and "316 of 316 steps measured, 0 skipped" in found["part grid"].text
    )
    assert str(found["repeated steps"]).startswith("yes  repeated steps: ")


def test_check_tells_what_is_not_reached(plan, tmp_path):
    path = write_results(plan, tmp_path / "off.jsonl", off=1.05)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "step":
            line |= {"device_us": 2 * line["device_us"], "device_p90_us": 2.2 * line["device_us"]}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = {finding.name: finding.reached for finding in check.findings(plan, [path])}
    assert not any(reached for name, reached in found.items() if reached is not None)
    with pytest.raises(InputError, match="no step of the plan was measured"):
        check.findings(Plan(plan.models, plan.steps[:0]), [path])


def test_a_torn_last_line_is_left_out_and_cut_off_before_more_is_written(tmp_path):
    path = tmp_path / "steps.jsonl"
    path.write_text('{"kind":"step","key":"a"}\n{"kind":"step","ke')
    assert [line["key"] for line in results.read(path)] == ["a"]
    log = results.Log(path)
    assert log.done == {"a"}
    log.add("step", key="b")
    log.close()
    assert [line["key"] for line in results.read(path)] == ["a", "b"]
    assert results.Log(tmp_path / "new.jsonl", done=[path]).done == {"a", "b"}


def test_unknown_parts_and_views_are_refused_when_the_configuration_is_composed():
    for change in ({"view": "both"}, {"parts": ["all"]}):
        with pytest.raises(InputError, match=f"config: {next(iter(change))}"):
            from_hydra(OmegaConf.create({"name": "measured", **change}), SourceConfig)
