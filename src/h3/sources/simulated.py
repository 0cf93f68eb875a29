"""The built-in source: 16 simulated experiments, four models under four workloads, as the study ran them.

    ingested = load(SimulatedConfig(seed=0, cache_dir="cache"))      # 122,752 sampled steps, log="simulated"
    quick = load(SimulatedConfig(scale=0.01, workers=1))  # a hundredth of the time and of the steps

Requests arrive by a Poisson process and repeat a few prompts, h3's scheduler batches them, and the cost model
gives each step its time. An overloaded experiment (most of reasoning) ends DRAIN_S after its last arrival
with requests left over.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from h3.common.errors import InputError
from h3.server import requests as batching
from h3.server import scheduler
from h3.server.requests import Limits, Requests, StepBatch
from h3.sources import cost_model
from h3.sources.experiment import Experiment, Ingested
from h3.steps import catalog, schema

# The study's models with their tensor-parallel degree.
MODELS = {"llama-2-7b": 1, "llama-2-70b": 4, "codellama-34b": 2, "mixtral-8x7b-v0-1": 2}
MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS, BLOCK_SIZE_TOKENS = 128, 2048, 16
# Memory of an 80 GB H100 that weights and KV cache share: the study's 31,356 blocks of llama-2-70b on four
# GPUs.
SERVING_BYTES = 75.6e9
DRAIN_S = 300.0
# Spread of prompt lengths in the request logs, and how far they stray.
PROMPT_SIGMA_TOKENS, PROMPT_STRAY_TOKENS = 7.0, 20
# Steps kept while an experiment runs; the sample is thinned from them once the number of all steps is known.
RECORD_STRIDE = 4


@dataclass(frozen=True)
class Workload:
    """Arrivals in stages of (requests a second, seconds), mean prompt and output tokens, and how prompts
    repeat.

    There are system_prompts x users distinct prompts; those of one system prompt share their first
    system_tokens.
    """

    name: str
    stages: tuple[tuple[float, float], ...]
    prompt_tokens: int
    output_tokens: int
    system_prompts: int
    users: int
    system_tokens: int = 100


WORKLOADS = (
    Workload("general", ((8, 600), (20, 600)), 547, 248, 9, 5),
    Workload("codegen", ((5, 600), (10, 600)), 566, 247, 11, 4),
    Workload("roleplay", ((6, 1200),), 750, 251, 10, 5, system_tokens=150),
    Workload("reasoning", ((4, 1200),), 1034, 1448, 23, 1),
)


@dataclass(frozen=True)
class SimulatedConfig:
    """What to simulate; `workers` and `cache_dir` change nothing in the result.

    scale shortens every stage and the number of sampled steps alike. workers: processes (None: one a CPU
    core).
    """

    seed: int = 0
    prefix_caching: bool = True
    target_steps: int = 122_752
    scale: float = 1.0
    workloads: tuple[Workload, ...] = WORKLOADS
    cache_dir: str | Path | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("seed", self.seed >= 0, "a whole number of at least 0"),
            ("target_steps", self.target_steps >= 1, "at least 1"),
            ("scale", 0 < self.scale <= 1, "a number above 0, at most 1"),
            ("workers", self.workers is None or self.workers >= 1, "at least 1, or null"),
        ):
            if not valid:
                raise InputError(f"source.{name}={getattr(self, name)}; expected {expected}")

    def digest(self) -> str:
        """First 16 hex digits of a sha256 over what determines the result: these settings and the simulating
        code.
        """
        settings = {
            name: value for name, value in asdict(self).items() if name not in ("cache_dir", "workers")
        }
        sha = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for module in (catalog, batching, scheduler, cost_model, sys.modules[__name__]):
            sha.update(Path(module.__file__).read_bytes())
        return sha.hexdigest()[:16]


def load(config: SimulatedConfig, progress: Callable[[str], None] | None = None) -> Ingested:
    """The simulated step table: the same rows for the same settings, whatever the number of workers.

    The sample is target_steps x scale steps, evenly spaced over all steps of all experiments (about one in
    ten), with exact KV columns, gap_steps=1 and log="simulated". With a cache_dir the table is kept there
    under the config's digest.
    """
    path = (
        Path(config.cache_dir) / f"simulated-{config.digest()}.parquet"
        if config.cache_dir is not None
        else None
    )
    if path is not None and path.is_file():
        try:
            table, metadata = schema.read(path)
            return Ingested(table, schema.empty_rejects(), metadata["record"])
        except InputError as error:
            if progress:
                progress(f"{error}; simulating again")
    ingested = _simulate(config, progress)
    if path is not None:
        schema.write(
            ingested.table, ingested.rejects, path, {"source": "simulated", "record": ingested.record}
        )
    return ingested


def _simulate(config: SimulatedConfig, progress: Callable[[str], None] | None) -> Ingested:
    cells = [(model, workload) for model in MODELS for workload in config.workloads]
    tables, counts = [], {}
    for number, (table, record) in enumerate(_run_all(config, len(cells)), start=1):
        name = table["experiment"].iloc[0]
        tables.append(table)
        counts[name] = record
        if progress:
            progress(f"simulated {number} of {len(cells)}: {name}, {record['steps']} steps")
    table = _sample(pd.concat(tables, ignore_index=True), round(config.target_steps * config.scale))
    for name, rows in table["experiment"].value_counts().items():
        counts[name]["sampled_steps"] = int(rows)
    record = {
        "experiments": counts,
        "seed": config.seed,
        "scale": config.scale,
        "prefix_caching": config.prefix_caching,
        "steps_per_sample": sum(entry["steps"] for entry in counts.values()) / len(table),
        "cost_model": cost_model.VERSION,
        "simulation_digest": config.digest(),
    }
    return Ingested(schema.check(table, "simulated steps"), schema.empty_rejects(), record)


def _run_all(config: SimulatedConfig, cells: int) -> Iterator[tuple[pd.DataFrame, dict]]:
    """Every experiment in order, in this process or in several."""
    # joblib runs them in this process where it is itself called from one of its workers, as in a parallel
    # sweep.
    workers = min(config.workers or os.cpu_count() or 1, cells)
    yield from Parallel(n_jobs=workers, return_as="generator")(
        delayed(simulate_experiment)(config, cell) for cell in range(cells)
    )


def _sample(table: pd.DataFrame, target: int) -> pd.DataFrame:
    """`target` rows at even distances (all rows where there are fewer)."""
    kept = min(target, len(table))
    rows = ((np.arange(kept) + 0.5) * len(table) / kept).astype(int)
    return table.iloc[rows].reset_index(drop=True)


def simulate_experiment(config: SimulatedConfig, cell: int) -> tuple[pd.DataFrame, dict]:
    """One experiment, numbered model by model: every RECORD_STRIDE-th step as a step table, and its
    counts.
    """
    model = list(MODELS)[cell // len(config.workloads)]
    workload = config.workloads[cell % len(config.workloads)]
    experiment = _experiment(cell, model, workload)
    arrivals, noise, durations = (np.random.default_rng([config.seed, cell, stream]) for stream in range(3))
    requests = draw_requests(workload, config, arrivals)
    limits = Limits(kv_blocks(experiment), MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS, BLOCK_SIZE_TOKENS)
    step_time = _step_time(experiment, noise)
    horizon_us = 1e6 * config.scale * (sum(seconds for _, seconds in workload.stages) + DRAIN_S)
    run = scheduler.simulate(requests, limits, step_time, count(0, RECORD_STRIDE), horizon_us)
    record = {
        "requests": len(requests.arrival_us),
        "finished": int(np.isfinite(run.finish_us).sum()),
        "unfinished": run.num_unfinished,
        "rejected": int(run.rejected.sum()),
        "preemptions": int(run.preemptions.sum()),
        "steps": run.num_steps,
        "kv_blocks": limits.kv_blocks,
    }
    return _table(experiment, run.steps, limits, durations), record


def _experiment(cell: int, model: str, workload: Workload) -> Experiment:
    tp = MODELS[model]
    name = f"20260101-{cell:06d}-{model}-tp{tp}-{workload.name}"
    return Experiment(
        name,
        Path(name),
        model,
        workload.name,
        "H100",
        tp,
        float(MAX_NUM_SEQS),
        float(MAX_NUM_BATCHED_TOKENS),
        float(BLOCK_SIZE_TOKENS),
        catalog.MODELS[model],
    )


def _step_time(experiment: Experiment, generator: np.random.Generator) -> Callable[[StepBatch], float]:
    model = cost_model.CostModel(experiment.architecture, experiment.tensor_parallelism)
    noise = cost_model.Noise(generator)
    return lambda batch: noise.period_us(model.mean_period_us(batch))


def kv_blocks(experiment: Experiment) -> int:
    """Blocks of the KV cache: what the weights leave of a GPU's memory, over the bytes of a block on one
    rank.

    Where there are more ranks than KV heads each rank holds a whole head (physics.kv_heads_per_rank).
    """
    arch, tp = experiment.architecture, experiment.tensor_parallelism
    attention = arch.hidden_size * arch.head_dim * 2 * (arch.num_heads + arch.num_kv_heads)
    dense = (arch.num_layers - arch.num_moe_layers) * arch.dense_ffn_size
    experts = arch.num_moe_layers * (arch.num_experts * arch.expert_ffn_size + arch.shared_ffn_size)
    parameters = (
        arch.num_layers * attention
        + 3 * arch.hidden_size * (dense + experts)
        + 2 * arch.vocab_size * arch.hidden_size
    )
    token_bytes = 2 * 2 * arch.num_layers * max(1.0, arch.num_kv_heads / tp) * arch.head_dim
    return int(
        (SERVING_BYTES - parameters * arch.bytes_per_parameter / tp) // (token_bytes * BLOCK_SIZE_TOKENS)
    )


def draw_requests(workload: Workload, config: SimulatedConfig, generator: np.random.Generator) -> Requests:
    """The requests of one experiment: Poisson arrivals of a fixed number a stage, each with one of the
    repeated prompts.

    With prefix caching a prompt seen before is cached but for its last partial block, else its system prompt
    if seen.
    """
    arrivals, start_us = [], 0.0
    for rate, seconds in workload.stages:
        length_us = 1e6 * config.scale * seconds
        arrivals.append(
            start_us + np.sort(generator.uniform(0, length_us, round(rate * seconds * config.scale)))
        )
        start_us += length_us
    arrival_us = np.concatenate(arrivals)
    prompts = workload.system_prompts * workload.users
    stray = np.clip(
        generator.normal(0, PROMPT_SIGMA_TOKENS, prompts), -PROMPT_STRAY_TOKENS, PROMPT_STRAY_TOKENS
    )
    tokens = workload.prompt_tokens + np.round(stray - stray.mean()).astype(int)
    asked = generator.integers(prompts, size=len(arrival_us))
    cached = _PrefixCache(asked, tokens, workload) if config.prefix_caching else None
    return Requests(arrival_us, tokens[asked], np.full(len(asked), workload.output_tokens), cached, asked)


class _PrefixCache:
    """Prefix tokens that a request finds cached, by what was admitted before it."""

    def __init__(self, asked: np.ndarray, tokens: np.ndarray, workload: Workload) -> None:
        self.asked, self.tokens, self.workload = asked, tokens, workload
        self.prompts: set[int] = set()
        self.systems: set[int] = set()

    def __call__(self, request: int) -> int:
        prompt = int(self.asked[request])
        system = prompt // self.workload.users
        known, known_system = prompt in self.prompts, system in self.systems
        self.prompts.add(prompt)
        self.systems.add(system)
        return int(self.tokens[prompt]) if known else self.workload.system_tokens * known_system


def _table(
    experiment: Experiment, steps: dict[str, np.ndarray], limits: Limits, generator: np.random.Generator
) -> pd.DataFrame:
    decodes = steps["num_decode_reqs"]
    frame = pd.DataFrame(steps).assign(
        **experiment.columns(),
        log="simulated",
        clock=0,
        gap_steps=1,
        kv_blocks_total=limits.kv_blocks,
        kv_usage_ratio=1 - steps["kv_blocks_free"] / limits.kv_blocks,
        duration_us=cost_model.schedule_us(steps, generator),
        decode_kv_tokens_mean=steps["decode_kv_tokens_sum"] / np.maximum(decodes, 1),
    )
    return schema.check(frame, experiment.name)
