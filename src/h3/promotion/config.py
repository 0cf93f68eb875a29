"""The configuration of a promotion: conf/promote.yaml, typed.

    config = from_hydra(cfg, PromoteConfig)

The folds of a complete sweep and the thresholds come from conf/study.yaml.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from h3.common.config import Strict, Study, TrackingConfig, study
from h3.latency.shipped_overheads import OverheadsConfig

# A step time that falls by less than the noise between repeats of one run (0.9-2 %) cannot be told from one
# that holds.
TOLERANCE_PERCENT = 1.0


class WinnerConfig(Strict):
    """Statistics of the fold errors that are compared, first one first, and the folds of a complete sweep."""

    rule: list[Literal["worst", "mean"]] = Field(["worst", "mean"], min_length=1)
    folds: list[str] = Field(default_factory=lambda: list(study().folds), min_length=1)


class GateConfig(Strict):
    """What gate.py checks against: largest upper bound of a fold's error interval, %, of a dense fold and of
    one that holds a MoE model out; largest fall of a step time, %; random architectures and their seed.
    """

    max_fold_mape: float = Field(default_factory=lambda: study().threshold, gt=0)
    max_moe_fold_mape: float = Field(default_factory=lambda: study().moe_threshold, gt=0)
    monotone_tolerance_percent: float = Field(TOLERANCE_PERCENT, ge=0)
    architectures: int = Field(300, ge=1)
    seed: int = Field(0, ge=0)

    def limit(self, moe: bool) -> float:
        """The largest upper bound of a fold's interval, %."""
        return self.max_moe_fold_mape if moe else self.max_fold_mape


class PromoteConfig(Strict):
    """conf/promote.yaml."""

    action: Literal["promote", "rollback", "export"] = "promote"
    sweep: str | None = None
    dry_run: bool = False
    out: str = "dist/blis"
    winner: WinnerConfig = WinnerConfig()
    gate: GateConfig = GateConfig()
    overheads: OverheadsConfig = OverheadsConfig()
    study: Study = Field(default_factory=study)
    tracking: TrackingConfig = TrackingConfig()
