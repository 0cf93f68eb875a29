"""Journeys of requests → the steps in which they decode and prefill. This file owns what journey events mean.

>>> spans = decodes([(1, "a", "FIRST_TOKEN", 10, 100, 100, 1), (2, "a", "FINISHED", 14, 100, 100, 5)])
>>> steps = np.array([10, 11, 14, 15])
>>> count, tokens = active(spans.first, spans.last, spans.offset, steps)
>>> count                                       # requests that decode in each step
array([0, 1, 1, 0])
>>> tokens + count * steps                      # KV tokens that they attend to
array([  0, 101, 104,   0])

A request is SCHEDULED in a step, has its FIRST_TOKEN in the step that ends its prefill, and gets one token a
step from then on until it is FINISHED or PREEMPTED; `decode done` counts its output tokens so far. Preempted,
it loses its KV cache and computes it anew when SCHEDULED again.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

ENDLESS = 1 << 60
# Line, request, kind, step, prompt tokens done and in all, output tokens done.
Journey = tuple[int, str, str, int, int, int, int]


class Event(NamedTuple):
    """One event of a request: kind, step, prompt tokens done and in all, output tokens done."""

    kind: str
    step: int
    before: int
    total: int
    tokens: int


@dataclass(frozen=True)
class Decodes:
    """Runs of decode steps: first and last step id, and offset; in step s the request attends to s + offset
    tokens.
    """

    first: np.ndarray
    last: np.ndarray
    offset: np.ndarray


def decodes(events: list[Journey]) -> Decodes:
    """The decode runs of all requests of one clock; a request that is still running when the log ends runs
    on.
    """
    runs = [run for journey in _by_request(events).values() for run in _decode_runs(journey)]
    first, last, offset = np.array(runs, dtype=np.int64).reshape(-1, 3).T
    return Decodes(first, last, offset)


def prefills(events: list[Journey]) -> pd.DataFrame:
    """Prefills up to the first token: first and last step, prompt tokens cached or computed before, and new
    ones.
    """
    rows = []
    for journey in _by_request(events).values():
        for (kind, step, done, total, _), (after, end, *_rest) in pairwise(journey):
            if kind == "SCHEDULED" and after == "FIRST_TOKEN":
                rows.append((step, end, done, total - done))
    return pd.DataFrame(
        np.array(rows, dtype=np.int64).reshape(-1, 4), columns=["first", "last", "before", "new"]
    )


def _by_request(events: list[Journey]) -> dict[str, list[Event]]:
    journeys: dict[str, list[Event]] = {}
    for _, request, kind, step, before, total, tokens in events:
        journeys.setdefault(request, []).append(Event(kind, step, before, total, tokens))
    return journeys


def _ends(journey: list[Event]) -> list[Event]:
    """For each event the one after it at which the request leaves the batch; ENDLESS where none does."""
    ends, after = [], Event("", ENDLESS, 0, 0, ENDLESS)
    for event in reversed(journey):
        ends.append(after)
        after = event if event.kind in ("PREEMPTED", "FINISHED") else after
    return ends[::-1]


def _decode_runs(journey: list[Event]) -> list[tuple[int, int, int]]:
    """(first, last, offset) of each run; the tokens between two events say how many steps it had."""
    runs = []
    resumed = 0  # output tokens at the preemption, while the KV cache is computed anew
    for (kind, step, _, total, tokens), ended in zip(journey, _ends(journey), strict=True):
        end, end_tokens = ended.step, ended.tokens
        if kind == "FIRST_TOKEN" and end_tokens > tokens:
            last = ENDLESS if end == ENDLESS else step + end_tokens - tokens
            runs.append((step + 1, last, total + tokens - 1 - step))
        elif kind == "PREEMPTED":
            resumed = tokens
        elif kind == "SCHEDULED" and resumed and end != ENDLESS:
            last = end - (ended.kind == "PREEMPTED")  # a preempted request is not in the batch of that step
            runs.append((last - (end_tokens - resumed - 1) + 1, last, total + end_tokens - 1 - last))
    return [run for run in runs if run[1] >= run[0]]


def active(
    first: np.ndarray, last: np.ndarray, weight: np.ndarray, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each step the number of intervals first..last that hold it, and the sum of their weights."""
    begun, ended = np.sort(first), np.sort(last)
    begun_sum = np.concatenate([[0], np.cumsum(weight[np.argsort(first)])])
    ended_sum = np.concatenate([[0], np.cumsum(weight[np.argsort(last)])])
    low, high = np.searchsorted(ended, steps, side="left"), np.searchsorted(begun, steps, side="right")
    return high - low, begun_sum[high] - ended_sum[low]


def longest(spans: Decodes, steps: np.ndarray) -> np.ndarray:
    """For each step the most tokens that a decode request attends to; 0 without one."""
    out = np.zeros(len(steps))
    queue = sorted(
        zip(spans.first.tolist(), spans.last.tolist(), spans.offset.tolist(), strict=True), reverse=True
    )
    running: list[tuple[int, int]] = []
    for index in np.argsort(steps, kind="stable").tolist():
        step = int(steps[index])
        while queue and queue[-1][0] <= step:
            _, last, offset = queue.pop()
            heapq.heappush(running, (-offset, last))
        while running and running[0][1] < step:
            heapq.heappop(running)
        out[index] = step - running[0][0] if running else 0
    return out
