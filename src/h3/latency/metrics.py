"""What a replay's table says: errors of E2E, TTFT and ITL, throughput, running batch, saturation.

    numbers = experiment_metrics("20260217-...", table)   # as replay_result.ReplayedRun has them
    summary(runs)                                         # over ReplayedRuns, saturated ones apart

A table has one row a request, with columns <predicted|measured>_<ttft|itl|e2e>_us, predicted_first_us,
predicted_last_us, first_us, last_us, arrival_us, output_tokens and status. Errors are in %, predicted over
measured, signed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from h3.evaluation.replay_result import ReplayedRun, Summary
from h3.steps.metrics import mape

TIMES = ("e2e", "ttft", "itl")
STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "mean": np.mean,
    **{f"p{100 * q:.0f}": partial(np.quantile, q=q) for q in (0.5, 0.9, 0.99)},
}
# A queue grows without bound if the wait rises by 1 % of the time that passes (demand 1 % above capacity)
# over the second half of the arrivals, and ends above a quarter of the time that a request decodes.
GROWTH_RATIO, WAIT_SHARE, TREND_BINS, LEAST_REQUESTS = 0.01, 0.25, 10, 100
GRID_POINTS = 400


def experiment_metrics(name: str, table: pd.DataFrame) -> dict[str, Any]:
    """All numbers of one experiment; over requests with both a measured and a predicted value, NaN where
    there are none.
    """
    entry: dict[str, Any] = {"experiment": name, "requests": len(table)}
    for time in TIMES:
        pair = table[[f"predicted_{time}_us", f"measured_{time}_us"]].dropna()
        predicted, measured = pair.to_numpy().T
        entry |= {
            f"{time}_{statistic}_error": _error(compute, predicted, measured)
            for statistic, compute in STATISTICS.items()
        }
        entry[f"{time}_mape"] = mape(predicted[measured > 0], measured[measured > 0])
    counts = table["status"].value_counts()
    measured_grows = saturated(table, "first_us", "last_us")
    predicted_grows = saturated(table, "predicted_first_us", "predicted_last_us")
    return (
        entry
        | throughput(table)
        | running(table)
        | {
            "unfinished": int(counts.get("unfinished", 0)),
            "rejected": int(counts.get("rejected", 0)),
            "unmeasured": int(table["measured_e2e_us"].isna().sum()),
            "preemptions": int(table["preemptions"].sum()),
            "saturated_measured": measured_grows,
            "saturated_predicted": predicted_grows,
            "saturated": measured_grows or predicted_grows,
        }
    )


def _error(statistic: Callable[[np.ndarray], float], predicted: np.ndarray, measured: np.ndarray) -> float:
    if not len(measured) or statistic(measured) == 0:
        return float("nan")
    return float(100 * (statistic(predicted) / statistic(measured) - 1))


def saturated(table: pd.DataFrame, first: str, last: str) -> bool:
    """Whether the queue grows without bound over the second half of the arrivals (constants above).

    The trend is the median slope between medians of the wait in TREND_BINS groups of arrivals, so that bursts
    and a queue that drains do not count. A request that never started waits until the last one that did.
    """
    rows = table[table["status"] != "rejected"].sort_values("arrival_us", kind="stable")
    if len(rows) < LEAST_REQUESTS or not rows[first].notna().any():
        return False
    arrival = rows["arrival_us"].to_numpy()
    wait = rows[first].fillna(rows[first].max()).to_numpy() - arrival
    halves = np.array_split(np.arange(len(rows) // 2, len(rows)), TREND_BINS)
    x, y = (np.array([np.median(values[part]) for part in halves]) for values in (arrival, wait))
    left, right = np.triu_indices(TREND_BINS, 1)
    slope = np.median((y[right] - y[left]) / np.maximum(x[right] - x[left], 1e-9))
    return bool(slope > GROWTH_RATIO and y[-1] > WAIT_SHARE * np.nanmedian(rows[last] - rows[first]))


def throughput(table: pd.DataFrame) -> dict[str, float]:
    """Output tokens a second from the first arrival to the last token, measured and predicted, and the
    error.
    """
    rates = {}
    for kind, last in (("measured", "last_us"), ("predicted", "predicted_last_us")):
        rows = table[table[last].notna()]
        span_us = rows[last].max() - table["arrival_us"].min() if len(rows) else 0.0
        rates[f"throughput_{kind}_tokens_s"] = (
            float(1e6 * rows["output_tokens"].sum() / span_us) if span_us > 0 else float("nan")
        )
    return rates | {
        "throughput_error": (
            100 * (rates["throughput_predicted_tokens_s"] / rates["throughput_measured_tokens_s"] - 1)
        )
    }


def concurrency(table: pd.DataFrame, first: str, last: str, times_us: np.ndarray) -> np.ndarray:
    """Requests between first and last token at the given times."""
    begun, ended = (np.sort(table[name].dropna().to_numpy()) for name in (first, last))
    return np.searchsorted(begun, times_us, side="right") - np.searchsorted(ended, times_us, side="right")


def running_series(table: pd.DataFrame) -> pd.DataFrame:
    """Running requests over time, measured and predicted: time_us, measured, predicted at GRID_POINTS
    times.
    """
    end = np.nanmax([table["last_us"].max(), table["predicted_last_us"].max(), table["arrival_us"].max()])
    times = np.linspace(table["arrival_us"].min(), end, GRID_POINTS)
    return pd.DataFrame(
        {
            "time_us": times,
            "measured": concurrency(table, "first_us", "last_us", times),
            "predicted": concurrency(table, "predicted_first_us", "predicted_last_us", times),
        }
    )


def running(table: pd.DataFrame) -> dict[str, float]:
    """Mean running batch, measured and predicted, and their mean absolute difference, in requests."""
    series = running_series(table)
    return {
        "running_measured_mean": float(series["measured"].mean()),
        "running_predicted_mean": float(series["predicted"].mean()),
        "running_mean_abs_error": float((series["predicted"] - series["measured"]).abs().mean()),
    }


def summary(entries: Sequence[ReplayedRun]) -> Summary:
    """Over experiments: median, mean and worst |error of the mean| of each time; for all, and for those not
    saturated.
    """
    out: Summary = {
        "experiments": len(entries),
        "saturated": [entry.experiment for entry in entries if entry.saturated],
    }
    for label, kept in (
        ("all", entries),
        ("unsaturated", [entry for entry in entries if not entry.saturated]),
    ):
        for time in TIMES:
            known = [entry.mean_error(time) for entry in kept]
            errors = np.abs([error for error in known if error is not None])
            for statistic, compute in (("median", np.median), ("mean", np.mean), ("worst", np.max)):
                out[f"{label}_{time}_{statistic}"] = float(compute(errors)) if len(errors) else None
    return out
