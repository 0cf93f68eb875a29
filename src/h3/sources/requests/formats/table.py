"""The formats, and which of them a file is.

content = load(path)
recognise(content).read("20260217-...", content)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from h3.common.bounded import Bounds
from h3.common.errors import InputError
from h3.sources.requests.formats import aiperf, genai_perf, guidellm, inference_perf, vllm_bench
from h3.sources.requests.formats.content import Content, load
from h3.sources.requests.formats.raw import Raw


@dataclass(frozen=True)
class Format:
    """A format: its name in words, whether a file is one, and its reader (experiment, content → Raw)."""

    title: str
    recognises: Callable[[Content], bool]
    read: Callable[[str, Content], Raw]


FORMATS = tuple(
    Format(module.TITLE, module.recognises, module.read)
    for module in (vllm_bench, guidellm, genai_perf, aiperf, inference_perf)
)
KNOWN = ", ".join(form.title for form in FORMATS)


def recognise(content: Content) -> Format:
    """The format of a file; raises InputError that lists the known ones if it is none of them."""
    found = _format(content)
    if found is None:
        raise InputError(f"{content.path}: a JSON file of no known format; expected one of {KNOWN}")
    return found


def only_log(paths: Iterable[Path], bounds: Bounds) -> Path:
    """The one file among several that is a log; raises InputError if none or more than one is."""
    found, others = [], []
    for path in paths:
        try:
            form = _format(load(path, bounds))
        except InputError:
            form = None
        if form is None:
            others.append(path)
        else:
            found.append((path, form.title))
    if len(found) == 1:
        return found[0][0]
    if not found:
        names = ", ".join(path.name for path in others)
        raise InputError(f"{others[0].parent}: no log among {names}; expected one of {KNOWN}")
    names = " and ".join(f"{path.name} ({title})" for path, title in found)
    raise InputError(
        f"{found[0][0].parent}: {len(found)} logs, {names}; expected one in an experiment folder"
    )


def _format(content: Content) -> Format | None:
    return next((form for form in FORMATS if form.recognises(content)), None)
