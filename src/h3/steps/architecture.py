"""What a language model is made of, as far as the time of its steps goes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

LEAST_EXPERTS = 2  # of a model that is MoE, as BLIS has it
SIXTEEN_BITS = 2.0  # bytes


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer; field names and units are the step table's architecture columns.

    Bytes are as stored, scales of groups included; `bytes_per_parameter` is that of FFN and experts.
    `head_dim` is the width of a query's head, rotary part included. With latent attention (MLA,
    kv_lora_rank > 0) keys and values come from one vector of kv_lora_rank, and qk_rope_head_dim rotary
    values.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    dense_ffn_size: int
    num_moe_layers: int
    num_experts: int
    experts_per_token: int
    expert_ffn_size: int
    shared_ffn_size: int
    bytes_per_parameter: float
    attention_bytes_per_parameter: float = 2.0
    head_bytes_per_parameter: float = 2.0
    kv_bytes_per_value: float = 2.0
    ffn_matrices: int = 3
    window_tokens: int = 0
    num_window_layers: int = 0
    kv_lora_rank: int = 0
    q_lora_rank: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0

    @property
    def is_moe(self) -> bool:
        """Whether it has experts."""
        return self.num_experts >= LEAST_EXPERTS

    @property
    def quantised(self) -> bool:
        """Whether some weights take less than 16 bits."""
        return min(self.bytes_per_parameter, self.attention_bytes_per_parameter) < SIXTEEN_BITS

    def at(self, bytes_per_parameter: float) -> Architecture:
        """The same with weights of so many bytes; the LM head has two at least, as quantisers leave it."""
        return replace(
            self,
            bytes_per_parameter=bytes_per_parameter,
            attention_bytes_per_parameter=bytes_per_parameter,
            head_bytes_per_parameter=max(SIXTEEN_BITS, bytes_per_parameter),
        )

    def columns(self) -> dict[str, float]:
        """Field name → value, as columns of a step table."""
        return asdict(self)
