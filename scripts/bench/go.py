"""Nanoseconds a step of the Go kernel: `go test -bench` in go/h3bundle."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure

GO = Path(__file__).parents[2] / "go"
LINE = re.compile(r"^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op", re.MULTILINE)


def measure(tiny: bool) -> Iterator[Figure]:
    """The fastest of the counts, for a batch of 128 requests; nothing, and a line, where Go is missing."""
    if shutil.which("go") is None:
        print("go: not installed, skipped", file=sys.stderr)
        return
    counts = ["-count", "1", "-benchtime", "10x"] if tiny else ["-count", "5", "-benchtime", "0.3s"]
    done = subprocess.run(
        ["go", "test", "-run", "^$", "-bench", "/step", *counts, "./h3bundle"],
        cwd=GO,
        check=True,
        capture_output=True,
        text=True,
    )
    yield from figures(done.stdout)


def figures(printed: str) -> list[Figure]:
    """What `go test -bench` printed, the least of the counts."""
    least: dict[str, float] = {}
    for name, ns in LINE.findall(printed):
        least[name] = min(least.get(name, float("inf")), float(ns))
    return [Figure("go", name.replace("_", " "), ns, "ns") for name, ns in least.items()]
