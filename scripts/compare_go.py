"""Do Go and Python agree on many random batches?

    python scripts/compare_go.py                               # 100,000 batches on the tests' bundle
    python scripts/compare_go.py --bundle dist/blis --batches 2000

Random deployments (h3/bundle/golden.py: ten architectures, TP 1-8, four accelerators) and batches of up to
128 requests go through h3eval and through h3. Reported: largest relative differences, and rows whose float32
margin differs. Ends with 1 if they do not agree. How fast both are: scripts/bench.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from h3 import bundle
from h3.bundle import golden

ROOT = Path(__file__).parents[1]
CHUNK = 10_000


def ask_go(program: Path, folder: Path, chosen: list, scratch: Path) -> list[dict]:
    """h3eval's answers."""
    with open(scratch / "cases.jsonl", "w") as file:
        for name, degree, hardware, requests in chosen:
            case = {
                "config": golden.CONFIGS[name],
                "tensor_parallelism": degree,
                "hardware": hardware,
                "truncated_sampling": name in golden.TRUNCATED,
                "requests": requests,
            }
            file.write(json.dumps(case) + "\n")
    done = subprocess.run(
        [program, "-bundle", folder, "-cases", scratch / "cases.jsonl"],
        check=True,
        capture_output=True,
        text=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(answers: list[dict], expected: pd.DataFrame, names: list[str]) -> dict[str, float]:
    """Largest relative differences of features and us, and rows whose margin differs."""
    features = np.array([answer["features"] for answer in answers])
    us = np.array([answer["us"] for answer in answers])
    margin = np.array([answer["margin"] for answer in answers], np.float32)
    return {
        "features": float(golden.relative(features, expected[names].to_numpy(float)).max()),
        "us": float(golden.relative(us, expected["us"].to_numpy()).max()),
        "margins_off": int((margin != expected["margin"].to_numpy()).sum()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=ROOT / "go" / "h3bundle" / "testdata" / "bundle")
    parser.add_argument("--batches", type=int, default=100_000)
    options = parser.parse_args()
    read = bundle.read(options.bundle)
    names = [feature.name for feature in read.manifest.features]
    generator = np.random.default_rng(1)
    places, worst = golden.deployments(generator), {"features": 0.0, "us": 0.0, "margins_off": 0}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "h3eval"
        subprocess.run(["go", "build", "-o", program, "./cmd/h3eval"], cwd=ROOT / "go", check=True)
        for start in range(0, options.batches, CHUNK):
            size = min(CHUNK, options.batches - start)
            chosen = [(*next(places), golden.random_batch(generator)) for _ in range(size)]
            expected = bundle.predict(read.fitted_by_route(), golden.table_of(chosen, golden.CONFIGS))
            found = compare(ask_go(program, options.bundle.resolve(), chosen, Path(folder)), expected, names)
            worst = {
                name: worst[name] + found[name] if name == "margins_off" else max(worst[name], found[name])
                for name in worst
            }
            print(f"{start + size} batches: {worst}", flush=True)
    return int(worst["features"] > 1e-6 or worst["us"] > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
