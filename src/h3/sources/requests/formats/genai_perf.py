"""genai-perf's `profile_export.json`, written by perf_analyzer: each request with its responses, times in ns.

Responses of an OpenAI-compatible server are its events as text. The log has no token counts of its own: they
are those of the server's usage, which it sends where the request asks for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from h3.common.errors import InputError
from h3.sources.requests.formats.content import Content
from h3.sources.requests.formats.raw import Raw, Row, exact, gather, optional

TITLE = "genai-perf (profile_export.json)"
AGAIN = 'run again with --extra-inputs \'{"stream_options": {"include_usage": true}}\''
USAGE = re.compile(r'"usage":\s*\{')
EVENT = "data:"
END = "[DONE]"


def recognises(content: Content) -> bool:
    """Whether the file is an object with a list of experiments."""
    return isinstance(content.document, dict) and isinstance(content.document.get("experiments"), list)


def read(name: str, content: Content) -> Raw:
    """The requests of all experiments.

    Raises InputError for another server than an OpenAI-compatible one, experiments of another shape, and
    where no response has a usage.
    """
    document = content.document
    kind = document.get("service_kind")
    if kind != "openai":
        raise InputError(
            f"{content.path}: service_kind={kind!r} (perf_analyzer {document.get('version')!r});"
            " expected 'openai'"
        )
    entries = list(_requests(content))
    if entries and not any(USAGE.search(str(output)) for entry in entries for output in _outputs(entry)):
        raise InputError(f"{content.path}: no usage in any response, so token counts are unknown; {AGAIN}")
    return gather(name, content, enumerate(entries, start=1), _row)


def _requests(content: Content) -> Iterator[Any]:
    for number, experiment in enumerate(content.document["experiments"], start=1):
        requests = experiment.get("requests") if isinstance(experiment, dict) else None
        if not isinstance(requests, list):
            raise InputError(
                f"{content.path}: experiment {number} lists no requests"
                f" (perf_analyzer {content.document.get('version')!r}); expected timestamp,"
                " response_timestamps and response_outputs of each"
            )
        yield from requests


def _outputs(entry: Any) -> list[Any]:
    outputs = entry.get("response_outputs") if isinstance(entry, dict) else None
    return outputs if isinstance(outputs, list) else []


def _row(entry: Any) -> Row | None:
    times = [float(time) / 1e3 for time in entry["response_timestamps"]]
    texts = [output["response"] for output in entry["response_outputs"]]
    events = list(_events(times, texts))
    with_tokens = sorted({time for time, event in events if _has_token(event)})
    if not with_tokens or any(event.get("error") for _, event in events):
        return None
    usage: dict[str, Any] = next((event["usage"] for _, event in reversed(events) if event.get("usage")), {})
    tokens = float(usage["completion_tokens"])
    details = usage.get("prompt_tokens_details") or {}
    return Row(
        float(usage["prompt_tokens"]),
        tokens,
        float(entry["timestamp"]) / 1e3,
        with_tokens[0],
        with_tokens[-1],
        optional(details.get("cached_tokens")),
        exact(np.asarray(with_tokens), tokens),
    )


def _events(times: list[float], texts: list[str]) -> Iterator[tuple[float, dict[str, Any]]]:
    """The events with the time of the response that ended them: one may be spread over two responses."""
    tail, at = "", float("nan")
    for time, text in zip(times, texts, strict=True):
        if tail and text.startswith(EVENT):
            yield from _event(at, tail)
            tail = ""
        *lines, tail = (tail + text).split("\n")
        at = time
        for line in lines:
            yield from _event(time, line)
    yield from _event(at, tail)


def _event(time: float, line: str) -> Iterator[tuple[float, dict[str, Any]]]:
    """The event of a line, if it has one; raises ValueError for an event that is no JSON object."""
    data = line.removeprefix(EVENT).strip()
    if not data or data == END or line.startswith((":", "event:", "id:", "retry:")):
        return
    event = json.loads(data)
    if not isinstance(event, dict):
        raise ValueError(f"an event holds {type(event).__name__}; expected an object")
    yield time, event


def _has_token(event: dict[str, Any]) -> bool:
    """Whether an event brings a token: any with a choice, but the one that only opens a chat's answer."""
    for choice in event.get("choices") or []:
        delta = choice.get("delta") or {}
        spoken = {key for key, value in delta.items() if key != "role" and value}
        if choice.get("finish_reason") or spoken or "role" not in delta:
            return True
    return False
