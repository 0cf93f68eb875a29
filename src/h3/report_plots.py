"""Figures of the comparison: plain tables in, matplotlib figures out, and a figure as SVG text. Readable without colour.

    svg(heat_map(rows, columns, values, "MAPE, %"))
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from h3 import plots  # noqa: F401  (its style, and matplotlib without a screen)

WIDTH = 8.5
SIGNED_EDGE = 40.0


def svg(figure: Figure) -> str:
    """The figure as SVG, the same text for the same figure; the figure is freed."""
    with plt.rc_context({"svg.hashsalt": "h3", "svg.fonttype": "path"}):
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return target.getvalue()


def fold_intervals(folds: list[dict], refute: float) -> Figure:
    """MAPE of each fold with its 95 % interval, and its threshold as a tick; folds without a result say so."""
    figure, axes = plt.subplots(figsize=(WIDTH, 0.42 * len(folds) + 1.1), layout="constrained")
    for place, row in enumerate(reversed(folds)):
        axes.plot([row["threshold"]] * 2, [place - 0.32, place + 0.32], color="black", linewidth=2)
        if row["interval"] is None:
            axes.text(0.3, place, row["status"], va="center", style="italic")
            continue
        low, high = row["interval"]
        axes.plot([low, high], [place, place], color="black", linewidth=5, alpha=0.35, solid_capstyle="butt")
        axes.plot(row["mape"], place, marker="o", color="black")
        axes.text(high, place, f"  {row['mape']:.1f} [{low:.1f}–{high:.1f}]", va="center", fontsize=9)
    axes.axvline(refute, color="black", linestyle=":", label=f"refuted if the lower bound is above {refute:g} %")
    axes.set(yticks=range(len(folds)), yticklabels=[row["fold"] for row in reversed(folds)], xlabel="MAPE, % (dot), 95 % interval (bar), "
             "threshold (upright stroke)")
    axes.set_xlim(0, max([refute * 1.15, *(row["interval"][1] * 1.35 for row in folds if row["interval"])]))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.1), fontsize=8, frameon=False)
    return figure


def waterfall(rows: list[dict]) -> Figure:
    """Held-out error after each step on a log axis, with what the step changed and the error on training rows."""
    figure, axes = plt.subplots(figsize=(WIDTH, 4.4), layout="constrained")
    values = [row["mape"] for row in rows]
    for place, row in enumerate(rows):
        last = place in (0, len(rows) - 1)
        before = values[place - 1] if place > 1 else None  # the study's own number is of other data
        if place < 2 or last:
            axes.bar(place, row["mape"] - 1, bottom=1, width=0.6, color="0.35" if place == len(rows) - 1 else "0.75", edgecolor="black",
                     hatch="//" if place == 0 else "")
        else:
            low, high = sorted((before, row["mape"]))
            axes.bar(place, high - low, bottom=low, width=0.6, color="0.9", edgecolor="black", hatch="" if row["mape"] < before else "xx")
        axes.text(place, max(row["mape"], before or 0) * 1.12, f"{row['mape']:,.1f} %", ha="center", fontsize=10, weight="bold")
        if row["train"] is not None:
            axes.plot(place, max(row["train"], 1), marker="D", color="black", markerfacecolor="white", label="error on training rows")
        if before is not None:
            axes.plot([place - 0.7, place - 0.3], [before] * 2, color="black", linewidth=1)
    axes.set(yscale="log", ylim=(1, max(values) * 3), ylabel="MAPE on held-out models, % (log)", xticks=range(len(rows)))
    axes.set_xticklabels([row["label"].replace(", ", ",\n").replace("+ ", "+\u00a0").replace(" ", "\n", 1) for row in rows], fontsize=9)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles[:1], labels[:1], fontsize=9, frameon=False)
    return figure


def error_distributions(predictions: dict[str, pd.DataFrame], model: str) -> Figure:
    """Signed error of each fold, a small panel each on the same axes, with mean and 5-95 % range."""
    rows = -(-len(predictions) // 2)
    figure, panels = plt.subplots(rows, 2, figsize=(WIDTH, 1.75 * rows + 0.4), sharex=True, layout="constrained", squeeze=False)
    for axes, (fold, frame) in zip(panels.flat, predictions.items(), strict=False):
        signed = 100 * (frame["predicted_us"] / frame["observed_us"] - 1).to_numpy()
        axes.stairs(*np.histogram(signed.clip(-SIGNED_EDGE, SIGNED_EDGE), np.linspace(-SIGNED_EDGE, SIGNED_EDGE, 81)), fill=True, color="0.6")
        low, high = np.quantile(signed, [0.05, 0.95])
        axes.axvline(0, color="black", linewidth=1)
        axes.axvline(signed.mean(), color="black", linestyle="--", linewidth=1.5)
        axes.axvspan(low, high, color="0.5", alpha=0.15)
        axes.set(title=f"{fold}: mean {signed.mean():+.1f} %, 5–95 %: {low:+.0f} to {high:+.0f}", yticks=[])
        axes.title.set_size(9.5)
    for axes in panels.flat[len(predictions):]:
        axes.set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel(f"signed error of {model}, % (beyond ±{SIGNED_EDGE:g} at the edge)", fontsize=9)
    return figure


def heat_map(names: tuple[Sequence[str], Sequence[str]], values: np.ndarray, label: str, texts: np.ndarray, log: bool = True) -> Figure:
    """Values of shape (rows, columns) as shades with their text in each cell; NaN is empty. names: (rows, columns)."""
    rows, columns = names
    size = (max(WIDTH * 0.6, 2.2 + 0.72 * len(columns)), 0.36 * len(rows) + 1.2)
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    shade = np.log10(np.clip(values, 1e-3, None)) if log else values
    low, high = (np.nanmin(shade), np.nanmax(shade)) if np.isfinite(shade).any() else (0, 1)
    axes.imshow(shade, cmap="Greys", vmin=low, vmax=high + 0.35 * max(high - low, 1e-9), aspect="auto")
    for (row, column), value in np.ndenumerate(shade):
        dark = np.isfinite(value) and (value - low) > 0.8 * max(high - low, 1e-9)
        axes.text(column, row, texts[row, column], ha="center", va="center", fontsize=9, color="white" if dark else "black")
    axes.set(yticks=range(len(rows)), yticklabels=rows, xticks=range(len(columns)), title=label)
    axes.set_xticklabels([name.replace("_", "\n").replace(" ", "\n") for name in columns], fontsize=8)
    axes.title.set_size(10)
    axes.grid(False)
    axes.tick_params(length=0)
    return figure
