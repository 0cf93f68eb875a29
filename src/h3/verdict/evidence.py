"""What stands beside the verdict.

    rows = predictor_rows(chosen, "xgboost_residual")
    evidence = gather(chosen, "xgboost_residual", predictions)

The table of predictors, significance against each rival, where the judged one is wrong, stability of the SHAP
ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from h3.common.records import Number, Record
from h3.verdict import diagnostics, significance, stability
from h3.verdict.chosen import Chosen
from h3.verdict.diagnostics import Diagnosis
from h3.verdict.significance import Difference
from h3.verdict.stability import Stability

PREDICTIONS, RANKING = "predictions.parquet", "shap_ranking.parquet"
KINDS = {"lomo": ("lomo",), "lowo": ("lowo",), "all": ("lomo", "lowo")}
Stabilities = dict[str, dict[str, Stability]]  # predictor → lomo, lowo, all


class PredictorRow(Record):
    """One predictor: MAPE of each fold in % (None: no result), means, whether it sees held-out truth."""

    predictor: str
    sees_held_out: bool
    folds: dict[str, Number]
    mean: Number
    lomo_mean: Number
    lowo_mean: Number
    n_folds: int


@dataclass(frozen=True)
class Evidence:
    """Significance against each rival, diagnostics of each fold, stability of all that rank features."""

    significance: list[Difference]
    diagnostics: dict[str, Diagnosis]
    stability: Stabilities


def predictor_rows(chosen: Chosen, predictor: str) -> list[PredictorRow]:
    """A row a predictor; the judged one first, then by mean."""
    inside = chosen.insiders()
    rows = [_row(chosen, name, name in inside) for name in chosen.predictors()]
    return sorted(
        rows,
        key=lambda row: (row.predictor != predictor, row.sees_held_out, -row.n_folds, row.mean or math.inf),
    )


def _row(chosen: Chosen, name: str, sees_held_out: bool) -> PredictorRow:
    found = {fold: chosen.runs.get((fold, name)) for fold in chosen.names}
    folds = {fold: scored.result.mape if scored else None for fold, scored in found.items()}
    by_kind = {
        kind: mean([folds[fold.name] for fold in chosen.folds if fold.kind == kind])
        for kind in ("lomo", "lowo")
    }
    return PredictorRow(
        predictor=name,
        sees_held_out=sees_held_out,
        folds=folds,
        mean=mean(list(folds.values())),
        lomo_mean=by_kind["lomo"],
        lowo_mean=by_kind["lowo"],
        n_folds=sum(value is not None for value in folds.values()),
    )


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the known values; None without one."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def predictions_of(chosen: Chosen, predictor: str) -> dict[str, pd.DataFrame]:
    """Fold → the predictor's predictions, in the verdict's order of folds; folds without are left out."""
    found = {fold: chosen.runs.get((fold, predictor)) for fold in chosen.names}
    frames = {fold: scored.run.frame(PREDICTIONS) for fold, scored in found.items() if scored}
    return {fold: frame for fold, frame in frames.items() if frame is not None}


def gather(chosen: Chosen, predictor: str, predictions: Mapping[str, pd.DataFrame]) -> Evidence:
    """All evidence on the judged predictor."""
    diagnosed = {fold: diagnostics.diagnose(frame) for fold, frame in predictions.items()}
    return Evidence(_significance(chosen, predictor, predictions), diagnosed, _stability(chosen, predictor))


def _significance(
    chosen: Chosen, predictor: str, predictions: Mapping[str, pd.DataFrame]
) -> list[Difference]:
    inside, rows = chosen.insiders(), []
    for fold, ours in predictions.items():
        rivals = {
            name: partial(scored.run.frame, PREDICTIONS, significance.COLUMNS)
            for (of, name), scored in sorted(chosen.runs.items(), key=lambda item: item[0])
            if of == fold and name != predictor
        }
        for row in significance.table(ours, rivals):
            rows.append(row.model_copy(update={"fold": fold, "sees_held_out": row.predictor in inside}))
    return rows


def _stability(chosen: Chosen, predictor: str) -> Stabilities:
    """Ours, and rivals that rank features."""
    found = {key: scored.run.frame(RANKING) for key, scored in chosen.needed().items()}
    rivals = sorted({name for (_, name), frame in found.items() if frame is not None} - {predictor})
    return {
        name: {
            label: stability.measure(_rankings(chosen, found, name, kinds)) for label, kinds in KINDS.items()
        }
        for name in [predictor, *rivals]
    }


def _rankings(
    chosen: Chosen, found: Mapping[tuple[str, str], pd.DataFrame | None], name: str, kinds: Sequence[str]
) -> stability.Rankings:
    own = [fold.name for fold in chosen.folds if fold.kind in kinds and (fold.name, name) in found]
    return {fold: found[fold, name] for fold in own}
