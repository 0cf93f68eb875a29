"""What a step holds: requests and tokens of the step table's rows, with unknown quantities as the least they
can be.

>>> from h3.steps import batch, catalog
>>> one = batch.Deployment(catalog.architecture("llama-2-7b"), 1, "H100")
>>> requests(batch.step_table(one, [[(600, 1, 512), (0, 512, 512)]])).tolist()
[2.0]

Null prefill tokens count as one token a request, null KV tokens as none. A row whose period averages several
steps holds a prefill in a share of them: quantities that are not linear in tokens are computed for the steps
with and without prefill and averaged by that share.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd


def column(table: pd.DataFrame, name: str, unknown: float | np.ndarray = 0.0) -> np.ndarray:
    """A column as float64 of shape (rows,), `unknown` where it is null or missing."""
    if name not in table.columns:
        return np.broadcast_to(np.asarray(unknown, float), (len(table),)).copy()
    values = table[name].to_numpy(float)
    return np.where(np.isnan(values), unknown, values)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def requests(table: pd.DataFrame) -> np.ndarray:
    """Requests in the batch."""
    return column(table, "num_prefill_reqs") + column(table, "num_decode_reqs")


def prefill_tokens(table: pd.DataFrame) -> np.ndarray:
    """New prompt tokens of the step; at least one for each prefilling request."""
    return np.maximum(column(table, "prefill_tokens"), column(table, "num_prefill_reqs"))


def decode_tokens(table: pd.DataFrame) -> np.ndarray:
    """New tokens of decoding requests; one each where the log does not say."""
    return column(table, "decode_tokens", column(table, "num_decode_reqs"))


def prefill_share(table: pd.DataFrame) -> np.ndarray:
    """Share of the steps averaged in a row that hold a prefill: 0 or 1 for a single step."""
    return np.minimum(1.0, column(table, "num_prefill_reqs"))


def mixed_step_tokens(table: pd.DataFrame) -> np.ndarray:
    """Tokens of a step that holds the row's prefill."""
    return decode_tokens(table) + ratio(prefill_tokens(table), prefill_share(table))


def averaged(table: pd.DataFrame, cost: Callable[[pd.DataFrame, np.ndarray], np.ndarray]) -> np.ndarray:
    """Mean of cost(table, tokens) over the steps with and without prefill of each row."""
    share = prefill_share(table)
    if ((share == 0) | (share == 1)).all():  # single steps: half the work for the same numbers
        return cost(table, np.where(share == 1, mixed_step_tokens(table), decode_tokens(table)))
    return (1 - share) * cost(table, decode_tokens(table)) + share * cost(table, mixed_step_tokens(table))


def decode_window_tokens(table: pd.DataFrame) -> np.ndarray:
    """KV tokens that decoding requests attend to in a layer with a sliding window: each its context, at most
    the window. Where a log does not say, as if all contexts were alike.
    """
    most = column(table, "num_decode_reqs") * column(table, "window_tokens")
    alike = np.minimum(column(table, "decode_kv_tokens_sum"), most)
    return column(table, "decode_window_tokens_sum", alike)


def prefill_window_pairs(table: pd.DataFrame) -> np.ndarray:
    """Query-key pairs of prefill in a layer with a sliding window; where a log does not say, as if every
    query saw as many keys.
    """
    most = prefill_tokens(table) * column(table, "window_tokens")
    alike = np.minimum(column(table, "prefill_attended_tokens"), most)
    return column(table, "prefill_window_attended_tokens", alike)
