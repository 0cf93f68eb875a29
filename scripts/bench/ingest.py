"""Logs to step tables, against `json.loads` of the same bytes and against merely reading them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from bench import request_logs, trace_log
from bench.figures import Figure
from bench.timing import least_cpu_s, read_bytes
from h3.common.config import SourceConfig
from h3.sources.requests import steps as requests
from h3.sources.traces import otlp
from h3.sources.traces import steps as traces


def measure(tiny: bool) -> Iterator[Figure]:
    """Each kind of log; ingest is everything from the folder to the checked step table."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        yield from _traces(trace_log.write(root / "trace", 1 if tiny else 60), 1 if tiny else 3)
        logs = request_logs.write(root / "requests", request_logs.server(60 if tiny else 3000))
        for kind, path in logs.items():
            yield from _requests(kind, path, 1 if tiny else 3)


def _traces(path: Path, repeats: int) -> Iterator[Figure]:
    source = SourceConfig(name="traces", path=str(path.parent))
    took = least_cpu_s(
        {
            "bytes": lambda: read_bytes(path),
            "json.loads": lambda: _json_lines(path),
            "read": lambda: [len(batch.rejects) for batch in otlp.read(path)],
            "ingest": lambda: traces.load(source),
        },
        repeats,
    )
    yield from _ratios("traces", path, took, "json.loads")


def _requests(kind: str, path: Path, repeats: int) -> Iterator[Figure]:
    source = SourceConfig(name="requests", path=str(path.parent))
    rival = "pandas.read_csv" if path.suffix == ".csv" else "json.loads"
    parse = {"pandas.read_csv": pd.read_csv, "json.loads": _json_lines if path.suffix == ".jsonl" else _json}
    took = least_cpu_s(
        {
            "bytes": lambda: read_bytes(path),
            rival: lambda: parse[rival](path),
            "read": lambda: requests.read_experiment(path.parent, source),
            "ingest": lambda: requests.load(source),
        },
        repeats,
    )
    yield from _ratios(kind, path, took, rival)


def _ratios(kind: str, path: Path, took: dict[str, float], rival: str) -> Iterator[Figure]:
    megabytes = path.stat().st_size / 1e6
    yield Figure("ingest", f"{kind}: ingest / {rival}", took["ingest"] / took[rival], "x")
    yield Figure("ingest", f"{kind}: reading records / {rival}", took["read"] / took[rival], "x")
    yield Figure("ingest", f"{kind}: ingest / reading bytes", took["ingest"] / max(took["bytes"], 1e-6), "x")
    yield Figure("ingest", f"{kind}: ingest", megabytes / took["ingest"], "MB/s", more_is_better=True)


def _json(path: Path) -> None:
    json.loads(path.read_bytes())


def _json_lines(path: Path) -> None:
    with path.open("rb") as file:
        for line in file:
            json.loads(line)
