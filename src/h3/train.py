"""Train and evaluate folds; each is a nested run of one parent run.

python -m h3.train fold=lomo_mixtral
python -m h3.train -m 'fold=glob([lomo_*,lowo_*])'
python -m h3.train source=requests source.path=DIR fold=lowo_general
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from h3.common import cli, strict_json
from h3.common.config import TrainConfig, from_hydra
from h3.common.progress import Progress
from h3.evaluation import explain, plots
from h3.evaluation.one_fold import Outcome, fold_spec, run_fold
from h3.latency.fold import replay_fold
from h3.sources import load
from h3.sources.experiment import Ingested
from h3.tracking import store as track
from h3.tracking.sweep import PARENT_VARIABLE, print_table


def train(config: TrainConfig, out_dir: Path) -> dict:
    """Run one fold, log it to the tracking store and write result.json to `out_dir`; the result.

    The run is a child of the sweep's parent, or of a parent of its own. Raises InputError for input that
    cannot be used.
    """
    store = track.open_store(config.tracking.uri, config.tracking.experiment)
    parent = os.environ.get(PARENT_VARIABLE)
    own = None if parent else store.start_parent(config.fold.name, {"source": config.source.name})
    finished = False
    try:
        result = _tracked(config, out_dir, store, parent or own)
        finished = True
    finally:
        if own:
            rows = store.finish_parent(own, failed=not finished)
    if own:
        print_table(rows)
    return result


def _tracked(config: TrainConfig, out_dir: Path, store: track.Store, parent: str) -> dict:
    say = Progress(config.fold.name)
    with store.fold_run(parent, f"{config.fold.name}-{config.model.name}") as run_id:
        say("data")
        ingested = load.load(config.source, lambda text: say("data", detail=text))
        for entry in ingested.record.get("left_out", []):
            print(f"[{config.fold.name}] left out {entry['experiment']}: {entry['reason']}", file=sys.stderr)
        say.name = fold_spec(config, ingested.table).name
        outcome = run_fold(ingested, config, say)
        if "fewer than" in outcome.result["tuning"]:
            print(f"[{say.name}] warning: {outcome.result['tuning']}", file=sys.stderr)
        say("track")
        _log(outcome, config, ingested)
        if config.replays:
            _replay(outcome, config, say)
        say.finish()
        result = {**outcome.result, "mlflow_run_id": run_id, "seconds": dict(say.seconds)}
        track.log_result(result, say.seconds)
        track.log_record(config.model_dump(), result, ingested.record)
        strict_json.write(result, out_dir / "result.json")
    return result


def _replay(outcome: Outcome, config: TrainConfig, say: Progress) -> None:
    """Replay the held-out experiments with the fold's predictor: what its error means for the latency that
    users feel.
    """
    say("replay")
    content, figures = replay_fold(
        outcome, config, config.replay.biases_percent, lambda name: say("replay", detail=name)
    )
    outcome.result["replay"] = content
    for entry in content.get("failed", []):
        print(f"[{say.name}] not replayed: {entry['experiment']}: {entry['reason']}", file=sys.stderr)
    for name, figure in figures.items():
        track.log_figure(figure, name)


def _log(outcome: Outcome, config: TrainConfig, ingested: Ingested) -> None:
    """Log data, predictions, figures, explanation, trials and model of a fold to the active run."""
    name, source = outcome.result["fold"], str(config.source.path or config.source.name)
    track.log_dataset(outcome.split.train, source, outcome.result["data_digest"], "training")
    track.log_dataset(outcome.split.inputs, source, outcome.result["data_digest"], "held-out")
    track.log_frame(outcome.predictions, "predictions.parquet")
    if len(ingested.rejects):
        track.log_frame(ingested.rejects, "rejects.parquet")
    if len(outcome.trials):
        track.log_frame(outcome.trials, "trials.parquet")
    track.log_figure(plots.error_distribution(outcome.predictions, name), "error_distribution")
    track.log_figure(
        plots.predicted_against_measured(outcome.predictions, name), "predicted_against_measured"
    )
    track.log_figure(plots.error_by_batch_and_phase(outcome.predictions, name), "error_by_batch_and_phase")
    _log_explanation(outcome, name)
    track.log_fit(outcome.fitted)


def _log_explanation(outcome: Outcome, name: str) -> None:
    """SHAP summary and ranking, where the fit has trees that contribute."""
    rows = explain.sample(outcome.split.inputs)
    values = explain.contributions(outcome.fitted, rows)
    if values is None:
        return
    ranking = explain.ranking(values)
    track.log_frame(ranking, "shap_ranking.parquet")
    matrix = outcome.fitted.inputs_matrix(rows)
    track.log_booster(outcome.fitted.booster, matrix, outcome.fitted.predict(rows.head(5)))
    if explain.has_trees(values):
        track.log_figure(
            plots.shap_summary(values, matrix, f"{name}: SHAP of the held-out steps"), "shap_summary"
        )
        track.log_figure(plots.shap_ranking(ranking, f"{name}: mean |SHAP|"), "shap_ranking")


def main(cfg: DictConfig) -> float:
    """One Hydra job: the fold's MAPE in %."""
    OmegaConf.set_readonly(cfg, True)
    config = from_hydra(cfg)
    return train(config, Path(HydraConfig.get().runtime.output_dir))["mape"]


if __name__ == "__main__":
    cli.run(main, "config")
