"""Steps from request logs: the log is inverted into the step clock, and steps are laid on it.

    ingested = load(SourceConfig(name="requests", path="requests/"))

A step's period is the clock's; its decode requests and their KV tokens are exact on that clock. What a
request log does not tell (new prompt tokens after prefix caching) is decided from the log (caching), filled
by the assumption `prefill_tokens`, or null.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from h3.common.config import SourceConfig
from h3.common.errors import InputError
from h3.sources.experiment import (
    REQUEST_FILES,
    Experiment,
    Ingested,
    assumptions_record,
    combine,
    describe,
    find,
    required_log,
)
from h3.sources.requests import caching, files, plausible
from h3.sources.requests import clock as step_clock
from h3.steps import schema
from h3.steps.batch import attended

CHUNK_STEPS = 512
# Where a log has a time for every token, each such number of tokens gives the clock one more interval.
TOKENS_PER_INTERVAL = 8


def load(source: SourceConfig, progress: Callable[[str], None] | None = None) -> Ingested:
    """All request-log experiments below the source's folders.

    Experiments with more failed requests than `max_failed_ratio` are left out and listed in
    record["left_out"]. Raises InputError if nothing usable is left.
    """
    ingested = combine(parts(source, progress))
    if ingested.table.empty:
        reasons = "; ".join(
            f"{entry['experiment']}: {entry['reason']}" for entry in ingested.record.get("left_out", [])
        )
        raise InputError(
            f"{source.path}: no step in any experiment ({reasons or 'no request with two output tokens'})"
        )
    return ingested


def parts(source: SourceConfig, progress: Callable[[str], None] | None = None) -> Iterator[Ingested]:
    """The same experiment by experiment, so that one is in memory at a time."""
    for name, read in request_logs(source).items():
        if progress:
            progress(name)
        yield from_log(*read(), source)


def request_logs(source: SourceConfig) -> dict[str, Callable[[], files.Logged]]:
    """Experiment name → what reads its setup and its requests, below the source's folders."""
    folders = find(source.folders(), REQUEST_FILES)
    return {folder.name: partial(read_experiment, folder, source) for folder in folders}


def read_experiment(folder: Path, source: SourceConfig) -> files.Logged:
    """Setup and requests of one experiment folder."""
    experiment = describe(folder, source)
    path = required_log(folder, REQUEST_FILES, source.bounds)
    log = files.read(experiment.name, path, experiment.block_size_tokens, source.bounds)
    return experiment, plausible.checked(experiment, log)


def from_log(experiment: Experiment, log: files.RequestLog, source: SourceConfig) -> Ingested:
    """The steps of one experiment; an empty table, with the reason in record["left_out"], where it has none
    to give.
    """
    record = {
        **assumptions_record(source),
        "left_out": [],
        "experiments": {
            experiment.name: {
                "log": "requests",
                "requests": log.total,
                "failed": log.failed,
                "rejected": len(log.rejects),
                "sampling": experiment.sampling.told(),
            }
        },
    }
    decoding = log.requests[log.requests["output_tokens"] > 1]
    reason = _unusable(log, decoding, source)
    if reason:
        record["left_out"].append({"experiment": experiment.name, "reason": reason})
        return Ingested(schema.empty(), log.rejects, record)
    inversion = step_clock.invert(_intervals(decoding))
    prefill = caching.decide(log.requests, experiment, source.assume)
    new = new_prompt_tokens(log.requests, prefill, experiment)
    table, unresolved = _steps(experiment, log.requests, inversion, new, source.sample_every)
    record["experiments"][experiment.name] |= {
        "prefill": prefill.record(),
        "steps": len(table),
        "unresolved_steps": unresolved,
        "off_clock_intervals": int((~inversion.used).sum()),
        "clock_residual_ratio": float(np.sqrt(np.mean(inversion.residual_ratio[inversion.used] ** 2))),
    }
    return Ingested(table, log.rejects, record)


def _unusable(log: files.RequestLog, decoding: pd.DataFrame, source: SourceConfig) -> str:
    if log.total == 0:
        return "the log holds no request"
    if log.failed / log.total > source.max_failed_ratio:
        return (
            f"{log.failed} of {log.total} requests failed, more than"
            f" max_failed_ratio={source.max_failed_ratio:g}"
        )
    if log.impossible or len(decoding):
        return log.impossible
    counts = ", ".join(f"{reason} {count}" for reason, count in log.rejects.groupby("reason").size().items())
    return f"no usable request with two or more output tokens (rejected: {counts or 'none'})"


def _intervals(decoding: pd.DataFrame) -> step_clock.Intervals:
    """Per request the interval from its first token to its last, and to every eighth where tokens have
    times.
    """
    start, end, steps = (
        [decoding["first_us"].to_numpy()],
        [decoding["last_us"].to_numpy()],
        [decoding["output_tokens"].to_numpy() - 1],
    )
    for times in decoding["token_times_us"].dropna():
        index = np.arange(TOKENS_PER_INTERVAL, len(times) - 1, TOKENS_PER_INTERVAL)
        index = index[times[index] > times[0]]
        start.append(np.full(len(index), times[0]))
        end.append(times[index])
        steps.append(index.astype(float))
    found = step_clock.Intervals(np.concatenate(start), np.concatenate(end), np.concatenate(steps))
    # Neighbours in time as neighbours in memory: else time grows faster than requests.
    return found.where(np.argsort(found.start_us, kind="stable"))


