"""The step table: one row a step of an inference server. This file owns its columns, units and null rules.

    columns = schema.COLUMNS                    # documented: name, kind, unit, nullable, meaning
    table = schema.check(frame, "my.parquet")   # columns in order, exact dtypes, or an InputError
    schema.write(table, rejects, "steps.parquet", {"source": "requests"})
    table, metadata = schema.read("steps.parquet")

A quantity that a log does not hold is null (NaN), never a guess. Where period_us is a mean over gap_steps, so
is the composition as far as the log tells it: request logs give the mean of the window (a prefill in 0.1 of
its steps counts 0.1), traces the first step's. The table carries its own architecture columns, so that
physics and features need nothing but the table.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from h3.common import files
from h3.common.errors import InputError
from h3.steps import limits, stored

FORMAT_VERSION = "1"


@dataclass(frozen=True)
class Column:
    """One column of the step table; `kind` is "text", "count" (int64) or "real" (float64, NaN is null)."""

    name: str
    kind: str
    unit: str
    meaning: str
    nullable: bool = False
    minimum: float | None = 0.0
    default: float | str | None = None  # in place of null: a number, or that column's value

    @property
    def maximum(self) -> float:
        """Beyond it, and as far below 0 where there is no minimum, a value is no server's."""
        return limits.most(self.name, self.unit)

    @property
    def dtype(self) -> str:
        """The column's pandas dtype."""
        return {"text": "str", "count": "int64", "real": "float64"}[self.kind]


def _text(name: str, meaning: str) -> Column:
    return Column(name, "text", "", meaning)


def _count(name: str, unit: str, meaning: str, minimum: float = 0) -> Column:
    return Column(name, "count", unit, meaning, minimum=minimum)


def _number(name: str, unit: str, meaning: str) -> Column:
    return Column(name, "real", unit, meaning)


def _real(name: str, unit: str, meaning: str, minimum: float | None = 0.0) -> Column:
    return Column(name, "real", unit, meaning, nullable=True, minimum=minimum)


def _later(name: str, unit: str, meaning: str, default: float | str) -> Column:
    """A column that tables of before do not have."""
    minimum = limits.LEAST_WEIGHT_BYTES if unit == "bytes" else 0.0
    return Column(name, "real", unit, meaning, nullable=True, minimum=minimum, default=default)


