"""The verdict on a sweep, from what its runs left in the tracking store; trains nothing.

    made = make(store, config)
    made.verdict.sentence, made.predictions["lomo_mixtral"]

The newest sweep unless a run id is given; beside it an ablation and a check within one model on its data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from h3.common.config import Fold, Study, TrackingConfig, fold_with_group
from h3.tracking.runs import FoldRun, Sweep, find_beside, find_sweep, read_runs
from h3.tracking.store import Store
from h3.verdict import ablation, replays, trees
from h3.verdict.ablation import Ablation
from h3.verdict.certainty import over_groups
from h3.verdict.chosen import Chosen, choose, one_digest
from h3.verdict.content import LearnerVerdict, Means, Provenance, Source, Verdict, Within
from h3.verdict.evidence import gather, mean, predictions_of, predictor_rows
from h3.verdict.hypothesis import STUDY, FoldVerdict, Judgement, judge

# Whose hypothesis h3 asks: XGBoost on what a physical base leaves over, and XGBoost without a fitted base.
LEARNERS = (trees.RESIDUAL, "xgboost_scale_free")


class CompareConfig(Study):
    """conf/compare.yaml: run ids, whose hypothesis is judged, output folder; the study's thresholds."""

    sweep: str | None = None
    ablation: str | None = None
    within: str | None = None
    predictor: str = "xgboost_residual"
    out: str = "compare"
    tracking: TrackingConfig = TrackingConfig()


@dataclass(frozen=True)
class Made:
    """The verdict, the judged predictor's predictions by fold, and the sweep."""

    verdict: Verdict
    predictions: dict[str, pd.DataFrame]
    sweep: Sweep


@dataclass(frozen=True)
class _Beside:
    """Sweeps of their own on the same data: ablation and the check within one model, and what ran them."""

    ablation: Ablation | None
    within: list[Within]
    commands: list[str]


def make(store: Store, config: CompareConfig) -> Made:
    """Judge the sweep that is asked for; raises InputError for one that is not there or that mixes data."""
    sweep = find_sweep(store, config.sweep)
    runs = read_runs(store, sweep)
    digest = one_digest(runs, sweep)
    folds: tuple[Fold, ...] = tuple(fold_with_group(name) for name in config.folds)
    chosen, beside = choose(runs, folds), _beside(store, config, runs, digest)
    judgement = judge(chosen.of(config.predictor), config, _failed(runs, config.predictor))
    predictions = predictions_of(chosen, config.predictor)
    evidence = gather(chosen, config.predictor, predictions)
    results = {key: scored.result for key, scored in chosen.needed().items()}
    verdict = Verdict(
        **_told(config, judgement, chosen),
        source=_source(sweep, runs),
        verdicts=_learners(config, runs, chosen),
        trees=_trees(config, chosen, predictions),
        left_out=chosen.left_out,
        provenance=provenance(sweep, runs, digest, beside.commands),
        ablation=beside.ablation,
        within=beside.within,
        replay=replays.compared(results, config.predictor),
        significance=evidence.significance,
        diagnostics=evidence.diagnostics,
        stability=evidence.stability,
    )
    return Made(verdict, predictions, sweep)


def _failed(runs: Sequence[FoldRun], predictor: str) -> dict[str, str]:
    """Fold → why the predictor has no number there."""
    ending = f"-{predictor}"
    return {
        run.name.removesuffix(ending): run.trouble
        for run in runs
        if not run.finished and run.name.endswith(ending)
    }


def _told(config: CompareConfig, judgement: Judgement, chosen: Chosen) -> dict[str, Any]:
    """Hypothesis, sentence, fold rows, the study's numbers beside ours, and the table of predictors."""
    return {
        "hypothesis": judgement.hypothesis,
        "sentence": judgement.sentence,
        "model": config.predictor,
        "threshold": config.threshold,
        "moe_threshold": config.moe_threshold,
        "refute": config.refute,
        "sees_held_out": config.predictor in chosen.insiders(),
        "folds": judgement.folds,
        "study": STUDY,
        "ours": _means(judgement.folds),
        "predictors": predictor_rows(chosen, config.predictor),
    }


def _source(sweep: Sweep, runs: Sequence[FoldRun]) -> Source:
    return Source(name=sweep.source, data=next(run.result.data for run in runs if run.result))


