"""The model as coefficients that an unmodified BLIS reads: trained_physics_coefficients in its defaults.yaml.

    distilled = distil(bundle.predict, [Deployment(arch, 2, "H100")], bundle.overheads)
    print(as_yaml(distilled))

Non-negative regression of the model's own predictions over a grid of batches onto BLIS's terms (docs/blis.md), on relative
errors, every deployment weighing the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from h3 import batch, catalog, physics
from h3.batch import Deployment
from h3.bundle_manifest import Overheads
from h3.errors import InputError

BETA = (
    "prefill_compute", "decode_compute", "weights", "tp_communication", "us_per_layer", "us_per_request", "us_per_step",
    "us_per_moe_layer", "prefill_kv", "decode_kv", "moe_dispatch",
)
# Deployments of the four known models, as the study ran them.
KNOWN = {"llama-2-7b": 1, "llama-2-70b": 4, "codellama-34b": 2, "mixtral-8x7b-v0-1": 2}
MEMORY_SHARE = 0.9  # of the accelerator's memory may hold weights and KV cache, as vLLM's default
ROUNDS = 50  # of reweighting, from squared towards absolute errors


@dataclass(frozen=True)
class Grid:
    """Batches of the regression: decoding requests, their context, prefill chunk and tokens of its prompt before it.

    Every number of requests up to the largest weighs the same, those between two of the grid with their neighbours.
    decode_share: what steps without prefill weigh (of the built-in source's steps, 0.76 to 0.95 by experiment).
    """

    batch: tuple[int, ...] = (0, 1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 112, 128)
    context: tuple[int, ...] = (64, 256, 512, 1024, 2048, 4096)
    prefill: tuple[int, ...] = (0, 16, 64, 256, 512, 1024, 2048)
    before: tuple[int, ...] = (0, 1024)
    decode_share: float = 0.88


@dataclass(frozen=True)
class Distilled:
    """Coefficients, and MAPE in % against the model over the weighted grid: over all deployments and for each."""

    alpha: list[float]
    beta: list[float]
    mape: float
    by_deployment: dict[str, float]
    batches: int


def known_deployments(hardware: str = "H100") -> dict[str, Deployment]:
    """The four known models by name, on the study's tensor parallelism."""
    return {name: Deployment(catalog.MODELS[name], tp, hardware) for name, tp in KNOWN.items()}


def grid_table(deployment: Deployment, grid: Grid) -> pd.DataFrame:
    """Steps of the grid that hold work and fit into memory, as a step table with `prefill_before`."""
    axes = pd.MultiIndex.from_product([grid.batch, grid.context, grid.prefill, grid.before])
    decodes, context, prefill, before = (axes.get_level_values(level).to_numpy(float) for level in range(4))
    table = batch.with_deployment(batch.uniform(decodes, context, prefill, before), deployment)
    table["prefill_before"] = np.where(prefill > 0, before, 0.0)
    tokens = table["decode_kv_tokens_sum"] + table["prefill_kv_tokens_sum"] + table["prefill_tokens"]
    used = physics.weight_bytes(table, np.full(len(table), 1e9)) + physics.kv_bytes_per_token(table) * tokens
    fits = used <= MEMORY_SHARE * catalog.hardware(deployment.hardware).memory_bytes
    kept = table[fits & (physics.requests(table) > 0)].drop_duplicates()
    if len(kept) < len(BETA):
        raise InputError(
            f"tensor parallelism {deployment.tensor_parallelism} on {deployment.hardware}: weights take {used.min() / 1e9:.1f} GB a GPU "
            f"and {len(kept)} batches of the grid fit; expected at least {len(BETA)}"
        )
    return kept.reset_index(drop=True)


def blis_terms(table: pd.DataFrame) -> pd.DataFrame:
    """What BLIS's eleven beta coefficients multiply, float64 of shape (steps, 11): us at peak, then counts.

    As BLIS counts, causal overcounting included: attention of t new tokens costs t * (prompt + t / 2), with the prompt
    ending at the chunk; BLIS leaves out the LM head and reads the weights of all experts. MoE dispatch (DP > 1) is 0.
    """
    get = {name: table[name].to_numpy(float) for name in (*catalog.Architecture.__dataclass_fields__, "tensor_parallelism")}
    ranks, layers, hidden = get["tensor_parallelism"], get["num_layers"], get["hidden_size"]
    kv_width, head_dim = get["num_kv_heads"] * get["head_dim"], get["head_dim"]
    new, decode = table["prefill_tokens"].to_numpy(float), table["decode_tokens"].to_numpy(float)
    context = table["decode_kv_tokens_sum"].to_numpy(float) - decode
    pairs = new * (table["prefill_before"].to_numpy(float) + new + new / 2)
    peak = np.where(get["bytes_per_parameter"] <= 1, _per_us(table, "peak_fp8_flops"), _per_us(table, "peak_bf16_flops"))
    bandwidth, moe = _per_us(table, "memory_bandwidth_bytes_s"), get["num_moe_layers"]
    gemm = 2 * _weights_of_layers(get, get["experts_per_token"]) / ranks
    per_pair = layers * 4 * (get["num_heads"] / ranks) * head_dim
    kv_bytes = layers * 2 * (kv_width / ranks) * 2
    zero, one = np.zeros(len(table)), np.ones(len(table))
    return pd.DataFrame(dict(zip(BETA, (
        (gemm * new + per_pair * pairs) / peak, (gemm * decode + per_pair * context) / peak,
        get["bytes_per_parameter"] * _weights_of_layers(get, get["num_experts"]) / ranks / bandwidth,
        2 * layers * (new + decode) * hidden * 2 * 2 * (ranks - 1) / ranks / bandwidth,
        layers, physics.requests(table), one, np.where(moe < layers, moe, 0.0),
        kv_bytes * new / bandwidth, kv_bytes * (context + decode) / bandwidth, zero,
    ), strict=True)))


def _weights_of_layers(get: dict[str, np.ndarray], experts: np.ndarray) -> np.ndarray:
    """Weights of all layers with so many routed experts each, all ranks."""
    hidden, moe = get["hidden_size"], get["num_moe_layers"]
    attention = get["num_layers"] * hidden * (2 * hidden + 2 * get["num_kv_heads"] * get["head_dim"])
    sparse = moe * (experts * get["expert_ffn_size"] + get["shared_ffn_size"])
    return attention + 3 * hidden * ((get["num_layers"] - moe) * get["dense_ffn_size"] + sparse)


def _per_us(table: pd.DataFrame, figure: str) -> np.ndarray:
    """A figure of each row's accelerator, which is per second, per us."""
    names = table["hardware"]
    return names.map({name: getattr(catalog.hardware(name), figure) / 1e6 for name in names.unique()}).to_numpy(float)


def distil(
    predict: Callable[[pd.DataFrame], np.ndarray], deployments: dict[str, Deployment], overheads: Overheads, grid: Grid | None = None,
) -> Distilled:
    """Coefficients that give BLIS's trained-physics backend the predictions of `predict` as nearly as its terms can."""
    grid = grid or Grid()
    tables = {name: grid_table(deployment, grid) for name, deployment in deployments.items()}
    table = pd.concat(tables.values(), ignore_index=True)
    names = np.repeat(list(tables), [len(rows) for rows in tables.values()])
    terms, target = blis_terms(table).to_numpy(), predict(table)
    weights = np.concatenate([_weights(rows, grid) for rows in tables.values()])
    beta = _fit(terms / target[:, None], weights)
    found = terms @ beta
    ape = 100 * np.abs(found / target - 1)
    by_deployment = {name: float(np.average(ape[names == name], weights=weights[names == name])) for name in tables}
    alpha = [overheads.queueing_us, overheads.post_decode_us, overheads.output_token_us]
    return Distilled(alpha, [float(value) for value in beta], float(np.mean(list(by_deployment.values()))), by_deployment, len(table))


def _weights(table: pd.DataFrame, grid: Grid) -> np.ndarray:
    """Weight of each step, 1 in sum."""
    spans = dict(zip(grid.batch, np.gradient(np.array(grid.batch, float)), strict=True))
    weight = table["num_decode_reqs"].map(spans).to_numpy(float).copy()
    decode_only = table["num_prefill_reqs"].to_numpy() == 0
    for rows, share in ((decode_only, grid.decode_share), (~decode_only, 1 - grid.decode_share)):
        weight[rows] *= share / max(weight[rows].sum(), 1e-12)
    return weight / weight.sum()


def _fit(design: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Non-negative coefficients with the least weighted mean |design @ b - 1|, by reweighted least squares."""
    scale = np.maximum(np.abs(design).max(axis=0), 1e-30)
    best, least = np.zeros(design.shape[1]), np.inf
    reweight = np.ones(len(design))
    for _ in range(ROUNDS):
        root = np.sqrt(weights * reweight)
        solution, _ = nnls(design / scale * root[:, None], root)
        miss = np.abs(design / scale @ solution - 1)
        error = float(np.average(miss, weights=weights))
        if error < least:
            best, least = solution, error
        reweight = 1 / np.maximum(miss, 1e-3)
    return np.where(np.abs(design).max(axis=0) > 0, best / scale, 0.0)


def as_yaml(distilled: Distilled) -> str:
    """The block of BLIS's defaults.yaml, with what was lost as comments."""
    lost = ", ".join(f"{name} {value:.2f}" for name, value in distilled.by_deployment.items())
    return "\n".join([
        f"# distilled over {distilled.batches} batches; differs from the model by {distilled.mape:.2f} % on average ({lost})",
        "trained_physics_coefficients:",
        f"  alpha_coeffs: [{_numbers(distilled.alpha)}] # us: queueing, post-decode, per output token",
        f"  beta_coeffs: [{_numbers(distilled.beta)}]",
        f"  # beta: {', '.join(BETA)}",
    ]) + "\n"


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
