"""One step as the device sees it: tokens, positions, pages of KV cache and lengths, in buffers whose
addresses never change.

    limits = Limits(max_tokens=2304, max_requests=256, max_context=32768, kv_pages=30_000)
    buffers = Buffers(limits, device, vocab=32000)
    batch = buffers.load(step, padded_tokens=64)      # the step's pages are drawn at random from the cache
    buffers.refresh(batch)                            # new random tokens, everything else as it is

Decoding requests come first, one token each, then the chunks of prefilling requests, then padding (slot -1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from measure.plan import PAGE_TOKENS, Step

NO_SLOT = -1


@dataclass(frozen=True)
class Limits:
    """Sizes of the buffers: tokens of a step (padded), requests, tokens of a context, pages of KV cache."""

    max_tokens: int
    max_requests: int
    max_context: int
    kv_pages: int


@dataclass(frozen=True)
class Batch:
    """Views of the buffers for one step; all integers on the host are those that a launch needs.

    tokens int64, positions int32, slots int32: (padded_tokens,).
    lens int32 (padded_decodes,): tokens that a decoding request attends to, 0 for padding.
    tables int32 (requests, pages): pages of each request, decoding ones first.
    chunk_new, chunk_before, chunk_first int32 (chunks,): new tokens, tokens before, row of the first.
    sampled int64 (requests,): rows whose logits are wanted.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    lens: torch.Tensor
    tables: torch.Tensor
    chunk_new: torch.Tensor
    chunk_before: torch.Tensor
    chunk_first: torch.Tensor
    sampled: torch.Tensor
    chunks: int
    longest_chunk: int
    num_tokens: int

    @property
    def padded_tokens(self) -> int:
        return len(self.tokens)

    @property
    def padded_decodes(self) -> int:
        return len(self.lens)


class Buffers:
    """The buffers of all steps of one model."""

    def __init__(self, limits: Limits, device: torch.device, vocab: int, seed: int = 0) -> None:
        self.limits, self.device, self.vocab = limits, device, vocab
        self.rng = np.random.default_rng(seed)
        pages = -(-limits.max_context // PAGE_TOKENS)
        self.tokens = torch.zeros(limits.max_tokens, dtype=torch.int64, device=device)
        self.positions, self.slots = (
            torch.zeros(limits.max_tokens, dtype=torch.int32, device=device) for _ in range(2)
        )
        self.lens, self.chunk_new, self.chunk_before, self.chunk_first = (
            torch.zeros(limits.max_requests, dtype=torch.int32, device=device) for _ in range(4)
        )
        self.tables = torch.zeros((limits.max_requests, pages), dtype=torch.int32, device=device)
        self.sampled = torch.zeros(limits.max_requests, dtype=torch.int64, device=device)

    def misfit(self, step: Step) -> str | None:
        """Why the step does not fit into the buffers; None where it does."""
        for name, found, limit in (
            ("KV pages", step.pages, self.limits.kv_pages),
            ("tokens", step.tokens, self.limits.max_tokens),
            ("requests", len(step.contexts), self.limits.max_requests),
            ("context", max(step.contexts), self.limits.max_context),
        ):
            if found > limit:
                return f"too little memory: {found} {name}, room for {limit}"
        return None

    def load(self, step: Step, padded_tokens: int, padded_decodes: int | None = None) -> Batch:
        """Fill the buffers with a step that fits; padded_decodes: as many as decode where it is not given."""
        contexts, decodes = np.array(step.contexts), len(step.decodes)
        padded_decodes = decodes if padded_decodes is None else padded_decodes
        tables = self._tables(step, max(padded_decodes, len(contexts)))
        new = np.array([1] * decodes + [tokens for tokens, _ in step.chunks])
        first = np.concatenate([[0], np.cumsum(new)])
        owner = np.repeat(np.arange(len(contexts)), new)
        positions = np.arange(first[-1]) - first[owner] + (contexts - new)[owner]
        slots = tables[owner, positions // PAGE_TOKENS] * PAGE_TOKENS + positions % PAGE_TOKENS
        padding = padded_tokens - len(positions)
        self._put(self.positions, np.pad(positions, (0, padding)))
        self._put(self.slots, np.pad(slots, (0, padding), constant_values=NO_SLOT))
        self._put(self.lens, np.pad(contexts[:decodes], (0, padded_decodes - decodes)))
        self._put(self.chunk_new, new[decodes:])
        self._put(self.chunk_before, (contexts - new)[decodes:])
        self._put(self.chunk_first, first[decodes:-1])
        self._put(self.sampled, first[1:] - 1)
        self.tables[: len(tables), : tables.shape[1]].copy_(torch.from_numpy(tables))
        return self._views(step, padded_tokens, padded_decodes, len(tables))

    def _tables(self, step: Step, rows: int) -> np.ndarray:
        """Pages of each request, int32 (rows, most pages), drawn at random; rows beyond the requests stay on
        page 0.

        No page is there twice but those of a shared prefix, at the start of each request that has it.
        """
        counts = [-(-context // PAGE_TOKENS) for context in step.contexts]
        tables = np.zeros((rows, max(counts)), np.int32)
        free, at = self.rng.permutation(self.limits.kv_pages), 0
        shared: dict[tuple[int, int], np.ndarray] = {}
        for request, count in enumerate(counts):
            prefix = step.prefixes[request] if step.prefixes else (-1, 0)
            if prefix not in shared:
                shared[prefix], at = free[at : at + prefix[1]], at + prefix[1]
            own = count - prefix[1]
            tables[request, :count] = np.concatenate([shared[prefix], free[at : at + own]])
            at += own
        return tables

    def _put(self, buffer: torch.Tensor, values: np.ndarray) -> None:
        buffer[: len(values)].copy_(torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)))

    def _views(self, step: Step, padded_tokens: int, padded_decodes: int, rows: int) -> Batch:
        chunks = len(step.chunks)
        batch = Batch(
            self.tokens[:padded_tokens],
            self.positions[:padded_tokens],
            self.slots[:padded_tokens],
            self.lens[:padded_decodes],
            self.tables[:rows],
            self.chunk_new[:chunks],
            self.chunk_before[:chunks],
            self.chunk_first[:chunks],
            self.sampled[: len(step.contexts)],
            chunks,
            max((new for new, _ in step.chunks), default=0),
            step.tokens,
        )
        self.refresh(batch)
        return batch

    def refresh(self, batch: Batch) -> None:
        """New random tokens."""
        batch.tokens.random_(0, self.vocab)
