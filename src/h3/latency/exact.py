"""The step time of the residual model, step by step and exact: base x exp(trust x F) without a table of
features a step.

    step_time = ResidualStepTime(fitted, experiment, limits)
    step_time(batch)                      # us; some 20 us of work, trees included

For one architecture, what depends on a step's tokens and requests alone (weights, GEMMs, communication, their
features) is looked up: physics and features fill that table in blocks, when first asked. The rest is linear
in KV tokens, pairs and decode requests, with slopes taken from probes of the same physics. All trees are
walked at once in numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from typing import Any

import numpy as np

from h3.latency.compositions import inputs
from h3.models.residual import FittedResidual
from h3.server.requests import Limits, StepBatch
from h3.sources.experiment import Experiment
from h3.steps import features, physics

Content = Mapping[str, Any]  # of XGBoost's JSON
# Of each step of a block: base without its linear terms, us; weights_us; features.
Block = tuple[list[float], list[float], np.ndarray]

MOST_DEPTH, MOST_LEAVES = 16, 2**20  # of full trees; those of a stranger may be chains
TOKENS_IN_BLOCK, REQUESTS_IN_BLOCK = 256, 64
LINEAR_TERMS = ("kv_us", "prefill_attention_us", "attention_waves")
# Features that do not follow from a step's tokens and requests alone.
OWN_FEATURES = ("kv_to_weights", "prefill_attention_to_weights", "prefill_share", "prefill_step_share")


class ResidualStepTime:
    """A callable StepBatch -> us for one experiment; `fitted` must use the scale-free features (see
    `serves`).
    """

    def __init__(self, fitted: FittedResidual, experiment: Experiment, limits: Limits) -> None:
        self.fitted, self.experiment, self.limits = fitted, experiment, limits
        self.coefficient = dict(zip(physics.TERMS, fitted.base.coefficients.tolist(), strict=True))
        probe = physics.terms_us(
            inputs(
                experiment,
                limits,
                {
                    "num_decode_reqs": [0, 1, 0],
                    "decode_kv_tokens_sum": [1, 0, 0],
                    "prefill_attended_tokens": [0, 0, 1],
                },
            )
        )
        self.kv_token_us, self.pair_us = float(probe["kv_us"][0]), float(probe["prefill_attention_us"][2])
        self.wave_us = float(probe["attention_waves"][1]) * self.coefficient["attention_waves"]
        self.blocks: dict[tuple[int, int], Block] = {}
        names = [feature["name"] for feature in features.manifest(fitted.features, fitted.drop_groups)]
        self.place = {name: names.index(name) for name in OWN_FEATURES if name in names}
        self.trees = FullTrees(fitted.boosted.described(), len(names))
        self.silent = (
            self.trees.count == 0
            or not fitted.support.serves(inputs(experiment, limits, {"num_decode_reqs": [1]}))[0]
        )
        self.low, self.high = fitted.support.low.astype(float), fitted.support.high.astype(float)
        self.width = np.maximum(self.high - self.low, np.finfo(np.float32).tiny)

    def __call__(self, batch: StepBatch) -> float:
        """The period of a step, us."""
        decodes, new = batch.num_decode_reqs, batch.prefill_tokens
        base_us, weights_us, row = self._known(decodes + new, decodes + batch.num_prefill_reqs)
        kv_tokens = float(batch.decode_kv_tokens_sum)
        pairs = batch.prefill_attended_tokens
        if new:
            kv_tokens += max(pairs / physics.ATTENTION_TILE_QUERIES, batch.prefill_kv_tokens_sum + new)
        kv_us, pairs_us = kv_tokens * self.kv_token_us, pairs * self.pair_us
        base_us += (
            self.coefficient["kv_us"] * kv_us
            + self.coefficient["prefill_attention_us"] * pairs_us
            + self.wave_us * decodes
        )
        if self.silent:
            return base_us
        own = (
            kv_us / weights_us,
            pairs_us / weights_us,
            new / (new + decodes),
            float(batch.num_prefill_reqs > 0),
        )
        row = row.copy()
        for name, value in zip(OWN_FEATURES, own, strict=True):
            if name in self.place:
                row[self.place[name]] = value
        return base_us * exp(self._trust(row) * self.trees.sum(row))

    def _trust(self, row: np.ndarray) -> float:
        """The support's trust in one row of features (models.support.Support.trust)."""
        outside = np.maximum(self.low - row, row - self.high)
        return 1.0 - min(1.0, max(0.0, float((outside / self.width).max())))

    def _known(self, tokens: int, requests: int) -> tuple[float, float, np.ndarray]:
        """(base without its linear terms, weights_us, features) of a step of so many tokens and requests."""
        key = (tokens // TOKENS_IN_BLOCK, requests // REQUESTS_IN_BLOCK)
        if key not in self.blocks:
            self.blocks[key] = self._block(*key)
        base, weights, rows = self.blocks[key]
        at = tokens % TOKENS_IN_BLOCK * REQUESTS_IN_BLOCK + requests % REQUESTS_IN_BLOCK
        return base[at], weights[at], rows[at]

    def _block(self, token_block: int, request_block: int) -> Block:
        tokens = np.repeat(token_block * TOKENS_IN_BLOCK + np.arange(TOKENS_IN_BLOCK), REQUESTS_IN_BLOCK)
        requests = np.tile(request_block * REQUESTS_IN_BLOCK + np.arange(REQUESTS_IN_BLOCK), TOKENS_IN_BLOCK)
        frame = inputs(
            self.experiment,
            self.limits,
            {"num_decode_reqs": requests, "decode_tokens": np.maximum(tokens, 1)},
        )
        terms = physics.terms_us(frame)
        kept = [name for name in physics.TERMS if name not in LINEAR_TERMS]
        base = terms[kept].to_numpy() @ np.array([self.coefficient[name] for name in kept])
        matrix = features.build(self.fitted.features, frame, self.fitted.drop_groups).to_numpy(np.float32)
        return base.tolist(), terms["weights_us"].tolist(), matrix


def serves(fitted: FittedResidual, experiment: Experiment) -> bool:
    """Whether this file can evaluate the fit there: KV tokens within sliding windows do not add up, and
    trees that are filled up to their depth have to be few.
    """
    trees = fitted.boosted.trees
    return (
        fitted.features == "scale_free"
        and not experiment.architecture.num_window_layers
        and trees.depth <= MOST_DEPTH
        and trees.count << trees.depth <= MOST_LEAVES
    )


class FullTrees:
    """All trees of a booster as full binary trees of one depth, side by side: a row of features goes down all
    at once.
    """

    def __init__(self, content: Content, num_features: int) -> None:
        trees = content["learner"]["gradient_booster"]["model"]["trees"]
        self.count = len(trees)
        self.depth = max((_depth(tree, 0) for tree in trees), default=0)
        nodes = 2**self.depth - 1
        self.feature = np.zeros((self.count, nodes), np.int64)
        self.threshold = np.full((self.count, nodes), np.inf, np.float32)
        self.leaf = np.zeros((self.count, nodes + 1), np.float32)
        for index, tree in enumerate(trees):
            self._fill(index, tree, 0, 0)
        if self.count and self.feature.max() >= num_features:
            raise AssertionError(f"a tree splits on feature {self.feature.max()} of {num_features}")
        self.node_start = np.arange(self.count) * nodes
        self.leaf_start = np.arange(self.count) * (nodes + 1) - nodes
        self.feature, self.threshold, self.leaf = (
            self.feature.ravel(),
            self.threshold.ravel(),
            self.leaf.ravel(),
        )

    def _fill(self, index: int, tree: Content, node: int, place: int) -> None:
        """Copy the tree below `node` to the full tree's `place`; a leaf above the last level fills all leaves
        below it.
        """
        nodes = 2**self.depth - 1
        if tree["left_children"][node] < 0:
            first = last = place
            while last < nodes:
                first, last = 2 * first + 1, 2 * last + 2
            self.leaf[index, first - nodes : last - nodes + 1] = tree["split_conditions"][node]
            return
        self.feature[index, place] = tree["split_indices"][node]
        self.threshold[index, place] = tree["split_conditions"][node]
        self._fill(index, tree, tree["left_children"][node], 2 * place + 1)
        self._fill(index, tree, tree["right_children"][node], 2 * place + 2)

    def sum(self, row: np.ndarray) -> float:
        """Sum of the leaves that a float32 row without nulls reaches: left where row[feature] < threshold."""
        right = row.take(self.feature) >= self.threshold
        place = np.zeros(self.count, np.int64)
        for _ in range(self.depth):
            place = 2 * place + 1 + right.take(self.node_start + place)
        return float(self.leaf.take(self.leaf_start + place).sum())


def _depth(tree: Content, node: int) -> int:
    if tree["left_children"][node] < 0:
        return 0
    return 1 + max(_depth(tree, tree["left_children"][node]), _depth(tree, tree["right_children"][node]))
