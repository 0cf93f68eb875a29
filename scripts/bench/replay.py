"""Steps a second of the scheduler, alone and with the shipped champion as its step time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench.figures import Figure
from bench.timing import least_cpu_s
from h3 import bundle
from h3.common.config import SourceConfig
from h3.common.packaged import FOLDER
from h3.latency.fold import find_recorded
from h3.latency.recorded import Recorded, limits
from h3.latency.timer import step_time
from h3.server import scheduler
from h3.server.requests import Requests, Run, StepBatch

EXPERIMENT = "codellama-34b-tp2-roleplay"


def measure(tiny: bool) -> Iterator[Figure]:
    """One built-in log, request by request."""
    found = find_recorded(SourceConfig(name="h100"), None)
    recorded = next(make for name, make in found.items() if EXPERIMENT in name)()
    rows = recorded.requests.iloc[: 100 if tiny else None]
    longest = int((rows["prompt_tokens"] + rows["output_tokens"]).max())
    champion = bundle.read(FOLDER / "champion")
    timer = step_time(champion, recorded.experiment, limits(recorded.experiment), longest)
    ways = {"scheduler alone": _plain, "with the champion": timer.period_us}
    for name, period_us in ways.items():
        steps, seconds = _run(recorded, len(rows), period_us, 1 if tiny else 3)
        yield Figure("replay", f"{name} ({len(rows):,} requests)", steps / seconds, "steps/s", True)


def _plain(batch: StepBatch) -> float:
    return 10_000.0 + 50 * batch.num_decode_reqs


def _run(
    recorded: Recorded, requests: int, period_us: Callable[[StepBatch], float], repeats: int
) -> tuple[int, float]:
    """Steps made, and the least CPU seconds."""
    rows = recorded.requests.iloc[:requests]
    columns = ["arrival_us", "prompt_tokens", "output_tokens", "cached_tokens", "prefix_group"]
    given = Requests(*(rows[name].to_numpy() for name in columns))
    bounds = limits(recorded.experiment)
    runs: list[Run] = []
    took = least_cpu_s(
        {"run": lambda: runs.append(scheduler.simulate(given, bounds, period_us, iter(())))}, repeats
    )
    return runs[0].num_steps, took["run"]
