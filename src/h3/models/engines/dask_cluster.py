"""Trees by several processes, on this machine or on others, through XGBoost's Dask integration.

    booster = dask_cluster.train(params, rows, rounds, Context(engine="dask"))

Without an address two worker processes are started for the fit on 127.0.0.1, and end with it. Dask sends
tasks between its own processes as pickles, so whoever reaches them can run code: the local ones speak TLS
with a certificate of this fit alone. A scheduler at an address of your own is to be guarded by its own
settings (docs/cluster.md). h3 itself writes and reads no pickle.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import xgboost as xgb

from h3.common.errors import InputError
from h3.models.engines.rows import Rows
from h3.models.protocol import Context

LOCAL_WORKERS = 2
ANSWER_S = 10


def imported() -> Any:
    """The package `distributed`; raises InputError if it is not installed."""
    try:
        return importlib.import_module("distributed")
    except ImportError:
        raise InputError(
            "model.engine=dask needs Dask, which is not installed; expected pip install 'h3[cluster]', or"
            " model.engine=memory"
        ) from None


def train(params: dict[str, Any], rows: Rows, rounds: int, context: Context) -> xgb.Booster:
    """So many trees on the rows, an equal part of them on each worker; params: XGBoost's.

    Raises InputError if Dask is not installed, or the context's address does not answer.
    """
    with _client(imported(), context) as client:
        from xgboost import dask as xgboost_dask

        parts = _spread(client, rows)
        data = xgboost_dask.DaskQuantileDMatrix(client, **parts, **rows.columns)
        booster: xgb.Booster = xgboost_dask.train(client, params, data, rounds)["booster"]
    return booster


def _spread(client: Any, rows: Rows) -> dict[str, Any]:
    """Data, label and weight as Dask arrays, a part of the rows on each worker."""
    from dask import array

    workers = sorted(client.ncores())[: len(rows)]
    bounds = np.linspace(0, len(rows), len(workers) + 1).astype(int)
    spread: dict[str, list[Any]] = {}
    for worker, first, last in zip(workers, bounds[:-1], bounds[1:], strict=True):
        for name, values in rows.arrays(first, last).items():
            held = client.scatter(values, workers=[worker], hash=False)
            spread.setdefault(name, []).append(array.from_delayed(held, values.shape, values.dtype))
    return {name: array.concatenate(parts) for name, parts in spread.items()}


@contextmanager
def _client(distributed: Any, context: Context) -> Iterator[Any]:
    """A client of the scheduler at the context's address, or of one with LOCAL_WORKERS of its own."""
    if context.dask_address:
        with _connected(distributed, context.dask_address) as client:
            yield client
        return
    import dask

    with (
        tempfile.TemporaryDirectory(prefix="h3-dask-") as scratch,
        dask.config.set(temporary_directory=scratch),
        distributed.LocalCluster(
            n_workers=LOCAL_WORKERS,
            threads_per_worker=context.threads,
            host="127.0.0.1",
            security=True,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@contextmanager
def _connected(distributed: Any, address: str) -> Iterator[Any]:
    """A client of a scheduler that answers and has a worker, within ANSWER_S seconds each."""
    try:
        client = distributed.Client(address, timeout=ANSWER_S)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:160]
        raise InputError(
            f"model.dask_address={address}: no Dask scheduler answers: {said}; expected one such as"
            " tcp://HOST:8786"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=ANSWER_S)
        except TimeoutError:
            raise InputError(
                f"model.dask_address={address}: the scheduler has no worker; expected one or more"
            ) from None
        yield client
