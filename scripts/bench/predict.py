"""Rows a second of the shipped bundle, and what of it is XGBoost."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from bench.figures import Figure
from bench.timing import least_cpu_s
from h3 import bundle
from h3.bundle import golden
from h3.common.packaged import FOLDER

BATCHES, ROWS = 2000, 200_000


def measure(tiny: bool) -> Iterator[Figure]:
    """Random batches of random deployments, many at once and one by one."""
    read = bundle.read(FOLDER / "champion")
    generator = np.random.default_rng(1)
    places = golden.deployments(generator)
    count, rows = (20, 100) if tiny else (BATCHES, ROWS)
    few = golden.table_of(
        [(*next(places), golden.random_batch(generator)) for _ in range(count)], golden.CONFIGS
    )
    many = pd.concat([few] * (rows // count), ignore_index=True)
    one = few.iloc[:1]
    took = least_cpu_s(
        {"many": lambda: read.predict(many), "one": lambda: read.predict(one)}, 1 if tiny else 3
    )
    yield Figure("predict", f"{len(many):,} rows at once", len(many) / took["many"], "rows/s", True)
    yield Figure("predict", "one row", 1e3 * took["one"], "ms CPU")