IDENTITY = (
    _text("experiment", "name of the experiment folder"),
    _text("model", "name of the language model"),
    _text("workload", "name of the workload"),
    _text("log", "what the row was read from: traces, requests, stage_means, simulated or measured"),
    _count("clock", "", "which step counter the step is on; a restarted server starts a new one"),
    _count("step_id", "steps", "number of the step on its clock"),
    _real("start_us", "us", "start of the step on the experiment's clock", minimum=None),
)
SETUP = (
    _text("hardware", "name of the accelerator in the hardware table"),
    _count("tensor_parallelism", "GPUs", "tensor-parallel degree", minimum=1),
    _real("max_num_seqs", "requests", "limit of the batch size"),
    _real("max_num_batched_tokens", "tokens", "token budget of a step"),
    _real("block_size_tokens", "tokens", "tokens of a KV-cache block"),
    _real("truncated_sampling", "", "1: top-p or top-k is on, and a step sorts its logits; 0: it is not"),
)
ARCHITECTURE = (
    _count("num_layers", "layers", "decoder layers", minimum=1),
    _count("hidden_size", "", "width of the residual stream", minimum=1),
    _count("num_heads", "heads", "query heads", minimum=1),
    _count("num_kv_heads", "heads", "key/value heads", minimum=1),
    _count("head_dim", "", "width of a head", minimum=1),
    _count("vocab_size", "tokens", "rows of the output projection", minimum=1),
    _count("dense_ffn_size", "", "FFN width of the layers without experts (0: none)"),
    _count("num_moe_layers", "layers", "layers with experts"),
    _count("num_experts", "experts", "routed experts of such a layer (0: dense model)"),
    _count("experts_per_token", "experts", "routed experts that a token visits"),
    _count("expert_ffn_size", "", "FFN width of a routed expert"),
    _count("shared_ffn_size", "", "total FFN width of the shared experts"),
    Column(
        *("bytes_per_parameter", "real", "bytes", "stored bytes of a weight of the FFN"),
        minimum=limits.LEAST_WEIGHT_BYTES,
    ),
    _later("attention_bytes_per_parameter", "bytes", "the same of attention", "bytes_per_parameter"),
    _later("head_bytes_per_parameter", "bytes", "the same of the output projection", "bytes_per_parameter"),
    _later("kv_bytes_per_value", "bytes", "stored bytes of a value of the KV cache", 2.0),
    _later("ffn_matrices", "matrices", "of an FFN: 3 if gated, else 2", 3.0),
    _later("window_tokens", "tokens", "how far back a layer with a sliding window attends (0: none)", 0.0),
    _later("num_window_layers", "layers", "layers with such a window", 0.0),
    _later("kv_lora_rank", "", "width of the latent vector of keys and values (0: no MLA)", 0.0),
    _later("q_lora_rank", "", "width of the latent vector of queries (0: none)", 0.0),
    _later("qk_rope_head_dim", "", "rotary part of a head (MLA)", 0.0),
    _later("v_head_dim", "", "width of a value's head (MLA; 0: as head_dim)", 0.0),
)
COMPOSITION = (
    _number("num_prefill_reqs", "requests", "requests of the batch that have produced no output token"),
    _number("num_decode_reqs", "requests", "requests of the batch that decode"),
    _real("prefill_tokens", "tokens", "new prompt tokens of the step (prefix-cached ones excluded)"),
    _real("decode_tokens", "tokens", "new tokens of decoding requests"),
    _real("decode_kv_tokens_sum", "tokens", "KV tokens that the decoding requests attend to, summed"),
    _real("decode_kv_tokens_mean", "tokens", "the same, mean over decoding requests"),
    _real("decode_kv_tokens_max", "tokens", "the same, longest request"),
    _real("decode_window_tokens_sum", "tokens", "the sum, each at most window_tokens; null: as if alike"),
    _real(
        "prefill_kv_tokens_sum", "tokens", "tokens of prefilling requests computed or cached before the step"
    ),
    _real(
        "prefill_attended_tokens",
        "tokens",
        "query-key pairs of prefill: sum over new prompt tokens of the tokens each attends to",
    ),
    _real(
        "prefill_window_attended_tokens",
        "tokens",
        "the same, each token to at most window_tokens; null: as if alike",
    ),
)
STATE = (
    _real("running_reqs", "requests", "running requests, scheduled or not"),
    _real("waiting_reqs", "requests", "requests in the wait queue"),
    _real("kv_blocks_total", "blocks", "blocks of the KV cache"),
    _real("kv_blocks_free", "blocks", "blocks that are free"),
    _real("kv_usage_ratio", "", "share of the KV cache in use"),
    _real("num_finished", "requests", "requests that finished in the step"),
    _real("num_preempted", "requests", "requests that were preempted in the step"),
)
TARGETS = (
    _real("period_us", "us", "step period: start of this step to start of the next, mean over gap_steps"),
    _count("gap_steps", "steps", "consecutive steps over which period_us is a mean (1: exact)", minimum=1),
    _real("duration_us", "us", "the study's target: CPU time of the scheduler's schedule(), not of the step"),
)
GROUPS = {
    "identity": IDENTITY,
    "setup": SETUP,
    "architecture": ARCHITECTURE,
    "composition": COMPOSITION,
    "state": STATE,
    "targets": TARGETS,
}
COLUMNS: tuple[Column, ...] = tuple(column for group in GROUPS.values() for column in group)
NAMES: tuple[str, ...] = tuple(column.name for column in COLUMNS)
ARCHITECTURE_NAMES: tuple[str, ...] = tuple(column.name for column in ARCHITECTURE)
# What makes two models step alike, whatever they are called: models of one shape are one group.
SHAPE_NAMES = tuple(name for name in ARCHITECTURE_NAMES if name != "vocab_size" and "bytes_per" not in name)

REJECT_NAMES = ("experiment", "file", "line", "reason", "detail")


def empty() -> pd.DataFrame:
    """A step table without rows."""
    return pd.DataFrame({column.name: pd.Series(dtype=column.dtype) for column in COLUMNS})


def empty_rejects() -> pd.DataFrame:
    """Rejects without rows: experiment, file, line (1-based; 0: whole file), reason (a short code),
    detail.
    """
    return pd.DataFrame(
        {name: pd.Series(dtype="int64" if name == "line" else "str") for name in REJECT_NAMES}
    )


def rejects_frame(rows: list[tuple[str, str, int, str, str]]) -> pd.DataFrame:
    """Rejects from tuples (experiment, file, line, reason, detail)."""
    if not rows:
        return empty_rejects()
    return pd.DataFrame(rows, columns=list(REJECT_NAMES)).astype({"line": "int64"})


