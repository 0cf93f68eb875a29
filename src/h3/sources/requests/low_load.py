"""Requests of a log that shared no step with another's prefill: their time to first token beside what
computing their prompts would add to it.

    rows = observed(log.requests, experiment)        # by arrival; columns below

number (by arrival), round (how often the prompt came before), round_length (0: prompts in no order), ttft_us,
period_us (at arrival), running, prefill_us (least_us to most_us).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from h3.sources.experiment import Experiment
from h3.steps import batch, physics

# A round has at most so many prompts; so large a share of lengths agrees, where chance gives less than that.
LONGEST_ROUND, ROUND_MATCH, CHANCE_MATCH = 2_000, 0.85, 0.5
TIMES = ["weights_us", "kv_us", "compute_excess_us", "prefill_attention_us", "all_reduce_us"]


def observed(requests: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """Requests that shared no step with another's prefill, by arrival: TTFT, period at arrival, load, and
    prefill cost.
    """
    rows = requests.sort_values("arrival_us", kind="stable")
    arrival, first, last = (rows[name].to_numpy(float) for name in ("arrival_us", "first_us", "last_us"))
    prompt, output = rows["prompt_tokens"].to_numpy(float), rows["output_tokens"].to_numpy(float)
    ordered_first, ordered_last = np.sort(first), np.sort(last)

    def running(time_us: np.ndarray) -> np.ndarray:
        return np.searchsorted(arrival, time_us) - np.searchsorted(ordered_last, time_us, side="right")

    period = (last - first) / np.maximum(output - 1, 1)
    waiting = np.arange(len(rows)) - np.searchsorted(ordered_first, arrival, side="right")
    joined = np.searchsorted(arrival, arrival + period, side="right") - np.arange(len(rows)) - 1
    load = running(arrival).astype(float)
    life = np.mean([running(first + part * (last - first)) for part in (0.1, 0.3, 0.5, 0.7, 0.9)], axis=0)
    # The period is a mean over the request's life; what the batch grew by meanwhile is taken off again.
    middle = np.mean(prompt) + np.mean(output) / 2
    grown = _step_us(experiment, life, middle) - _step_us(experiment, load, np.minimum(middle, prompt + 1))
    least, most = _prefill_us(experiment, load, middle, prompt, period)
    length = _round_length(prompt)
    frame = pd.DataFrame(
        {
            "number": np.arange(len(rows)),
            "round": _occurrence(prompt, length),
            "round_length": length,
            "ttft_us": first - arrival,
            "period_us": np.where(load < 0.5 * life, np.maximum(period - grown, 0.25 * period), period),
            "running": load,
            "prefill_us": (least + most) / 2,
            "least_us": least,
            "most_us": most,
        }
    )
    return frame[(output > 1) & (waiting <= 0) & (joined == 0)].reset_index(drop=True)


def _round_length(prompts: np.ndarray) -> int:
    """After how many requests the prompts' lengths come again in the same order; 0 if they do not."""
    counts = np.unique(prompts, return_counts=True)[1] / max(1, len(prompts))
    if (counts**2).sum() > CHANCE_MATCH:
        return 0
    head = prompts[: 3 * LONGEST_ROUND]
    for lag in range(2, min(LONGEST_ROUND, len(head) * 2 // 3) + 1):
        if np.mean(head[:-lag] == head[lag:]) >= ROUND_MATCH:
            return lag
    return 0


def _occurrence(prompts: np.ndarray, length: int) -> np.ndarray:
    """How often each request's prompt came before: by the length of a round, 0: by its own length."""
    if length:
        return np.arange(len(prompts)) // length
    return pd.Series(prompts).groupby(prompts).cumcount().to_numpy()


def _step(experiment: Experiment, composition: pd.DataFrame) -> pd.DataFrame:
    return batch.with_deployment(composition, experiment.deployment)


def _step_us(experiment: Experiment, decodes: np.ndarray, context: np.ndarray | float) -> np.ndarray:
    step = _step(experiment, batch.uniform(decodes, context, 0.0))
    return physics.terms_us(step)[TIMES].sum(axis=1).to_numpy()


def _prefill_us(
    experiment: Experiment, decodes: np.ndarray, context: float, prompt: np.ndarray, period: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What computing each whole prompt adds to a step: with all arithmetic hidden behind reading weights that
    can be, and with none; a period for each chunk beyond the first.
    """
    budget = experiment.max_num_batched_tokens
    chunks = np.zeros(len(prompt)) if np.isnan(budget) else np.ceil(prompt / budget) - 1
    step = _step(experiment, batch.uniform(decodes, context, prompt))
    terms = physics.terms_us(step)
    least = terms[TIMES].sum(axis=1).to_numpy() - _step_us(experiment, decodes, context)
    whole = physics.gemm_compute_us(step, prompt)
    hidden = whole - np.minimum(whole, terms["compute_excess_us"].to_numpy())
    return least + chunks * period, least + hidden + chunks * period
