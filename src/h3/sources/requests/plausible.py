"""A request log held against its own configuration and against physics, before its clock is recovered: one
impossible request would bend the clock of all others.

    log = checked(experiment, log)      # impossible requests are rejects; log.impossible: why none is left
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from h3.sources.experiment import Experiment
from h3.sources.requests.clock import Intervals, covered
from h3.sources.requests.files import RequestLog
from h3.steps import batch, physics, schema

# The longest context of any published model (Llama 4 Scout), where the configuration names no limit.
LONGEST_CONTEXT = 10_485_760
# A client that waits so long for one token has stopped: vLLM's own clients give up after minutes.
LONGEST_TOKEN_US, LONGEST_REQUEST_US = 60e6, 86_400e6
# The clock has ten knots a second of busy time; a log of more is split by whoever wrote it.
LONGEST_BUSY_US = 7 * 86_400e6
# What first and last chunks say of who ran at once is off by the network; a tenth is none.
CROWD_TOLERANCE = 1.1
MOST_REJECTED = 0.5
UNITS, FAR_TOO_FAST = {"ms": 1e3, "s": 1e6}, 20


def checked(experiment: Experiment, log: RequestLog) -> RequestLog:
    """The log without requests that are impossible, each a reject with its reason; `impossible` says why the
    log cannot be used at all, if it cannot.

    A request is impossible if its id was there before, it is longer than max_model_len, it decodes faster
    than the weights can be read (once a step, at peak bandwidth) or slower than a minute a token.
    """
    requests, least_us = log.requests, least_step_us(experiment)
    reasons = _reasons(requests, experiment, least_us)
    bad = reasons != ""
    if not len(requests):
        return log
    rejects = [
        (
            experiment.name,
            str(experiment.path),
            int(row.line),
            reason,
            _detail(row, reason, experiment, least_us),
        )
        for row, reason in zip(requests[bad].itertuples(), reasons[bad], strict=True)
    ]
    kept = requests[~bad].reset_index(drop=True)
    why = _wrong_unit(requests, least_us) if bad.mean() > MOST_REJECTED else ""
    why = why or _mostly(reasons, bad) or _too_many_at_once(kept, experiment) or _too_long(kept)
    found = (
        pd.concat([log.rejects, schema.rejects_frame(rejects)], ignore_index=True) if rejects else log.rejects
    )
    return replace(log, requests=kept, rejects=found, impossible=why)


def least_step_us(experiment: Experiment) -> float:
    """The least time of a step of one decoding request: its weights, read once at peak bandwidth."""
    table = batch.step_table(experiment.deployment, [[(1, 1, 1)]])
    return float(physics.weight_us(table, np.ones(1))[0])


def _reasons(requests: pd.DataFrame, experiment: Experiment, least_us: float) -> np.ndarray:
    """Why each request is impossible, "" if it is not; the first rule that it breaks. Shape (requests,)."""
    tokens = requests["output_tokens"].to_numpy(float)
    took_us = (requests["last_us"] - requests["first_us"]).to_numpy(float)
    waits_us = (requests["first_us"] - requests["arrival_us"]).to_numpy(float)
    longest = experiment.max_model_len if np.isfinite(experiment.max_model_len) else LONGEST_CONTEXT
    rules = {
        "duplicate_request": requests["request"].duplicated().to_numpy(),
        "longer_than_max_model_len": requests["prompt_tokens"].to_numpy(float) + tokens > longest,
        "faster_than_weights": (tokens > 1) & (took_us < (tokens - 1) * least_us),
        "waits_longer_than_a_day": waits_us > LONGEST_REQUEST_US,
        "slower_than_a_minute_a_token": (took_us > tokens * LONGEST_TOKEN_US)
        | (took_us > LONGEST_REQUEST_US),
    }
    reason = np.full(len(requests), "", dtype=object)
    for code, broken in rules.items():
        reason[(reason == "") & broken] = code
    return reason


def _detail(row: Any, reason: str, experiment: Experiment, least_us: float) -> str:
    said = {
        "duplicate_request": "the id is there before",
        "longer_than_max_model_len": f"{row.prompt_tokens:.0f} + {row.output_tokens:.0f} tokens; at most"
        f" {experiment.max_model_len:.0f}"
        * bool(np.isfinite(experiment.max_model_len))
        or f"more than {LONGEST_CONTEXT}, the longest context of any model",
        "faster_than_weights": f"{_per_token_us(row):.1f} us a token; the weights take {least_us:.0f} us",
        "waits_longer_than_a_day": f"{(row.first_us - row.arrival_us) / 1e6:.0f} s to the first token",
        "slower_than_a_minute_a_token": f"{(row.last_us - row.first_us) / 1e6:.0f} s of decoding",
    }
    return f"request {row.request}: {said[reason]}"


def _per_token_us(row: Any) -> float:
    return float((row.last_us - row.first_us) / max(row.output_tokens - 1, 1))


def _wrong_unit(requests: pd.DataFrame, least_us: float) -> str:
    """In words, that the times are in another unit than us, if that is what makes them too fast."""
    decoding = requests[requests["output_tokens"] > 1]
    if decoding.empty:
        return ""
    took_us = (decoding["last_us"] - decoding["first_us"]).to_numpy(float)
    per_token = float(np.median(took_us / (decoding["output_tokens"].to_numpy(float) - 1)))
    for unit, factor in UNITS.items():
        if FAR_TOO_FAST * per_token < least_us <= per_token * factor < 1e3 * least_us:
            return (
                f"{per_token:.3g} us a token, less than the weights take to be read ({least_us:.0f} us); the"
                f" times look like {unit}, expected us"
            )
    return ""


def _mostly(reasons: np.ndarray, bad: np.ndarray) -> str:
    if bad.mean() <= MOST_REJECTED:
        return ""
    counts = pd.Series(reasons[bad]).value_counts()
    told = ", ".join(f"{reason} {count}" for reason, count in counts.items())
    return f"{bad.sum()} of {len(bad)} requests are impossible: {told}"


def _too_many_at_once(requests: pd.DataFrame, experiment: Experiment) -> str:
    """In words, that more requests decode at once than the server lets."""
    if not np.isfinite(experiment.max_num_seqs) or requests.empty:
        return ""
    times = np.concatenate([requests["first_us"].to_numpy(float), requests["last_us"].to_numpy(float)])
    change = np.repeat([1, -1], len(requests))
    running = np.cumsum(change[np.lexsort((change, times))])  # who ends makes room for who starts
    most = int(np.quantile(running, 0.99))
    if most <= experiment.max_num_seqs * CROWD_TOLERANCE + 1:
        return ""
    return f"{most} requests decode at once; exp-config.yaml says max_num_seqs={experiment.max_num_seqs:.0f}"


def _too_long(requests: pd.DataFrame) -> str:
    """In words, that the clock of the log would have more knots than memory holds."""
    if requests.empty:
        return ""
    busy_us = covered(
        Intervals(*(requests[name].to_numpy(float) for name in ("first_us", "last_us", "output_tokens")))
    ).total_us
    if busy_us <= LONGEST_BUSY_US:
        return ""
    return f"{busy_us / 86_400e6:.0f} days of decoding; expected at most {LONGEST_BUSY_US / 86_400e6:.0f}"
