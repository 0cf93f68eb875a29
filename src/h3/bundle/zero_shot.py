"""What a bundle says of steps, and how far outside the steps of its training they lie.

    table = answer(bundle.read("dist/blis"), steps)       # steps of one deployment: batch.with_deployment
    print(report(table, bundle.read("dist/blis")))

Where a feature lies outside its range in training, or the deployment is none that the trees serve, the
physical base has more of the word, down to all of it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from h3.bundle import standing
from h3.bundle.bundle import Bundle
from h3.bundle.uncertainty import LEVEL, intervals
from h3.models.support import Support
from h3.steps import catalog

SHOWN_ROWS = 20
SHOWN = ["tp", "batch", "context", "prefill", "period_us", "low_us", "high_us"]
SHOWN += ["base_us", "correction", "trust", "outside"]
DEPLOYMENT = "deployment"


def answer(bundle: Bundle, table: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """A row each step of one deployment: hardware, period_us, low_us, high_us, kind, base_us, correction,
    trust, outside, `part_<term>` (us of the base) and features.

    low_us and high_us: the interval that holds a share `level` of measured steps; null where `kind` says that
    there is none.

    `outside` names the features that lie outside the range of training, and "deployment" where the trees
    serve the training deployments only and this is none of them.
    """
    numbers, support = bundle.explain(table), _support(bundle, bool(catalog.is_moe(table)[0]))
    names = [feature.name for feature in bundle.manifest.features]
    matrix = numbers[names].to_numpy()
    off = np.column_stack([(matrix < support.low) | (matrix > support.high), ~support.serves(table)])
    period_us = np.maximum(1.0, numbers["us"].to_numpy())
    between = intervals(bundle.evidence, table, period_us, level)
    told = pd.DataFrame(
        {
            "hardware": table["hardware"],
            "period_us": period_us,
            **{name: between[name] for name in between},
            "base_us": numbers["base_us"],
            "correction": numbers["us"] / numbers["base_us"],
            "trust": numbers["trust"],
            "outside": [", ".join(np.array([*names, DEPLOYMENT])[row]) for row in off],
        }
    )
    return told.join(numbers.filter(like="part_")).join(numbers[names])


def _support(bundle: Bundle, moe: bool) -> Support:
    return bundle.fitted_by_route()["moe" if moe else "dense"].support


def report(answered: pd.DataFrame, bundle: Bundle, level: float = LEVEL) -> str:
    """A short table, the kinds of its intervals, and how far outside the tested range the question is."""
    lines = [answered[SHOWN].head(SHOWN_ROWS).to_string(index=False, float_format=_short)]
    if len(answered) > SHOWN_ROWS:
        lines.append(f"... {len(answered) - SHOWN_ROWS} more rows")
    outside = int((answered["outside"] != "").sum())
    lines += [*_intervals(answered, bundle, level), standing.told(bundle)]
    if not outside:
        return "\n".join([*lines, "every row lies inside the range of the training steps"])
    lines.append(
        f"{outside} of {len(answered)} rows lie outside the range of the training steps; trust"
        f" {answered['trust'].min():.2f} at least"
    )
    if answered["outside"].str.contains(DEPLOYMENT).any():
        lines.append(
            "  deployment: another architecture, TP degree or hardware than in training: the physical base"
            " answers alone"
        )
    return "\n".join(lines + [f"  {line}" for line in _ranges(answered, bundle)])


def _intervals(answered: pd.DataFrame, bundle: Bundle, level: float) -> list[str]:
    """A line a kind: of how many rows, how wide, from how many groups, and what was covered."""
    lines = []
    for kind, rows in answered.groupby("kind", sort=False):
        first = rows.iloc[0]
        if np.isnan(first["low_us"]):
            lines.append(f"{kind} ({len(rows)} rows)")
            continue
        low, high = (100 * (first[name] / first["period_us"] - 1) for name in ("low_us", "high_us"))
        said = standing.kinds_told(bundle.manifest.uncertainty, str(kind).split(" + "), level)
        lines.append(f"{100 * level:g} % interval {low:+.1f} to {high:+.1f} % ({len(rows)} rows): {said}")
    return lines


def _short(value: float) -> str:
    return f"{value:.4g}" if value < 100 else f"{value:.1f}"


def _ranges(answered: pd.DataFrame, bundle: Bundle) -> list[str]:
    """Each feature that is outside somewhere: its range here and in training."""
    outside = {name for text in answered["outside"].unique() for name in text.split(", ") if name}
    support = _support(bundle, bool(answered["part_moe_layers"].max() > 0))
    told = []
    for number, feature in enumerate(bundle.manifest.features):
        if feature.name in outside:
            here = answered[feature.name]
            training = f"training {support.low[number]:.4g} to {support.high[number]:.4g}"
            told.append(f"{feature.name}: {here.min():.4g} to {here.max():.4g}, {training}")
    return told
