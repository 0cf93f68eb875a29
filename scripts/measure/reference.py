"""A decoder step in float32, as naively as it can be written: what the fast one is checked against.

    weights = copied(decoder)                           # before the step runs
    expected = logits(weights, step, batch)

One request after the other, one head after the other, one token after the other; no batching, no fusion, no
paging.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass, replace

import torch

from measure.batch import Batch
from measure.decoder import ROTARY_BASE, Decoder, Layer
from measure.ops_torch import NORM_EPSILON
from measure.plan import PAGE_TOKENS, Step
from measure.shard import Shard

Cache = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Weights:
    """A decoder's weights and KV cache, copied: float32, on the CPU."""

    shard: Shard
    embedding: torch.Tensor
    layers: list[Layer]
    final_norm: torch.Tensor
    head: torch.Tensor
    cache: Cache


def copied(decoder: Decoder) -> Weights:
    """All that a step depends on, as it is now."""
    return Weights(
        decoder.shard,
        _wide(decoder.embedding),
        [_wide(layer) for layer in decoder.layers],
        _wide(decoder.final_norm),
        _wide(decoder.head),
        [(_wide(keys), _wide(values)) for keys, values in decoder.cache],
    )


def _wide(value: object) -> object:
    """A tensor, or all tensors of a dataclass, as float32 copies on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.to("cpu", torch.float32, copy=True)
    if is_dataclass(value):
        return replace(value, **{entry.name: _wide(getattr(value, entry.name)) for entry in fields(value)})
    return value


def logits(decoder: Weights, step: Step, batch: Batch) -> torch.Tensor:
    """Logits of each request's last token, float32 (requests, vocabulary)."""
    rows, first, cache = [], 0, decoder.cache
    new = [1] * len(step.decodes) + [tokens for tokens, _ in step.chunks]
    for request, tokens in enumerate(new):
        table_row = (
            request if request < len(step.decodes) else request - len(step.decodes) + batch.padded_decodes
        )
        before = step.contexts[request] - tokens
        past = [
            tuple(_past(side, batch.tables[table_row].tolist(), before) for side in layer) for layer in cache
        ]
        rows.append(_request(decoder, batch.tokens[first : first + tokens].tolist(), before, past))
        first += tokens
    return torch.stack(rows)


def _past(side: torch.Tensor, table: list[int], tokens: int) -> list[torch.Tensor]:
    """A request's keys or values token by token, each (KV heads, D)."""
    return [side[table[at // PAGE_TOKENS], :, at % PAGE_TOKENS] for at in range(tokens)]


def _request(decoder: Weights, tokens: list[int], before: int, past: list) -> torch.Tensor:
    """Logits of the last of a request's new tokens."""
    past = [(list(keys), list(values)) for keys, values in past]
    hidden = torch.empty(0)
    for number, token in enumerate(tokens):
        hidden = decoder.embedding[token]
        for layer, (keys, values) in zip(decoder.layers, past, strict=True):
            hidden = hidden + _attention(
                decoder, layer, _norm(hidden, layer.attention_norm), before + number, (keys, values)
            )
            hidden = hidden + _ffn(layer, _norm(hidden, layer.ffn_norm))
    return decoder.head @ _norm(hidden, decoder.final_norm)


def _norm(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return hidden / math.sqrt(float((hidden * hidden).mean()) + NORM_EPSILON) * weight


def _attention(
    decoder: Weights, layer: Layer, hidden: torch.Tensor, position: int, cache: tuple[list, list]
) -> torch.Tensor:
    """Attention of one token over all before it and itself, which is appended to the cache."""
    shard, (keys, values) = decoder.shard, cache
    heads = (layer.qkv @ hidden).view(-1, shard.head_dim)
    keys.append(
        torch.stack([_rotate(head, position) for head in heads[shard.heads : shard.heads + shard.kv_heads]])
    )
    values.append(heads[shard.heads + shard.kv_heads :])
    results = []
    for head in range(shard.heads):
        kv_head = head // (shard.heads // shard.kv_heads)
        query = _rotate(heads[head], position)
        scores = torch.stack([query @ key[kv_head] for key in keys]) / math.sqrt(shard.head_dim)
        weights = torch.exp(scores - scores.max())
        results.append(
            sum(
                weight * value[kv_head] for weight, value in zip(weights / weights.sum(), values, strict=True)
            )
        )
    return layer.out @ torch.cat(results)


def _rotate(head: torch.Tensor, position: int) -> torch.Tensor:
    """Rotary embedding pair by pair: dimension i turns with dimension i + D/2."""
    half, turned = len(head) // 2, head.clone()
    for i in range(half):
        angle = position * ROTARY_BASE ** (-2 * i / len(head))
        turned[i] = head[i] * math.cos(angle) - head[i + half] * math.sin(angle)
        turned[i + half] = head[i + half] * math.cos(angle) + head[i] * math.sin(angle)
    return turned


def _ffn(layer: Layer, hidden: torch.Tensor) -> torch.Tensor:
    total = torch.zeros_like(hidden)
    if layer.gate_up is not None:
        total = total + _swiglu(layer.gate_up, layer.down, hidden)
    if layer.experts is None:
        return total
    scores = torch.exp(layer.experts.router @ hidden)
    best = scores.argsort(descending=True)[: layer.experts.top_k].tolist()
    for expert in best:
        share = scores[expert] / sum(scores[other] for other in best)
        total = total + share * _swiglu(layer.experts.gate_up[expert], layer.experts.down[expert], hidden)
    return total


def _swiglu(gate_up: torch.Tensor, down: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    gate, up = (gate_up @ hidden).chunk(2)
    return down @ (gate * torch.sigmoid(gate) * up)
