"""What verdict.json holds, as a type: the report is made from it, and nothing else.

    verdict.hypothesis, verdict.folds[0].mape
    strict_json.dumps(verdict.model_dump())

Numbers that are none are null.
"""

from __future__ import annotations

from typing import Any, Literal

from h3.common.records import Interval, Number, Record
from h3.steps import basis
from h3.verdict.ablation import Ablation
from h3.verdict.chosen import NotCompared
from h3.verdict.diagnostics import Diagnosis
from h3.verdict.evidence import PredictorRow
from h3.verdict.hypothesis import FoldVerdict, StudyNumbers
from h3.verdict.replays import Comparison
from h3.verdict.significance import Difference
from h3.verdict.stability import Stability


class Means(Record):
    """Mean and worst MAPE of each kind of fold, %; None without one."""

    lomo_mean_mape: Number
    lowo_mean_mape: Number
    lomo_worst_mape: Number
    lowo_worst_mape: Number

    def mean_mape(self, kind: str) -> Number:
        """Mean MAPE of the folds of a kind, %."""
        return self.lomo_mean_mape if kind == "lomo" else self.lowo_mean_mape

    def worst_mape(self, kind: str) -> Number:
        """Worst MAPE of the folds of a kind, %."""
        return self.lomo_worst_mape if kind == "lomo" else self.lowo_worst_mape


class Within(Record):
    """A fold inside one model: a control, which does not count for the verdict."""

    fold: str
    holdout: str
    model: str
    mape: Number
    mape_interval: Interval
    mape_train: Number
    n_test: int


class Provenance(Record):
    """Where every number comes from: runs, data (in words, and by its digest), commits, packages,
    assumptions, and the commands that make them again.
    """

    sweep: str
    started: str
    source: str
    data: str
    data_digest: str
    commits: list[str]
    versions: dict[str, str]
    seeds: list[int]
    assumptions: dict[str, Any]
    n_runs: int
    n_finished: int
    commands: list[str]

    @property
    def said(self) -> str:
        """What the data are, in words, and the source's name."""
        return f"{self.data or 'runs of an earlier version, which do not say'} (source {self.source})"


class Verdict(Record):
    """The verdict on one predictor (`model`), its evidence, what stands beside it; errors are MAPE in %."""

    hypothesis: Literal["supported", "not_supported", "inconclusive"]
    sentence: str
    model: str
    threshold: float
    moe_threshold: float
    refute: float
    sees_held_out: bool
    folds: tuple[FoldVerdict, ...]
    study: StudyNumbers
    ours: Means
    predictors: list[PredictorRow]
    left_out: list[NotCompared]
    provenance: Provenance
    ablation: Ablation | None
    within: list[Within]
    replay: Comparison
    significance: list[Difference]
    diagnostics: dict[str, Diagnosis]
    stability: dict[str, dict[str, Stability]]

    @property
    def observed(self) -> str:
        """What a time in the data is called: measured, simulated, or observed where it is not recorded."""
        return basis.observed(self.provenance.data)

    @property
    def inside(self) -> set[str]:
        """Predictors that were trained inside the held-out group."""
        return {row.predictor for row in self.predictors if row.sees_held_out}
