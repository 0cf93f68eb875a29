"""Does the simulated source cost what real servers cost? Median step period by decode batch size, against
request logs.

    python scripts/plot_simulated.py ../shared/data/requests docs/simulated_vs_measured.png

Prints the table and draws one panel a model: measured medians with a band of 10 %, simulated medians beside
them.
"""

from __future__ import annotations

import sys

import matplotlib
import pandas as pd

from h3.common.config import SourceConfig
from h3.common.errors import InputError
from h3.sources import simulated
from h3.sources.requests import steps

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BIN_REQS = 10
MIN_STEPS = 50
BAND_RATIO = 0.10


def medians(table: pd.DataFrame) -> pd.DataFrame:
    """Steps and median period (us) by model and decode batch bin (its lower end); bins of fewer than
    MIN_STEPS left out.
    """
    decoding = table[table["num_decode_reqs"] > 0]
    lower = (decoding["num_decode_reqs"] // BIN_REQS * BIN_REQS).rename("decode_reqs_from")
    bins = decoding.groupby(["model", lower])["period_us"].agg(steps="size", period_us="median")
    return bins[bins["steps"] >= MIN_STEPS]


def compare(measured: pd.DataFrame, simulated_table: pd.DataFrame) -> pd.DataFrame:
    """Bins that both tables hold, with the error of the simulated median in %, over the workloads measured
    for the model.
    """
    cells = measured[["model", "workload"]].drop_duplicates()
    same = simulated_table.merge(cells, on=["model", "workload"])
    both = medians(measured).add_suffix("_measured").join(medians(same).add_suffix("_simulated"), how="inner")
    return both.assign(error_percent=100 * (both["period_us_simulated"] / both["period_us_measured"] - 1))


def draw(bins: pd.DataFrame, out: str) -> None:
    """One panel a model; markers and line styles differ, so that it reads without colour."""
    models = bins.index.get_level_values("model").unique()
    figure, panels = plt.subplots(
        1, len(models), figsize=(4.2 * len(models), 3.8), squeeze=False, layout="constrained"
    )
    for panel, model in zip(panels[0], models, strict=True):
        rows = bins.loc[model]
        centre, measured = rows.index + BIN_REQS / 2, rows["period_us_measured"] / 1e3
        panel.fill_between(
            centre,
            measured * (1 - BAND_RATIO),
            measured * (1 + BAND_RATIO),
            color="0.87",
            label="measured ± 10 %",
        )
        panel.plot(
            centre, measured, "o-", color="black", markerfacecolor="white", label="measured, request logs"
        )
        panel.plot(
            centre,
            rows["period_us_simulated"] / 1e3,
            "x--",
            color="tab:blue",
            markersize=8,
            label="simulated",
        )
        panel.set(
            title=f"{model} (worst bin {rows['error_percent'].abs().max():.1f} %)",
            xlabel="decoding requests in the batch",
        )
        panel.set_ylim(bottom=0)
        panel.grid(color="0.93")
    panels[0][0].set_ylabel("median step period, ms")
    panels[0][0].legend(loc="lower right", frameon=False)
    figure.savefig(out, dpi=130)


def main() -> int:
    if len(sys.argv) != 3:
        print(
            "usage: plot_simulated.py DATA_DIR OUT.png (DATA_DIR: folder of request-log experiments)",
            file=sys.stderr,
        )
        return 2
    try:
        measured = steps.load(SourceConfig(name="requests", path=sys.argv[1])).table
        bins = compare(measured, simulated.load(SourceConfig(name="simulated", cache_dir=None)).table)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if bins.empty:
        print(f"{sys.argv[1]}: no batch size that both the logs and the simulation hold", file=sys.stderr)
        return 2
    print(bins.round(1).to_string())
    draw(bins, sys.argv[2])
    return 0


if __name__ == "__main__":
    sys.exit(main())