def _learners(config: CompareConfig, runs: Sequence[FoldRun], chosen: Chosen) -> tuple[LearnerVerdict, ...]:
    """The verdict on each learner that the sweep was run with."""
    found = []
    for name in LEARNERS:
        failed = _failed(runs, name)
        if not failed and name not in chosen.predictors():
            continue
        said = judge(chosen.of(name), config, failed)
        known = {"hypothesis": said.hypothesis, "sentence": said.sentence, "folds": said.folds}
        found.append(LearnerVerdict(model=name, means=_means(said.folds), **known))
    return tuple(found)


def _trees(
    config: CompareConfig, chosen: Chosen, predictions: Mapping[str, pd.DataFrame]
) -> trees.Trees | None:
    judged = config.predictor == trees.RESIDUAL
    frames = predictions if judged else predictions_of(chosen, trees.RESIDUAL)
    named = {fold: scored.result for (fold, name), scored in chosen.runs.items() if name == trees.RESIDUAL}
    return trees.gain([named[fold].model_copy(update={"fold": fold}) for fold in frames], frames)


def _means(folds: Sequence[FoldVerdict]) -> Means:
    values = {
        kind: [row.mape for row in folds if row.kind == kind and row.mape is not None]
        for kind in ("lomo", "lowo")
    }
    return Means(
        lomo_mean_mape=mean(values["lomo"]),
        lowo_mean_mape=mean(values["lowo"]),
        lomo_worst_mape=max(values["lomo"], default=None),
        lowo_worst_mape=max(values["lowo"], default=None),
        lomo_over_models=over_groups(values["lomo"], least=0.0),
        lowo_over_workloads=over_groups(values["lowo"], least=0.0),
    )


def _beside(store: Store, config: CompareConfig, every: Sequence[FoldRun], digest: str) -> _Beside:
    """Raises InputError for an ablation or within sweep on other data."""
    found: list[tuple[Sweep | None, list[FoldRun]]] = []
    for kind, run_id in (("ablation", config.ablation), ("within", config.within)):
        sweep = find_beside(store, kind, run_id, digest)
        runs = read_runs(store, sweep) if sweep else []
        if sweep:
            one_digest([*every, *runs], sweep)
        found.append((sweep, runs))
    (ablated, ablation_runs), (_, within_runs) = found
    inside = [run.finished for run in [*every, *within_runs] if run.finished]
    within = [Within.model_validate(result.model_dump()) for result in inside if result.kind == "within"]
    commands = [training_command(sweep.overrides) for sweep, _ in found if sweep and sweep.overrides]
    return _Beside(_ablation(ablated, ablation_runs), within, commands)


def _ablation(sweep: Sweep | None, runs: Sequence[FoldRun]) -> Ablation | None:
    summary = ablation.summary([run.finished for run in runs if run.finished])
    if summary is None or sweep is None:
        return None
    failed = tuple(run.name for run in runs if not run.finished)
    known = {"sweep": sweep.run_id, "overrides": sweep.overrides or "", "failed": failed}
    return summary.model_copy(update=known)


def provenance(sweep: Sweep, runs: Sequence[FoldRun], digest: str, beside: Sequence[str]) -> Provenance:
    """Where the numbers come from; `beside`: commands of the sweeps beside."""
    first, result = next((run, run.result) for run in runs if run.result)
    train = training_command(sweep.overrides) if sweep.overrides else f"python -m h3.train fold={result.fold}"
    return Provenance(
        sweep=sweep.run_id,
        started=sweep.started,
        source=sweep.source,
        data=result.data,
        data_digest=digest,
        commits=sorted({run.commit for run in runs} | {sweep.commit}),
        versions=first.json("versions.json") or {},
        seeds=sorted({run.result.seed for run in runs if run.result}),
        assumptions=result.assumptions,
        n_runs=len(runs),
        n_finished=sum(run.finished is not None for run in runs),
        commands=[train, *beside, f"python -m h3.compare sweep={sweep.run_id}"],
    )


def training_command(overrides: str) -> str:
    """The shell command of a multirun with those overrides.

    >>> training_command("fold=glob([lomo_*]) tune.trials=2")
    "python -m h3.train -m 'fold=glob([lomo_*])' tune.trials=2"
    """
    parts = [f"'{part}'" if set(part) & set("()[]*{} ") else part for part in overrides.split()]
    return f"python -m h3.train -m {' '.join(parts)}"
