"""The operations of a decoder in plain PyTorch: what a machine without CUDA runs, by the same algorithms as
ops_triton.

Shapes: T tokens, H hidden, D head width; caches (pages, KV heads, PAGE_TOKENS, D). Every operation writes in
place or into `out`.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from measure.batch import Batch
from measure.plan import PAGE_TOKENS
from measure.shard import Shard

SPLIT_TOKENS = 32  # keys that one partial attention reads
NORM_EPSILON = 1e-5


def add_norm(hidden: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> None:
    """residual += hidden; hidden = RMS norm of the residual times weight. Both (T, H), weight (H,)."""
    residual += hidden
    wide = residual.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + NORM_EPSILON)
    hidden.copy_((wide * scale * weight.float()).to(hidden.dtype))


def rotate_and_store(
    qkv: torch.Tensor,
    batch: Batch,
    angles: torch.Tensor,
    cache: tuple[torch.Tensor, torch.Tensor],
    shard: Shard,
) -> None:
    """Rotary embedding of queries and keys, in place; keys and values into their slots of the cache.

    qkv (T, shard.qkv). angles (max_context, 2, D / 2): cosines and sines. Tokens with slot -1 are not stored.
    """
    heads, keys, width = shard.heads, shard.kv_heads, shard.head_dim
    rows = qkv.view(len(qkv), heads + 2 * keys, width)
    cos, sin = angles[batch.positions.long()][:, :, None].unbind(1)
    both = rows[:, : heads + keys].float()
    low, high = both[..., : width // 2], both[..., width // 2 :]
    rows[:, : heads + keys] = torch.cat([low * cos - high * sin, high * cos + low * sin], -1).to(qkv.dtype)
    stored = batch.slots >= 0
    slots = batch.slots[stored].long()
    for target, values in zip(cache, (rows[:, heads : heads + keys], rows[:, heads + keys :]), strict=True):
        target[slots // PAGE_TOKENS, :, slots % PAGE_TOKENS] = values[stored]


def decode_attention(
    qkv: torch.Tensor, batch: Batch, cache: tuple[torch.Tensor, torch.Tensor], out: torch.Tensor, shard: Shard
) -> None:
    """Attention of the decoding requests, rows 0 to padded_decodes of qkv and out (T, heads * D); padding
    gives 0.

    Each request's keys are split; every part has its own softmax, and the parts are joined by their
    log-sum-exp.
    """
    for row, length in enumerate(batch.lens.tolist()):
        if not length:
            out[row] = 0
            continue
        keys, values = (_gather(side, batch.tables[row], length) for side in cache)
        query = (
            qkv[row, : shard.heads * shard.head_dim].view(shard.kv_heads, -1, shard.head_dim).float()
            * shard.head_dim**-0.5
        )
        parts, sums = [], []
        for start in range(0, length, SPLIT_TOKENS):
            scores = query @ keys[:, start : start + SPLIT_TOKENS].transpose(1, 2)
            sums.append(scores.logsumexp(-1))
            parts.append(torch.exp(scores - sums[-1][..., None]) @ values[:, start : start + SPLIT_TOKENS])
        share = torch.softmax(torch.stack(sums), 0)
        out[row] = (torch.stack(parts) * share[..., None]).sum(0).flatten().to(out.dtype)


def prefill_attention(
    qkv: torch.Tensor, batch: Batch, cache: tuple[torch.Tensor, torch.Tensor], out: torch.Tensor, shard: Shard
) -> None:
    """Causal attention of every chunk's tokens over the tokens before it and its own, rows of qkv and out (T,
    heads * D).
    """
    starts = (batch.chunk_new, batch.chunk_before, batch.chunk_first)
    for chunk, (new, before, first) in enumerate(zip(*(values.tolist() for values in starts), strict=True)):
        keys, values = (
            _gather(side, batch.tables[batch.padded_decodes + chunk], before + new) for side in cache
        )
        group = shard.heads // shard.kv_heads
        query = (
            qkv[first : first + new, : shard.heads * shard.head_dim]
            .view(new, shard.heads, shard.head_dim)
            .transpose(0, 1)
            .float()
        )
        seen = torch.ones(new, before + new, dtype=torch.bool, device=qkv.device).tril(before)
        keys, values = (side.repeat_interleave(group, 0) for side in (keys, values))
        result = F.scaled_dot_product_attention(query[None], keys[None], values[None], attn_mask=seen)[0]
        out[first : first + new] = result.transpose(0, 1).flatten(1).to(out.dtype)


def _gather(side: torch.Tensor, table: torch.Tensor, length: int) -> torch.Tensor:
    """The first `length` tokens of a request's keys or values, float32 (KV heads, length, D)."""
    pages = side[table[: -(-length // PAGE_TOKENS)].long()]
    return pages.transpose(0, 1).flatten(1, 2)[:, :length].float()


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """SwiGLU's middle: SiLU of the first half of each row times the second, (T, 2F) → (T, F)."""
    gate, up = gate_up.float().chunk(2, -1)
    return (F.silu(gate) * up).to(gate_up.dtype)


def combine(rows: torch.Tensor, place: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> None:
    """Weighted sum of each token's experts: out[t] = sum over j of weights[t, j] * rows[place[t, j]]; place
    (T, k), out (T, H).
    """
    out.copy_((rows[place].float() * weights[..., None]).sum(1).to(out.dtype))
