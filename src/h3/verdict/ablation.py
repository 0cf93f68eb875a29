"""What each idea is worth: runs of conf/ablation → table of effects, and the steps from the study to h3.

    summary(results)["variants"][0]      # {"variant": "no_base", "lomo_mape": 61.0, "lomo_effect": 55.3, ...}

A result is a fold's result.json. Effects are means over the folds that a variant and `none` both have, in
points of MAPE.
"""

from __future__ import annotations

import numpy as np

from h3.verdict.hypothesis import STUDY

STEPS = (
    ("step_0_study", "study recipe, here"),
    ("step_1_clock", "+ right clock"),
    ("step_2_base", "+ physical base"),
    ("step_3_scale_free", "+ scale-free features"),
    ("none", "+ group tuning, equal weights"),
)
WHOLE = "none"
MEANINGS = {
    "none": "h3 as it is",
    "no_right_clock": "right clock → duration",
    "no_base": "base → none",
    "no_scale_free": "scale-free → raw30",
    "no_group_tuning": "inner group tuning → random split",
    "no_equal_weights": "equal model weights → none",
}


def summary(results: list[dict]) -> dict | None:
    """variants (a row each, `none` first) and waterfall (a row a step on LOMO folds); None without
    results.
    """
    runs = _by_variant(results)
    if not runs:
        return None
    names = sorted(
        runs, key=lambda name: (name != WHOLE, name.startswith("step_"), name.startswith("drop_"), name)
    )
    return {"variants": [_variant(name, runs) for name in names], "waterfall": waterfall(results)}


def _by_variant(results: list[dict]) -> dict[str, dict[str, dict]]:
    """variant → fold → result; the last of equals counts."""
    runs: dict[str, dict[str, dict]] = {}
    for result in results:
        runs.setdefault(result["ablation"], {})[result["fold"]] = result
    return runs


def _variant(name: str, runs: dict[str, dict[str, dict]]) -> dict:
    whole, own = runs.get(WHOLE, {}), runs[name]
    row = {
        "variant": name,
        "meaning": MEANINGS.get(name, name.replace("drop_", "without features: ")),
        "n_folds": len(own),
    }
    for kind in ("lomo", "lowo"):
        folds = [fold for fold, result in own.items() if result["kind"] == kind]
        shared = [fold for fold in folds if fold in whole]
        row[f"{kind}_mape"] = _mean([own[fold]["mape"] for fold in folds])
        row[f"{kind}_effect"] = _mean([own[fold]["mape"] - whole[fold]["mape"] for fold in shared])
        row[f"{kind}_train"] = _mean([own[fold].get("mape_train") for fold in folds])
        row[f"{kind}_train_effect"] = _mean([_difference(own[fold], whole[fold]) for fold in shared])
    return row


def _difference(one: dict, other: dict) -> float | None:
    values = one.get("mape_train"), other.get("mape_train")
    return None if None in values else values[0] - values[1]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(known)) if known else None


def waterfall(results: list[dict]) -> list[dict]:
    """The study's number, then ours after each step: label, mape (mean of the LOMO folds that every step
    has), train, folds.
    """
    runs = _by_variant([result for result in results if result["kind"] == "lomo"])
    if any(name not in runs for name, _ in STEPS):
        return []
    shared = sorted(set.intersection(*(set(runs[name]) for name, _ in STEPS)))
    if not shared:
        return []
    rows = [{"label": "study, its data", "mape": STUDY["lomo_mean_mape"], "train": None, "folds": None}]
    for name, label in STEPS:
        values = [runs[name][fold] for fold in shared]
        train = _mean([value.get("mape_train") for value in values])
        rows.append(
            {
                "label": label,
                "mape": _mean([value["mape"] for value in values]),
                "train": train,
                "folds": shared,
            }
        )
    return rows
