"""The step time of any predictor, from tables that it fills in batches: exact in the batch size, interpolated
elsewhere.

    step_time = TabulatedStepTime(fitted, experiment, limits, longest_tokens=1000)
    step_time(batch)                      # us

Steps that only decode: one line a number of requests, linear between contexts CONTEXTS apart. Steps with
prefill: those plus an extra time, from a grid over decode requests, context, new tokens, tokens cached before
and prefill requests.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import product

import numpy as np

from h3.latency.compositions import inputs, periods_us
from h3.models.protocol import Predicts
from h3.server.requests import Limits, StepBatch
from h3.sources.experiment import Experiment

CONTEXTS = 257
DECODES_AT_ONCE = 8
# Nodes of the grid for steps with prefill: small numbers exactly, larger ones at even ratios.
EXACT_TOKENS, TOKEN_NODES, DECODE_NODES, CONTEXT_NODES, BEFORE_NODES = 16, 64, 20, 4, 3
PREFILL_NODES = (1.0, 2.0, 3.0, 4.0, 8.0)


class TabulatedStepTime:
    """A callable StepBatch -> us for one experiment; longest_tokens: the longest context that its requests
    reach.
    """

    def __init__(self, fitted: Predicts, experiment: Experiment, limits: Limits, longest_tokens: int) -> None:
        self.fitted, self.experiment, self.limits = fitted, experiment, limits
        self.longest = float(max(longest_tokens, 2))
        self.spacing = self.longest / (CONTEXTS - 1)
        self.lines: dict[int, list[float]] = {}
        self.axes = self._axes()
        self.strides = [
            int(np.prod([len(axis) for axis in self.axes[index + 1 :]])) for index in range(len(self.axes))
        ]
        self.extra_us: list[float] = []

    def _axes(self) -> list[list[float]]:
        """Nodes of decode requests, mean context, new prompt tokens, mean tokens before a prefill, prefill
        requests.
        """
        budget, seqs = self.limits.max_num_batched_tokens, self.limits.max_num_seqs
        decodes = np.unique(np.concatenate([[0], np.round(np.geomspace(1, max(seqs, 2), DECODE_NODES))]))
        larger = np.geomspace(EXACT_TOKENS, max(budget, EXACT_TOKENS + 1), TOKEN_NODES)
        tokens = np.unique(np.concatenate([np.arange(1, EXACT_TOKENS + 1), larger]))
        contexts, before = (np.linspace(0, self.longest, nodes) for nodes in (CONTEXT_NODES, BEFORE_NODES))
        return [axis.tolist() for axis in (decodes, contexts, tokens, before, np.array(PREFILL_NODES))]

    def __call__(self, batch: StepBatch) -> float:
        """The period of a step, us."""
        decodes = batch.num_decode_reqs
        context = batch.decode_kv_tokens_sum / decodes if decodes else 0.0
        decode_us = self._decode_us(max(decodes, 1), context)
        if not batch.num_prefill_reqs:
            return decode_us
        new, each = batch.prefill_tokens, batch.prefill_tokens / batch.num_prefill_reqs
        before = max(batch.prefill_attended_tokens / new - (each + 1) / 2, 0.0)
        return decode_us + self._prefill_us((decodes, context, new, before, batch.num_prefill_reqs))

    def _decode_us(self, decodes: int, context: float) -> float:
        if decodes not in self.lines:
            self._fill_lines(decodes)
        line = self.lines[decodes]
        position = min(context / self.spacing, CONTEXTS - 1)
        left = min(int(position), CONTEXTS - 2)
        return line[left] + (position - left) * (line[left + 1] - line[left])

    def _fill_lines(self, decodes: int) -> None:
        first = (decodes - 1) // DECODES_AT_ONCE * DECODES_AT_ONCE + 1
        numbers = np.arange(first, first + DECODES_AT_ONCE)
        contexts = np.arange(CONTEXTS) * self.spacing
        requests = np.repeat(numbers, CONTEXTS)
        frame = inputs(
            self.experiment,
            self.limits,
            {
                "num_decode_reqs": requests,
                "decode_kv_tokens_sum": requests * np.tile(contexts, DECODES_AT_ONCE),
            },
        )
        periods = periods_us(self.fitted, frame).reshape(DECODES_AT_ONCE, CONTEXTS)
        self.lines.update(zip(numbers.tolist(), periods.tolist(), strict=True))

    def _prefill_us(self, point: tuple[float, ...]) -> float:
        """Time that a prefill adds, us, multilinear on the grid."""
        if not self.extra_us:
            self._fill_extra()
        corners = [(0, 1.0)]
        for axis, stride, value in zip(self.axes, self.strides, point, strict=True):
            left = min(max(bisect_right(axis, value) - 1, 0), len(axis) - 2)
            share = min(max((value - axis[left]) / (axis[left + 1] - axis[left]), 0.0), 1.0)
            sides = [(left * stride, 1 - share), ((left + 1) * stride, share)]
            corners = [
                (at + step, weight * part) for (at, weight), (step, part) in product(corners, sides) if part
            ]
        return sum(weight * self.extra_us[at] for at, weight in corners)

    def _fill_extra(self) -> None:
        decodes, context, new, before, prefills = (
            axis.ravel() for axis in np.meshgrid(*self.axes, indexing="ij")
        )
        new = np.maximum(new, prefills)
        mixed = inputs(
            self.experiment,
            self.limits,
            {
                "num_prefill_reqs": prefills,
                "num_decode_reqs": decodes,
                "prefill_tokens": new,
                "decode_kv_tokens_sum": decodes * context,
                "prefill_kv_tokens_sum": before * prefills,
                "prefill_attended_tokens": new * (before + (new / prefills + 1) / 2),
            },
        )
        alone = np.maximum(decodes, 1)
        decode_us = [
            self._decode_us(int(number), at)
            for number, at in zip(alone, np.where(decodes > 0, context, 0.0), strict=True)
        ]
        self.extra_us = (periods_us(self.fitted, mixed) - np.array(decode_us)).tolist()
