"""inference-perf's `per_request_lifecycle_metrics.json`: an array of requests, times in seconds."""

from __future__ import annotations

from typing import Any

import numpy as np

from h3.common.errors import InputError
from h3.sources.requests.formats.content import Content
from h3.sources.requests.formats.raw import Raw, Row, exact, gather, numbers

TITLE = "inference-perf (per_request_lifecycle_metrics.json)"


def recognises(content: Content) -> bool:
    """Whether the file is an array whose first entry has `info` and `start_time`."""
    entries = content.document
    first = entries[0] if isinstance(entries, list) and entries else None
    return isinstance(first, dict) and {"info", "start_time"} <= first.keys()


def read(name: str, content: Content) -> Raw:
    """The requests of a log; raises InputError for a file that is no array."""
    entries = content.document
    if not isinstance(entries, list):
        found = "lines" if len(content.values) != 1 else type(entries).__name__
        raise InputError(f"{content.path}: holds {found}; expected inference-perf's array of requests")
    return gather(name, content, enumerate(entries, start=1), _row)


def _row(entry: Any) -> Row | None:
    if isinstance(entry, dict) and entry.get("error"):
        return None
    info = entry["info"]
    times = numbers(info.get("output_token_times") or []) * 1e6
    arrival, end = float(entry["start_time"]) * 1e6, float(entry["end_time"]) * 1e6
    first, last = (times[0], times[-1]) if len(times) else (np.nan, end)
    tokens = float(info["output_tokens"])
    times_us = exact(times, tokens)
    return Row(float(info["input_tokens"]), tokens, arrival, first, last, token_times_us=times_us)
