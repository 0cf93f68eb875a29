"""Who may become champion: the predictors of a complete sweep, their errors, and what stands against each.

    candidates = candidates_of(store, sweep, names)
    winner, told = pick(store, config)

Only the held-out folds of the sweep decide.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from h3.common.config import TrainConfig, validated
from h3.common.errors import InputError
from h3.evaluation.result import WHOLE, FoldResult, Params
from h3.promotion.config import PromoteConfig
from h3.tracking.runs import Sweep, ended_sweeps, read_runs
from h3.tracking.store import Store

Finished = tuple[TrainConfig, FoldResult]


@dataclass(frozen=True)
class Candidate:
    """One predictor's folds in a sweep: label, configurations by fold, results, and what stands against it
    ("": nothing).
    """

    sweep: str
    label: str
    configs: dict[str, TrainConfig]
    results: list[FoldResult]
    against: str

    def describe(self) -> dict[str, Any]:
        """Label, worst and mean MAPE over the held-out folds, %, and what stands against it."""
        errors = [float("nan") if result.mape is None else result.mape for result in self.results]
        mean = sum(errors) / len(errors)
        return {"label": self.label, "worst": max(errors), "mean": mean, "against": self.against}


def pick(store: Store, config: PromoteConfig) -> tuple[Candidate, list[dict[str, Any]]]:
    """The winner and all candidates with their scores, of the sweep asked for or the newest complete one that
    is no ablation; printed.
    """
    newest = ""
    for sweep in ended_sweeps(store, config.sweep):
        try:
            candidates = candidates_of(store, sweep, config.winner.folds)
        except InputError as error:
            if config.sweep:
                raise
            newest = newest or str(error)
            continue
        eligible = [each for each in candidates if not each.against]
        if eligible:
            winner = min(eligible, key=lambda each: [each.describe()[name] for name in config.winner.rule])
            return winner, _told(sweep, config, candidates, winner)
        reasons = "; ".join(f"{each.label}: {each.against}" for each in candidates)
        newest = newest or f"{sweep.run_id}: {reasons or 'no finished fold'}"
    raise InputError(
        f"no complete sweep to promote from; expected all of {len(config.winner.folds)} folds; newest"
        f" {newest or 'none'}"
    )


def _told(
    sweep: Sweep, config: PromoteConfig, candidates: list[Candidate], winner: Candidate
) -> list[dict[str, Any]]:
    print(f"sweep {sweep.run_id}, {' then '.join(config.winner.rule)} of the held-out folds' MAPE:")
    picked = [each.describe() | {"winner": each is winner} for each in candidates]
    for entry in picked:
        mark = entry["against"] or "winner" * entry["winner"]
        print("  {label}: worst {worst:.2f} %, mean {mean:.2f} %".format(**entry), mark)
    return picked


def candidates_of(store: Store, sweep: Sweep, names: Sequence[str]) -> list[Candidate]:
    """The predictors of a sweep that have finished at least one fold, with what keeps each from being
    promoted.

    Raises InputError for an ablation: what it compares with is tuned briefly, on a part of the rows.
    """
    _refuse_ablation(sweep, sweep.ablation)
    groups: dict[str, list[Finished]] = {}
    for config, result in _finished(store, sweep):
        _refuse_ablation(sweep, "" if result.whole else f"ablation={result.ablation}")
        apart = config.model_dump(mode="json", include={"model", "features", "target", "seed", "ablation"})
        groups.setdefault(json.dumps(apart), []).append((config, result))
    return [_candidate(sweep.run_id, folds, names) for folds in groups.values()]


def _finished(store: Store, sweep: Sweep) -> list[Finished]:
    """Recorded configuration and result of each fold of a sweep that ended well."""
    ended = [run for run in read_runs(store, sweep) if run.status == "FINISHED" and run.result]
    return [(validated(run.config(), TrainConfig), run.result) for run in ended if run.result]


def _refuse_ablation(sweep: Sweep, of: str) -> None:
    if of:
        raise InputError(
            f"sweep={sweep.run_id} is an ablation ({of}), tuned to compare variants; expected a sweep of h3"
            " as it is"
        )


def _candidate(sweep: str, finished: list[Finished], names: Sequence[str]) -> Candidate:
    first, there = finished[0][0], [result.fold for _, result in finished]
    usual = (
        (first.features.name, "scale_free"),
        (first.target, "period"),
        (first.ablation.name, WHOLE),
    )
    label = "/".join([first.model.name, *(found for found, expected in usual if found != expected)])
    lacks = [name for name in names if there.count(name) != 1]
    against = ""
    if label != "xgboost_residual":
        against = "not exportable: a bundle holds xgboost_residual on scale_free features of the period"
    elif lacks:
        against = f"lacks one finished run each of {', '.join(lacks)}"
    elif len({result.data_digest for _, result in finished}) != 1:
        against = "its folds are on different data"
    kept = [(config, result) for config, result in finished if result.fold in names] or finished
    configs = {result.fold: config for config, result in kept}
    return Candidate(sweep, label, configs, [result for _, result in kept], against)


def consensus(results: Sequence[FoldResult]) -> Params:
    """One set of boosting parameters from the results of the folds.

    Where most folds that held a model out chose trees, theirs, for any deployment. Else those of the folds
    that held a workload out: their trees serve the deployments in the data, and a new model gets the base
    alone, as in its test. n_estimators: the lower median, a number that a fold chose, so trees are used only
    if most folds wanted some. Others: the median over the folds that use trees (all where none does), whole
    where they are whole.
    """
    for result in results:
        for name, value in result.params.items():
            if not isinstance(value, int | float):
                said = f"params.{name}={str(value)[:40]!r}; expected a number"
                raise InputError(f"run {result.mlflow_run_id or result.fold}: result.json: {said}")
    models = [result.params for result in results if result.kind == "lomo"]
    workloads = [result.params for result in results if result.kind != "lomo"]
    params = models if models and _rounds(models) > 0 else workloads or models
    used = [each for each in params if each["n_estimators"] > 0] or params
    made: Params = {}
    for name, value in params[0].items():
        values = sorted(each[name] for each in used)
        middle = values[(len(values) - 1) // 2]
        made[name] = middle if isinstance(value, int) else float(np.median(values))
    return made | {"n_estimators": _rounds(params)}


def _rounds(params: Sequence[Params]) -> int:
    """The lower median of n_estimators."""
    rounds = sorted(each["n_estimators"] for each in params)
    return rounds[(len(rounds) - 1) // 2]
