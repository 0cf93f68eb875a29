"""What a fold's record holds: data, predictions, figures, explanation, trials and model.

keep(record, outcome, config, ingested)
"""

from __future__ import annotations

from h3.common.config import TrainConfig
from h3.evaluation import explain, plots
from h3.evaluation.one_fold import Outcome
from h3.sources.experiment import Ingested
from h3.steps import basis
from h3.tracking.record import Record


def keep(record: Record, outcome: Outcome, config: TrainConfig, ingested: Ingested) -> None:
    """Fill a fold's record with everything but its result."""
    digest, predictions = outcome.result.data_digest, outcome.predictions
    title, observed = outcome.result.title, basis.observed(outcome.result.data)
    record.made_of(config, ingested.record)
    record.dataset(outcome.split.train, config.source.origin, digest, "training")
    record.dataset(outcome.split.inputs, config.source.origin, digest, "held-out")
    record.frame(predictions, "predictions.parquet")
    if len(ingested.rejects):
        record.frame(ingested.rejects, "rejects.parquet")
    if len(outcome.trials):
        record.frame(outcome.trials, "trials.parquet")
    record.fit(outcome.fitted)
    record.figure(plots.error_distribution(predictions, title), "error_distribution")
    picture = plots.predicted_against_measured(predictions, title, observed)
    record.figure(picture, "predicted_against_measured")
    record.figure(plots.error_by_batch_and_phase(predictions, title), "error_by_batch_and_phase")
    _explanation(record, outcome, title)


def _explanation(record: Record, outcome: Outcome, name: str) -> None:
    """The booster, SHAP summary and ranking, where the fit has trees."""
    fitted = explain.with_trees(outcome.fitted)
    if fitted is None:
        return
    rows = explain.sample(outcome.split.inputs)
    values, matrix = fitted.contributions(rows), fitted.inputs_matrix(rows)
    ranking = explain.ranking(values)
    record.frame(ranking, "shap_ranking.parquet")
    record.booster(fitted, matrix, fitted.predict(rows.head(5)))
    if explain.contribute(values):
        title = f"{name}: SHAP of the held-out steps"
        record.figure(plots.shap_summary(values, matrix, title), "shap_summary")
        record.figure(plots.shap_ranking(ranking, f"{name}: mean |SHAP|"), "shap_ranking")
