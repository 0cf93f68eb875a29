"""Train and evaluate folds; each is a nested run of one parent run.

    python -m h3.train fold=lomo_mixtral
    python -m h3.train -m 'fold=glob([lomo_*,lowo_*])'
    python -m h3.train -m 'fold=glob([lomo_*,lowo_*])' resume=true      # go on with one that was stopped
    python -m h3.train source=requests source.path=DIR fold=lowo_general

Settings are the groups and keys of conf/config.yaml.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from h3.common import cli
from h3.common.config import TrainConfig, from_hydra
from h3.common.progress import Progress
from h3.evaluation import result as fold_result
from h3.evaluation.one_fold import fold_of, run_fold
from h3.evaluation.result import FoldResult
from h3.latency.fold import replay_fold, replays
from h3.models.engines import engine
from h3.sources.experiment import Ingested
from h3.sources.load import load_once, loader
from h3.sources.requests import caching
from h3.steps import schema
from h3.tracking import outcome as fold_outcome
from h3.tracking import resume
from h3.tracking.record import RESULT, Record, Sealed
from h3.tracking.sent import Folds
from h3.tracking.sweep import PARENT_VARIABLE, Opened, begin, end, joined


def train(config: TrainConfig, out_dir: Path) -> FoldResult:
    """Run one fold, keep its record in `out_dir` and send it to the tracking store; the result.

    The run is a child of the sweep's parent, or of a parent of its own. Raises InputError for input that
    cannot be used.
    """
    loader(config.source)  # a name that is none is refused before a run is there
    engine.check(config.model.engine)
    parent = os.environ.get(PARENT_VARIABLE)
    if parent:
        return _fold(config, out_dir, joined(config.tracking, parent))
    with _own_parent(config) as opened:
        return _fold(config, out_dir, opened)


@contextmanager
def _own_parent(config: TrainConfig) -> Iterator[Opened]:
    """A parent run for one fold, which ends with the block."""
    key = resume.key(config)
    opened = begin(config.tracking, config.fold.name, {"source": config.source.name}, key, config.resume)
    finished = False
    try:
        yield opened
        finished = True
    finally:
        for line in end(opened, failed=not finished):
            cli.report(line)


def _fold(config: TrainConfig, out_dir: Path, opened: Opened) -> FoldResult:
    """One fold: gone on with as far as it was left, else made; its result is in `out_dir` too."""
    say = Progress(config.fold.name)
    folds = Folds(opened, config, say)
    left = folds.left()
    if left.finished:
        left.of(schema.digest(_data(config, say).table))
        say.note(f"kept: run {left.run_id} is finished, MAPE {left.finished.mape:.2f} %")
        result = left.finished
    else:
        with folds.run(left.run_id) as sending:
            ingested = _data(config, say)
            sealed = left.of(schema.digest(ingested.table)).sealed
            sending.sealed = sealed or _made(config, ingested, out_dir, say)
        result = sending.result
    say.finish()
    if not (out_dir / RESULT).is_file():
        fold_result.write(result, out_dir / RESULT)
    return result


def _data(config: TrainConfig, say: Progress) -> Ingested:
    """The steps, with what was left out of them said."""
    say("data")
    ingested = load_once(config.source, lambda text: say("data", detail=text))
    if len(ingested.rejects):
        say.note(ingested.rejected())
    for line in caching.lines(ingested.record, brief=True):
        say.note(line)
    for entry in ingested.record.get("left_out", []):
        say.note(f"left out {entry['experiment']}: {entry['reason']}")
    say.name = fold_of(config, ingested.table).name
    return ingested


def _made(config: TrainConfig, ingested: Ingested, out_dir: Path, say: Progress) -> Sealed:
    """Tune, fit, evaluate and replay a fold; its record, complete on disk."""
    outcome = run_fold(ingested, config, say)
    if "fewer than" in outcome.result.tuning:
        say.note(f"warning: {outcome.result.tuning}")
    say("record")
    record = Record(out_dir)
    fold_outcome.keep(record, outcome, config, ingested)
    replay = None
    if replays(config):
        say("replay")
        biases = config.replay.biases_percent
        replay, figures = replay_fold(outcome, config, biases, lambda name: say("replay", detail=name))
        for entry in replay.failed:
            say.note(f"not replayed: {entry.experiment}: {entry.reason}")
        for name, figure in figures.items():
            record.figure(figure, name)
    say.finish()
    known = {"replay": replay, "seconds": dict(say.seconds)}
    return record.seal(outcome.result.model_copy(update=known), resume.key(config))


def main(cfg: DictConfig) -> float | None:
    """One Hydra job: the fold's MAPE in %."""
    OmegaConf.set_readonly(cfg, True)
    config = from_hydra(cfg, TrainConfig)
    return train(config, Path(HydraConfig.get().runtime.output_dir)).mape


if __name__ == "__main__":
    cli.run(main, "config", sys.argv[1:])
