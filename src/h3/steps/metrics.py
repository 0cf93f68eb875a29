"""Error metrics: pure functions on arrays of predicted and observed values, in percent where they say so.

>>> predicted_us, observed_us = np.array([11.0, 8.0]), np.array([10.0, 10.0])
>>> mape(predicted_us, observed_us), mape(np.array([]), np.array([]))    # 0 rows give NaN, never 0 %
(15.0, nan)
>>> low, high = interval(ape(predicted_us, observed_us), np.array(["a", "a"]), seed=0)
>>> low <= 15 <= high                           # 95 % block-bootstrap interval of the macro MAPE
True
"""

from __future__ import annotations

import numpy as np
import pandas as pd

# Consecutive steps are alike for seconds: 50 sampled steps span about ten; short tables still give twenty
# blocks.
BLOCK_ROWS, LEAST_BLOCKS = 50, 20
RESAMPLES = 1000


def ape(predicted: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Absolute percentage error of each row; `observed` must be positive."""
    return 100.0 * np.abs(predicted - observed) / observed


def mape(predicted: np.ndarray, observed: np.ndarray) -> float:
    """Mean absolute percentage error in %; NaN for no rows."""
    return _mean(ape(predicted, observed))


def bias(predicted: np.ndarray, observed: np.ndarray) -> float:
    """Mean signed percentage error in %: positive is overprediction; NaN for no rows."""
    return _mean(100.0 * (predicted - observed) / observed)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def quantile_ape(predicted: np.ndarray, observed: np.ndarray, q: float) -> float:
    """Quantile q of the absolute percentage errors in %; NaN for no rows."""
    errors = ape(predicted, observed)
    return float(np.quantile(errors, q)) if len(errors) else float("nan")


def pearson_r(predicted: np.ndarray, observed: np.ndarray) -> float:
    """Pearson correlation; NaN for fewer than two rows or a constant side."""
    if len(predicted) < 2 or np.std(predicted) == 0 or np.std(observed) == 0:
        return float("nan")
    return float(np.corrcoef(predicted, observed)[0, 1])


def macro_mape(predicted: np.ndarray, observed: np.ndarray, experiment: np.ndarray) -> float:
    """Mean over experiments of their MAPE in %: each experiment weighs the same; NaN for no rows."""
    errors = pd.Series(ape(predicted, observed)).groupby(np.asarray(experiment)).mean()
    return _mean(errors.to_numpy())


def interval(
    errors: np.ndarray, experiment: np.ndarray, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of the macro mean of `errors`, resampling blocks of consecutive steps of each
    experiment.

    Rows of an experiment must be in time order. Neighbouring steps have nearly the same error, so single
    steps must not be resampled as if they were independent (moving-block bootstrap: Kuensch 1989,
    doi:10.1214/aos/1176347265). (NaN, NaN) for no rows.
    """
    means = bootstrap_means(errors, experiment, seed)
    if not len(means):
        return float("nan"), float("nan")
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_means(errors: np.ndarray, experiment: np.ndarray, seed: int) -> np.ndarray:
    """Macro means of `errors` in RESAMPLES block resamples; the same seed draws the same blocks (for paired
    tests).
    """
    rng = np.random.default_rng(seed)
    codes, names = pd.factorize(experiment, sort=True)
    parts = [_block_means(np.asarray(errors)[codes == code], rng) for code in range(len(names))]
    return np.mean(parts, axis=0) if parts else np.empty(0)


def _block_means(errors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of one experiment's errors over moving blocks drawn with replacement, shape (RESAMPLES,)."""
    block = max(1, min(BLOCK_ROWS, len(errors) // LEAST_BLOCKS))
    sums = np.concatenate([[0.0], np.cumsum(errors)])
    block_mean = (sums[block:] - sums[:-block]) / block
    draws = rng.integers(0, len(block_mean), size=(RESAMPLES, max(1, round(len(errors) / block))))
    return block_mean[draws].mean(axis=1)


def phase(prefill_tokens: np.ndarray, decode_tokens: np.ndarray) -> np.ndarray:
    """ "prefill", "decode" or "mixed" for each row: more than 90 % of its tokens are of that phase, else
    mixed.
    """
    total = np.maximum(prefill_tokens + decode_tokens, 1e-12)
    share = prefill_tokens / total
    return np.select([share > 0.9, share < 0.1], ["prefill", "decode"], default="mixed")
