"""Weights, KV cache, FLOPs: what one tensor-parallel rank reads and computes in a step, counted from the
architecture.

>>> from h3.steps import batch, catalog
>>> one = batch.Deployment(catalog.architecture("llama-2-7b"), 1, "H100")
>>> kv_bytes_per_token(batch.step_table(one, [[(600, 1, 512)]])).tolist()
[524288.0]

Every function takes rows of the step table and gives float64 arrays of shape (rows,). Multiply-adds count as
two FLOPs; activations are two bytes a value. Left out: norms, biases, router, and the embedding rows looked
up (below 0.1 % together).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from h3.steps.composition import (
    column,
    decode_window_tokens,
    prefill_tokens,
    prefill_window_pairs,
    ratio,
    requests,
)

KV_BYTES = 2.0
ATTENTION_TILE_QUERIES = (
    128  # FlashAttention reads the keys once for a tile of so many queries (Dao 2023, arXiv:2307.08691)
)
GATED_FFN_MATRICES = 3.0  # gate, up and down; older models have two


def _number(table: pd.DataFrame, name: str) -> np.ndarray:
    return table[name].to_numpy(float)


def ranks(table: pd.DataFrame) -> np.ndarray:
    """Tensor-parallel degree."""
    return _number(table, "tensor_parallelism")


def expert_coverage(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Expected share of a layer's routed experts that `tokens` tokens visit, 1 - (1 - k/E)^tokens; 1 for
    dense models.

    Counts uniform, independent routing; real routing is a little more concentrated.
    """
    experts, top_k = column(table, "num_experts"), column(table, "experts_per_token")
    return np.where(experts > 0, 1 - (1 - ratio(top_k, experts)) ** tokens, 1.0)


