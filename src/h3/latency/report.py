"""A replay as a Markdown table.

    print(report(found))                  # found: a ReplayResult

Signed errors of the mean, p90 and p99 in %, and what they come to over the experiments.
"""

from __future__ import annotations

from h3.common.records import Number
from h3.evaluation.replay_result import ReplayedRun, ReplayResult
from h3.latency.metrics import TIMES

HEAD = ("experiment", "E2E mean", "p90", "p99", "TTFT mean", "ITL mean", "note")


def report(found: ReplayResult) -> str:
    """A line an experiment, replayed or not, and the summary."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    lines += [_line(run) for run in found.experiments]
    lines += [f"| {entry.experiment} | – | – | – | – | – | {entry.reason} |" for entry in found.failed]
    for label in ("unsaturated", "all"):
        errors = ", ".join(_total(found, label, time) for time in TIMES)
        lines.append(f"\n{label}: |error of the mean|, median and worst: {errors}")
    return "\n".join(lines)


def _line(run: ReplayedRun) -> str:
    notes = ["saturated"] * run.saturated
    notes += [f"{run.unfinished} unfinished"] if run.unfinished else []
    notes += [f"{run.rejected} rejected"] if run.rejected else []
    errors = (
        *(run.e2e_mean_error, run.e2e_p90_error, run.e2e_p99_error),
        *(run.ttft_mean_error, run.itl_mean_error),
    )
    return f"| {run.experiment} | {' | '.join(_percent(error) for error in errors)} | {', '.join(notes)} |"


def _percent(error: Number) -> str:
    return "–" if error is None else f"{error:+.1f} %"


def _total(found: ReplayResult, label: str, time: str) -> str:
    median, worst = (found.summary.get(f"{label}_{time}_{name}") for name in ("median", "worst"))
    told = " and ".join(
        "–" if not isinstance(value, int | float) else f"{value:.1f}" for value in (median, worst)
    )
    return f"{time.upper()} {told} %"
