"""Feature sets: the same number for the same step, whatever the model is called and whoever its neighbours
are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from builders import Steps, step, steps

from h3.common.errors import InputError
from h3.evaluation import folds
from h3.steps import features, raw30, schema

TABLE = (
    Steps(3)
    .run("llama-2-7b", 30)
    .run("llama-2-70b", 30)
    .run("mixtral-8x7b-v0-1", 30, workload="codegen")
    .table()
)
SETS = pytest.mark.parametrize("name", ["scale_free", "peak_ratios", "raw30"])


@SETS
def test_columns_are_float32_in_the_order_of_the_manifest_and_finite(name):
    frame = features.build(name, TABLE)
    assert list(frame.columns) == [entry["name"] for entry in features.manifest(name)]
    assert set(frame.dtypes.astype(str)) == {"float32"}
    assert len(frame) == len(TABLE)
    assert np.isfinite(frame.to_numpy()).all()


@SETS
def test_the_manifest_documents_every_column(name):
    manifest = features.manifest(name)
    assert [entry["index"] for entry in manifest] == list(range(len(manifest)))
    assert all(
        entry["dtype"] == "float32" and entry["unit"] and entry["formula"] and entry["group"]
        for entry in manifest
    )
    assert len({entry["name"] for entry in manifest}) == len(manifest)


def test_raw30_is_the_studys_thirty_in_its_six_groups():
    groups = pd.Series([entry["group"] for entry in features.manifest("raw30")]).value_counts().to_dict()
    assert groups == {"batch": 5, "kv": 5, "phase": 4, "physics": 8, "architecture": 3, "interactions": 5}


@SETS
def test_a_feature_depends_on_its_own_row_alone(name):
    whole = features.build(name, TABLE)
    order = np.random.default_rng(0).permutation(len(TABLE))[:20]
    pd.testing.assert_frame_equal(features.build(name, TABLE.iloc[order]), whole.iloc[order])


@SETS
def test_no_feature_reads_a_target(name):
    pd.testing.assert_frame_equal(
        features.build(name, folds.without_targets(TABLE)), features.build(name, TABLE)
    )


def test_scale_free_features_do_not_know_what_anything_is_called():
    renamed = TABLE.assign(
        model="other", experiment="another", workload="third", log="measured", start_us=0.0, step_id=5
    )
    pd.testing.assert_frame_equal(features.build("scale_free", renamed), features.build("scale_free", TABLE))
    assert not features.build("raw30", renamed).equals(features.build("raw30", TABLE))


def test_scale_free_features_are_the_same_for_a_model_twice_as_deep():
    rows = step("llama-2-70b", decode=[500] * 30, prefill=[(300, 64)])
    doubled = rows.assign(num_layers=160, vocab_size=64000)
    ratio = features.build("scale_free", doubled) / features.build("scale_free", rows)
    assert ratio.drop(columns=["expert_coverage", "tokens_per_expert"]).to_numpy() == pytest.approx(
        1, rel=1e-5
    )


def test_time_ratios_by_hand():
    row = features.build("scale_free", step("llama-2-7b", decode=[1000] * 8)).iloc[0]
    kv_bytes = 8 * 1000 * 32 * 2 * 32 * 128 * 2
    weight_bytes = 2 * (32 * (4 * 4096 * 4096 + 3 * 4096 * 11008) + 4096 * 32000)
    assert row["kv_to_weights"] == pytest.approx(kv_bytes / weight_bytes, rel=1e-5)
    assert row["prefill_share"] == row["prefill_step_share"] == row["all_reduce_to_weights"] == 0
    assert row["expert_coverage"] == 1


def test_shares_by_hand():
    row = features.build("scale_free", step(decode=[9] * 10, prefill=[(30, 0)])).iloc[0]
    assert row["prefill_share"] == pytest.approx(0.75)
    assert row["prefill_step_share"] == 1
    moe = features.build("scale_free", step("mixtral-8x7b-v0-1", decode=[9] * 2)).iloc[0]
    assert moe["expert_coverage"] == pytest.approx(1 - 0.75**2)
    assert moe["tokens_per_expert"] == pytest.approx(0.5)


@SETS
def test_a_dropped_group_leaves_the_others_as_they_were(name):
    group = features.manifest(name)[0]["group"]
    kept = features.build(name, TABLE, (group,))
    assert list(kept.columns) == [entry["name"] for entry in features.manifest(name, (group,))]
    assert [entry["index"] for entry in features.manifest(name, (group,))] == list(range(kept.shape[1]))
    assert 0 < kept.shape[1] < features.build(name, TABLE).shape[1]
    pd.testing.assert_frame_equal(kept, features.build(name, TABLE)[kept.columns])


def test_an_unknown_set_lists_the_known():
    with pytest.raises(
        InputError,
        match="unknown feature set 'raw31'; expected one of scale_free, base_shares, peak_ratios, raw30",
    ):
        features.build("raw31", TABLE)


def raw(**columns):
    return features.build("raw30", step(**columns)).iloc[0]


def test_raw_phases_are_flags():
    mixed, prefill, decode = raw(decode=[9], prefill=[(3, 0)]), raw(prefill=[(3, 0)]), raw(decode=[9])
    assert [row["is_mixed_batch"] for row in (mixed, prefill, decode)] == [1, 0, 0]
    assert [row["is_pure_prefill"] for row in (mixed, prefill, decode)] == [0, 1, 0]
    assert (mixed["prefill_fraction"], mixed["decode_fraction"], mixed["scheduled_tokens"]) == (0.75, 0.25, 4)


def test_raw_kv_state_and_interactions_by_hand():
    row = raw(
        decode=[9, 9],
        prefill=[(3, 0)],
        kv_blocks_total=1000.0,
        kv_blocks_free=750.0,
        kv_usage_ratio=0.25,
        running_reqs=4.0,
    )
    assert (row["kv_blocks_used"], row["kv_pressure"], row["running_reqs"]) == (250, 0.25, 4)
    assert row["prefill_x_decode"] == 6
    assert row["kv_pressure_x_decode_reqs"] == 0.5
    assert row["prefill_x_kv_usage"] == 0.75
    assert row["batch_size_x_kv_pressure"] == 0.75


def test_unknown_kv_state_is_missing_not_zero():
    row = raw(decode=[9])
    assert (
        row[["kv_usage_ratio", "kv_blocks_used", "kv_blocks_free", "running_reqs", "kv_pressure"]]
        .isna()
        .all()
    )


def test_the_studys_flops_count_each_matrix_of_each_layer_once_a_token():
    row = raw(model="llama-2-7b", decode=[9])
    weights = sum(4 * 4096 * 4096 + 3 * 4096 * 11008 for _layer in range(32))
    assert row["total_flops"] == pytest.approx(2 * weights, rel=1e-6)
    assert row["arithmetic_intensity"] == pytest.approx(1)
    assert row["attention_flops_ratio"] == 0
    assert row["gemm_flops_ratio"] == 1
    assert row["is_compute_bound"] == 0
    assert raw(prefill=[(2000, 0)])["is_compute_bound"] == 1


def test_raw30_tells_models_apart_by_label_experts_and_ranks():
    both = features.build(
        "raw30", steps(step("mixtral-8x7b-v0-1", decode=[9]), step("llama-2-70b", decode=[9]))
    )
    assert both["model_id"].tolist() == [3, 2]
    assert both["is_moe"].tolist() == [1, 0]
    assert both["tensor_parallelism"].tolist() == [2, 4]
    assert both["active_param_ratio"].tolist() == [0.25, 1]


def test_a_new_model_gets_the_same_label_each_time_above_the_studys():
    assert raw30.model_label("new-1b") == raw30.model_label("new-1b") >= 4
    assert raw30.model_label("new-1b") != raw30.model_label("new-2b")


@SETS
def test_a_row_of_nulls_still_has_features(name):
    optional = {column.name: np.nan for column in schema.COLUMNS if column.nullable}
    frame = features.build(name, step(decode=[9], **optional))
    assert frame.shape[0] == 1
    if name == "scale_free":
        assert np.isfinite(frame.to_numpy()).all()
