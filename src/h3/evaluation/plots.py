"""Every figure of a fold. Each function takes plain tables and returns a matplotlib figure; nothing is shown
or saved.

    figure = error_distribution(predictions, "lomo_mixtral")

Readable without colour: line styles and markers differ, text says what is shown.
"""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

plt.rcParams.update(
    {
        "figure.dpi": 110,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)
STYLES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 3)))
MARKERS = "osD^vP"


def error_distribution(predictions: pd.DataFrame, title: str) -> Figure:
    """Histogram of the signed error and ECDF of the absolute error (log scale), one line an experiment."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    signed = 100 * (predictions["predicted_us"] / predictions["observed_us"] - 1)
    low, high = np.quantile(signed, [0.005, 0.995])
    left.hist(signed.clip(low, high), bins=80, color="0.6", edgecolor="none")
    left.axvline(0, color="black", linewidth=1)
    left.axvline(signed.mean(), color="black", linestyle="--", label=f"mean {signed.mean():+.1f} %")
    left.set(
        xlabel="signed error, % (outer 0.5 % of steps at the edges)",
        ylabel="steps",
        title=f"{title}: signed error",
    )
    left.legend()
    for index, (name, rows) in enumerate(predictions.groupby("experiment")):
        errors = np.sort(rows["ape"].to_numpy())
        right.step(
            np.maximum(errors, 0.01),
            np.linspace(0, 1, len(errors)),
            linestyle=STYLES[index % len(STYLES)],
            label=short(name),
        )
    right.set(
        xscale="log",
        xlabel="absolute error, %",
        ylabel="share of steps at most so wrong",
        title="absolute error (ECDF)",
    )
    right.legend(fontsize=8)
    return figure


def predicted_against_measured(predictions: pd.DataFrame, title: str, observed: str = "measured") -> Figure:
    """Scatter of predicted against observed time on log axes, one marker an experiment, with +-20 %.

    observed: what the truth is, "measured" or "simulated".
    """
    figure, axes = plt.subplots(figsize=(6, 6), layout="constrained")
    for index, (name, rows) in enumerate(predictions.groupby("experiment")):
        rows = rows.iloc[:: max(1, len(rows) // 1500)]
        marker = MARKERS[index % len(MARKERS)]
        axes.scatter(
            rows["observed_us"] / 1e3,
            rows["predicted_us"] / 1e3,
            s=6,
            alpha=0.5,
            marker=marker,
            label=short(name),
        )
    both = predictions[["observed_us", "predicted_us"]].to_numpy() / 1e3
    ends = np.array([both.min(), both.max()])
    for factor, style in ((1.0, "-"), (0.8, ":"), (1.2, ":")):
        axes.plot(ends, ends * factor, color="black", linestyle=style, linewidth=1)
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.set(xlabel=f"{observed}, ms", ylabel="predicted, ms", title=f"{title} (dotted: ±20 %)")
    axes.legend(fontsize=8, markerscale=2)
    return figure


def error_by_batch_and_phase(predictions: pd.DataFrame, title: str) -> Figure:
    """Median signed error with its 10-90 % range by decode batch size, and MAPE by phase."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", width_ratios=[3, 1])
    signed = 100 * (predictions["predicted_us"] / predictions["observed_us"] - 1)
    bins = (predictions["num_decode_reqs"] // 10 * 10).astype(int)
    for index, (name, rows) in enumerate(signed.groupby(predictions["experiment"])):
        quantiles = rows.groupby(bins[rows.index]).quantile(np.array([0.1, 0.5, 0.9])).unstack()
        style = {"marker": MARKERS[index % len(MARKERS)], "linestyle": STYLES[index % len(STYLES)]}
        left.plot(quantiles.index + 5, quantiles[0.5], label=short(name), **style)
        left.fill_between(quantiles.index + 5, quantiles[0.1], quantiles[0.9], alpha=0.12)
    left.axhline(0, color="black", linewidth=1)
    left.set(
        xlabel="decode requests in the batch", ylabel="signed error, %", title=f"{title}: median and 10-90 %"
    )
    left.legend(fontsize=8)
    by_phase = predictions.groupby("phase")["ape"].agg(["mean", "size"])
    bars = right.bar(by_phase.index, by_phase["mean"], color="0.7", edgecolor="black")
    right.bar_label(
        bars, [f"{row['mean']:.1f} %\nn={int(row['size'])}" for _, row in by_phase.iterrows()], fontsize=8
    )
    right.set(ylabel="MAPE, %", title="by phase", ylim=(0, by_phase["mean"].max() * 1.3 + 0.1))
    return figure


def shap_summary(values: pd.DataFrame, matrix: pd.DataFrame, title: str) -> Figure:
    """SHAP beeswarm of the correction, log units; a feature that no row has is of one colour."""
    import shap  # slow to import, and needed only here

    unknown = matrix.columns[matrix.isna().all()]
    shown = matrix.assign(**dict.fromkeys(unknown, 0.0))
    explanation = shap.Explanation(
        values.to_numpy(float), data=shown.to_numpy(float), feature_names=list(values.columns)
    )
    plt.figure()
    shap.plots.beeswarm(explanation, max_display=15, show=False, group_remaining_features=False)
    figure = plt.gcf()
    figure.axes[0].set_title(title)
    figure.tight_layout()
    return figure


def shap_ranking(ranking: pd.DataFrame, title: str) -> Figure:
    """Bars of mean |SHAP|, most important on top."""
    top = ranking.head(15).iloc[::-1]
    figure, axes = plt.subplots(figsize=(8, 0.35 * len(top) + 1.2), layout="constrained")
    axes.barh(top["feature"], top["mean_abs_shap"], color="0.6", edgecolor="black")
    axes.set(xlabel="mean |SHAP|", title=title)
    return figure


def short(experiment: object) -> str:
    """An experiment's name without its time stamp."""
    parts = str(experiment).split("-", 2)
    return parts[2] if len(parts) == 3 and parts[0].isdigit() else str(experiment)
