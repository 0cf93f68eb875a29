"""What trees add to physics: the error of the base alone against that of base and trees, fold by fold.

    found = gain(chosen.of("xgboost_residual"), predictions)
    found.mean_gain, found.interval, found.sentence

Certain about other groups, not about these steps: experiments are the observations of a fold, folds those of
the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from h3.common.records import Interval, Number, Record
from h3.evaluation.result import FoldResult
from h3.steps import metrics
from h3.verdict.certainty import over_groups

RESIDUAL = "xgboost_residual"


class FoldGain(Record):
    """One fold: MAPE in % of the base and with trees; gain: how many points trees take off, with its interval
    over the fold's experiments; trees: how many it chose.
    """

    fold: str
    kind: str
    holdout: str
    base: Number
    with_trees: Number
    gain: Number
    trees: int
    interval: Interval


class Trees(Record):
    """Mean gain over the folds, points, with its interval over the groups held out, and what follows."""

    mean_gain: Number
    interval: Interval
    folds: tuple[FoldGain, ...]
    sentence: str


def gain(results: Sequence[FoldResult], predictions: Mapping[str, pd.DataFrame]) -> Trees | None:
    """What trees add on the folds that have predictions; None without one.

    results: of the residual model. predictions: fold → experiment, observed_us, predicted_us, base_us.
    """
    named = {result.fold: result for result in results}
    folds = tuple(_fold(named[fold], frame) for fold, frame in predictions.items() if fold in named)
    if not folds:
        return None
    gains = [fold.gain for fold in folds if fold.gain is not None]
    mean, interval = (sum(gains) / len(gains) if gains else None), over_groups(gains)
    return Trees(mean_gain=mean, interval=interval, folds=folds, sentence=_sentence(folds, mean, interval))


def _fold(result: FoldResult, frame: pd.DataFrame) -> FoldGain:
    observed, experiment = frame["observed_us"].to_numpy(), frame["experiment"].to_numpy()
    errors = pd.DataFrame(
        {name: metrics.ape(frame[f"{name}_us"].to_numpy(), observed) for name in ("base", "predicted")}
    )
    by_experiment = errors.groupby(experiment).mean()
    gains = by_experiment["base"] - by_experiment["predicted"]
    return FoldGain(
        fold=result.fold,
        kind=result.kind,
        holdout=result.holdout,
        base=float(by_experiment["base"].mean()),
        with_trees=float(by_experiment["predicted"].mean()),
        gain=float(gains.mean()),
        trees=int(result.params.get("n_estimators", 0)),
        interval=over_groups(gains.tolist()),
    )


def _sentence(folds: Sequence[FoldGain], mean: float | None, interval: Interval) -> str:
    alone = [fold.fold for fold in folds if not fold.trees]
    if len(alone) == len(folds):
        return f"Trees are in none of {len(folds)} folds: physics answers alone."
    low, high = interval
    rest = f"; physics answers alone on {', '.join(alone)}" if alone else ""
    if mean is None or low is None or high is None:
        return f"Too few folds to say what trees add{rest}."
    said = f"{mean:+.2f} points [{low:+.2f} to {high:+.2f}, over the groups held out]"
    if low > 0:
        return f"Trees improve on the base by {said}{rest}."
    if high < 0:
        return f"Trees make the base worse: they take {said} off its error{rest}."
    return f"Trees add nothing that {len(folds)} folds can tell apart from 0: {said}{rest}."
