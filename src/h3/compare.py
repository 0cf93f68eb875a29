"""The verdict over a sweep: does the hypothesis hold, for whom, why, against whom. Writes verdict.json,
report.md, report.html.

    python -m h3.compare                                  # the newest sweep
    python -m h3.compare sweep=RUN_ID out=DIR             # another
    python -m h3.compare model=roofline_layers            # the same question about a rival

Reads predictions and results from the tracking store; trains nothing. The files are also logged to the
sweep's parent run.
"""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from pydantic import Field

from h3.common import cli, strict_json
from h3.common.config import Strict, TrackingConfig, from_hydra
from h3.common.errors import InputError
from h3.models import zoo as registry
from h3.tracking import runs as track_read
from h3.tracking import store as track
from h3.tracking.runs import FoldRun, Sweep
from h3.verdict import ablation, diagnostics, significance, stability
from h3.verdict import hypothesis as verdict
from h3.verdict import replays as replay_table
from h3.verdict.report import parts as report_parts
from h3.verdict.report import sections as report

PREDICTIONS = "predictions.parquet"
Runs = dict[tuple[str, str], FoldRun]  # (fold, predictor) → run
USUAL = {"features": "scale_free", "drop_groups": [], "target": "period_us"}


class CompareConfig(Strict):
    """conf/compare.yaml; thresholds are MAPE in %."""

    sweep: str | None = None
    ablation: str | None = None
    within: str | None = None
    model: str = "xgboost_residual"
    out: str = "compare"
    threshold: float = Field(20.0, gt=0)
    moe_threshold: float = Field(25.0, gt=0)
    refute: float = Field(25.0, gt=0)
    tracking: TrackingConfig = TrackingConfig()


def compare(config: CompareConfig) -> dict:
    """Judge the sweep, write the three files to config.out and log them to the parent run; the content of
    verdict.json.

    Raises InputError for a sweep that is not there or that mixes data, and for a store that cannot be
    reached.
    """
    _check(config)
    store = track.open_store(config.tracking.uri, config.tracking.experiment)
    sweep = track_read.find_sweep(store, config.sweep)
    every = track_read.read_runs(store, sweep)
    digest = one_digest(every, sweep)
    runs, left_out = choose(every)
    content = judged(config, runs, every) | {
        "left_out": left_out,
        "provenance": provenance(sweep, every, digest),
    }
    beside, commands = _beside(store, config, every, digest)
    content |= beside
    content["provenance"]["commands"][1:1] = commands
    content["replay"] = replay_table.compared(
        {key: run.result for key, run in runs.items() if key[0] in verdict.NAMES}, config.model
    )
    predictions = _predictions(runs, config.model)
    content |= evidence(config.model, runs, predictions)
    content = strict_json.plain(content)
    paths = _write(content, predictions, Path(config.out))
    track_read.log_files(store, sweep.run_id, paths)
    return content


def _check(config: CompareConfig) -> None:
    if config.model not in registry.PREDICTORS:
        raise InputError(f"model={config.model}: unknown; expected one of {', '.join(registry.PREDICTORS)}")
    if Path(config.out).exists() and not Path(config.out).is_dir():
        raise InputError(f"out={config.out} is a file; expected a folder")


def one_digest(runs: list[FoldRun], sweep: Sweep) -> str:
    """The digest of the data of all runs; raises InputError with both if there are two, or if no run
    finished.
    """
    digests = sorted({run.result["data_digest"] for run in runs if run.result})
    if len(digests) > 1:
        raise InputError(
            f"sweep {sweep.run_id} mixes data: digests {' and '.join(digests)}; expected one, sweep again on"
            " one source"
        )
    if not digests:
        told = f"{len(runs)} runs, none with a result" if runs else "no runs"
        raise InputError(f"sweep {sweep.run_id} has {told}; expected at least one finished fold")
    return digests[0]


def choose(runs: list[FoldRun]) -> tuple[Runs, list[dict]]:
    """One finished run a fold and predictor, the newest, and what was left out and why. Folds within a model
    are apart.

    All runs of a predictor have the same features and target: the usual ones, or the newest run's if it has
    none such.
    """
    chosen: Runs = {}
    left_out, settings = [], _settings(runs)
    for run in runs:
        if not run.finished:
            left_out.append({"what": run.name, "why": run.trouble})
            continue
        result = run.result
        key = (_fold_name(result), result["model"])
        if result.get("ablation", ablation.WHOLE) != ablation.WHOLE:
            left_out.append(
                {"what": run.name, "why": f"run {run.run_id} is of the ablation {result['ablation']}"}
            )
            continue
        own, kept = _setting(result), settings[result["model"]]
        if own != kept:
            other = ", ".join(
                f"{name}={own[name]} instead of {kept[name]}" for name in USUAL if own[name] != kept[name]
            )
            left_out.append({"what": run.name, "why": f"run {run.run_id} has {other}"})
            continue
        if key in chosen:
            left_out.append(
                {"what": run.name, "why": f"run {chosen[key].run_id} is repeated by the later {run.run_id}"}
            )
        chosen[key] = run
        for entry in result.get("left_out", []):
            note = {"what": entry["experiment"], "why": entry["reason"]}
            left_out += [] if note in left_out else [note]
    return chosen, left_out


