"""The built-in measurements: request logs of vLLM 0.15.1 on H100 GPUs, four models under four workloads.

    ingested = load(SourceConfig(name="h100"))
    make = request_logs(SourceConfig(name="h100"))["20260218-155500-codellama-34b-tp2-roleplay"]
    experiment, log = make()

The table is src/h3/data/h100_requests.parquet (its README says where it comes from). From there on it is a
request log like any other: the same clock, composition, assumptions and limits. Three of the sixteen runs are
overloaded, and left out by the same rule as a user's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pandas as pd

from h3.common import packaged
from h3.common.config import SourceConfig
from h3.sources.experiment import Experiment, Ingested, combine
from h3.sources.requests import plausible
from h3.sources.requests import steps as requests
from h3.sources.requests.files import Logged, RequestLog
from h3.steps import catalog, sampling, schema
from h3.steps.sampling import Sampling

REQUESTS, EXPERIMENTS = "h100_requests.parquet", "h100_experiments.csv"


def load(source: SourceConfig, progress: Callable[[str], None] | None = None) -> Ingested:
    """The steps of the usable runs; raises InputError if a packaged file is not what it was."""
    return combine(parts(source, progress))


def parts(source: SourceConfig, progress: Callable[[str], None] | None = None) -> Iterator[Ingested]:
    """The same run by run."""
    for name, make in request_logs(source).items():
        if progress:
            progress(name)
        yield requests.from_log(*make(), source)


def experiment_names() -> list[str]:
    """The sixteen runs."""
    return [str(name) for name in _setups().index]


def _setups() -> pd.DataFrame:
    return pd.read_csv(packaged.checked(EXPERIMENTS)).set_index("experiment", drop=False)


def request_logs(source: SourceConfig) -> dict[str, Callable[[], Logged]]:
    """Experiment name → what gives its setup and its requests."""
    setups = _setups()
    table = pd.read_parquet(packaged.checked(REQUESTS))
    rows = {str(name): part for name, part in table.groupby("experiment", observed=True)}
    return {name: partial(_logged, setups.loc[[name]], rows[name]) for name in sorted(rows)}


def _logged(setup: pd.DataFrame, rows: pd.DataFrame) -> Logged:
    experiment = _experiment(setup.iloc[0])
    return experiment, plausible.checked(experiment, _log(rows.reset_index(drop=True)))


def _experiment(setup: pd.Series) -> Experiment:
    return Experiment(
        name=setup["experiment"],
        path=packaged.FOLDER / REQUESTS,
        model=setup["model"],
        workload=setup["workload"],
        hardware=setup["hardware"],
        tensor_parallelism=int(setup["tensor_parallelism"]),
        max_num_seqs=float(setup["max_num_seqs"]),
        max_num_batched_tokens=float(setup["max_num_batched_tokens"]),
        block_size_tokens=float(setup["block_size_tokens"]),
        architecture=catalog.architecture(setup["model"]),
        sampling=sampling.of_model(setup["model"]) or Sampling(False, "assumed"),
    )


def _log(rows: pd.DataFrame) -> RequestLog:
    """The requests that ended well; the others left no lengths and no times, and are counted."""
    ok = rows[(rows["status"] == "ok").to_numpy()]
    requests_table = pd.DataFrame(
        {
            "request": ok.index.astype(str),
            "line": ok.index.to_numpy() + 1,
            "prompt_tokens": ok["prompt_tokens"].to_numpy(float),
            "cached_tokens": np.nan,
            "output_tokens": ok["output_tokens"].to_numpy(float),
            "arrival_us": ok["arrival_us"].to_numpy(float),
            "first_us": ok["first_us"].to_numpy(float),
            "last_us": ok["last_us"].to_numpy(float),
            "token_times_us": None,
        }
    )
    return RequestLog(requests_table, schema.empty_rejects(), len(rows), len(rows) - len(ok))
