"""A fold's result: one type from evaluation to tracking, comparison, gate, promotion and report.

    result = FoldResult(fold="lomo_mixtral", ...)
    write(result, Path("result.json"))              # JSON: numbers that are none are null
    read(text, "run 1a2b")                          # the same, also of results written by earlier versions

This file alone writes and reads result.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from h3.common import files, strict_json
from h3.common.config import Fold
from h3.common.errors import InputError
from h3.common.records import Interval, LeftOut, Number, Record
from h3.evaluation.replay_result import ReplayResult
from h3.steps import basis

Params = dict[str, Any]
WHOLE = "none"  # the ablation that switches nothing off


class PhaseErrors(Record):
    """Steps of one phase (prefill, decode, mixed) and their MAPE, %."""

    n: int
    mape: Number


class ExperimentErrors(Record):
    """Errors on one held-out experiment, %."""

    experiment: str
    model: str | None = None
    workload: str | None = None
    n: int = 0
    mape: Number = None
    bias: Number = None
    median_ape: Number = None


class Errors(Record):
    """Errors on the held-out steps, %: `mape` is the mean over experiments, `mape_micro` over steps;
    `mape_base` is the physical base alone.
    """

    n_test: int
    mape: Number
    mape_interval: Interval
    mape_micro: Number = None
    bias: Number = None
    median_ape: Number = None
    p99_ape: Number = None
    pearson_r: Number = None
    mape_base: Number = None
    phases: dict[str, PhaseErrors] = Field(default_factory=dict)
    experiments: tuple[ExperimentErrors, ...] = ()


class FoldResult(Errors):
    """Everything that one fold of one predictor says about itself; `data`: what it rests on, in words
    (steps/basis.py); `seconds` a stage.

    Fields with a default are absent from results of earlier versions.
    """

    fold: str
    kind: Literal["lomo", "lowo", "within"]
    holdout: str
    source: str = "unknown"
    model: str
    features: str = "scale_free"
    drop_groups: tuple[str, ...] = ()
    ablation: str = WHOLE
    target: str = "period_us"
    seed: int = 0
    n_train: int = 0
    params: Params = Field(default_factory=dict)
    tuning: str = ""
    mape_train: Number = None
    sees_held_out: bool = False
    model_digest: str = ""
    data_digest: str
    data: str = ""
    left_out: tuple[LeftOut, ...] = ()
    assumptions: dict[str, Any] = Field(default_factory=dict)
    replay: ReplayResult | None = None
    mlflow_run_id: str = ""
    seconds: dict[str, float] = Field(default_factory=dict)

    @property
    def title(self) -> str:
        """The fold and what it rests on, for figures."""
        data = basis.short(self.data)
        return f"{self.fold} ({data})" if data else self.fold

    @property
    def low(self) -> float | None:
        """Lower bound of the error's interval, %."""
        return self.mape_interval[0]

    @property
    def high(self) -> float | None:
        """Upper bound of the error's interval, %."""
        return self.mape_interval[1]

    @property
    def whole(self) -> bool:
        """Whether the fold is of h3 as it is, no ablation."""
        return self.ablation == WHOLE

    def holds_out(self, fold: Fold) -> bool:
        """Whether it held the fold's group out, whatever the fold is called."""
        return (self.kind, self.holdout) == (fold.kind, fold.holdout)

    def recorded(self) -> dict[str, Any]:
        """As result.json keeps it."""
        content = self.model_dump(mode="json", exclude={"replay"})
        return content | ({"replay": self.replay.recorded()} if self.replay else {})


def dumps(result: FoldResult) -> str:
    """The text of result.json."""
    return strict_json.dumps(result.recorded())


def write(result: FoldResult, path: Path) -> None:
    """Write result.json whole or not at all."""
    files.write_text(path, dumps(result))


def read(text: str, where: str) -> FoldResult:
    """The result in the text of a result.json; raises InputError naming `where` and the first thing that is
    wrong.
    """
    try:
        return FoldResult.model_validate(json.loads(text))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise InputError(f"{where}: result.json: {key}: {problem['msg']}; expected a fold's result") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where}: result.json: not JSON ({str(error)[:80]}); expected a fold's result"
        ) from None
