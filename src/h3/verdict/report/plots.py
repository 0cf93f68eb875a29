"""Figures of the comparison: records in, matplotlib figures out, and a figure as SVG text.

    svg(lambda: waterfall(verdict.ablation.waterfall))

Readable without colour, and the same whatever else the process has drawn.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

from h3.verdict.ablation import Step
from h3.verdict.hypothesis import FoldVerdict

WIDTH, SMALL = 6.4, (3.6, 1.9)  # inches: readable on a phone without scrolling
SIGNED_EDGE = 40.0
STYLE: dict[RcKeyType, Any] = {
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "h3",
    "svg.fonttype": "path",
}


def svg(draw: Callable[[], Figure]) -> str:
    """The figure that `draw` makes, as SVG, the same text for the same figure."""
    with rc_context(STYLE):
        target = io.StringIO()
        draw().savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    return target.getvalue()


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def fold_intervals(folds: Sequence[FoldVerdict], refute: float) -> Figure:
    """MAPE of each fold with its 95 % intervals, over steps in black, over experiments in grey below; its
    threshold as a tick; folds without a result say so.
    """
    figure, axes = _axes(WIDTH, 0.36 * len(folds) + 1.1)
    highs = [pair[1] for row in folds for pair in (row.interval, row.over_experiments) if pair]
    end = max([refute * 1.15, *(high * 1.5 for high in highs if high is not None)])
    for place, row in enumerate(reversed(folds)):
        axes.plot([row.threshold] * 2, [place - 0.32, place + 0.32], color="black", linewidth=2.5)
        _fold_interval(axes, place, row, end)
    axes.axvline(refute, color="black", linestyle=":")
    names = [row.fold.replace("_", " ") for row in reversed(folds)]
    axes.set(yticks=range(len(folds)), yticklabels=names, xlim=(0, end))
    dotted = f"dotted: refuted if the lower bound is above {refute:g} %"
    told = "dot with 95 % interval over steps (black) and over experiments (grey)"
    axes.set_xlabel(f"MAPE, %: {told};\nupright stroke: threshold; {dotted}")
    return figure


def _fold_interval(axes: Axes, place: int, row: FoldVerdict, end: float) -> None:
    low, high = row.interval or (None, None)
    if row.mape is None or low is None or high is None:
        axes.text(end / 80, place, row.status, va="center", style="italic", fontsize=9)
        return
    wide = row.over_experiments or (None, None)
    if wide[0] is not None and wide[1] is not None:
        axes.plot([wide[0], wide[1]], [place - 0.2] * 2, color="0.5", linewidth=1.5, marker="|", markersize=6)
    axes.plot([low, high], [place, place], color="black", linewidth=1.5, marker="|", markersize=9)
    axes.plot(row.mape, place, marker="o", markersize=4, color="black")
    axes.text(high, place, f"   {row.mape:.1f} [{low:.1f}–{high:.1f}]", va="center", fontsize=9)


def waterfall(steps: Sequence[Step]) -> Figure:
    """Held-out error after each step on a log axis; what the step changed, and the error on training rows."""
    figure, axes = _axes(WIDTH, 4.4)
    values = [np.nan if step.mape is None else step.mape for step in steps]
    for place, (step, value) in enumerate(zip(steps, values, strict=True)):
        before = values[place - 1] if place > 1 else None  # the study's own number is of other data
        _bar(axes, place, value, before, last=place == len(steps) - 1)
        told = f"{'→ ' if before else ''}{value:,.1f} %"
        axes.text(place, max(value, before or 0) * 1.12, told, ha="center", fontsize=9, weight="bold")
        if step.train is not None:
            _training_error(axes, place, step.train)
        if before is not None:
            axes.plot([place - 0.7, place - 0.3], [before] * 2, color="black", linewidth=1)
    label = "MAPE on held-out models, % (log)"
    axes.set(yscale="log", ylim=(1, max(values) * 3), ylabel=label, xticks=range(len(steps)))
    names = [textwrap.fill(step.label.replace("+ ", "+\u00a0"), 11) for step in steps]
    axes.set_xticklabels(names, fontsize=8.5)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles[:1], labels[:1], fontsize=9, frameon=False)
    return figure


def _bar(axes: Axes, place: int, value: float, before: float | None, last: bool) -> None:
    """The whole error of the study, its recipe here, and the last step; what changed of the others."""
    if before is None or last:
        color, hatch = "0.35" if last else "0.75", "" if place else "//"
        axes.bar(place, value - 1, bottom=1, width=0.6, color=color, edgecolor="black", hatch=hatch)
        return
    low, high = sorted((before, value))
    hatch = "" if value < before else "xx"
    axes.bar(place, high - low, bottom=low, width=0.6, color="0.9", edgecolor="black", hatch=hatch)


def _training_error(axes: Axes, place: int, train: float) -> None:
    label = "error on training rows"
    axes.plot(place, max(train, 1), marker="D", color="black", markerfacecolor="white", label=label)


def error_distribution(frame: pd.DataFrame, fold: str) -> Figure:
    """Signed error of one fold's steps, all folds on the same axis, with mean and 5-95 % range."""
    figure, axes = _axes(*SMALL)
    signed = 100 * (frame["predicted_us"] / frame["observed_us"] - 1).to_numpy(float)
    edges = np.linspace(-SIGNED_EDGE, SIGNED_EDGE, 81)
    counts, _ = np.histogram(signed.clip(-SIGNED_EDGE, SIGNED_EDGE), edges)
    axes.stairs(counts, edges, fill=True, color="0.6")
    low, high = np.quantile(signed, [0.05, 0.95])
    axes.axvline(0, color="black", linewidth=1)
    axes.axvline(signed.mean(), color="black", linestyle="--", linewidth=1.5)
    axes.axvspan(low, high, color="0.5", alpha=0.15)
    rounded = ((signed.mean(), 1), (low, 0), (high, 0))
    mean, low, high = (round(value, digits) + 0.0 for value, digits in rounded)  # no "-0"
    axes.set(yticks=[], xlim=(-SIGNED_EDGE, SIGNED_EDGE), xticks=range(-40, 41, 20))
    axes.set_title(f"{fold.replace('_', ' ')}: {mean:+.1f} % ({low:+.0f} to {high:+.0f})", fontsize=9.5)
    return figure
