"""What the coefficients of BLIS's trained-physics backend multiply, computed from a step table as BLIS counts
it.

    blis_terms(table)                  # float64, a row a step, columns in the order of BETA

The table has the architecture and setup columns, the composition, and `prefill_before`: tokens of the
prefilling requests' prompts computed before the step.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from h3.steps import catalog, physics

BETA = (
    "prefill_compute",
    "decode_compute",
    "weights",
    "tp_communication",
    "us_per_layer",
    "us_per_request",
    "us_per_step",
    "us_per_moe_layer",
    "prefill_kv",
    "decode_kv",
    "moe_dispatch",
)


def blis_terms(table: pd.DataFrame) -> pd.DataFrame:
    """What BLIS's eleven beta coefficients multiply, float64 of shape (steps, 11): us at peak, then counts.

    As BLIS counts, causal overcounting included: attention of t new tokens costs t * (prompt + t / 2), with
    the prompt ending at the chunk; BLIS leaves out the LM head, reads the weights of all experts and takes
    hidden size / heads for the head's dimension. MoE dispatch (DP > 1) is 0.
    """
    get = {
        name: table[name].to_numpy(float)
        for name in (*catalog.Architecture.__dataclass_fields__, "tensor_parallelism")
    }
    layers, moe = get["num_layers"], get["num_moe_layers"]
    columns = [
        *_compute(table, get),
        *_traffic(table, get),
        layers,
        physics.requests(table),
        np.ones(len(table)),
        np.where(moe < layers, moe, 0.0),
        *_kv(table, get),
        np.zeros(len(table)),
    ]
    return pd.DataFrame(dict(zip(BETA, columns, strict=True)))


def _compute(table: pd.DataFrame, get: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """us at peak FLOP/s of prefilling and of decoding tokens."""
    ranks, head_dim = get["tensor_parallelism"], get["hidden_size"] / get["num_heads"]
    new, decode, context = _tokens(table)
    pairs = new * (table["prefill_before"].to_numpy(float) + new + new / 2)
    peak = np.where(
        get["bytes_per_parameter"] <= 1, _per_us(table, "peak_fp8_flops"), _per_us(table, "peak_bf16_flops")
    )
    gemm = 2 * _weights_of_layers(get, get["experts_per_token"]) / ranks
    per_pair = get["num_layers"] * 4 * (get["num_heads"] / ranks) * head_dim
    return (gemm * new + per_pair * pairs) / peak, (gemm * decode + per_pair * context) / peak


def _traffic(table: pd.DataFrame, get: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """us at peak bandwidth of reading the weights and of all-reduce."""
    ranks, bandwidth = get["tensor_parallelism"], _per_us(table, "memory_bandwidth_bytes_s")
    new, decode, _ = _tokens(table)
    weights = get["bytes_per_parameter"] * _weights_of_layers(get, get["num_experts"]) / ranks
    sent = 2 * get["num_layers"] * (new + decode) * get["hidden_size"] * 2 * 2 * (ranks - 1) / ranks
    return weights / bandwidth, sent / bandwidth


def _kv(table: pd.DataFrame, get: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """us at peak bandwidth of writing and of reading the KV cache."""
    width = get["num_kv_heads"] * (get["hidden_size"] / get["num_heads"])
    token_bytes = get["num_layers"] * 2 * (width / get["tensor_parallelism"]) * 2
    bandwidth = _per_us(table, "memory_bandwidth_bytes_s")
    new, decode, context = _tokens(table)
    return token_bytes * new / bandwidth, token_bytes * (context + decode) / bandwidth


def _tokens(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """New prompt tokens, decoding tokens, and the context of the latter before the step."""
    decode = table["decode_tokens"].to_numpy(float)
    return (
        table["prefill_tokens"].to_numpy(float),
        decode,
        table["decode_kv_tokens_sum"].to_numpy(float) - decode,
    )


def _weights_of_layers(get: dict[str, np.ndarray], experts: np.ndarray) -> np.ndarray:
    """Weights of all layers with so many routed experts each, all ranks."""
    hidden, moe = get["hidden_size"], get["num_moe_layers"]
    attention = (
        get["num_layers"] * hidden * (2 * hidden + 2 * get["num_kv_heads"] * hidden / get["num_heads"])
    )
    sparse = moe * (experts * get["expert_ffn_size"] + get["shared_ffn_size"])
    return attention + 3 * hidden * ((get["num_layers"] - moe) * get["dense_ffn_size"] + sparse)


def _per_us(table: pd.DataFrame, figure: str) -> np.ndarray:
    """A figure of each row's accelerator, which is per second, per us."""
    names = table["hardware"]
    return names.map(
        {name: getattr(catalog.hardware(name), figure) / 1e6 for name in names.unique()}
    ).to_numpy(float)
