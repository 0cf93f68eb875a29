"""Architectures from HuggingFace configurations, names of models and accelerators, names of experiment
folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h3.common.errors import InputError
from h3.steps import catalog

SHARED = Path(__file__).parents[3] / "shared" / "data" / "model_configs"
LLAMA_7B = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "torch_dtype": "float16",
}
MIXTRAL = LLAMA_7B | {
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}


def read(**changed):
    return catalog.from_hf_config(
        {key: value for key, value in (LLAMA_7B | changed).items() if value is not None}, "config.json"
    )


def experts(**changed):
    return catalog.from_hf_config(MIXTRAL | changed, "config.json")


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared model configurations beside the repository")
@pytest.mark.parametrize(
    "folder", ["Llama-2-7b-hf", "Llama-2-70b-hf", "CodeLlama-34b-Instruct-hf", "Mixtral-8x7B-v0.1"]
)
def test_the_four_known_models_are_what_their_published_configurations_say(folder):
    published = catalog.read_hf_config(SHARED / folder / "config.json")
    assert published == catalog.architecture(folder)
    assert published == catalog.architecture(folder, SHARED)


def test_a_dense_model_has_no_experts():
    assert read() == catalog.MODELS["llama-2-7b"]


def test_mixtral_has_experts_in_every_layer_and_no_dense_ffn():
    assert experts() == catalog.MODELS["mixtral-8x7b-v0-1"]


def test_heads_share_keys_only_where_the_configuration_says_so():
    assert read(num_key_value_heads=None).num_kv_heads == 32
    assert read(num_key_value_heads=4).num_kv_heads == 4


def test_the_width_of_a_head_is_the_configurations_or_the_hidden_size_over_the_heads():
    assert read().head_dim == 128
    assert read(head_dim=256).head_dim == 256
    assert read(head_dim=None).head_dim == 128


@pytest.mark.parametrize(
    "key", ["num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts", "num_routed_experts"]
)
def test_each_name_for_the_number_of_experts_is_understood(key):
    assert read(**{key: 16, "num_experts_per_tok": 4}).num_experts == 16


def test_the_first_key_of_at_least_two_counts_the_experts():
    assert experts(num_experts=1).num_experts == 8
    assert experts(num_experts=4).num_experts == 4
    assert read(num_local_experts=1).num_experts == 0
    assert read(num_local_experts=1, num_experts_per_tok=1).num_moe_layers == 0


def test_experts_of_their_own_width_shared_experts_and_dense_layers_are_counted():
    deepseek = experts(moe_intermediate_size=1408, n_shared_experts=2, first_k_dense_replace=1)
    assert (deepseek.expert_ffn_size, deepseek.shared_ffn_size) == (1408, 2816)
    assert (deepseek.num_moe_layers, deepseek.dense_ffn_size) == (31, 14336)
    assert experts(shared_expert_intermediate_size=5632).shared_ffn_size == 5632
    assert experts(decoder_sparse_step=2).num_moe_layers == 16


def test_experts_without_the_number_that_a_token_visits_are_refused():
    with pytest.raises(InputError, match="num_local_experts=8 but no num_experts_per_tok"):
        catalog.from_hf_config(
            {key: value for key, value in MIXTRAL.items() if key != "num_experts_per_tok"}, "config.json"
        )
    with pytest.raises(InputError, match="num_experts_per_tok=9 exceeds num_local_experts=8"):
        experts(num_experts_per_tok=9)


@pytest.mark.parametrize(
    ("changed", "stored"),
    [
        ({"torch_dtype": "bfloat16"}, 2.0),
        ({"torch_dtype": "float32"}, 2.0),  # as vLLM serves it
        ({"torch_dtype": None, "dtype": "float16"}, 2.0),
        ({"torch_dtype": None}, 2.0),
        ({"quantization_config": {"quant_method": "fp8"}}, 1.0),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, 0.5 + 2.5 / 128),
        ({"quantization_config": {"load_in_4bit": True}}, 0.5 + 4 / 64),
    ],
)
def test_a_weight_takes_the_bytes_of_its_stored_form(changed, stored):
    assert read(**changed).bytes_per_parameter == stored


def test_tied_embeddings_do_not_change_what_a_step_reads():
    assert read(tie_word_embeddings=True) == read()


def test_the_text_part_of_a_multimodal_configuration_is_used():
    assert catalog.from_hf_config({"model_type": "llava", "text_config": LLAMA_7B}, "config.json") == read()


@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size"]
)
@pytest.mark.parametrize("value", [None, 0, -3, 2.5, "32", True, float("nan")])
def test_a_missing_or_impossible_size_is_refused_by_name(key, value):
    with pytest.raises(InputError, match=f"^config.json: .*{key}"):
        read(**{key: value})


def test_an_unknown_dtype_lists_the_known_and_latent_attention_without_its_sizes_is_refused():
    with pytest.raises(InputError, match=r"torch_dtype='int3'; expected one of bfloat16"):
        read(torch_dtype="int3")
    with pytest.raises(InputError, match="qk_rope_head_dim"):
        read(kv_lora_rank=512)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 9),
    st.floats(),
    st.text(max_size=3),
    st.just([]),
    st.just({}),
    st.just({"bits": "x"}),
)
KEYS = st.sampled_from(
    [
        *MIXTRAL,
        "head_dim",
        "text_config",
        "quantization_config",
        "n_shared_experts",
        "first_k_dense_replace",
        "moe_layer_freq",
        "kv_lora_rank",
        "num_experts",
        "shared_expert_intermediate_size",
        "moe_intermediate_size",
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(KEYS, JUNK, max_size=2))
def test_any_configuration_is_an_architecture_or_an_input_error(changed):
    try:
        arch = catalog.from_hf_config(MIXTRAL | changed, "config.json")
    except InputError as error:
        assert str(error).startswith("config.json: ")
    else:
        assert 0 <= arch.num_moe_layers <= arch.num_layers
        assert arch.shared_ffn_size >= 0
        assert arch.bytes_per_parameter > 0


def test_a_file_that_is_no_configuration_is_refused_by_path(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(InputError, match="No such file"):
        catalog.read_hf_config(path)
    for content, says in [
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[1]", "holds a list"),
        (b"{}", "num_hidden_layers"),
        (b"[" * 1_000_000, "not JSON"),
        (b'{"hidden_size": ' + b"1" * 10_000 + b"}", "not JSON"),
        (b" " * 16_000_001, "more than 16000000 bytes"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=says):
            catalog.read_hf_config(path)


def test_an_unknown_model_is_refused_with_the_option_that_helps():
    with pytest.raises(
        InputError,
        match=(
            r"unknown model 'acme/New-1b'.*config\.json.*DIR/new-1b/config\.json.*source\.model_configs=DIR"
        ),
    ):
        catalog.architecture("acme/New-1b")


def test_a_model_is_learned_from_a_folder_of_configurations(tmp_path):
    (tmp_path / "New-1b").mkdir()
    (tmp_path / "New-1b" / "config.json").write_text(json.dumps(LLAMA_7B | {"num_hidden_layers": 5}))
    assert catalog.architecture("acme/new-1B", tmp_path).num_layers == 5
    assert catalog.architecture("llama-2-7b", tmp_path).num_layers == 32


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("meta-llama/Llama-2-70b-hf", "llama-2-70b"),
        ("llama-2-70b-hf", "llama-2-70b"),
        ("llama-2-70b", "llama-2-70b"),
        ("codellama/CodeLlama-34b-Instruct-hf", "codellama-34b"),
        ("mistralai/Mixtral-8x7B-v0.1", "mixtral-8x7b-v0-1"),
        (" acme/New-1b/ ", "new-1b"),
    ],
)
def test_a_model_has_one_name_whatever_it_is_called(given_name, name):
    assert catalog.model_name(given_name) == name


def test_an_experiments_name_tells_model_degree_and_workload():
    assert catalog.parse_experiment("20260217-202857-llama-2-70b-tp4-general") == {
        "model": "llama-2-70b",
        "tp": "4",
        "workload": "general",
    }
    assert (
        catalog.parse_experiment("20260218-150304-mixtral-8x7b-v0-1-tp2-codegen")["model"]
        == "mixtral-8x7b-v0-1"
    )
    assert catalog.parse_experiment("my-run") is None


def test_accelerators_are_found_by_driver_and_cloud_names_and_the_unknown_lists_them():
    assert catalog.hardware("NVIDIA H100 80GB HBM3") is catalog.hardware(" h100-sxm ")
    assert catalog.hardware("A100-80GB").memory_bandwidth_bytes_s == 2.039e12
    with pytest.raises(InputError, match=r"unknown hardware 'TPU'; expected one of H100, .*L40S"):
        catalog.hardware("TPU")


def test_hardware_figures_are_per_second_and_in_si_powers():
    for name, entry in catalog.HARDWARE.items():
        assert 1e14 < entry.peak_bf16_flops <= entry.peak_fp8_flops < 1e16, name
        assert 2e11 < entry.memory_bandwidth_bytes_s < 1e13, name
        assert 1e10 < entry.nvlink_bandwidth_bytes_s < 1e12, name


@pytest.mark.parametrize("degree", [0, -1, 3, 64])
def test_a_degree_that_does_not_divide_the_heads_is_refused(degree):
    with pytest.raises(InputError, match=f"tensor parallelism {degree} does not divide 32 heads"):
        catalog.check_tensor_parallelism(catalog.MODELS["llama-2-7b"], degree, "here")


def test_key_value_heads_may_be_fewer_than_ranks():
    catalog.check_tensor_parallelism(catalog.MODELS["llama-2-70b"], 16, "here")
