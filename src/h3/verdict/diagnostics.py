"""Where a fold is wrong, and how: bias or spread, over or under, which steps. From its predictions alone.

    diagnose(predictions).whole.bias_share       # 0.9: one factor would remove 90 % of the error

A table of predictions is one_fold.predict's: a row a held-out step, time in us, `ape` in %.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from h3.common.records import Number, Record

BATCH_EDGES = (0, 1, 8, 32, 64, 96, 128, np.inf)
QUANTILES = 5
WORST = 20


class Described(Record):
    """Some steps: n, MAPE and signed error in %, share of steps overpredicted, bias_share and whether that is
    bias or spread; label: which steps they are (None: all).
    """

    label: str | None = None
    n: int = 0
    mape: Number = None
    bias: Number = None
    over_share: Number = None
    bias_share: Number = None
    says: str = "no steps"


class WorstStep(Record):
    """A step and what was in it; times in us, ape in %."""

    experiment: str
    model: str | None = None
    workload: str | None = None
    step_id: int
    num_prefill_reqs: Number = None
    num_decode_reqs: Number = None
    prefill_tokens: Number = None
    decode_tokens: Number = None
    decode_kv_tokens_sum: Number = None
    observed_us: float
    predicted_us: float
    base_us: float
    ape: float
    phase: str = ""
    clock: int | None = None


class Diagnosis(Record):
    """One fold: all steps, groups of steps, and the twenty steps of largest ape."""

    whole: Described
    by_phase: list[Described]
    by_batch: list[Described]
    by_kv: list[Described]
    by_period: list[Described]
    by_experiment: list[Described]
    worst: list[WorstStep]


def diagnose(predictions: pd.DataFrame) -> Diagnosis:
    """Every diagnostic of one fold; n = 0 and None for an empty table."""
    batch = predictions["num_prefill_reqs"].fillna(0) + predictions["num_decode_reqs"].fillna(0)
    return Diagnosis(
        whole=describe(predictions),
        by_phase=_by(predictions, predictions["phase"]),
        by_batch=_by(predictions, pd.cut(batch, BATCH_EDGES, right=False)),
        by_kv=_by(predictions, _quantiles(predictions["decode_kv_tokens_sum"])),
        by_period=_by(predictions, _quantiles(predictions["observed_us"] / 1e3)),
        by_experiment=_by(predictions, predictions["experiment"]),
        worst=worst(predictions),
    )


def describe(rows: pd.DataFrame, label: str | None = None) -> Described:
    """What is to be said of some steps."""
    if not len(rows):
        return Described(label=label)
    ratio = (rows["predicted_us"] / rows["observed_us"]).to_numpy(float)
    share = bias_share(ratio)
    bias = float(100 * (ratio - 1).mean())
    return Described(
        label=label,
        n=len(rows),
        mape=float(100 * np.abs(ratio - 1).mean()),
        bias=bias,
        over_share=float((ratio > 1).mean()),
        bias_share=share,
        says=f"{'over' if bias > 0 else 'under'}, {'bias' if share > 0.5 else 'spread'}",
    )


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


def _by(predictions: pd.DataFrame, group: pd.Series) -> list[Described]:
    """`describe` of each group, in the order of its values; rows without a group come last as "unknown"."""
    groups = predictions.groupby(group, observed=True, sort=True)
    parts = [describe(rows, _label(name)) for name, rows in groups]
    rest = predictions[group.isna().to_numpy()]
    return parts + ([describe(rest, "unknown")] if len(rest) else [])


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


def worst(predictions: pd.DataFrame, count: int = WORST) -> list[WorstStep]:
    """The steps of largest ape, worst first, with what was in them; ties in the order of the table."""
    rows = predictions.sort_values("ape", ascending=False, kind="stable").head(count)
    return [WorstStep.model_validate(row) for row in rows.to_dict("records")]
