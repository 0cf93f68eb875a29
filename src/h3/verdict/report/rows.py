"""Rows of a verdict that the report picks out.

    ours_and_best_rival(verdict), worst_steps(verdict, 5)

Filters of the templates; they choose and sort, and count nothing.
"""

from __future__ import annotations

from h3.verdict.content import Verdict
from h3.verdict.diagnostics import WorstStep
from h3.verdict.evidence import PredictorRow
from h3.verdict.significance import Difference


def ours_and_best_rival(verdict: Verdict) -> tuple[PredictorRow, PredictorRow] | None:
    """The judged predictor and the rival of least mean error; None without either.

    Rivals have as many folds as it, and are not trained inside the held-out group.
    """
    ours = next((row for row in verdict.predictors if row.predictor == verdict.model and row.n_folds), None)
    if ours is None:
        return None
    rivals = [
        row
        for row in verdict.predictors
        if not row.sees_held_out and row.n_folds == ours.n_folds and row is not ours
    ]
    return (ours, min(rivals, key=lambda row: row.mean or 0.0)) if rivals else None


def said(verdict: Verdict) -> list[str]:
    """What follows, a sentence each: the hypothesis, how certain that is of other groups, what trees add, and
    the hypothesis of the learners beside.
    """
    trees = [verdict.trees.sentence] if verdict.trees else []
    beside = [f"{each.model}: {each.sentence}" for each in verdict.beside]
    return [each for each in (verdict.sentence, verdict.ours.sentence, *trees, *beside) if each]


def by_fold_and_difference(verdict: Verdict) -> list[Difference]:
    """Paired comparisons in the order of folds, where we are most ahead first."""
    folds = [row.fold for row in verdict.folds]
    return sorted(verdict.significance, key=lambda row: (folds.index(row.fold), row.difference))


def worst_steps(verdict: Verdict, count: int) -> list[tuple[str, WorstStep]]:
    """The steps of largest error of all folds, each with its fold."""
    every = [(fold, step) for fold, found in verdict.diagnostics.items() for step in found.worst]
    return sorted(every, key=lambda pair: -pair[1].ape)[:count]
