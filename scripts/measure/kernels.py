"""Triton kernels of a decoder step; ops_triton launches them. Softmaxes are in base 2, accumulation in
float32.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_norm(hidden, residual, weight, width, epsilon, BLOCK: tl.constexpr):
    """One program a token: residual += hidden; hidden = RMS norm of it times weight."""
    row = tl.program_id(0).to(tl.int64) * width
    cols = tl.arange(0, BLOCK)
    inside = cols < width
    total = tl.load(hidden + row + cols, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(residual + row + cols, mask=inside, other=0.0).to(tl.float32)
    tl.store(residual + row + cols, total.to(residual.dtype.element_ty), mask=inside)
    scale = 1.0 / tl.sqrt(tl.sum(total * total, 0) / width + epsilon)
    gain = tl.load(weight + cols, mask=inside, other=0.0).to(tl.float32)
    tl.store(hidden + row + cols, (total * scale * gain).to(hidden.dtype.element_ty), mask=inside)


@triton.jit
def rotate_and_store(
    qkv,
    positions,
    slots,
    angles,
    keys,
    values,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    PAGE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One program a token and block of heads: rotate queries and keys, store keys and values in the token's
    slot.
    """
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    half = tl.arange(0, HALF)
    position = tl.load(positions + token)
    slot = tl.load(slots + token)
    cos = tl.load(angles + position * 2 * HALF + half)[None, :]
    sin = tl.load(angles + position * 2 * HALF + HALF + half)[None, :]
    rotated = (head < HEADS + KV_HEADS)[:, None]
    inside = (head < HEADS + 2 * KV_HEADS)[:, None]
    at = qkv + token * (HEADS + 2 * KV_HEADS) * 2 * HALF + head[:, None] * 2 * HALF + half[None, :]
    low = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
    new_low = tl.where(rotated, low * cos - high * sin, low).to(qkv.dtype.element_ty)
    new_high = tl.where(rotated, high * cos + low * sin, high).to(qkv.dtype.element_ty)
    tl.store(at, new_low, mask=inside & (head < HEADS)[:, None])
    tl.store(at + HALF, new_high, mask=inside & (head < HEADS)[:, None])
    is_key = (head >= HEADS) & (head < HEADS + KV_HEADS)
    is_value = (head >= HEADS + KV_HEADS) & (head < HEADS + 2 * KV_HEADS)
    if slot >= 0:
        page = (slot // PAGE).to(tl.int64) * KV_HEADS
        key_at = ((page + head - HEADS) * PAGE + slot % PAGE) * 2 * HALF
        value_at = ((page + head - HEADS - KV_HEADS) * PAGE + slot % PAGE) * 2 * HALF
        tl.store(keys + key_at[:, None] + half[None, :], new_low, mask=is_key[:, None])
        tl.store(keys + key_at[:, None] + HALF + half[None, :], new_high, mask=is_key[:, None])
        tl.store(values + value_at[:, None] + half[None, :], new_low, mask=is_value[:, None])
        tl.store(values + value_at[:, None] + HALF + half[None, :], new_high, mask=is_value[:, None])


@triton.jit
def decode_parts(
    qkv,
    keys,
    values,
    tables,
    lens,
    partial,
    sums,
    qkv_stride,
    table_stride,
    scale,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    KEYS: tl.constexpr,
):
    """One program a request, KV head and part of its keys: attention of the head's GROUP queries over that
    part.
    """
    request, kv_head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    kv_heads, parts = tl.num_programs(1), tl.num_programs(2)
    length = tl.load(lens + request)
    each = tl.cdiv(tl.cdiv(length, parts), KEYS) * KEYS
    begin = part * each
    end = tl.minimum(length, begin + each)
    rows, dims, tile = tl.arange(0, ROWS), tl.arange(0, WIDTH), tl.arange(0, KEYS)
    query_at = request.to(tl.int64) * qkv_stride + (kv_head * GROUP + rows)[:, None] * WIDTH + dims[None, :]
    query = tl.load(qkv + query_at, mask=(rows < GROUP)[:, None], other=0.0)
    top = tl.full([ROWS], -1e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, WIDTH], tl.float32)
    for start in range(begin, end, KEYS):
        at = start + tile
        seen = at < end
        page = tl.load(tables + request * table_stride + at // PAGE, mask=seen, other=0).to(tl.int64)
        row = ((page * kv_heads + kv_head) * PAGE + at % PAGE) * WIDTH
        key = tl.load(keys + row[:, None] + dims[None, :], mask=seen[:, None], other=0.0)
        scores = tl.dot(query, tl.trans(key)) * (scale * 1.4426950408889634)
        scores = tl.where(seen[None, :], scores, -1e30)
        higher = tl.maximum(top, tl.max(scores, 1))
        share = tl.exp2(scores - higher[:, None])
        fade = tl.exp2(top - higher)
        value = tl.load(values + row[:, None] + dims[None, :], mask=seen[:, None], other=0.0)
        acc = acc * fade[:, None] + tl.dot(share.to(value.dtype), value)
        total = total * fade + tl.sum(share, 1)
        top = higher
    heads = (request * kv_heads + kv_head) * GROUP + rows
    out = heads.to(tl.int64) * parts + part
    some = tl.where(total > 0, total, 1.0)
    tl.store(
        partial + out[:, None] * WIDTH + dims[None, :], acc / some[:, None], mask=(rows < GROUP)[:, None]
    )
    tl.store(sums + out, tl.where(total > 0, top + tl.log2(some), -1e30), mask=rows < GROUP)


@triton.jit
def join_parts(partial, sums, out, out_stride, PARTS: tl.constexpr, WIDTH: tl.constexpr):
    """One program a request and query head: the parts' results weighted by their softmax sums; 0 where no
    part has a key.
    """
    request, head = tl.program_id(0), tl.program_id(1)
    at = (request * tl.num_programs(1) + head).to(tl.int64) * PARTS + tl.arange(0, PARTS)
    dims = tl.arange(0, WIDTH)
    log_sums = tl.load(sums + at)
    weights = tl.where(log_sums > -1e29, tl.exp2(log_sums - tl.max(log_sums, 0)), 0.0)
    total = tl.sum(weights, 0)
    rows = tl.load(partial + at[:, None] * WIDTH + dims[None, :])
    joined = tl.sum(rows * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(out + request.to(tl.int64) * out_stride + head * WIDTH + dims, joined.to(out.dtype.element_ty))


@triton.jit
def prefill(
    qkv,
    keys,
    values,
    tables,
    chunk_new,
    chunk_before,
    chunk_first,
    out,
    qkv_stride,
    table_stride,
    out_stride,
    scale,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """One program a tile of a chunk's queries and query head: causal attention over the cache
    (FlashAttention-2's loop).
    """
    # The last tiles read most keys: they start first.
    tile, head, chunk = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1), tl.program_id(2)
    new, before, first = (
        tl.load(chunk_new + chunk),
        tl.load(chunk_before + chunk),
        tl.load(chunk_first + chunk),
    )
    rows, dims, cols = tile * QUERIES + tl.arange(0, QUERIES), tl.arange(0, WIDTH), tl.arange(0, KEYS)
    if tile * QUERIES < new:
        token = (first + rows).to(tl.int64)
        inside = (rows < new)[:, None]
        query = tl.load(
            qkv + token[:, None] * qkv_stride + head * WIDTH + dims[None, :], mask=inside, other=0.0
        )
        top = tl.full([QUERIES], -1e30, tl.float32)
        total = tl.zeros([QUERIES], tl.float32)
        acc = tl.zeros([QUERIES, WIDTH], tl.float32)
        end = before + tl.minimum(new, (tile + 1) * QUERIES)
        for start in range(0, end, KEYS):
            at = start + cols
            page = tl.load(tables + chunk * table_stride + at // PAGE, mask=at < end, other=0).to(tl.int64)
            row = ((page * KV_HEADS + head // GROUP) * PAGE + at % PAGE) * WIDTH
            key = tl.load(keys + row[:, None] + dims[None, :], mask=(at < end)[:, None], other=0.0)
            scores = tl.dot(query, tl.trans(key)) * (scale * 1.4426950408889634)
            scores = tl.where(at[None, :] <= (before + rows)[:, None], scores, -1e30)
            higher = tl.maximum(top, tl.max(scores, 1))
            share = tl.exp2(scores - higher[:, None])
            fade = tl.exp2(top - higher)
            value = tl.load(values + row[:, None] + dims[None, :], mask=(at < end)[:, None], other=0.0)
            acc = acc * fade[:, None] + tl.dot(share.to(value.dtype), value)
            total = total * fade + tl.sum(share, 1)
            top = higher
        result = (acc / total[:, None]).to(out.dtype.element_ty)
        tl.store(out + token[:, None] * out_stride + head * WIDTH + dims[None, :], result, mask=inside)


@triton.jit
def silu_mul(gate_up, out, width, BLOCK: tl.constexpr):
    """One program a token and block of columns."""
    row, cols = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < width
    gate = tl.load(gate_up + row * 2 * width + cols, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + cols, mask=inside, other=0.0).to(tl.float32)
    tl.store(
        out + row * width + cols, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=inside
    )


@triton.jit
def combine(rows, place, weights, out, width, TOP_K: tl.constexpr, BLOCK: tl.constexpr):
    """One program a token and block of columns: weighted sum of the rows of the token's experts."""
    token, cols = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < width
    acc = tl.zeros([BLOCK], tl.float32)
    for j in range(TOP_K):
        row = tl.load(place + token * TOP_K + j).to(tl.int64)
        weight = tl.load(weights + token * TOP_K + j).to(tl.float32)
        acc += weight * tl.load(rows + row * width + cols, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * width + cols, acc.to(out.dtype.element_ty), mask=inside)
