"""The search for hyperparameters over inner leave-one-group-out folds: tuning mirrors the test.

    outcome = search(train, context, TuneConfig(trials=20), zoo.tuned("xgboost_residual"))
    outcome.params                              # n_estimators may be 0: boosting only where it generalises

Each trial trains once per inner fold and reads the error on the group held out after 0, 1, ... trees; the
number of trees comes from the mean curve, "no trees" included. Where a base answers without them trees must
gain: a number of trees counts only if it lowers the mean error of the base alone by a twentieth and makes no
inner group worse by more than a tolerance.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
import pandas as pd
import xgboost as xgb
from optuna.trial import FrozenTrial
from scipy import stats

from h3 import models, steps
from h3.common import packaged, workers
from h3.common.config import TuneConfig
from h3.evaluation import folds
from h3.evaluation.shared_trials import open_trials
from h3.models import boosting, xgboost_residual
from h3.models.boosting import Boosting, Tuned
from h3.models.protocol import Context
from h3.steps import kernels, schema

TOLERANCE = 0.0025  # in mean |log ratio|: a quarter of a point
# Fewer training groups cannot tell what varies between groups: with three models the inner folds chose trees
# that made the held-out model worse, by up to 2 points (EXPERIMENTS.md, tuning); three workloads were enough.
LEAST_GROUPS = {"model": 4, "workload": 3}
LEAST_GAIN = 0.05  # smaller gains over two or three inner groups did not carry over (EXPERIMENTS.md, tuning)
RANDOM_PARTS = 3
PAUSE_S = 0.2  # between looks at what other workers have finished
SEARCHED = ("max_depth", "learning_rate", "min_child_weight", "reg_lambda", "subsample")
FOUND = ("rounds", "without_trees", "inner_errors")  # beside a trial's value
# From so many models on the gain of trees has an interval over models, and its lower end must be above 0.
GROUPS_FOR_INTERVAL, SURE = 8, 0.9
# What a trial's value follows from beside data and context: all code of these packages, the figures that it
# reads, folds and this file.
CODE = (steps, models)
optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Outcome:
    """The chosen parameters, why, and every trial (number, value, rounds, parameters) as a table."""

    params: Boosting
    note: str
    trials: pd.DataFrame


def search(
    train: pd.DataFrame,
    context: Context,
    options: TuneConfig,
    tuned: Tuned = xgboost_residual.TUNED,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Search a predictor's parameters on the training table alone; deterministic by context.seed.

    With fewer training groups than are needed (`_least_groups`) the outcome is the usual parameters: for the
    residual model the base alone. A stopped search resumes from its storage and ends at the same parameters
    as an uninterrupted one, and so do workers that share a storage, however many there are.
    """
    thinned = _thinned(train, options.max_rows)
    inner = (
        folds.inner_folds(thinned, context.group)
        if context.ablation.inner == "group"
        else _random_parts(thinned, context.seed)
    )
    usual, least = tuned.usual(context, len(inner)), _least_groups(tuned, context)
    instead = f"{usual.n_estimators} trees of the usual parameters" if usual.n_estimators else "no trees"
    if len(inner) < least:
        count, base = train[context.group].nunique(), "base pulled to priors, " * tuned.trees_must_gain
        groups = f"{count} training {context.group}{'s' if count != 1 else ''}"
        return Outcome(usual, f"{groups}, fewer than {least}: {base}{instead}", pd.DataFrame())
    if options.trials <= 0:
        return Outcome(usual, f"tuning off: {instead}", pd.DataFrame())
    trials = _tried(train, options, _Objective(inner, context, tuned), progress)
    best = min(trials, key=lambda trial: float(trial.values[0]))
    params = replace(usual, **best.params, n_estimators=best.user_attrs["rounds"])
    note = (
        f"{params.n_estimators} trees: inner error {best.values[0]:.4f}, {tuned.without_trees}"
        f" {best.user_attrs['without_trees']:.4f}"
    )
    return Outcome(params, note, _trials_frame(trials))


