"""One fold: split, tune, fit, predict, measure.

    outcome = run_fold(ingested, config, Progress("lomo_mixtral"))
    outcome.result.mape, outcome.predictions

Only this file reads the truth of a fold, and only after the predictor is fitted and has predicted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from h3.common.config import Fold, TrainConfig
from h3.common.errors import InputError
from h3.common.progress import Progress
from h3.evaluation import folds, tune
from h3.evaluation.folds import Split
from h3.evaluation.result import Errors, ExperimentErrors, FoldResult, Params, PhaseErrors
from h3.models import physical_base, zoo
from h3.models.protocol import Context, Fitted, Predictor, digest
from h3.sources.experiment import Ingested
from h3.steps import basis, metrics, physics, schema

CONTEXT_COLUMNS = (
    "experiment",
    "model",
    "workload",
    "log",
    "clock",
    "step_id",
    "start_us",
    "num_prefill_reqs",
    "num_decode_reqs",
    "prefill_tokens",
    "decode_tokens",
    "decode_kv_tokens_sum",
)

MOST_TRAIN_ROWS = 20_000


@dataclass(frozen=True)
class Outcome:
    """A fold's result, its predictions a row a held-out step, the trials, the fit and the
    split.
    """

    result: FoldResult
    predictions: pd.DataFrame
    trials: pd.DataFrame
    fitted: Fitted
    split: Split
    context: Context


def fold_of(config: TrainConfig, table: pd.DataFrame) -> Fold:
    """The fold that a configuration asks for; a generic fold is named after its holdout.

    Raises InputError listing what is there if a generic fold has no holdout.
    """
    fold = config.fold
    holdout = fold.held_out(table[fold.group].unique())
    if fold.name != fold.kind and fold.kind != "within":
        return fold
    return fold.model_copy(update={"name": f"{fold.name}_{holdout.split('/')[-1].lower()}"})


def run_fold(ingested: Ingested, config: TrainConfig, say: Progress) -> Outcome:
    """Run one fold of one predictor; raises InputError for a fold or target that the data cannot give."""
    table = with_target(ingested.table, config.target_column)
    fold = fold_of(config, table)
    split = folds.make_split(table, fold)
    context = Context.of(config, fold.group)
    params, note, trials = choose_params(split.train, context, config, say)
    say("fit")
    fitted, scored, n_train = fit(zoo.make(config.model.name, params), split, context)
    say("evaluate")
    who = f"{config.model.name} on {fold.name}"
    predictions = predict(fitted, scored, context, who)
    result = FoldResult(
        fold=fold.name,
        kind=fold.kind,
        holdout=split.holdout,
        **_asked(config),
        **dict(summarise(predictions, config.seed)),
        n_train=n_train,
        params=params,
        tuning=note,
        mape_train=mape_train(config.model.name, fitted, split.train, context, who),
        model_digest=digest(fitted),
        data_digest=schema.digest(ingested.table),
        data=basis.described(ingested.table),
        left_out=ingested.record.get("left_out", []),
        assumptions=ingested.record.get("assumptions", {}),
    )
    return Outcome(result, predictions, trials, fitted, scored, context)


def _asked(config: TrainConfig) -> dict[str, Any]:
    """What a result repeats of its configuration."""
    return {
        "source": config.source.name,
        "model": config.model.name,
        "features": config.features.name,
        "drop_groups": config.features.drop_groups,
        "ablation": config.ablation.name,
        "target": config.target_column,
        "seed": config.seed,
        "sees_held_out": zoo.sees_held_out(config.model.name),
    }


def fit(predictor: Predictor, split: Split, context: Context) -> tuple[Fitted, Split, int]:
    """The fit, the split to score it on, and the number of rows that it was trained on.

    Every predictor is fitted on the training side alone, but the one that is registered as seeing the
    held-out side: it is given its truth, and keeps for scoring the held-out rows that it has not read.
    """
    insider = zoo.inside(predictor)
    if insider is None:
        return predictor.fit(split.train, context), split, len(split.train)
    fitted = insider.fit_inside(split.inputs, split.truth, context)
    scored = insider.scored(split.inputs)
    kept = replace(
        split,
        inputs=split.inputs[scored].reset_index(drop=True),
        truth=split.truth[scored].reset_index(drop=True),
    )
    return fitted, kept, fitted.n_train


def with_target(table: pd.DataFrame, target: str) -> pd.DataFrame:
    """The rows that have the target; raises InputError if none has."""
    kept = table[table[target].to_numpy(float) > 0].reset_index(drop=True)
    if kept.empty:
        raise InputError(f"no step has {target}; request logs hold the period only, expected target=period")
    return kept


def choose_params(
    train: pd.DataFrame, context: Context, config: TrainConfig, say: Progress
) -> tuple[Params, str, pd.DataFrame]:
    """The predictor's parameters: given ones, and tuned ones where it is tuned and tuning is on."""
    given = dict(config.model.params)
    zoo.make(config.model.name, given)
    tuned = zoo.tuned(config.model.name)
    if tuned is None or "n_estimators" in given:
        return given, "parameters given, not tuned", pd.DataFrame()
    say("tune", 0, config.tune.trials)
    outcome = tune.search(train, context, config.tune, tuned, lambda done, total: say("tune", done, total))
    return vars(replace(outcome.params, **given)), outcome.note, outcome.trials


