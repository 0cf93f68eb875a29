"""GuideLLM's `benchmarks.json`: reports of schema 1 and 2, and those before there was a number.

All benchmarks of a report are read as one run: their times are seconds of one clock. A request has the times
of its first and last token. Requests that were cut off when a benchmark ended count as failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from h3.common.errors import InputError
from h3.sources.requests.formats.content import Content
from h3.sources.requests.formats.raw import Raw, Row, gather, optional

TITLE = "GuideLLM (benchmarks.json)"
SCHEMAS = (1, 2)
STATES = ("successful", "errored", "incomplete")
AGAIN = "run guidellm again and keep all requests (no sampling of them)"
MOST_REQUESTS = 10**12  # more is no number of requests
Entry = tuple[bool, Any]


def recognises(content: Content) -> bool:
    """Whether the file is an object with a list of benchmarks that hold requests or metrics."""
    report = content.document
    if not isinstance(report, dict) or not isinstance(report.get("benchmarks"), list):
        return False
    metadata = report.get("metadata")
    named = isinstance(metadata, dict) and "guidellm_version" in metadata
    return named or any(
        isinstance(part, dict) and ("requests" in part or "metrics" in part) for part in report["benchmarks"]
    )


def read(name: str, content: Content) -> Raw:
    """The requests of all benchmarks; raises InputError for an unknown schema and for benchmarks that do not
    list all their requests.
    """
    report = content.document
    metadata = report.get("metadata")
    schema = metadata.get("version") if isinstance(metadata, dict) else None
    if metadata is not None and schema not in SCHEMAS:
        known = " or ".join(map(str, SCHEMAS))
        raise InputError(f"{content.path}: GuideLLM report of schema {schema!r}; expected {known}")
    entries = [
        entry
        for number, benchmark in enumerate(report["benchmarks"], start=1)
        for entry in _entries(content, number, benchmark)
    ]
    requests, rejects, failed = gather(name, content, enumerate(entries, start=1), _row)
    return requests, rejects, failed + sum(map(_unlisted, report["benchmarks"]))


def _entries(content: Content, number: int, benchmark: Any) -> Iterator[Entry]:
    """Each request of a benchmark, and whether it ended well."""
    where = f"{content.path}: benchmark {number}"
    requests = benchmark.get("requests") if isinstance(benchmark, dict) else None
    if not isinstance(requests, dict) or not isinstance(requests.get("successful"), list):
        raise InputError(f"{where} lists no requests.successful; {AGAIN}")
    for status in STATES:
        well, made = status == STATES[0], _total(benchmark, status)
        listed = requests.get(status)
        entries = listed if isinstance(listed, list) else []
        if well and made is not None and len(entries) < made:
            raise InputError(f"{where} lists {len(entries)} of {made} successful requests; {AGAIN}")
        yield from ((well, entry) for entry in entries)


def _unlisted(benchmark: dict[str, Any]) -> int:
    """How many failed requests the benchmark counts and does not list."""
    found = 0
    for status in STATES[1:]:
        listed = benchmark["requests"].get(status)
        found += max(0, (_total(benchmark, status) or 0) - len(listed if isinstance(listed, list) else []))
    return found


def _total(benchmark: dict[str, Any], status: str) -> int | None:
    """How many requests of a status the benchmark made, where it says so."""
    metrics = benchmark.get("metrics")
    totals = metrics.get("request_totals") if isinstance(metrics, dict) else None
    made = totals.get(status) if isinstance(totals, dict) else None
    return made if isinstance(made, int) and 0 <= made <= MOST_REQUESTS else None


def _row(entry: Entry) -> Row | None:
    well, request = entry
    if not well:
        return None
    prompt, output = float(request["prompt_tokens"]), float(request["output_tokens"])
    if "info" not in request:
        start, first, last = (
            float(request[key]) * 1e6 for key in ("start_time", "first_token_time", "last_token_time")
        )
        return Row(prompt, output, start, first, last)
    timings = request["info"]["timings"]
    start = timings["request_start"] if timings["request_start"] is not None else timings["resolve_start"]
    first, last = (
        optional(timings.get(f"{end}_token_iteration", timings.get(f"{end}_iteration"))) * 1e6
        for end in ("first", "last")
    )
    return Row(prompt, output, float(start) * 1e6, first, last, optional(request.get("cached_tokens")))
