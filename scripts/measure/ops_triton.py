"""The operations of a decoder as Triton kernels, with the contracts of ops_torch; also runs in Triton's
interpreter.

Small operations are fused as a serving engine fuses them (norm with residual, rotary with the write to the
cache), so that a step has about as many kernels as vLLM's.
"""

from __future__ import annotations

import torch
import triton

from measure import kernels
from measure.batch import Batch
from measure.ops_torch import NORM_EPSILON
from measure.plan import PAGE_TOKENS
from measure.shard import Shard

DECODE_TOKENS = 64  # keys a tile of decode attention
PREFILL_TOKENS = 64  # keys a tile of prefill attention
PROGRAMS = (
    264  # two a streaming multiprocessor of an H100: what decode attention is split into at small batches
)
MOST_SPLITS = 64


def add_norm(hidden: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> None:
    """As ops_torch.add_norm."""
    width = hidden.shape[1]
    kernels.add_norm[(len(hidden),)](
        hidden, residual, weight, width, NORM_EPSILON, BLOCK=triton.next_power_of_2(width), num_warps=8
    )


def rotate_and_store(
    qkv: torch.Tensor,
    batch: Batch,
    angles: torch.Tensor,
    cache: tuple[torch.Tensor, torch.Tensor],
    shard: Shard,
) -> None:
    """As ops_torch.rotate_and_store."""
    rows = shard.heads + 2 * shard.kv_heads
    block = min(16, triton.next_power_of_2(rows))
    kernels.rotate_and_store[(len(qkv), triton.cdiv(rows, block))](
        qkv,
        batch.positions,
        batch.slots,
        angles,
        *cache,
        HEADS=shard.heads,
        KV_HEADS=shard.kv_heads,
        HALF=shard.head_dim // 2,
        PAGE=PAGE_TOKENS,
        ROWS=block,
    )


def splits(requests: int, kv_heads: int) -> int:
    """Parts that each request's keys are split into: enough programs to fill the device, one where requests
    fill it alone.
    """
    return min(MOST_SPLITS, triton.next_power_of_2(triton.cdiv(PROGRAMS, requests * kv_heads)))


def decode_attention(
    qkv: torch.Tensor, batch: Batch, cache: tuple[torch.Tensor, torch.Tensor], out: torch.Tensor, shard: Shard
) -> None:
    """As ops_torch.decode_attention; the number of parts depends on the batch size alone, so that a CUDA
    graph can hold it.
    """
    requests, group, parts = (
        batch.padded_decodes,
        shard.heads // shard.kv_heads,
        splits(batch.padded_decodes, shard.kv_heads),
    )
    partial = torch.empty(
        (requests, shard.heads, parts, shard.head_dim), dtype=torch.float32, device=qkv.device
    )
    sums = torch.empty((requests, shard.heads, parts), dtype=torch.float32, device=qkv.device)
    kernels.decode_parts[(requests, shard.kv_heads, parts)](
        qkv,
        *cache,
        batch.tables,
        batch.lens,
        partial,
        sums,
        qkv.stride(0),
        batch.tables.stride(0),
        shard.head_dim**-0.5,
        GROUP=group,
        ROWS=max(16, triton.next_power_of_2(group)),
        WIDTH=shard.head_dim,
        PAGE=PAGE_TOKENS,
        KEYS=DECODE_TOKENS,
        num_warps=4,
        num_stages=3,
    )
    kernels.join_parts[(requests, shard.heads)](
        partial, sums, out, out.stride(0), PARTS=parts, WIDTH=shard.head_dim, num_warps=2
    )


def prefill_attention(
    qkv: torch.Tensor, batch: Batch, cache: tuple[torch.Tensor, torch.Tensor], out: torch.Tensor, shard: Shard
) -> None:
    """As ops_torch.prefill_attention; all chunks in one launch."""
    queries = 16 if batch.longest_chunk <= 16 else 64 if batch.longest_chunk <= 128 else 128
    grid = (triton.cdiv(batch.longest_chunk, queries), shard.heads, batch.chunks)
    kernels.prefill[grid](
        qkv,
        *cache,
        batch.tables[batch.padded_decodes :],
        batch.chunk_new,
        batch.chunk_before,
        batch.chunk_first,
        out,
        qkv.stride(0),
        batch.tables.stride(0),
        out.stride(0),
        shard.head_dim**-0.5,
        GROUP=shard.heads // shard.kv_heads,
        KV_HEADS=shard.kv_heads,
        WIDTH=shard.head_dim,
        PAGE=PAGE_TOKENS,
        QUERIES=queries,
        KEYS=PREFILL_TOKENS,
        num_warps=8 if queries == 128 else 4,
        num_stages=3,
    )


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """As ops_torch.silu_mul."""
    tokens, width = len(gate_up), gate_up.shape[1] // 2
    out = torch.empty((tokens, width), dtype=gate_up.dtype, device=gate_up.device)
    kernels.silu_mul[(tokens, triton.cdiv(width, 1024))](gate_up, out, width, BLOCK=1024)
    return out


def combine(rows: torch.Tensor, place: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> None:
    """As ops_torch.combine."""
    tokens, width = out.shape
    grid = (tokens, triton.cdiv(width, 1024))
    kernels.combine[grid](rows, place, weights, out, width, TOP_K=place.shape[1], BLOCK=1024)
