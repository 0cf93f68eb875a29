"""Attention of a HuggingFace config: heads, head size, sliding windows, latent vectors (MLA), and vocabulary.

>>> from h3.steps.hf_config.keys import Config
>>> gemma = {"model_type": "gemma2", "sliding_window": 4096}
>>> windows(Config(gemma, gemma, "config.json"), 42)
(4096, 21)
"""

from __future__ import annotations

from typing import Any

from h3.steps.hf_config.keys import MOST_TOKENS, Config

# Layers of a family whose config does not list them: one in so many attends to everything (None: the key
# sliding_window_pattern says), the others to the window.
ONE_FULL_LAYER_IN = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4}
CHUNKED_FULL_LAYER_IN = 4  # Llama 4
MOST_LAYERS = 4096
WINDOW, FULL = ("sliding_attention", "chunked_attention"), "full_attention"


def sizes(config: Config) -> dict[str, Any]:
    """Layers, width, heads and what attention keeps, as fields of an Architecture."""
    layers = config.positive("num_hidden_layers", "n_layer", "num_layers", "n_layers")
    if layers > MOST_LAYERS:
        raise config.error(f"num_hidden_layers={layers}; expected at most {MOST_LAYERS}")
    hidden = config.positive("hidden_size", "n_embd", "n_embed", "d_model")
    heads = config.positive("num_attention_heads", "n_head", "n_heads")
    window, window_layers = windows(config, layers)
    found = {
        "num_layers": layers,
        "hidden_size": hidden,
        "num_heads": heads,
        "num_kv_heads": _dividing(config, _kv_heads(config, heads), heads),
        "head_dim": config.positive("head_dim", "kv_channels", default=max(1, hidden // heads)),
        "vocab_size": config.positive("vocab_size", "padded_vocab_size"),
        "window_tokens": window,
        "num_window_layers": window_layers,
    }
    return found | _latent(config)


def _kv_heads(config: Config, heads: int) -> int:
    """Key/value heads; Falcon, ChatGLM and BigCode say "multi query" first."""
    text = config.text
    if text.get("num_key_value_heads") is not None:
        return config.positive("num_key_value_heads")
    if text.get("new_decoder_architecture") or text.get("n_head_kv"):
        return config.positive("num_kv_heads", "n_head_kv")
    if text.get("multi_query_attention"):
        return config.positive("multi_query_group_num")
    return 1 if text.get("multi_query") else heads


def _dividing(config: Config, kv_heads: int, heads: int) -> int:
    """The key/value heads; raises InputError if they do not share the query heads evenly."""
    if heads % kv_heads:
        key = config.name("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
        raise config.error(f"{key}={kv_heads}; expected a divisor of the {heads} heads")
    return kv_heads


def _latent(config: Config) -> dict[str, int]:
    """Sizes of latent attention (DeepSeek-V2, arXiv:2405.04434); none for a model without."""
    rank = config.at_least_zero("kv_lora_rank")
    if not rank:
        return {}
    rope = config.positive("qk_rope_head_dim")
    return {
        "kv_lora_rank": rank,
        "q_lora_rank": config.at_least_zero("q_lora_rank"),
        "qk_rope_head_dim": rope,
        "head_dim": config.positive("qk_nope_head_dim") + rope,
        "v_head_dim": config.positive("v_head_dim"),
    }


def windows(config: Config, layers: int) -> tuple[int, int]:
    """Tokens that a layer with a sliding window reaches back, and how many layers have one; (0, 0): none.

    Chunked attention (Llama 4) counts as a window of the chunk: exact up to one chunk, too much beyond.
    """
    window, chunk = (
        config.at_least_zero(key, most=MOST_TOKENS) for key in ("sliding_window", "attention_chunk_size")
    )
    size = window or chunk
    kinds = config.list("layer_types")
    if kinds:
        other = next((kind for kind in kinds if kind not in (*WINDOW, FULL)), None)
        if other is not None:
            raise config.error(f"layer_types has {other!r}; expected {', '.join((*WINDOW, FULL))}")
        if len(kinds) < layers:
            raise config.error(f"layer_types has {len(kinds)} layers; expected num_hidden_layers={layers}")
        return _some(size, sum(kind in WINDOW for kind in kinds[:layers]))
    if not size:
        return 0, 0
    if config.text.get("use_sliding_window") is not None:  # Qwen
        used = bool(config.text["use_sliding_window"])
        return _some(size, max(0, layers - config.at_least_zero("max_window_layers")) if used else 0)
    if config.text.get("attention_chunk_size"):
        return _some(size, _chunked(config, layers))
    one_in = config.at_least_zero("sliding_window_pattern") or ONE_FULL_LAYER_IN.get(config.model_type, 0)
    return _some(size, layers - layers // one_in if one_in else layers)


def _chunked(config: Config, layers: int) -> int:
    rotary = config.list("no_rope_layers")  # 1: rotary positions, and chunked
    if rotary:
        return sum(bool(each) for each in rotary[:layers])
    return layers - layers // (config.at_least_zero("no_rope_layer_interval") or CHUNKED_FULL_LAYER_IN)


def _some(size: int, layers: int) -> tuple[int, int]:
    return (size, layers) if size and layers else (0, 0)
