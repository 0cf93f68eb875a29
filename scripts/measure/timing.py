"""How long a launch takes on the device: warm-up, then repeated runs with fresh inputs, each between two
device events.

    timing = measure(launch, refresh, torch.device("cuda"), Repeats(warmups=1, replays=6))
    timing.median_us, timing.p10_us, timing.p90_us
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

# A busy wait before each run lets the host queue all of the run's kernels first, so that gaps of the host are
# not timed.
WAIT_CYCLES_S = 2.0e9
WAIT_MARGIN = 1.3
MOST_HOST_S = 0.05  # a warm-up that took the host longer compiled something: it is run again


@dataclass(frozen=True)
class Repeats:
    """Runs before timing, and timed runs."""

    warmups: int = 1
    replays: int = 6


@dataclass(frozen=True)
class Timing:
    """Median, tenth and ninetieth percentile of the timed runs, us."""

    median_us: float
    p10_us: float
    p90_us: float
    replays: int

    @property
    def spread(self) -> float:
        """(p90 - p10) / median."""
        return (self.p90_us - self.p10_us) / self.median_us


def measure(
    launch: Callable[[], object], refresh: Callable[[], None], device: torch.device, repeats: Repeats
) -> Timing:
    """Time `launch`; `refresh` puts new inputs in place before each run and is not timed."""
    times_us = (
        _device_us(launch, refresh, repeats) if device.type == "cuda" else _host_us(launch, refresh, repeats)
    )
    p10, median, p90 = np.percentile(times_us, [10, 50, 90])
    return Timing(float(median), float(p10), float(p90), len(times_us))


def _device_us(launch: Callable[[], object], refresh: Callable[[], None], repeats: Repeats) -> list[float]:
    hosts_s = [_queue_s(launch, refresh) for _ in range(max(1, repeats.warmups))]
    if min(hosts_s) > MOST_HOST_S:
        hosts_s.append(_queue_s(launch, refresh))
    wait_cycles = int(min([*hosts_s, MOST_HOST_S]) * WAIT_MARGIN * WAIT_CYCLES_S)
    events = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in range(repeats.replays)
    ]
    for begin, end in events:
        refresh()
        torch.cuda._sleep(wait_cycles)
        begin.record()
        launch()
        end.record()
    torch.cuda.synchronize()
    return [1e3 * begin.elapsed_time(end) for begin, end in events]


def _queue_s(launch: Callable[[], object], refresh: Callable[[], None]) -> float:
    """Seconds that the host needs to queue one run."""
    refresh()
    torch.cuda.synchronize()
    start = time.perf_counter()
    launch()
    return time.perf_counter() - start


def _host_us(launch: Callable[[], object], refresh: Callable[[], None], repeats: Repeats) -> list[float]:
    times_us = []
    for number in range(repeats.warmups + repeats.replays):
        refresh()
        start = time.perf_counter()
        launch()
        if number >= repeats.warmups:
            times_us.append(1e6 * (time.perf_counter() - start))
    return times_us
