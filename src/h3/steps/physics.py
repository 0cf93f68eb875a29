"""Times of one step on one tensor-parallel rank, by physical cause: pure functions of the step table.

>>> from h3.steps import batch, catalog
>>> one_h100 = batch.Deployment(catalog.architecture("llama-2-7b"), 1, "H100")
>>> table = batch.step_table(one_h100, [[(600, 1, 512)]])
>>> weight_bytes(table, decode_tokens(table))           # bytes of weights that a step with those tokens reads
array([1.32141548e+10])
>>> terms_us(table)["weights_us"].round(1).tolist()     # times at the hardware's peak, by physical cause
[3944.5]

Every function takes a frame with the columns of the step table (architecture, setup, composition) and gives
float64 arrays of shape (rows,). What a step holds is in composition.py, bytes and FLOPs are counted in
counts.py and all_reduce.py; here they become times, and the terms of the base.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from h3.steps.all_reduce import (
    ACTIVATION_BYTES,
    LEAST_NVLINK_BYTES_S,
    TWO_SHOT_BYTES,
    TWO_SHOT_FEW_RANKS,
    all_reduce_message_bytes,
    all_reduce_wire_bytes,
    all_reduces,
    two_shot,
    two_shot_all_reduces,
)
from h3.steps.cards import figure as _hardware
from h3.steps.cards import kernel as _kernel
from h3.steps.cards import per_us as _per_us
from h3.steps.composition import (
    averaged,
    column,
    decode_tokens,
    mixed_step_tokens,
    prefill_share,
    prefill_tokens,
    requests,
)
from h3.steps.counts import (
    ATTENTION_TILE_QUERIES,
    KV_BYTES,
    attention_flops,
    expert_coverage,
    gemm_flops,
    gemm_flops_by_part,
    kv_bytes_per_token,
    kv_heads_per_rank,
    kv_read_bytes,
    prefill_pairs,
    ranks,
    step_attention_flops,
    stored_bytes,
    tokens_per_expert,
    weight_bytes,
)

__all__ = [
    "ACTIVATION_BYTES",
    "ATTENTION_EFFICIENCY",
    "ATTENTION_TILE_QUERIES",
    "GEMM_EFFICIENCY",
    "KV_BYTES",
    "LEAST_NVLINK_BYTES_S",
    "ONE_SHOT_EFFICIENCY",
    "ONE_SHOT_LATENCY_US",
    "SAMPLER_BANDWIDTH_BYTES_S",
    "SAMPLER_LATENCY_US",
    "SAMPLER_US_PER_MILLION_LOGITS",
    "TERMS",
    "TWO_SHOT_BYTES",
    "TWO_SHOT_EFFICIENCY",
    "TWO_SHOT_FEW_RANKS",
    "TWO_SHOT_LATENCY_US",
    "TWO_SHOT_RANK_US",
    "all_reduce_message_bytes",
    "all_reduce_us",
    "all_reduce_wire_bytes",
    "all_reduces",
    "attention_flops",
    "attention_waves",
    "averaged",
    "column",
    "compute_excess_us",
    "decode_tokens",
    "excess_us",
    "expert_coverage",
    "gemm_compute_us",
    "gemm_flops",
    "gemm_flops_by_part",
    "gemm_us",
    "kv_bytes_per_token",
    "kv_heads_per_rank",
    "kv_read_bytes",
    "kv_us",
    "mixed_step_tokens",
    "prefill_attention_us",
    "prefill_pairs",
    "prefill_share",
    "prefill_tokens",
    "ranks",
    "requests",
    "roofline_us",
    "sampler_us",
    "step_attention_flops",
    "stored_bytes",
    "terms_us",
    "tokens_per_expert",
    "two_shot",
    "two_shot_all_reduces",
    "weight_bytes",
    "weight_read_us",
    "weight_us",
]

LEAST_FP8_BYTES = 0.9  # a weight of fewer bytes has 4 bits
# Of H100 kernels (vLLM 0.14, aiconfigurator's tables; scripts/fit_kernel_priors.py); others' differ by the
# factors of kernels.py.
GEMM_EFFICIENCY = 0.8  # of peak FLOP/s for 1024 and more tokens
ATTENTION_EFFICIENCY = 0.45  # of peak FLOP/s, causal prefill of 1k-16k tokens
ONE_SHOT_LATENCY_US = 4.5
ONE_SHOT_EFFICIENCY = 0.6  # of NVLink's one-direction bandwidth, messages up to 4 MB
TWO_SHOT_LATENCY_US = 5.5
TWO_SHOT_RANK_US = 0.85  # more for each rank at the two barriers
TWO_SHOT_EFFICIENCY = 0.75
# Sorting the logits for top-p or top-k (PyTorch's sort, as vLLM 0.15 does): micro-benchmarks of vLLM's pull
# requests 32558 and 40376 say 0.09 ms for 1 x 32k logits, 0.39 for 56 x 32k, 1.1 for 64 x 131k, 2.3 for
# 128 x 131k. Above that the sort falls behind this line, by a third at 512 x 131k.
SAMPLER_LATENCY_US = 100.0
SAMPLER_US_PER_MILLION_LOGITS = 140.0
SAMPLER_BANDWIDTH_BYTES_S = 3.35e12  # of the GPU that those times are taken for, H100; a sort moves memory


def weight_us(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Time to read the weights at peak memory bandwidth."""
    return weight_bytes(table, tokens) / _per_us(table, "memory_bandwidth_bytes_s")