def _settings(runs: list[FoldRun]) -> dict[str, dict]:
    """Predictor → the setting of its runs to compare, of those that finished and are no ablation's."""
    found: dict[str, list[dict]] = {}
    for run in runs:
        if run.finished and run.result.get("ablation", ablation.WHOLE) == ablation.WHOLE:
            found.setdefault(run.result["model"], []).append(_setting(run.result))
    return {model: USUAL if USUAL in each else each[-1] for model, each in found.items()}


def _setting(result: dict) -> dict:
    return {name: result.get(name, usual) for name, usual in USUAL.items()}


def _fold_name(result: dict) -> str:
    """The name in verdict.EXPECTED of the same held-out group, else the run's own."""
    same = (
        fold.fold
        for fold in verdict.EXPECTED
        if (fold.kind, fold.holdout) == (result["kind"], result["holdout"])
    )
    return next(same, result["fold"])


def judged(config: CompareConfig, runs: Runs, every: list[FoldRun]) -> dict:
    """Hypothesis, sentence, fold rows, the study's numbers beside ours, and the table of predictors."""
    names = (
        "kind",
        "holdout",
        "mape",
        "mape_base",
        "mape_train",
        "bias",
        "n_train",
        "n_test",
        "tuning",
        "target",
    )
    rows = [
        {name: run.result.get(name) for name in names}
        | {"interval": run.result["mape_interval"], "run_id": run.run_id}
        for (_, name_of), run in runs.items()
        if name_of == config.model
    ]
    limits = verdict.Thresholds(config.threshold, config.moe_threshold, config.refute)
    failed = {
        run.name.removesuffix(f"-{config.model}"): run.trouble
        for run in every
        if not run.finished and run.name.endswith(f"-{config.model}")
    }
    said = verdict.judge(rows, limits, failed)
    return {
        "hypothesis": said["hypothesis"],
        "sentence": said["sentence"],
        "model": config.model,
        "threshold": config.threshold,
        "moe_threshold": config.moe_threshold,
        "refute": config.refute,
        "sees_held_out": config.model in insiders(runs),
        "folds": said["folds"],
        "study": verdict.STUDY,
        "ours": _summary(said["folds"]),
        "predictors": predictors(runs, config.model),
    }


def insiders(runs: Runs) -> set[str]:
    """Predictors that were trained on held-out truth: registered so, or their run says so (it may be
    registered no more).
    """
    registered = {name for name in registry.PREDICTORS if registry.sees_held_out(name)}
    return registered | {name for (_, name), run in runs.items() if run.result.get("sees_held_out")}


def _summary(folds: list[dict]) -> dict:
    """Mean and worst MAPE of each kind of fold, None without one."""
    values = {
        kind: [row["mape"] for row in folds if row["kind"] == kind and row["mape"] is not None]
        for kind in ("lomo", "lowo")
    }
    means = {f"{kind}_mean_mape": float(np.mean(each)) if each else None for kind, each in values.items()}
    return means | {f"{kind}_worst_mape": max(each, default=None) for kind, each in values.items()}


def predictors(runs: Runs, model: str) -> list[dict]:
    """A row a predictor: MAPE of each fold (None: no result), means, whether it sees held-out truth; ours
    first, then by mean.
    """
    rows, inside = [], insiders(runs)
    for name in sorted({name for _, name in runs}):
        folds = {
            fold: runs[fold, name].result["mape"] if (fold, name) in runs else None for fold in verdict.NAMES
        }
        kinds = {
            kind: _mean([folds[each.fold] for each in verdict.EXPECTED if each.kind == kind])
            for kind in ("lomo", "lowo")
        }
        rows.append(
            {
                "predictor": name,
                "sees_held_out": name in inside,
                "folds": folds,
                "mean": _mean(list(folds.values())),
                "lomo_mean": kinds["lomo"],
                "lowo_mean": kinds["lowo"],
                "n_folds": sum(value is not None for value in folds.values()),
            }
        )
    return sorted(
        rows,
        key=lambda row: (
            row["predictor"] != model,
            row["sees_held_out"],
            -row["n_folds"],
            row["mean"] or math.inf,
        ),
    )


