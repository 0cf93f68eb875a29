"""What a step costs in the simulated source: kernel curves with their bends, launch floors, host time and
noise.

>>> from h3.steps import catalog
>>> model = CostModel(catalog.architecture("llama-2-7b"), tensor_parallelism=1)
>>> batch = StepBatch()
>>> batch.num_decode_reqs, batch.decode_kv_tokens_sum, batch.decode_kv_tokens_max = 32, 32 * 600, 600
>>> mean_us = model.mean_period_us(batch)       # no randomness
>>> round(mean_us)
9390
>>> noise = Noise(np.random.default_rng(7))
>>> noise.period_us(mean_us) > 0
True

This is not the base of h3's own models, and shares no code with it. Where the base is a linear combination of
physical terms, a step here is a sum of kernels: GEMMs quantised into tiles and waves that cross from memory
to compute bound, batches padded to the sizes of captured CUDA graphs, attention with a launch floor and
uneven contexts, experts read only when touched, an all-reduce curve of its own. Kernel constants follow the
H100 kernel latencies of aiconfigurator (vLLM 0.14.0, shared data `kernels/`); host constants were set so that
the median period at equal batch size meets the request logs of llama-2-7b, codellama-34b and llama-2-70b
(docs/simulated_vs_measured.png).
"""

from __future__ import annotations

from bisect import bisect_left
from math import ceil

import numpy as np

from h3.server.requests import StepBatch
from h3.steps.catalog import Architecture

VERSION = "2"

# Memory: streaming rate of large reads, and what a kernel costs that reads nothing (fits of gemm.parquet,
# bfloat16).
STREAM_BYTES_US = 3.13e6
GEMM_FLOOR_US = 3.5
# A tile of 128 x 128 outputs on one of 132 SMs: 90 % of an SM's dense bfloat16 peak.
TILE, SMS, SM_FLOPS_US = 128, 132, 0.90 * 989.5e6 / 132
# Memory and compute overlap but for a soft corner; 6 leaves 12 % at the crossover, as measured.
CORNER = 6.0
# Decode attention: floor, then us a wave of (request, KV head) pairs, then KV bytes
# (decode_attention.parquet). With one KV head a query head, waves hide behind the bytes, at a lower rate
# (decode_attention_mha_7b.csv).
ATTENTION_FLOOR_US, ATTENTION_LAUNCH_US, ATTENTION_WAVE_US = 11.3, 9.5, 3.95
GQA_BYTES_US, MHA_BYTES_US = 3.25e6, 3.0e6
# Prefill attention: floor and rate over causal query-key pairs (prefill_attention.parquet, 1024-4096 tokens).
PREFILL_FLOOR_US, PREFILL_FLOPS_US = 13.0, 450e6
# Fused experts: floor, streaming and compute rates, both below a GEMM's, and a softer corner: tokens of an
# expert fill its tiles badly (moe.parquet, 8 experts, top 2, two ranks).
MOE_FLOOR_US, MOE_BYTES_US, MOE_FLOPS_US, MOE_CORNER = 22.0, 2.7e6, 700e6, 2.0
# The busiest rank waits for the expert with most tokens: measured "power_law" over "balanced" at 512-2048
# tokens.
MOE_IMBALANCE = 1.10
# All-reduce in CUDA graphs, us by message bytes (all_reduce.parquet, whose sizes count two-byte elements);
# eager adds the launch, at small messages only.
ALL_REDUCE_BYTES = (
    16384,
    131072,
    262144,
    524288,
    1048576,
    2097152,
    4194304,
    8388608,
    16777216,
    33554432,
    67108864,
)
ALL_REDUCE_US = {
    2: (4.4, 4.8, 5.1, 6.3, 8.4, 12.5, 20.3, 50.0, 78.5, 138.2, 246.8),
    4: (4.9, 5.8, 7.1, 11.4, 12.8, 18.6, 30.5, 63.3, 101.1, 173.4, 321.9),
    8: (5.2, 7.7, 14.7, 15.6, 17.3, 20.9, 34.5, 77.3, 121.8, 211.2, 361.5),
}
EAGER_ALL_REDUCE_US = 20.0
# Norms, rotary, KV write, activation: seven small kernels a layer; inside a graph most of their launch is
# hidden. What they read and write, in passes over the residual stream.
SMALL_KERNELS, SMALL_KERNEL_US, SMALL_KERNEL_PASSES = 7, 0.85, 2
# A batch with prefill runs piecewise graphs: attention is launched from the host, layer by layer (vLLM
# traces: mixed steps of 70 B parameters take 0.3-0.5 ms more than decode steps).
PIECEWISE_LAYER_US = 5.0
# vLLM's sizes of captured CUDA graphs; above them a batch runs eagerly, unpadded.
GRAPH_SIZES = (1, 2, 4, *range(8, 257, 8), *range(272, 513, 16))
# The output projection sees one row a request, not one a prompt token: at most vLLM's batch limit in the
# study.
HEAD_ROWS = 128
# Host and sampler time that asynchronous scheduling does not hide: a step, a request. Set together with
# SMALL_KERNEL_US and UNEVEN_RATIO on the request logs of the three dense models.
SAMPLER_FLOOR_US, HOST_STEP_US = 60.0, 350.0
SAMPLER_REQ_US, HOST_REQ_US = 0.5, 1.5
# Contexts of unequal length leave SMs idle while the longest is read; small differences hide (reasoning
# logs). Many KV heads make enough work to fill the gaps: nothing where every query head has its own.
UNEVEN_RATIO = 3.5
# Spread of exact (gap 1) decode periods at equal batch size in the traces; now and then a step stalls.
JITTER_LOG_SIGMA, STALL_PROBABILITY, STALL_MEAN_US = 0.015, 0.004, 6000.0
NOISE_BLOCK = 8192
# The scheduler's own CPU time (`step.duration_us` of the traces): us a step, a request, a prefill. Above
# about 2 tokens a ms the API server competes for the CPU, and it grows from 0.3 ms to 5 ms.
SCHEDULE_STEP_US, SCHEDULE_REQ_US, SCHEDULE_PREFILL_US, SCHEDULE_LOG_SIGMA = 25.0, 6.5, 100.0, 0.25
CONTENTION_TOKENS_MS, CONTENTION_US, CONTENTION_LOG_SIGMA = 2.0, 1900.0, 0.35


