"""AIPerf's `profile_export.jsonl`: a record a line, with the metrics of one request and their units.

Records of the warm-up are read too: the server made steps for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from h3.common.errors import InputError
from h3.sources.requests.formats.content import Content
from h3.sources.requests.formats.raw import Raw, Row, exact, gather, numbers, optional

TITLE = "AIPerf (profile_export.jsonl)"
UNIT_US = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "sec": 1e6, "s": 1e6}
NEEDED = ("time_to_first_token", "request_latency")
# Metrics that say the same, the server's own count first.
PROMPT = ("usage_prompt_tokens", "input_sequence_length")
OUTPUT = ("usage_completion_tokens", "output_sequence_length")
CACHED = "usage_prompt_cache_read_tokens"


def recognises(content: Content) -> bool:
    """Whether the first record has metadata of a request and metrics."""
    first = content.values[0][1]
    if not isinstance(first, dict) or not {"metadata", "metrics"} <= first.keys():
        return False
    metadata = first["metadata"]
    return isinstance(metadata, dict) and bool({"x_request_id", "request_start_ns"} & metadata.keys())


def read(name: str, content: Content) -> Raw:
    """The requests of a log; raises InputError where no record has the metrics that are needed."""
    measured = [record["metrics"].keys() for _, record in content.values if _measured(record)]
    for needed in NEEDED:
        if measured and not any(needed in metrics for metrics in measured):
            found = ", ".join(sorted(measured[0])) or "none"
            raise InputError(
                f"{content.path}: no record has the metric {needed} (found {found}); expected a run with"
                " --streaming of an AIPerf that writes it"
            )
    return gather(name, content, content.values, _row)


def _measured(record: Any) -> bool:
    """Whether a record is of a request that ended well."""
    if not isinstance(record, dict) or _failed(record):
        return False
    return isinstance(record.get("metrics"), dict)


def _failed(record: dict[str, Any]) -> bool:
    metadata = record.get("metadata")
    return bool(record.get("error")) or (isinstance(metadata, dict) and bool(metadata.get("was_cancelled")))


def _row(record: Any) -> Row | None:
    if _failed(record):
        return None
    metrics = record["metrics"]
    start = float(record["metadata"]["request_start_ns"]) / 1e3
    first = start + float(_us(metrics["time_to_first_token"]))
    last = start + float(_us(metrics["request_latency"]))
    tokens = _count(metrics, OUTPUT)
    gaps = metrics.get("inter_chunk_latency")
    times = None if gaps is None else first + np.concatenate([[0.0], np.cumsum(numbers(_us(gaps)))])
    times_us = None if times is None else exact(times, tokens)
    if times_us is not None:
        last = float(times_us[-1])
    cached = optional(metrics[CACHED]["value"]) if CACHED in metrics else float("nan")
    return Row(_count(metrics, PROMPT), tokens, start, first, last, cached, times_us)


def _us(metric: dict[str, Any]) -> Any:
    """A metric's value or values in us; raises KeyError for an unknown unit."""
    return np.asarray(metric["value"], dtype=float) * UNIT_US[metric["unit"]]


def _count(metrics: dict[str, Any], names: tuple[str, ...]) -> float:
    """Tokens by the first of the metrics that the record has; raises KeyError if it has none."""
    known = next((name for name in names if name in metrics), names[-1])
    return float(metrics[known]["value"])
