"""What the replays of a sweep say about each predictor, in the latency that users feel.

    found = compared({("lomo_mixtral", "habitat"): result, ...}, "xgboost_residual")
    found.rows[0].sub_saturation.e2e_median     # |error of mean E2E|, %, over runs that are not overloaded

Every predictor is judged on the same runs: a run counts as sub-saturation by its measured queue, whatever the
predictor makes of it; a run that a predictor alone drives into a queue without bound is counted as diverging.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from h3.common.records import Number, Record
from h3.evaluation.replay_result import ReplayResult
from h3.evaluation.result import FoldResult
from h3.sources import h100

TIMES = ("e2e", "ttft", "itl")
KINDS = ("lomo", "lowo")
STATISTICS: dict[str, Callable[[list[float]], float]] = {"median": median, "mean": fmean, "worst": max}
OFF = ReplayResult(skipped="replay was off")


class Run(Record):
    """One replayed run: errors of the mean, signed %, and whether the queue grows without bound."""

    model: str | None
    workload: str | None
    e2e: Number
    ttft: Number
    itl: Number
    saturated_measured: bool = False
    saturated_predicted: bool = False
    experiment: str | None = None
    kind: str | None = None

    @property
    def diverges(self) -> bool:
        """Whether the predictor alone drives it into a queue without bound."""
        return self.saturated_predicted and not self.saturated_measured

    def errors(self) -> tuple[Number, Number, Number]:
        """Errors of E2E, TTFT and ITL."""
        return self.e2e, self.ttft, self.itl


class Errors(Record):
    """n runs, and median, mean and worst |error of the mean| of each time, %; None without a run with one."""

    n: int
    e2e_median: Number = None
    e2e_mean: Number = None
    e2e_worst: Number = None
    ttft_median: Number = None
    ttft_mean: Number = None
    ttft_worst: Number = None
    itl_median: Number = None
    itl_mean: Number = None
    itl_worst: Number = None


class Replays(Record):
    """Some runs: how many, on how many the predictor diverges, and the errors.

    sub_saturation: over runs whose measured queue is bounded; unsaturated: over those whose predicted queue
    is bounded too; all: over every run.
    """

    n_runs: int
    n_diverging: int
    sub_saturation: Errors
    unsaturated: Errors
    all: Errors


class PredictorReplays(Replays):
    """One predictor on the folds of one kind; not_replayed: why folds have no replay, each reason once."""

    predictor: str
    kind: str
    not_replayed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


class Reference(Replays):
    """BLIS's default backend on the measured logs, and run by run."""

    runs: list[Run]


class References(Record):
    """What the rows stand beside: the best published LOMO (mean E2E, %) and BLIS's default backend."""

    published_lomo_e2e_mean: float
    blis_default: Reference


class Comparison(Record):
    """A row a predictor and kind of fold; the judged predictor's replays run by run; references, and whether
    they are of the same runs.
    """

    rows: list[PredictorReplays]
    runs: list[Run]
    references: References
    of_reference_runs: bool = False


def _reference(model: str, workload: str, *errors: float | None, **flags: bool) -> Run:
    e2e, ttft, itl = errors
    return Run(model=model, workload=workload, e2e=e2e, ttft=ttft, itl=itl, **flags)


# Stock BLIS (inference-sim, commit f90a1e3a), trained-physics, arrival-exact, prefix hits as in the runs.
BLIS = (
    _reference("llama-2-7b", "codegen", 51.6, 22.0, 51.9),
    _reference("llama-2-7b", "roleplay", 42.9, 21.0, 43.2),
    _reference("llama-2-7b", "general", 2096.0, None, 96.6, saturated_predicted=True),
    _reference("codellama-34b", "codegen", 12.6, -10.0, 12.9),
    _reference("codellama-34b", "roleplay", 14.8, -11.0, 15.1),
    _reference("codellama-34b", "general", 14.2, -15.0, 14.5),
    _reference("codellama-34b", "reasoning", 38.9, 49.0, 7.7, saturated_measured=True),
    _reference("llama-2-70b", "codegen", -1.9, -23.0, -1.7),
    _reference("llama-2-70b", "roleplay", -0.1, -22.0, 0.2),
    _reference("llama-2-70b", "general", -6.7, -52.0, -5.8),
)
PUBLISHED_LOMO_E2E_MEAN = 14.3  # %, the best on these runs: a power law in the number of parameters


