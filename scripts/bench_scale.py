"""What more data costs: time and peak memory of ingest and of one fold, by number of steps.

    python scripts/bench_scale.py 0.1 1 10 100 --out docs/scale_table.md

The logs are the packaged ones as TraceV2 files: at 0.1, 1 and 10 times 122,752 steps every 100th, 10th and
single step of one set of them, at 100 times every step of eleven sets, each under names of its own and times
stretched by up to 1 %. Each command is a process of its own, whose peak memory the kernel tells.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from h3.common.config import SourceConfig
from h3.sources import h100
from h3.sources.requests.files import TRACEV2_COLUMNS

ONE = 122_752
EVERY = {0.1: 100, 1.0: 10, 10.0: 1}
SETS = 11  # of a hundred times


@dataclass(frozen=True)
class Cost:
    """What a command took: seconds, and peak memory in MB."""

    seconds: float
    peak_mb: float


def write_logs(folder: Path, sets: int) -> None:
    """So many sets of the packaged logs below a folder, each with an exp-config.yaml."""
    for name, make in h100.request_logs(SourceConfig(name="h100")).items():
        experiment, log = make()
        table = log.requests
        for number in range(sets):
            own = folder / f"{20260301 + number}{name[8:]}"
            own.mkdir(parents=True)
            stretch = 1 + 0.01 * number / SETS
            rows = pd.DataFrame(dict.fromkeys(TRACEV2_COLUMNS, ""), index=table.index)
            rows = rows.assign(
                request_id=np.arange(len(table)),
                input_tokens=table["prompt_tokens"].astype("int64"),
                output_tokens=table["output_tokens"].astype("int64"),
                arrival_time_us=table["arrival_us"] * stretch,
                first_chunk_time_us=table["first_us"] * stretch,
                last_chunk_time_us=table["last_us"] * stretch,
                status="ok",
            )
            rows.to_csv(own / "data.csv", index=False)
            config = {
                "model": experiment.model,
                "tensor_parallelism": experiment.tensor_parallelism,
                "max_num_seqs": int(experiment.max_num_seqs),
                "max_num_batched_tokens": int(experiment.max_num_batched_tokens),
                "hardware": experiment.hardware,
            }
            (own / "exp-config.yaml").write_text(yaml.safe_dump(config))


def cost(folder: Path, *arguments: str) -> tuple[Cost, str]:
    """What `python -m h3.VERB ...` costs in a folder, and what it prints; raises RuntimeError if it fails."""
    start = time.monotonic()
    with (folder / "printed").open("w+") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", f"h3.{arguments[0]}", *arguments[1:]],
            cwd=folder,
            stdout=printed,
            stderr=printed,
            env={**os.environ, "MLFLOW_TRACKING_URI": ""},
        )
        _, status, usage = os.wait4(process.pid, 0)
        printed.seek(0)
        text = printed.read()
    if status:
        raise RuntimeError(f"{' '.join(arguments)}: {text[-1000:]}")
    return Cost(time.monotonic() - start, usage.ru_maxrss / 1024), text


def measured(size: float, root: Path) -> dict[str, object]:
    """The row of one size."""
    sets, every = (1, EVERY[size]) if size in EVERY else (SETS, 1)
    folder = root / f"{size:g}"
    folder.mkdir()
    write_logs(folder / "logs", sets)
    asked = ("source=requests", "source.path=logs", f"source.sample_every={every}", "out=steps")
    ingest, said = cost(folder, "ingest", *asked)
    rows = int(re.search(r"(\d+) steps of", said)[1])  # type: ignore[index]
    disk = sum(path.stat().st_size for path in (folder / "steps").glob("*.parquet"))
    fold, printed = cost(folder, "train", "source=steps", "source.path=steps", "fold=lowo_general")
    mape = re.search(r"\| lowo_general \| \S+ \| ([\d.]+) \|", printed)
    shutil.rmtree(folder)
    return {
        "times": f"{size:g}x",
        "steps": rows,
        "bytes a row on disk": disk / rows,
        "ingest, s": ingest.seconds,
        "ingest, peak MB": ingest.peak_mb,
        "one fold, s": fold.seconds,
        "one fold, peak MB": fold.peak_mb,
        "MAPE, %": mape[1] if mape else "",
    }


def exponent(rows: list[float], seconds: list[float]) -> float:
    """Least-squares slope of log time against log steps."""
    return float(np.polyfit(np.log(rows), np.log(seconds), 1)[0])


def main() -> None:
    """Measure each size and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", type=float, nargs="+", help=f"times {ONE}: 0.1, 1, 10 or 100")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="h3-scale-") as scratch:
        found = []
        for size in options.sizes:
            found.append(measured(size, Path(scratch)))
            print(found[-1], flush=True)
    lines = [f"| {' | '.join(found[0])} |", f"|{'---|' * len(found[0])}"]
    for row in found:
        cells = [f"{value:,.1f}" if isinstance(value, float) else f"{value}" for value in row.values()]
        lines.append(f"| {' | '.join(cells)} |")
    for name in ("ingest, s", "one fold, s"):
        if len(found) > 1:
            slope = exponent([float(row["steps"]) for row in found], [float(row[name]) for row in found])  # type: ignore[arg-type]
            lines.append(f"\n{name}: time grows with steps to the power {slope:.2f}")
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
