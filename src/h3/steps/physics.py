"""FLOPs, bytes and communication of one step on one tensor-parallel rank: pure functions of the step table.

>>> from h3.steps import batch, catalog
>>> one_h100 = batch.Deployment(catalog.architecture("llama-2-7b"), 1, "H100")
>>> table = batch.step_table(one_h100, [[(600, 1, 512)]])
>>> weight_bytes(table, decode_tokens(table))           # bytes of weights that a step with those tokens reads
array([1.32141548e+10])
>>> terms_us(table)["weights_us"].round(1).tolist()     # times at the hardware's peak, by physical cause
[3944.5]

Every function takes a frame with the columns of the step table (architecture, setup, composition) and gives
float64 arrays of shape (rows,). Unknown quantities count as the least they can be: null prefill tokens as one
token a request, null KV tokens as none. Multiply-adds count as two FLOPs; activations and KV cache are two
bytes a value.

A row whose period averages several steps holds a prefill in a share of them: quantities that are not linear
in tokens are computed for the steps with and without prefill and averaged by that share.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from h3.steps import cards, catalog

ACTIVATION_BYTES = 2.0
KV_BYTES = 2.0
ATTENTION_TILE_QUERIES = (
    128  # FlashAttention reads the keys once for a tile of so many queries (Dao 2023, arXiv:2307.08691)
)

# Of H100 kernels (vLLM 0.14, aiconfigurator's tables; scripts/fit_kernel_priors.py); others' differ by the
# factors of kernels.py.
GEMM_EFFICIENCY = 0.8  # of peak FLOP/s for 1024 and more tokens
ATTENTION_EFFICIENCY = 0.45  # of peak FLOP/s, causal prefill of 1k-16k tokens
ONE_SHOT_LATENCY_US = 4.5
ONE_SHOT_EFFICIENCY = 0.6  # of NVLink's one-direction bandwidth, messages up to 4 MB
TWO_SHOT_LATENCY_US = 5.5
TWO_SHOT_RANK_US = 0.85  # more for each rank at the two barriers
TWO_SHOT_EFFICIENCY = 0.75
TWO_SHOT_FEW_RANKS = (
    4  # vLLM's custom all-reduce turns to two shots from so many bytes on, for up to so many ranks, and above
)
TWO_SHOT_BYTES = (524_288, 262_144)
LEAST_NVLINK_BYTES_S = catalog.LEAST_NVLINK_BYTES_S  # below, vLLM leaves more than two ranks to NCCL's ring
# Sorting the logits for top-p or top-k (PyTorch's sort, as vLLM 0.15 does): micro-benchmarks of vLLM's pull
# requests 32558 and 40376 say 0.09 ms for 1 x 32k logits, 0.39 for 56 x 32k, 1.1 for 64 x 131k, 2.3 for
# 128 x 131k. Above that the sort falls behind this line, by a third at 512 x 131k.
SAMPLER_LATENCY_US = 100.0
SAMPLER_US_PER_MILLION_LOGITS = 140.0
SAMPLER_BANDWIDTH_BYTES_S = 3.35e12  # of the GPU that those times are taken for, H100; a sort moves memory

_hardware, _per_us, _kernel = cards.figure, cards.per_us, cards.kernel


def _column(table: pd.DataFrame, name: str, unknown: float | np.ndarray = 0.0) -> np.ndarray:
    if name not in table.columns:
        return np.broadcast_to(np.asarray(unknown, float), (len(table),)).copy()
    values = table[name].to_numpy(float)
    return np.where(np.isnan(values), unknown, values)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def requests(table: pd.DataFrame) -> np.ndarray:
    """Requests in the batch."""
    return _column(table, "num_prefill_reqs") + _column(table, "num_decode_reqs")


def prefill_tokens(table: pd.DataFrame) -> np.ndarray:
    """New prompt tokens of the step; at least one for each prefilling request."""
    return np.maximum(_column(table, "prefill_tokens"), _column(table, "num_prefill_reqs"))


def decode_tokens(table: pd.DataFrame) -> np.ndarray:
    """New tokens of decoding requests; one each where the log does not say."""
    return _column(table, "decode_tokens", _column(table, "num_decode_reqs"))


def prefill_share(table: pd.DataFrame) -> np.ndarray:
    """Share of the steps averaged in a row that hold a prefill: 0 or 1 for a single step."""
    return np.minimum(1.0, _column(table, "num_prefill_reqs"))


def mixed_step_tokens(table: pd.DataFrame) -> np.ndarray:
    """Tokens of a step that holds the row's prefill."""
    return decode_tokens(table) + _ratio(prefill_tokens(table), prefill_share(table))


def averaged(table: pd.DataFrame, cost: Callable[[pd.DataFrame, np.ndarray], np.ndarray]) -> np.ndarray:
    """Mean of cost(table, tokens) over the steps with and without prefill of each row."""
    share = prefill_share(table)
    if ((share == 0) | (share == 1)).all():  # single steps: half the work for the same numbers
        return cost(table, np.where(share == 1, mixed_step_tokens(table), decode_tokens(table)))
    return (1 - share) * cost(table, decode_tokens(table)) + share * cost(table, mixed_step_tokens(table))


