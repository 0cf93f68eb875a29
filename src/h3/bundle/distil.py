"""The model as coefficients that an unmodified BLIS reads: trained_physics_coefficients in its defaults.yaml.

    distilled = distil(bundle.predict, Deployment(arch, 2, "H100"), bundle.overheads)

Non-negative regression (regression.py) of the model's own predictions over a grid of batches onto BLIS's
terms (docs/blis.md), on relative errors. What is lost on the grid is the least that any coefficients that
BLIS takes can lose there; `loss` is that, and the same on batches between those of the grid.

Coefficients hold for one deployment (coefficients.py writes for which, and refuses others): several of BLIS's
terms are constants there and only their sum is determined, and BLIS multiplies times at the data sheet's
peaks, of which each GPU reaches other shares.

What BLIS's terms cannot say: on one deployment its time of a decode step is a + b * requests + c * context
tokens with a, b, c >= 0, while a small batch reads only the experts that it visits, 1 - (1 - k/E)^tokens of
them. For Mixtral (8 experts, 2 a token) no coefficients come closer than 4.5 % if every batch size from 1 to
128 weighs alike, 3.5 of which are batches of at most 8; weighed as serving meets them they are rare, and the
loss is 1.9 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from h3.bundle.blis_terms import BETA, blis_terms
from h3.bundle.regression import Batches, fit
from h3.common.errors import InputError
from h3.server.overheads import Overheads
from h3.steps import batch, catalog, physics, sampling
from h3.steps.batch import Deployment

# Deployments of the four known models, as the study ran them.
KNOWN = {"llama-2-7b": 1, "llama-2-70b": 4, "codellama-34b": 2, "mixtral-8x7b-v0-1": 2}
MEMORY_SHARE = 0.9  # of the accelerator's memory may hold weights and KV cache, as vLLM's default
# Share of steps with at most so many decoding requests: the built-in source's 16 experiments, each weighing
# the same.
REQUESTS = (0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 127, 128)
SHARE_OF_STEPS = (0, 0.0004, 0.0013, 0.005, 0.038, 0.096, 0.17, 0.344, 0.489, 0.628, 0.665, 0.732, 0.778, 1.0)

Predict = Callable[[pd.DataFrame], np.ndarray]  # a step table's periods, us


@dataclass(frozen=True)
class Grid:
    """Batches of the regression: decoding requests, their context, prefill chunk and tokens of its prompt
    before it.

    A number of requests weighs what SHARE_OF_STEPS gives it and the numbers nearest to it; contexts and
    chunks weigh alike. decode_share: what steps without prefill weigh (of the built-in source's steps, 0.75
    to 0.95 by experiment).
    """

    batch: tuple[int, ...] = (0, 1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 112, 128)
    context: tuple[int, ...] = (64, 256, 512, 1024, 2048, 4096)
    prefill: tuple[int, ...] = (0, 16, 64, 256, 512, 1024, 2048)
    before: tuple[int, ...] = (0, 1024)
    decode_share: float = 0.88


# Between the numbers of the grid that is fitted.
HELD_OUT = Grid(
    batch=(0, 3, 6, 10, 14, 20, 28, 36, 44, 56, 72, 88, 104, 120, 127),
    context=(96, 384, 768, 1536, 3072),
    prefill=(0, 8, 32, 128, 384, 768, 1536),
    before=(0, 512, 1500),
)


@dataclass(frozen=True)
class Loss:
    """MAPE in % of distilled coefficients against the model: on the fitted grid, on HELD_OUT, and there by
    ranges of decoding requests.
    """

    grid: float
    held_out: float
    by_requests: dict[str, float]


@dataclass(frozen=True)
class Distilled:
    """Coefficients, and what is lost with them; `batches` on the fitted grid, of which half, as serving
    weighs them, take no longer than `period_us`.
    """

    alpha: list[float]
    beta: list[float]
    loss: Loss
    batches: int
    period_us: float


@dataclass(frozen=True)
class Measured:
    """MAPE in % of the model and of the coefficients on so many measured steps."""

    steps: int
    model: float
    distilled: float


def known_deployments(hardware: str = "H100") -> dict[str, Deployment]:
    """The four known models by name, on the study's tensor parallelism."""
    return {
        name: Deployment(catalog.MODELS[name], tp, hardware, name in sampling.TRUNCATED)
        for name, tp in KNOWN.items()
    }


