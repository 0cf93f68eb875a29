"""The one place where XGBoost trains: `memory`, `external` (batches on disk) or `dask` (worker processes).

    booster = engine.train(params, Rows(matrix, label, weight), rounds, context)

The trees are the same in kind and in their JSON. `memory` is xgboost.train itself. The two others draw their
bins batch by batch, or worker by worker, so that a split may lie in the next bin: predictions agree closely,
not bit by bit.
"""

from __future__ import annotations

from typing import Any

import xgboost as xgb

from h3.models.engines import dask_cluster, external
from h3.models.engines.rows import Rows
from h3.models.protocol import Context


def check(engine: str) -> None:
    """Raise InputError if an engine needs a package that is not installed."""
    if engine == "dask":
        dask_cluster.imported()


def train(params: dict[str, Any], rows: Rows, rounds: int, context: Context) -> xgb.Booster:
    """So many trees on the rows, by the context's engine; params: XGBoost's.

    Raises InputError if Dask is asked for and not installed, or its address does not answer.
    """
    if context.engine == "external":
        return external.train(params, rows, rounds)
    if context.engine == "dask":
        return dask_cluster.train(params, rows, rounds, context)
    return xgb.train(params, xgb.DMatrix(rows.matrix, label=rows.label, weight=rows.weight), rounds)
