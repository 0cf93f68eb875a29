"""What the coefficients of BLIS's trained-physics backend multiply, computed from a step table as BLIS counts
it.

    blis_terms(table)                  # float64 of shape (steps, 11), in the order of BETA

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
    ranks, layers, hidden = get["tensor_parallelism"], get["num_layers"], get["hidden_size"]
    head_dim = hidden / get["num_heads"]
    kv_width = get["num_kv_heads"] * head_dim
    new, decode = table["prefill_tokens"].to_numpy(float), table["decode_tokens"].to_numpy(float)
    context = table["decode_kv_tokens_sum"].to_numpy(float) - decode
    pairs = new * (table["prefill_before"].to_numpy(float) + new + new / 2)
    peak = np.where(
        get["bytes_per_parameter"] <= 1, _per_us(table, "peak_fp8_flops"), _per_us(table, "peak_bf16_flops")
    )
    bandwidth, moe = _per_us(table, "memory_bandwidth_bytes_s"), get["num_moe_layers"]
    gemm = 2 * _weights_of_layers(get, get["experts_per_token"]) / ranks
    per_pair = layers * 4 * (get["num_heads"] / ranks) * head_dim
    kv_bytes = layers * 2 * (kv_width / ranks) * 2
    zero, one = np.zeros(len(table)), np.ones(len(table))
    return pd.DataFrame(
        dict(
            zip(
                BETA,
                (
                    (gemm * new + per_pair * pairs) / peak,
                    (gemm * decode + per_pair * context) / peak,
                    get["bytes_per_parameter"]
                    * _weights_of_layers(get, get["num_experts"])
                    / ranks
                    / bandwidth,
                    2 * layers * (new + decode) * hidden * 2 * 2 * (ranks - 1) / ranks / bandwidth,
                    layers,
                    physics.requests(table),
                    one,
                    np.where(moe < layers, moe, 0.0),
                    kv_bytes * new / bandwidth,
                    kv_bytes * (context + decode) / bandwidth,
                    zero,
                ),
                strict=True,
            )
        )
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
