"""The measured source: steps that were timed on a card of our own, rank by rank (scripts/measure_steps.py).

    ingested = load(SourceConfig(name="measured"))               # the table inside the package, if it has one
    ingested = load(SourceConfig(name="measured", path="measured.parquet", parts=["compositions", "grid"]))

One card shows the work of one tensor-parallel rank: `device_us`. The all-reduces between ranks are a modelled
column of their own (`comm_us`), the server's host time is absent. So a row is given in one of two views:

    rank     period_us = device_us; the architecture is the rank's own share, on one GPU: all of it measured
    server   period_us = device_us + comm_us; the whole model at its tensor-parallel degree
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from h3.common.config import SourceConfig
from h3.common.errors import InputError
from h3.sources.experiment import Ingested
from h3.steps import schema, stored
from h3.steps.schema import Column

PACKAGED = Path(__file__).with_name("measured_steps.parquet")
FORMAT = "h3-measured-1"
TARGETS = tuple(column.name for column in schema.TARGETS)
COLUMNS = (
    Column("part", "text", "", "what the step was measured for: compositions, grid, shards or zeroshot"),
    Column(
        "mode",
        "text",
        "",
        "how it was launched: full (one CUDA graph), piecewise (attention outside the graphs) or eager",
    ),
    Column("padded_tokens", "count", "tokens", "tokens that the card computed", minimum=1),
    Column("replays", "count", "", "timed runs", minimum=1),
    Column("device_us", "real", "us", "time on the card, median of the runs"),
    Column("device_p10_us", "real", "us", "the same, tenth percentile"),
    Column("device_p90_us", "real", "us", "the same, ninetieth percentile"),
    Column("comm_us", "real", "us", "all-reduces of the step, modelled"),
)
NAMES = tuple(column.name for column in COLUMNS)
SHARED_SIZES = ("num_heads", "dense_ffn_size", "expert_ffn_size", "shared_ffn_size")


def load(source: SourceConfig, progress: Callable[[str], None] | None = None) -> Ingested:
    """The steps of the parts, as a step table; raises InputError where there is no table, or no step of a
    part in it.
    """
    if source.path is not None and not isinstance(source.path, str):
        raise InputError(
            f"source=measured: source.path={source.path!r}; expected one Parquet file of"
            " scripts/measure_steps.py pack"
        )
    frame, provenance = read(source.path)
    absent = next((part for part in source.parts if part not in set(frame["part"])), None)
    if absent or not source.parts:
        there = ", ".join(sorted(set(frame["part"])))
        raise InputError(f"source.parts={source.parts}: expected some of those in the table: {there}")
    kept = frame[frame["part"].isin(source.parts)].reset_index(drop=True)
    table = kept.drop(columns=list(NAMES)).assign(period_us=kept["device_us"], gap_steps=1)
    if source.view == "rank":
        table = table.assign(**rank_columns(table))
    else:
        table["period_us"] += kept["comm_us"]
    record = {
        "read_from": str(source.path or PACKAGED),
        "parts": source.parts,
        "view": source.view,
        "period_us": "device_us" if source.view == "rank" else "device_us + comm_us",
        "provenance": provenance,
        "experiments": {
            str(name): {"sampled_steps": int(rows)}
            for name, rows in kept["experiment"].value_counts().items()
        },
    }
    return Ingested(schema.check(table, "measured steps"), schema.empty_rejects(), record)


def rank_columns(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """What one rank of each row's model is as a model of its own on one GPU; KV heads fewer than ranks are
    replicated.
    """
    ranks = table["tensor_parallelism"].to_numpy()
    return {
        **{name: table[name].to_numpy() // ranks for name in SHARED_SIZES},
        "num_kv_heads": np.maximum(1, table["num_kv_heads"].to_numpy() // ranks),
        "vocab_size": -(-table["vocab_size"].to_numpy() // ranks),
        "tensor_parallelism": np.ones_like(ranks),
    }


def write(frame: pd.DataFrame, provenance: dict[str, Any], path: str | Path) -> None:
    """Write rows of step-table columns (without targets) and COLUMNS, with where they come from as metadata
    `h3`.
    """
    table = _checked(frame, str(path))
    record = {"format": FORMAT, "digest": schema.digest(table), **provenance}
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(
        {"h3": json.dumps(record, sort_keys=True)}
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(arrow, path, compression="zstd")


def read(path: str | Path | None = None) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The measured table and its provenance; raises InputError that says how to come by one."""
    if path is None and not PACKAGED.is_file():
        raise InputError(
            "source=measured: this h3 has no measured steps packaged; measure some with"
            " scripts/measure_steps.py (docs/measure.md) and give source.path=FILE, or use source=simulated"
        )
    path = path or PACKAGED
    stored.check(path, "a table of scripts/measure_steps.py pack")
    try:
        arrow = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise stored.unreadable(path, error) from None
    record = stored.metadata(arrow.schema, path)
    if record.get("format") != FORMAT:
        raise InputError(
            f"{path}: format {record.get('format')!r:.60}; expected {FORMAT!r}, a table of"
            " scripts/measure_steps.py pack"
        )
    table = _checked(arrow.to_pandas(), str(path))
    stored.check_digest(record, schema.digest(table), path)
    return table, {name: value for name, value in record.items() if name not in ("format", "digest")}


def _checked(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """Step-table columns as `schema.check` has them (no targets), then COLUMNS."""
    absent = next((name for name in NAMES if name not in frame.columns), None)
    if absent:
        raise InputError(
            f"{where}: column {absent!r} is missing; expected {', '.join(NAMES)} beside the step table's"
        )
    frame = frame.reset_index(drop=True)
    steps = frame.drop(columns=list(NAMES)).assign(period_us=frame["device_us"], gap_steps=1)
    table = schema.check(steps, where).drop(columns=list(TARGETS))
    return table.assign(**{column.name: _values(frame[column.name], column, where) for column in COLUMNS})


def _values(values: pd.Series, column: Column, where: str) -> pd.Series:
    """One of COLUMNS in its exact type; times and counts are finite and at least the column's minimum."""
    if column.kind != "text":
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(float)
        bad = np.flatnonzero(~((numbers >= column.minimum) & (numbers <= column.maximum)))
        if len(bad):
            found = values.iloc[bad[0]]
            raise InputError(
                f"{where}: column {column.name!r} is {found!s:.60} in row {bad[0]}; expected a number of at"
                f" least {column.minimum} and at most {column.maximum:g}"
            )
    return schema.as_dtype(values, column)
