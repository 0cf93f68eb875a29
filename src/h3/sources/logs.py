"""Traces and request logs together: each experiment folder is read by what it holds.

    ingested = load(SourceConfig(name="logs", path=["traces/", "requests/"]))

An experiment that is there in both forms is read from its trace, whose periods and batches are measured
rather than recovered; the record says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from h3.common.config import SourceConfig
from h3.common.errors import InputError
from h3.sources.experiment import (
    REQUEST_FILES,
    TRACE_FILES,
    Ingested,
    combine,
    describe,
    find,
    log_file,
)
from h3.sources.requests import steps as requests
from h3.sources.requests.files import Logged
from h3.sources.traces import steps as traces
from h3.steps import schema


def load(source: SourceConfig, progress: Callable[[str], None] | None = None) -> Ingested:
    """All experiments below the source's folders, whatever their log; raises InputError as the single sources
    do.
    """
    ingested = combine(parts(source, progress))
    if ingested.table.empty:
        why = "".join(f" ({entry['reason']})" for entry in ingested.record.get("left_out", [])[:1])
        raise InputError(f"{source.path}: no step in any experiment{why}; expected at least one usable log")
    return ingested


def parts(source: SourceConfig, progress: Callable[[str], None] | None = None) -> Iterator[Ingested]:
    """The same experiment by experiment; last, a part without steps where some are there in both forms."""
    read, twice = set(), []
    for folder in _by_form(source.folders()):
        if folder.name in read:
            twice.append({"experiment": folder.name, "reason": f"{folder}: read from its trace instead"})
            continue
        read.add(folder.name)
        if progress:
            progress(folder.name)
        if log_file(folder, TRACE_FILES):
            yield traces.load_experiment(describe(folder, source), source)
        else:
            yield requests.from_log(*requests.read_experiment(folder, source), source)
    if twice:
        yield Ingested(schema.empty(), schema.empty_rejects(), {"left_out": twice})


def request_logs(source: SourceConfig) -> dict[str, Callable[[], Logged]]:
    """Experiment name → what reads its setup and requests; some of the folders may hold traces only."""
    folders = [folder for folder in _by_form(source.folders()) if log_file(folder, REQUEST_FILES)]
    return {folder.name: partial(requests.read_experiment, folder, source) for folder in folders}


def _by_form(roots: list[str]) -> list[Path]:
    """Folders with traces first, then those with request logs; the same name twice in one form is an
    error.
    """
    found: dict[tuple[str, ...], list[Path]] = {TRACE_FILES: [], REQUEST_FILES: []}
    for root in roots:
        for folder in find(root, TRACE_FILES + REQUEST_FILES):
            form = TRACE_FILES if log_file(folder, TRACE_FILES) else REQUEST_FILES
            same = [other for other in found[form] if other.name == folder.name]
            if same:
                raise InputError(
                    f"{folder}: experiment {folder.name!r} is there twice, also as {same[0]}; expected one"
                )
            found[form].append(folder)
    return found[TRACE_FILES] + found[REQUEST_FILES]
