"""FFN and experts of a HuggingFace config, and the families whose steps are not counted.

A model is MoE iff the first key >= 2 of EXPERT_COUNT_KEYS exists.
"""

from __future__ import annotations

from h3.steps.architecture import LEAST_EXPERTS
from h3.steps.hf_config.keys import Config

EXPERT_COUNT_KEYS = (
    "num_experts",
    "moe_num_experts",
    "n_routed_experts",
    "num_local_experts",
    "num_routed_experts",
)
TOP_K_KEYS = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "top_k")
SHARED_WIDTH_KEYS = ("shared_expert_intermediate_size", "shared_intermediate_size")
FROM_ZERO = "moe_layer_freq"  # DeepSeek counts layers from 0, Qwen and Llama from 1
MOE_STEP_KEYS = ("decoder_sparse_step", FROM_ZERO, "interleave_moe_layer_step")
# Two matrices instead of the three of a gated FFN; four times as wide as the model where no width is given.
UNGATED = (
    *("falcon", "refinedweb", "refinedwebmodel", "gpt2", "gpt_neo", "gpt_neox", "gptj", "gpt_bigcode", "opt"),
    *("bloom", "mpt", "phi", "starcoder2", "nemotron", "codegen", "arcee", "apertus"),
)
UNGATED_WIDTH = 4
BOTH_HALVES = "qwen"  # the first Qwen gives the width of gate and up projection together
# Steps of other make: recurrent or linear layers, cross-attention, encoders, sparse attention, two attentions
# a layer, latent attention whose keys and values are kept whole (MiniCPM3).
REFUSED = (
    *("mamba", "mamba2", "falcon_mamba", "falcon_h1", "jamba", "bamba", "zamba", "zamba2", "nemotron_h"),
    *("rwkv", "recurrent_gemma", "granitemoehybrid", "qwen3_next", "minimax", "kimi_linear", "lfm2"),
    *("plamo2", "mllama", "mllama_text_model", "t5", "bart", "whisper", "gemma3n", "gemma3n_text"),
    *("deepseek_v32", "deepseek_v4", "arctic", "minicpm3", "longcat_flash"),
    *("bert", "roberta", "xlm-roberta", "modernbert"),
)
# The same by what a config has, of whatever family: the kind of layers, and its keys.
REFUSED_KEYS = {
    "recurrent layers": (
        *("ssm_cfg", "ssm_state_size", "mamba_d_state", "mamba_d_ssm", "attn_layer_period"),
        *("layers_block_type", "hybrid_override_pattern"),
    ),
    "linear attention": ("linear_attn_config", "full_attention_interval", "linear_num_value_heads"),
    "cross-attention": ("cross_attention_layers",),
    "sparse attention": ("index_topk", "compress_ratios"),
    "a dense FFN beside the experts": ("parallel_attn_mlp_res",),
    "two attentions a layer": ("expert_ffn_hidden_size",),
    # attention whose sizes differ between the layers (Gemma 4, MiMo-V2), or whose cache they share
    "layers that differ in size or share a cache": (
        *("block_configs", "global_head_dim", "num_global_key_value_heads", "num_kv_shared_layers"),
        *("hidden_size_per_layer_input", "hybrid_layer_pattern", "swa_num_key_value_heads"),
    ),
}
KINDS_OF_ATTENTION = "attn_type_list"  # MiniMax: 0 is linear attention
EXPECTED = "expected a decoder of attention and FFN layers"


def refuse_others(config: Config) -> None:
    """Raises InputError for a model whose steps are made of other work than is counted here."""
    found = ((kind, key) for kind, keys in REFUSED_KEYS.items() for key in keys if config.text.get(key))
    kind, key = next(found, ("", ""))
    if not key and not all(config.list(KINDS_OF_ATTENTION)):
        kind, key = "linear attention", KINDS_OF_ATTENTION
    if key:
        raise config.error(f"{key}: {kind}: not counted; {EXPECTED}")
    if config.model_type in REFUSED:
        raise config.error(f"model_type={config.model_type!r}: its steps are not counted; {EXPECTED}")
    if config.anywhere("is_encoder_decoder"):
        raise config.error("is_encoder_decoder=true: encoders are not counted; expected a decoder-only model")


def sizes(config: Config, layers: int, hidden: int) -> dict[str, int]:
    """FFN widths and experts, as fields of an Architecture."""
    ungated = config.model_type in UNGATED or config.anywhere("hidden_act") == "relu2"
    width = UNGATED_WIDTH * hidden if ungated else None
    ffn = config.positive("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", default=width)
    ffn = ffn // 2 if config.model_type == BOTH_HALVES else ffn
    moe = _experts(config, layers, ffn)
    dense = config.at_least_zero("intermediate_size_mlp") or ffn  # Llama 4: of the layers without experts
    return moe | {
        "dense_ffn_size": dense if moe["num_moe_layers"] < layers else 0,
        "ffn_matrices": 2 if ungated else 3,
    }


def _experts(config: Config, layers: int, ffn: int) -> dict[str, int]:
    keys = ("num_moe_layers", "num_experts", "experts_per_token", "expert_ffn_size", "shared_ffn_size")
    counts = [key for key in EXPERT_COUNT_KEYS if config.at_least_zero(key)]
    count_key = next((key for key in counts if config.text[key] >= LEAST_EXPERTS), None)
    if count_key is None:
        return dict.fromkeys(keys, 0)
    experts = config.positive(count_key)
    top_k_key = next((key for key in TOP_K_KEYS if config.text.get(key)), None)
    if top_k_key is None:
        raise config.error(
            f"{count_key}={experts} but no num_experts_per_tok; expected the experts that a token visits"
        )
    top_k = config.positive(top_k_key)
    if top_k > experts:
        raise config.error(f"{top_k_key}={top_k} exceeds {count_key}={experts}; expected at most that")
    expert_ffn = config.positive("moe_intermediate_size", default=ffn)
    return dict(
        zip(
            keys,
            (_moe_layers(config, layers), experts, top_k, expert_ffn, _shared(config, expert_ffn)),
            strict=True,
        )
    )


def _shared(config: Config, expert_ffn: int) -> int:
    """Total width of the experts that every token visits; Llama 4 has one in each MoE layer."""
    if config.text.get("intermediate_size_mlp"):
        return expert_ffn
    named = config.at_least_zero(*SHARED_WIDTH_KEYS)
    return named or expert_ffn * config.at_least_zero("n_shared_experts", "num_shared_experts")


def _moe_layers(config: Config, layers: int) -> int:
    """Layers with experts: those listed, or every so many beyond the first dense ones but for the dense ones
    listed.
    """
    listed = config.layers("moe_layers")
    if listed:
        return len(listed & set(range(layers)))
    if isinstance(config.text.get("moe_layer_freq"), list):
        return sum(bool(each) for each in config.list("moe_layer_freq")[:layers])
    first = config.at_least_zero("first_k_dense_replace")
    key, step = next(
        ((key, step) for key in MOE_STEP_KEYS if (step := config.at_least_zero(key))), (FROM_ZERO, 1)
    )
    dense = config.layers("mlp_only_layers")
    chosen = (layer for layer in range(first, layers) if (layer + (key != FROM_ZERO)) % step == 0)
    return sum(layer not in dense for layer in chosen)
