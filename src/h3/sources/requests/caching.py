"""How much of its prompts a request log's server computed, and on what evidence.

    found = decide(log.requests, experiment, source.assume)     # Caching: mode, computed share ± sd, sentence
    found.hits(log.requests, experiment)                        # tokens of each prompt taken as cached

Hits that a log records need no decision, and an assumption other than `prefill_tokens=auto` makes it. Else
the time to first token at low load decides, by what computing the prompt adds to a step (steps.physics):

- Repeats: where the lengths of the prompts come again in the same order, the log names its distinct prompts,
  and the first requests of the second round are held against the last ones of the first: same load, same
  time. Without such an order the first occurrence of a length stands for a first prompt. A fall shows hits;
  none shows nothing, as the cache may have been warm.
- Length and level: TTFT = queueing + (1.5 + pipeline steps) x period + share x prefill over bins of length
  and period, with wide priors of queueing and pipeline steps. Queueing of 100 ms in a log of one length is
  read as prefill.

What neither decides is named "undecided" and falls back to FALLBACK.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import lsq_linear

from h3.common.config import Assumptions
from h3.sources.experiment import Experiment
from h3.sources.requests.low_load import observed
from h3.steps import catalog

FALLBACK = "uncached"
# Requests below this share of max_num_seqs find a free place; near the turn of a round a few more count.
FREE_SHARE, TURN_FREE_SHARE, USUAL_SEQS = 0.8, 0.95, 128.0
LEAST_REQUESTS, LEAST_AT_TURN = 40, 8
# Priors: queueing us (of any client), pipeline steps as in latency.overheads, and a share that is free.
PRIOR_MEAN, PRIOR_SD = np.array([7_000.0, 0.7, 0.5]), np.array([20_000.0, 0.7, 5.0])
OWN_STEPS = 1.5
# What physics and the medians of TTFT cannot be trusted beyond, in us and as a share.
LEAST_SD_US, MODEL_SD = 1_000.0, 0.2
SIGMAS = 2.0
# A fall counts from so many standard deviations on; lengths stand for prompts less well than rounds do; and
# the part of two rounds that is held against one another.
SURE, LENGTH_SD, TURN = 2.5, 0.25, (0.4, 1.0, 1.05, 1.6)
LENGTH_BINS, PERIOD_BINS = 8, 4
# First occurrences count beyond so many requests, when a server has warmed up.
WARM_UP_REQUESTS = 8
WORDS = {
    "repeat": "prompts are cached but for their last block",
    "uncached": "prompts are computed in full",
    "share": "a share of each prompt is computed",
    "none": "left unknown",
    "shared": "the start of each prompt is cached",
    "recorded": "hits are recorded",
}


@dataclass(frozen=True)
class Estimate:
    """Computed share of the prompts ± sd, from so many requests, in words."""

    share: float
    sd: float
    requests: int
    words: str


@dataclass(frozen=True)
class Caching:
    """What is taken as cached, why, and the sentence that says so.

    mode: a key of WORDS; origin: "recorded", "set" (by an assumption), "log" (decided) or "undecided";
    share, sd: computed share of the prompts; low_load: requests that say something; tokens: of mode "shared".
    """

    mode: str
    origin: str
    sentence: str
    share: float | None = None
    sd: float | None = None
    low_load: int | None = None
    tokens: int | None = None

    def record(self) -> dict[str, Any]:
        """As a part of a source's record."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def hits(self, requests: pd.DataFrame, experiment: Experiment) -> np.ndarray:
        """Prompt tokens that each request finds cached, NaN if unknown: recorded hits first, whole blocks
        else.
        """
        prompt, block = requests["prompt_tokens"].to_numpy(float), experiment.block_size_tokens
        taken = {
            "repeat": (prompt - 1) // block * block,
            "share": (1 - (self.share or 0.0)) * prompt // block * block,
            "shared": np.full(len(prompt), (self.tokens or 0) // block * block),
            "none": np.full(len(prompt), np.nan),
        }.get(self.mode, np.zeros(len(prompt)))
        recorded = requests["cached_tokens"].to_numpy(float)
        return np.minimum(np.where(np.isnan(recorded), taken, recorded), prompt - 1)


def lines(record: Mapping[str, Any], brief: bool = False) -> list[str]:
    """A line an experiment whose record says how its prefill was taken; brief: decisions without their
    evidence, doubts whole.
    """
    entries = record.get("experiments", {})
    found = {
        name: entry["prefill"]
        for name, entry in entries.items()
        if isinstance(entry, dict) and "prefill" in entry
    }
    return [
        f"prefill of {name}: {_brief(each) if brief else each['sentence']}" for name, each in found.items()
    ]


def _brief(prefill: Mapping[str, Any]) -> str:
    if prefill["origin"] != "log":
        return str(prefill["sentence"])
    share = f"computed share {prefill['share']:.2f} ± {prefill['sd']:.2f}"
    return f"decided from the log: {prefill['mode']} ({share})"


def decide(requests: pd.DataFrame, experiment: Experiment, assume: Assumptions) -> Caching:
    """What the log's prompts had cached: recorded, set by the assumptions, or decided from the log."""
    unknown = requests["cached_tokens"].isna().to_numpy()
    if len(requests) and not unknown.any():
        return Caching("recorded", "recorded", "recorded")
    shared = {catalog.workload_name(name): tokens for name, tokens in assume.shared_prefix_tokens.items()}
    tokens = shared.get(experiment.workload)
    if tokens is not None:
        words = f"assumed: shared_prefix_tokens={tokens}"
        return Caching("shared", "set", words, tokens=tokens)
    if assume.prefill_tokens != "auto":
        return Caching(assume.prefill_tokens, "set", f"assumed: prefill_tokens={assume.prefill_tokens}")
    return _from_log(requests[unknown], experiment)


def _from_log(requests: pd.DataFrame, experiment: Experiment) -> Caching:
    rows = observed(requests, experiment)
    free = rows[rows["running"] < FREE_SHARE * _seqs(experiment)]
    turn = rows[rows["running"] < TURN_FREE_SHARE * _seqs(experiment)]
    # The first round tells of a cold cache; the level is of what comes after it.
    later = free[(free["round_length"] == 0) | (free["round"] > 0)]
    fall = _fall(turn)
    found = [each for each in (fall, _level(later)) if each is not None]
    if not found:
        return _undecided(f"{len(free)} requests at low load, too few", len(free))
    weights = np.array([1 / each.sd**2 for each in found])
    share = float(np.average([each.share for each in found], weights=weights))
    sd = float(weights.sum() ** -0.5)
    words = f"computed share {share:.2f} ± {sd:.2f}: " + "; ".join(each.words for each in found)
    cached, computed = share - SIGMAS * sd <= 0, share + SIGMAS * sd >= 1
    # A fall speaks for hits (by chance alone in 2 of 48 uncached logs): no ground for calling all computed.
    if computed and (cached or fall is not None):
        return _undecided(words, len(free), share, sd)
    mode = "repeat" if cached else "uncached" if computed else "share"
    sentence = f"decided from the log: {mode}, {WORDS[mode]} ({words})"
    return Caching(mode, "log", sentence, share, sd, len(free))


def _undecided(words: str, low_load: int, share: float | None = None, sd: float | None = None) -> Caching:
    sentence = (
        f"UNDECIDED ({words}); taken as {FALLBACK}, {WORDS[FALLBACK]}. If the server's prefix cache held"
        " them, set source.assume.prefill_tokens=repeat; to confirm, =uncached"
    )
    return Caching(FALLBACK, "undecided", sentence, share, sd, low_load)


def _seqs(experiment: Experiment) -> float:
    return USUAL_SEQS if np.isnan(experiment.max_num_seqs) else experiment.max_num_seqs


def _beyond(rows: pd.DataFrame) -> np.ndarray:
    """TTFT beyond the usual periods, us."""
    return (rows["ttft_us"] - (OWN_STEPS + PRIOR_MEAN[1]) * rows["period_us"]).to_numpy()


def _median(values: np.ndarray) -> tuple[float, float]:
    """Median and its standard deviation, from the median absolute deviation."""
    middle = float(np.median(values))
    return middle, float(1.253 * 1.483 * np.median(np.abs(values - middle)) / np.sqrt(len(values)))


def _fall(rows: pd.DataFrame) -> Estimate | None:
    """The computed share of repeated prompts, where TTFT falls from first ones to repeats; else None."""
    length = int(rows["round_length"].max()) if len(rows) else 0
    if length:
        turns = rows["number"] / length
        first, again = rows[turns.between(*TURN[:2], inclusive="left")], rows[turns.between(*TURN[2:])]
        kind, unsure = "round", MODEL_SD
    else:
        span = rows[rows["number"] < 8 * max(1, int((rows["round"] == 0).sum()))]
        first = span[(span["round"] == 0) & (span["number"] >= WARM_UP_REQUESTS)]
        again, kind, unsure = span[span["round"] >= 4], "occurrence of a length", LENGTH_SD
    if min(len(first), len(again)) < LEAST_AT_TURN:
        return None
    (before, before_sd), (after, after_sd) = _median(_beyond(first)), _median(_beyond(again))
    fall, sd = before - after, float(np.hypot(np.hypot(before_sd, after_sd), LEAST_SD_US))
    least, most = (float(again[name].median()) for name in ("least_us", "most_us"))
    if fall < SURE * sd or fall > 1.5 * most:
        return None
    cost = float(np.clip(fall, least, most))
    words = (
        f"TTFT {first['ttft_us'].median() / 1e3:.0f} ms at the first {kind},"
        f" {again['ttft_us'].median() / 1e3:.0f} at the next, a computed prompt takes {cost / 1e3:.0f}"
    )
    return Estimate(1 - fall / cost, float(np.hypot(sd / cost, unsure)), len(first) + len(again), words)


def _level(free: pd.DataFrame) -> Estimate | None:
    """The computed share from TTFT over prompt length and period; None below LEAST_REQUESTS."""
    if len(free) < LEAST_REQUESTS:
        return None
    length = pd.qcut(free["prefill_us"], LENGTH_BINS, labels=False, duplicates="drop")
    period = pd.qcut(free["period_us"], PERIOD_BINS, labels=False, duplicates="drop")
    table = []
    for _, rows in free.groupby([length.fillna(0), period.fillna(0)]):
        if len(rows) >= LEAST_AT_TURN:
            middle, sd = _median(rows["ttft_us"].to_numpy())
            table.append((middle, sd, rows["period_us"].median(), rows["prefill_us"].median()))
    if not table:
        return None
    ttft, sd, period_us, prefill = np.array(table).T
    noise = np.hypot(np.hypot(sd, LEAST_SD_US), 0.05 * ttft)
    design = np.column_stack([np.ones(len(ttft)), period_us, prefill]) / noise[:, None]
    whole = np.vstack([design, np.diag(1 / PRIOR_SD)])
    target = np.concatenate([(ttft - OWN_STEPS * period_us) / noise, PRIOR_MEAN / PRIOR_SD])
    fit = lsq_linear(whole, target, bounds=([0, 0, -np.inf], np.inf))
    share, spread = float(fit.x[2]), float(np.sqrt(np.linalg.inv(whole.T @ whole)[2, 2]))
    unsure = float(((free["most_us"] - free["least_us"]) / (free["most_us"] + free["least_us"])).median())
    words = f"TTFT of {len(free)} requests at low load against prompt length gives {share:.2f} ± {spread:.2f}"
    sd_all = float(np.hypot(spread, max(abs(share), 0.3) * np.hypot(MODEL_SD, unsure)))
    return Estimate(share, sd_all, len(free), words)
