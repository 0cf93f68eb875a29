"""One tensor-parallel rank of a decoder with random weights, built so that a step costs what it costs in a
serving engine.

    decoder = Decoder(shard, Setup(torch.device("cuda"), torch.bfloat16), limits)
    decoder.forward(batch)                       # sampled tokens of the batch's requests

Fused QKV, rotary, paged KV cache, split decode attention, causal prefill attention, SwiGLU or experts, final
norm, LM head on the sampled rows, greedy choice. Left out: all-reduce between ranks, biases, QK norms,
sliding windows. All tensors that live across layers have fixed addresses, so that any run of layers can be
captured in a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType

import torch
from torch.nn import functional as F

from measure import ops_torch
from measure.batch import Batch, Limits
from measure.experts import Experts
from measure.plan import PAGE_TOKENS
from measure.shard import Shard

WEIGHT_SIGMA = 0.02  # as published models are initialised
ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class Setup:
    """Where and in what type the decoder lives; kernels: "triton" (CUDA), or "torch" (anywhere)."""

    device: torch.device
    dtype: torch.dtype = torch.bfloat16
    kernels: str = "torch"
    seed: int = 0
    generator: torch.Generator = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "generator", torch.Generator(self.device).manual_seed(self.seed))

    @property
    def ops(self) -> ModuleType:
        """The operations: ops_torch or ops_triton."""
        if self.kernels == "torch":
            return ops_torch
        from measure import ops_triton  # needs triton, which only machines with CUDA have

        return ops_triton

    def random(self, *shape: int, sigma: float = WEIGHT_SIGMA) -> torch.Tensor:
        """Normal random values."""
        return torch.empty(shape, dtype=self.dtype, device=self.device).normal_(
            0, sigma, generator=self.generator
        )


@dataclass(frozen=True)
class Layer:
    """Weights of one layer, (outputs, inputs); gate_up and down are a dense FFN or shared experts, None where
    there are none.
    """

    attention_norm: torch.Tensor
    qkv: torch.Tensor
    out: torch.Tensor
    ffn_norm: torch.Tensor
    gate_up: torch.Tensor | None
    down: torch.Tensor | None
    experts: Experts | None


def random_layer(shard: Shard, setup: Setup, layer: int) -> Layer:
    """One layer; what is added to the residual stream is scaled down with depth, so that tokens stay
    distinct.
    """
    hidden, added = shard.hidden, WEIGHT_SIGMA / (2 * shard.layers) ** 0.5
    routed = shard.has_experts(layer)
    dense = shard.shared_ffn if routed else shard.dense_ffn
    experts = None
    if routed:
        experts = Experts(
            setup.random(shard.experts, hidden),
            setup.random(shard.experts, 2 * shard.expert_ffn, hidden),
            setup.random(shard.experts, hidden, shard.expert_ffn, sigma=added),
            shard.top_k,
        )
    return Layer(
        setup.random(hidden, sigma=0.1) + 1,
        setup.random(shard.qkv, hidden),
        setup.random(hidden, shard.heads * shard.head_dim, sigma=added),
        setup.random(hidden, sigma=0.1) + 1,
        setup.random(2 * dense, hidden) if dense else None,
        setup.random(hidden, dense, sigma=added) if dense else None,
        experts,
    )


class Decoder:
    """The rank: weights, KV cache and working buffers; raises torch's OutOfMemoryError where they do not
    fit.
    """

    def __init__(self, shard: Shard, setup: Setup, limits: Limits) -> None:
        self.shard, self.setup, self.ops = shard, setup, setup.ops
        self.embedding = setup.random(shard.vocab, shard.hidden, sigma=1.0)
        self.layers = [random_layer(shard, setup, layer) for layer in range(shard.layers)]
        self.final_norm = setup.random(shard.hidden, sigma=0.1) + 1
        self.head = setup.random(shard.vocab, shard.hidden)
        pages = (limits.kv_pages, shard.kv_heads, PAGE_TOKENS, shard.head_dim)
        self.cache = [
            (setup.random(*pages, sigma=1.0), setup.random(*pages, sigma=1.0)) for _ in range(shard.layers)
        ]
        self.angles = rotary_angles(limits.max_context, shard.head_dim).to(setup.device)
        widths = {
            "residual": shard.hidden,
            "hidden": shard.hidden,
            "qkv": shard.qkv,
            "attended": shard.heads * shard.head_dim,
        }
        self.buffers = {
            name: torch.zeros((limits.max_tokens, width), dtype=setup.dtype, device=setup.device)
            for name, width in widths.items()
        }

    def view(self, name: str, batch: Batch) -> torch.Tensor:
        """The rows of a working buffer that the batch uses."""
        return self.buffers[name][: batch.padded_tokens]

    def begin(self, batch: Batch) -> None:
        """Embedding, and the first layer up to its attention."""
        torch.index_select(self.embedding, 0, batch.tokens, out=self.view("residual", batch))
        self.view("hidden", batch).zero_()
        self._project(0, batch)

    def _project(self, layer: int, batch: Batch) -> None:
        """Norm, QKV, rotary and the write to the KV cache."""
        weights, hidden, qkv = self.layers[layer], self.view("hidden", batch), self.view("qkv", batch)
        self.ops.add_norm(hidden, self.view("residual", batch), weights.attention_norm)
        torch.mm(hidden, weights.qkv.t(), out=qkv)
        self.ops.rotate_and_store(qkv, batch, self.angles, self.cache[layer], self.shard)

    def attend(self, layer: int, batch: Batch) -> None:
        """Attention of one layer: decoding requests, then chunks."""
        qkv, attended = self.view("qkv", batch), self.view("attended", batch)
        if batch.padded_decodes:
            self.ops.decode_attention(qkv, batch, self.cache[layer], attended, self.shard)
        if batch.chunks:
            self.ops.prefill_attention(qkv, batch, self.cache[layer], attended, self.shard)

    def proceed(self, layer: int, batch: Batch) -> None:
        """From one layer's attention up to the next one's, or to the final norm."""
        weights, hidden, residual = (
            self.layers[layer],
            self.view("hidden", batch),
            self.view("residual", batch),
        )
        torch.mm(self.view("attended", batch), weights.out.t(), out=hidden)
        self.ops.add_norm(hidden, residual, weights.ffn_norm)
        self._ffn(weights, hidden)
        if layer + 1 < len(self.layers):
            self._project(layer + 1, batch)
        else:
            self.ops.add_norm(hidden, residual, self.final_norm)

    def _ffn(self, weights: Layer, hidden: torch.Tensor) -> None:
        """Dense FFN, or routed and shared experts; in place."""
        if weights.experts is None:
            torch.mm(self.ops.silu_mul(F.linear(hidden, weights.gate_up)), weights.down.t(), out=hidden)
            return
        shared = None
        if weights.gate_up is not None:
            shared = F.linear(self.ops.silu_mul(F.linear(hidden, weights.gate_up)), weights.down)
        weights.experts(hidden, hidden, self.ops)
        if shared is not None:
            hidden += shared

    def logits(self, batch: Batch) -> torch.Tensor:
        """Logits of the sampled rows, (requests, vocabulary of the rank)."""
        return F.linear(self.buffers["hidden"].index_select(0, batch.sampled), self.head)

    def body(self, batch: Batch) -> None:
        """Embedding to final norm."""
        self.begin(batch)
        for layer in range(len(self.layers)):
            self.attend(layer, batch)
            self.proceed(layer, batch)

    def forward(self, batch: Batch) -> torch.Tensor:
        """One whole step: the most likely next token of each request, int64 (requests,)."""
        self.body(batch)
        return self.logits(batch).argmax(-1)


def rotary_angles(positions: int, head_dim: int) -> torch.Tensor:
    """Cosines and sines, float32 (positions, 2, head_dim / 2) (Su et al. 2021, arXiv:2104.09864)."""
    frequencies = ROTARY_BASE ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * frequencies
    return torch.stack([angles.cos(), angles.sin()], 1).float()
