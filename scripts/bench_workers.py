"""How much two workers save of a sweep's wall time, and whether they find the same.

    python scripts/bench_workers.py                             # make train's folds, once
    python scripts/bench_workers.py --rounds 3 --workers 2 'fold=glob(lowo_*)' tune.trials=5

Each round sweeps serially and with workers, each in a new folder, and prints wall time, CPU seconds and the
ratio; results that differ by more than 1e-12 end it with status 1. On a machine with other work the
wall time says little: `at best` is what the CPU seconds of the longest worker would take on free cores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

FOLDS = "fold=glob([lomo_*,lowo_*])"
SAME = 1e-12
LOOK_S = 0.2


@dataclass(frozen=True)
class Sweep:
    """One sweep: wall seconds, CPU seconds by process (the command first), results by fold."""

    wall_s: float
    cpu_s: list[float]
    results: dict[str, dict]


def sweep(workers: int, overrides: list[str]) -> Sweep:
    """Run one sweep in a new folder; a failed one ends the benchmark."""
    launcher = ["hydra/launcher=laptop", f"hydra.launcher.n_jobs={workers}"] if workers > 1 else []
    with TemporaryDirectory(prefix="h3-bench-") as name:
        start = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "h3.train", "-m", *overrides, *launcher],
            cwd=name,
            env={**os.environ, "MLFLOW_TRACKING_URI": ""},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        cpu: dict[int, float] = {}
        watch = threading.Thread(target=watched, args=(process.pid, cpu))
        watch.start()
        _, err = process.communicate()
        watch.join()
        if process.returncode:
            sys.exit(err)
        wall = time.monotonic() - start
        found = [json.loads(path.read_text()) for path in Path(name).glob("multirun/*/*/*/result.json")]
    return Sweep(wall, list(cpu.values()), {each["fold"]: each for each in found})


def watched(pid: int, cpu: dict[int, float]) -> None:
    """Fill in the CPU seconds of a process and of its children, as long as it lives."""
    try:
        parent = psutil.Process(pid)
        while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            for each in (parent, *parent.children(recursive=True)):
                times = each.cpu_times()
                cpu[each.pid] = times.user + times.system
            time.sleep(LOOK_S)
    except psutil.NoSuchProcess:
        return


def differences(one: object, other: object, where: str = "") -> Iterator[str]:
    """Where two results differ by more than SAME; times and run ids may."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            if key not in ("seconds", "mlflow_run_id", "replay_seconds"):
                yield from differences(one.get(key), other.get(key), f"{where}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from differences(left, right, f"{where}.{number}")
    elif isinstance(one, float) and isinstance(other, float):
        if not math.isclose(one, other, rel_tol=SAME, abs_tol=SAME) and not (one != one and other != other):
            yield f"{where}: {one} and {other}"
    elif one != other:
        yield f"{where}: {one} and {other}"


def stages(swept: Sweep) -> str:
    """Seconds of each stage, summed over folds."""
    sums: dict[str, float] = {}
    for result in swept.results.values():
        for stage, seconds in result["seconds"].items():
            sums[stage] = sums.get(stage, 0.0) + seconds
    return ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in sums.items())


def folds(swept: Sweep) -> str:
    """Seconds of each fold."""
    return ", ".join(f"{name} {sum(each['seconds'].values()):.1f}" for name, each in swept.results.items())


def compared(workers: int, overrides: list[str]) -> bool:
    """One round: print both sweeps and their ratio; whether they found the same."""
    load = os.getloadavg()[0]
    serial, parallel = sweep(1, overrides), sweep(workers, overrides)
    alone, jobs = parallel.cpu_s[0], sorted(parallel.cpu_s[1:])[-workers:]
    at_best = sum(serial.cpu_s) / (alone + max(jobs))
    for name, swept in (("serial", serial), (f"{workers} workers", parallel)):
        shown = " + ".join(f"{seconds:.1f}" for seconds in swept.cpu_s if seconds > 0.5)
        print(
            f"{name}: {swept.wall_s:.1f} s, CPU {shown} s\n  stages: {stages(swept)}\n  folds: {folds(swept)}"
        )
    told = [
        line
        for fold in sorted(serial.results.keys() | parallel.results.keys())
        for line in differences(serial.results.get(fold), parallel.results.get(fold), fold)
    ]
    print(
        f"load {load:.1f} before, {os.getloadavg()[0]:.1f} after: {serial.wall_s / parallel.wall_s:.2f} times"
        f" as fast, at best {at_best:.2f}; {len(serial.results)} folds, {len(told)} differences"
    )
    print("".join(f"  {line}\n" for line in told[:20]), end="", flush=True)
    return not told


def main() -> None:
    """Print every round; status 1 if any found something else."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("overrides", nargs="*", default=[FOLDS])
    asked = parser.parse_args()
    same = [compared(asked.workers, asked.overrides or [FOLDS]) for _ in range(asked.rounds)]
    sys.exit(0 if all(same) else 1)


if __name__ == "__main__":
    main()