def compared(results: Mapping[tuple[str, str], FoldResult], predictor: str) -> Comparison:
    """Every predictor's replays, (fold, predictor) → result; those of `predictor` first and run by run."""
    names = sorted({name for _, name in results}, key=lambda name: (name != predictor, name))
    runs = [run for kind in KINDS for run in _runs(_own(results, predictor, kind))]
    references = References(published_lomo_e2e_mean=PUBLISHED_LOMO_E2E_MEAN, blis_default=blis_default())
    rows = [row(name, kind, _own(results, name, kind)) for kind in KINDS for name in names]
    same = bool(runs) and {run.experiment for run in runs} <= set(h100.experiment_names())
    return Comparison(rows=rows, runs=runs, references=references, of_reference_runs=same)


def _own(results: Mapping[tuple[str, str], FoldResult], name: str, kind: str) -> list[FoldResult]:
    return [result for (_, of), result in results.items() if of == name and result.kind == kind]


def row(name: str, kind: str, results: Sequence[FoldResult]) -> PredictorReplays:
    """One predictor on the folds of one kind."""
    replays = [result.replay or OFF for result in results]
    reasons = [replay.skipped for replay in replays if replay.skipped is not None]
    reasons = reasons if results else ["no such fold in the sweep"]
    failed = [f"{entry.experiment}: {entry.reason}" for replay in replays for entry in replay.failed]
    return PredictorReplays(
        predictor=name,
        kind=kind,
        not_replayed=tuple(dict.fromkeys(reasons)),
        failed=tuple(failed),
        **_parts(_runs(results)),
    )


def _runs(results: Sequence[FoldResult]) -> list[Run]:
    """A row a replayed run."""
    found = []
    for result in results:
        known = {entry.experiment: entry for entry in result.experiments}
        for run in result.replay.experiments if result.replay else ():
            about = known.get(run.experiment)
            measured, predicted = (
                run.saturated if flag is None else flag
                for flag in (run.saturated_measured, run.saturated_predicted)
            )
            found.append(
                Run(
                    model=about.model if about else None,
                    workload=about.workload if about else None,
                    e2e=run.e2e_mean_error,
                    ttft=run.ttft_mean_error,
                    itl=run.itl_mean_error,
                    saturated_measured=measured,
                    saturated_predicted=predicted,
                    experiment=run.experiment,
                    kind=result.kind,
                )
            )
    return found


def _parts(runs: Sequence[Run]) -> dict[str, Any]:
    bounded = [run for run in runs if not run.saturated_measured]
    return {
        "n_runs": len(runs),
        "n_diverging": sum(run.diverges for run in runs),
        "sub_saturation": errors(bounded),
        "unsaturated": errors([run for run in bounded if not run.saturated_predicted]),
        "all": errors(runs),
    }


def errors(runs: Sequence[Run]) -> Errors:
    """Median, mean and worst |error of the mean| of each time over some runs."""
    numbers: dict[str, float] = {}
    for place, time in enumerate(TIMES):
        values = [abs(error) for run in runs if (error := run.errors()[place]) is not None]
        numbers |= {f"{time}_{name}": float(of(values)) for name, of in STATISTICS.items() if values}
    return Errors(n=len(runs), **numbers)


def blis_default() -> Reference:
    """BLIS's default backend on the measured logs as a row like the predictors', and run by run."""
    return Reference(runs=list(BLIS), **_parts(BLIS))
