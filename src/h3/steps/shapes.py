"""Which models step alike, whatever they are called: models of one shape, or whose every size is within 1 %.

>>> from h3.steps import batch, catalog
>>> names = ["llama-2-70b", "llama-3.1-70b-instruct", "yi-34b"]    # the first two differ in the vocabulary
>>> served = [batch.Deployment(catalog.MODELS[name], 1, "H100") for name in names]
>>> groups(pd.concat([batch.step_table(each, [[(9, 1, 0)]]) for each in served])).tolist()
[0, 0, 1]

Sizes are the columns SHAPE_NAMES. Alike is passed on: a model that is within 1 % of another's near copy is of
its group. The tensor-parallel degree is no size: a copy that was served at another degree is a copy.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from h3.steps import schema

NEAR = 0.01
ROUNDING = 1e-9


def groups(table: pd.DataFrame) -> np.ndarray:
    """Number of each row's shape, from 0 in order of appearance, near ones as one; int of shape (rows,)."""
    number, first = distinct(table, schema.SHAPE_NAMES)
    sizes = first[list(schema.SHAPE_NAMES)].to_numpy(float)
    return _joined(np.nan_to_num(sizes, nan=-1.0))[number] if len(table) else number


def distinct(table: pd.DataFrame, names: Iterable[str]) -> tuple[np.ndarray, pd.DataFrame]:
    """Rows that differ in the columns of these names: the number of each row's kind, from 0 in order of
    appearance, int of shape (rows,), and the first row of each kind. Takes little memory beside the table.
    """
    number = np.zeros(len(table), int)
    for name in names:
        own = numbers(table[name])
        number = pd.factorize(number * (own.max(initial=0) + 1) + own)[0]
    return number, table.iloc[np.unique(number, return_index=True)[1]]


def numbers(values: pd.Series) -> np.ndarray:
    """Number of each row's value, from 0 in order of appearance, null as one of them; int, shape (rows,)."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.cat.codes
    return np.asarray(pd.factorize(values, use_na_sentinel=False)[0])


def _joined(sizes: np.ndarray) -> np.ndarray:
    """Group of each of the shapes (shapes, sizes): what a chain of near ones connects."""
    group = np.full(len(sizes), -1)
    for start in range(len(sizes)):
        if group[start] >= 0:
            continue
        group[start], found = group.max() + 1, [start]
        while found:
            free = np.flatnonzero(group < 0)
            near = free[_near(sizes[free], sizes[found.pop()])]
            group[near] = group[start]
            found += near.tolist()
    return group


def _near(sizes: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Which of the shapes (shapes, sizes) have every size within 1 % of the one's; bool of (shapes,)."""
    apart = np.abs(sizes - one) <= (NEAR + ROUNDING) * np.maximum(np.abs(sizes), np.abs(one))
    return np.asarray(apart.all(axis=1))


def alike(table: pd.DataFrame, own: np.ndarray, name: pd.Series) -> np.ndarray:
    """Rows of the models that step like those of the rows `own`, and of every model of one name with such a
    row; bool of shape (rows,).

    name: of each row's model, as names are compared.
    """
    shape, held, model = groups(table), own, numbers(name)
    while True:
        more = np.isin(shape, shape[held])
        more = np.isin(model, model[more])
        if (more == held).all():
            return held
        held = more
