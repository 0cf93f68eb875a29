"""The step clock of request logs that go on for longer: 1, 4 and 16 times the requests of a built-in one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from bench.figures import Figure
from bench.timing import least_cpu_s
from h3.sources.requests.clock import Intervals, invert

REQUESTS, TIMES = 16_800, (1, 4, 16)
PERIOD_US, AT_ONCE, TOKENS = 15_000.0, 60, 200


def intervals(requests: int) -> Intervals:
    """Requests of a server whose period swings slowly, AT_ONCE at a time, of TOKENS tokens in the mean; in
    order, as ingest hands them over.
    """
    rng = np.random.default_rng(0)
    steps = requests * TOKENS // AT_ONCE + 2 * TOKENS
    swing = 1 + 0.3 * np.sin(np.arange(steps) / 3000)
    times_us = np.cumsum(PERIOD_US * swing)
    tokens = rng.integers(2, 2 * TOKENS, requests)
    first = rng.integers(0, steps - tokens)
    order = np.argsort(first)
    first, tokens = first[order], tokens[order]
    return Intervals(times_us[first], times_us[first + tokens], tokens.astype(float))


def measure(tiny: bool) -> Iterator[Figure]:
    """Seconds at each size, and the exponent of time against requests between the ends."""
    unit = REQUESTS // 50 if tiny else REQUESTS
    sizes = {f"{times}x": intervals(times * unit) for times in TIMES}
    took: dict[str, float] = {}
    for name, given in sizes.items():
        took |= least_cpu_s({name: lambda given=given: invert(given)}, 1 if tiny else 3)
        yield Figure("inversion", f"{name} ({len(given.steps):,} requests)", took[name], "s CPU")
    exponent = math.log(took["16x"] / took["1x"]) / math.log(16)
    yield Figure("inversion", "exponent of time against requests", exponent, "", target=1.05)
