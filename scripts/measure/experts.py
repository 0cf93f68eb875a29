"""Top-k experts: routing, and each expert's matrices times the tokens that visit it as grouped matrix
products.

    experts = Experts.random(shard, setup)
    experts(hidden, out, ops)                # (T, H) → out (T, H)
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class Experts:
    """Weights of one layer: router (E, H), gate_up (E, 2F, H), down (E, H, F); top_k experts a token."""

    router: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    top_k: int

    def route(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights float32 and experts int64, both (T, k): softmax over all experts, the k largest scaled to
        sum 1.
        """
        weights, chosen = torch.topk(
            torch.softmax(F.linear(hidden, self.router).float(), -1), self.top_k, sorted=False
        )
        return weights / weights.sum(-1, keepdim=True), chosen

    def __call__(self, hidden: torch.Tensor, out: torch.Tensor, ops: ModuleType) -> None:
        """The weighted sum of each token's experts; no size depends on the routing, so that a CUDA graph can
        hold it.
        """
        weights, chosen = self.route(hidden)
        sorted_experts, order = chosen.flatten().sort()
        ends = torch.searchsorted(
            sorted_experts, torch.arange(len(self.router), device=hidden.device), right=True, out_int32=True
        )
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=hidden.device)
        middle = ops.silu_mul(grouped(hidden[order // self.top_k], self.gate_up, ends))
        ops.combine(grouped(middle, self.down, ends), place.view(-1, self.top_k), weights, out)


def grouped(rows: torch.Tensor, matrices: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """rows (R, K) in groups that end at `ends` (E,), each times its own of matrices (E, N, K), transposed:
    (R, N).

    PyTorch's grouped product takes BF16 only; other types go one group after the other.
    """
    if rows.dtype == torch.bfloat16:
        # Public since PyTorch 2.10.
        product = getattr(F, "grouped_mm", None) or torch._grouped_mm
        return product(rows, matrices.transpose(1, 2), offs=ends)
    bounds = [0, *ends.tolist()]
    parts = [
        F.linear(rows[begin:end], matrix)
        for begin, end, matrix in zip(bounds, bounds[1:], matrices, strict=False)
    ]
    return torch.cat(parts)