def grid_table(deployment: Deployment, grid: Grid) -> pd.DataFrame:
    """Steps of the grid that hold work and fit into memory, as a step table with `prefill_before`."""
    axes = pd.MultiIndex.from_product([grid.batch, grid.context, grid.prefill, grid.before])
    decodes, context, prefill, before = (axes.get_level_values(level).to_numpy(float) for level in range(4))
    window = deployment.architecture.window_tokens
    steps = batch.uniform(decodes, context, prefill, before, window)
    table = batch.with_deployment(steps, deployment)
    table["prefill_before"] = np.where(prefill > 0, before, 0.0)
    tokens = table["decode_kv_tokens_sum"] + table["prefill_kv_tokens_sum"] + table["prefill_tokens"]
    used = physics.weight_bytes(table, np.full(len(table), 1e9)) + physics.kv_bytes_per_token(table) * tokens
    fits = used <= MEMORY_SHARE * catalog.hardware(deployment.hardware).memory_bytes
    kept = table[fits & (physics.requests(table) > 0)].drop_duplicates()
    if len(kept) < len(BETA):
        raise InputError(
            f"tensor parallelism {deployment.tensor_parallelism} on {deployment.hardware}: weights take"
            f" {used.min() / 1e9:.1f} GB a GPU and {len(kept)} batches of the grid fit; expected at least"
            f" {len(BETA)}"
        )
    return kept.reset_index(drop=True)


def distil(
    predict: Predict, deployment: Deployment, overheads: Overheads, grid: Grid | None = None
) -> Distilled:
    """Coefficients that give BLIS's trained-physics backend the predictions of `predict` as nearly as its
    terms can.

    BLIS has one constant for all that comes before the first step, so the steps that are already scheduled
    when a request arrives count with the median period of the grid, weighed as serving meets its batches:
    they are mostly short steps of decoding, while the grid's mean lies in its rare prompts of 1000 tokens.
    """
    grid = grid or Grid()
    fitted, periods_us = _batches(predict, deployment, grid)
    held_out, _ = _batches(predict, deployment, HELD_OUT)
    beta = fit(fitted.design, fitted.weight)
    period_us = median(periods_us, fitted.weight)
    queueing_us = overheads.queueing_us + overheads.pipeline_steps * period_us
    return Distilled(
        [queueing_us, overheads.post_decode_us, overheads.output_token_us],
        [float(value) for value in beta],
        Loss(fitted.loss(beta), held_out.loss(beta), held_out.by_requests(beta)),
        len(fitted.weight),
        period_us,
    )


def median(values: np.ndarray, weights: np.ndarray) -> float:
    """The least value that half of the weight does not exceed.

    >>> median(np.array([9.0, 1.0, 2.0]), np.array([0.3, 0.3, 0.4]))
    2.0
    """
    order = np.argsort(values)
    heavy = np.cumsum(weights[order]) >= weights.sum() / 2
    return float(values[order][np.argmax(heavy)])


def _batches(predict: Predict, deployment: Deployment, grid: Grid) -> tuple[Batches, np.ndarray]:
    """The grid's batches, and the period of each, us."""
    table = grid_table(deployment, grid)
    periods_us = predict(table)
    design = blis_terms(table).to_numpy() / periods_us[:, None]
    return Batches(design, _weights(table, grid), table["num_decode_reqs"].to_numpy()), periods_us


def _weights(table: pd.DataFrame, grid: Grid) -> np.ndarray:
    """Weight of each step, 1 in sum."""
    nodes = np.array(grid.batch, float)
    ends = np.concatenate([[-1.0], (nodes[1:] + nodes[:-1]) / 2, [np.inf]])
    share = dict(zip(grid.batch, np.diff(np.interp(ends, REQUESTS, SHARE_OF_STEPS)), strict=True))
    decode_only = table["num_prefill_reqs"] == 0
    alike = (
        table.groupby([table["num_decode_reqs"], decode_only])["num_decode_reqs"].transform("size").to_numpy()
    )
    weight = table["num_decode_reqs"].map(share).to_numpy(float) / alike
    for rows, part in (
        (decode_only.to_numpy(), grid.decode_share),
        (~decode_only.to_numpy(), 1 - grid.decode_share),
    ):
        weight[rows] *= part / max(weight[rows].sum(), 1e-12)
    return weight / weight.sum()


def mape_on_steps(
    beta: list[float], predict: Predict, table: pd.DataFrame, deployment: Deployment
) -> Measured | None:
    """MAPE against the periods of a step table's steps of the deployment; None where it holds none.

    Each experiment weighs the same. A step's chunks count as one, their prompts as ending with it.
    """
    columns = deployment.columns()
    del columns["truncated_sampling"]  # what the steps say of it counts
    its = np.logical_and.reduce([table[key] == value for key, value in columns.items()])
    steps = table[its].reset_index(drop=True)
    if steps.empty:
        return None
    new = np.maximum(steps["prefill_tokens"].fillna(0.0), 1e-9)
    before = np.maximum(steps["prefill_attended_tokens"].fillna(0.0) / new - (new + 1) / 2, 0.0)
    terms = blis_terms(steps.assign(prefill_before=before).fillna({"prefill_tokens": 0.0}))
    found = pd.DataFrame({"model": predict(steps), "distilled": terms.to_numpy() @ np.array(beta)})
    error = found.div(steps["period_us"], axis=0).sub(1).abs().mul(100)
    mean = error.groupby(steps["experiment"]).mean().mean()
    return Measured(len(steps), float(mean["model"]), float(mean["distilled"]))
