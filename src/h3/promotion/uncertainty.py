"""How far off a version may be, by kind of novelty, from the errors of its held-out folds.

    evidence = gather(recipe, table, [(row, predictions), ...])          # for bundle.write

Folds that held a model out speak for a new model, those of a MoE model also for a new MoE model, those that
held a workload out for a new workload. For a known deployment the recipe is fitted again without each third
in time of the experiments (evaluation/intervals.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from h3 import bundle
from h3.bundle import uncertainty
from h3.bundle.uncertainty import Evidence
from h3.bundle.uncertainty_model import Kind, KindName, Uncertainty
from h3.evaluation import intervals
from h3.evaluation.fold_table import FoldRow
from h3.evaluation.intervals import Group
from h3.evaluation.one_fold import with_target
from h3.promotion.recipe import Recipe
from h3.steps import catalog, kernels

MOST_FACTOR = 1e6  # the manifest holds no larger ones
Folds = Sequence[tuple[FoldRow, pd.DataFrame]]
# GPUs with tables of their own kernels (steps/kernels.py).
KERNELS_MEASURED = tuple(name for name, each in catalog.HARDWARE.items() if kernels.has_tables(each))
# log(measured / predicted), one a GPU. With tables: sums of an H200's, L40S's and A100's kernels under the
# profile of the nearest other GPU (scripts/kernel_steps.py). It is more than their own profiles miss (0.01),
# as no server of theirs was measured here. Without: servers on A100 and L40S, predicted 22 % and 13 % low in
# the mean by the efficiencies of an H100, which is how wrong another GPU's can be.
GPU_ERRORS: dict[KindName, tuple[float, ...]] = {
    "new_gpu": (0.062, 0.049, 0.073),
    "new_gpu_no_kernels": (0.248, 0.139),
}
FROM: dict[KindName, str] = {
    "known": "thirds in time of each log left out",
    "new_workload": "folds that held a workload out",
    "new_model": "folds that held a model out",
    "new_moe": "folds that held a MoE model out",
    "new_gpu": "a GPU's kernel sums under the other GPUs' tables; adds to a new model",
    "new_gpu_no_kernels": "servers on GPUs that nothing was fitted to; adds to a new model",
}


def gather(recipe: Recipe, table: pd.DataFrame, folds: Folds) -> Evidence:
    """The evidence of a recipe that is fitted on `table`; folds: rows with their held-out predictions."""
    table = with_target(table, recipe.config.target_column)
    groups = {"known": _known(recipe, table), **_by_kind(folds)}
    return Evidence(uncertainty.trained_on(table), of_groups(groups))


def of_groups(groups: dict[KindName, list[Group]]) -> Uncertainty:
    """Intervals of the kinds that have enough groups."""
    kinds = {name: _kind(name, found) for name, found in groups.items() if _enough(found)}
    for name, errors in GPU_ERRORS.items():
        kinds[name] = _gpu(name, errors)
    lacks = [
        f"{uncertainty.WORDS[name]} ({len(found)})" for name, found in groups.items() if not _enough(found)
    ]
    why = f"; fewer than {intervals.LEAST_GROUPS} held-out groups: {', '.join(lacks)}" if lacks else ""
    return Uncertainty(
        levels=intervals.LEVELS,
        kinds=kinds,
        kernels_measured=KERNELS_MEASURED,
        words=f"factors on period_us; coverage is of groups that did not set the width{why}",
    )


def _enough(groups: Sequence[Group]) -> bool:
    return len(groups) >= intervals.LEAST_GROUPS


def _kind(name: KindName, groups: Sequence[Group]) -> Kind:
    half = np.array([intervals.half_width(groups, level) for level in intervals.LEVELS])
    covered = [intervals.coverage(groups, level) for level in intervals.LEVELS]
    measured = tuple(share for share in covered if share is not None)
    told = {"coverage": measured} if measured else {}
    return _made(name, half, len(groups), **told)


def _gpu(name: KindName, errors: Sequence[float]) -> Kind:
    """Student's t on the GPUs' errors, one degree of freedom each."""
    levels = (1 + np.array(intervals.LEVELS)) / 2
    half = stats.t.ppf(levels, len(errors)) * np.sqrt(np.mean(np.square(errors)))
    return _made(name, half, len(errors))


def _made(name: KindName, half: np.ndarray, groups: int, **more: tuple[float, ...]) -> Kind:
    half = np.minimum(half, np.log(MOST_FACTOR))
    content = {"low": tuple(np.exp(-half).tolist()), "high": tuple(np.exp(half).tolist()), "groups": groups}
    return Kind.model_validate({**content, "words": FROM[name], **more})


def _by_kind(folds: Folds) -> dict[KindName, list[Group]]:
    groups: dict[KindName, list[Group]] = {"new_workload": [], "new_model": [], "new_moe": []}
    for row, predictions in folds:
        group = intervals.residuals(row.fold, predictions)
        groups["new_model" if row.kind == "lomo" else "new_workload"].append(group)
        if row.kind == "lomo" and row.moe:
            groups["new_moe"].append(group)
    return groups


def _known(recipe: Recipe, table: pd.DataFrame) -> list[Group]:
    """A group an experiment: each third under a fit on the rest."""
    frames = []
    for held in intervals.thirds(table):
        if not held.any() or held.all():
            continue
        rest, part = table[~held].reset_index(drop=True), table[held].reset_index(drop=True)
        predicted = bundle.predict(recipe.fit(rest), part)["us"].to_numpy()
        observed = part[recipe.config.target_column].to_numpy(float)
        columns = {"observed_us": observed, "predicted_us": predicted}
        frames.append(part[["experiment"]].assign(**columns))
    if not frames:
        return []
    return [intervals.residuals(str(name), rows) for name, rows in pd.concat(frames).groupby("experiment")]
