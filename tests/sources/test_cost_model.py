"""The cost model: its bends are there, it follows the measured kernels, and its noise is what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h3.server.requests import StepBatch
from h3.sources import cost_model
from h3.sources.cost_model import CostModel, Noise
from h3.sources.simulated import MODELS
from h3.steps import catalog

KERNELS = Path(__file__).parents[3] / "shared" / "data" / "kernels"
needs_kernels = pytest.mark.skipif(
    not KERNELS.is_dir(), reason="no shared kernel measurements beside the repository"
)


def decode_batch(requests: int, context: int) -> StepBatch:
    batch = StepBatch()
    batch.num_decode_reqs, batch.decode_kv_tokens_sum, batch.decode_kv_tokens_max = (
        requests,
        requests * context,
        context,
    )
    return batch


def prefill_batch(tokens: int) -> StepBatch:
    batch = StepBatch()
    batch.set_chunks([(0, tokens, 0)])
    return batch


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.integers(1, 512), st.integers(1, 4096))
def test_more_context_and_more_requests_never_cost_less(model, requests, context):
    cost = CostModel(catalog.MODELS[model], MODELS[model])
    here = cost.mean_period_us(decode_batch(requests, context))
    assert 0 < here <= cost.mean_period_us(decode_batch(requests, context + 100))
    # Beyond captured sizes the eager batch is not padded, and the last wave of tiles is filled better.
    assert here <= cost.mean_period_us(decode_batch(requests + 16, context)) * 1.001


@pytest.mark.parametrize("model", sorted(MODELS))
def test_a_decode_step_takes_at_least_the_reading_of_its_weights_at_peak_bandwidth(model):
    arch, tp = catalog.MODELS[model], MODELS[model]
    touched = min(arch.num_experts, arch.experts_per_token)
    attention = 2 * arch.hidden_size * arch.head_dim * (arch.num_heads + arch.num_kv_heads)
    ffn = 3 * arch.hidden_size * (arch.dense_ffn_size + touched * arch.expert_ffn_size)
    weight_read_us = 2 * arch.num_layers * (attention + ffn) / tp / 3.35e6
    assert weight_read_us < CostModel(arch, tp).mean_period_us(decode_batch(1, 1)) < 2.5 * weight_read_us


def test_batches_are_padded_to_captured_graphs_and_run_eagerly_above_them():
    assert [cost_model.padded_tokens(tokens) for tokens in (1, 3, 9, 250, 257, 512, 513)] == [
        1,
        4,
        16,
        256,
        272,
        512,
        513,
    ]
    cost = CostModel(catalog.MODELS["llama-2-70b"], 4)
    assert cost.token_time_us(33) == cost.token_time_us(40) < cost.token_time_us(41)


def test_a_gemm_bends_from_memory_to_compute():
    few, some, many = (cost_model.gemm_us(tokens, 8192, 8192, 2.0) for tokens in (1, 128, 2048))
    assert some < 1.1 * few
    assert many > 5 * some


def test_experts_are_read_only_when_touched():
    mixtral = catalog.MODELS["mixtral-8x7b-v0-1"]
    one, many = (cost_model.experts_us(tokens, mixtral, 2) for tokens in (1, 64))
    assert (
        3 < (many - cost_model.MOE_FLOOR_US) / (one - cost_model.MOE_FLOOR_US) < 4.2
    )  # 2 of 8 experts, then all 8


def test_all_reduce_is_free_on_one_gpu_and_eager_launches_cost_at_small_messages_only():
    assert cost_model.all_reduce_us(1e6, 1, graph=True) == 0
    assert cost_model.all_reduce_us(8192, 4, graph=False) > 3 * cost_model.all_reduce_us(8192, 4, graph=True)
    large = 16 * 2**20
    assert cost_model.all_reduce_us(large, 4, graph=False) == cost_model.all_reduce_us(large, 4, graph=True)


def test_a_prefill_of_the_whole_budget_runs_near_the_gpus_compute():
    cost = CostModel(catalog.MODELS["llama-2-7b"], 1)
    flops = 2 * 6.5e9 * 2048
    assert 0.5 < flops / cost.mean_period_us(prefill_batch(2048)) / 989.5e6 < 0.95


def test_the_mean_is_a_pure_function_and_noise_is_its_own():
    cost, batch = CostModel(catalog.MODELS["codellama-34b"], 2), decode_batch(50, 700)
    assert cost.mean_period_us(batch) == cost.mean_period_us(batch)
    first, again, other = (Noise(np.random.default_rng(seed)) for seed in (1, 1, 2))
    draws = [[noise.period_us(1e4) for _ in range(20_000)] for noise in (first, again, other)]
    assert draws[0] == draws[1] != draws[2]
    assert np.median(draws[0]) == pytest.approx(1e4, rel=0.002)
    assert 0.002 < np.mean(np.array(draws[0]) > 1.2e4) < 0.006


def test_the_schedulers_own_time_says_little_of_the_step():
    n = 4000
    quiet = {
        "num_decode_reqs": np.full(n, 25),
        "num_prefill_reqs": np.zeros(n),
        "period_us": np.full(n, 17_500.0),
    }
    loaded = quiet | {"num_decode_reqs": np.full(n, 105), "period_us": np.full(n, 21_600.0)}
    medians = [
        np.median(cost_model.schedule_us(steps, np.random.default_rng(0))) for steps in (quiet, loaded)
    ]
    assert medians[0] == pytest.approx(
        190, rel=0.15
    )  # llama-2-70b traces, decode batches of 20-30 and of 100-110
    assert medians[1] == pytest.approx(5200, rel=0.25)


def relative_errors(frame: pd.DataFrame, predicted_us: list[float]) -> pd.Series:
    return pd.Series(predicted_us, index=frame.index) / (1e3 * frame["latency"]) - 1


@needs_kernels
def test_gemms_follow_the_measured_kernels():
    table = pd.read_parquet(KERNELS / "gemm.parquet").query(
        "gemm_dtype == 'bfloat16' and n * k >= 2**24 and n < 32768 and m <= 2048"
    )
    table = table.query("n >= 2048 and k >= 2048")
    error = relative_errors(
        table,
        [
            cost_model.gemm_us(m, n, k, 2.0)
            for m, n, k in zip(table["m"], table["n"], table["k"], strict=True)
        ],
    )
    assert error.abs().median() < 0.08
    assert error.groupby(table["m"]).median().abs().max() < 0.08


@needs_kernels
@pytest.mark.parametrize(
    ("heads", "kv_heads", "model", "tp"), [(16, 2, "llama-2-70b", 4), (32, 4, "codellama-34b", 2)]
)
def test_decode_attention_follows_the_measured_kernels(heads, kv_heads, model, tp):
    table = pd.read_parquet(KERNELS / "decode_attention.parquet").query(
        f"num_heads == {heads} and num_key_value_heads == {kv_heads} and kv_cache_dtype == 'bfloat16' and"
        " batch_size <= 256 and step < 4096"
    )
    cost = CostModel(catalog.MODELS[model], tp)
    error = relative_errors(
        table,
        [
            cost.decode_attention_us(decode_batch(batch, step + 1))
            for batch, step in zip(table["batch_size"], table["step"], strict=True)
        ],
    )
    assert error.abs().median() < 0.12


@needs_kernels
def test_experts_and_all_reduce_follow_the_measured_kernels():
    experts = pd.read_parquet(KERNELS / "moe.parquet").query(
        "moe_dtype == 'bfloat16' and hidden_size == 4096 and inter_size == 14336 and moe_ep_size == 1 and"
        " moe_tp_size == 2 and distribution != 'balanced' and num_tokens <= 2048"
    )
    mixtral = catalog.MODELS["mixtral-8x7b-v0-1"]
    assert (
        relative_errors(
            experts, [cost_model.experts_us(tokens, mixtral, 2) for tokens in experts["num_tokens"]]
        )
        .abs()
        .median()
        < 0.10
    )
    reduce = pd.read_parquet(KERNELS / "all_reduce.parquet").query(
        "backend == 'vllm_graph' and 8192 <= message_size <= 2**24"
    )
    message_bytes = 2 * reduce["message_size"]  # the table counts two-byte elements
    predicted = [
        cost_model.all_reduce_us(size, gpus, True)
        for size, gpus in zip(message_bytes, reduce["num_gpus"], strict=True)
    ]
    assert relative_errors(reduce, predicted).abs().median() < 0.05
