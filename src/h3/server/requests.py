"""What goes into the scheduler and what comes out: limits, requests, the batch of a step, and the run.

>>> from h3.server import scheduler
>>> requests = Requests(arrival_us=[0, 500], prompt_tokens=[600, 80], output_tokens=[20, 5])
>>> run = scheduler.simulate(requests, Limits(kv_blocks=31356), lambda batch: 10_000)
>>> run.num_steps, run.num_unfinished, run.end_us
(20, 0, 200000.0)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np

from h3.common.errors import InputError


@dataclass(frozen=True)
class Limits:
    """What bounds a batch: requests, tokens of a step, and the KV cache in blocks of `block_size_tokens`."""

    kv_blocks: int
    max_num_seqs: int = 128
    max_num_batched_tokens: int = 2048
    block_size_tokens: int = 16

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise InputError(f"{name}={value}; expected at least 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise InputError(
                f"max_num_batched_tokens={self.max_num_batched_tokens} is below"
                f" max_num_seqs={self.max_num_seqs}; expected a token for every decoding request"
            )


@dataclass(frozen=True)
class Requests:
    """Requests as arrays of equal length n, in any order of arrival; a request of 0 output tokens ends with
    its prefill.

    cached_tokens: prefix tokens found in the cache, as an array or a callable of the request's index, asked
        whenever the request is admitted; only full blocks count and the last token is always computed. None:
        no prefix caching.
    prefix_group: requests of one group (>= 0) share the blocks of an equally long cached prefix; None:
        nothing is shared.
    """

    arrival_us: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    cached_tokens: np.ndarray | Callable[[int], int] | None = None
    prefix_group: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.arrival_us)
        for name, low in (
            ("arrival_us", -inf),
            ("prompt_tokens", 1),
            ("output_tokens", 0),
            ("cached_tokens", 0),
            ("prefix_group", -1),
        ):
            values = getattr(self, name)
            if values is None or callable(values):
                continue
            values = np.asarray(values, float if name == "arrival_us" else None)
            if values.shape != (n,):
                raise InputError(f"{name} has shape {values.shape}; expected ({n},), as arrival_us")
            bad = np.flatnonzero(~(np.isfinite(values) & (values >= low)))
            if len(bad):
                raise InputError(
                    f"{name} of request {bad[0]} is {values[bad[0]]}; expected a finite number of at least"
                    f" {low}"
                )
            object.__setattr__(self, name, values)


class StepBatch:
    """What one step computes, as the composition columns of the step table; the same object is refilled every
    step.

    `chunks` lists the prefills as (request, new tokens, tokens computed or cached before). A preempted
    request that is recomputed counts as prefill: it costs what a prefill costs.
    """

    __slots__ = (
        "chunks",
        "decode_kv_tokens_max",
        "decode_kv_tokens_sum",
        "num_decode_reqs",
        "num_prefill_reqs",
        "prefill_attended_tokens",
        "prefill_kv_tokens_sum",
        "prefill_tokens",
    )

    def __init__(self) -> None:
        self.chunks: list[tuple[int, int, int]] = []
        self.num_prefill_reqs = self.num_decode_reqs = self.prefill_tokens = self.decode_kv_tokens_sum = 0
        self.decode_kv_tokens_max = self.prefill_kv_tokens_sum = self.prefill_attended_tokens = 0

    @property
    def decode_tokens(self) -> int:
        """New tokens of decoding requests: one each."""
        return self.num_decode_reqs

    def set_chunks(self, chunks: list[tuple[int, int, int]]) -> None:
        """Fill in the prefill part; a new token at position p attends to p + 1 tokens, itself included."""
        self.chunks = chunks
        self.num_prefill_reqs = len(chunks)
        self.prefill_tokens = sum(new for _, new, _ in chunks)
        self.prefill_kv_tokens_sum = sum(before for _, _, before in chunks)
        self.prefill_attended_tokens = sum(new * before + new * (new + 1) // 2 for _, new, before in chunks)

    def __str__(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)}" for name in self.__slots__ if name != "chunks")


STEP_COLUMNS = (
    "step_id",
    "start_us",
    "period_us",
    "num_prefill_reqs",
    "num_decode_reqs",
    "prefill_tokens",
    "decode_tokens",
    "decode_kv_tokens_sum",
    "decode_kv_tokens_max",
    "prefill_kv_tokens_sum",
    "prefill_attended_tokens",
    "running_reqs",
    "waiting_reqs",
    "kv_blocks_free",
    "num_finished",
    "num_preempted",
)


@dataclass(frozen=True)
class Run:
    """What happened: arrays over the n requests (us, NaN: never; in the order given) and over the recorded
    steps.
    """

    arrival_us: np.ndarray
    scheduled_us: np.ndarray
    first_token_us: np.ndarray
    finish_us: np.ndarray
    preemptions: np.ndarray
    rejected: np.ndarray
    steps: dict[str, np.ndarray]
    num_steps: int
    end_us: float

    @property
    def num_unfinished(self) -> int:
        """Requests neither finished nor rejected when the run ended."""
        return int(np.isnan(self.finish_us).sum() - self.rejected.sum())