def gemm_us(tokens: int, outputs: int, inputs: int, bytes_per_parameter: float) -> float:
    """One GEMM of (tokens, inputs) by (inputs, outputs), us: the larger of streaming and tile waves, corner
    rounded.

    Half of the last, partly filled wave is hidden (persistent kernels); split-K variants are left out.
    """
    tiles = ceil(tokens / TILE) * ceil(outputs / TILE) / SMS
    waves = (ceil(tiles) + tiles) / 2
    compute_us = waves * 2 * TILE * TILE * inputs / SM_FLOPS_US
    stream_us = (outputs * inputs * bytes_per_parameter + 2 * tokens * (outputs + inputs)) / STREAM_BYTES_US
    return GEMM_FLOOR_US + (compute_us**CORNER + stream_us**CORNER) ** (1 / CORNER)


def experts_us(tokens: int, arch: Architecture, tensor_parallelism: int) -> float:
    """The routed experts of one layer on one rank, us: each expert that some token visits is read once.

    Uniform routing touches E(1 - (1 - k/E)^tokens) experts; the most loaded one sets the compute
    (MOE_IMBALANCE).
    """
    weights = 3 * arch.hidden_size * arch.expert_ffn_size / tensor_parallelism
    touched = arch.num_experts * (1 - (1 - arch.experts_per_token / arch.num_experts) ** tokens)
    stream_us = touched * weights * arch.bytes_per_parameter / MOE_BYTES_US
    compute_us = MOE_IMBALANCE * 2 * tokens * arch.experts_per_token * weights / MOE_FLOPS_US
    return MOE_FLOOR_US + (compute_us**MOE_CORNER + stream_us**MOE_CORNER) ** (1 / MOE_CORNER)