def gemm_us(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Time of the weight matrices' FLOPs at peak: 8-bit weights at the FP8 peak, others (4 bits too, which
    kernels widen before they multiply) at the 16-bit peak.
    """
    attention, ffn, head = gemm_flops_by_part(table, tokens)
    wide, narrow = _per_us(table, "peak_bf16_flops"), _per_us(table, "peak_fp8_flops")

    def peak(stored: np.ndarray) -> np.ndarray:
        return np.where(_eight_bit(stored), narrow, wide)

    return (
        attention / peak(stored_bytes(table, "attention"))
        + ffn / peak(column(table, "bytes_per_parameter", 2.0))
        + head / peak(stored_bytes(table, "head"))
    )


def _eight_bit(stored_bytes: np.ndarray) -> np.ndarray:
    return (stored_bytes <= 1.0) & (stored_bytes >= LEAST_FP8_BYTES)


def kv_us(table: pd.DataFrame) -> np.ndarray:
    """Time to read the KV cache at peak memory bandwidth."""
    return kv_read_bytes(table) / _per_us(table, "memory_bandwidth_bytes_s")


def _by_width(table: pd.DataFrame, factor: str) -> np.ndarray:
    """A factor of the GPU's kernels: for 8-bit weights, or for others."""
    eight_bit = _eight_bit(column(table, "bytes_per_parameter", 2.0))
    return np.where(eight_bit, _kernel(table, f"fp8_{factor}"), _kernel(table, factor))


