"""Whether the hypothesis holds: fold rows → supported, not_supported or inconclusive, on intervals, not on
points.

    judge([{"kind": "lomo", "holdout": "llama-2-7b", "mape": 6.7, "interval": [6.1, 7.2]}, ...])["hypothesis"]

The hypothesis of the study: the error is below 20 % on every held-out model and workload (25 % for the MoE
model), and it is refuted above 25 %. Pure functions; nothing is read or written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

STUDY = {"lomo_mean_mape": 2559.7, "lowo_mean_mape": 109.7, "shap_rank_std": {"lomo": 4.1, "lowo": 3.4}}


@dataclass(frozen=True)
class Thresholds:
    """MAPE in %: target of every fold, of the fold that holds the MoE model out, and what refutes."""

    target: float = 20.0
    moe: float = 25.0
    refute: float = 25.0


@dataclass(frozen=True)
class Expected:
    """A fold that the verdict needs."""

    fold: str
    kind: str
    holdout: str
    moe: bool = False


EXPECTED = (
    Expected("lomo_llama2_7b", "lomo", "llama-2-7b"),
    Expected("lomo_codellama_34b", "lomo", "codellama-34b"),
    Expected("lomo_llama2_70b", "lomo", "llama-2-70b"),
    Expected("lomo_mixtral", "lomo", "mixtral-8x7b-v0-1", moe=True),
    Expected("lowo_general", "lowo", "general"),
    Expected("lowo_codegen", "lowo", "codegen"),
    Expected("lowo_roleplay", "lowo", "roleplay"),
    Expected("lowo_reasoning", "lowo", "reasoning"),
)
NAMES = tuple(fold.fold for fold in EXPECTED)


def judge(
    rows: list[dict], thresholds: Thresholds | None = None, failed: dict[str, str] | None = None
) -> dict:
    """The hypothesis, the sentence that says it, and a row for each of the eight folds.

    rows: a dict a finished fold with kind, holdout, mape and interval ([low, high], 95 %), in %; other keys
    are kept.
    failed: fold name → why it has no row. A fold is supported if its upper bound is below its threshold,
    refuted if its lower bound is above `refute`, else between. One refuted fold refutes; a missing or failed
    fold never supports.
    """
    thresholds, failed = thresholds or Thresholds(), failed or {}
    given = {(row["kind"], row["holdout"]): row for row in rows}
    folds = [_fold(fold, given.get((fold.kind, fold.holdout)), thresholds, failed) for fold in EXPECTED]
    states = {row["status"] for row in folds}
    hypothesis = (
        "not_supported" if "refuted" in states else "supported" if states == {"supported"} else "inconclusive"
    )
    return {"hypothesis": hypothesis, "sentence": _sentence(hypothesis, folds, thresholds), "folds": folds}


def _fold(fold: Expected, row: dict | None, thresholds: Thresholds, failed: dict[str, str]) -> dict:
    limit = thresholds.moe if fold.moe else thresholds.target
    known = {
        "fold": fold.fold,
        "kind": fold.kind,
        "holdout": fold.holdout,
        "moe": fold.moe,
        "threshold": limit,
    }
    if row is None:
        status = "failed" if fold.fold in failed else "missing"
        return known | {
            "mape": None,
            "interval": None,
            "status": status,
            "reason": failed.get(fold.fold, "no such run in the sweep"),
        }
    status = _status(row, limit, thresholds.refute)
    return {**row, **known, "status": status} | (
        {"reason": f"its error is {row['mape']}, no number"} if status == "failed" else {}
    )


def _status(row: dict, limit: float, refute: float) -> str:
    low, high = row["interval"]
    if not all(value is not None and math.isfinite(value) for value in (row["mape"], low, high)):
        return "failed"
    if low > refute:
        return "refuted"
    return "supported" if high < limit else "between"


def _sentence(hypothesis: str, folds: list[dict], thresholds: Thresholds) -> str:
    scored = [row for row in folds if row["status"] in ("supported", "between", "refuted")]
    worst = max(scored, key=lambda row: row["interval"][1], default=None)
    told = f"; the worst is {_said(worst)}" if worst else ""
    limits = f"{thresholds.target:g} % ({thresholds.moe:g} % for the MoE model)"
    if hypothesis == "supported":
        return (
            f"Supported: on all {len(folds)} folds even the upper bound of the error is below {limits}{told}."
        )
    if hypothesis == "not_supported":
        refuted = ", ".join(_said(row) for row in folds if row["status"] == "refuted")
        return (
            f"Not supported: even the lower bound of the error is above {thresholds.refute:g} % on {refuted}."
        )
    names = {
        status: [row["fold"] for row in folds if row["status"] == status] for status in ("missing", "failed")
    }
    absent = [f"{', '.join(each)} ({status})" for status, each in names.items() if each]
    between = [_said(row) for row in folds if row["status"] == "between"]
    why = ([f"no result for {', '.join(absent)}"] if absent else []) + (
        [f"undecided on {', '.join(between)}"] if between else []
    )
    return f"Inconclusive: {'; '.join(why)}{told}."


def _said(row: dict) -> str:
    return f"{row['fold']}, {row['mape']:.1f} % [{row['interval'][0]:.1f}–{row['interval'][1]:.1f}]"
