"""OTLP/JSON step traces → columns. This file owns the wire format: names of scopes, events and attributes.

    for batch in otlp.read(Path("traces.json.gz")):
        batch.steps["step.id"], batch.steps["line"]     # one entry a step.BATCH_SUMMARY event
        batch.snapshots, batch.journeys                 # optional events: exact KV lengths
        batch.rejects                                   # (line, reason, detail)

Lines whose events all have a known byte layout are read by lines.py, every other line by a typed JSON
decoder. Both give the same columns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from h3.common.bounded import Bounds
from h3.common.shown import shown
from h3.sources.traces import lines
from h3.sources.traces.blocks import USUAL, blocks
from h3.sources.traces.journeys import Journey
from h3.sources.traces.layout import Layout
from h3.sources.traces.lines import Needs
from h3.sources.traces.types import DECODER, UNREADABLE, Attribute, Event, Lines, Span, Value, spans_of
from h3.steps import limits

SCHEDULER_SCOPE = "vllm.scheduler"
STEP, SNAPSHOT, JOURNEY = "step.BATCH_SUMMARY", "step.REQUEST_SNAPSHOT", "journey."
WHOLE = ("step.id", "step.ts_start_ns")
NEEDED = (*WHOLE, "batch.num_prefill_reqs", "batch.num_decode_reqs")
OPTIONAL = (
    "step.duration_us",
    "queue.running_depth",
    "queue.waiting_depth",
    "batch.scheduled_tokens",
    "batch.prefill_tokens",
    "batch.decode_tokens",
    "batch.num_finished",
    "batch.num_preempted",
    "kv.blocks_total_gpu",
    "kv.blocks_free_gpu",
    "kv.usage_gpu_ratio",
)
STEP_COLUMNS = ("line", *NEEDED, *OPTIONAL)
SNAPSHOT_NUMBERS = ("step.id", "request.num_computed_tokens", "request.scheduled_tokens_this_step")
LARGEST = 1 << 62
MOST_COUNTED = int(limits.UNITS["steps"])  # sums over a million of them are still whole numbers
NUMERIC = ("whole", "real")
LAYOUT_NEEDS = {
    STEP: Needs(
        set(NEEDED), {**dict.fromkeys((*NEEDED, *OPTIONAL), NUMERIC), **dict.fromkeys(WHOLE, ("whole",))}
    ),
    SNAPSHOT: Needs(
        {*SNAPSHOT_NUMBERS, "request.phase"},
        {**dict.fromkeys(SNAPSHOT_NUMBERS, NUMERIC), "request.phase": ("text",)},
    ),
}
JOURNEY_KINDS = ("SCHEDULED", "FIRST_TOKEN", "PREEMPTED", "FINISHED")
JOURNEY_NUMBERS = ("scheduler.step", "prefill.done_tokens", "prefill.total_tokens", "decode.done_tokens")


Row = dict[str, float]
Snapshot = tuple[float, float, bool, float, float]


@dataclass
class Slow:
    """What the JSON decoder takes from a block: steps as rows, snapshots as in Batch."""

    steps: list[Row] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)


@dataclass
class Batch:
    """Events of a block of lines: columns of steps (with `line`), rows of the rest, rejects (line, reason,
    detail).

    Step columns are int64 for step.id, step.ts_start_ns and line, else float64, NaN where the event lacks the
    attribute.
    snapshots: float64[n, 5], (line, step id, 1 if decoding, computed tokens before, scheduled tokens).
    journeys: (line, request id, kind, step, prefill done, prefill total, decode done).
    rejected_steps: how many of the rejects are step events; the others are lines, or events of other names.
    """

    steps: dict[str, np.ndarray] = field(default_factory=dict)
    snapshots: np.ndarray = field(default_factory=lambda: np.empty((0, 5)))
    journeys: list[Journey] = field(default_factory=list)
    rejects: list[tuple[int, str, str]] = field(default_factory=list)
    rejected_steps: int = 0

    def moved(self, lines: int) -> Batch:
        """The same with line numbers raised by `lines`."""
        steps = {**self.steps, "line": self.steps["line"] + lines}
        journeys, rejects = (
            [(row[0] + lines, *row[1:]) for row in rows] for rows in (self.journeys, self.rejects)
        )
        return Batch(
            steps, self.snapshots + np.array([lines, 0, 0, 0, 0]), journeys, rejects, self.rejected_steps
        )


def read(path: Path, bounds: Bounds = USUAL) -> Iterator[Batch]:
    """Events of a trace file, block by block, in order of the file; raises InputError as `blocks`
    does.
    """
    layouts: dict[str, Layout] = {}
    for block in blocks(path, bounds):
        taken, fast, layouts = lines.read(block, SCHEDULER_SCOPE, LAYOUT_NEEDS, layouts)
        batch, slow = Batch(), Slow()
        for index in np.flatnonzero(~taken).tolist():
            _decode(block[index], index, batch, slow)
        batch.steps = _joined(fast.get(STEP, {}), _columns(slow.steps))
        batch.snapshots = _joined_snapshots(fast.get(SNAPSHOT, {}), slow.snapshots)
        if block.damage:
            batch.rejects.append((len(block) if block.text else 0, *block.damage))
        yield batch.moved(block.first_line)


def _joined_snapshots(fast: dict[str, np.ndarray], slow: list[Snapshot]) -> np.ndarray:
    """Snapshots of both readers, in order of lines."""
    rows = np.array(slow, dtype=np.float64).reshape(-1, 5)
    if not fast:
        return rows
    decodes = fast["request.phase"].astype("S7") == b'DECODE"'
    step, computed, scheduled = (fast[name] for name in SNAPSHOT_NUMBERS)
    rows = np.concatenate([np.column_stack([fast["line"], step, decodes, computed, scheduled]), rows])
    return rows[np.argsort(rows[:, 0], kind="stable")]


def _columns(rows: list[Row]) -> dict[str, np.ndarray]:
    """Columns of the steps that the JSON decoder found."""
    return {
        name: np.array([row.get(name, math.nan) for row in rows], dtype=_dtype(name)) for name in STEP_COLUMNS
    }


def _joined(fast: dict[str, np.ndarray], slow: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of the steps of both readers, in order of lines."""
    if not fast:
        return slow
    size = len(fast["line"])
    fast = {
        name: fast[name].astype(_dtype(name)) if name in fast else np.full(size, math.nan)
        for name in STEP_COLUMNS
    }
    if not len(slow["line"]):
        return fast
    order = np.argsort(np.concatenate([fast["line"], slow["line"]]), kind="stable")
    return {name: np.concatenate([fast[name], slow[name]])[order] for name in STEP_COLUMNS}


