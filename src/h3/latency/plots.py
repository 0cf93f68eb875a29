"""Figures of a replay: latency distributions, running requests over time, and how fragile a run is to a
biased step time.

    figures = replay_figures(tables, "lomo_mixtral")         # tables: experiment name → replay's table
    figures["replay_sensitivity"] = sensitivity(curves, "lomo_mixtral")

Readable without colour: what was observed is solid, predicted dashed, experiments differ by panel or marker.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from h3.evaluation import plots
from h3.latency.metrics import running_series

COLUMNS = 3
LINEAR_PERCENT = 20.0


def replay_figures(
    tables: dict[str, pd.DataFrame], title: str, observed: str = "measured"
) -> dict[str, Figure]:
    """The figures that need nothing but the tables: E2E ECDF and running requests over time.

    observed: what the truth is, "measured" or "simulated".
    """
    return {
        "replay_e2e_ecdf": e2e_ecdf(tables, title, observed),
        "replay_running": running_over_time(tables, title, observed),
    }


def e2e_ecdf(tables: dict[str, pd.DataFrame], title: str, observed: str = "measured") -> Figure:
    """ECDF of E2E latency, predicted against observed, one panel an experiment."""
    figure, panels = _panels(tables, f"{title}: end-to-end latency, share of requests at most so long")
    for axes, table in zip(panels, tables.values(), strict=True):
        for column, style, label in (
            ("measured_e2e_us", "-", observed),
            ("predicted_e2e_us", "--", "predicted"),
        ):
            values = np.sort(table[column].dropna().to_numpy()) / 1e6
            if len(values):
                axes.step(values, np.linspace(0, 1, len(values)), color="black", linestyle=style, label=label)
        axes.set(xlabel="E2E, s", ylim=(0, 1))
    panels[0].legend(fontsize=8)
    return figure


def running_over_time(tables: dict[str, pd.DataFrame], title: str, observed: str = "measured") -> Figure:
    """Running requests over time, predicted against observed, one panel an experiment."""
    figure, panels = _panels(tables, f"{title}: running requests")
    for axes, table in zip(panels, tables.values(), strict=True):
        series = running_series(table)
        minutes = (series["time_us"] - series["time_us"].min()) / 60e6
        axes.plot(minutes, series["measured"], color="0.6", linestyle="-", linewidth=2, label=observed)
        axes.plot(minutes, series["predicted"], color="black", linestyle="--", linewidth=1, label="predicted")
        axes.set(xlabel="time, min", ylim=(0, None))
    panels[0].legend(fontsize=8)
    return figure


def sensitivity(curves: pd.DataFrame, title: str) -> Figure:
    """Error of mean E2E against a bias of the step time; columns experiment, bias_percent, e2e_mean_error
    (%).

    Where demand is near capacity a few per cent of bias grow into several times as much latency, so the axis
    is symmetric-logarithmic beyond LINEAR_PERCENT where an error goes there.
    """
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for index, (name, rows) in enumerate(curves.sort_values("bias_percent").groupby("experiment")):
        axes.plot(
            rows["bias_percent"],
            rows["e2e_mean_error"],
            color="black",
            linewidth=1,
            markersize=5,
            label=plots.short(name),
            marker=plots.MARKERS[index % len(plots.MARKERS)],
            linestyle=plots.STYLES[index % len(plots.STYLES)],
        )
    ends = np.array([curves["bias_percent"].min(), curves["bias_percent"].max()])
    axes.plot(ends, ends, color="0.7", linewidth=3, zorder=0, label="error = bias")
    axes.axhline(0, color="0.5", linewidth=0.5)
    if curves["e2e_mean_error"].abs().max() > LINEAR_PERCENT:
        axes.set_yscale("symlog", linthresh=LINEAR_PERCENT)
        axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set(
        xlabel="bias of the step time, %",
        ylabel="error of mean E2E, %",
        title=f"{title}: which runs are fragile",
    )
    axes.legend(fontsize=8)
    return figure


def _panels(tables: dict[str, pd.DataFrame], title: str) -> tuple[Figure, list[Axes]]:
    """A grid of panels named after the experiments."""
    columns = min(COLUMNS, len(tables))
    rows = -(-len(tables) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.8 * columns, 2.8 * rows), layout="constrained", squeeze=False
    )
    flat = list(axes.flat)
    for panel in flat[len(tables) :]:
        panel.set_visible(False)
    for panel, name in zip(flat, tables, strict=False):
        panel.set_title(plots.short(name), fontsize=9)
    figure.suptitle(title)
    return figure, flat[: len(tables)]
