"""FLOPs, bytes and messages of a step, counted by brute force: matrix by matrix, token by token, pair by
pair."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from builders import Steps, step, steps
from hypothesis import given, settings
from hypothesis import strategies as st

from h3.steps import catalog, physics

TINY = catalog.Architecture(
    num_layers=3,
    hidden_size=8,
    num_heads=4,
    num_kv_heads=2,
    head_dim=2,
    vocab_size=10,
    dense_ffn_size=12,
    num_moe_layers=0,
    num_experts=0,
    experts_per_token=0,
    expert_ffn_size=0,
    shared_ffn_size=0,
    bytes_per_parameter=2.0,
)
TINY_MOE = catalog.Architecture(
    num_layers=3,
    hidden_size=8,
    num_heads=4,
    num_kv_heads=2,
    head_dim=2,
    vocab_size=10,
    dense_ffn_size=12,
    num_moe_layers=2,
    num_experts=4,
    experts_per_token=2,
    expert_ffn_size=6,
    shared_ffn_size=5,
    bytes_per_parameter=2.0,
)
HEAD_DIM_OF_ITS_OWN = catalog.Architecture(2, 8, 4, 1, 5, 10, 12, 0, 0, 0, 0, 0, 1.0, 1.0, 1.0)


def tiny(arch, tp=1, **batch):
    return step(tp=tp, **batch, **arch.columns())


def matrices(arch, experts):
    """(rows, columns) of every weight matrix of the decoder with so many experts a layer, then of the LM
    head.
    """
    for layer in range(arch.num_layers):
        yield arch.hidden_size, arch.num_heads * arch.head_dim
        yield arch.hidden_size, arch.num_kv_heads * arch.head_dim
        yield arch.hidden_size, arch.num_kv_heads * arch.head_dim
        yield arch.num_heads * arch.head_dim, arch.hidden_size
        widths = [arch.dense_ffn_size]
        if layer >= arch.num_layers - arch.num_moe_layers:
            widths = [arch.expert_ffn_size] * experts + [arch.shared_ffn_size]
        for width in widths:
            yield from [(arch.hidden_size, width)] * 2
            yield width, arch.hidden_size


def count_weights(arch, experts):
    return (
        sum(np.ones(shape).sum() for shape in matrices(arch, experts))
        + np.ones((arch.hidden_size, arch.vocab_size)).sum()
    )


def multiply_adds(shape):
    """Of a vector times a matrix, one by one."""
    return sum(1 for _ in product(range(shape[0]), range(shape[1])))


ARCHITECTURES = pytest.mark.parametrize(
    "arch", [TINY, TINY_MOE, HEAD_DIM_OF_ITS_OWN], ids=["dense", "experts", "head_dim"]
)


@ARCHITECTURES
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_weight_bytes_are_those_of_every_matrix_when_all_experts_are_visited(arch, tp):
    many = np.array([1e6])
    counted = count_weights(arch, arch.num_experts) * arch.bytes_per_parameter / tp
    assert physics.weight_bytes(tiny(arch, tp, decode=[5]), many)[0] == pytest.approx(counted, rel=1e-12)


@pytest.mark.parametrize("tokens", [0, 1, 2, 3])
def test_expert_coverage_is_the_mean_over_all_ways_to_route_the_tokens(tokens):
    choices = list(combinations(range(TINY_MOE.num_experts), TINY_MOE.experts_per_token))
    visited = [
        len(set().union(*routing)) / TINY_MOE.num_experts for routing in product(choices, repeat=tokens)
    ]
    table = tiny(TINY_MOE, decode=[5])
    assert physics.expert_coverage(table, np.array([float(tokens)]))[0] == pytest.approx(np.mean(visited))
    assert physics.expert_coverage(tiny(TINY, decode=[5]), np.array([float(tokens)]))[0] == 1


def test_one_token_reads_only_the_experts_that_it_visits():
    counted = count_weights(TINY_MOE, TINY_MOE.experts_per_token) * 2
    assert physics.weight_bytes(tiny(TINY_MOE, decode=[5]), np.array([1.0]))[0] == pytest.approx(counted)


@ARCHITECTURES
@pytest.mark.parametrize("tp", [1, 2])
def test_gemm_flops_are_two_for_every_multiply_add_of_every_token_in_every_matrix(arch, tp):
    table = tiny(arch, tp, decode=[5, 6], prefill=[(3, 0)])
    counted = 0
    for _token in range(2 + 3):
        for shape in matrices(arch, arch.experts_per_token):
            counted += 2 * multiply_adds(shape)
    for _request in range(3):
        counted += 2 * multiply_adds((arch.hidden_size, arch.vocab_size))
    assert physics.gemm_flops(table, physics.mixed_step_tokens(table))[0] == pytest.approx(counted / tp)


@pytest.mark.parametrize(("arch", "tp"), [(TINY, 1), (TINY, 2), (HEAD_DIM_OF_ITS_OWN, 1)])
@pytest.mark.parametrize("prefill", [[(4, 0)], [(1, 7)], [(5, 3), (2, 9)]])
def test_prefill_attention_flops_are_counted_pair_by_pair(arch, tp, prefill):
    counted = 0
    for _layer, _head, (new, cached) in product(range(arch.num_layers), range(arch.num_heads // tp), prefill):
        for query in range(cached, cached + new):
            for _key in range(query + 1):  # causal: itself and what lies before
                counted += 2 * arch.head_dim  # query x key
                counted += 2 * arch.head_dim  # weight x value
    table = tiny(arch, tp, prefill=prefill)
    assert physics.attention_flops(table, table["prefill_attended_tokens"].to_numpy())[0] == counted


def rank_kv_bytes(arch, tp, tokens):
    """Bytes of keys and values of so many tokens on one rank, value by value."""
    values, heads = 0, max(1, arch.num_kv_heads // tp)
    for _token, _layer, _head, _key_or_value in product(
        range(tokens), range(arch.num_layers), range(heads), range(2)
    ):
        values += arch.head_dim
    return values * 2


@pytest.mark.parametrize(("arch", "tp"), [(TINY, 1), (TINY, 2), (TINY, 4), (HEAD_DIM_OF_ITS_OWN, 2)])
def test_decode_reads_the_whole_cache_of_every_request(arch, tp):
    table = tiny(arch, tp, decode=[3, 11, 7])
    assert physics.kv_read_bytes(table)[0] == rank_kv_bytes(arch, tp, 3) + rank_kv_bytes(
        arch, tp, 11
    ) + rank_kv_bytes(arch, tp, 7)


@pytest.mark.parametrize("new", [1, 60, 128])
def test_a_prefill_of_one_tile_reads_its_keys_once(new):
    table = tiny(TINY, prefill=[(new, 32)])
    assert physics.kv_read_bytes(table)[0] == pytest.approx(rank_kv_bytes(TINY, 1, new + 32))


@pytest.mark.parametrize("new", [1024, 2048])
def test_a_long_prefill_reads_its_keys_about_once_a_tile_of_queries(new):
    tile = physics.ATTENTION_TILE_QUERIES
    tokens = sum(512 + min(new, begin + tile) for begin in range(0, new, tile))
    assert physics.kv_read_bytes(tiny(TINY, prefill=[(new, 512)]))[0] == pytest.approx(
        rank_kv_bytes(TINY, 1, tokens), rel=0.08
    )


def test_eight_ranks_of_a_model_with_fewer_heads_each_hold_one():
    assert physics.kv_heads_per_rank(tiny(HEAD_DIM_OF_ITS_OWN, 4, decode=[1]))[0] == 1
    assert physics.kv_heads_per_rank(step("llama-2-70b", tp=4, decode=[1]))[0] == 2


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_a_rank_receives_every_other_message_in_one_shot_and_parts_of_them_in_two(ranks):
    small, large = np.ones(1024, np.float16), np.ones(2**20, np.float16)
    table = step("llama-2-70b", tp=ranks, decode=[4])
    everyone = sum(small.nbytes for _other in range(ranks - 1))
    assert physics.all_reduce_wire_bytes(table, np.array([small.nbytes]))[0] == everyone
    chunks = [chunk.nbytes for chunk in np.array_split(large, ranks)]
    scattered = sum(
        chunks[0] for _other in range(ranks - 1)
    )  # every other rank's copy of the chunk that this rank sums
    gathered = sum(chunks[1:])  # the chunks that others have summed
    expected = scattered + gathered if ranks > 2 else sum(large.nbytes for _other in range(ranks - 1))
    assert physics.all_reduce_wire_bytes(table, np.array([large.nbytes]))[0] == expected


def test_there_are_two_all_reduces_a_layer_and_none_on_one_rank():
    both = steps(step("llama-2-70b", tp=4, decode=[9]), step("llama-2-70b", tp=1, decode=[9]))
    assert physics.all_reduces(both).tolist() == [160, 0]
    assert physics.all_reduce_us(both, np.array([1.0, 1.0]))[1] == 0
    assert physics.all_reduce_us(both, np.array([1.0, 1.0]))[0] >= 160 * physics.ONE_SHOT_LATENCY_US


@pytest.mark.parametrize(
    ("ranks", "message_kib", "measured_us"),
    [
        (2, 128, 4.80),
        (2, 1024, 8.39),
        (2, 4096, 20.27),
        (4, 128, 5.84),
        (4, 512, 11.36),
        (4, 1024, 12.80),
        (4, 2048, 18.64),
        (8, 64, 6.31),
        (8, 256, 14.71),
        (8, 1024, 17.26),
    ],
)
def test_an_all_reduce_takes_what_vllms_takes_on_h100s(ranks, message_kib, measured_us):
    # vLLM 0.14.0, CUDA graphs (kernels/all_reduce.parquet of the shared data)
    table = step("llama-2-70b", tp=ranks, decode=[4])
    tokens = np.array([message_kib * 1024 / (2 * 8192)])
    assert physics.all_reduce_us(table, tokens)[0] / 160 == pytest.approx(measured_us, rel=0.12)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([2, 4, 8]), st.floats(1, 4000), st.floats(0, 500))
def test_an_all_reduce_of_more_tokens_never_takes_less(ranks, tokens, more):
    table = step("llama-2-70b", tp=ranks, decode=[4])
    fewer, all_of_them = (
        physics.all_reduce_us(table, np.array([count]))[0] for count in (tokens, tokens + more)
    )
    assert all_of_them >= fewer


def test_attention_waves_count_a_block_for_every_request_head_and_layer_over_the_processors():
    for table, heads in [(tiny(TINY, 1, decode=[3, 11, 7]), 2), (tiny(TINY, 2, decode=[3, 11, 7]), 1)]:
        blocks = 0
        for _layer, _request, _head in product(range(TINY.num_layers), range(3), range(heads)):
            blocks += 1
        assert physics.attention_waves(table)[0] == pytest.approx(blocks / 132)
    assert (
        physics.attention_waves(step("llama-2-7b", decode=[9] * 50))[0] == 0
    )  # a KV head for every query head


# Published: Touvron 2023 (arXiv:2307.09288) and the safetensors indices; Jiang 2024 (arXiv:2401.04088) for
# Mixtral.
@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("llama-2-7b", 6.738e9),
        ("llama-2-70b", 68.977e9),
        ("codellama-34b", 33.744e9),
        ("mixtral-8x7b-v0-1", 46.703e9),
    ],
)
def test_the_models_have_their_published_number_of_parameters(model, parameters):
    table = step(model, tp=1, decode=[9])
    embedding = table["vocab_size"][0] * table["hidden_size"][0]
    assert physics.weight_bytes(table, np.array([1e6]))[0] / 2 + embedding == pytest.approx(
        parameters, rel=1e-3
    )


def test_llama_2_7b_reads_13_gigabytes_a_step():
    table = step("llama-2-7b", decode=[9])
    assert physics.weight_bytes(table, np.array([1.0]))[0] == pytest.approx(
        13.5e9 - 2 * 32000 * 4096, rel=2e-3
    )


def test_mixtral_uses_its_published_12_9_billion_parameters_for_a_token():
    table = step("mixtral-8x7b-v0-1", tp=1, decode=[9])
    embedding = 32000 * 4096
    assert physics.gemm_flops(table, np.array([1.0]))[0] / 2 + embedding == pytest.approx(12.9e9, rel=3e-3)


def test_llama_2_70b_keeps_320_kibibytes_a_token_over_all_ranks():
    table = step("llama-2-70b", tp=4, decode=[1])
    assert 4 * physics.kv_bytes_per_token(table)[0] == 320 * 1024


def test_reading_llama_2_7bs_weights_takes_four_milliseconds_on_an_h100_and_more_on_slower_memory():
    rows = [step("llama-2-7b", decode=[9], hardware=name) for name in ("H200", "H100", "A100", "L40S")]
    times = physics.weight_us(steps(*rows), np.ones(4))
    assert times[1] == pytest.approx(13.2e9 / 3.35e12 * 1e6, rel=0.01)
    assert (np.diff(times) > 0).all()


def test_eight_bit_weights_run_at_the_eight_bit_peak():
    half, whole = (
        tiny(replace(HEAD_DIM_OF_ITS_OWN.at(size), head_bytes_per_parameter=size), decode=[9])
        for size in (1.0, 2.0)
    )
    tokens = np.array([1.0])
    assert physics.gemm_us(whole, tokens)[0] / physics.gemm_us(half, tokens)[0] == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize("model", ["llama-2-70b", "mixtral-8x7b-v0-1"])
def test_a_row_over_ten_steps_with_one_prefill_is_the_mean_of_the_ten(model):
    decode, prefill = [500] * 20, [(1500, 0)]
    ten = steps(*[step(model, decode=decode) for _ in range(9)], step(model, decode=decode, prefill=prefill))
    means = {
        name: ten[name].mean()
        for name in (
            "num_prefill_reqs",
            "prefill_tokens",
            "prefill_kv_tokens_sum",
            "prefill_attended_tokens",
            "decode_kv_tokens_sum",
        )
    }
    row = step(model, decode=decode, **means)
    expected, got = physics.terms_us(ten).mean(), physics.terms_us(row).iloc[0]
    pd.testing.assert_series_equal(
        got, expected, check_names=False, rtol=1e-4
    )  # the LM head sees the mean batch
    assert got["compute_excess_us"] > 0


def test_what_a_log_does_not_tell_counts_as_the_least_it_can_be():
    unknown = step(
        decode=[9, 9],
        prefill=[(50, 100)],
        **dict.fromkeys(
            (
                "prefill_tokens",
                "decode_tokens",
                "decode_kv_tokens_sum",
                "prefill_kv_tokens_sum",
                "prefill_attended_tokens",
            ),
            np.nan,
        ),
    )
    assert physics.prefill_tokens(unknown)[0] == 1
    assert physics.decode_tokens(unknown)[0] == 2
    assert physics.kv_read_bytes(unknown)[0] == physics.kv_bytes_per_token(unknown)[0]
    least = physics.terms_us(unknown).iloc[0]
    known = physics.terms_us(step(decode=[9, 9], prefill=[(50, 100)])).iloc[0]
    assert np.isfinite(least).all()
    assert (least <= known + 1e-12).all()


def test_tokens_of_an_expert_are_shared_evenly():
    assert physics.tokens_per_expert(step("mixtral-8x7b-v0-1", decode=[9]), np.array([40.0]))[0] == 40 * 2 / 8
    assert physics.tokens_per_expert(step("llama-2-7b", decode=[9]), np.array([40.0]))[0] == 0


def test_compute_exceeds_memory_only_in_large_batches():
    small, large = step(decode=[100] * 4), step(decode=[100] * 4, prefill=[(2000, 0)])
    terms = physics.terms_us(steps(small, large))
    assert terms["compute_excess_us"][0] == 0
    assert terms["compute_excess_us"][1] > 0


def test_the_roofline_is_memory_for_a_decode_and_compute_for_a_long_prefill():
    decode, prefill = step(decode=[300] * 8), step(prefill=[(2000, 0)])
    bytes_read = physics.weight_bytes(decode, np.array([8.0]))[0] + physics.kv_read_bytes(decode)[0]
    assert physics.roofline_us(decode)[0] == pytest.approx(bytes_read / 3.35e6)
    flops = physics.gemm_flops(prefill, np.array([2000.0]))[0]
    flops += physics.attention_flops(prefill, prefill["prefill_attended_tokens"].to_numpy())[0]
    assert physics.roofline_us(prefill)[0] == pytest.approx(flops / 989.5e6)


def test_terms_come_in_their_order_finite_and_none_negative():
    table = Steps().run("llama-2-7b").run("llama-2-70b").run("mixtral-8x7b-v0-1").table()
    terms = physics.terms_us(table)
    assert tuple(terms.columns) == physics.TERMS
    assert np.isfinite(terms.to_numpy()).all()
    assert (terms.to_numpy() >= 0).all()
    assert (terms["step"] == 1).all()


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(sorted(catalog.MODELS)),
    st.lists(st.integers(1, 4000), min_size=1, max_size=20),
    st.lists(st.tuples(st.integers(1, 600), st.integers(0, 2000)), max_size=3),
    st.integers(1, 3000),
)
def test_one_more_request_never_makes_a_step_cheaper(model, decode, prefill, more):
    less = physics.terms_us(step(model, decode=decode, prefill=prefill)).iloc[0]
    with_decode = physics.terms_us(step(model, decode=[*decode, more], prefill=prefill)).iloc[0]
    with_prefill = physics.terms_us(
        step(model, decode=decode, prefill=[*prefill, (min(more, 600), 16)])
    ).iloc[0]
    grows = [
        name for name in physics.TERMS if name != "compute_excess_us"
    ]  # experts read in may outweigh their FLOPs
    assert (with_decode[grows] >= less[grows] - 1e-9).all()
    assert (with_prefill[grows] >= less[grows] - 1e-9).all()


def test_the_functions_ask_nothing_of_the_target_columns():
    table = step("llama-2-70b", decode=[9], prefill=[(4, 4)]).drop(
        columns=["period_us", "gap_steps", "duration_us"]
    )
    assert physics.terms_us(table).shape == (1, len(physics.TERMS))
    assert physics.terms_us(table.iloc[:0]).shape == (0, len(physics.TERMS))


def test_truncated_sampling_sorts_every_logit_of_every_request():
    table = step("llama-3.1-8b-instruct", decode=[100] * 7, prefill=[(50, 0)])
    logits = sum(1 for _request in range(8) for _token in range(128256))
    sorted_us = physics.SAMPLER_LATENCY_US + logits * physics.SAMPLER_US_PER_MILLION_LOGITS / 1e6
    assert physics.sampler_us(table.assign(truncated_sampling=1.0))[0] == pytest.approx(sorted_us)
    for plain in (table.assign(truncated_sampling=0.0), table.assign(truncated_sampling=np.nan), table):
        assert physics.sampler_us(plain)[0] == 0


@pytest.mark.parametrize(
    ("requests", "vocabulary", "measured_ms"),
    [(1, 32_000, 0.09), (56, 32_000, 0.39), (64, 131_072, 1.075), (128, 131_072, 2.32)],
)
def test_the_sampler_takes_what_vllms_micro_benchmarks_measured(requests, vocabulary, measured_ms):
    table = step(decode=[9] * requests, vocab_size=vocabulary, truncated_sampling=1.0)
    assert physics.sampler_us(table)[0] / 1e3 == pytest.approx(measured_ms, rel=0.2)


def test_all_reduces_go_in_two_shots_from_512_kibibytes_on_four_ranks_and_never_on_two():
    tokens = np.array([31.0, 32.0])  # x 8192 x 2 bytes
    four = steps(*[step("llama-2-70b", tp=4, decode=[9])] * 2)
    assert physics.two_shot_all_reduces(four, tokens).tolist() == [0, 160]
    two = steps(*[step("llama-2-70b", tp=2, decode=[9])] * 2)
    assert physics.two_shot_all_reduces(two, tokens * 100).tolist() == [0, 0]
    assert physics.terms_us(step("llama-2-70b", tp=4, decode=[9] * 40))["two_shots"][0] == 160