def _dtype(name: str) -> type:
    return np.int64 if name in (*WHOLE, "line") else np.float64


def _decode(line: bytes, number: int, batch: Batch, slow: Slow) -> None:
    """One line through the JSON decoder; what is broken becomes a reject."""
    if not line.strip():
        return
    try:
        decoded = DECODER.decode(line)
    except UNREADABLE as error:
        try:
            # json also takes the bare NaN and Infinity that Python writes.
            decoded = msgspec.convert(json.loads(line.decode("utf-8")), Lines)
        except msgspec.ValidationError as other:
            batch.rejects.append((number, "malformed_otlp", str(other)))
            return
        except (ValueError, RecursionError):
            batch.rejects.append((number, "broken_json", _said(error)))
            return
    for scope, span in spans_of(decoded):
        for event in span.events:
            _take(scope, span, event, number, batch, slow)


def _said(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: byte {error.object[error.start]:#04x}"
    return str(error)


def _take(scope: str, span: Span, event: Event, number: int, batch: Batch, slow: Slow) -> None:
    """One event into the batch; events of other scopes and names are no concern of this file."""
    try:
        if event.name == STEP and scope == SCHEDULER_SCOPE:
            slow.steps.append({"line": number, **_numbers(event, NEEDED, OPTIONAL)})
        elif event.name == SNAPSHOT and scope == SCHEDULER_SCOPE:
            step, computed, scheduled = _counted(_numbers(event, SNAPSHOT_NUMBERS)).values()
            decodes = _text(event.attributes, "request.phase") == "DECODE"
            slow.snapshots.append((number, step, decodes, computed, scheduled))
        elif event.name.startswith(JOURNEY) and event.name.removeprefix(JOURNEY) in JOURNEY_KINDS:
            request, kind = _text(span.attributes, "gen_ai.request.id"), event.name.removeprefix(JOURNEY)
            step, before, total, done = map(int, _counted(_numbers(event, JOURNEY_NUMBERS)).values())
            batch.journeys.append((number, request, kind, step, before, total, done))
    except _Unusable as problem:
        batch.rejects.append((number, *problem.args))
        batch.rejected_steps += event.name == STEP


class _Unusable(Exception):
    """An event that cannot be used: reason and detail."""


def _numbers(event: Event, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, float]:
    """The event's numbers by attribute, in the order of `needed`, then those of `optional` that it has."""
    found = {each.key: each.value for each in event.attributes if each.value is not None}
    for name in needed:
        if name not in found:
            raise _Unusable("missing_attribute", f"{event.name} has no attribute {name}")
    return {name: _number(found[name], name) for name in (*needed, *optional) if name in found}


def _counted(numbers: dict[str, float]) -> dict[str, float]:
    """The numbers, which are steps and tokens of a request; raises _Unusable for one that cannot be."""
    for name, number in numbers.items():
        if not 0 <= number <= MOST_COUNTED:
            raise _Unusable("bad_value", f"attribute {name} is {number:g}; expected 0 to {MOST_COUNTED:g}")
    return numbers


def _number(value: Value, name: str) -> float:
    raw = value.intValue if value.intValue is not None else value.doubleValue
    try:
        number = math.nan if raw is None else int(raw) if value.intValue is not None else float(raw)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    fraction = name in WHOLE and number != math.floor(number) if math.isfinite(number) else True
    if fraction or abs(number) >= LARGEST:
        found = shown(value.stringValue if raw is None else raw)
        kind = "whole" if name in WHOLE else "finite"
        raise _Unusable("not_finite", f"attribute {name} is {found}; expected a {kind} number below 2^62")
    return int(number) if name in WHOLE else number


def _text(attributes: list[Attribute], name: str) -> str:
    for attribute in attributes:
        if attribute.key == name and attribute.value is not None and attribute.value.stringValue is not None:
            return attribute.value.stringValue
    raise _Unusable("missing_attribute", f"no attribute {name}")
