"""What each idea is worth: runs of conf/ablation → table of effects, and the steps from the study to h3.

    summary(results).variants[0]      # Variant(variant="no_base", lomo_mape=61.0, lomo_effect=55.3, ...)

Effects are means over the folds that a variant and `none` both have, in points of MAPE.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from h3.common.records import Number, Record
from h3.evaluation.result import WHOLE, FoldResult
from h3.verdict.hypothesis import STUDY

STUDY_CLOCK = "step_0_study"
STEPS = (
    (STUDY_CLOCK, "study recipe, here"),
    ("step_1_clock", "+ right clock"),
    ("step_2_base", "+ physical base"),
    ("step_3_scale_free", "+ scale-free features"),
    ("none", "+ group tuning, equal weights"),
)
MEANINGS = {
    "none": "h3 as it is",
    "no_right_clock": "right clock → duration",
    "no_base": "base → none",
    "no_scale_free": "scale-free → raw30",
    "no_group_tuning": "inner group tuning → random split",
    "no_equal_weights": "equal model weights → none",
}
Runs = dict[str, dict[str, FoldResult]]  # variant → fold → result


class Variant(Record):
    """One variant: MAPE in % on held-out and training rows by kind of fold; effect: change against `none`."""

    variant: str
    meaning: str
    n_folds: int
    lomo_mape: Number
    lomo_effect: Number
    lomo_train: Number
    lomo_train_effect: Number
    lowo_mape: Number
    lowo_effect: Number
    lowo_train: Number
    lowo_train_effect: Number


class Step(Record):
    """One step from the study to h3: mean MAPE of the LOMO folds that every step has, %.

    folds: None for the study's own number, on its own data.
    """

    label: str
    mape: Number
    train: Number = None
    folds: list[str] | None = None


class Ablation(Record):
    """A row a variant, `none` first, and the waterfall; the sweep that made them, runs that failed."""

    variants: list[Variant]
    waterfall: list[Step]
    sweep: str = ""
    overrides: str = ""
    failed: tuple[str, ...] = ()


def summary(results: Sequence[FoldResult]) -> Ablation | None:
    """Every variant and the waterfall; None without results."""
    runs = _by_variant(results)
    if not runs:
        return None
    names = sorted(
        runs, key=lambda name: (name != WHOLE, name.startswith("step_"), name.startswith("drop_"), name)
    )
    return Ablation(variants=[_variant(name, runs) for name in names], waterfall=waterfall(results))


def _by_variant(results: Sequence[FoldResult]) -> Runs:
    """variant → fold → result; the last of equals counts."""
    runs: Runs = {}
    for result in results:
        runs.setdefault(result.ablation, {})[result.fold] = result
    return runs


def _variant(name: str, runs: Runs) -> Variant:
    whole, own = runs.get(WHOLE, {}), runs[name]
    row: dict[str, Any] = {}
    for kind in ("lomo", "lowo"):
        folds = [fold for fold, result in own.items() if result.kind == kind]
        shared = [fold for fold in folds if fold in whole]
        row[f"{kind}_mape"] = _mean([own[fold].mape for fold in folds])
        row[f"{kind}_effect"] = _mean([_less(own[fold].mape, whole[fold].mape) for fold in shared])
        row[f"{kind}_train"] = _mean([own[fold].mape_train for fold in folds])
        row[f"{kind}_train_effect"] = _mean(
            [_less(own[fold].mape_train, whole[fold].mape_train) for fold in shared]
        )
    meaning = MEANINGS.get(name, name.replace("drop_", "without features: "))
    return Variant(variant=name, meaning=meaning, n_folds=len(own), **row)


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(known)) if known else None


def waterfall(results: Sequence[FoldResult]) -> list[Step]:
    """The study's number, then ours after each step; empty where the steps have no LOMO fold in common.

    The study's clock is in no request log, so the step that needs it may be absent.
    """
    runs = _by_variant([result for result in results if result.kind == "lomo"])
    steps = [(name, label) for name, label in STEPS if name in runs or name != STUDY_CLOCK]
    if any(name not in runs for name, _ in steps):
        return []
    shared = sorted(set.intersection(*(set(runs[name]) for name, _ in steps)))
    if not shared:
        return []
    rows = [Step(label="study, its data", mape=STUDY.lomo_mean_mape)]
    for name, label in steps:
        values = [runs[name][fold] for fold in shared]
        mape, train = _mean([value.mape for value in values]), _mean([value.mape_train for value in values])
        rows.append(Step(label=label, mape=mape, train=train, folds=shared))
    return rows
