"""Which runs of a sweep are compared, and why the others are not.

    chosen = choose(read_runs(store, sweep), folds)
    chosen.runs["lomo_mixtral", "habitat"].result.mape

One finished run a fold and predictor; all of a predictor with one setting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from h3.common.config import Fold
from h3.common.errors import InputError
from h3.common.records import Record
from h3.evaluation.result import FoldResult
from h3.models import zoo
from h3.tracking.runs import FoldRun, Sweep

USUAL: dict[str, Any] = {"features": "scale_free", "drop_groups": (), "target": "period_us"}


class NotCompared(Record):
    """A run or an experiment that is not in the comparison, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Scored:
    """A finished run and its result."""

    run: FoldRun
    result: FoldResult


@dataclass(frozen=True)
class Chosen:
    """(fold, predictor) → run, and what was left out and why. Folds within a model are apart."""

    folds: tuple[Fold, ...]
    runs: dict[tuple[str, str], Scored] = field(default_factory=dict)
    left_out: list[NotCompared] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the folds that the verdict needs."""
        return tuple(fold.name for fold in self.folds)

    def of(self, predictor: str) -> list[FoldResult]:
        """The results of one predictor."""
        return [scored.result for (_, name), scored in self.runs.items() if name == predictor]

    def predictors(self) -> list[str]:
        """Every predictor that has a run."""
        return sorted({name for _, name in self.runs})

    def insiders(self) -> set[str]:
        """Predictors that were trained on held-out truth: registered so, or a run of theirs says so (it may
        be registered no more).
        """
        registered = {name for name in zoo.PREDICTORS if zoo.sees_held_out(name)}
        return registered | {name for (_, name), scored in self.runs.items() if scored.result.sees_held_out}

    def needed(self) -> dict[tuple[str, str], Scored]:
        """The runs of folds that the verdict needs."""
        return {key: scored for key, scored in self.runs.items() if key[0] in self.names}


def one_digest(runs: Iterable[FoldRun], sweep: Sweep) -> str:
    """The digest of the data of all runs; raises InputError if there are two, or none."""
    runs = list(runs)
    digests = sorted({run.result.data_digest for run in runs if run.result})
    if len(digests) > 1:
        both = " and ".join(digests)
        raise InputError(
            f"sweep {sweep.run_id} mixes data: digests {both}; expected one, sweep again on one source"
        )
    if not digests:
        told = f"{len(runs)} runs, none with a result" if runs else "no runs"
        raise InputError(f"sweep {sweep.run_id} has {told}; expected at least one finished fold")
    return digests[0]


def choose(runs: Sequence[FoldRun], folds: tuple[Fold, ...]) -> Chosen:
    """One finished run a fold and predictor, the newest, and what was left out and why.

    All runs of a predictor have the same features and target: the usual ones, or the newest run's if it has
    none such.
    """
    chosen, settings = Chosen(folds), _settings(runs)
    for run in runs:
        result = run.finished
        if result is None:
            chosen.left_out.append(NotCompared(what=run.name, why=run.trouble))
        elif why := _apart(run, result, settings):
            chosen.left_out.append(NotCompared(what=run.name, why=why))
        else:
            _take(chosen, Scored(run, result.model_copy(update={"mlflow_run_id": run.run_id})))
    return chosen


def _apart(run: FoldRun, result: FoldResult, settings: dict[str, dict[str, Any]]) -> str:
    """Why a finished run is not compared; "": it is."""
    if not result.whole:
        return f"run {run.run_id} is of the ablation {result.ablation}"
    own, kept = _setting(result), settings[result.model]
    other = [
        f"{name}={_told(own[name])} instead of {_told(kept[name])}"
        for name in USUAL
        if own[name] != kept[name]
    ]
    return f"run {run.run_id} has {', '.join(other)}" if other else ""


def _told(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _take(chosen: Chosen, scored: Scored) -> None:
    result, run = scored.result, scored.run
    same = (fold.name for fold in chosen.folds if result.holds_out(fold))
    key = (next(same, result.fold), result.model)
    if key in chosen.runs:
        before = chosen.runs[key].run.run_id
        chosen.left_out.append(
            NotCompared(what=run.name, why=f"run {before} is repeated by the later {run.run_id}")
        )
    chosen.runs[key] = scored
    for entry in result.left_out:
        note = NotCompared(what=entry.experiment, why=entry.reason)
        if note not in chosen.left_out:
            chosen.left_out.append(note)


def _settings(runs: Sequence[FoldRun]) -> dict[str, dict[str, Any]]:
    """Predictor → the setting of its runs to compare, of those that finished and are no ablation's."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        result = run.finished
        if result is not None and result.whole:
            found.setdefault(result.model, []).append(_setting(result))
    return {model: USUAL if USUAL in each else each[-1] for model, each in found.items()}


def _setting(result: FoldResult) -> dict[str, Any]:
    return {name: getattr(result, name) for name in USUAL}