def _steps(
    experiment: Experiment,
    requests: pd.DataFrame,
    inversion: step_clock.Inversion,
    new: np.ndarray,
    every: int,
) -> tuple[pd.DataFrame, int]:
    """Sampled steps with their composition, and how many were dropped because the clock stands still
    there.
    """
    clock = inversion.clock
    numbers = np.arange(zlib.crc32(experiment.name.encode()) % every, int(clock.steps[-1]), every)
    low, high, period = clock.window_at(numbers.astype(float))
    resolved = ~np.isnan(period)
    numbers, low, high, period = numbers[resolved], low[resolved], high[resolved], period[resolved]
    composition = _composition(
        requests, inversion, numbers, (low, high), new, experiment.architecture.window_tokens
    )
    frame = composition.assign(
        **experiment.columns(),
        log="requests",
        clock=0,
        step_id=numbers,
        start_us=clock.time_us_at(numbers.astype(float)),
        period_us=period,
        gap_steps=np.maximum(1, np.rint(high - low)).astype("int64"),
    )
    decoding = composition["num_decode_reqs"].to_numpy() > 0
    return schema.check(frame[decoding].reset_index(drop=True), experiment.name), int((~resolved).sum())


def _composition(
    requests: pd.DataFrame,
    inversion: step_clock.Inversion,
    numbers: np.ndarray,
    window: tuple[np.ndarray, np.ndarray],
    new: np.ndarray,
    window_tokens: int,
) -> pd.DataFrame:
    """Requests of each step: decode requests at the step, prefills as the clock sees them in the window of
    its period.
    """
    first, last = (inversion.clock.steps_at(requests[name].to_numpy()) for name in ("first_us", "last_us"))
    prompt = requests["prompt_tokens"].to_numpy()
    order = np.argsort(first, kind="stable")
    decode = _decode(first[order], last[order], prompt[order], numbers, window_tokens)
    return pd.concat([decode, _prefill(inversion, requests, new, window, window_tokens)], axis=1)


def _decode(
    first: np.ndarray, last: np.ndarray, prompt: np.ndarray, numbers: np.ndarray, window_tokens: int
) -> pd.DataFrame:
    """Decode requests of each step and the KV tokens they attend to (prompt, output so far and the new
    token), in all layers and in those with a sliding window.
    """
    longest = float((last - first).max())
    out = np.zeros((len(numbers), 4))
    for begin in range(0, len(numbers), CHUNK_STEPS):
        centre = numbers[begin : begin + CHUNK_STEPS] + 0.5
        low, high = np.searchsorted(first, [centre[0] - longest - 1, centre[-1]])
        running = (first[low:high] < centre[:, None]) & (centre[:, None] < last[low:high])
        context = (prompt[low:high] + np.ceil(centre[:, None] - first[low:high])) * running
        out[begin : begin + CHUNK_STEPS] = np.stack(
            [
                running.sum(1),
                context.sum(1),
                context.max(1, initial=0),
                np.minimum(context, window_tokens).sum(1),
            ],
            axis=1,
        )
    count, total, longest_context, windowed = out.T
    with np.errstate(invalid="ignore"):
        mean = np.where(count > 0, total / count, 0.0)
    return pd.DataFrame(
        {
            "num_decode_reqs": count,
            "decode_tokens": count,
            "decode_kv_tokens_sum": total,
            "decode_kv_tokens_mean": mean,
            "decode_kv_tokens_max": longest_context,
            "decode_window_tokens_sum": windowed if window_tokens else np.nan,
        }
    )


def new_prompt_tokens(requests: pd.DataFrame, prefill: caching.Caching, experiment: Experiment) -> np.ndarray:
    """Prompt tokens that each request computes: recorded prefix hits first, else as decided, else NaN.

    Only full blocks are cached and the last prompt token is always computed (vLLM's prefix caching).
    """
    return requests["prompt_tokens"].to_numpy() - prefill.hits(requests, experiment)


def _prefill(
    inversion: step_clock.Inversion,
    requests: pd.DataFrame,
    new: np.ndarray,
    window: tuple[np.ndarray, np.ndarray],
    window_tokens: int,
) -> pd.DataFrame:
    """Prefill in a mean step of each window, averaged as the clock averages its period (Inversion.seen): a
    prompt counts where its request's first token falls; NaN where a prompt of the window is unknown.
    """
    first_us, done = requests["first_us"].to_numpy(), requests["prompt_tokens"].to_numpy() - new
    columns = {
        "num_prefill_reqs": np.ones(len(new)),
        "prefill_tokens": new,
        "prefill_kv_tokens_sum": done,
        "prefill_attended_tokens": attended(new, done),
    }
    if window_tokens:
        columns["prefill_window_attended_tokens"] = attended(new, done, window_tokens)
    seen = {
        name: inversion.clock.between(inversion.seen(first_us, np.nan_to_num(amounts)), window)
        for name, amounts in {**columns, "unknown": np.isnan(new).astype(float)}.items()
    }
    unknown = seen.pop("unknown") > 0
    steps = np.maximum(window[1] - window[0], 1e-9)
    table = pd.DataFrame({name: amounts / steps for name, amounts in seen.items()})
    table.loc[unknown, [name for name in columns if name != "num_prefill_reqs"]] = np.nan
    return table
