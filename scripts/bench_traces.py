"""How fast, and in how much memory, traces are read.

    python scripts/bench_traces.py          # speed on a synthetic trace of 100 MB, memory on one of 1 GB
    python scripts/bench_traces.py --file runs/x/traces.json.gz      # speed on a trace at hand
    python scripts/bench_traces.py --speed-mb 20 --memory-mb 200

Speed: `json.loads` over every line of the file against h3, in turns in one process on one core, decompression
counted in both; CPU seconds, the least of the repeats. "events" is the reading of all step events into
columns, "ingest" everything from the folder to the checked step table. Memory: peak of a fresh process that
ingests the file, beside that of one that only imports h3 and the size of the table.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from h3.common.config import SourceConfig
from h3.sources.traces import otlp, steps

KEYS = (
    "step.id",
    "step.ts_start_ns",
    "step.ts_end_ns",
    "step.duration_us",
    "queue.running_depth",
    "queue.waiting_depth",
    "batch.num_prefill_reqs",
    "batch.num_decode_reqs",
    "batch.scheduled_tokens",
    "batch.prefill_tokens",
    "batch.decode_tokens",
    "batch.num_finished",
    "batch.num_preempted",
    "kv.blocks_total_gpu",
    "kv.blocks_free_gpu",
)
EVENT = (
    '{"timeUnixNano":"%d","name":"step.BATCH_SUMMARY","attributes":['
    + ",".join('{"key":"KEY","value":{"intValue":"%d"}}'.replace("KEY", key) for key in KEYS)
    + ',{"key":"kv.usage_gpu_ratio","value":{"doubleValue":%r}}]}'
)
LINE = (
    '{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"vllm"}}]},'
    '"scopeSpans":[{"scope":{"name":"vllm.scheduler"},"spans":[{"name":"scheduler_steps_%d","kind":1,'
    '"events":[%s]}]}]}]}\n'
)
CONFIG = (
    "model: meta-llama/Llama-2-70b-hf\ntensor_parallelism: 4\nmax_num_batched_tokens: 2048\nmax_num_seqs:"
    " 128\n"
)
EVENTS_PER_LINE = 100


def write_trace(folder: Path, megabytes: float) -> Path:
    """An experiment folder with an uncompressed trace of at least that size; returns the trace."""
    folder.mkdir(parents=True)
    (folder / "exp-config.yaml").write_text(CONFIG)
    rng, step, start, line = np.random.default_rng(0), 0, 20_000_000_000_000, 0
    path = folder / "traces.json"
    with path.open("w") as file:
        while file.tell() < megabytes * 1e6:
            numbers = rng.integers(
                [1, 300, 1, 0, 0, 5000], [20, 9000, 128, 4, 9, 31000], (EVENTS_PER_LINE, 6)
            ).tolist()
            events = []
            for gap, duration, decode, prefill, waiting, free in numbers:
                step, start = step + gap, start + gap * (16_000_000 + 40_000 * decode)
                end = start + 1000 * duration
                values = (
                    end,
                    step,
                    start,
                    end,
                    duration,
                    decode + prefill,
                    waiting,
                    prefill,
                    decode,
                    decode + 16 * prefill,
                    16 * prefill,
                )
                events.append(EVENT % (*values, decode, 0, 0, 31356, free, 1 - free / 31356))
            line += 1
            file.write(LINE % (line, ",".join(events)))
    return path


def json_loads(path: Path) -> None:
    """The rival: every line through json.loads, nothing kept."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for line in file:
            json.loads(line)


def fastest(action: Callable[[], object], others: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Least CPU seconds of two actions that take turns."""
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        action()
        middle = time.process_time()
        others()
        seconds.append((middle - began, time.process_time() - middle))
    first, second = zip(*seconds, strict=True)
    return min(first), min(second)


def speed(path: Path, repeats: int) -> None:
    """Print the ratios of one file."""
    for what, action in {
        "events": lambda: [len(batch.rejects) for batch in otlp.read(path)],
        "ingest": lambda: steps.load(SourceConfig(name="traces", path=str(path.parent))),
    }.items():
        rival, own = fastest(lambda: json_loads(path), action, repeats)
        size = path.stat().st_size / 1e6
        print(
            f"{path.parent.name}/{path.name} ({size:.1f} MB) {what}: json.loads {rival:.4f} s, h3 {own:.4f}"
            f" s, ratio {rival / own:.2f}"
        )


def memory(path: Path) -> None:
    """Print the peak memory of ingesting one file."""
    table_bytes, peak = map(int, _in_fresh_process(path))
    _, idle = map(int, _in_fresh_process(None))
    size = path.stat().st_size
    print(
        f"{size / 1e6:.0f} MB: peak {peak / 1e6:.0f} MB ({idle / 1e6:.0f} MB of it imports), table"
        f" {table_bytes / 1e6:.0f} MB"
    )


def _in_fresh_process(path: Path | None) -> list[str]:
    command = [sys.executable, __file__, "--measure", str(path) if path else ""]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def measure(folder: str) -> None:
    """In the fresh process: ingest, then print the table's bytes and the process's peak in bytes."""
    source = SourceConfig(name="traces", path=str(Path(folder).parent))
    table = steps.load(source).table.memory_usage().sum() if folder else 0
    unit = 1 if sys.platform == "darwin" else 1024
    print(table, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--file",
        type=Path,
        action="append",
        default=[],
        help="trace to read; its folder is an experiment folder",
    )
    parser.add_argument(
        "--speed-mb", type=float, default=100.0, help="size of the synthetic trace for speed (0: none)"
    )
    parser.add_argument(
        "--memory-mb", type=float, default=1000.0, help="size of the synthetic trace for memory (0: none)"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        measure(options.measure)
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for path in options.file:
        speed(path, options.repeats)
    with tempfile.TemporaryDirectory() as scratch:
        if options.speed_mb:
            speed(write_trace(Path(scratch) / "speed", options.speed_mb), options.repeats)
        if options.memory_mb:
            memory(write_trace(Path(scratch) / "memory", options.memory_mb))


if __name__ == "__main__":
    main()