def tokens_per_expert(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Mean tokens that a routed expert computes; 0 for dense models."""
    return tokens * ratio(column(table, "experts_per_token"), column(table, "num_experts"))


def _latent(table: pd.DataFrame) -> np.ndarray:
    """Whether attention keeps a latent vector instead of keys and values (MLA)."""
    return np.asarray(column(table, "kv_lora_rank") > 0)


def _value_dim(table: pd.DataFrame) -> np.ndarray:
    return np.where(_latent(table), column(table, "v_head_dim"), _number(table, "head_dim"))


def attention_weights(table: pd.DataFrame) -> np.ndarray:
    """Weights of all layers' attention that ranks share: projections of queries, keys, values and output."""
    hidden, head_dim = _number(table, "hidden_size"), _number(table, "head_dim")
    heads, kv_heads = _number(table, "num_heads"), _number(table, "num_kv_heads")
    usual = hidden * head_dim * (2 * heads + 2 * kv_heads)
    query, latent = column(table, "q_lora_rank"), column(table, "kv_lora_rank")
    value, rope = _value_dim(table), column(table, "qk_rope_head_dim")
    up = np.where(query > 0, query, hidden) * heads * head_dim + latent * heads * (head_dim - rope + value)
    layer = np.where(_latent(table), up + heads * value * hidden, usual)
    return _number(table, "num_layers") * layer


def replicated_weights(table: pd.DataFrame) -> np.ndarray:
    """Weights of all layers that every rank holds whole: the projections down to MLA's latent vectors; 0 for
    others.
    """
    down = column(table, "q_lora_rank") + column(table, "kv_lora_rank") + column(table, "qk_rope_head_dim")
    return np.where(_latent(table), _number(table, "num_layers") * _number(table, "hidden_size") * down, 0.0)


def ffn_weights(table: pd.DataFrame, experts: np.ndarray) -> np.ndarray:
    """Weights of all layers' FFNs with so many routed experts in each MoE layer, all ranks."""
    layers, moe_layers = _number(table, "num_layers"), _number(table, "num_moe_layers")
    dense = (layers - moe_layers) * _number(table, "dense_ffn_size")
    sparse = moe_layers * (experts * _number(table, "expert_ffn_size") + _number(table, "shared_ffn_size"))
    matrices = column(table, "ffn_matrices", GATED_FFN_MATRICES)
    return matrices * _number(table, "hidden_size") * (dense + sparse)


def head_weights(table: pd.DataFrame) -> np.ndarray:
    """Weights of the LM head, all ranks."""
    return _number(table, "hidden_size") * _number(table, "vocab_size")


def stored_bytes(table: pd.DataFrame, part: str) -> np.ndarray:
    """Bytes of a weight of the part "attention" or "head"; those of the FFN where the table does not say."""
    return column(table, f"{part}_bytes_per_parameter", column(table, "bytes_per_parameter", 2.0))


def weight_bytes(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Bytes of weights that one rank reads in a step of `tokens` tokens: layers (experts visited only) and LM
    head.
    """
    experts = column(table, "num_experts") * expert_coverage(table, tokens)
    attention, head = stored_bytes(table, "attention"), stored_bytes(table, "head")
    shared = (
        attention * attention_weights(table)
        + column(table, "bytes_per_parameter", 2.0) * ffn_weights(table, experts)
        + head * head_weights(table)
    )
    return shared / ranks(table) + attention * replicated_weights(table)


def gemm_flops_by_part(table: pd.DataFrame, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """FLOPs of the weight matrices on one rank for `tokens` tokens: attention, FFN, and LM head for one
    position a request.
    """
    attention = 2 * (attention_weights(table) / ranks(table) + replicated_weights(table)) * tokens
    ffn = 2 * ffn_weights(table, column(table, "experts_per_token")) * tokens / ranks(table)
    return attention, ffn, 2 * head_weights(table) * requests(table) / ranks(table)


def gemm_flops(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """FLOPs of the weight matrices on one rank for `tokens` tokens; LM head for one position a request."""
    attention, ffn, head = gemm_flops_by_part(table, tokens)
    return attention + ffn + head


def kv_heads_per_rank(table: pd.DataFrame) -> np.ndarray:
    """Key/value heads on a rank; heads are replicated where there are more ranks than heads; one latent
    vector with MLA.
    """
    return np.where(_latent(table), 1.0, np.maximum(1.0, _number(table, "num_kv_heads") / ranks(table)))


def kv_bytes_per_token(table: pd.DataFrame) -> np.ndarray:
    """Bytes of KV cache of one token in all layers on one rank; MLA keeps the latent vector and one rotary
    key, on every rank.
    """
    values = np.where(
        _latent(table),
        column(table, "kv_lora_rank") + column(table, "qk_rope_head_dim"),
        2 * kv_heads_per_rank(table) * _number(table, "head_dim"),
    )
    return column(table, "kv_bytes_per_value", KV_BYTES) * _number(table, "num_layers") * values


def _window_share(table: pd.DataFrame) -> np.ndarray:
    """Share of the layers that attend to a sliding window only."""
    return column(table, "num_window_layers") / _number(table, "num_layers")


def _over_layers(table: pd.DataFrame, full: np.ndarray, windowed: np.ndarray) -> np.ndarray:
    """Mean over the layers of what those with full attention and those with a window count."""
    share = _window_share(table)
    return np.where(share > 0, (1 - share) * full + share * windowed, full)


def kv_read_bytes(table: pd.DataFrame) -> np.ndarray:
    """Bytes of KV cache that attention reads: all of a decoding request's, a prefill's once a tile of
    queries; in layers with a window no more than that.

    Counts cached blocks once per request that attends to them, also where requests share them.
    """
    reach = column(table, "num_prefill_reqs") * column(table, "window_tokens")
    before, new = column(table, "prefill_kv_tokens_sum"), prefill_tokens(table)
    attended = column(table, "prefill_attended_tokens")
    full = column(table, "decode_kv_tokens_sum") + _per_tile(attended, before + new)
    windowed = decode_window_tokens(table) + _per_tile(
        prefill_window_pairs(table), np.minimum(before, reach) + new
    )
    return kv_bytes_per_token(table) * _over_layers(table, full, windowed)


def _per_tile(pairs: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Keys that tiles of queries read, each key once at least."""
    return np.maximum(pairs / ATTENTION_TILE_QUERIES, keys)


def attention_flops(table: pd.DataFrame, attended_tokens: np.ndarray) -> np.ndarray:
    """FLOPs of query-key products and of weighting values on one rank for so many query-key pairs in each
    layer.

    Exact for causal attention when the pairs are counted exactly (t new after s old: t*s + t*(t+1)/2); leaves
    out the softmax.
    """
    heads = _number(table, "num_heads") / ranks(table)
    per_pair = _number(table, "head_dim") + _value_dim(table)
    return 2 * _number(table, "num_layers") * heads * per_pair * attended_tokens


def prefill_pairs(table: pd.DataFrame) -> np.ndarray:
    """Query-key pairs of prefill, mean over the layers."""
    return _over_layers(table, column(table, "prefill_attended_tokens"), prefill_window_pairs(table))


def decode_pairs(table: pd.DataFrame) -> np.ndarray:
    """Query-key pairs of decoding, mean over the layers."""
    return _over_layers(table, column(table, "decode_kv_tokens_sum"), decode_window_tokens(table))


def step_attention_flops(table: pd.DataFrame) -> np.ndarray:
    """FLOPs of a step's attention on one rank. Decoding with MLA multiplies with the latent vectors
    themselves (the absorbed form, arXiv:2405.04434): their rank and the rotary part wide for the products,
    their rank for the values.
    """
    prefill, decode = prefill_pairs(table), decode_pairs(table)
    absorbed = 2 * column(table, "kv_lora_rank") + column(table, "qk_rope_head_dim")
    heads = _number(table, "num_layers") * _number(table, "num_heads") / ranks(table)
    latent = attention_flops(table, prefill) + 2 * heads * absorbed * decode
    return np.where(_latent(table), latent, attention_flops(table, prefill + decode))
