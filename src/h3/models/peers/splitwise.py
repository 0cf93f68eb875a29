"""Splitwise: one piecewise-linear curve over batch tokens for steps that decode, one for steps that hold a
prefill.

    fitted = Splitwise(Params()).fit(train, Context())
    fitted.predict(inputs)

Source: Patel et al. 2024, Splitwise, arXiv:2311.18677, and its simulator (splitwise-sim,
performance_model.py): curves for each model, GPU and TP degree; a decode-only step takes token_time(batch
tokens), a prefill-only step prompt_time(batch tokens), a mixed step 1.1 * prompt_time(all batch tokens);
straight lines between knots and beyond the last. Simplified: knots at quantiles of the training steps with
values by least squares, where the simulator joins medians of a profiled grid; curves do not fall, and both
start from the same time of an empty step, since logs hold next to no prefill-only steps. KV lengths do not
enter. A configuration without curves is outside its design and gets the nearest one's, unscaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from h3.models.peers.blackbox import combine, nonnegative_least_squares
from h3.models.peers.habitat import configurations, nearest, record
from h3.models.protocol import Context
from h3.steps import physics

MIXED_FACTOR = 1.1


@dataclass(frozen=True)
class Params:
    """Knots of each curve besides the one at no tokens."""

    knots: int = 8


def place_knots(tokens: np.ndarray, count: int) -> np.ndarray:
    """0 and at most `count` quantiles of `tokens` above it, strictly rising, shape (<= count + 1,)."""
    inner = np.quantile(tokens, np.linspace(0, 1, count + 1)[:-1]) if len(tokens) else np.empty(0)
    return np.unique(np.concatenate([[0.0], inner]))


def ramps(tokens: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """The tokens that fall into each segment between knots, the last one open; shape (rows, knots).

    A curve that does not fall is a combination of them with slopes >= 0.
    """
    ends = np.append(knots[1:], np.inf)
    return np.clip(tokens[:, None] - knots, 0.0, ends - knots)


def decode_tokens(table: pd.DataFrame) -> np.ndarray:
    """Batch tokens of a row's steps without a prefill."""
    return physics.decode_tokens(table)


def prompt_tokens(table: pd.DataFrame) -> np.ndarray:
    """Batch tokens of a row's steps that hold its prefill."""
    return physics.mixed_step_tokens(table)


@dataclass(frozen=True)
class Curves:
    """Curves of one configuration: knots in tokens; coefficients: us of an empty step, then us a token in
    each segment.
    """

    configuration: pd.DataFrame
    token_knots: np.ndarray
    prompt_knots: np.ndarray
    coefficients: np.ndarray

    @classmethod
    def of(cls, configuration: pd.DataFrame, steps: pd.DataFrame, target: str, knots: int) -> Curves:
        """Both curves at once by non-negative least squares on relative errors, a step weighing 1/gap_steps.

        A row that averages steps with and without prefill is the mean of both curves by its share of
        prefills.
        """
        holds = physics.prefill_share(steps) > 0
        empty = cls(
            configuration,
            place_knots(decode_tokens(steps), knots),
            place_knots(prompt_tokens(steps)[holds], knots),
            np.empty(0),
        )
        observed = steps[target].to_numpy(float)
        weights = 1.0 / steps["gap_steps"].to_numpy(float) / observed**2
        coefficients = nonnegative_least_squares(empty.design(steps), observed, weights)
        return cls(configuration, empty.token_knots, empty.prompt_knots, coefficients)

    def design(self, table: pd.DataFrame) -> np.ndarray:
        """What the coefficients multiply, shape (rows, 1 + segments of both curves)."""
        share = physics.prefill_share(table)
        prompt = share * np.where(physics.decode_tokens(table) > 0, MIXED_FACTOR, 1.0)
        tokens = (1 - share)[:, None] * ramps(decode_tokens(table), self.token_knots)
        return np.column_stack(
            [1 - share + prompt, tokens, prompt[:, None] * ramps(prompt_tokens(table), self.prompt_knots)]
        )

    def describe(self) -> dict[str, Any]:
        """JSON: the configuration, knots of both curves in tokens, and the coefficients, in the order of
        `design`'s columns.
        """
        return {
            "configuration": record(self.configuration),
            "token_knots": self.token_knots.tolist(),
            "prompt_knots": self.prompt_knots.tolist(),
            "coefficients": self.coefficients.tolist(),
        }


@dataclass(frozen=True)
class FittedSplitwise:
    """The curves of every training configuration."""

    curves: list[Curves]

    def predict(self, inputs: pd.DataFrame) -> np.ndarray:
        """Predicted target in us, shape (rows,)."""
        predicted = np.empty(len(inputs))
        for configuration, at in configurations(inputs):
            curves = self.curves[nearest([each.configuration for each in self.curves], configuration)]
            predicted[at] = combine(curves.design(inputs.iloc[at]), curves.coefficients)
        return predicted

    def describe(self) -> dict[str, Any]:
        """JSON: model, and each training configuration's curves."""
        return {"model": "splitwise", "curves": [curves.describe() for curves in self.curves]}


@dataclass(frozen=True)
class Splitwise:
    """The unfitted predictor."""

    params: Params
    name: str = "splitwise"

    def fit(self, train: pd.DataFrame, context: Context) -> FittedSplitwise:
        """Two curves for each training configuration."""
        parts = configurations(train)
        return FittedSplitwise(
            [Curves.of(key, train.iloc[at], context.target, self.params.knots) for key, at in parts]
        )
