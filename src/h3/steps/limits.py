"""What no server does: how large the numbers of a step table may be, by unit, and by column where that is
not enough.

>>> most("period_us", "us")                     # an hour
3600000000.0
>>> most("experts_per_token", "experts")
10000.0

Far beyond any server, so that nothing true is refused; near enough that products of columns stay numbers.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from h3.common.errors import InputError

HOUR_US, CENTURY_US = 3.6e9, 3.2e15
LEAST_WEIGHT_BYTES = 0.05  # a weight of one bit has 0.125
UNITS = {
    "us": HOUR_US,
    "GPUs": 1e4,
    "requests": 1e6,
    "tokens": 1e12,
    "layers": 1e4,
    "heads": 1e4,
    "experts": 1e4,
    "matrices": 100.0,
    "bytes": 16.0,
    "blocks": 1e12,
    "steps": 1e12,
    "": 1e6,
}
COLUMNS = {
    "start_us": CENTURY_US,
    "clock": 1e12,
    "truncated_sampling": 1.0,
    "kv_usage_ratio": 1.0,
    "vocab_size": 1e8,
    "max_num_seqs": 1e9,
    "block_size_tokens": 1e9,
    "max_num_batched_tokens": 1e9,
    "prefill_attended_tokens": 1e18,
    "prefill_window_attended_tokens": 1e18,
    "running_reqs": 1e9,
    "waiting_reqs": 1e9,
    "gap_steps": 1e9,
}
# Parts and their wholes.
AT_MOST = (
    ("num_kv_heads", "num_heads"),
    ("num_moe_layers", "num_layers"),
    ("num_window_layers", "num_layers"),
    ("experts_per_token", "num_experts"),
    ("qk_rope_head_dim", "head_dim"),
    ("kv_blocks_free", "kv_blocks_total"),
)


def most(column: str, unit: str) -> float:
    """The largest value of a column with that unit."""
    return COLUMNS.get(column, UNITS.get(unit, math.inf))


def check_parts(table: pd.DataFrame, where: str) -> None:
    """Raises InputError for the first part that is above its whole."""
    for part, whole in AT_MOST:
        above = np.flatnonzero(table[part].to_numpy() > table[whole].to_numpy())
        if len(above):
            found, ceiling = table[part].iloc[above[0]], table[whole].iloc[above[0]]
            raise InputError(
                f"{where}: column {part!r} is {found} in row {above[0]}; expected at most {whole}={ceiling}"
            )
