"""Steps that might happen in an experiment, as rows for a predictor. This file owns how a composition becomes
its input.

    counts = {"num_decode_reqs": [30, 60], "decode_kv_tokens_sum": [20_000, 41_000]}
    frame = inputs(experiment, limits, counts)
    periods_us(fitted, frame)               # finite and positive, or an InputError that names the step

Unlike a row of a log, such a step is known in full: its prefill is whole, and its state (blocks in use,
running requests) follows from its composition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from h3.common.errors import InputError
from h3.models.protocol import Predicts
from h3.server.requests import Limits
from h3.sources.experiment import Experiment
from h3.steps import batch, schema

COUNTS = (*batch.COMPOSITION, "decode_kv_tokens_max")
TARGETS = tuple(column.name for column in schema.TARGETS)


def inputs(
    experiment: Experiment, limits: Limits, counts: Mapping[str, Sequence[float] | np.ndarray]
) -> pd.DataFrame:
    """A step table without targets, one row a composition; columns of COUNTS that are not given are 0.

    decode_tokens defaults to num_decode_reqs, decode_kv_tokens_max to the mean context, and what layers with
    a window attend to is null. Blocks in use are those of the tokens in the batch, none shared.
    """
    rows = len(next(iter(counts.values())))
    given = {name: np.asarray(counts.get(name, np.zeros(rows)), dtype=float) for name in COUNTS}
    given |= {
        name: np.asarray(counts.get(name, np.full(rows, np.nan)), dtype=float) for name in batch.WINDOWED
    }
    decodes = given["num_decode_reqs"]
    mean = given["decode_kv_tokens_sum"] / np.maximum(decodes, 1)
    if "decode_tokens" not in counts:
        given["decode_tokens"] = decodes
    if "decode_kv_tokens_max" not in counts:
        given["decode_kv_tokens_max"] = mean
    tokens = given["decode_kv_tokens_sum"] + given["prefill_kv_tokens_sum"] + given["prefill_tokens"]
    used = np.minimum(np.ceil(tokens / limits.block_size_tokens), limits.kv_blocks)
    columns = _same_in_every_row(experiment, limits) | {
        **given,
        "decode_kv_tokens_mean": mean,
        "running_reqs": decodes + given["num_prefill_reqs"],
        "kv_blocks_free": limits.kv_blocks - used,
        "kv_usage_ratio": used / limits.kv_blocks,
    }
    # One word for all rows: a category is looked up once, not once a row.
    columns |= {
        name: pd.Categorical.from_codes(np.zeros(rows, int), pd.Index([value]))
        for name, value in columns.items()
        if isinstance(value, str)
    }
    names = [name for name in schema.NAMES if name not in TARGETS]
    return pd.DataFrame({name: columns[name] for name in names}, index=range(rows))


def _same_in_every_row(experiment: Experiment, limits: Limits) -> dict[str, Any]:
    return {
        **experiment.columns(),
        "log": "replay",
        "clock": 0,
        "step_id": 0,
        "start_us": 0.0,
        "max_num_seqs": float(limits.max_num_seqs),
        "max_num_batched_tokens": float(limits.max_num_batched_tokens),
        "waiting_reqs": np.nan,
        "kv_blocks_total": float(limits.kv_blocks),
        "num_finished": np.nan,
        "num_preempted": np.nan,
    }


def periods_us(fitted: Predicts, frame: pd.DataFrame) -> np.ndarray:
    """The predictor's periods, us, shape (rows,); raises InputError naming the first step whose period cannot
    be one.
    """
    periods = np.asarray(fitted.predict(frame), dtype=float)
    bad = np.flatnonzero(~(np.isfinite(periods) & (periods > 0)))
    if len(bad):
        row = frame.iloc[bad[0]]
        step = ", ".join(f"{name}={row[name]:g}" for name in COUNTS)
        raise InputError(
            f"the predictor gives {periods[bad[0]]} us for a step of {row['experiment']}; expected a finite"
            f" time above 0; it has {step}"
        )
    return periods


def probes(experiment: Experiment, limits: Limits, longest_tokens: int, rows: int = 200) -> pd.DataFrame:
    """Steps of every kind for checking a fast evaluation against the predictor; always the same ones.

    longest_tokens: the longest context that the requests reach.
    """
    rng = np.random.default_rng(0)
    decodes = rng.integers(0, limits.max_num_seqs, rows)
    prefills = np.minimum(rng.choice([0, 1, 1, 1, 2, 3], rows), limits.max_num_seqs - decodes)
    prefills = np.where(decodes + prefills == 0, 1, prefills)
    room = np.maximum(limits.max_num_batched_tokens - decodes, prefills)
    new = np.minimum(
        prefills * np.exp(rng.uniform(0, np.log(max(longest_tokens, 2)), rows)).astype(int), room
    )
    before = prefills * rng.integers(0, max(longest_tokens, 2), rows)
    each = new / np.maximum(prefills, 1)
    mean_before = before / np.maximum(prefills, 1)
    return inputs(
        experiment,
        limits,
        {
            "num_prefill_reqs": prefills,
            "num_decode_reqs": decodes,
            "prefill_tokens": new,
            "prefill_kv_tokens_sum": before,
            "decode_kv_tokens_sum": np.round(decodes * rng.uniform(1, max(longest_tokens, 2), rows)),
            "prefill_attended_tokens": np.round(new * mean_before + new * (each + 1) / 2),
        },
    )