def _mean(values: list[float | None]) -> float | None:
    """The mean of the known values; None without one."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _predictions(runs: Runs, model: str) -> dict[str, pd.DataFrame]:
    """Fold → the model's predictions, in the verdict's order of folds; folds without are left out."""
    found = {fold: runs[fold, model].frame(PREDICTIONS) for fold in verdict.NAMES if (fold, model) in runs}
    return {fold: frame for fold, frame in found.items() if frame is not None}


def evidence(model: str, runs: Runs, predictions: dict[str, pd.DataFrame]) -> dict:
    """Significance against each rival, diagnostics of each fold, stability of the rankings of every predictor
    with trees.
    """
    inside = insiders(runs)
    rows = []
    for fold, ours in predictions.items():
        rivals = {
            name: partial(run.frame, PREDICTIONS, significance.COLUMNS)
            for (of, name), run in sorted(runs.items())
            if of == fold and name != model
        }
        rows += [
            {"fold": fold, **row, "sees_held_out": row["predictor"] in inside}
            for row in significance.table(ours, rivals)
        ]
    return {
        "significance": rows,
        "diagnostics": {fold: diagnostics.diagnose(frame) for fold, frame in predictions.items()},
        "stability": _stability(runs, model),
    }


def _stability(runs: Runs, model: str) -> dict:
    """Predictor → lomo, lowo, all → stability.measure; ours, and rivals that rank features."""
    found = {key: run.frame("shap_ranking.parquet") for key, run in runs.items() if key[0] in verdict.NAMES}
    names = [model, *sorted({name for (_, name), frame in found.items() if frame is not None} - {model})]
    kinds = {"lomo": ("lomo",), "lowo": ("lowo",), "all": ("lomo", "lowo")}
    return {
        name: {
            label: stability.measure(
                {
                    each.fold: found[each.fold, name]
                    for each in verdict.EXPECTED
                    if each.kind in kind and (each.fold, name) in found
                }
            )
            for label, kind in kinds.items()
        }
        for name in names
    }


def _beside(
    store: track.Store, config: CompareConfig, every: list[FoldRun], digest: str
) -> tuple[dict, list[str]]:
    """The ablation and the check within Mixtral, from sweeps of their own on the same data (None where there
    is none), and the commands that ran those sweeps."""
    found = {}
    for kind, run_id in (("ablation", config.ablation), ("within", config.within)):
        sweep = track_read.find_beside(store, kind, run_id, digest)
        runs = track_read.read_runs(store, sweep) if sweep else []
        if sweep:
            one_digest([*every, *runs], sweep)
        found[kind] = (sweep, runs)
    (ablated, ablation_runs), (_, within_runs) = found["ablation"], found["within"]
    summary = ablation.summary([run.result for run in ablation_runs if run.finished])
    if summary:
        failed = [run.name for run in ablation_runs if not run.finished]
        summary |= {"sweep": ablated.run_id, "overrides": ablated.overrides, "failed": failed}
    inside = [run.result for run in [*every, *within_runs] if run.finished and run.result["kind"] == "within"]
    names = ("fold", "holdout", "model", "mape", "mape_interval", "mape_train", "n_test")
    commands = [training_command(sweep.overrides) for sweep, _ in found.values() if sweep and sweep.overrides]
    return {
        "ablation": summary,
        "within": [{name: result.get(name) for name in names} for result in inside],
    }, commands


def provenance(sweep: Sweep, runs: list[FoldRun], digest: str) -> dict:
    """Where every number comes from: runs, data, commits, packages, assumptions, and the commands that make
    them again.
    """
    first = next(run for run in runs if run.result)
    train = (
        training_command(sweep.overrides)
        if sweep.overrides
        else f"python -m h3.train fold={first.result['fold']}"
    )
    return {
        "sweep": sweep.run_id,
        "started": sweep.started,
        "source": sweep.source,
        "data_digest": digest,
        "commits": sorted({run.commit for run in runs} | {sweep.commit}),
        "versions": first.json("versions.json") or {},
        "seeds": sorted({run.result["seed"] for run in runs if run.result}),
        "assumptions": first.result.get("assumptions", {}),
        "n_runs": len(runs),
        "n_finished": sum(run.finished for run in runs),
        "commands": [train, f"python -m h3.compare sweep={sweep.run_id}"],
    }


def training_command(overrides: str) -> str:
    """The shell command of a multirun with those overrides."""
    return "python -m h3.train -m " + " ".join(
        f"'{part}'" if set(part) & set("()[]*{} ") else part for part in overrides.split()
    )


def _write(content: dict, predictions: dict, out: Path) -> list[Path]:
    """The three files, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    sections = report.sections(content, predictions)
    texts = {
        "verdict.json": strict_json.dumps(content),
        "report.md": report_parts.markdown(content, sections),
        "report.html": report_parts.html(content, sections),
    }
    for name, text in texts.items():
        scratch = out / f".{name}.{os.getpid()}"
        scratch.write_text(text)
        os.replace(scratch, out / name)
    return [out / name for name in texts]


def main(cfg: DictConfig) -> None:
    """One Hydra job: print the sentence, the fold table and where the report is."""
    config = from_hydra(cfg, CompareConfig)
    content = compare(config)
    print(content["sentence"] + "\n")
    print(report_parts.as_markdown(report.fold_table(content)))
    print(f"report: {config.out}/report.html")


if __name__ == "__main__":
    cli.run(main, "compare")