def check(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """The frame as a step table: columns in order and of their exact dtype.

    Columns that are absent and nullable are added as null; nulls get the column's default, where it has one,
    so that a model is the same in tables of before and of now. Raises InputError naming the column, what was
    found and what was expected, for an unknown or missing column, a null where none may be, an infinite
    value, a value outside the column's minimum and maximum, or a part above its whole.
    """
    unknown = [name for name in frame.columns if name not in NAMES]
    if unknown:
        raise InputError(f"{where}: unknown column {unknown[0]!r}; a step table has {', '.join(NAMES)}")
    table = with_defaults(pd.DataFrame({column.name: _checked(frame, column, where) for column in COLUMNS}))
    limits.check_parts(table, where)
    return table


def with_defaults(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the defaults of architecture columns that are absent or null."""
    for column in ARCHITECTURE:
        absent = column.name not in table.columns
        if column.default is not None and (absent or table[column.name].isna().any()):
            other = table[column.default] if isinstance(column.default, str) else column.default
            table[column.name] = other if absent else table[column.name].fillna(other)
    return table


def as_dtype(values: pd.Series, column: Column) -> pd.Series:
    """The values in the column's exact type; raises TypeError or ValueError where they have none."""
    if column.kind == "text":
        return values.astype("str")
    return values.astype("int64") if column.kind == "count" else values.astype("float64")


def _checked(frame: pd.DataFrame, column: Column, where: str) -> pd.Series:
    if column.name not in frame.columns:
        if not column.nullable:
            raise InputError(
                f"{where}: column {column.name!r} is missing; expected {column.kind} ({column.meaning})"
            )
        return pd.Series(np.nan, index=frame.index, dtype=column.dtype)
    values = frame[column.name]
    if not column.nullable and values.isna().any():
        row = int(np.flatnonzero(values.isna())[0])
        raise InputError(f"{where}: column {column.name!r} is null in row {row}; expected {column.kind}")
    if column.kind == "count" and values.dtype.kind in "fu":
        _check_whole(values.to_numpy(), column, where)
        _check_numbers(values.to_numpy(), column, where)  # before the cast, which wraps what is too large
    try:
        values = as_dtype(values, column)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{where}: column {column.name!r} holds {values.dtype}; expected {column.kind}: {error}"
        ) from None
    if column.kind != "text":
        _check_numbers(values.to_numpy(), column, where)
    return values


def _check_whole(values: np.ndarray, column: Column, where: str) -> None:
    broken = np.flatnonzero(values != np.floor(values))
    if len(broken):
        raise InputError(
            f"{where}: column {column.name!r} is {values[broken[0]]} in row {broken[0]}; expected a whole"
            " number"
        )


def _check_numbers(values: np.ndarray, column: Column, where: str) -> None:
    low, high = -column.maximum if column.minimum is None else column.minimum, column.maximum
    with np.errstate(invalid="ignore"):
        bad = np.isinf(values) | (values < low) | (values > high)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        unit = f" {column.unit}" if column.unit else ""
        raise InputError(
            f"{where}: column {column.name!r} is {values[row]} in row {row}; expected a finite number of at"
            f" least {low:g} and at most {high:g}{unit}"
        )


def digest(table: pd.DataFrame) -> str:
    """First 32 hex digits of the sha256 over names, dtypes and values: the same table, the same digest."""
    sha = hashlib.sha256()
    for name in table.columns:
        sha.update(f"{name}:{table[name].dtype}".encode())
        sha.update(pd.util.hash_pandas_object(table[name], index=False).to_numpy().tobytes())
    return sha.hexdigest()[:32]


def write(table: pd.DataFrame, rejects: pd.DataFrame, path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Write the table, and its rejects beside it as `<stem>.rejects.parquet`; whole or not at all.

    The Parquet metadata gets `h3` = JSON of the given metadata with digest, format and library versions.
    """
    path = Path(path)
    table = check(table, str(path))
    record = {
        **metadata,
        "format_version": FORMAT_VERSION,
        "digest": digest(table),
        "rows": len(table),
        "versions": {
            "python": platform.python_version(),
            "h3": version("h3"),
            "pandas": pd.__version__,
            "pyarrow": pa.__version__,
        },
    }
    _write_parquet(table, path, record)
    _write_parquet(rejects, rejects_path(path), {"rejects_of": path.name, "rows": len(rejects)})


def rejects_path(path: Path) -> Path:
    """Where the rejects of the step table at `path` lie."""
    return path.with_name(f"{path.stem}.rejects.parquet")


def _write_parquet(frame: pd.DataFrame, path: Path, record: Mapping[str, Any]) -> None:
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    arrow = arrow.replace_schema_metadata({"h3": json.dumps(record, sort_keys=True, default=str)})
    files.write(path, lambda scratch: pq.write_table(arrow, scratch, compression="zstd"))


def read(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A step table and its metadata; raises InputError if it is none, is damaged or has another format
    version.
    """
    stored.check(path, "a step table")
    try:
        arrow = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise stored.unreadable(path, error) from None
    record = stored.metadata(arrow.schema, path)
    found = record.get("format_version")
    if found != FORMAT_VERSION:
        raise InputError(f"{path}: step-table format {found!r:.60}; expected {FORMAT_VERSION!r}")
    table = check(arrow.to_pandas(), str(path))
    own = [name for name in NAMES if name in arrow.column_names]
    stored.check_digest(record, digest(table[own]), path)
    return table, record
