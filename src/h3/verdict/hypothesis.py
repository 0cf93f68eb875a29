"""Whether the hypothesis holds: fold results → supported, not_supported or inconclusive, on intervals.

    judgement = judge(results, study())
    judgement.hypothesis, judgement.sentence

The hypothesis of the study: the error is below a threshold on every held-out model and workload (a wider
one for the MoE model), and it is refuted above another (conf/study.yaml). Pure functions; nothing is read or
written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from h3.common.config import Fold, Study, fold_with_group
from h3.common.records import Interval, Number, Record
from h3.evaluation.result import FoldResult
from h3.steps import basis, catalog
from h3.verdict.certainty import over_groups

Hypothesis = Literal["supported", "not_supported", "inconclusive"]
Status = Literal["supported", "between", "refuted", "missing", "failed"]


class StudyNumbers(Record):
    """What the study that h3 carries on found, on its own data: MAPE in %, and spread of the SHAP ranks."""

    lomo_mean_mape: float = 2559.7
    lowo_mean_mape: float = 109.7
    shap_rank_std: dict[str, float] = Field(default={"lomo": 4.1, "lowo": 3.4})

    def mean_mape(self, kind: str) -> float:
        """Mean MAPE of the folds of a kind, %."""
        return self.lomo_mean_mape if kind == "lomo" else self.lowo_mean_mape


STUDY = StudyNumbers()


class FoldVerdict(Record):
    """One fold that the verdict needs: its error and interval in %, its threshold, and what follows.

    interval: over steps, of the error on these experiments; over_experiments: of the mean over experiments
    like them (None, None: there is only one). reason: why there is no number, where status is missing or
    failed.
    """

    fold: str
    kind: str
    holdout: str
    moe: bool
    threshold: float
    status: Status
    mape: Number = None
    interval: Interval | None = None
    over_experiments: Interval | None = None
    reason: str | None = None
    mape_base: Number = None
    mape_train: Number = None
    bias: Number = None
    n_train: int | None = None
    n_test: int | None = None
    tuning: str | None = None
    target: str | None = None
    run_id: str | None = None

    def said(self) -> str:
        """The fold with its error and interval, in words."""
        low, high = self.interval or (None, None)
        return f"{self.fold}, {self.mape:.1f} % [{low:.1f}–{high:.1f}]"


@dataclass(frozen=True)
class Judgement:
    """The hypothesis, the sentence that says it, and each fold."""

    hypothesis: Hypothesis
    sentence: str
    folds: tuple[FoldVerdict, ...]


def holds_moe_out(asked: Fold) -> bool:
    """Whether the fold holds out a model that h3 knows to be MoE."""
    known = catalog.MODELS.get(catalog.model_name(asked.holdout or ""))
    return asked.kind == "lomo" and known is not None and known.is_moe


def judge(results: Sequence[FoldResult], study: Study, failed: Mapping[str, str] | None = None) -> Judgement:
    """Judge the folds of the study.

    results: finished folds, whatever their names. failed: fold name → why it has no result. A fold is
    supported if its upper bound is below its threshold, refuted if its lower bound is above `refute`, else
    between. One refuted fold refutes; a missing or failed fold never supports.
    """
    folds = tuple(_fold(fold_with_group(name), results, study, failed or {}) for name in study.folds)
    states = {row.status for row in folds}
    data = "".join(f" ({basis.short(each)})" for each in sorted({result.data for result in results} - {""}))
    if "refuted" in states:
        return Judgement("not_supported", f"Not supported{data}: {_refuted(folds, study)}.", folds)
    if states == {"supported"}:
        return Judgement("supported", f"Supported{data}: {_supported(folds, study)}.", folds)
    return Judgement("inconclusive", f"Inconclusive{data}: {_inconclusive(folds)}.", folds)


def _fold(asked: Fold, results: Sequence[FoldResult], study: Study, failed: Mapping[str, str]) -> FoldVerdict:
    moe = holds_moe_out(asked)
    limit = study.moe_threshold if moe else study.threshold
    known = {"fold": asked.name, "kind": asked.kind, "holdout": asked.holdout, "moe": moe, "threshold": limit}
    result = next((each for each in results if each.holds_out(asked)), None)
    if result is None:
        status, reason = (
            ("failed", failed[asked.name])
            if asked.name in failed
            else ("missing", "no such run in the sweep")
        )
        return FoldVerdict.model_validate(known | {"status": status, "reason": reason})
    status = _status(result, limit, study.refute)
    return FoldVerdict.model_validate(
        result.model_dump(include=set(FoldVerdict.model_fields))
        | known
        | {
            "interval": result.mape_interval,
            "over_experiments": over_groups([each.mape for each in result.experiments], least=0.0),
            "run_id": result.mlflow_run_id or None,
            "status": status,
            "reason": f"its error is {result.mape}, no number" if status == "failed" else None,
        }
    )


def _status(result: FoldResult, limit: float, refute: float) -> Status:
    if result.mape is None or result.low is None or result.high is None:
        return "failed"
    if result.low > refute:
        return "refuted"
    return "supported" if result.high < limit else "between"


def _worst(folds: Sequence[FoldVerdict]) -> str:
    scored = [row for row in folds if row.interval and row.status in ("supported", "between", "refuted")]
    worst = max(scored, key=lambda row: (row.interval or (0, 0))[1] or 0, default=None)
    return f"; the worst is {worst.said()}" if worst else ""


def _supported(folds: Sequence[FoldVerdict], study: Study) -> str:
    limits = f"{study.threshold:g} % ({study.moe_threshold:g} % for the MoE model)"
    even = f"on all {len(folds)} folds even the upper bound of the error is below {limits}"
    return f"{even}{_worst(folds)}"


def _refuted(folds: Sequence[FoldVerdict], study: Study) -> str:
    refuted = ", ".join(row.said() for row in folds if row.status == "refuted")
    return f"even the lower bound of the error is above {study.refute:g} % on {refuted}"


def _inconclusive(folds: Sequence[FoldVerdict]) -> str:
    absent = []
    for status in ("missing", "failed"):
        names = [row.fold for row in folds if row.status == status]
        absent += [f"{', '.join(names)} ({status})"] if names else []
    between = [row.said() for row in folds if row.status == "between"]
    why = [f"no result for {', '.join(absent)}"] if absent else []
    why += [f"undecided on {', '.join(between)}"] if between else []
    return f"{'; '.join(why)}{_worst(folds)}"
