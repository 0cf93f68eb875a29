"""Request logs of every kind that h3 reads, of one simulated server; the writers are those of the tests."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from bench_logs import NAMES, WRITERS, write_log
from builders import Server

PERIOD_US = 20_000.0


def server(requests: int) -> Server:
    """About so many requests of 20 to 400 tokens, some 60 at once."""
    periods_us = np.random.default_rng(0).normal(PERIOD_US, 500, max(500, requests * 210 // 60))
    return Server(periods_us).serve_at_random(requests, seed=1, tokens=(20, 400))


def write(root: Path, served: Server) -> dict[str, Path]:
    """Kind of log → its file, each in an experiment folder of its own."""
    logs = {form: write_log(root, form, writer(served)) / NAMES[form] for form, writer in WRITERS.items()}
    lifecycle = served.write_lifecycle(root / "inference-perf")
    logs["inference-perf"] = lifecycle / "per_request_lifecycle_metrics.json"
    logs["TraceV2 (CSV)"] = served.write_tracev2(root / "tracev2") / "data.csv"
    return logs
