"""A step table in a fraction of its memory: what repeats from row to row (names, setup, architecture, what a
log does not tell) is kept once, and a row holds its number.

    growing = Growing(rows=12_000_000)
    for part in parts:
        growing.add(part)
    table = growing.table()                 # some 150 bytes a step of a request log instead of 500

Such columns are categorical; to_numpy gives the same numbers, and physics, features and folds give the same
answers.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from h3.steps import schema

REPEATED = frozenset(
    {"experiment", "model", "workload", "log", "clock"}
    | {column.name for group in (schema.SETUP, schema.ARCHITECTURE) for column in group}
)


class Growing:
    """A step table that is filled part by part; `rows`: how many there will be at most.

    Its arrays have their full size from the start: memory that nothing was written to is not taken.
    """

    def __init__(self, rows: int) -> None:
        self.rows, self.filled = rows, 0
        self.columns: dict[str, _Repeated | _Plain] = {
            column.name: _Repeated(rows, column) for column in schema.COLUMNS
        }

    def add(self, part: pd.DataFrame) -> None:
        """Append the rows of a table that schema.check returned."""
        place = slice(self.filled, self.filled + len(part))
        self.filled = place.stop
        for name, values in part.items():
            self.columns[str(name)] = self.columns[str(name)].with_rows(place, values)

    def table(self) -> pd.DataFrame:
        """The rows added so far."""
        known = {name: column.values(self.filled) for name, column in self.columns.items()}
        return pd.DataFrame(known, copy=False)


def rows_of(table: pd.DataFrame, mask: np.ndarray) -> pd.DataFrame:
    """The rows of a boolean mask, numbered anew; a category that none of them has is gone, so that nothing
    tells what other rows hold.
    """
    rows = table[mask].reset_index(drop=True)
    for name in rows.columns[rows.dtypes == "category"]:
        rows[name] = rows[name].cat.remove_unused_categories()
    return rows


class _Plain:
    """A column with a number of its own in each row."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def with_rows(self, place: slice, values: pd.Series) -> _Plain:
        self.numbers[place] = values.to_numpy()
        return self

    def values(self, rows: int) -> np.ndarray:
        return self.numbers[:rows]


class _Repeated:
    """A column of few values: each once, and by row the place of its own, -1 for null."""

    def __init__(self, rows: int, column: schema.Column) -> None:
        self.column, self.known = column, dict[object, int]()  # value → its place
        self.codes = np.empty(rows, np.int8)

    def with_rows(self, place: slice, values: pd.Series) -> _Repeated | _Plain:
        if self.column.name not in REPEATED and values.notna().any():
            return self._plain(place.start).with_rows(place, values)
        codes, found = pd.factorize(values)
        own = np.array([*(self.known.setdefault(value, len(self.known)) for value in found), -1])
        self.codes = _wide_enough(self.codes, len(self.known))
        self.codes[place] = own[codes]
        return self

    def _plain(self, filled: int) -> _Plain:
        numbers = np.empty(len(self.codes), self.column.dtype)
        if filled:
            numbers[:filled] = np.nan  # all that there was so far
        return _Plain(numbers)

    def values(self, rows: int) -> pd.Categorical:
        return pd.Categorical.from_codes(self.codes[:rows], pd.Index(self.known, dtype=self.column.dtype))


def _wide_enough(codes: np.ndarray, values: int) -> np.ndarray:
    kind = np.result_type(codes.dtype, np.min_scalar_type(-max(values, 1)))
    return codes if kind == codes.dtype else codes.astype(kind)