def all_reduce_us(message_bytes: float, tensor_parallelism: int, graph: bool) -> float:
    """One all-reduce over the ranks, us; 0 for one rank, degrees between the measured 2, 4 and 8 take the
    next.
    """
    if tensor_parallelism == 1:
        return 0.0
    degree = next(
        (measured for measured in ALL_REDUCE_US if measured >= tensor_parallelism), max(ALL_REDUCE_US)
    )
    time_us = float(np.interp(message_bytes, ALL_REDUCE_BYTES, ALL_REDUCE_US[degree]))
    time_us *= max(1.0, message_bytes / ALL_REDUCE_BYTES[-1])
    return time_us if graph else max(time_us, EAGER_ALL_REDUCE_US)


def padded_tokens(tokens: int) -> int:
    """Tokens that the GPU computes: the next captured graph size, or the tokens themselves above the
    largest.
    """
    return GRAPH_SIZES[bisect_left(GRAPH_SIZES, tokens)] if tokens <= GRAPH_SIZES[-1] else tokens


class CostModel:
    """Mean step periods of one model on H100 GPUs at one tensor-parallel degree.

    Everything that depends on the number of tokens alone is computed once per padded number and kept.
    """

    def __init__(self, arch: Architecture, tensor_parallelism: int) -> None:
        self.arch, self.tensor_parallelism = arch, tensor_parallelism
        self.heads = arch.num_heads // tensor_parallelism
        self.kv_heads = max(1, arch.num_kv_heads // tensor_parallelism)
        self.kv_bytes = 2 * self.kv_heads * arch.head_dim * 2
        grouped = self.kv_heads < self.heads
        self.kv_bytes_us = GQA_BYTES_US if grouped else MHA_BYTES_US
        self.wave_us, self.uneven_ratio = (ATTENTION_WAVE_US, UNEVEN_RATIO) if grouped else (0.0, 0.0)
        self.dense_us: dict[int, float] = {}

    def mean_period_us(self, batch: StepBatch) -> float:
        """Expected period of a step, us: a pure function of the batch's composition (at least one
        request).
        """
        decodes, tokens = batch.num_decode_reqs, batch.num_decode_reqs + batch.prefill_tokens
        dense_us = self.dense_us.get(tokens)
        if dense_us is None:
            dense_us = self.dense_us[tokens] = self.token_time_us(tokens)
        layer_us = self.decode_attention_us(batch) if decodes else 0.0
        if batch.num_prefill_reqs:
            layer_us += self.prefill_attention_us(batch) + PIECEWISE_LAYER_US
        requests = decodes + batch.num_prefill_reqs
        return dense_us + self.arch.num_layers * layer_us + (HOST_REQ_US + SAMPLER_REQ_US) * requests

    def decode_attention_us(self, batch: StepBatch) -> float:
        """One layer's attention of the decoding requests, us; the launch covers the CUDA graph's padded
        batch.
        """
        decodes, tokens = batch.num_decode_reqs, batch.decode_kv_tokens_sum
        launch_us = ATTENTION_LAUNCH_US + self.wave_us * padded_tokens(decodes) * self.kv_heads / SMS
        uneven = 1 + self.uneven_ratio * (batch.decode_kv_tokens_max * decodes / tokens - 1) ** 2
        return max(ATTENTION_FLOOR_US, launch_us) + uneven * tokens * self.kv_bytes / self.kv_bytes_us

    def prefill_attention_us(self, batch: StepBatch) -> float:
        """One layer's attention of the prefill chunks, us: causal pairs, and the KV read once for each
        chunk.
        """
        flops = 4 * self.heads * self.arch.head_dim * batch.prefill_attended_tokens
        return (
            PREFILL_FLOOR_US
            + flops / PREFILL_FLOPS_US
            + batch.prefill_kv_tokens_sum * self.kv_bytes / self.kv_bytes_us
        )

    def token_time_us(self, tokens: int) -> float:
        """What depends on the number of tokens alone, us: GEMMs, experts, all-reduce, small kernels, host
        time a step.
        """
        arch, graph = self.arch, tokens <= GRAPH_SIZES[-1]
        padded = padded_tokens(tokens)
        message = 2.0 * padded * arch.hidden_size
        attention_us = self._projections_us(padded) + all_reduce_us(message, self.tensor_parallelism, graph)
        small_us = SMALL_KERNELS * SMALL_KERNEL_US + SMALL_KERNEL_PASSES * message / STREAM_BYTES_US
        ffn_us = all_reduce_us(message, self.tensor_parallelism, graph) * arch.num_layers + self._ffn_us(
            padded
        )
        head_us = gemm_us(
            min(padded, HEAD_ROWS),
            arch.vocab_size // self.tensor_parallelism,
            arch.hidden_size,
            arch.bytes_per_parameter,
        )
        return (
            arch.num_layers * (attention_us + small_us) + ffn_us + head_us + SAMPLER_FLOOR_US + HOST_STEP_US
        )

    def _projections_us(self, tokens: int) -> float:
        arch, width = self.arch, self.arch.head_dim
        qkv_us = gemm_us(
            tokens, (self.heads + 2 * self.kv_heads) * width, arch.hidden_size, arch.bytes_per_parameter
        )
        return qkv_us + gemm_us(tokens, arch.hidden_size, self.heads * width, arch.bytes_per_parameter)

    def _ffn_us(self, tokens: int) -> float:
        """The FFNs of all layers: dense ones, and routed and shared experts where the layer has them."""
        arch, tp = self.arch, self.tensor_parallelism
        total_us = 0.0
        for layers, width in (
            (arch.num_layers - arch.num_moe_layers, arch.dense_ffn_size),
            (arch.num_moe_layers, arch.shared_ffn_size),
        ):
            if layers and width:
                up_us = gemm_us(tokens, 2 * width // tp, arch.hidden_size, arch.bytes_per_parameter)
                total_us += layers * (
                    up_us + gemm_us(tokens, arch.hidden_size, width // tp, arch.bytes_per_parameter)
                )
        return total_us + (arch.num_moe_layers * experts_us(tokens, arch, tp) if arch.num_moe_layers else 0.0)


class Noise:
    """Jitter (log-normal, mean 1) and rare stalls, drawn in blocks: the i-th step gets the same noise for the
    same seed.
    """

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        self.factors: list[float] = []
        self.stalls_us: list[float] = []

    def period_us(self, mean_us: float) -> float:
        """One noisy period around a mean, us."""
        if not self.factors:
            draws = self.generator.standard_normal(NOISE_BLOCK)
            self.factors = np.exp(JITTER_LOG_SIGMA * draws - JITTER_LOG_SIGMA**2 / 2).tolist()
            stalled = self.generator.random(NOISE_BLOCK) < STALL_PROBABILITY
            self.stalls_us = (stalled * self.generator.exponential(STALL_MEAN_US, NOISE_BLOCK)).tolist()
        return mean_us * self.factors.pop() + self.stalls_us.pop()


def schedule_us(steps: dict[str, np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """CPU time of the scheduler in each of n steps, us, shape (n,); it tells little about the step's period.

    steps: columns num_decode_reqs, num_prefill_reqs and period_us of shape (n,).
    """
    decodes, prefills = steps["num_decode_reqs"], steps["num_prefill_reqs"]
    own_us = SCHEDULE_STEP_US + SCHEDULE_REQ_US * decodes + SCHEDULE_PREFILL_US * prefills
    tokens_ms = 1e3 * decodes / steps["period_us"]
    contention_us = CONTENTION_US * np.maximum(0.0, tokens_ms - CONTENTION_TOKENS_MS)
    own_noise, contention_noise = generator.standard_normal((2, len(decodes)))
    return own_us * np.exp(SCHEDULE_LOG_SIGMA * own_noise) + contention_us * np.exp(
        CONTENTION_LOG_SIGMA * contention_noise
    )
