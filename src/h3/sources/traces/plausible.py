"""Steps of a trace held against their own configuration and against physics. This file owns which steps no
server can have made.

    misplaced = places(steps)                               # before the clock: ids and times that are none
    found = impossible(steps, kv, clock, experiment)        # row → (reason, detail)
    why = contradiction(found, misplaced, clock, experiment)    # why the whole trace is of no use, or ""
"""

from __future__ import annotations

import numpy as np

from h3.sources.experiment import Experiment
from h3.sources.requests.plausible import least_step_us
from h3.sources.traces.clock import TraceClock
from h3.steps import limits, schema

Columns = dict[str, np.ndarray]
Found = dict[int, tuple[str, str]]
YEAR_NS = 365 * 86_400e9
LONGEST_STEP_US = 60e6  # a minute; a prompt of a million tokens takes half of it on one GPU
# Starts are those of the scheduler's calls, which may come half a step late: of two measured runs (12,671
# steps) one period is 0.76 times the time of the weights, the next shortest 1.4 times.
JITTER_STEPS = 0.5
# Beyond this share the configuration or the times are wrong, not single steps, and what is left is a choice.
MOST_IMPOSSIBLE, FEW = 0.1, 10
MOST_CLOCKS = 100
# What the times may be instead of ns: how many ns it has, and how far from the weights' time that must be.
UNITS, FAR_TOO_FAST, FAR_TOO_SLOW = {"us": 1e3, "ms": 1e6, "s": 1e9}, 20, 1e3


def places(steps: Columns) -> Found:
    """Rows whose id or start time is none, and those more than a year from the middle of the log."""
    ids, start = steps["step_id"], steps["start_ns"].astype(np.float64)
    found: Found = {}
    most = limits.UNITS["steps"]
    for row in _few((ids < 0) | (ids > most)):
        found[row] = "bad_value", f"attribute step.id is {ids[row]}; expected 0 to {most:g}"
    far = (start < 0) | (np.abs(start - np.median(start)) > YEAR_NS) if len(start) else start < 0
    for row in _few(far):
        said = f"step {ids[row]}: attribute step.ts_start_ns is {steps['start_ns'][row]}"
        found[row] = "bad_value", f"{said}; expected a time within a year of the log's middle"
    return found


def impossible(steps: Columns, kv: Columns, clock: TraceClock, experiment: Experiment) -> Found:
    """Rows that break a rule, each with the last one that it breaks."""
    found: Found = {}
    for name, values in {**kv, **steps}.items():
        column = next((column for column in schema.COLUMNS if column.name == name), None)
        if column is None or name in ("step_id", "start_us"):
            continue
        for row in _few(values > column.maximum):
            said = f"{name} is {values[row]:g}; expected at most {column.maximum:g}"
            found[row] = "bad_value", f"step {steps['step_id'][row]}: {said}"
    rules = (*_physical(steps, clock, experiment), *_configured(steps, kv, experiment))
    for reason, broken, detail in rules:
        for row in _few(broken):
            found[row] = reason, f"step {steps['step_id'][row]}: {detail.format(**_told(steps, clock, row))}"
    return found


def _few(broken: np.ndarray) -> list[int]:
    """The rows, or as many of them as make the whole trace one of no use."""
    return np.flatnonzero(broken)[: _most(len(broken)) + 1].tolist()


def _most(events: int) -> int:
    """How many of the steps may be impossible."""
    return max(FEW, int(MOST_IMPOSSIBLE * events))


# Reason, rows that break the rule, and what is said of one.
Rule = tuple[str, np.ndarray, str]


def _physical(steps: Columns, clock: TraceClock, experiment: Experiment) -> tuple[Rule, ...]:
    least_us = least_step_us(experiment)
    timed = (clock.reason == "") & (steps["num_prefill_reqs"] + steps["num_decode_reqs"] > 0)
    shortest_us = least_us * (1 - JITTER_STEPS / np.maximum(clock.gap_steps, 1))
    return (
        (
            "slower_than_a_minute",
            timed & (clock.period_us > LONGEST_STEP_US),
            "period {period:.0f} us; expected a minute at most",
        ),
        (
            "faster_than_weights",
            timed & (clock.period_us < shortest_us),
            f"period {{period:.1f}} us; the weights take {least_us:.0f} us at peak bandwidth",
        ),
    )


def _configured(steps: Columns, kv: Columns, experiment: Experiment) -> tuple[Rule, ...]:
    """A limit that is not known is not broken."""
    seqs, tokens = experiment.max_num_seqs, experiment.max_num_batched_tokens
    longest = experiment.max_model_len
    return (
        (
            "above_max_model_len",
            kv["decode_kv_tokens_max"] > longest,
            f"a request of more tokens than max_model_len={longest:.0f}",
        ),
        (
            "above_max_num_batched_tokens",
            steps["scheduled_tokens"] > tokens,
            f"{{tokens:.0f}} tokens; exp-config.yaml says max_num_batched_tokens={tokens:.0f}",
        ),
        (
            "above_max_num_seqs",
            steps["num_prefill_reqs"] + steps["num_decode_reqs"] > seqs,
            f"{{requests:.0f}} requests; exp-config.yaml says max_num_seqs={seqs:.0f}",
        ),
        (
            "bad_value",
            steps["kv_blocks_free"] > steps["kv_blocks_total"],
            "kv.blocks_free_gpu is {free:.0f}; expected at most kv.blocks_total_gpu={total:.0f}",
        ),
    )


def _told(steps: Columns, clock: TraceClock, row: int) -> dict[str, float]:
    return {
        "period": clock.period_us[row],
        "tokens": steps["scheduled_tokens"][row],
        "requests": steps["num_prefill_reqs"][row] + steps["num_decode_reqs"][row],
        "free": steps["kv_blocks_free"][row],
        "total": steps["kv_blocks_total"][row],
    }


def several_servers(clock: TraceClock) -> bool:
    """Whether the steps go back so often that more than one server wrote them."""
    return int(clock.clock.max(initial=0)) >= max(MOST_CLOCKS, MOST_IMPOSSIBLE * len(clock.clock))


def contradiction(found: Found, misplaced: Found, clock: TraceClock, experiment: Experiment) -> str:
    """Why the trace cannot be used, as a sentence; "" if it can."""
    events = len(clock.clock) + len(misplaced)
    if several_servers(clock):
        back = clock.clock.max()
        return f"step ids or times go back {back} times in {events} steps; expected one server a folder"
    if why := _wrong_unit(clock, least_step_us(experiment)):
        return why
    if len(found) + len(misplaced) <= _most(events):
        return ""
    both = (*misplaced.values(), *found.values())
    reasons = ", ".join(sorted({reason for reason, _ in both}))
    return f"over {MOST_IMPOSSIBLE:.0%} of {events} steps are impossible: {reasons} (first: {both[0][1]})"


def _wrong_unit(clock: TraceClock, least_us: float) -> str:
    """In words, that the times are in another unit than ns, if that is what makes them too fast."""
    timed = clock.gap_steps > 0
    steps = clock.gap_steps[timed].sum()
    if not steps:
        return ""
    mean_us = float((clock.period_us[timed] * clock.gap_steps[timed]).sum() / steps)
    for unit, factor in UNITS.items():
        if FAR_TOO_FAST * mean_us < least_us <= mean_us * factor < FAR_TOO_SLOW * least_us:
            return (
                f"a step takes {mean_us:.3g} us in the mean, the weights take {least_us:.0f} us to be read;"
                f" the times in step.ts_start_ns look like {unit}, expected ns"
            )
    return ""
