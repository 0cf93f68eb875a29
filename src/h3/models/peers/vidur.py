"""Vidur: a random forest over a batch's tokens, requests and KV tokens, learned from each model's own
profile.

    fitted = Vidur(Params()).fit(train, Context())
    fitted.predict(inputs)

Source: Agrawal et al. 2024, Vidur, arXiv:2405.05465: profiles the operators of every model on every GPU and
TP degree, and interpolates each operator's time with a random forest. Simplified: step logs hold no operator
times, so each training configuration's profile is its steps, and one forest learns the whole step. A
configuration without a profile is outside Vidur's design; it gets the nearest profiled one (habitat.nearest)
times the ratio of roofline times at the same batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor

from h3.models.peers.blackbox import SMALLEST_PREDICTION_US
from h3.models.peers.habitat import as_if, configurations, nearest, record, sha256
from h3.models.protocol import Context
from h3.steps import physics

OUTSIDE_DESIGN = (
    "a configuration without a profile is outside the design: nearest profile x ratio of roofline times"
)


@dataclass(frozen=True)
class Params:
    """Size of a forest, and the most steps of a profile that it learns from (evenly spaced)."""

    n_estimators: int = 20
    max_depth: int = 12
    min_samples_leaf: int = 3
    max_rows: int = 6000


def batch(table: pd.DataFrame) -> np.ndarray:
    """Tokens, requests, KV tokens and prefill tokens of each step, shape (rows, 4)."""
    prefill, decode = physics.prefill_tokens(table), physics.decode_tokens(table)
    kv = np.nan_to_num(table["decode_kv_tokens_sum"].to_numpy(float)) + np.nan_to_num(
        table["prefill_kv_tokens_sum"].to_numpy(float)
    )
    return np.column_stack([prefill + decode, physics.requests(table), kv, prefill])


@dataclass(frozen=True)
class Profile:
    """A configuration (a frame of one row), the steps it was profiled on, and the forest that learned
    them.
    """

    configuration: pd.DataFrame
    rows: int
    forest: RandomForestRegressor

    @classmethod
    def of(
        cls, configuration: pd.DataFrame, steps: pd.DataFrame, params: Params, context: Context
    ) -> Profile:
        """Learn a profile; a step weighs 1/gap_steps."""
        steps = steps.iloc[:: max(1, -(-len(steps) // params.max_rows))]
        forest = RandomForestRegressor(
            n_estimators=params.n_estimators,
            max_depth=params.max_depth,
            min_samples_leaf=params.min_samples_leaf,
            random_state=context.seed,
            n_jobs=1,
        )
        forest.fit(
            batch(steps),
            steps[context.target].to_numpy(float),
            sample_weight=1.0 / steps["gap_steps"].to_numpy(float),
        )
        return cls(configuration, len(steps), forest)

    def predict(self, inputs: pd.DataFrame) -> np.ndarray:
        """Times in us of steps on any one configuration, shape (rows,); scaled by 1 on the profiled one."""
        scale = physics.roofline_us(inputs) / physics.roofline_us(as_if(inputs, self.configuration))
        return self.forest.predict(batch(inputs)) * scale

    def describe(self) -> dict[str, Any]:
        """JSON: the configuration, number of steps, trees and nodes, and sha256 of the forest's arrays."""
        trees = [tree.tree_ for tree in self.forest.estimators_]
        arrays = [
            array
            for tree in trees
            for array in (tree.children_left, tree.children_right, tree.feature, tree.threshold, tree.value)
        ]
        return {
            "configuration": record(self.configuration),
            "rows": self.rows,
            "trees": len(trees),
            "nodes": int(sum(tree.node_count for tree in trees)),
            "sha256": sha256(*arrays),
        }


@dataclass(frozen=True)
class FittedVidur:
    """The profile of every training configuration."""

    profiles: list[Profile]
    params: Params

    def predict(self, inputs: pd.DataFrame) -> np.ndarray:
        """Predicted target in us, shape (rows,)."""
        predicted = np.empty(len(inputs))
        for configuration, at in configurations(inputs):
            profile = self.profiles[nearest([each.configuration for each in self.profiles], configuration)]
            predicted[at] = profile.predict(inputs.iloc[at])
        return np.maximum(predicted, SMALLEST_PREDICTION_US)

    def describe(self) -> dict[str, Any]:
        """JSON: model, parameters, what becomes of a configuration without a profile, and each training
        configuration's profile.
        """
        return {
            "model": "vidur",
            "params": dict(vars(self.params)),
            "note": OUTSIDE_DESIGN,
            "profiles": [profile.describe() for profile in self.profiles],
        }


@dataclass(frozen=True)
class Vidur:
    """The unfitted predictor."""

    params: Params
    name: str = "vidur"

    def fit(self, train: pd.DataFrame, context: Context) -> FittedVidur:
        """A forest for each training configuration, deterministic by context.seed."""
        return FittedVidur(
            [Profile.of(key, train.iloc[at], self.params, context) for key, at in configurations(train)],
            self.params,
        )
