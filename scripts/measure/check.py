"""The numbers that a measurement is judged by: spread, agreement of repeats, batch 1 against reading the
weights, coverage.

    for finding in findings(plan, ["steps.jsonl"]):
        print(finding)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from h3.common.errors import InputError
from measure import results, shard
from measure.plan import Plan, Step

MOST_SPREAD, MOST_REPEAT_ERROR, MOST_OVER_WEIGHTS = 0.05, 0.03, 0.35
REPEAT_SHARE = 0.9  # of the repeated steps must agree
EXPERIMENT_STEPS = 300


@dataclass(frozen=True)
class Finding:
    """One number with what was asked of it; reached is None where nothing was."""

    name: str
    text: str
    reached: bool | None = None

    def __str__(self) -> str:
        return f"{ {True: 'yes', False: 'NO ', None: '   '}[self.reached] }  {self.name}: {self.text}"


def findings(plan: Plan, paths: Iterable[str | Path]) -> list[Finding]:
    """All findings; raises InputError where no step was measured."""
    lines = [line for path in paths for line in results.read(path)]
    timed = {line["key"]: line for line in reversed(lines) if line["kind"] == "step"}
    pairs = [(step, timed[step.key]) for step in plan.steps if step.key in timed]
    if not pairs:
        raise InputError(
            "no step of the plan was measured; expected results of measure_steps.py run with this plan"
        )
    ceiling = _ceiling(lines)
    return [
        _spread(pairs),
        _repeats(plan, timed),
        *_single_tokens(plan, pairs, ceiling),
        *_coverage(plan, pairs, lines),
    ]


def _ceiling(lines: list[dict]) -> float:
    """Best memory rate of any session, bytes a second."""
    return max(
        max(line["ceilings"]["copy_bytes_s"], line["ceilings"]["read_bytes_s"])
        for line in lines
        if line["kind"] == "session"
    )


def _spread(pairs: list[tuple[Step, dict]]) -> Finding:
    spreads = [(line["device_p90_us"] - line["device_p10_us"]) / line["device_us"] for _, line in pairs]
    median, high = np.percentile(spreads, [50, 90])
    text = (
        f"median {median:.2%}, ninetieth percentile {high:.2%} of {len(spreads)} steps (median at most"
        f" {MOST_SPREAD:.0%})"
    )
    return Finding("spread (p90 - p10) / median", text, bool(median <= MOST_SPREAD))


def _repeats(plan: Plan, timed: dict[str, dict]) -> Finding:
    first = {
        (step.row.get("experiment"), step.row.get("step_id")): step.key
        for step in plan.steps
        if not step.repeat and step.row
    }
    errors = []
    for step in plan.steps:
        key = first.get((step.row.get("experiment"), step.row.get("step_id")))
        if step.repeat and step.key in timed and key in timed:
            errors.append(abs(timed[step.key]["device_us"] / timed[key]["device_us"] - 1))
    if not errors:
        return Finding("repeated steps", "none measured", False)
    median, high = np.percentile(errors, [50, 100 * REPEAT_SHARE])
    agree = f"{REPEAT_SHARE:.0%} by at most {high:.2%} (asked {MOST_REPEAT_ERROR:.0%})"
    text = f"{len(errors)} differ by {median:.2%} at the median, {agree}"
    return Finding("repeated steps", text, bool(high <= MOST_REPEAT_ERROR))


def _single_tokens(plan: Plan, pairs: list[tuple[Step, dict]], ceiling_bytes_s: float) -> list[Finding]:
    """Decode at batch 1 and the shortest context against reading the weights once at the card's best rate;
    the study's ranks only.
    """
    single: dict[tuple[str, int], tuple[int, float]] = {}
    for step, line in pairs:
        if step.part == "grid" and len(step.decodes) == 1 and not step.chunks:
            found = (step.decodes[0], line["device_us"])
            single[step.model, step.tp] = min(single.get((step.model, step.tp), found), found)
    entries = []
    for (model, tp), (context, device_us) in single.items():
        floor_us = shard.of(plan.models[model], tp, model).single_token_bytes / ceiling_bytes_s * 1e6
        over = device_us / floor_us - 1
        text = (
            f"{device_us:.0f} us at {context} tokens, weights alone {floor_us:.0f} us: {over:+.1%} (at most"
            f" {MOST_OVER_WEIGHTS:.0%})"
        )
        entries.append(Finding(f"batch 1, {model} on {tp}", text, over <= MOST_OVER_WEIGHTS))
    return entries or [Finding("batch 1", "none measured", False)]


def _coverage(plan: Plan, pairs: list[tuple[Step, dict]], lines: list[dict]) -> list[Finding]:
    planned, counts = {}, {}
    for step in plan.steps:
        planned[step.part] = planned.get(step.part, 0) + 1
    for step, _ in pairs:
        counts[step.part] = counts.get(step.part, 0) + 1
    skipped = {
        part: len({line["key"] for line in lines if line["kind"] == "skipped" and line["part"] == part})
        for part in planned
    }
    entries = [
        Finding(f"part {part}", f"{counts.get(part, 0)} of {total} steps measured, {skipped[part]} skipped")
        for part, total in planned.items()
    ]
    wanted = {step.row["experiment"]: 0 for step in plan.steps if step.row}
    for step, _ in pairs:
        if step.row and not step.repeat:
            wanted[step.row["experiment"]] += 1
    fewest = min(wanted.values(), default=0)
    text = (
        f"{sum(count > 0 for count in wanted.values())} of {len(wanted)}, {fewest} steps at least (asked"
        f" {EXPERIMENT_STEPS})"
    )
    return [*entries, Finding("experiments", text, bool(fewest >= EXPERIMENT_STEPS))]
