"""Print how good h3 is in BLIS's loop: each run of source=h100 under a model that never saw its architecture.

    python scripts/blis_table.py                 # needs Go; half a minute on two cores

Per model: the base is fitted on the other three, overheads are estimated on their logs, and the bundle of
both serves the model's arrivals in h3's own replay and in the stand-in of BLIS's server, with the queueing
time as a constant and in steps. Runs that lost more requests than training allows are left out. Errors are
of the mean over a run's requests, %.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from hydra import compose, initialize_config_dir
from joblib import Parallel, delayed
from make_blis_scenario import GO, deployment, rows

from h3 import bundle
from h3.bundle.golden import CONFIGS
from h3.bundle.uncertainty import Evidence
from h3.common.config import CONF, SourceConfig, TrainConfig, from_hydra
from h3.common.errors import InputError
from h3.latency.fold import find_recorded
from h3.latency.metrics import TIMES, experiment_metrics, saturated
from h3.latency.overheads import estimate
from h3.latency.recorded import Recorded
from h3.latency.replay_run import replay_recorded
from h3.models import zoo
from h3.models.protocol import Context
from h3.models.residual import FittedResidual
from h3.server.overheads import Overheads
from h3.sources.load import load
from h3.steps import catalog, schema

FORMS, WAYS = ("constant", "in steps"), ("h3.replay", "stand-in")
ERRORS = [time.upper() for time in TIMES]
BY_ARCHITECTURE = {catalog.from_hf_config(config, name): name for name, config in CONFIGS.items()}


def source() -> SourceConfig:
    """The built-in request logs as h3.train reads them."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return from_hydra(compose("config", ["source=h100"]), TrainConfig).source


def overheads_of(training: list[Recorded]) -> dict[str, Overheads]:
    """The queueing time in both forms, from the logs of the training side: in steps, and as the constant that
    these are at the mean period of the logs, each weighing the same.
    """
    in_steps = estimate(training)
    if in_steps is None:
        raise InputError("the training logs hold no request that found a free place")
    period_us = float(np.mean([mean_period_us(log.requests) for log in training]))
    as_constant = Overheads(queueing_us=in_steps.queueing_us + in_steps.pipeline_steps * period_us)
    return dict(zip(FORMS, (as_constant, in_steps), strict=True))


def mean_period_us(requests: pd.DataFrame) -> float:
    """Mean time between a request's tokens."""
    several = requests[requests["output_tokens"] > 1]
    return float(((several["last_us"] - several["first_us"]) / (several["output_tokens"] - 1)).mean())


@dataclass(frozen=True)
class Fold:
    """A fit, overheads in one form, the folder of the bundle that holds both, and the stand-in's program."""

    fitted: FittedResidual
    overheads: Overheads
    folder: Path
    program: Path

    def write(self, digest: str) -> None:
        """Write the bundle; `digest` is that of the data."""
        evidence = Evidence.none("one fold's fit: no other folds whose errors could tell")
        routes = {"dense": self.fitted, "moe": self.fitted}
        provenance = {"data_digest": digest, "commit": "", "folds": []}
        bundle.write(routes, self.folder, provenance, self.overheads, evidence)

    def replayed(self, log: Recorded) -> pd.DataFrame:
        """A row a request, as h3.replay finds them."""
        return replay_recorded(log, self.fitted, self.overheads).table

    def served(self, log: Recorded) -> pd.DataFrame:
        """The columns of `replayed` that are predictions, as the stand-in finds them."""
        found = pd.DataFrame(self._outcomes(log))
        arrival, output = log.requests["arrival_us"], log.requests["output_tokens"]
        return pd.DataFrame(
            {
                "predicted_first_us": arrival + found["ttft_us"],
                "predicted_last_us": arrival + found["ttft_us"] + found["itl_sum_us"],
                "predicted_ttft_us": found["ttft_us"],
                "predicted_itl_us": (found["itl_sum_us"] / (output - 1)).where(output > 1),
                "predicted_e2e_us": found["e2e_us"],
                "preemptions": found["preemptions"],
                "status": np.where(found["rejected"], "rejected", "ok"),
            }
        )

    def _outcomes(self, log: Recorded) -> list[dict[str, int]]:
        config = CONFIGS[BY_ARCHITECTURE[log.experiment.architecture]]
        whole_us = log.requests.assign(arrival_us=log.requests["arrival_us"].round())
        content = {"requests": rows(whole_us), "deployments": [deployment(log.experiment, config)]}
        scenario = self.folder.with_suffix(".json")
        scenario.write_text(json.dumps(content))
        command = [str(self.program), "-bundle", str(self.folder), "-scenario", str(scenario)]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        outcomes: list[dict[str, int]] = json.loads(told)["outcomes"]
        return outcomes


