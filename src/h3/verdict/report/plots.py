"""Figures of the comparison: plain tables in, matplotlib figures out, and a figure as SVG text. Readable
without colour.

svg(waterfall(steps))
"""

from __future__ import annotations

import io
import textwrap

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

WIDTH, SMALL = 6.4, (3.6, 1.9)  # inches: readable on a phone without scrolling
SIGNED_EDGE = 40.0


def svg(figure: Figure) -> str:
    """The figure as SVG, the same text for the same figure; the figure is freed."""
    with plt.rc_context({"svg.hashsalt": "h3", "svg.fonttype": "path"}):
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return target.getvalue()


def fold_intervals(folds: list[dict], refute: float) -> Figure:
    """MAPE of each fold with its 95 % interval, and its threshold as a tick; folds without a result say
    so.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.36 * len(folds) + 1.1), layout="constrained")
    end = max([refute * 1.15, *(row["interval"][1] * 1.5 for row in folds if row["interval"])])
    for place, row in enumerate(reversed(folds)):
        axes.plot([row["threshold"]] * 2, [place - 0.32, place + 0.32], color="black", linewidth=2.5)
        if row["interval"] is None:
            axes.text(end / 80, place, row["status"], va="center", style="italic", fontsize=9)
            continue
        low, high = row["interval"]
        axes.plot([low, high], [place, place], color="black", linewidth=1.5, marker="|", markersize=9)
        axes.plot(row["mape"], place, marker="o", markersize=4, color="black")
        axes.text(high, place, f"   {row['mape']:.1f} [{low:.1f}–{high:.1f}]", va="center", fontsize=9)
    axes.axvline(refute, color="black", linestyle=":")
    axes.set(
        yticks=range(len(folds)),
        yticklabels=[row["fold"].replace("_", " ") for row in reversed(folds)],
        xlim=(0, end),
    )
    dotted = f"dotted: refuted if the lower bound is above {refute:g} %"
    axes.set_xlabel(f"MAPE, %: dot with 95 % interval; upright stroke: threshold;\n{dotted}")
    return figure


def waterfall(rows: list[dict]) -> Figure:
    """Held-out error after each step on a log axis, with what the step changed and the error on training
    rows.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 4.4), layout="constrained")
    values = [row["mape"] for row in rows]
    for place, row in enumerate(rows):
        last = place in (0, len(rows) - 1)
        before = values[place - 1] if place > 1 else None  # the study's own number is of other data
        if place < 2 or last:
            axes.bar(
                place,
                row["mape"] - 1,
                bottom=1,
                width=0.6,
                color="0.35" if place == len(rows) - 1 else "0.75",
                edgecolor="black",
                hatch="//" if place == 0 else "",
            )
        else:
            low, high = sorted((before, row["mape"]))
            axes.bar(
                place,
                high - low,
                bottom=low,
                width=0.6,
                color="0.9",
                edgecolor="black",
                hatch="" if row["mape"] < before else "xx",
            )
        told = f"{'→ ' if before else ''}{row['mape']:,.1f} %"
        axes.text(place, max(row["mape"], before or 0) * 1.12, told, ha="center", fontsize=9, weight="bold")
        if row["train"] is not None:
            axes.plot(
                place,
                max(row["train"], 1),
                marker="D",
                color="black",
                markerfacecolor="white",
                label="error on training rows",
            )
        if before is not None:
            axes.plot([place - 0.7, place - 0.3], [before] * 2, color="black", linewidth=1)
    axes.set(
        yscale="log",
        ylim=(1, max(values) * 3),
        ylabel="MAPE on held-out models, % (log)",
        xticks=range(len(rows)),
    )
    axes.set_xticklabels(
        [textwrap.fill(row["label"].replace("+ ", "+\u00a0"), 11) for row in rows], fontsize=8.5
    )
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles[:1], labels[:1], fontsize=9, frameon=False)
    return figure


def error_distribution(frame: pd.DataFrame, fold: str) -> Figure:
    """Signed error of one fold's steps, all folds on the same axis, with mean and 5-95 % range."""
    figure, axes = plt.subplots(figsize=SMALL, layout="constrained")
    signed = 100 * (frame["predicted_us"] / frame["observed_us"] - 1).to_numpy()
    edges = np.linspace(-SIGNED_EDGE, SIGNED_EDGE, 81)
    axes.stairs(*np.histogram(signed.clip(-SIGNED_EDGE, SIGNED_EDGE), edges), fill=True, color="0.6")
    low, high = np.quantile(signed, [0.05, 0.95])
    axes.axvline(0, color="black", linewidth=1)
    axes.axvline(signed.mean(), color="black", linestyle="--", linewidth=1.5)
    axes.axvspan(low, high, color="0.5", alpha=0.15)
    mean, low, high = (
        round(value, digits) + 0.0 for value, digits in ((signed.mean(), 1), (low, 0), (high, 0))
    )
    axes.set(yticks=[], xlim=(-SIGNED_EDGE, SIGNED_EDGE), xticks=range(-40, 41, 20))
    axes.set_title(f"{fold.replace('_', ' ')}: {mean:+.1f} % ({low:+.0f} to {high:+.0f})", fontsize=9.5)
    return figure
