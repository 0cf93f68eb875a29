"""What one tensor-parallel rank holds of a decoder: its heads, widths and bytes. Refuses what the collector
cannot build.

    shard = of(catalog.architecture("llama-2-70b"), 4, "llama-2-70b")
    shard.heads, shard.weight_bytes, shard.kv_token_bytes
"""

from __future__ import annotations

from dataclasses import dataclass

from h3.common.errors import InputError
from h3.steps import catalog
from h3.steps.catalog import Architecture

VALUE_BYTES = 2  # weights and KV cache are BF16
ALIGNMENT = 8  # values: grouped matrix products want rows of whole 16-byte words


@dataclass(frozen=True)
class Shard:
    """One rank's part of a decoder; layers are dense first, then with experts. Sizes are those of the
    rank.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    dense_ffn: int
    moe_layers: int
    experts: int
    top_k: int
    expert_ffn: int
    shared_ffn: int

    @property
    def qkv(self) -> int:
        """Outputs of the fused query, key and value projection."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    def layer_values(self, layer: int, experts: float) -> float:
        """Values of one layer's matrices, so many of its experts counted."""
        attention = self.hidden * (self.qkv + self.heads * self.head_dim)
        if not self.has_experts(layer):
            return attention + 3 * self.hidden * self.dense_ffn
        return (
            attention
            + self.experts * self.hidden
            + 3 * self.hidden * (experts * self.expert_ffn + self.shared_ffn)
        )

    def has_experts(self, layer: int) -> bool:
        """Whether the layer's FFN is a mixture of experts."""
        return layer >= self.layers - self.moe_layers

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights of the rank: layers, LM head and embedding (norms left out)."""
        values = sum(self.layer_values(layer, self.experts) for layer in range(self.layers))
        return VALUE_BYTES * int(values + 2 * self.vocab * self.hidden)

    @property
    def single_token_bytes(self) -> int:
        """Bytes of the weights that a step of one token reads: layers with the experts that it visits, and LM
        head.
        """
        values = sum(self.layer_values(layer, self.top_k) for layer in range(self.layers))
        return VALUE_BYTES * int(values + self.vocab * self.hidden)

    @property
    def kv_token_bytes(self) -> int:
        """Bytes of KV cache of one token in all layers."""
        return VALUE_BYTES * 2 * self.layers * self.kv_heads * self.head_dim


def of(arch: Architecture, tensor_parallelism: int, where: str) -> Shard:
    """One of `tensor_parallelism` equal ranks; raises InputError that names what the collector cannot build.

    KV heads are replicated where there are fewer than ranks, as vLLM does; the vocabulary is padded to whole
    ranks.
    """
    tp = tensor_parallelism
    catalog.check_tensor_parallelism(arch, tp, where)
    if arch.bytes_per_parameter != VALUE_BYTES:
        raise InputError(
            f"{where}: weights of {arch.bytes_per_parameter} bytes; the collector builds 16-bit weights only"
        )
    if arch.head_dim & (arch.head_dim - 1) or not 16 <= arch.head_dim <= 256:
        raise InputError(
            f"{where}: head_dim={arch.head_dim}; the collector's attention needs a power of two from 16"
            " to 256"
        )
    kv_heads = max(1, arch.num_kv_heads // tp)
    if (arch.num_kv_heads > tp and arch.num_kv_heads % tp) or (arch.num_heads // tp) % kv_heads:
        raise InputError(
            f"{where}: {arch.num_heads} query and {arch.num_kv_heads} key/value heads do not divide over {tp}"
            " ranks"
        )
    sizes = {name: getattr(arch, name) for name in ("dense_ffn_size", "expert_ffn_size", "shared_ffn_size")}
    for name, size in sizes.items():
        if size % (tp * ALIGNMENT):
            raise InputError(f"{where}: {name}={size} is no multiple of {ALIGNMENT} on each of {tp} ranks")
    return Shard(
        name=where,
        layers=arch.num_layers,
        hidden=arch.hidden_size,
        heads=arch.num_heads // tp,
        kv_heads=kv_heads,
        head_dim=arch.head_dim,
        vocab=-(-arch.vocab_size // tp),
        dense_ffn=sizes["dense_ffn_size"] // tp,
        moe_layers=arch.num_moe_layers,
        experts=arch.num_experts,
        top_k=arch.experts_per_token,
        expert_ffn=sizes["expert_ffn_size"] // tp,
        shared_ffn=sizes["shared_ffn_size"] // tp,
    )