def runs_of(model: str, table: pd.DataFrame, config: SourceConfig, program: Path) -> list[dict[str, object]]:
    """A row a run of the held-out model, way and form."""
    logs = [make() for make in find_recorded(config, set(table["experiment"])).values()]
    own = [log for log in logs if log.experiment.model == model]
    training = table[table["model"] != model].reset_index(drop=True)
    fitted = zoo.make("xgboost_residual", {"n_estimators": 0}).fit(training, Context())
    assert isinstance(fitted, FittedResidual)
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for form, overheads in overheads_of([log for log in logs if log not in own]).items():
            fold = Fold(fitted, overheads, Path(scratch) / form.replace(" ", "_"), program)
            fold.write(schema.digest(table))
            found += [{"form": form, **row} for log in own for row in both_ways(log, fold)]
    return found


def both_ways(log: Recorded, fold: Fold) -> Iterator[dict[str, object]]:
    """Errors of h3.replay and of the stand-in."""
    replayed = fold.replayed(log)
    for way, table in zip(WAYS, (replayed, replayed.assign(**fold.served(log))), strict=True):
        numbers = experiment_metrics(log.experiment.name, table)
        yield {
            "run": f"{log.experiment.model} {log.experiment.workload}",
            "way": way,
            "overloaded": saturated(table, "first_us", "last_us"),
            "mean_e2e_us": table["predicted_e2e_us"].mean(),
            **{time.upper(): numbers[f"{time}_mean_error"] for time in TIMES},
        }


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Median and worst |error| of each time over the runs that are not overloaded, a row a form and way."""
    kept = found[~found["overloaded"]]
    groups = kept[ERRORS].abs().groupby([kept["form"], kept["way"]])
    median, worst = groups.median().add_suffix(" median"), groups.max().add_suffix(" worst")
    return median.join(worst)[[f"{time} {side}" for time in ERRORS for side in ("median", "worst")]]


def by_run(found: pd.DataFrame) -> pd.DataFrame:
    """Signed errors in steps, a row a run, and how far the stand-in's mean E2E is from h3.replay's, %."""
    wide = found.pivot(index=["run", "overloaded"], columns=["way", "form"])
    errors = {f"{time}, {way}": wide[(time, way, FORMS[1])] for time in ERRORS for way in WAYS}
    for form in FORMS:
        replayed, served = (wide[("mean_e2e_us", way, form)] for way in WAYS)
        errors[f"E2E apart, {form}"] = 100 * (served / replayed - 1).abs()
    return pd.DataFrame(errors)


def markdown(table: pd.DataFrame) -> str:
    """A table with its index as columns."""
    flat = table.reset_index()
    names = [str(name) for name in flat.columns]
    lines = [names, ["---"] * len(names)] + [
        [f"{value:.2f}" if isinstance(value, float) else str(value) for value in row]
        for row in flat.itertuples(index=False)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Build the stand-in, serve, print."""
    config = source()
    table = load(config).table
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch) / "standin"
        subprocess.run(["go", "build", "-o", program, "./blis/internal/standin/cmd"], cwd=GO, check=True)
        done = Parallel(n_jobs=2)(
            delayed(runs_of)(model, table, config, program) for model in sorted(table["model"].unique())
        )
    found = pd.DataFrame([row for part in done for row in part])
    print(markdown(summary(found)), end="\n\n")
    print(markdown(by_run(found)))


if __name__ == "__main__":
    main()
