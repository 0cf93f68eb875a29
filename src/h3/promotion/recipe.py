"""What a version is made with, and its errors: one set of parameters on all folds and on all data.

    recipe = Recipe(config, params, folds)
    rows, left_out = fold_rows(recipe, ingested, Progress("promote"))
    recipe.fit(ingested.table)                  # by route: dense, moe

With two boosters dense models are held out among dense ones, and MoE models a workload at a time.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from h3.common.config import Fold, TrainConfig
from h3.common.errors import InputError
from h3.common.progress import Progress
from h3.evaluation import folds
from h3.evaluation.fold_table import FoldRow
from h3.evaluation.one_fold import fold_of, run_fold, with_target
from h3.evaluation.result import FoldResult, Params
from h3.models import zoo
from h3.models.protocol import Context
from h3.models.residual import FittedResidual
from h3.sources.experiment import Ingested
from h3.steps import catalog


@dataclass(frozen=True)
class NotInData:
    """A fold that the data cannot give, and why."""

    fold: str
    why: str


@dataclass(frozen=True)
class Recipe:
    """What a version was fitted with: a fold's configuration (source, features, seed), parameters, folds and
    boosters.
    """

    config: TrainConfig
    params: Params
    folds: tuple[Fold, ...]
    two_boosters: bool = False

    def describe(self) -> dict[str, Any]:
        """JSON that `Recipe.of` reads; it is published, so no address of a scheduler is in it."""
        return {
            "config": self.config.model_dump(mode="json", exclude={"model": {"dask_address"}}),
            "params": self.params,
            "folds": [fold.model_dump() for fold in self.folds],
            "two_boosters": self.two_boosters,
        }

    @classmethod
    def of(cls, content: dict[str, Any]) -> Recipe:
        """The recipe that `describe` described."""
        folds = tuple(Fold.model_validate(fold) for fold in content["folds"])
        config = TrainConfig.model_validate(content["config"])
        return cls(config, content["params"], folds, content["two_boosters"])

    def fit(self, table: pd.DataFrame) -> dict[str, FittedResidual]:
        """The fits by route, on all rows (one booster), or on dense and on MoE rows apart."""
        table = with_target(table, self.config.target_column)
        if not self.two_boosters:
            return dict.fromkeys(("dense", "moe"), self._fit(table))
        moe = catalog.is_moe(table)
        return {
            route: self._fit(table[rows].reset_index(drop=True))
            for route, rows in (("dense", ~moe), ("moe", moe))
        }

    def _fit(self, table: pd.DataFrame) -> FittedResidual:
        context = Context.of(self.config, "model")
        fitted = zoo.make(self.config.model.name, self.params).fit(table, context)
        if not isinstance(fitted, FittedResidual):
            raise InputError(
                f"model {self.config.model.name}: only xgboost_residual can be shipped in a bundle"
            )
        return fitted


def fold_rows(recipe: Recipe, ingested: Ingested, say: Progress) -> tuple[list[FoldRow], list[NotInData]]:
    """As `evaluated`, the rows alone."""
    found, left_out = evaluated(recipe, ingested, say)
    return [each for each, _ in found], left_out


def evaluated(
    recipe: Recipe, ingested: Ingested, say: Progress
) -> tuple[list[tuple[FoldRow, pd.DataFrame]], list[NotInData]]:
    """The recipe, parameters fixed, on its folds of the given data: a row and the held-out predictions a
    fold, and the folds that are left out.

    With two boosters dense models are held out among dense ones, and MoE models, of which nothing is claimed
    for an unseen one, a workload at a time. Folds whose group the data does not hold, or holds alone, are
    left out.
    """
    table = with_target(ingested.table, recipe.config.target_column)
    jobs = _jobs(recipe, table)
    found, left_out = [], []
    for number, (fold, data) in enumerate(jobs):
        model = recipe.config.model.model_copy(update={"params": recipe.params})
        config = recipe.config.model_copy(update={"fold": fold, "model": model})
        asked = fold_of(config, data)
        if why := _missing(asked, data):
            left_out.append(NotInData(asked.name, why if data is table else f"dense models alone: {why}"))
            continue
        say("evaluate the recipe", number, len(jobs))
        quiet = Progress(fold.name, io.StringIO())
        part = Ingested(data, ingested.rejects, ingested.record)
        outcome = run_fold(part, config, quiet)
        found.append((row(outcome.result, table), outcome.predictions))
    return found, left_out


def _jobs(recipe: Recipe, table: pd.DataFrame) -> Sequence[tuple[Fold, pd.DataFrame]]:
    """The folds to run, each with the table to cut it from."""
    if not recipe.two_boosters:
        return [(fold, table) for fold in recipe.folds]
    experts = catalog.is_moe(table)
    dense = table[~experts].reset_index(drop=True)
    jobs = [(fold, dense) for fold in recipe.folds]
    for model, rows in table[experts].groupby("model"):
        names = sorted(rows["workload"].unique())
        for name in names if len(names) > 1 else []:
            fold = Fold(name=f"within_{model}", kind="within", holdout=name, within_model=str(model))
            jobs.append((fold, table))
    return jobs


def _missing(fold: Fold, table: pd.DataFrame) -> str:
    """What the table lacks for the fold: its group, or another one to train on; "": nothing."""
    try:
        folds.make_split(table, fold)
    except InputError as error:
        return str(error).removeprefix(f"fold {fold.name}: ")
    return ""


def row(result: FoldResult, table: pd.DataFrame) -> FoldRow:
    """A fold's result as a row of the fold table, which says whether it holds a MoE model out."""
    held = table["model"] == (result.holdout if result.kind == "lomo" else result.experiments[0].model)
    moe = result.kind != "lowo" and bool(np.any(catalog.is_moe(table)[held.to_numpy()]))
    return FoldRow.of(result, moe)
