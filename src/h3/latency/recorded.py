"""What a replay needs of an experiment: its requests with what was measured of them, and the limits of its
server.

    recorded = from_log(experiment, log, source.assume)            # from a request log
    recorded = from_simulation(source, cell)                       # the simulated source, run once more
    recorded.requests, recorded.failed

Requests: request, arrival_us, prompt_tokens, cached_tokens, prefix_group, output_tokens, first_us, last_us
(NaN: never).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from h3.common.config import Assumptions, SourceConfig
from h3.common.errors import InputError
from h3.server import scheduler
from h3.server.requests import Limits, Requests
from h3.sources import simulated
from h3.sources.experiment import Experiment
from h3.sources.requests import caching
from h3.sources.requests.files import RequestLog
from h3.sources.requests.steps import new_prompt_tokens
from h3.steps import catalog, physics

# Requests alone in their prefix group share nothing.
NO_GROUP = -1


@dataclass(frozen=True)
class Recorded:
    """One experiment's requests as they were served, and what a record must say about them.

    prefix_hits: where they come from, in words; logged: requests of the log; failed: how many of these.
    """

    experiment: Experiment
    requests: pd.DataFrame
    prefix_hits: str
    logged: int
    failed: int = 0
    rejected_lines: int = 0


def from_log(experiment: Experiment, log: RequestLog, assume: Assumptions) -> Recorded:
    """The requests of a request log, sorted by arrival.

    Prefix hits are the log's where it records them, else as the steps have them: by `assume.prefill_tokens`
    ("none" counts as computed in full) or decided from the log. Requests with the same hits and, where whole
    prompts repeat, of the same length are taken to share their blocks. Failed requests left no length and no
    times: they are counted, not replayed.
    """
    if log.impossible:
        raise InputError(f"{experiment.path}: {log.impossible}")
    if log.requests.empty:
        raise InputError(
            f"{experiment.path}: no usable request to replay; expected at least one that ended with status ok"
        )
    columns = ["request", "arrival_us", "prompt_tokens", "output_tokens", "first_us", "last_us"]
    requests = log.requests[columns].astype({"prompt_tokens": "int64", "output_tokens": "int64"})
    prefill = caching.decide(log.requests, experiment, _known(assume))
    recorded = log.requests["cached_tokens"].notna().to_numpy()
    cached = log.requests["prompt_tokens"].to_numpy() - new_prompt_tokens(log.requests, prefill, experiment)
    whole = ~recorded & (prefill.mode == "repeat")
    shared = pd.DataFrame({"cached": cached, "prompt": np.where(whole, requests["prompt_tokens"], 0)})
    group = np.where(cached > 0, shared.groupby(["cached", "prompt"]).ngroup(), NO_GROUP)
    requests = requests.assign(cached_tokens=cached.astype("int64"), prefix_group=group)
    ordered = requests.sort_values("arrival_us", kind="stable").reset_index(drop=True)
    origin = _origin(recorded, prefill)
    return Recorded(experiment, ordered, origin, log.total, log.failed, len(log.rejects))


def _known(assume: Assumptions) -> Assumptions:
    """The assumptions with something for every prompt: tokens that are not assumed to be cached are
    computed.
    """
    return (
        assume.model_copy(update={"prefill_tokens": "uncached"})
        if assume.prefill_tokens == "none"
        else assume
    )


def _origin(recorded: np.ndarray, prefill: caching.Caching) -> str:
    """Where the prefix hits come from, in words."""
    if recorded.any() and not recorded.all():
        return f"recorded for {recorded.mean():.0%}, else {prefill.sentence}"
    return prefill.sentence


def limits(experiment: Experiment) -> Limits:
    """The server's limits; the scheduler's defaults where the experiment's configuration names none."""
    block = int(experiment.block_size_tokens)
    budget = _or(experiment.max_num_batched_tokens, Limits.max_num_batched_tokens)
    return Limits(kv_blocks(experiment, block), max_num_seqs(experiment), budget, block)


def max_num_seqs(experiment: Experiment) -> int:
    """The server's limit of running requests; the scheduler's default where the experiment's configuration
    names none.
    """
    return _or(experiment.max_num_seqs, Limits.max_num_seqs)


def _or(value: float, usual: int) -> int:
    return usual if np.isnan(value) else int(value)


def kv_blocks(experiment: Experiment, block_size_tokens: int) -> int:
    """KV blocks of so many tokens: those of the simulated source's 80 GB server, plus what other memory adds.

    Raises InputError where the weights leave no room.
    """
    usual = catalog.hardware("H100").memory_bytes
    more_bytes = (
        (catalog.hardware(experiment.hardware).memory_bytes - usual) * simulated.SERVING_BYTES / usual
    )
    token_bytes = float(physics.kv_bytes_per_token(pd.DataFrame([experiment.columns()]))[0])
    tokens = simulated.kv_blocks(experiment) * simulated.BLOCK_SIZE_TOKENS + more_bytes / token_bytes
    if tokens < block_size_tokens:
        raise InputError(
            f"{experiment.name}: the weights of {experiment.model} on {experiment.tensor_parallelism} x"
            f" {experiment.hardware} leave no room for a KV cache; expected more memory or a higher"
            " tensor_parallelism"
        )
    return int(tokens // block_size_tokens)


def from_simulation(source: SourceConfig, cell: simulated.Cell) -> Recorded:
    """One experiment of the simulated source with its requests' times: the same requests and noise as its
    step table.
    """
    drawn = cell.requests(source)
    hits = _Hits(drawn.cached_tokens, len(drawn.arrival_us))
    requests = Requests(drawn.arrival_us, drawn.prompt_tokens, drawn.output_tokens, hits, drawn.prefix_group)
    run = scheduler.simulate(
        requests, limits(cell.experiment), cell.step_time(source), iter(()), cell.horizon_us(source)
    )
    frame = pd.DataFrame(
        {
            "request": np.arange(len(run.arrival_us)).astype(str),
            "arrival_us": run.arrival_us,
            "prompt_tokens": drawn.prompt_tokens,
            "cached_tokens": hits.tokens,
            "prefix_group": drawn.prefix_group,
            "output_tokens": drawn.output_tokens,
            "first_us": run.first_token_us,
            "last_us": run.finish_us,
        }
    )
    return Recorded(cell.experiment, frame, "recorded", len(frame))


class _Hits:
    """Prefix hits as the simulation asks for them, kept: the tokens found cached at a request's first
    admission.
    """

    def __init__(self, cached: np.ndarray | Callable[[int], int] | None, count: int) -> None:
        self.cached, self.tokens, self.asked = cached, np.zeros(count, np.int64), np.zeros(count, bool)

    def __call__(self, request: int) -> int:
        cached = self.cached
        tokens = 0 if cached is None else int(cached(request) if callable(cached) else cached[request])
        if not self.asked[request]:
            self.tokens[request], self.asked[request] = tokens, True
        return tokens