def predict(fitted: Fitted, split: Split, context: Context, who: str = "the predictor") -> pd.DataFrame:
    """Held-out predictions beside the truth, in time order within experiments: context columns, observed_us,
    predicted_us, base_us, ape, phase.

    Raises InputError naming `who` (predictor and fold) and the first step for which it returned no positive,
    finite number.
    """
    predicted = _times(fitted, split.inputs, f"{who}, held-out rows")
    observed = split.truth[context.target].to_numpy(float)
    frame = split.inputs[list(CONTEXT_COLUMNS)].assign(
        observed_us=observed,
        predicted_us=predicted,
        base_us=physical_base.fit(split.train, context.target).predict(split.inputs),
        ape=metrics.ape(predicted, observed),
        phase=metrics.phase(physics.prefill_tokens(split.inputs), physics.decode_tokens(split.inputs)),
    )
    return frame.sort_values(["experiment", "clock", "step_id"], kind="stable").reset_index(drop=True)


def _times(fitted: Fitted, rows: pd.DataFrame, who: str) -> np.ndarray:
    """Predicted us of each row; raises InputError naming the first that is no positive, finite number."""
    predicted = np.asarray(fitted.predict(rows), dtype=float)
    bad = np.flatnonzero(~(np.isfinite(predicted) & (predicted > 0)))
    if len(bad):
        row = rows.iloc[bad[0]]
        raise InputError(
            f"{who}: predicted {predicted[bad[0]]} us in row {bad[0]} (step {row['step_id']} of"
            f" {row['experiment']}), {len(bad)} of {len(rows)} rows like it; expected finite and above 0"
        )
    return predicted


def mape_train(
    name: str, fitted: Fitted, train: pd.DataFrame, context: Context, who: str = "the predictor"
) -> float | None:
    """Macro MAPE in % on the training rows, at most MOST_TRAIN_ROWS evenly spaced ones; None if they did not
    train it.

    Beside the held-out error it tells what a predictor memorises. Raises InputError as `predict` does.
    """
    if zoo.sees_held_out(name):
        return None
    rows = train.iloc[:: max(1, -(-len(train) // MOST_TRAIN_ROWS))].reset_index(drop=True)
    observed = rows[context.target].to_numpy(float)
    return metrics.macro_mape(
        _times(fitted, rows, f"{who}, training rows"), observed, rows["experiment"].to_numpy()
    )


def summarise(predictions: pd.DataFrame, seed: int) -> Errors:
    """Every number of result.json that comes from predictions."""
    predicted, observed = predictions["predicted_us"].to_numpy(), predictions["observed_us"].to_numpy()
    experiment, errors = predictions["experiment"].to_numpy(), predictions["ape"].to_numpy()
    return Errors(
        n_test=len(predictions),
        mape=metrics.macro_mape(predicted, observed, experiment),
        mape_interval=metrics.interval(errors, experiment, seed),
        mape_micro=metrics.mape(predicted, observed),
        bias=metrics.bias(predicted, observed),
        median_ape=metrics.quantile_ape(predicted, observed, 0.5),
        p99_ape=metrics.quantile_ape(predicted, observed, 0.99),
        pearson_r=metrics.pearson_r(predicted, observed),
        mape_base=metrics.macro_mape(predictions["base_us"].to_numpy(), observed, experiment),
        phases={name: _phase(predictions, name) for name in ("prefill", "decode", "mixed")},
        experiments=tuple(_experiment(rows) for _, rows in predictions.groupby("experiment")),
    )


def _phase(predictions: pd.DataFrame, name: str) -> PhaseErrors:
    rows = predictions[predictions["phase"] == name]
    mape = metrics.mape(rows["predicted_us"].to_numpy(), rows["observed_us"].to_numpy())
    return PhaseErrors(n=len(rows), mape=mape)


def _experiment(rows: pd.DataFrame) -> ExperimentErrors:
    predicted, observed = rows["predicted_us"].to_numpy(), rows["observed_us"].to_numpy()
    return ExperimentErrors(
        experiment=rows["experiment"].iloc[0],
        model=rows["model"].iloc[0],
        workload=rows["workload"].iloc[0],
        n=len(rows),
        mape=metrics.mape(predicted, observed),
        bias=metrics.bias(predicted, observed),
        median_ape=metrics.quantile_ape(predicted, observed, 0.5),
    )
