"""Folds that hold one model or one workload out, and the walls that keep the held-out group out of fitting.

    fold = Fold(name="lomo_mixtral", kind="lomo", holdout="mixtral-8x7b-v0-1")
    split = make_split(table, fold)         # Split: train, held-out inputs, held-out truth

A predictor is fitted on `split.train` alone and predicts from `split.inputs`, which has no target column:
what it has not been given it cannot leak. Only evaluation reads `split.truth`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from h3.common.config import Fold
from h3.common.errors import InputError
from h3.steps import catalog, schema, shapes
from h3.steps.compact import rows_of

TARGET_NAMES = tuple(column.name for column in schema.TARGETS)


# Name of the group held out, inner training rows, inner held-out rows.
InnerFold = tuple[str, pd.DataFrame, pd.DataFrame]


@dataclass(frozen=True)
class Split:
    """One fold's data; `inputs` and `truth` have the same rows, `inputs` without any target column; holdout:
    its name in them.
    """

    train: pd.DataFrame
    inputs: pd.DataFrame
    truth: pd.DataFrame
    holdout: str


def make_split(table: pd.DataFrame, fold: Fold) -> Split:
    """Split a step table by the fold; what steps like a model, or has the group's name in another spelling,
    is held out with it (`held_rows`).

    Guarantees: every row of the (model-restricted) table on exactly one side, no experiment on both, targets
    of the held-out side only in `truth`. Raises InputError listing what is there if the holdout is not, or if
    nothing is left.
    """
    if fold.kind == "within":
        table = _only_model(table, fold.within_model)
    holdout = _resolve(table, fold)
    held = held_rows(table, fold.group, holdout)
    if held.all():
        raise InputError(
            f"fold {fold.name}: {fold.group} {holdout!r} is all the data; expected another {fold.group} to"
            " train on"
        )
    train, test = rows_of(table, ~held), rows_of(table, held)
    check_disjoint(train, test)
    return Split(train, without_targets(test), test[["experiment", *TARGET_NAMES]], holdout)


def _only_model(table: pd.DataFrame, name: str) -> pd.DataFrame:
    kept = table[np.asarray(_names(table, "model") == catalog.comparable("model", name))]
    if kept.empty:
        raise InputError(
            f"model {name!r} is not in the data; there are {', '.join(sorted(table['model'].unique()))}"
        )
    return kept


def held_rows(table: pd.DataFrame, group: str, name: str) -> np.ndarray:
    """Rows of the group in any spelling, and for a model those of any other that steps like it
    (steps/shapes.py), bool of shape (rows,).

    A chat model beside its base model, a copy with a size one larger, or one model under two names, would
    give the held-out times away.
    """
    names = _names(table, group)
    own = np.asarray(names == catalog.comparable(group, name))
    if group != "model" or own.all() or not own.any():
        return own
    return shapes.alike(table, own, names)


def _names(table: pd.DataFrame, group: str) -> pd.Series:
    """The group of each row as names are compared."""
    spelled = {name: catalog.comparable(group, name) for name in table[group].unique()}
    return table[group].map(spelled)


def _resolve(table: pd.DataFrame, fold: Fold) -> str:
    there = sorted(table[fold.group].unique())
    asked = fold.held_out(there)
    wanted = catalog.comparable(fold.group, asked)
    same = [name for name in there if catalog.comparable(fold.group, name) == wanted]
    if not same:
        raise InputError(
            f"fold {fold.name}: {fold.group} {asked!r} is not in the data; there are {', '.join(there)}"
        )
    return asked if asked in same else same[0]


def without_targets(table: pd.DataFrame) -> pd.DataFrame:
    """The table without its target columns."""
    return table.drop(columns=list(TARGET_NAMES))


def check_disjoint(train: pd.DataFrame, test: pd.DataFrame) -> None:
    """Raises if an experiment has rows on both sides."""
    both = set(train["experiment"].unique()) & set(test["experiment"].unique())
    if both:
        raise AssertionError(f"leak: experiments on both sides of a fold: {sorted(both)}")


def inner_folds(train: pd.DataFrame, group: str) -> list[InnerFold]:
    """Leave-one-group-out over the training groups: (group held out, inner train, inner test), sorted; none
    for one group.
    """
    groups = sorted(train[group].unique())
    if len(groups) < 2:
        return []
    parts: list[InnerFold] = []
    for name in groups:
        held = held_rows(train, group, name)
        if held.all() or any(name in set(part[group]) for _, _, part in parts):
            continue  # held out with a model of the same shape before
        inner_train, inner_test = rows_of(train, ~held), rows_of(train, held)
        check_disjoint(inner_train, inner_test)
        parts.append((name, inner_train, inner_test))
    return parts
