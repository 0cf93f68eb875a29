"""BLIS's trained roofline: a non-negative combination of nine basis functions, formulas exactly as BLIS has
them.

    fitted = TrainedRoofline(Params()).fit(train, Context())
    dict(zip(TERMS, fitted.coefficients))                 # BLIS's beta 1-7, 9 and 10

Source: inference-sim/inference-sim, `trained_physics_coefficients`; so attention is counted as BLIS counts it
(two to three times the causal FLOPs), all experts' weights are read in every step, and all-reduce runs at HBM
bandwidth. Simplified: a step's prefill requests count as equally long (the table holds their sums), with the
prompt as far as it is computed; beta 8 (interleaved MoE) and 11 (DP > 1) are left out; fitted on steps, where
BLIS fits on whole requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from h3.models.peers.blackbox import combine, nonnegative_least_squares
from h3.models.protocol import Context
from h3.steps import catalog, physics
from h3.steps.weights import row_weights

TERMS = (
    "prefill_compute_us",
    "decode_compute_us",
    "weights_us",
    "all_reduce_us",
    "layers",
    "requests",
    "step",
    "prefill_kv_write_us",
    "decode_kv_read_us",
)
VALUE_BYTES = 2.0  # activations and KV cache


def _real(table: pd.DataFrame, name: str) -> np.ndarray:
    return np.nan_to_num(table[name].to_numpy(float))


def _per_us(table: pd.DataFrame, figure: str) -> np.ndarray:
    """A figure of each row's hardware, per microsecond."""
    names = table["hardware"]
    return names.map(
        {name: getattr(catalog.hardware(name), figure) / 1e6 for name in names.unique()}
    ).to_numpy(float)


def _peak_flops_per_us(table: pd.DataFrame) -> np.ndarray:
    eight_bit = table["bytes_per_parameter"].to_numpy(float) <= 1.0
    return np.where(eight_bit, _per_us(table, "peak_fp8_flops"), _per_us(table, "peak_bf16_flops"))


def _projections(table: pd.DataFrame) -> np.ndarray:
    """d * (2 d + 2 d_kv): weights of a layer's attention, d_kv = KV heads * head_dim."""
    hidden = _real(table, "hidden_size")
    return hidden * (2 * hidden + 2 * _kv_width(table))


def _kv_width(table: pd.DataFrame) -> np.ndarray:
    return _real(table, "num_kv_heads") * _real(table, "head_dim")


def _ffn_width(table: pd.DataFrame, experts: str) -> np.ndarray:
    """d_ff of all layers together, with `experts` (column) of them in a layer that has experts."""
    layers, sparse = _real(table, "num_layers"), _real(table, "num_moe_layers")
    return (layers - sparse) * _real(table, "dense_ffn_size") + sparse * _real(table, experts) * _real(
        table, "expert_ffn_size"
    )


def _compute_us(table: pd.DataFrame, tokens: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """[2 T d (2d + 2 d_kv) L + L 4 heads pairs head_dim + L T 6 d d_ff (k for MoE)] / tp / peak."""
    layers, hidden = _real(table, "num_layers"), _real(table, "hidden_size")
    attention = layers * 4 * _real(table, "num_heads") * pairs * _real(table, "head_dim")
    gemms = 2 * tokens * _projections(table) * layers + tokens * 6 * hidden * _ffn_width(
        table, "experts_per_token"
    )
    return (gemms + attention) / _real(table, "tensor_parallelism") / _peak_flops_per_us(table)


def prefill_pairs(table: pd.DataFrame) -> np.ndarray:
    """BLIS's query-key pairs of prefill, sum over requests of t (s + t/2): t new tokens, s prompt so far (new
    included).
    """
    tokens, requests = physics.prefill_tokens(table), _real(table, "num_prefill_reqs")
    mean_new, mean_prompt = (
        np.divide(total, requests, out=np.zeros(len(table)), where=requests > 0)
        for total in (tokens, tokens + _real(table, "prefill_kv_tokens_sum"))
    )
    return tokens * (mean_prompt + mean_new / 2)


def _weights_us(table: pd.DataFrame) -> np.ndarray:
    weights = _projections(table) * _real(table, "num_layers") + 3 * _real(table, "hidden_size") * _ffn_width(
        table, "num_experts"
    )
    size = table["bytes_per_parameter"].fillna(VALUE_BYTES).to_numpy(float)
    return weights * size / _real(table, "tensor_parallelism") / _per_us(table, "memory_bandwidth_bytes_s")


def _all_reduce_us(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Two all-reduces a layer: tokens * d * bytes * 2 (tp - 1) / tp each, at HBM bandwidth."""
    ranks = _real(table, "tensor_parallelism")
    message = tokens * _real(table, "hidden_size") * VALUE_BYTES * 2 * (ranks - 1) / ranks
    return 2 * _real(table, "num_layers") * message / _per_us(table, "memory_bandwidth_bytes_s")


def terms(table: pd.DataFrame) -> np.ndarray:
    """BLIS's basis functions in the order of TERMS, shape (rows, 9): us at peak, then counts of layers,
    requests, 1, then us.
    """
    prefill, decode, context = (
        physics.prefill_tokens(table),
        physics.decode_tokens(table),
        _real(table, "decode_kv_tokens_sum"),
    )
    kv_bytes = (
        _real(table, "num_layers") * 2 * _kv_width(table) / _real(table, "tensor_parallelism") * VALUE_BYTES
    )
    kv_us = kv_bytes / _per_us(table, "memory_bandwidth_bytes_s")
    return np.column_stack(
        [
            _compute_us(table, prefill, prefill_pairs(table)),
            _compute_us(table, decode, context),
            _weights_us(table),
            _all_reduce_us(table, prefill + decode),
            _real(table, "num_layers"),
            physics.requests(table),
            np.ones(len(table)),
            kv_us * prefill,
            kv_us * (context + decode),
        ]
    )


@dataclass(frozen=True)
class Params:
    """It takes none."""


@dataclass(frozen=True)
class FittedTrainedRoofline:
    """Coefficients in the order of TERMS, all >= 0."""

    coefficients: np.ndarray

    def predict(self, inputs: pd.DataFrame) -> np.ndarray:
        """Predicted target in us, shape (rows,)."""
        return combine(terms(inputs), self.coefficients)

    def describe(self) -> dict[str, Any]:
        """JSON: model, names of the terms, and their coefficients in the same order."""
        return {"model": "trained_roofline", "terms": list(TERMS), "coefficients": self.coefficients.tolist()}


@dataclass(frozen=True)
class TrainedRoofline:
    """The unfitted predictor."""

    params: Params
    name: str = "trained_roofline"

    def fit(self, train: pd.DataFrame, context: Context) -> FittedTrainedRoofline:
        """Non-negative least squares on relative errors, models weighing the same (row_weights)."""
        observed = train[context.target].to_numpy(float)
        weights = row_weights(train) / observed**2
        return FittedTrainedRoofline(nonnegative_least_squares(terms(train), observed, weights))
