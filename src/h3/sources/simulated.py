"""The built-in source: 16 simulated experiments, four models under four workloads, as the study ran them.

    ingested = load(SourceConfig(name="simulated"))                 # 122,752 sampled steps, log="simulated"
    quick = load(SourceConfig(name="simulated", scale=0.01))        # a hundredth of the time and of the steps

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
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from h3.common.config import SourceConfig
from h3.common.errors import InputError
from h3.server import requests as server_requests
from h3.server import scheduler
from h3.server.requests import Limits, Requests, StepBatch
from h3.sources import cost_model
from h3.sources.experiment import Experiment, Ingested
from h3.steps import catalog, schema
from h3.steps.sampling import Sampling

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


# Sampled steps of a whole simulation, evenly spaced over all steps: about one in ten.
TARGET_STEPS = 122_752


@dataclass(frozen=True)
class Cell:
    """One experiment of the simulation: its number, model by model, the model's name, and its workload."""

    number: int
    model: str
    workload: Workload

    @property
    def experiment(self) -> Experiment:
        """Its names, setup and architecture."""
        tp = MODELS[self.model]
        name = f"20260101-{self.number:06d}-{self.model}-tp{tp}-{self.workload.name}"
        return Experiment(
            name,
            Path(name),
            self.model,
            self.workload.name,
            "H100",
            tp,
            float(MAX_NUM_SEQS),
            float(MAX_NUM_BATCHED_TOKENS),
            float(BLOCK_SIZE_TOKENS),
            catalog.MODELS[self.model],
            Sampling(False, "the simulated server takes the likeliest token"),
        )

    @property
    def limits(self) -> Limits:
        """What bounds its batches."""
        return Limits(kv_blocks(self.experiment), MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS, BLOCK_SIZE_TOKENS)

    def generator(self, config: SourceConfig, stream: int) -> np.random.Generator:
        """Its random numbers: stream 0 arrivals, 1 noise of step times, 2 durations."""
        return np.random.default_rng([config.seed, self.number, stream])

    def requests(self, config: SourceConfig) -> Requests:
        """The requests that arrive."""
        return draw_requests(self.workload, config, self.generator(config, 0))

    def step_time(self, config: SourceConfig) -> Callable[[StepBatch], float]:
        """The period of a step in us, with noise."""
        model = cost_model.CostModel(catalog.MODELS[self.model], MODELS[self.model])
        noise = cost_model.Noise(self.generator(config, 1))
        return lambda batch: noise.period_us(model.mean_period_us(batch))

    def horizon_us(self, config: SourceConfig) -> float:
        """When the simulation ends."""
        return 1e6 * config.scale * (sum(seconds for _, seconds in self.workload.stages) + DRAIN_S)


def cells() -> dict[str, Cell]:
    """The experiments of the simulation by name."""
    pairs = [(model, workload) for model in MODELS for workload in WORKLOADS]
    made = [Cell(number, model, workload) for number, (model, workload) in enumerate(pairs)]
    return {cell.experiment.name: cell for cell in made}


def digest(config: SourceConfig) -> str:
    """First 16 hex digits of a sha256 over what determines the result: settings and the simulating code."""
    settings = config.model_dump(include={"seed", "prefix_caching", "scale"})
    sha = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for module in (catalog, server_requests, scheduler, cost_model, sys.modules[__name__]):
        sha.update(Path(str(module.__file__)).read_bytes())
    return sha.hexdigest()[:16]


def load(config: SourceConfig, progress: Callable[[str], None] | None = None) -> Ingested:
    """The simulated step table: the same rows for the same settings, whatever the number of workers.

    The sample is TARGET_STEPS x scale steps, evenly spaced over all steps of all experiments (about one in
    ten), with exact KV columns, gap_steps=1 and log="simulated". With a cache_dir the table is kept there
    under the config's digest.
    """
    path = (
        Path(config.cache_dir) / f"simulated-{digest(config)}.parquet"
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


def _simulate(config: SourceConfig, progress: Callable[[str], None] | None) -> Ingested:
    tables: list[pd.DataFrame] = []
    counts: dict[str, dict[str, int]] = {}
    for number, (table, counted) in enumerate(_run_all(config), start=1):
        name = table["experiment"].iloc[0]
        tables.append(table)
        counts[name] = counted
        if progress:
            progress(f"simulated {number} of {len(cells())}: {name}, {counted['steps']} steps")
    table = _sample(pd.concat(tables, ignore_index=True), round(TARGET_STEPS * config.scale))
    for name, rows in table["experiment"].value_counts().items():
        counts[str(name)]["sampled_steps"] = int(rows)
    record: dict[str, Any] = {
        "experiments": counts,
        "seed": config.seed,
        "scale": config.scale,
        "prefix_caching": config.prefix_caching,
        "steps_per_sample": sum(entry["steps"] for entry in counts.values()) / len(table),
        "cost_model": cost_model.VERSION,
        "simulation_digest": digest(config),
    }
    return Ingested(schema.check(table, "simulated steps"), schema.empty_rejects(), record)


def _run_all(config: SourceConfig) -> Iterator[tuple[pd.DataFrame, dict[str, int]]]:
    """Every experiment in order, in this process or in several."""
    # joblib runs them in this process where it is itself called from one of its workers, as in a parallel
    # sweep.
    todo = list(cells().values())
    workers = min(config.workers or os.cpu_count() or 1, len(todo))
    yield from Parallel(n_jobs=workers, return_as="generator")(
        delayed(simulate_experiment)(config, cell) for cell in todo
    )


def _sample(table: pd.DataFrame, target: int) -> pd.DataFrame:
    """`target` rows at even distances (all rows where there are fewer)."""
    kept = min(target, len(table))
    rows = ((np.arange(kept) + 0.5) * len(table) / kept).astype(int)
    return table.iloc[rows].reset_index(drop=True)


def simulate_experiment(config: SourceConfig, cell: Cell) -> tuple[pd.DataFrame, dict[str, int]]:
    """One experiment: every RECORD_STRIDE-th step as a step table, and its counts."""
    requests, limits = cell.requests(config), cell.limits
    recorded = count(0, RECORD_STRIDE)
    run = scheduler.simulate(requests, limits, cell.step_time(config), recorded, cell.horizon_us(config))
    record = {
        "requests": len(requests.arrival_us),
        "finished": int(np.isfinite(run.finish_us).sum()),
        "unfinished": run.num_unfinished,
        "rejected": int(run.rejected.sum()),
        "preemptions": int(run.preemptions.sum()),
        "steps": run.num_steps,
        "kv_blocks": limits.kv_blocks,
    }
    return _table(cell.experiment, run.steps, limits, cell.generator(config, 2)), record


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


def draw_requests(workload: Workload, config: SourceConfig, generator: np.random.Generator) -> Requests:
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
