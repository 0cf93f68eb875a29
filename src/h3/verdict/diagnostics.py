"""Where a fold is wrong, and how: bias or spread, over or under, which steps. From its predictions alone.

    # 0.9: one factor would remove 90 % of the error
    diagnose(pd.read_parquet("predictions.parquet"))["bias_share"]

A table of predictions is evaluate.predict's: a row a held-out step, time in us, `ape` in %.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

BATCH_EDGES = (0, 1, 8, 32, 64, 96, 128, np.inf)
QUANTILES = 5
WORST = 20
COLUMNS = [
    "experiment",
    "model",
    "workload",
    "step_id",
    "num_prefill_reqs",
    "num_decode_reqs",
    "prefill_tokens",
    "decode_tokens",
    "decode_kv_tokens_sum",
    "observed_us",
    "predicted_us",
    "base_us",
    "ape",
    "phase",
    "clock",
]


def diagnose(predictions: pd.DataFrame) -> dict:
    """Every diagnostic of one fold, JSON-serialisable; n = 0 and None for an empty table.

    whole: `describe` of all steps; by_phase, by_batch, by_kv, by_period, by_experiment: lists of `describe`
    with a label;
    worst: the twenty steps of largest ape with their context.
    """
    batch = predictions["num_prefill_reqs"].fillna(0) + predictions["num_decode_reqs"].fillna(0)
    return {
        "whole": describe(predictions),
        "by_phase": _by(predictions, predictions["phase"]),
        "by_batch": _by(predictions, pd.cut(batch, BATCH_EDGES, right=False)),
        "by_kv": _by(predictions, _quantiles(predictions["decode_kv_tokens_sum"])),
        "by_period": _by(predictions, _quantiles(predictions["observed_us"] / 1e3)),
        "by_experiment": _by(predictions, predictions["experiment"]),
        "worst": worst(predictions),
    }


def describe(rows: pd.DataFrame) -> dict:
    """n, MAPE and signed error in %, share of steps overpredicted, bias_share and whether that is bias or
    spread.
    """
    if not len(rows):
        return {
            "n": 0,
            "mape": None,
            "bias": None,
            "over_share": None,
            "bias_share": None,
            "says": "no steps",
        }
    ratio = (rows["predicted_us"] / rows["observed_us"]).to_numpy(float)
    share = bias_share(ratio)
    bias = float(100 * (ratio - 1).mean())
    return {
        "n": len(rows),
        "mape": float(100 * np.abs(ratio - 1).mean()),
        "bias": bias,
        "over_share": float((ratio > 1).mean()),
        "bias_share": share,
        "says": f"{'over' if bias > 0 else 'under'}, {'bias' if share > 0.5 else 'spread'}",
    }


def bias_share(ratio: np.ndarray) -> float:
    """Share of the squared log error that one multiplicative constant would remove: mean(log r)² / mean(log²
    r).

    ratio: predicted / observed, shape (rows,). 1: every step is off by the same factor; 0: no factor helps. 0
    without error.
    """
    logs = np.log(ratio)
    total = float((logs**2).mean())
    return float(logs.mean() ** 2 / total) if total > 0 else 0.0


def _quantiles(values: pd.Series) -> pd.Series:
    """Which fifth of its values each row is in, as an interval; rows without a value are "unknown"."""
    known = values.dropna()
    if known.empty:
        return pd.Series("unknown", index=values.index)
    cut = pd.qcut(known, QUANTILES, duplicates="drop")
    return cut.reindex(values.index)


def _by(predictions: pd.DataFrame, group: pd.Series) -> list[dict]:
    """`describe` of each group, in the order of its values; rows without a group come last as "unknown"."""
    parts = [
        {"label": _label(name), **describe(rows)}
        for name, rows in predictions.groupby(group, observed=True, sort=True)
    ]
    rest = predictions[group.isna().to_numpy()]
    return parts + ([{"label": "unknown", **describe(rest)}] if len(rest) else [])


def _label(name: object) -> str:
    if not isinstance(name, pd.Interval):
        return str(name)
    if name.right == np.inf:
        return f"from {name.left:,.0f}"
    if name.closed == "left":
        last = name.right - 1
        return f"{name.left:,.0f}" if last == name.left else f"{name.left:,.0f}–{last:,.0f}"
    digits = 0 if name.right >= 1000 else 1
    return f"{max(name.left, 0):,.{digits}f}–{name.right:,.{digits}f}"


def worst(predictions: pd.DataFrame, count: int = WORST) -> list[dict]:
    """The steps of largest ape, worst first, with what was in them; ties in the order of the table."""
    rows = predictions.sort_values("ape", ascending=False, kind="stable").head(count)
    return [{name: _plain(row[name]) for name in COLUMNS if name in rows} for _, row in rows.iterrows()]


def _plain(value: object) -> object:
    if isinstance(value, float | np.floating):
        return None if np.isnan(value) else float(value)
    return int(value) if isinstance(value, np.integer) else value
