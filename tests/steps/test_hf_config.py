"""Published models, counted by hand; go/h3bundle reads the same file of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h3.common.errors import InputError
from h3.steps import batch, catalog, physics
from h3.steps.batch import Deployment
from h3.steps.hf_config import Served, from_hf_config

CASES = json.loads(
    (Path(__file__).parents[2] / "go" / "h3bundle" / "testdata" / "architectures.json").read_text()
)
ALL_EXPERTS = np.array([1e9])  # so many tokens visit every expert


def counted(arch):
    """Bytes of all weights of layers and LM head, and of a token's KV cache, on one rank."""
    table = batch.step_table(Deployment(arch, 1, "H100"), [[(600, 1, 512)]])
    return physics.weight_bytes(table, ALL_EXPERTS)[0], physics.kv_bytes_per_token(table)[0]


def test_there_are_at_least_thirty_published_models():
    assert len(CASES["cases"]) >= 30


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["name"])
def test_a_published_model_is_counted_as_by_hand(case):
    arch = from_hf_config(case["config"], "config.json")
    weights, kv = counted(arch)
    assert weights == pytest.approx(case["weight_bytes"], rel=1e-12)
    assert kv == case["kv_bytes_per_token"]
    windows = (case.get("window_tokens", 0), case.get("num_window_layers", 0))
    assert (arch.window_tokens, arch.num_window_layers) == windows


@pytest.mark.parametrize("case", [*CASES["cases"], *CASES["served"]], ids=lambda case: case["name"])
def test_the_arithmetic_told_with_a_count_gives_it(case):
    for what in ("weight_bytes", "kv_bytes_per_token", "parameters"):
        how = case.get({"weight_bytes": "weights_how", "parameters": "parameters_how"}.get(what, "kv_how"))
        if what in case:
            assert how is not None and re.fullmatch(r"[0-9+*/() ]+", how)
            assert eval(how) == pytest.approx(case[what], rel=1e-15)


@pytest.mark.parametrize(
    "case", [case for case in CASES["cases"] if "parameters" in case], ids=lambda case: case["name"]
)
def test_the_count_by_hand_is_the_published_number_of_parameters(case):
    assert case["parameters"] / 1e9 == pytest.approx(case["published_billions"], rel=0.01)


@pytest.mark.parametrize("case", CASES["served"], ids=lambda case: case["name"])
def test_a_model_is_counted_as_it_is_served(case):
    weights, kv = counted(from_hf_config(case["config"], "config.json", Served(**case["served"])))
    assert (weights, kv) == (pytest.approx(case["weight_bytes"]), case["kv_bytes_per_token"])


@pytest.mark.parametrize("case", CASES["refused"], ids=lambda case: case["name"])
def test_what_cannot_be_counted_is_refused_by_its_key(case):
    with pytest.raises(InputError, match=f"^config.json: .*{case['says']}"):
        from_hf_config(case["config"], "config.json", Served(**case.get("served", {})))


@pytest.mark.parametrize(("key", "value"), [("dtype", "int3"), ("kv_cache_dtype", "int4")])
def test_an_unknown_precision_is_refused_with_the_known(key, value):
    with pytest.raises(InputError, match=f"{key}='{value}'; expected one of auto"):
        from_hf_config(CASES["cases"][0]["config"], "config.json", Served(**{key: value}))


WINDOWED = catalog.Architecture(
    *(6, 64, 4, 2, 16, 100, 96, 0, 0, 0, 0, 0, 2.0), window_tokens=40, num_window_layers=5
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 120), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(1, 90), st.integers(0, 90)), max_size=3),
)
def test_layers_with_a_window_read_and_multiply_no_more_than_it(contexts, prefills):
    requests = [(context - 1, 1, 0) for context in contexts]
    requests += [(before, new, before + new) for new, before in prefills]
    table = batch.step_table(Deployment(WINDOWED, 1, "H100"), [requests])
    keys = dict.fromkeys(range(6), 0)
    pairs = dict(keys)
    for layer in range(6):
        reach = 40 if layer < 5 else 10**9
        keys[layer] += sum(min(context, reach) for context in contexts)
        for new, before in prefills:
            pairs[layer] += sum(min(before + token, reach) for token in range(1, new + 1))
        reads = sum(min(before, reach) for _, before in prefills) if len(prefills) < 2 else None
        if reads is not None:
            keys[layer] += max(pairs[layer] / 128, reads + sum(new for new, _ in prefills))
    if len(prefills) < 2:  # of several prompts the sum of what was before them is known, not each
        assert physics.kv_read_bytes(table)[0] == pytest.approx(sum(keys.values()) * 2 * 2 * 2 * 16)
    assert physics.attention_flops(table, physics.prefill_pairs(table))[0] == pytest.approx(
        sum(pairs.values()) * 4 * 4 * 16
    )


def test_a_latent_vector_is_kept_on_every_rank():
    case = next(case for case in CASES["cases"] if case["name"].endswith("V2-Lite"))
    arch = from_hf_config(case["config"], "config.json")
    one, four = (batch.step_table(Deployment(arch, tp, "H100"), [[(600, 1, 512)]]) for tp in (1, 4))
    assert physics.kv_bytes_per_token(one)[0] == physics.kv_bytes_per_token(four)[0] == 27 * 576 * 2
    replicated = 27 * 2048 * (512 + 64) * 2
    whole, quarter = (physics.weight_bytes(table, ALL_EXPERTS)[0] for table in (one, four))
    assert quarter == pytest.approx((whole - replicated) / 4 + replicated)


def test_decoding_with_latent_vectors_multiplies_with_them_and_prefill_with_heads():
    case = next(case for case in CASES["cases"] if case["name"].endswith("V2-Lite"))
    deployment = Deployment(from_hf_config(case["config"], "config.json"), 4, "H100")
    decode, prefill = (batch.step_table(deployment, [[r]]) for r in ((99, 1, 0), (0, 10, 10)))
    of_a_pair = 2 * 27 * 16 / 4  # multiply-adds count twice; layers, heads of a rank
    absorbed = of_a_pair * ((512 + 64) + 512) * 100  # with each of the 100 latent vectors, twice
    assert physics.step_attention_flops(decode)[0] == absorbed
    by_head = of_a_pair * ((128 + 64) + 128) * sum(range(1, 11))
    assert physics.step_attention_flops(prefill)[0] == by_head


@pytest.mark.parametrize("dtype", ["auto", "half", "bfloat16", "fp8"])
def test_a_known_model_of_eight_bits_stays_one_and_cannot_be_served_in_thirty_two(dtype):
    scout = catalog.architecture("RedHatAI/Llama-4-Scout-17B-16E-Instruct-FP8-dynamic")
    assert Served(dtype).of(scout, "exp-config.yaml") == scout
    with pytest.raises(InputError, match="dtype='float32' of weights that are quantised"):
        Served("float32").of(scout, "exp-config.yaml")
