"""What verdict.json holds, as a type: the report is made from it, and nothing else.

    verdict.hypothesis, verdict.folds[0].mape
    strict_json.dumps(verdict.model_dump())

Numbers that are none are null.
"""

from __future__ import annotations

from typing import Any

from h3.common.records import Interval, Number, Record
from h3.steps import basis
from h3.verdict.ablation import Ablation
from h3.verdict.certainty import NONE
from h3.verdict.chosen import NotCompared
from h3.verdict.diagnostics import Diagnosis
from h3.verdict.evidence import PredictorRow
from h3.verdict.hypothesis import FoldVerdict, Hypothesis, StudyNumbers
from h3.verdict.replays import Comparison
from h3.verdict.significance import Difference
from h3.verdict.stability import Stability
from h3.verdict.trees import Trees


class Source(Record):
    """The data that a verdict rests on: the source's name, and what the data are in words."""

    name: str
    data: str


class Means(Record):
    """Mean and worst MAPE of each kind of fold, %; None without one.

    lomo_over_models, lowo_over_workloads: 95 % interval of the mean over groups like those held out.
    """

    lomo_mean_mape: Number
    lowo_mean_mape: Number
    lomo_worst_mape: Number
    lowo_worst_mape: Number
    lomo_over_models: Interval = NONE
    lowo_over_workloads: Interval = NONE

    def mean_mape(self, kind: str) -> Number:
        """Mean MAPE of the folds of a kind, %."""
        return self.lomo_mean_mape if kind == "lomo" else self.lowo_mean_mape

    def worst_mape(self, kind: str) -> Number:
        """Worst MAPE of the folds of a kind, %."""
        return self.lomo_worst_mape if kind == "lomo" else self.lowo_worst_mape

    def over_groups(self, kind: str) -> Interval:
        """Interval of the mean over groups like those held out, %."""
        return self.lomo_over_models if kind == "lomo" else self.lowo_over_workloads

    @property
    def sentence(self) -> str:
        """How certain the means are about other groups; "" where no kind has two folds."""
        said = []
        for kind, groups in (("lomo", "models"), ("lowo", "workloads")):
            mean, (low, high) = self.mean_mape(kind), self.over_groups(kind)
            if mean is not None and low is not None and high is not None:
                said.append(f"{kind.upper()} {mean:.1f} % [{low:.1f}–{high:.1f} over {groups}]")
        return f"Mean error on a group like those held out: {', '.join(said)}." if said else ""


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


class LearnerVerdict(Record):
    """The verdict on one of h3's two learners: XGBoost beside a physical base, and XGBoost alone."""

    model: str
    hypothesis: Hypothesis
    sentence: str
    folds: tuple[FoldVerdict, ...]
    means: Means


class Verdict(Record):
    """The verdict on one predictor (`model`), its evidence, what stands beside it; errors are MAPE in %.

    verdicts: on each learner of which the sweep has runs. trees: what trees add to the base, None where the
    sweep does not hold the residual model.
    """

    hypothesis: Hypothesis
    sentence: str
    model: str
    source: Source
    verdicts: tuple[LearnerVerdict, ...] = ()
    trees: Trees | None = None
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
    def beside(self) -> list[LearnerVerdict]:
        """The verdicts on the learners that are not the judged one."""
        return [each for each in self.verdicts if each.model != self.model]

    @property
    def observed(self) -> str:
        """What a time in the data is called: measured, simulated, or observed where it is not recorded."""
        return basis.observed(self.provenance.data)

    @property
    def inside(self) -> set[str]:
        """Predictors that were trained inside the held-out group."""
        return {row.predictor for row in self.predictors if row.sees_held_out}