def _least_groups(tuned: Tuned, context: Context) -> int:
    """How many training groups a search needs; two where trees are all that there is.

    Ablations: parts cut at random are always enough, and without a base trees are all that there is.
    """
    has_base = tuned.trees_must_gain and context.ablation.base
    return LEAST_GROUPS[context.group] if has_base and context.ablation.inner == "group" else 2


def _tried(
    train: pd.DataFrame,
    options: TuneConfig,
    objective: _Objective,
    progress: Callable[[int, int], None] | None,
) -> list[FrozenTrial]:
    """The finished trials, those of an earlier search and of other workers included."""
    name = _study_name(train, objective, options)
    with ExitStack() as stack:
        if options.workers > 1:
            if options.storage is None:
                folder = stack.enter_context(TemporaryDirectory(prefix="h3-tune-"))
                options = options.model_copy(update={"storage": folder})
            theirs = replace(objective)  # without the curves that this process makes meanwhile
            stack.enter_context(workers.beside(options.workers - 1, _work, options, name, theirs))
        return _work(options, name, objective, progress)


def _work(
    options: TuneConfig,
    name: str,
    objective: _Objective,
    progress: Callable[[int, int], None] | None = None,
) -> list[FrozenTrial]:
    """Make trials until there are as many as asked for, whoever made them: generation by generation, and in
    each those that no other worker is at.
    """
    with open_trials(options.storage, name, options.generation) as kept:
        while missing := _missing(finished := kept.finished(), options):
            made = 0
            for number in missing:
                with kept.claimed(number) as mine:
                    if mine and number not in kept.finished():
                        kept.add(number, _made(objective, number, finished, options.generation))
                        made += 1
                        if progress:
                            progress(len(kept.finished()), options.trials)
            if not made:
                time.sleep(PAUSE_S)
    return list(finished.values())[: options.trials]  # an earlier search may have gone further


