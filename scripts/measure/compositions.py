"""The steps of the simulated experiments, request by request: a stratified sample of each, every tenth of it
twice.

    plan = planned(steps=300)                 # Plan of part "compositions": 16 experiments
"""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import zip_longest

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from h3.common.config import SourceConfig
from h3.common.errors import InputError
from h3.server import scheduler
from h3.server.requests import StepBatch
from h3.sources import simulated
from h3.sources.simulated import Cell
from h3.steps import catalog, schema
from measure.plan import Plan, Step

ROW_COLUMNS = tuple(column.name for column in (*schema.IDENTITY, *schema.SETUP, *schema.STATE))
STRATA = 5  # equal shares of the steps by batch size, with and without prefill
REPEAT_EVERY = 10


def planned(steps: int = 300, scale: float = 1.0, seed: int = 0) -> Plan:
    """A plan with `steps` steps of each experiment (all where there are fewer); the simulation is run anew to
    see its requests.

    Experiments of a model take turns, so that a measurement cut off has about as many of each.
    """
    if steps < 1:
        raise InputError(f"--steps {steps}; expected at least 1")
    source = SourceConfig(name="simulated", seed=seed, scale=scale, cache_dir=None)
    table = simulated.load(source).table
    chosen = {name: stratified(rows, steps, seed) for name, rows in table.groupby("experiment", sort=True)}
    cells = simulated.cells()
    sampled = Parallel(n_jobs=os.cpu_count() or 1)(
        delayed(_steps)(source, cells[name], chosen[name]) for name in sorted(chosen)
    )
    ordered = []
    for model in simulated.MODELS:
        own = [experiment for experiment in sampled if experiment[0].model == model]
        ordered += [step for turn in zip_longest(*own) for step in turn if step]
    return Plan({name: catalog.MODELS[name] for name in simulated.MODELS}, tuple(ordered))


def stratified(rows: pd.DataFrame, steps: int, seed: int) -> pd.DataFrame:
    """`steps` rows, in random order: each stratum (prefill or not, fifth of the batch sizes) by its share,
    but one row at least.

    Within a stratum rows are taken at even distances of the KV tokens that they attend to.
    """
    if len(rows) <= steps:
        return rows.sample(frac=1, random_state=seed)
    size = pd.qcut(rows["num_decode_reqs"].rank(method="first"), STRATA, labels=False)
    stratum = (size + STRATA * (rows["num_prefill_reqs"] > 0)).to_numpy()
    ordered = rows.assign(stratum=stratum).sort_values(["stratum", "decode_kv_tokens_sum", "step_id"])
    even = ((np.arange(steps) + 0.5) * len(ordered) / steps).astype(int)
    kept = ordered.iloc[even]
    absent = ordered[~ordered["stratum"].isin(kept["stratum"])].groupby("stratum").head(1)
    most = kept["stratum"].value_counts().idxmax()
    spare = kept[kept["stratum"] == most].index[: len(absent)]
    return pd.concat([kept.drop(spare), absent]).drop(columns="stratum").sample(frac=1, random_state=seed)


def _steps(source: SourceConfig, cell: Cell, rows: pd.DataFrame) -> list[Step]:
    """The chosen rows of one experiment as steps, repeats last."""
    contents = _contents(source, cell, set(rows["step_id"]))
    ranks = cell.experiment.tensor_parallelism
    steps = []
    for row in rows[list(ROW_COLUMNS)].to_dict("records"):
        steps.append(Step("compositions", cell.model, ranks, *contents[row["step_id"]], row=row))
    return steps + [replace(step, repeat=1) for step in steps[::REPEAT_EVERY]]


def _contents(source: SourceConfig, cell: Cell, wanted: set[int]) -> dict[int, tuple]:
    """Contexts, prefill chunks and shared prefixes of the wanted steps: the simulation of one experiment, run
    once more.
    """
    server = scheduler._Server(cell.requests(source), cell.limits)
    period_us, found = cell.step_time(source), {}

    def step_time(batch: StepBatch) -> float:
        if server.step in wanted:
            decodes = tuple(server.step + offset for offset in server.decoding.values())
            chunks = tuple((new, before) for _, new, before in batch.chunks)
            prefilling = (request for request, _, _ in batch.chunks)
            found[server.step] = (decodes, chunks, _prefixes(server, [*server.decoding, *prefilling]))
        return period_us(batch)

    server.run(step_time, iter(()), cell.horizon_us(source))
    return found


def _prefixes(server: scheduler._Server, requests: list[int]) -> tuple[tuple[int, int], ...]:
    """(prefix, full pages) of each request; one that shares its prompt with nobody has a prefix of no
    pages.
    """
    keys = [server._sharing(request, server.cached_blocks[request]) for request in requests]
    return tuple((int(key[0]), int(key[1])) if key else (-1, 0) for key in keys)