def expert_coverage(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Expected share of a layer's routed experts that `tokens` tokens visit, 1 - (1 - k/E)^tokens; 1 for
    dense models.

    Counts uniform, independent routing; real routing is a little more concentrated.
    """
    experts, top_k = _column(table, "num_experts"), _column(table, "experts_per_token")
    return np.where(experts > 0, 1 - (1 - _ratio(top_k, experts)) ** tokens, 1.0)


def _attention_weights(table: pd.DataFrame) -> np.ndarray:
    """Weights of one layer's query, key, value and output projections, all ranks."""
    hidden, head_dim = table["hidden_size"].to_numpy(float), table["head_dim"].to_numpy(float)
    heads, kv_heads = table["num_heads"].to_numpy(float), table["num_kv_heads"].to_numpy(float)
    return hidden * head_dim * (2 * heads + 2 * kv_heads)


def _layer_weights(table: pd.DataFrame, experts: np.ndarray) -> np.ndarray:
    """Weights of all decoder layers with so many routed experts each (gated FFN: three matrices), all
    ranks.
    """
    hidden, layers, moe_layers = (
        table[name].to_numpy(float) for name in ("hidden_size", "num_layers", "num_moe_layers")
    )
    dense = (layers - moe_layers) * table["dense_ffn_size"].to_numpy(float)
    sparse = moe_layers * (
        experts * table["expert_ffn_size"].to_numpy(float) + table["shared_ffn_size"].to_numpy(float)
    )
    return layers * _attention_weights(table) + 3 * hidden * (dense + sparse)


def _head_weights(table: pd.DataFrame) -> np.ndarray:
    return table["hidden_size"].to_numpy(float) * table["vocab_size"].to_numpy(float)


def _ranks(table: pd.DataFrame) -> np.ndarray:
    return table["tensor_parallelism"].to_numpy(float)


def weight_bytes(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Bytes of weights that one rank reads in a step of `tokens` tokens: layers (experts visited only) and LM
    head.

    Leaves out norms, biases, router and the embedding rows looked up (below 0.1 % together).
    """
    experts = _column(table, "num_experts") * expert_coverage(table, tokens)
    return (
        _column(table, "bytes_per_parameter", 2.0)
        * (_layer_weights(table, experts) + _head_weights(table))
        / _ranks(table)
    )


def gemm_flops(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """FLOPs of the weight matrices on one rank for `tokens` tokens; LM head for one position a request."""
    active = _layer_weights(table, _column(table, "experts_per_token"))
    return 2 * (active * tokens + _head_weights(table) * requests(table)) / _ranks(table)


def kv_heads_per_rank(table: pd.DataFrame) -> np.ndarray:
    """Key/value heads on a rank; heads are replicated where there are more ranks than heads."""
    return np.maximum(1.0, table["num_kv_heads"].to_numpy(float) / _ranks(table))


def kv_bytes_per_token(table: pd.DataFrame) -> np.ndarray:
    """Bytes of keys and values of one token in all layers on one rank."""
    return (
        2
        * KV_BYTES
        * table["num_layers"].to_numpy(float)
        * kv_heads_per_rank(table)
        * table["head_dim"].to_numpy(float)
    )


def kv_read_bytes(table: pd.DataFrame) -> np.ndarray:
    """Bytes of KV cache that attention reads: all of a decoding request's, a prefill's once a tile of
    queries.

    Counts cached blocks once per request that attends to them, also where requests share them.
    """
    per_tile = _ratio(
        _column(table, "prefill_attended_tokens"), np.full(len(table), float(ATTENTION_TILE_QUERIES))
    )
    prefill = np.maximum(per_tile, _column(table, "prefill_kv_tokens_sum") + prefill_tokens(table))
    return kv_bytes_per_token(table) * (_column(table, "decode_kv_tokens_sum") + prefill)


def attention_flops(table: pd.DataFrame, attended_tokens: np.ndarray) -> np.ndarray:
    """FLOPs of query-key products and of weighting values on one rank for so many query-key pairs in each
    layer.

    Exact for causal attention when the pairs are counted exactly (t new after s old: t*s + t*(t+1)/2); leaves
    out the softmax.
    """
    heads = table["num_heads"].to_numpy(float) / _ranks(table)
    return (
        4 * table["num_layers"].to_numpy(float) * heads * table["head_dim"].to_numpy(float) * attended_tokens
    )


def all_reduces(table: pd.DataFrame) -> np.ndarray:
    """All-reduces of a step: two a layer (after attention and after the FFN) on more than one rank, else
    none.
    """
    return np.where(_ranks(table) > 1, 2 * table["num_layers"].to_numpy(float), 0.0)


def all_reduce_message_bytes(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Bytes that one all-reduce sums over the ranks: the activations of all tokens."""
    return tokens * table["hidden_size"].to_numpy(float) * ACTIVATION_BYTES


def two_shot(table: pd.DataFrame, message_bytes: np.ndarray) -> np.ndarray:
    """Whether an all-reduce scatters and gathers (two shots) instead of reading all from everyone (one): by
    vLLM's custom all-reduce from some size on, by NCCL, which takes its place on PCIe, always.
    """
    ranks = _ranks(table)
    large = message_bytes >= np.where(ranks <= TWO_SHOT_FEW_RANKS, *TWO_SHOT_BYTES)
    return (ranks > 2) & (large | _over_pcie(table))


def _over_pcie(table: pd.DataFrame) -> np.ndarray:
    return _hardware(table, "nvlink_bandwidth_bytes_s") < LEAST_NVLINK_BYTES_S


def all_reduce_wire_bytes(table: pd.DataFrame, message_bytes: np.ndarray) -> np.ndarray:
    """Bytes that pass a rank's link in one all-reduce: p-1 messages in one shot, 2 (p-1)/p of one in two.

    The latter is the least possible: Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002. Over PCIe all p
    ranks' share one host bridge (L40S tables: 15 GB/s for 4 and for 8 ranks together).
    """
    ranks = _ranks(table)
    sharing = np.where(_over_pcie(table), ranks, 1.0)
    return (
        np.where(two_shot(table, message_bytes), 2 * (ranks - 1) / ranks * sharing, ranks - 1) * message_bytes
    )


def weight_us(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Time to read the weights at peak memory bandwidth."""
    return weight_bytes(table, tokens) / _per_us(table, "memory_bandwidth_bytes_s")


def _eight_bit(table: pd.DataFrame) -> np.ndarray:
    return _column(table, "bytes_per_parameter", 2.0) <= 1.0


def _by_width(table: pd.DataFrame, factor: str) -> np.ndarray:
    """A factor of the GPU's kernels, for 16-bit or for 8-bit weights."""
    return np.where(_eight_bit(table), _kernel(table, f"fp8_{factor}"), _kernel(table, factor))


def weight_read_us(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Time to read the weights at the share of peak bandwidth that an H100's kernels reach at theirs."""
    factor = np.where(
        _column(table, "num_experts") > 0, _kernel(table, "experts"), _by_width(table, "weights")
    )
    return weight_us(table, tokens) * factor


def gemm_us(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Time of the weight matrices' FLOPs at peak (16-bit; 8-bit weights at the FP8 peak)."""
    peak = np.where(_eight_bit(table), _per_us(table, "peak_fp8_flops"), _per_us(table, "peak_bf16_flops"))
    return gemm_flops(table, tokens) / peak


def gemm_compute_us(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Time of the weight matrices' FLOPs at the efficiency that the GPU's large GEMMs reach."""
    return gemm_us(table, tokens) / (GEMM_EFFICIENCY * _by_width(table, "gemm_efficiency"))


def kv_us(table: pd.DataFrame) -> np.ndarray:
    """Time to read the KV cache at peak memory bandwidth."""
    return kv_read_bytes(table) / _per_us(table, "memory_bandwidth_bytes_s")


def prefill_attention_us(table: pd.DataFrame) -> np.ndarray:
    """Time of prefill attention's FLOPs at the efficiency that the kernels reach."""
    flops = attention_flops(table, _column(table, "prefill_attended_tokens"))
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
    barriers = TWO_SHOT_RANK_US * _kernel(table, "two_shot_rank") * _ranks(table)
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
    blocks = _column(table, "num_decode_reqs") * kv_heads_per_rank(table)
    return np.where(
        grouped,
        table["num_layers"].to_numpy(float) * blocks / _hardware(table, "streaming_multiprocessors"),
        0.0,
    )


def two_shot_all_reduces(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """All-reduces of a step that go in two shots."""
    message_bytes = all_reduce_message_bytes(table, tokens)
    return np.where(two_shot(table, message_bytes), all_reduces(table), 0.0)


def sampler_us(table: pd.DataFrame) -> np.ndarray:
    """Time to sort the logits of the step's requests where top-p or top-k truncates sampling; every rank
    sorts all.
    """
    logits = requests(table) * table["vocab_size"].to_numpy(float)
    slower = SAMPLER_BANDWIDTH_BYTES_S / _hardware(table, "memory_bandwidth_bytes_s")
    sort_us = SAMPLER_LATENCY_US + SAMPLER_US_PER_MILLION_LOGITS / 1e6 * logits * slower
    return _column(table, "truncated_sampling") * np.where(logits > 0, sort_us, 0.0)


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
    attention = attention_flops(
        table, _column(table, "prefill_attended_tokens") + _column(table, "decode_kv_tokens_sum")
    )
    compute = averaged(table, gemm_us) + attention / _per_us(table, "peak_bf16_flops")
    memory = averaged(table, weight_us) + kv_us(table)
    return np.maximum(compute, memory) + averaged(table, all_reduce_us)


def tokens_per_expert(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Mean tokens that a routed expert computes; 0 for dense models."""
    return tokens * _ratio(_column(table, "experts_per_token"), _column(table, "num_experts"))
