"""Step traces (OTLP/JSON) → step table. This file owns which rows a trace gives and which it rejects.

    source = SourceConfig(name="traces", path="runs/")
    ingested = load(source)                                 # every experiment folder below that holds a trace
    ingested.table, ingested.rejects                        # every step event is in one of the two
    ingested.record["experiments"][name]["kv_tokens"]       # snapshots, journeys, assumed blocks or null

The period of a step comes from the ids and start times of the sampled steps (clock.py); KV tokens from
request snapshots, else journeys, else the assumption (kv.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from h3.common.bounded import Bounds
from h3.common.config import Assumptions, SourceConfig
from h3.common.errors import InputError
from h3.sources.experiment import (
    TRACE_FILES,
    Experiment,
    Ingested,
    assumptions_record,
    combine,
    describe,
    find,
    required_log,
)
from h3.sources.traces import clock as trace_clock
from h3.sources.traces import kv as trace_kv
from h3.sources.traces import otlp, plausible
from h3.sources.traces.journeys import Journey
from h3.steps import schema

RENAMED = {
    "line": "line",
    "step.id": "step_id",
    "step.ts_start_ns": "start_ns",
    "step.duration_us": "duration_us",
    "queue.running_depth": "running_reqs",
    "queue.waiting_depth": "waiting_reqs",
    "batch.num_prefill_reqs": "num_prefill_reqs",
    "batch.num_decode_reqs": "num_decode_reqs",
    "batch.scheduled_tokens": "scheduled_tokens",
    "batch.prefill_tokens": "prefill_tokens",
    "batch.decode_tokens": "decode_tokens",
    "batch.num_finished": "num_finished",
    "batch.num_preempted": "num_preempted",
    "kv.blocks_total_gpu": "kv_blocks_total",
    "kv.blocks_free_gpu": "kv_blocks_free",
    "kv.usage_gpu_ratio": "kv_usage_ratio",
}
FREE_REJECTS = 10_000
COUNTS = ("num_prefill_reqs", "num_decode_reqs")


def load(source: SourceConfig, progress: Callable[[str], None] | None = None) -> Ingested:
    """All trace experiments below the source's folders; `progress` is told each experiment's name.

    Raises InputError where a folder, a configuration or a file cannot be used, or where no step is left.
    """
    read = list(parts(source, progress))
    # One table is exact as it is: a copy would double the memory.
    ingested = read[0] if len(read) == 1 else combine(read)
    if ingested.table.empty:
        reasons = _listed(Counter(ingested.rejects["reason"]))
        why = "".join(f"; {entry['reason']}" for entry in ingested.record.get("left_out", [])[:1])
        raise InputError(
            f"{source.path}: no usable step in any trace (rejected: {reasons}{why}); expected sampled steps"
            " of one server"
        )
    return ingested


def parts(source: SourceConfig, progress: Callable[[str], None] | None = None) -> Iterator[Ingested]:
    """The same experiment by experiment, so that one is in memory at a time."""
    for folder in find(source.folders(), TRACE_FILES):
        if progress:
            progress(folder.name)
        yield load_experiment(describe(folder, source), source)


def load_experiment(experiment: Experiment, source: SourceConfig) -> Ingested:
    """The steps of one experiment's trace.

    Guarantees: every step event of the file is a row of the table or of the rejects; an attribute that no
    step has is null, one that only some lack rejects those; a trace that contradicts its configuration or
    physics is left out with the reason (plausible.py). Raises InputError for a file without step events.
    """
    path = required_log(experiment.path, TRACE_FILES)
    log = _read(path, experiment.architecture.window_tokens, source.bounds)
    misplaced = _drop_misplaced(log)
    _check_some(log, path)
    events = len(log.steps["line"]) + log.rejected_steps
    clock = _clock(log.steps, experiment)
    kind, kv = _kv_tokens(log, clock, experiment, source.assume)
    impossible = plausible.impossible(log.steps, kv, clock, experiment)
    why = plausible.contradiction(impossible, misplaced, clock, experiment)
    rejects, keep = _step_rejects(log.steps, clock, impossible)
    keep &= not why
    rejects = sorted(log.rejects + rejects, key=lambda entry: entry[0])
    table = _table(log.steps, kv, clock, experiment, keep)
    counts = {
        "log": "traces",
        "events": events,
        "sampling": experiment.sampling.told(),
        "rows": len(table),
        "clocks": int(clock.clock[-1]) + 1,
        "kv_tokens": kind,
        "rows_without_kv_tokens": int(table["decode_kv_tokens_sum"].isna().sum()),
        "rejected": dict(sorted(Counter(reason for _, reason, _ in rejects).items())),
    }
    rows = [(experiment.name, str(path), *entry) for entry in rejects]
    left_out = [{"experiment": experiment.name, "reason": f"{path}: {why}"}] if why else []
    record = {"experiments": {experiment.name: counts}, "left_out": left_out}
    return Ingested(table, schema.rejects_frame(rows), {**assumptions_record(source), **record})


def _check_some(log: _Log, path: Path) -> None:
    if not len(log.steps["line"]):
        found = _listed(Counter(reason for _, reason, _ in log.rejects))
        raise InputError(
            f"{path}: no usable {otlp.STEP} event of scope {otlp.SCHEDULER_SCOPE} (rejected: {found});"
            " expected some"
        )


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "none"


@dataclass
class _Log:
    """A trace file read: columns of step events in file order, named as in the step table, and what else it
    holds.
    """

    steps: dict[str, np.ndarray]
    snapshot_sums: list[pd.DataFrame]
    journeys: list[Journey]
    rejects: list[tuple[int, str, str]]
    rejected_steps: int


def _read(path: Path, window_tokens: int, bounds: Bounds) -> _Log:
    parts, log, steps = [], _Log({}, [], [], [], 0), 0
    for batch in otlp.read(path, bounds):
        parts.append(batch.steps)
        steps += len(batch.steps["line"])
        log.journeys += batch.journeys
        log.rejects += batch.rejects
        log.rejected_steps += batch.rejected_steps
        if len(batch.snapshots):
            log.snapshot_sums.append(trace_kv.snapshot_sums(batch.snapshots, window_tokens))
        if len(log.rejects) > max(FREE_REJECTS, steps):
            line, reason, detail = log.rejects[0]
            raise InputError(
                f"{path}: {len(log.rejects)} rejects against {steps} steps so far, the first in line {line}"
                f" ({reason}: {detail}); expected OTLP/JSON, one resourceSpans object a line"
            )
    log.steps = {new: np.concatenate([part.pop(old) for part in parts]) for old, new in RENAMED.items()}
    return log


def _drop_misplaced(log: _Log) -> plausible.Found:
    """Take the steps whose id or time is none out of the log, into its rejects."""
    found = plausible.places(log.steps)
    if found:
        rows = list(found)
        log.rejects += [(int(log.steps["line"][row]), *found[row]) for row in rows]
        log.rejected_steps += len(rows)
        log.steps = {name: np.delete(values, rows) for name, values in log.steps.items()}
    return found


def _clock(steps: dict[str, np.ndarray], experiment: Experiment) -> trace_clock.TraceClock:
    """The step clock; a server is drained where the batch is empty, or finishes whole with nobody waiting."""
    left = steps["num_prefill_reqs"] + steps["num_decode_reqs"] - np.nan_to_num(steps["num_finished"])
    drained = (left <= 0) & (np.nan_to_num(steps["waiting_reqs"]) == 0)
    budget = experiment.max_num_batched_tokens
    if np.isnan(budget):
        budget = np.nan_to_num(steps["scheduled_tokens"]).max()
    steps["start_us"] = (steps["start_ns"] - steps["start_ns"][0]) / 1e3
    return trace_clock.read(steps["step_id"], steps["start_us"], steps["scheduled_tokens"], drained, budget)


def _kv_tokens(
    log: _Log, clock: trace_clock.TraceClock, experiment: Experiment, assume: Assumptions
) -> tuple[str, dict[str, np.ndarray]]:
    """What the KV tokens come from, and the columns that it gives; snapshots give the composition, too."""
    steps = {**log.steps, "clock": clock.clock}
    if plausible.several_servers(clock):
        kind, kv = "null", trace_kv.unknown(len(clock.clock))
    elif log.snapshot_sums:
        kind, kv = (
            "snapshots",
            trace_kv.from_snapshots(pd.concat(log.snapshot_sums, ignore_index=True), pd.DataFrame(steps)),
        )
    elif log.journeys:
        kind, kv = "journeys", trace_kv.from_journeys(log.journeys, pd.DataFrame(steps))
    elif assume.kv_tokens == "blocks" and not np.isnan(steps["kv_blocks_free"]).all():
        used_blocks = steps["kv_blocks_total"] - steps["kv_blocks_free"]
        kind, kv = (
            "assumed blocks",
            trace_kv.from_blocks(used_blocks, steps["num_decode_reqs"], experiment.block_size_tokens),
        )
    else:
        kind, kv = "null", trace_kv.unknown(len(clock.clock))
    for name in trace_kv.COMPOSITION:
        kv[name] = np.where(np.isnan(kv[name]), steps[name], kv[name]) if name in kv else steps[name]
    return kind, trace_kv.with_empty_sides(kv, *(kv[name] for name in COUNTS))


def _table(
    steps: dict[str, np.ndarray],
    kv: dict[str, np.ndarray],
    clock: trace_clock.TraceClock,
    experiment: Experiment,
    keep: np.ndarray,
) -> pd.DataFrame:
    """The kept rows; columns move from `steps` and `kv` to the table, so that memory holds them once."""
    own = {"clock": clock.clock, "period_us": clock.period_us, "gap_steps": clock.gap_steps}
    constant, size = {**experiment.columns(), "log": "traces"}, int(keep.sum())
    rows = {}
    for column in schema.COLUMNS:
        name = column.name
        parts = next((source for source in (kv, own, steps) if name in source), None)
        if parts is not None:
            rows[name] = parts.pop(name)[keep].astype(column.dtype)
            steps.pop(name, None)
        elif column.kind == "text":
            rows[name] = pd.array([constant[name]], dtype="str").take(np.zeros(size, dtype=np.int64))
        else:
            known = constant.get(name, np.nan) if column.nullable else constant[name]
            rows[name] = np.full(size, known, dtype=column.dtype)
    return pd.DataFrame(rows, copy=False)


def _step_rejects(
    steps: dict[str, np.ndarray], clock: trace_clock.TraceClock, impossible: plausible.Found
) -> tuple[list[tuple[int, str, str]], np.ndarray]:
    """Rejects (line, reason, detail) of steps, and which steps are kept; the last rule that a step breaks is
    its reason.
    """
    ids, found = steps["step_id"], {}
    for row in np.flatnonzero(clock.reason != "").tolist():
        found[row] = (
            clock.reason[row],
            f"step {ids[row]}: period {clock.period_us[row]:.0f} us over {clock.gap_steps[row]} steps",
        )
    for old, new in RENAMED.items():
        values = steps[new]
        missing = np.isnan(values)
        for row in np.flatnonzero(missing).tolist() if not missing.all() else ():
            found[row] = "missing_attribute", f"step {ids[row]}: {otlp.STEP} has no attribute {old}"
        wrong = (values < 0) | (values != np.floor(values)) & ~missing if new in COUNTS else values < 0
        for row in np.flatnonzero(wrong).tolist():
            found[row] = (
                "bad_value",
                f"step {ids[row]}: attribute {old} is {values[row]:g}; expected at least 0, counts whole",
            )
    found = {**impossible, **found}
    keep = np.ones(len(ids), dtype=bool)
    keep[list(found)] = False
    return [(int(steps["line"][row]), *what) for row, what in found.items()], keep