def weight_read_us(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Time to read the weights at the share of peak bandwidth that an H100's kernels reach at theirs."""
    experts, dense = _kernel(table, "experts"), _by_width(table, "weights")
    return weight_us(table, tokens) * np.where(column(table, "num_experts") > 0, experts, dense)


def gemm_compute_us(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Time of the weight matrices' FLOPs at the efficiency that the GPU's large GEMMs reach."""
    return gemm_us(table, tokens) / (GEMM_EFFICIENCY * _by_width(table, "gemm_efficiency"))


def prefill_attention_us(table: pd.DataFrame) -> np.ndarray:
    """Time of prefill attention's FLOPs at the efficiency that the kernels reach."""
    flops = attention_flops(table, prefill_pairs(table))
    efficiency = ATTENTION_EFFICIENCY * _kernel(table, "attention_efficiency")
    return flops / (_per_us(table, "peak_bf16_flops") * efficiency)


def excess_us(memory_us: np.ndarray, compute_us: np.ndarray, bend: np.ndarray | float) -> np.ndarray:
    """Time of a GEMM beyond reading its weights: a hyperbola around max(0, compute - memory), which it is (to
    the bit) for bend 0. Tiles and waves that are not full round the roofline's corner off.
    """
    beyond = compute_us - memory_us
    return 0.5 * (beyond + np.sqrt(beyond * beyond + bend * (compute_us * memory_us)))


def compute_excess_us(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """GEMM time beyond the time to read the weights, at the efficiency that large GEMMs reach: 0 while
    memory-bound on an H100, nearly so on others (excess_us).
    """
    memory, compute = weight_read_us(table, tokens), gemm_compute_us(table, tokens)
    return excess_us(memory, compute, _by_width(table, "gemm_bend"))


def all_reduce_us(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Time of the step's all-reduces: latency and bytes at the bandwidth that the algorithm used for their
    size reaches.
    """
    message_bytes = all_reduce_message_bytes(table, tokens)
    two, per_us = two_shot(table, message_bytes), _per_us(table, "nvlink_bandwidth_bytes_s")
    barriers = TWO_SHOT_RANK_US * _kernel(table, "two_shot_rank") * ranks(table)
    latency = np.where(
        two,
        TWO_SHOT_LATENCY_US * _kernel(table, "two_shot_latency") + barriers,
        ONE_SHOT_LATENCY_US * _kernel(table, "one_shot_latency"),
    )
    bandwidth = per_us * np.where(
        two,
        TWO_SHOT_EFFICIENCY * _kernel(table, "two_shot_efficiency"),
        ONE_SHOT_EFFICIENCY * _kernel(table, "one_shot_efficiency"),
    )
    return all_reduces(table) * (latency + all_reduce_wire_bytes(table, message_bytes) / bandwidth)


def attention_waves(table: pd.DataFrame) -> np.ndarray:
    """Waves of decode attention over all layers: one thread block a request and KV head, as many at once as
    there are SMs.

    Counted for grouped heads only: with a KV head for every query head the waves hide behind the bytes that
    they read (H100 decode-attention kernels: grouped heads cost 2.5-4 us a wave beyond their bytes, full
    heads nothing).
    """
    grouped = table["num_kv_heads"].to_numpy() < table["num_heads"].to_numpy()
    blocks = column(table, "num_decode_reqs") * kv_heads_per_rank(table)
    return np.where(
        grouped,
        table["num_layers"].to_numpy(float) * blocks / _hardware(table, "streaming_multiprocessors"),
        0.0,
    )


def sampler_us(table: pd.DataFrame) -> np.ndarray:
    """Time to sort the logits of the step's requests where top-p or top-k truncates sampling; every rank
    sorts all.
    """
    logits = requests(table) * table["vocab_size"].to_numpy(float)
    slower = SAMPLER_BANDWIDTH_BYTES_S / _hardware(table, "memory_bandwidth_bytes_s")
    sort_us = SAMPLER_LATENCY_US + SAMPLER_US_PER_MILLION_LOGITS / 1e6 * logits * slower
    return column(table, "truncated_sampling") * np.where(logits > 0, sort_us, 0.0)


TERMS = (
    "weights_us",
    "kv_us",
    "compute_excess_us",
    "prefill_attention_us",
    "all_reduce_us",
    "attention_waves",
    "layers",
    "moe_layers",
    "requests",
    "step",
    "two_shots",
    "sampler_us",
)


def terms_us(table: pd.DataFrame) -> pd.DataFrame:
    """The base's terms, float64 of shape (rows, len(TERMS)): times in us (at peak but for all-reduce and
    sampler) and counts; where another GPU's kernels do worse or better than an H100's, scaled (kernels.py).
    """
    return pd.DataFrame(
        {
            "weights_us": averaged(table, weight_read_us),
            "kv_us": kv_us(table) * _kernel(table, "kv"),
            "compute_excess_us": averaged(table, compute_excess_us),
            "prefill_attention_us": prefill_attention_us(table),
            "all_reduce_us": averaged(table, all_reduce_us),
            "attention_waves": attention_waves(table) * _kernel(table, "attention_waves"),
            "layers": table["num_layers"].to_numpy(float) * _by_width(table, "layers"),
            "moe_layers": table["num_moe_layers"].to_numpy(float) * _kernel(table, "moe_layers"),
            "requests": requests(table),
            "step": np.ones(len(table)),
            "two_shots": averaged(table, two_shot_all_reduces),
            "sampler_us": sampler_us(table),
        },
        columns=list(TERMS),
    )


def roofline_us(table: pd.DataFrame) -> np.ndarray:
    """Roofline time of a step: the larger of FLOPs and bytes at peak, plus all-reduce (Williams 2009,
    doi:10.1145/1498765.1498785).
    """
    compute = averaged(table, gemm_us) + step_attention_flops(table) / _per_us(table, "peak_bf16_flops")
    memory = averaged(table, weight_us) + kv_us(table)
    return np.maximum(compute, memory) + averaged(table, all_reduce_us)
