"""The scheduler of h3: requests in, steps and request times out, with any function as the time of a step.

>>> limits = Limits(kv_blocks=31356)
>>> requests = Requests(arrival_us=[0, 500], prompt_tokens=[600, 80], output_tokens=[20, 5])
>>> run = simulate(requests, limits, lambda batch: 10_000 + 50 * batch.num_decode_reqs)
>>> run.finish_us - run.arrival_us              # end-to-end latency, us
array([201150.,  59950.])
>>> run.steps["decode_kv_tokens_sum"][:4]       # one entry a recorded step
array([  0, 601, 683, 685])

The rules are those of vLLM v1: continuous batching, first come first served, running requests before waiting
ones, chunked prefill within the token budget, KV blocks with prefix caching, preemption of the latest by
recomputation.

Work per step is proportional to what changes. While a request decodes, its context at step k is `k + offset`
with a constant offset, so the batch's KV tokens are `n * k + sum(offsets)`, the step at which a request
finishes is known when its prefill ends, and the blocks that step k opens are the requests whose phase is `k
mod block size`. All running requests but the last decode: admission follows arrival, and only the last
admitted can have a prompt left to compute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from math import inf

import numpy as np

from h3.common.errors import InputError
from h3.server.requests import STEP_COLUMNS, Limits, Requests, Run, StepBatch


def simulate(
    requests: Requests,
    limits: Limits,
    step_time: Callable[[StepBatch], float],
    record: Iterable[int] | None = None,
    horizon_us: float = inf,
) -> Run:
    """Run the requests to their end, or to the first step that would start at `horizon_us` or later.

    step_time gives the period of a step in us. record: increasing numbers of the steps to keep, e.g.
    `itertools.count(3, 10)`; None keeps all. A request longer than the whole KV cache is rejected.
    Raises InputError that names the batch for a step time that is not finite and positive.
    """
    server = _Server(requests, limits)
    server.run(step_time, iter(count() if record is None else record), horizon_us)
    rows = zip(*server.rows, strict=True) if server.rows else [()] * len(STEP_COLUMNS)
    steps = {
        name: np.array(values, float if name.endswith("_us") else np.int64)
        for name, values in zip(STEP_COLUMNS, rows, strict=True)
    }
    return Run(
        requests.arrival_us,
        np.array(server.scheduled_us),
        np.array(server.first_token_us),
        np.array(server.finish_us),
        np.array(server.preemptions, np.int64),
        np.array(server.rejected, bool),
        steps,
        server.step,
        server.clock_us,
    )


@dataclass(slots=True)
class _Prefill:
    """A request whose prompt (or, after preemption, prompt and output so far) is not yet computed."""

    request: int
    total_tokens: int
    computed_tokens: int


@dataclass
class _Server:
    """The state of the server; requests are known by their index in the arrays given."""

    requests: Requests
    limits: Limits
    clock_us: float = 0.0
    step: int = 0
    decoding: dict[int, int] = field(default_factory=dict)  # request -> offset, by arrival
    partial: _Prefill | None = None
    preempted: list[int] = field(default_factory=list)  # earliest last

    def __post_init__(self) -> None:
        n = len(self.requests.arrival_us)
        self.prompt = [int(tokens) for tokens in self.requests.prompt_tokens]
        self.output = [max(int(tokens), 1) for tokens in self.requests.output_tokens]
        self.done = [0] * n
        self.preemptions = [0] * n
        self.scheduled_us, self.first_token_us, self.finish_us = ([np.nan] * n for _ in range(3))
        self.free = self.limits.kv_blocks
        self.rejected = [
            self._blocks(p + o - 1) > self.free for p, o in zip(self.prompt, self.output, strict=True)
        ]
        by_arrival = np.argsort(self.requests.arrival_us, kind="stable").tolist()
        self.queue = [request for request in by_arrival if not self.rejected[request]]
        self.arrivals = [float(self.requests.arrival_us[request]) for request in self.queue] + [inf]
        self.arrived = self.admitted = 0
        self.clock_us = min(self.arrivals[0], self.clock_us) if self.queue else 0.0
        # Decoding requests by the step residue that opens a block.
        self.opening = [0] * self.limits.block_size_tokens
        self.leaving: dict[int, list[int]] = {}
        self.offset_sum = self.offset_max = 0
        self.cached_blocks = [0] * n
        self.sharers: Counter[tuple[int, int] | None] = Counter()
        self.rows: list[tuple[float, ...]] = []

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_size_tokens)

    def run(self, step_time: Callable[[StepBatch], float], record: Iterator[int], horizon_us: float) -> None:
        """The loop: arrivals, room for decoding requests, prefills, the step itself, what it ended."""
        batch, arrivals, size = StepBatch(), self.arrivals, self.limits.block_size_tokens
        wanted = next(record, -1)
        while True:
            while arrivals[self.arrived] <= self.clock_us:
                self.arrived += 1
            waiting = self.arrived > self.admitted or self.preempted
            if not (self.decoding or waiting or self.partial):
                if self.arrived == len(self.queue) or arrivals[self.arrived] >= horizon_us:
                    return
                self.clock_us = arrivals[self.arrived]
                continue
            if self.clock_us >= horizon_us:
                return
            step = self.step
            victims = self._make_room() if self.opening[step % size] > self.free else 0
            self.free -= self.opening[step % size]
            ended: list[int] = []
            if self.partial or (waiting and not victims):
                victims += self._prefill(batch, ended, admit=not victims)
            elif batch.chunks:
                batch.set_chunks([])
            decodes = len(self.decoding)
            batch.num_decode_reqs = decodes
            batch.decode_kv_tokens_sum = decodes * step + self.offset_sum
            batch.decode_kv_tokens_max = step + self.offset_max if decodes else 0
            period_us = step_time(batch)
            if not 0 < period_us < inf:
                raise InputError(
                    f"step {step} takes {period_us} us; expected a finite time above 0; the batch has {batch}"
                )
            if step == wanted:
                self.rows.append(self._row(batch, period_us, ended, victims))
                wanted = next(record, -1)
            self.clock_us += period_us
            if ended or step in self.leaving:
                self._end_step(ended)
            self.step += 1

    def _row(self, batch: StepBatch, period_us: float, ended: list[int], victims: int) -> tuple[float, ...]:
        finished = len(self.leaving.get(self.step, ())) + sum(
            self.done[request] + 1 == self.output[request] for request in ended
        )
        return (
            self.step,
            self.clock_us,
            period_us,
            batch.num_prefill_reqs,
            batch.num_decode_reqs,
            batch.prefill_tokens,
            batch.num_decode_reqs,
            batch.decode_kv_tokens_sum,
            batch.decode_kv_tokens_max,
            batch.prefill_kv_tokens_sum,
            batch.prefill_attended_tokens,
            len(self.decoding) + batch.num_prefill_reqs,
            self.arrived - self.admitted + len(self.preempted),
            self.free,
            finished,
            victims,
        )

    def _prefill(self, batch: StepBatch, ended: list[int], admit: bool) -> int:
        """Fill the step's remaining budget with prompts; returns how many requests had to be preempted (0 or
        1).
        """
        budget = self.limits.max_num_batched_tokens - len(self.decoding)
        chunks: list[tuple[int, int, int]] = []
        victims = 0
        if self.partial:
            if self._chunk_blocks(self.partial, budget) > self.free:
                self._preempt_partial()
                victims = 1
            else:
                budget -= self._compute(self.partial, budget, chunks, ended)
        while (
            admit
            and not victims
            and budget > 0
            and not self.partial
            and (prefill := self._admit(budget, len(chunks)))
        ):
            budget -= self._compute(prefill, budget, chunks, ended)
        batch.set_chunks(chunks)
        return victims

    def _chunk_blocks(self, prefill: _Prefill, budget: int) -> int:
        after = min(prefill.total_tokens, prefill.computed_tokens + budget)
        return self._blocks(after) - self._blocks(prefill.computed_tokens)

    def _compute(
        self, prefill: _Prefill, budget: int, chunks: list[tuple[int, int, int]], ended: list[int]
    ) -> int:
        """Schedule the next chunk of a prefill and take its blocks; returns its tokens."""
        new = min(prefill.total_tokens - prefill.computed_tokens, budget)
        self.free -= self._chunk_blocks(prefill, budget)
        chunks.append((prefill.request, new, prefill.computed_tokens))
        prefill.computed_tokens += new
        self.partial = None if prefill.computed_tokens == prefill.total_tokens else prefill
        if self.partial is None:
            ended.append(prefill.request)
        return new

    def _admit(self, budget: int, prefills: int) -> _Prefill | None:
        """The first waiting request with its cached prefix, or None if there is none or no room for its first
        chunk.
        """
        if len(self.decoding) + prefills >= self.limits.max_num_seqs or not (
            self.preempted or self.admitted < self.arrived
        ):
            return None
        request = self.preempted[-1] if self.preempted else self.queue[self.admitted]
        total = self.prompt[request] + self.done[request]
        cached = self._cached_blocks(request, total)
        prefill = _Prefill(request, total, cached * self.limits.block_size_tokens)
        key = self._sharing(request, cached)
        prefix = 0 if key and self.sharers[key] else cached
        if prefix + self._chunk_blocks(prefill, budget) > self.free:
            return None
        self.free -= prefix
        self.sharers[key] += 1
        self.cached_blocks[request] = cached
        if self.preempted:
            self.preempted.pop()
        else:
            self.admitted += 1
            self.scheduled_us[request] = self.clock_us
        return prefill

    def _cached_blocks(self, request: int, total: int) -> int:
        cached = self.requests.cached_tokens
        if cached is None:
            return 0
        tokens = int(cached(request) if callable(cached) else cached[request])
        return min(tokens, self.prompt[request], total - 1) // self.limits.block_size_tokens

    def _sharing(self, request: int, cached: int) -> tuple[int, int] | None:
        """What requests must have in common to hold the same blocks; None: the request shares nothing."""
        group = -1 if self.requests.prefix_group is None else int(self.requests.prefix_group[request])
        return (group, cached) if group >= 0 and cached else None

    def _release(self, request: int, tokens: int) -> None:
        """Give back the blocks of a request that holds `tokens` tokens of KV."""
        cached = self.cached_blocks[request]
        key = self._sharing(request, cached)
        self.sharers[key] -= 1
        self.free += self._blocks(tokens) - (cached if key and self.sharers[key] else 0)

    def _make_room(self) -> int:
        """Preempt the latest until the others' new blocks fit; returns how many were preempted."""
        victims = 0
        while self.opening[self.step % self.limits.block_size_tokens] > self.free:
            victims += 1
            if self.partial:
                self._preempt_partial()
                continue
            request = next(reversed(self.decoding))
            computed = self.step + self.decoding[request] - 1
            last_step = self.step - 1 + self.output[request] - (computed - self.prompt[request] + 1)
            self.leaving[last_step].remove(request)
            self._stop_decoding(request)
            self.done[request] = computed - self.prompt[request] + 1
            self._preempt(request, computed)
        return victims

    def _preempt_partial(self) -> None:
        assert self.partial is not None
        self._preempt(self.partial.request, self.partial.computed_tokens)
        self.partial = None

    def _preempt(self, request: int, tokens: int) -> None:
        self._release(request, tokens)
        self.preemptions[request] += 1
        self.preempted.append(request)

    def _stop_decoding(self, request: int) -> None:
        offset = self.decoding.pop(request)
        self.opening[(1 - offset) % self.limits.block_size_tokens] -= 1
        self.offset_sum -= offset
        if offset == self.offset_max:
            self.offset_max = max(self.decoding.values(), default=-self.step)

    def _end_step(self, ended: list[int]) -> None:
        """After the step, at the new time: requests with their last token leave, ended prefills start to
        decode.
        """
        for request in self.leaving.pop(self.step, ()):
            tokens = self.step + self.decoding[request]
            self._stop_decoding(request)
            self._finish(request, tokens)
        for request in ended:
            tokens = self.prompt[request] + self.done[request]
            if self.done[request] == 0 and self.requests.output_tokens[request] > 0:
                self.first_token_us[request] = self.clock_us
            self.done[request] += 1
            if self.done[request] == self.output[request]:
                self._finish(request, tokens)
            else:
                self._start_decoding(request, tokens - self.step)

    def _start_decoding(self, request: int, offset: int) -> None:
        self.offset_max = max(self.offset_max, offset) if self.decoding else offset
        self.decoding[request] = offset
        self.opening[(1 - offset) % self.limits.block_size_tokens] += 1
        self.offset_sum += offset
        self.leaving.setdefault(self.step + self.output[request] - self.done[request], []).append(request)

    def _finish(self, request: int, tokens: int) -> None:
        self._release(request, tokens)
        self.finish_us[request] = self.clock_us
