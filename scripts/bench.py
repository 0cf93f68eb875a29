"""What does h3 cost, in ratios within one run, and what did it cost the last time?

    make bench                                       # all stages: at most 10 minutes on two idle cores
    python scripts/bench.py inversion replay         # these stages alone
    python scripts/bench.py --document               # all stages, and the newest figures into docs/bench.md

Each stage is a process of its own, whose peak memory is one of its figures. The table is printed and saved in
.bench/ (last.json, table.md); the next run compares itself with it and marks what became more than 1.3 times
worse. Ends with 1 if a stage fails, else with 0: a target that is missed is told, not an error.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import figures, table
from bench.figures import Figure

ROOT = Path(__file__).parents[1]
STAGES = ("ingest", "inversion", "sweep", "replay", "predict", "compare", "go")
DOCUMENT = ROOT / "docs" / "bench.md"
TITLE = "# What h3 costs\n\n"
ABOUT = (
    "`make bench` on {machine}. Ratios are within one run, so that those of another machine can be compared."
    " `x` is a ratio, `≤` and `≥` a target. Peak memory is of the stage's process with its imports, or of the"
    " largest process that it starts. The stages are files of `scripts/bench/`; each runs alone with"
    " `python scripts/bench.py STAGE`.\n\n"
)


def machine() -> str:
    """Processor, cores and Python, in words."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores, Python {platform.python_version()}"


def in_own_process(stage: str, tiny: bool) -> list[Figure] | None:
    """The figures of a stage, its peak memory the last; None if it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "figures.json"
        command = [sys.executable, __file__, stage, "--result", str(result), *(["--tiny"] if tiny else [])]
        process = subprocess.Popen(command, stdout=sys.stderr)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            return None
        found = figures.load(json.loads(result.read_text()))
    unit = 1 if sys.platform == "darwin" else 1024
    peak = Figure(stage, "peak memory", used.ru_maxrss * unit / 1e6, "MB")
    return [*found, peak] if found else []


def run(stage: str, tiny: bool, result: Path) -> None:
    """One stage here; its figures into a file."""
    measured = importlib.import_module(f"bench.{stage}").measure(tiny)
    found = []
    for figure in measured:
        print(f"{stage}: {figure.name}: {table.number(figure)}", flush=True)
        found.append(figure)
    result.write_text(json.dumps(figures.dump(found)))


def measure(stages: list[str], tiny: bool) -> tuple[list[Figure], list[str]]:
    """The figures of stages, one after the other, and the stages that failed."""
    found, failed = [], []
    for stage in stages:
        start = time.monotonic()
        measured = in_own_process(stage, tiny)
        if measured is None:
            failed.append(stage)
        found += measured or []
        print(f"{stage}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return found, failed


def report(now: list[Figure], out: Path, document: bool) -> None:
    """Compare with the last run, print, save."""
    here = machine()
    there, last = figures.read(out / "last.json")
    text = table.markdown(now, last)
    print(f"\n{here}\n\n{text}")
    if there and there != here:
        print(f"the last run was on another machine ({there}): compare ratios only")
    for figure in table.flagged(now, last):
        print(f"worse than {table.WORSE:g} times: {figure.stage}: {figure.name}")
    newest = sorted(figures.merged(last, now), key=lambda figure: STAGES.index(figure.stage))
    figures.write(out / "last.json", here, newest)
    (out / "table.md").write_text(f"{here}\n\n{text}")
    if document:
        DOCUMENT.write_text(TITLE + ABOUT.format(machine=here) + table.markdown(newest))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="stage", help=f"of {', '.join(STAGES)}; default: all")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes: does it run; saved apart")
    parser.add_argument("--out", type=Path, default=ROOT / ".bench", help="where runs are saved")
    parser.add_argument("--document", action="store_true", help="write docs/bench.md")
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    out = options.out / "tiny" if options.tiny else options.out  # sizes that differ are not compared
    stages = options.stages or list(STAGES)
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        parser.error(f"no stage {unknown[0]}; there are {', '.join(STAGES)}")
    if options.result:
        run(stages[0], options.tiny, options.result)
        return 0
    now, failed = measure(stages, options.tiny)
    report(now, out, options.document)
    for stage in failed:
        print(f"{stage}: failed", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
