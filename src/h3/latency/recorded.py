"""What a replay needs of an experiment: its requests with what was measured of them, and the limits of its
server.

    recorded = from_log(experiment, assume)                        # from a request log
    recorded = from_simulation(SimulatedConfig(), cell=5)          # the simulated source, run once more
    recorded.requests, recorded.record

Requests: request, arrival_us, prompt_tokens, cached_tokens, prefix_group, output_tokens, first_us, last_us
(NaN: never).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from h3.common.errors import InputError
from h3.server import scheduler
from h3.server.requests import Limits, Requests
from h3.sources import simulated
from h3.sources.experiment import REQUEST_FILES, Assumptions, Experiment, log_file
from h3.sources.requests import files as request_logs
from h3.sources.requests.steps import new_prompt_tokens
from h3.steps import catalog, physics

# Requests alone in their prefix group share nothing.
NO_GROUP = -1


@dataclass(frozen=True)
class Recorded:
    """One experiment's requests as they were served, and what the record must say about them.

    record: prefix_hits (where they come from), logged (requests of the log), failed (of these),
    rejected_lines.
    """

    experiment: Experiment
    requests: pd.DataFrame
    record: dict


def from_log(experiment: Experiment, assume: Assumptions) -> Recorded:
    """The requests of a request log, sorted by arrival.

    Prefix hits are the log's where it records them, else by `assume.prefill_tokens` ("none" counts as
    computed in full). Requests with the same hits and, where whole prompts repeat, of the same length are
    taken to share their blocks. Failed requests left no length and no times: they are counted, not replayed.
    """
    log = request_logs.read(
        experiment.name, log_file(experiment.path, REQUEST_FILES), experiment.block_size_tokens
    )
    if log.requests.empty:
        raise InputError(
            f"{experiment.path}: no usable request to replay; expected at least one that ended with status ok"
        )
    columns = ["request", "arrival_us", "prompt_tokens", "output_tokens", "first_us", "last_us"]
    requests = log.requests[columns].astype({"prompt_tokens": "int64", "output_tokens": "int64"})
    known = replace(assume, prefill_tokens="uncached") if assume.prefill_tokens == "none" else assume
    recorded = log.requests["cached_tokens"].notna().to_numpy()
    cached = log.requests["prompt_tokens"].to_numpy() - new_prompt_tokens(log.requests, known, experiment)
    whole = ~recorded & (experiment.workload not in assume.shared_prefix_tokens)
    shared = pd.DataFrame({"cached": cached, "prompt": np.where(whole, requests["prompt_tokens"], 0)})
    group = np.where(cached > 0, shared.groupby(["cached", "prompt"]).ngroup(), NO_GROUP)
    requests = requests.assign(cached_tokens=cached.astype("int64"), prefix_group=group)
    record = {
        "prefix_hits": _origin(recorded, assume, experiment),
        "logged": log.total,
        "failed": log.failed,
        "rejected_lines": len(log.rejects),
    }
    return Recorded(
        experiment, requests.sort_values("arrival_us", kind="stable").reset_index(drop=True), record
    )


def _origin(recorded: np.ndarray, assume: Assumptions, experiment: Experiment) -> str:
    """Where the prefix hits come from, in words."""
    if recorded.all():
        return "recorded"
    tokens = assume.shared_prefix_tokens.get(experiment.workload)
    assumed = (
        f"shared_prefix_tokens={tokens}" if tokens is not None else f"prefill_tokens={assume.prefill_tokens}"
    )
    return (
        f"assumed: {assumed}"
        if not recorded.any()
        else f"recorded for {recorded.mean():.0%}, else assumed: {assumed}"
    )


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


def from_simulation(config: simulated.SimulatedConfig, cell: int) -> Recorded:
    """One experiment of the simulated source with its requests' times: the same requests and noise as its
    step table.
    """
    model, workload = (
        list(simulated.MODELS)[cell // len(config.workloads)],
        config.workloads[cell % len(config.workloads)],
    )
    experiment = simulated._experiment(cell, model, workload)
    arrivals, noise = (np.random.default_rng([config.seed, cell, stream]) for stream in range(2))
    drawn = simulated.draw_requests(workload, config, arrivals)
    hits = _Hits(drawn.cached_tokens, len(drawn.arrival_us))
    horizon_us = 1e6 * config.scale * (sum(seconds for _, seconds in workload.stages) + simulated.DRAIN_S)
    requests = Requests(drawn.arrival_us, drawn.prompt_tokens, drawn.output_tokens, hits, drawn.prefix_group)
    run = scheduler.simulate(
        requests, limits(experiment), simulated._step_time(experiment, noise), iter(()), horizon_us
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
    return Recorded(
        experiment, frame, {"prefix_hits": "recorded", "logged": len(frame), "failed": 0, "rejected_lines": 0}
    )


class _Hits:
    """Prefix hits as the simulation asks for them, kept: the tokens found cached at a request's first
    admission.
    """

    def __init__(self, cached: Callable[[int], int] | None, count: int) -> None:
        self.cached, self.tokens, self.asked = cached, np.zeros(count, np.int64), np.zeros(count, bool)

    def __call__(self, request: int) -> int:
        tokens = self.cached(request) if self.cached else 0
        if not self.asked[request]:
            self.tokens[request], self.asked[request] = tokens, True
        return tokens


def simulated_cells(config: simulated.SimulatedConfig) -> dict[str, int]:
    """Experiment name → its number in the simulated source."""
    cells = [(model, workload) for model in simulated.MODELS for workload in config.workloads]
    return {simulated._experiment(cell, *pair).name: cell for cell, pair in enumerate(cells)}
