"""What the replay of a fold's held-out runs found, as a type: the part `replay` of a fold's result.

>>> ReplayResult(skipped="no held-out experiment has a request log").recorded()
{'skipped': 'no held-out experiment has a request log'}

Errors are of predicted over measured, signed, %; None where there is no number. latency fills it; every
reader of results shares it.
"""

from __future__ import annotations

from pydantic import Field

from h3.common.records import LeftOut, Number, Record
from h3.server.overheads import Overheads


class StepTimeCheck(Record):
    """How a predictor was evaluated step by step ("exact" or "tables"), and how far that is from its
    predict.
    """

    method: str
    largest_error_ratio: float
    mean_error_ratio: float


class ReplayedRun(Record):
    """One experiment's replay.

    prefix_hits: where they come from, in words. <time>_<statistic>_error: of the mean or quantile over
    requests; <time>_mape: over requests one by one. saturated_<side>: whether the queue grows without bound.
    """

    experiment: str
    prefix_hits: str = ""
    logged: int = 0
    failed: int = 0
    rejected_lines: int = 0
    requests: int = 0
    e2e_mean_error: Number = None
    e2e_p50_error: Number = None
    e2e_p90_error: Number = None
    e2e_p99_error: Number = None
    e2e_mape: Number = None
    ttft_mean_error: Number = None
    ttft_p50_error: Number = None
    ttft_p90_error: Number = None
    ttft_p99_error: Number = None
    ttft_mape: Number = None
    itl_mean_error: Number = None
    itl_p50_error: Number = None
    itl_p90_error: Number = None
    itl_p99_error: Number = None
    itl_mape: Number = None
    throughput_measured_tokens_s: Number = None
    throughput_predicted_tokens_s: Number = None
    throughput_error: Number = None
    running_measured_mean: Number = None
    running_predicted_mean: Number = None
    running_mean_abs_error: Number = None
    unfinished: int = 0
    rejected: int = 0
    unmeasured: int = 0
    preemptions: int = 0
    saturated_measured: bool | None = None
    saturated_predicted: bool | None = None
    saturated: bool = False
    step_time: StepTimeCheck | None = None

    def mean_error(self, time: str) -> float | None:
        """Error of the mean of "e2e", "ttft" or "itl", signed %."""
        value: float | None = getattr(self, f"{time}_mean_error")
        return value


class SensitivityPoint(Record):
    """Error of mean E2E, %, where every step time is off by bias_percent."""

    experiment: str
    bias_percent: float
    e2e_mean_error: Number
    saturated: bool


Summary = dict[str, int | Number | list[str]]


class ReplayResult(Record):
    """A fold's replays, or why there are none (`skipped`).

    overheads: those replayed with; overheads_estimated: whether from training experiments (None: not said);
    summary: <all|unsaturated>_<time>_<median|mean|worst>, |error of the mean| in %, and counts. note: what a
    reader must know of the predictor.
    """

    skipped: str | None = None
    experiments: tuple[ReplayedRun, ...] = ()
    failed: tuple[LeftOut, ...] = ()
    overheads: Overheads | None = None
    overheads_estimated: bool | None = None
    overheads_left_out: tuple[LeftOut, ...] = ()
    summary: Summary = Field(default_factory=dict)
    sensitivity: tuple[SensitivityPoint, ...] = ()
    note: str | None = None

    def recorded(self) -> dict[str, object]:
        """As result.json keeps it: {"skipped": reason} alone, or all that was found."""
        if self.skipped is not None:
            return {"skipped": self.skipped}
        content = self.model_dump(mode="json", exclude={"skipped", "overheads"})
        known = {name: value for name, value in content.items() if value is not None}
        return known | {"overheads": self.overheads.recorded() if self.overheads else {}}
