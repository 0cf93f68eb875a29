"""Folds that hold one model or one workload out, and the walls that keep the held-out group out of fitting.

    fold = FoldSpec(name="lomo_mixtral", kind="lomo", holdout="mixtral-8x7b-v0-1")
    split = make_split(table, fold)         # Split: train, held-out inputs, held-out truth

A predictor is fitted on `split.train` alone and predicts from `split.inputs`, which has no target column: what it has
not been given it cannot leak. Only evaluation reads `split.truth`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from h3 import catalog, schema
from h3.errors import InputError

GROUP_OF_KIND = {"lomo": "model", "lowo": "workload", "within": "workload"}
TARGET_NAMES = tuple(column.name for column in schema.TARGETS)
WITHIN_MODEL = "mixtral-8x7b-v0-1"


@dataclass(frozen=True)
class FoldSpec:
    """Which group is held out: kind "lomo" (a model), "lowo" (a workload) or "within" (a workload of one model)."""

    name: str
    kind: str
    holdout: str
    within_model: str = WITHIN_MODEL

    @property
    def group(self) -> str:
        return GROUP_OF_KIND[self.kind]


@dataclass(frozen=True)
class Split:
    """One fold's data; `inputs` and `truth` have the same rows, `inputs` without any target column."""

    train: pd.DataFrame
    inputs: pd.DataFrame
    truth: pd.DataFrame


def make_split(table: pd.DataFrame, fold: FoldSpec) -> Split:
    """Split a step table by the fold.

    Guarantees: every row of the (model-restricted) table on exactly one side, no experiment on both, targets of the
    held-out side only in `truth`. Raises InputError listing what is there if the holdout is not, or if nothing is left.
    """
    if fold.kind == "within":
        table = _only_model(table, fold.within_model)
    holdout = _resolve(table, fold)
    held = (table[fold.group] == holdout).to_numpy()
    if held.all():
        raise InputError(f"fold {fold.name}: {fold.group} {holdout!r} is all the data; expected another {fold.group} to train on")
    train, test = table[~held].reset_index(drop=True), table[held].reset_index(drop=True)
    check_disjoint(train, test)
    return Split(train, without_targets(test), test[["experiment", *TARGET_NAMES]])


def _only_model(table: pd.DataFrame, name: str) -> pd.DataFrame:
    kept = table[table["model"] == catalog.model_name(name)]
    if kept.empty:
        raise InputError(f"model {name!r} is not in the data; there are {', '.join(sorted(table['model'].unique()))}")
    return kept


def _resolve(table: pd.DataFrame, fold: FoldSpec) -> str:
    there = sorted(table[fold.group].unique())
    holdout = catalog.model_name(fold.holdout) if fold.group == "model" else fold.holdout
    if holdout not in there:
        raise InputError(f"fold {fold.name}: {fold.group} {fold.holdout!r} is not in the data; there are {', '.join(there)}")
    return holdout


def without_targets(table: pd.DataFrame) -> pd.DataFrame:
    """The table without its target columns."""
    return table.drop(columns=list(TARGET_NAMES))


def check_disjoint(train: pd.DataFrame, test: pd.DataFrame) -> None:
    """Raises if an experiment has rows on both sides."""
    both = set(train["experiment"]) & set(test["experiment"])
    if both:
        raise AssertionError(f"leak: experiments on both sides of a fold: {sorted(both)}")


def inner_folds(train: pd.DataFrame, group: str) -> list[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Leave-one-group-out over the training groups: (group held out, inner train, inner test), sorted; none for one group."""
    groups = sorted(train[group].unique())
    if len(groups) < 2:
        return []
    parts = []
    for name in groups:
        held = (train[group] == name).to_numpy()
        inner_train, inner_test = train[~held].reset_index(drop=True), train[held].reset_index(drop=True)
        check_disjoint(inner_train, inner_test)
        parts.append((name, inner_train, inner_test))
    return parts


def row_weights(table: pd.DataFrame) -> np.ndarray:
    """Weights of shape (rows,), mean 1: models weigh the same, within a model its experiments, within those 1/gap_steps.

    A row's composition is known for one step of the gap that its period averages, so a long gap says less about it.
    """
    row = 1.0 / table["gap_steps"].to_numpy(float)
    per_experiment = pd.Series(row).groupby(table["experiment"].to_numpy()).transform("sum").to_numpy()
    experiments = table.groupby("model")["experiment"].nunique()
    weights = row / per_experiment / table["model"].map(experiments).to_numpy(float)
    return weights * len(table) / weights.sum()