def _missing(finished: Mapping[int, FrozenTrial], options: TuneConfig) -> list[int]:
    """The numbers that are to be made of the first generation that is not whole."""
    missing = [number for number in range(options.trials) if number not in finished]
    return [number for number in missing if number // options.generation == missing[0] // options.generation]


def _made(
    objective: _Objective, number: int, finished: Mapping[int, FrozenTrial], generation: int
) -> FrozenTrial:
    """Draw and evaluate one trial: what it draws follows from its number and the generations before its own;
    the first tries the usual parameters.
    """
    study = optuna.create_study(sampler=_sampler(objective.context.seed, number))
    first = number // generation * generation
    study.add_trials([trial for other, trial in finished.items() if other < first])
    if number == 0:
        start = asdict(objective.usual)
        study.enqueue_trial({key: start[key] for key in SEARCHED})
    trial = study.ask()
    study.tell(trial, objective(trial))
    return study.trials[-1]


def _thinned(train: pd.DataFrame, max_rows: int) -> pd.DataFrame:
    """Every k-th row, so that at most max_rows remain, and with them all of an experiment that has no more
    than k: a mean of a load stage is not one of many.
    """
    every = max(1, -(-len(train) // max_rows))
    rows = train.groupby("experiment")["experiment"].transform("size").to_numpy()
    return train[(np.arange(len(train)) % every == 0) | (rows <= every)].reset_index(drop=True)


def _random_parts(train: pd.DataFrame, seed: int) -> list[folds.InnerFold]:
    """RANDOM_PARTS inner folds that ignore groups (for ablation): steps of one run are on both sides, as in
    the study.
    """
    part = np.random.default_rng(seed).integers(0, RANDOM_PARTS, len(train))
    return [
        (
            f"part {number}",
            train[part != number].reset_index(drop=True),
            train[part == number].reset_index(drop=True),
        )
        for number in range(RANDOM_PARTS)
    ]


def _sampler(seed: int, number: int) -> optuna.samplers.TPESampler:
    """One seeded sampler a trial: what a trial draws depends on the trials before it, not on when the search
    stopped.
    """
    return optuna.samplers.TPESampler(
        seed=seed * 100_003 + number, n_startup_trials=8, multivariate=False, constant_liar=False
    )


def _code_digest() -> str:
    """sha256 of everything that a trial's value follows from beside data and context: trials of other code
    are no trials.
    """
    digest = hashlib.sha256(f"{xgb.__version__} {optuna.__version__}".encode())
    files_of = [path for package in CODE for path in Path(package.__path__[0]).rglob("*.py")]
    for path in (
        *sorted(files_of),
        packaged.checked(kernels.TABLE),
        Path(str(folds.__file__)),
        Path(__file__),
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _study_name(train: pd.DataFrame, objective: _Objective, options: TuneConfig) -> str:
    """The study of this training table, predictor, context and code."""
    data, predictor, context = schema.digest(train), objective.tuned.name, objective.context.describe()
    known = [data, predictor, context, options.max_rows, options.generation, _code_digest()]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:24]


def _suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "max_depth": trial.suggest_int("max_depth", 1, 4),
        "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.1, log=True),
        "min_child_weight": trial.suggest_float("min_child_weight", 5.0, 500.0, log=True),
        "reg_lambda": trial.suggest_float("reg_lambda", 1.0, 1000.0, log=True),
        "subsample": trial.suggest_float("subsample", 0.5, 1.0),
    }


@dataclass(frozen=True)
class _Objective:
    """Mean inner error at the best allowed number of trees."""

    inner: list[folds.InnerFold]
    context: Context
    tuned: Tuned

    def __call__(self, trial: optuna.Trial) -> float:
        params = replace(self.usual, **_suggest(trial))
        curves = np.array([curve(params) for curve in self._curves])
        best = self._best(curves)
        trial.set_user_attr("rounds", boosting.ROUNDS[best])
        trial.set_user_attr("without_trees", float(curves[:, 0].mean()))
        trial.set_user_attr(
            "inner_errors",
            {name: float(curve[best]) for (name, _, _), curve in zip(self.inner, curves, strict=True)},
        )
        return float(curves[:, best].mean())

    @cached_property
    def _curves(self) -> list[Callable[[Any], np.ndarray]]:
        """The learning curve of each inner fold, with all that no trial changes."""
        made = self.tuned.learning_curve
        return [made(self.usual, train, held, self.context) for _, train, held in self.inner]

    @property
    def usual(self) -> Boosting:
        """The predictor's parameters for so many groups, before a search."""
        return self.tuned.usual(self.context, len(self.inner))

    def _best(self, curves: np.ndarray) -> int:
        if not self.tuned.trees_must_gain:
            return int(np.argmin(curves.mean(axis=0)))
        enough = len(curves) >= GROUPS_FOR_INTERVAL and self.context.group == "model"
        return surest_rounds(curves) if enough else best_rounds(curves)


def best_rounds(curves: np.ndarray) -> int:
    """Index of the number of trees with the least mean error over inner folds, among those that gain enough.

    curves: errors of shape (inner folds, numbers of trees), column 0 without trees; 0 is always allowed.
    """
    mean = curves.mean(axis=0)
    gains = (curves <= curves[:, :1] + TOLERANCE).all(axis=0) & (mean <= (1 - LEAST_GAIN) * mean[0])
    gains[0] = True
    return int(np.argmin(np.where(gains, mean, np.inf)))


def surest_rounds(curves: np.ndarray) -> int:
    """As best_rounds where there are many groups: the mean gain is a twentieth at least, and its one-sided
    interval over groups (Student's t, SURE) holds no loss. One group may lose while the others gain.
    """
    gains = curves[:, :1] - curves
    spread = gains.std(axis=0, ddof=1) / np.sqrt(len(gains))
    surely = gains.mean(axis=0) > float(stats.t.ppf(SURE, len(gains) - 1)) * spread
    mean = curves.mean(axis=0)
    allowed = surely & (mean <= (1 - LEAST_GAIN) * mean[0])
    allowed[0] = True
    return int(np.argmin(np.where(allowed, mean, np.inf)))


def _trials_frame(trials: list[FrozenTrial]) -> pd.DataFrame:
    """A row a trial; the columns in one order, whatever that of a database."""
    rows = [
        {"trial": number, "inner_error": trial.value}
        | {name: trial.params[name] for name in SEARCHED}
        | {name: trial.user_attrs[name] for name in FOUND}
        for number, trial in enumerate(trials)
    ]
    return pd.DataFrame(rows).astype({"inner_errors": "str"})
