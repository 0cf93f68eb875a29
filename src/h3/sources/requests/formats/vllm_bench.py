"""`vllm bench serve --save-result --save-detailed`: lists with a value a request, times in seconds.

A request's first token comes `ttft` after its start, each further chunk an entry of `itls` later. Where there
is a chunk a token, these are the times of all its tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from h3.common.errors import InputError
from h3.sources.requests.formats.content import Content
from h3.sources.requests.formats.raw import Raw, Row, exact, gather, numbers

TITLE = "vllm bench serve --save-detailed"
MARKS = {"model_id", "num_prompts", "duration", "completed"}
DETAILS = ("input_lens", "output_lens", "ttfts", "itls")
Entry = tuple[Any, Any, Any, Any, Any, Any]


def recognises(content: Content) -> bool:
    """Whether the file is a result of vllm bench serve, with or without details, or several one below the
    other.
    """
    first = content.values[0][1]
    return isinstance(first, dict) and first.keys() >= MARKS


def read(name: str, content: Content) -> Raw:
    """The requests of one run; raises InputError for a result without details or start times, and for several
    runs.
    """
    result = content.document
    if result is None:
        raise InputError(
            f"{content.path}: holds {len(content.values)} runs (--append-result);"
            " expected one, in an experiment folder of its own"
        )
    lists = _lists(content, result)
    return gather(name, content, enumerate(zip(*lists, strict=True), start=1), _row)


def _lists(content: Content, result: dict[str, Any]) -> list[list[Any]]:
    """The lists with a value a request, in the order of an Entry."""
    missing = [name for name in DETAILS if not isinstance(result.get(name), list)]
    if missing:
        raise InputError(
            f"{content.path}: no list {missing[0]}, so nothing on single requests;"
            " run vllm bench serve again with --save-detailed"
        )
    if not isinstance(result.get("start_times"), list):
        raise InputError(
            f"{content.path}: no list start_times, so it is unknown when requests arrived; run again with a"
            " vLLM that writes it (after January 2026, pull request 32667)"
        )
    lists = {name: result[name] for name in (*DETAILS, "start_times")}
    errors = result.get("errors")
    lists["errors"] = errors if isinstance(errors, list) else [""] * len(lists["ttfts"])
    sizes = {name: len(values) for name, values in lists.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(f"{content.path}: lists of {found} values; expected a value a request in each")
    return list(lists.values())


def _row(entry: Entry) -> Row | None:
    prompt, output, ttft, itls, start, error = entry
    if error or (not itls and not ttft):
        return None
    arrival = float(start) * 1e6
    offsets = np.concatenate([[0.0], np.cumsum(numbers(itls))]) + float(ttft)
    times, tokens = arrival + offsets * 1e6, float(output)
    return Row(float(prompt), tokens, arrival, times[0], times[-1], token_times_us=exact(times, tokens))
