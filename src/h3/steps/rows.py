"""Step rows that strangers send to be predicted: each is a step that a server can make, or one line that says
which row and field it is not.

    rows.check(frame)                           # or an InputError: "row 3: num_layers=-80; expected ..."

Only what is given is checked; which columns are needed is for whoever predicts.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import pandas as pd

from h3.common.errors import InputError
from h3.common.shown import shown
from h3.steps import catalog, limits, schema

COLUMNS = {column.name: column for column in schema.COLUMNS if column.kind != "text"}
POSITIVE = (
    *("num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "vocab_size"),
    *("tensor_parallelism", "bytes_per_parameter", "attention_bytes_per_parameter"),
    *("head_bytes_per_parameter", "kv_bytes_per_value"),
)
# Whole is a multiple of its part.
MULTIPLES = (("num_heads", "tensor_parallelism"), ("num_heads", "num_kv_heads"))
# Each of the first has one of the second at least.
AT_LEAST = (("decode_kv_tokens_sum", "num_decode_reqs"),)


def check(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with numbers as numbers; raises InputError naming the first row and field that no step has."""
    checked = frame.copy(deep=False)
    for name, column in COLUMNS.items():
        if name in frame.columns:
            checked[name] = _numbers(frame[name], column)
    if "hardware" in frame.columns:
        _hardware(frame["hardware"])
    for whole, part in MULTIPLES:
        _compare(checked, whole, part, lambda a, b: a % b != 0, "a multiple of")
    for part, whole in limits.AT_MOST:
        _compare(checked, part, whole, lambda a, b: a > b, "at most")
    for name, least in AT_LEAST:
        _compare(checked, name, least, lambda a, b: a < b - 1e-6, "at least")
    return checked


def _numbers(values: pd.Series, column: schema.Column) -> pd.Series:
    """A column as numbers within its bounds; null only where it may be."""
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    found, name = numbers.to_numpy(), column.name
    lacking = values.isna().to_numpy()
    if values.dtype.kind not in "iuf":
        flags = values.map(lambda each: isinstance(each, bool | np.bool_)).to_numpy(bool)
        _first(np.isnan(found) & ~lacking | flags, values, name)
    if not column.nullable:
        _first(lacking, values, name, "a number")
    whole = column.kind == "count"
    with np.errstate(invalid="ignore"):
        low = max(column.minimum or 0.0, limits.LEAST_WEIGHT_BYTES * ("bytes" in name))
        low = max(low, 1e-9) if name in POSITIVE else low
        most = column.maximum
        expected = f"{'a whole number' if whole else 'a number'} from {low:g} to {most:g}"
        bad = (found < low) | (found > most) | np.isinf(found) | (whole & (found != np.floor(found)))
    _first(bad & ~lacking, values, name, expected)
    return numbers


def _first(bad: np.ndarray, values: pd.Series, name: str, expected: str = "a number") -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        _refuse(row, name, values.iloc[row], expected)


def _refuse(row: int, name: str, value: object, expected: str) -> NoReturn:
    value = value.item() if isinstance(value, np.generic) else value
    raise InputError(f"row {row}: {name}={shown(value)}; expected {expected}")


def _hardware(values: pd.Series) -> None:
    unknown = [each for each in values.unique() if not isinstance(each, str) or not catalog.knows(each)]
    if unknown:
        known = ", ".join([*catalog.HARDWARE, *(entry.name for entry in catalog.added_hardware())])
        same = values.isna() if pd.isna(unknown[0]) else values == unknown[0]
        _refuse(int(np.flatnonzero(same.to_numpy())[0]), "hardware", unknown[0], f"one of {known}")


def _compare(frame: pd.DataFrame, name: str, other: str, broken: object, words: str) -> None:
    if name not in frame.columns or other not in frame.columns:
        return
    found, limit = frame[name].to_numpy(float), frame[other].to_numpy(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        bad = broken(found, limit) & np.isfinite(found) & np.isfinite(limit)  # type: ignore[operator]
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        value = frame[name].iloc[row]
        whole = float(value).is_integer() and abs(value) < 1e15
        _refuse(row, name, int(value) if whole else value, f"{words} {other}={limit[row]:g}")
