"""The one place where XGBoost trains: `memory`, `external` (batches on disk) or `dask` (worker processes).

    booster = engine.train(params, Rows(matrix, label, weight), rounds, context)

`memory` is xgboost.train itself. `external` gives the same trees while XGBoost's sketch of the features need
not be pruned, and nearly the same beyond that. With `dask` each worker draws its own rows of `subsample`, and
bins come from sketches that are merged: trees differ about as much as between two seeds. The JSON is the
same in kind.
"""

from __future__ import annotations

from typing import Any

import xgboost as xgb

from h3.common.errors import InputError
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
    try:
        return _trained(params, rows, rounds, context)
    except xgb.core.XGBoostError as error:
        said = " ".join(str(error).splitlines()[0].split())[-200:]
        raise InputError(f"XGBoost cannot train with these parameters: {said}") from None


def _trained(params: dict[str, Any], rows: Rows, rounds: int, context: Context) -> xgb.Booster:
    if context.engine == "external":
        return external.train(params, rows, rounds)
    if context.engine == "dask":
        return dask_cluster.train(params, rows, rounds, context)
    return xgb.train(params, rows.dmatrix, rounds)
