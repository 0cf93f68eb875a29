"""Train and evaluate folds; each is a nested run of one parent run.

    python -m h3.train fold=lomo_mixtral
    python -m h3.train -m 'fold=glob([lomo_*,lowo_*])'
    python -m h3.train source=requests source.path=DIR fold=lowo_general

Settings are the groups and keys of conf/config.yaml.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from h3.common import cli
from h3.common.config import TrainConfig, from_hydra
from h3.common.progress import Progress
from h3.evaluation import explain, plots
from h3.evaluation import result as fold_result
from h3.evaluation.one_fold import Outcome, fold_of, run_fold
from h3.evaluation.replay_result import ReplayResult
from h3.evaluation.result import FoldResult
from h3.latency.fold import replay_fold, replays
from h3.sources.experiment import Ingested
from h3.sources.load import load, loader
from h3.sources.requests import caching
from h3.steps import basis
from h3.tracking import log
from h3.tracking.store import Store, open_store
from h3.tracking.sweep import PARENT_VARIABLE, print_table


def train(config: TrainConfig, out_dir: Path) -> FoldResult:
    """Run one fold, log it to the tracking store and write result.json to `out_dir`; the result.

    The run is a child of the sweep's parent, or of a parent of its own. Raises InputError for input that
    cannot be used.
    """
    loader(config.source)  # a name that is none is refused before a run is there
    store = open_store(config.tracking.uri, config.tracking.experiment)
    parent = os.environ.get(PARENT_VARIABLE)
    if parent:
        return _tracked(config, out_dir, store, parent)
    own, finished = store.start_parent(config.fold.name, {"source": config.source.name}), False
    try:
        result = _tracked(config, out_dir, store, own)
        finished = True
    finally:
        rows = store.finish_parent(own, failed=not finished)
    print_table(rows)
    return result


def _tracked(config: TrainConfig, out_dir: Path, store: Store, parent: str) -> FoldResult:
    say = Progress(config.fold.name)
    with store.fold_run(parent, f"{config.fold.name}-{config.model.name}") as run_id:
        say("data")
        ingested = load(config.source, lambda text: say("data", detail=text))
        for line in caching.lines(ingested.record, brief=True):
            say.note(line)
        for entry in ingested.record.get("left_out", []):
            say.note(f"left out {entry['experiment']}: {entry['reason']}")
        say.name = fold_of(config, ingested.table).name
        outcome = run_fold(ingested, config, say)
        if "fewer than" in outcome.result.tuning:
            say.note(f"warning: {outcome.result.tuning}")
        say("track")
        _log(outcome, config, ingested)
        replay = _replay(outcome, config, say) if replays(config) else None
        say.finish()
        known = {"replay": replay, "mlflow_run_id": run_id, "seconds": dict(say.seconds)}
        result = outcome.result.model_copy(update=known)
        log.result(result)
        log.record(config, result, ingested.record)
        fold_result.write(result, out_dir / "result.json")
    return result


def _replay(outcome: Outcome, config: TrainConfig, say: Progress) -> ReplayResult:
    """Replay the held-out experiments with the fold's predictor: what its error means for the latency that
    users feel.
    """
    say("replay")
    biases = config.replay.biases_percent
    found, figures = replay_fold(outcome, config, biases, lambda name: say("replay", detail=name))
    for entry in found.failed:
        say.note(f"not replayed: {entry.experiment}: {entry.reason}")
    for name, figure in figures.items():
        log.figure(figure, name)
    return found


def _log(outcome: Outcome, config: TrainConfig, ingested: Ingested) -> None:
    """Log data, predictions, figures, explanation, trials and model of a fold to the active run."""
    digest, predictions = outcome.result.data_digest, outcome.predictions
    title, observed = outcome.result.title, basis.observed(outcome.result.data)
    log.dataset(outcome.split.train, config.source.origin, digest, "training")
    log.dataset(outcome.split.inputs, config.source.origin, digest, "held-out")
    log.frame(predictions, "predictions.parquet")
    if len(ingested.rejects):
        log.frame(ingested.rejects, "rejects.parquet")
    if len(outcome.trials):
        log.frame(outcome.trials, "trials.parquet")
    log.figure(plots.error_distribution(predictions, title), "error_distribution")
    picture = plots.predicted_against_measured(predictions, title, observed)
    log.figure(picture, "predicted_against_measured")
    log.figure(plots.error_by_batch_and_phase(predictions, title), "error_by_batch_and_phase")
    _log_explanation(outcome, title)
    log.fit(outcome.fitted)


def _log_explanation(outcome: Outcome, name: str) -> None:
    """The booster, SHAP summary and ranking, where the fit has trees."""
    fitted = explain.with_trees(outcome.fitted)
    if fitted is None:
        return
    rows = explain.sample(outcome.split.inputs)
    values, matrix = fitted.contributions(rows), fitted.inputs_matrix(rows)
    ranking = explain.ranking(values)
    log.frame(ranking, "shap_ranking.parquet")
    log.booster(fitted, matrix, fitted.predict(rows.head(5)))
    if explain.contribute(values):
        title = f"{name}: SHAP of the held-out steps"
        log.figure(plots.shap_summary(values, matrix, title), "shap_summary")
        log.figure(plots.shap_ranking(ranking, f"{name}: mean |SHAP|"), "shap_ranking")


def main(cfg: DictConfig) -> float | None:
    """One Hydra job: the fold's MAPE in %."""
    OmegaConf.set_readonly(cfg, True)
    config = from_hydra(cfg, TrainConfig)
    return train(config, Path(HydraConfig.get().runtime.output_dir)).mape


if __name__ == "__main__":
    cli.run(main, "config", sys.argv[1:])
