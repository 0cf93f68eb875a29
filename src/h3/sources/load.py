"""The step table of a configured source: the one door from configuration to data.

    ingested = load(config.source)              # Ingested: table, rejects, record

A new source is a file with a function like these and a line in LOADERS (CONTRIBUTING.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from h3.common.config import SourceConfig
from h3.common.errors import InputError
from h3.sources import h100, logs, measured, simulated, stage_means
from h3.sources.experiment import Ingested
from h3.sources.requests import steps as requests
from h3.sources.requests.files import Logged
from h3.sources.traces import steps as traces
from h3.steps import catalog, hardware_file, partitions, schema

Progress = Callable[[str], None] | None
_read: dict[str, Ingested] = {}  # at most one: by the state of its source


def _steps(source: SourceConfig, progress: Progress = None) -> Ingested:
    if len(source.folders()) != 1 or not isinstance(source.path, str):
        raise InputError(
            f"source=steps: source.path={source.path!r}; expected one file or folder written by h3.ingest"
        )
    path = Path(source.path)
    table, record = partitions.read(path, source.most_rows) if path.is_dir() else schema.read(path)
    named = (("model", catalog.model_name), ("workload", catalog.workload_name))
    for column, name in named:  # tables of before, and of others
        table[column] = table[column].map({each: name(each) for each in table[column].unique()})
    return Ingested(table, schema.empty_rejects(), {"read_from": source.path, **record})


LOADERS: dict[str, Callable[[SourceConfig, Progress], Ingested]] = {
    "h100": h100.load,
    "h100_wide": stage_means.load_wide,
    "stage_means": stage_means.load,
    "simulated": simulated.load,
    "measured": measured.load,
    "traces": traces.load,
    "requests": requests.load,
    "logs": logs.load,
    "steps": _steps,
}

# Sources that can be read experiment by experiment.
PARTS: dict[str, Callable[[SourceConfig, Progress], Iterator[Ingested]]] = {
    "h100": h100.parts,
    "traces": traces.parts,
    "requests": requests.parts,
    "logs": logs.parts,
}

# Sources of requests as they were served: experiment name → what gives its setup and requests.
REQUEST_LOGS: dict[str, Callable[[SourceConfig], dict[str, Callable[[], Logged]]]] = {
    "h100": h100.request_logs,
    "h100_wide": h100.request_logs,
    "requests": requests.request_logs,
    "logs": logs.request_logs,
}


def load(source: SourceConfig, progress: Progress = None) -> Ingested:
    """The steps of a source; raises InputError where there are none to be had. A card that assume.hardware
    describes is known from then on, also to tables that hold its name only.
    """
    hardware_file.named(source.assume.hardware)
    return loader(source)(source, progress)


def load_once(source: SourceConfig, progress: Progress = None) -> Ingested:
    """The same; folds that run one after the other in a process share what was read, while configuration and
    files are as they were.
    """
    key = _state(source)
    if key not in _read:
        _read.clear()
        _read[key] = load(source, progress)
    return _read[key]


def _state(source: SourceConfig) -> str:
    """What a table follows from: configuration, working directory, and size and time of every file."""
    paths = [source.path] if isinstance(source.path, str) else source.path or []
    given = [Path(path) for path in (*paths, source.model_configs, source.assume.hardware) if path]
    found = sorted({file for path in given for file in (path, *path.glob("*"), *path.glob("*/*"))})
    files = [(str(file), status.st_size, status.st_mtime_ns) for file in found if (status := _status(file))]
    return f"{source.model_dump_json()} {Path.cwd()} {files}"


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def parts(source: SourceConfig, progress: Progress = None) -> Iterator[Ingested]:
    """The steps of a source experiment by experiment where it can be read so, else all at once; raises
    InputError as `load` does, on the way.
    """
    hardware_file.named(source.assume.hardware)
    whole = loader(source)
    if source.name in PARTS:
        yield from PARTS[source.name](source, progress)
    else:
        yield whole(source, progress)


def loader(source: SourceConfig) -> Callable[[SourceConfig, Progress], Ingested]:
    """What reads a source; raises InputError listing the names if there is none of its name."""
    if source.name not in LOADERS:
        raise InputError(f"source.name={source.name!r}; expected one of {', '.join(LOADERS)}")
    return LOADERS[source.name]


def holds_requests(source: SourceConfig) -> bool:
    """Whether the source has request logs."""
    return source.name in REQUEST_LOGS


def request_logs(source: SourceConfig) -> dict[str, Callable[[], Logged]]:
    """Experiment name → what reads its setup and requests; none where the source has no request logs."""
    found = REQUEST_LOGS.get(source.name)
    return found(source) if found else {}
