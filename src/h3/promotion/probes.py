"""Steps that a model which is to ship must answer sensibly: lines along which times may not fall, and random
models.

    lines()[0].steps                            # step table in growing order

>>> mine = random_deployment(np.random.default_rng(0))       # dense or MoE, TP 1-8
>>> 1e9 <= parameters(mine.architecture) <= 400e9
True
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import pandas as pd

from h3.bundle import golden
from h3.steps import batch, catalog, physics
from h3.steps.batch import Deployment
from h3.steps.catalog import Architecture

BATCHES = (1, 2, 3, 4, 6, 8, *range(12, 129, 4), *range(136, 257, 8))
CONTEXTS = tuple(int(value) for value in np.geomspace(64, 32768, 37))
PREFILLS = (0, 1, *(int(value) for value in np.geomspace(8, 8192, 41)))
HELD_BATCHES, HELD_CONTEXTS = (1, 16, 64, 128), (128, 1024, 8192)
HELD_BESIDE_PREFILL = ((0, 512), (32, 1024), (128, 2048))  # decoding requests, their context
PARAMETERS = (1e9, 400e9)


@dataclass(frozen=True)
class Line:
    """Steps in growing order along one axis (context, batch or prefill); `where`: configuration and what is
    held.
    """

    axis: str
    where: str
    steps: pd.DataFrame


@cache
def lines() -> tuple[Line, ...]:
    """Lines on zero-shot configurations (golden.CONFIGS: the four known models and others) at every degree
    that divides the heads, on H100 and A100.
    """
    return tuple(
        Line(axis, f"{named}, {held}", batch.with_deployment(composition, deployment))
        for named, deployment in _deployments()
        for axis, held, composition in _compositions()
    )


def _deployments() -> Iterator[tuple[str, Deployment]]:
    for name, config in golden.CONFIGS.items():
        arch = catalog.from_hf_config(config, name)
        for degree, hardware in product((1, 2, 4, 8), ("H100", "A100")):
            if arch.num_heads % degree == 0:
                yield f"{name} tp{degree} {hardware}", Deployment(arch, degree, hardware)


def _compositions() -> Iterator[tuple[str, str, pd.DataFrame]]:
    for size in HELD_BATCHES:
        yield "context", f"batch {size}", batch.uniform(size, np.array(CONTEXTS), 0)
    for context in HELD_CONTEXTS:
        yield "batch", f"context {context}", batch.uniform(np.array(BATCHES), context, 0)
    for size, context in HELD_BESIDE_PREFILL:
        steps = batch.uniform(size, context, np.array(PREFILLS))
        yield "prefill", f"batch {size} context {context}", steps


def random_deployment(generator: np.random.Generator) -> Deployment:
    """A random architecture of 1B to 400B parameters, every other one MoE, on 1, 2, 4 or 8 accelerators."""
    while True:
        arch = _random_architecture(generator)
        if PARAMETERS[0] <= parameters(arch) <= PARAMETERS[1]:
            degrees = [degree for degree in (1, 2, 4, 8) if arch.num_heads % degree == 0]
            degree, hardware = generator.choice(degrees), generator.choice(list(catalog.HARDWARE))
            return Deployment(arch, int(degree), str(hardware))


def _random_architecture(generator: np.random.Generator) -> Architecture:
    head_dim = int(generator.choice([64, 96, 128, 256]))
    heads = int(generator.choice([8, 12, 16, 28, 32, 40, 48, 64, 96, 128]))
    kv_heads = int(generator.choice([count for count in (1, 2, 4, 8, heads) if heads % count == 0]))
    hidden, layers = 64 * int(generator.integers(16, 257)), int(generator.integers(12, 127))
    ffn, moe = int(hidden * generator.uniform(1, 5)), bool(generator.integers(2))
    experts = int(generator.choice([2, 8, 16, 64, 128, 256])) if moe else 0
    dense_first = int(generator.integers(0, 4)) if moe else layers
    return Architecture(
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=int(generator.integers(16_000, 260_000)),
        dense_ffn_size=ffn if dense_first else 0,
        num_moe_layers=layers - dense_first,
        num_experts=experts,
        experts_per_token=int(generator.integers(1, min(9, experts + 1))) if moe else 0,
        expert_ffn_size=max(64, ffn // int(generator.choice([1, 4, 8, 16]))) if moe else 0,
        shared_ffn_size=int(generator.choice([0, ffn // 8])) if moe else 0,
        bytes_per_parameter=float(generator.choice([0.5, 1.0, 2.0])),
    )


def parameters(arch: Architecture) -> float:
    """Weights of a model: layers with all experts, LM head and embedding."""
    bytes_of = ("bytes_per_parameter", "attention_bytes_per_parameter", "head_bytes_per_parameter")
    table = batch.step_table(Deployment(arch, 1, "H100"), [[]]).assign(**dict.fromkeys(bytes_of, 1.0))
    everything = physics.weight_bytes(table.assign(experts_per_token=table["num_experts"]), np.ones(1))[0]
    return float(everything + arch.vocab_size * arch.hidden_size)
