"""A step at the data sheet's peak, and what a step does per us of it: physics without a fitted number.

>>> from h3.steps import batch, catalog
>>> pair = batch.Deployment(catalog.architecture("llama-2-70b"), 4, "H100")
>>> table = batch.step_table(pair, [[(600, 1, 512)] * 64])
>>> roofline_us(parts_us(table)).round().tolist()
[11756.0]

Unlike physics.roofline_us the all-reduces here cost the bytes that none can do without, at the link's peak:
no latency and no efficiency, which were measured on kernels. What such a roofline leaves out (launches, small
kernels, bandwidth not reached, waiting) goes with counts per us of it and with which roof is near, and that
is what the features say; none is a size of its own, so they mean the same for any model.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from h3.steps import physics
from h3.steps.cards import per_us

NAME = "peak_ratios"
LOGIT_BYTES = 4.0  # vLLM samples from 32-bit logits

# name, group, unit, formula, rising. Work that the roofline leaves out, or counts at a peak that is not
# reached, can only slow a step down against it; so the ratio of the two rises with all of it. Shares of the
# steps or tokens that are prefill are left out: over a window they mean something else than in one step.
FEATURES = (
    ("kv_share", "memory", "ratio", "kv_us / roofline_us", True),
    ("attention_waves_per_us", "memory", "1/us", "attention_waves / roofline_us", True),
    ("roof_overlap", "compute", "ratio", "lower / higher of the times of bytes and of FLOPs", True),
    ("all_reduce_share", "communication", "ratio", "all_reduce_us / roofline_us", True),
    ("all_reduces_per_us", "communication", "1/us", "all_reduces / roofline_us", True),
    ("layers_per_us", "overhead", "1/us", "num_layers / roofline_us", True),
    ("requests_per_us", "overhead", "1/us", "requests / roofline_us", True),
    ("logits_share", "overhead", "ratio", "requests * vocab_size * 4 bytes at peak / roofline_us", True),
    ("prefill_attention_share", "prefill", "ratio", "prefill attention's FLOPs at peak / roofline_us", True),
    ("moe_layers_per_us", "experts", "1/us", "num_moe_layers / roofline_us", True),
    ("expert_coverage", "experts", "ratio", "1 - (1 - experts_per_token / num_experts)^tokens", False),
    ("tokens_per_expert", "experts", "tokens", "tokens * experts_per_token / num_experts", False),
)


def parts_us(table: pd.DataFrame) -> pd.DataFrame:
    """Times at the hardware's peak, us, float64 of shape (rows, 5): weights_us, kv_us, gemm_us, attention_us,
    all_reduce_us.
    """
    return pd.DataFrame(
        {
            "weights_us": physics.averaged(table, physics.weight_us),
            "kv_us": physics.kv_us(table),
            "gemm_us": physics.averaged(table, physics.gemm_us),
            "attention_us": _at_peak_us(table, physics.step_attention_flops(table)),
            "all_reduce_us": physics.averaged(table, all_reduce_us),
        }
    )


def _at_peak_us(table: pd.DataFrame, flops: np.ndarray) -> np.ndarray:
    return flops / per_us(table, "peak_bf16_flops")


def all_reduce_us(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Time of the step's all-reduces at the link's peak: each moves 2 (p-1)/p of its message, the least
    possible (Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002).
    """
    ranks = table["tensor_parallelism"].to_numpy(float)
    moved = 2 * (ranks - 1) / ranks * physics.all_reduce_message_bytes(table, tokens)
    return physics.all_reduces(table) * moved / per_us(table, "nvlink_bandwidth_bytes_s")


def roofline_us(parts: pd.DataFrame) -> np.ndarray:
    """Roofline time, us, (rows,): the higher of bytes and FLOPs, plus all-reduce, from `parts_us` (Williams
    2009, doi:10.1145/1498765.1498785).
    """
    memory, compute = _roofs(parts)
    return np.maximum(memory, compute) + parts["all_reduce_us"].to_numpy()


def _roofs(parts: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    values = {name: parts[name].to_numpy() for name in parts}
    return values["weights_us"] + values["kv_us"], values["gemm_us"] + values["attention_us"]


def compute(table: pd.DataFrame, _: pd.DataFrame | None = None) -> dict[str, np.ndarray]:
    """Feature name → values of shape (rows,); no statistic of any row enters."""
    parts = parts_us(table)
    roofline, (memory, compute) = roofline_us(parts), _roofs(parts)
    prefill_flops = physics.attention_flops(table, physics.prefill_pairs(table))
    requests, vocab = physics.requests(table), table["vocab_size"].to_numpy(float)
    logits_us = requests * vocab * LOGIT_BYTES / per_us(table, "memory_bandwidth_bytes_s")
    layers, moe_layers = (table[name].to_numpy(float) for name in ("num_layers", "num_moe_layers"))
    against_roofline = {
        "kv_share": parts["kv_us"].to_numpy(),
        "all_reduce_share": parts["all_reduce_us"].to_numpy(),
        "layers_per_us": layers,
        "moe_layers_per_us": moe_layers,
        "all_reduces_per_us": physics.all_reduces(table),
        "requests_per_us": requests,
        "attention_waves_per_us": physics.attention_waves(table),
        "logits_share": logits_us,
        "prefill_attention_share": _at_peak_us(table, prefill_flops),
    }
    return {name: values / roofline for name, values in against_roofline.items()} | {
        "roof_overlap": np.minimum(memory, compute) / np.maximum(memory, compute),
        "expert_coverage": physics.averaged(table, physics.expert_coverage),
        "tokens_per_expert": physics.averaged(table, physics.tokens_per_expert),
    }
