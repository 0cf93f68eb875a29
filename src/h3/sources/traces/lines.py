"""Lines that hold nothing but events of known byte layouts. This file owns which lines are read without a
JSON decoder.

    needs = {"step.BATCH_SUMMARY": Needs({"step.id"}, {"step.id": ("whole",)})}
    taken, columns, layouts = read(block, "vllm.scheduler", needs, {})
    columns["step.BATCH_SUMMARY"]["step.id"]      # and "line", the index of the line in the block

A line is taken if each of its events has a layout, byte for byte, and what is left of the line without its
events is JSON with empty lists of events. So a damaged or a foreign line is never taken; it is left to the
JSON decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from h3.sources.traces.blocks import Block
from h3.sources.traces.layout import Layout
from h3.sources.traces.types import DECODER, NAME_DECODER, RAW_DECODER, UNREADABLE, spans_of

LINES_TO_LEARN_FROM = 8
Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Needs:
    """The attributes without which a layout is of no use, and the kinds that those it reads may have."""

    names: set[str]
    kinds: dict[str, tuple[str, ...]]

    def met_by(self, layout: Layout) -> bool:
        """Whether a layout has all names, and no attribute of another kind."""
        there = layout.kinds
        return self.names <= set(there) and all(
            there[name] in kinds for name, kinds in self.kinds.items() if name in there
        )


def read(
    block: Block, scope: str, needs: dict[str, Needs], layouts: dict[str, Layout]
) -> tuple[np.ndarray, dict[str, Columns], dict[str, Layout]]:
    """Which lines of the block are taken, columns of their events by event name, and the layouts that are
    known now.

    scope: the scope of the events; needs: names of events, and what a layout of them must have. Layouts are
    learned from the first lines that cannot be taken.
    """
    taken, columns = _by_layouts(block, scope, layouts)
    for _ in needs:
        lines = (block[index] for index in np.flatnonzero(~taken)[:LINES_TO_LEARN_FROM].tolist())
        learned = ({**layouts, **_learn(line, scope, needs)} for line in lines)
        better = next((candidate for candidate in learned if candidate != layouts), None)
        if better is None:
            break
        layouts = better
        taken, columns = _by_layouts(block, scope, layouts)
    return taken, columns, layouts


def _learn(line: bytes, scope: str, needs: dict[str, Needs]) -> dict[str, Layout]:
    """Layouts of the first event of each name in a line."""
    layouts: dict[str, Layout] = {}
    try:
        for owner, span in spans_of(RAW_DECODER.decode(line)):
            for raw in span.events if owner == scope else ():
                name = NAME_DECODER.decode(raw).name
                layout = Layout.learn(bytes(raw)) if name in needs and name not in layouts else None
                if layout and needs[name].met_by(layout):
                    layouts[name] = layout
    except UNREADABLE:
        pass  # a damaged line teaches nothing after its damage; the JSON decoder reports it
    return layouts


def _by_layouts(
    block: Block, scope: str, layouts: dict[str, Layout]
) -> tuple[np.ndarray, dict[str, Columns]]:
    taken = np.diff(block.bounds) == 1  # empty lines
    found = {name: layout.match(block.text) for name, layout in layouts.items()}
    starts, ends = (
        np.concatenate([[], *(getattr(f, side) for f in found.values())]).astype(np.int64)
        for side in ("starts", "ends")
    )
    if not len(starts):
        return taken, {}
    if len(found) > 1:
        order = np.argsort(starts)
        starts, ends = starts[order], ends[order]
    _take_lines(taken, block, scope, starts, ends)
    columns = {}
    for name, events in found.items():
        line = np.searchsorted(block.bounds, events.starts, side="right") - 1
        inside = taken[line]
        columns[name] = {
            "line": line[inside],
            **{key: values[inside] for key, values in events.values.items()},
        }
    return taken, columns


def _take_lines(taken: np.ndarray, block: Block, scope: str, starts: np.ndarray, ends: np.ndarray) -> None:
    """Mark the lines that are plain around their events, which lie at starts..ends in order."""
    edges = np.searchsorted(starts, block.bounds)
    code = np.frombuffer(block.text, dtype=np.uint8)
    glued = (starts[1:] - ends[:-1] == 1) & (code[np.minimum(ends[:-1], len(code) - 1)] == ord(","))
    for index in np.flatnonzero(np.diff(edges)).tolist():
        first, last = edges[index], edges[index + 1]
        heads = [first, *(np.flatnonzero(~glued[first : last - 1]) + first + 1).tolist(), last]
        runs = [(starts[i], ends[j - 1]) for i, j in pairwise(heads)]
        taken[index] = _is_plain(block.text, block.bounds[index], block.bounds[index + 1] - 1, runs, scope)


def _is_plain(text: bytes, begin: int, end: int, runs: list[tuple[int, int]], scope: str) -> bool:
    """True if the line without its runs of events is JSON, of spans of the scope only, with no other
    event.
    """
    pieces = []
    for first, last in runs:
        pieces.append(text[begin:first])
        if not pieces[-1].endswith(b'"events":[') or text[last : last + 1] != b"]":
            return False
        begin = last
    try:
        hull = DECODER.decode(b"".join([*pieces, text[begin:end]]))
    except UNREADABLE:
        return False
    return all(owner == scope and not span.events for owner, span in spans_of(hull))
