"""Draw docs/few_shot.png: error on a model never seen, against requests of one of its logs that calibrated.

    python scripts/plot_few_shot.py              # half a minute on two cores

For each of the four models of source=h100 the base is fitted on the other three, adapted on the first n
requests of one log of the model (h3.evaluation.few_shot, as h3.calibrate does), and judged on all its other
steps. Prints the table, mean over the model's logs.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from hydra import compose, initialize_config_dir
from joblib import Parallel, delayed
from matplotlib.figure import Figure

from h3.calibrate import first_requests
from h3.common.config import CONF, SourceConfig, TrainConfig, from_hydra
from h3.evaluation.few_shot import adapt, mape
from h3.models import zoo
from h3.models.protocol import Context
from h3.sources.load import load

REQUESTS = (100, 200, 400, 800, 1600, 3200)
OUT = Path(__file__).parents[1] / "docs" / "few_shot.png"


def source() -> SourceConfig:
    """The built-in request logs as h3.train reads them."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return from_hydra(compose("config", ["source=h100"]), TrainConfig).source


def curve(model: str, table: pd.DataFrame, config: SourceConfig) -> list[dict[str, object]]:
    """A row a log of the model and number of requests: MAPE on the model's other steps, %."""
    others, own = table[table["model"] != model].reset_index(drop=True), table[table["model"] == model]
    fitted = zoo.make("xgboost_residual", {"n_estimators": 0}).fit(others, Context())
    rows: list[dict[str, object]] = []
    for count in (0, *REQUESTS):
        few = first_requests(config, count).table if count else table.head(0)
        for name, seen in own.groupby("experiment"):
            given = few[few["experiment"] == name].reset_index(drop=True)
            end_us = given["start_us"].max() if count else -1.0
            rest = own[(own["experiment"] != name) | (own["start_us"] > end_us)].reset_index(drop=True)
            found = adapt(fitted, given).fitted if count else fitted
            rows.append(
                {
                    "model": model,
                    "log": name,
                    "requests": count,
                    "steps": len(seen),
                    "mape": mape(found, rest),
                }
            )
    return rows


def draw(means: pd.DataFrame) -> None:
    """A line a model and their mean."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    places = range(len(means))
    for model, style in zip(means.columns, ("-", "--", "-.", ":"), strict=False):
        axes.plot(places, means[model], style, color="0.4", label=model)
    axes.plot(places, means.mean(axis=1), "k-", linewidth=2.5, marker="o", label="mean")
    axes.set(xticks=list(places), xticklabels=list(means.index), ylim=(0, None))
    axes.set(xlabel="requests of one log that calibrated", ylabel="MAPE on the model's other steps, %")
    axes.set_title("A model never seen, calibrated (measured on H100)")
    axes.legend(fontsize=8)
    figure.savefig(OUT, dpi=110)


def main() -> None:
    """Compute, print, draw."""
    config = source()
    table = load(config).table
    done = Parallel(n_jobs=2)(
        delayed(curve)(model, table, config) for model in sorted(table["model"].unique())
    )
    rows = pd.DataFrame([row for part in done for row in part])
    means = rows.pivot_table(index="requests", columns="model", values="mape")
    print(means.assign(mean=means.mean(axis=1)).round(2).to_string())
    draw(means)
    print(OUT.relative_to(Path(__file__).parents[1]))


if __name__ == "__main__":
    main()
