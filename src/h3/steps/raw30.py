"""The study's thirty raw features, kept so that its failure can be reproduced; absolute scales and a model id
included.

Source: inference-sim, branch stepml-experiments, idea 1 H1 (batch tokens 5, KV 5, phase 4, physics 8,
architecture 3, interactions 5). Differences: unknown KV state is NaN (missing) instead of 0. Its formulas are
kept, errors included: no attention FLOPs (`attention_flops_ratio` is always 0), FLOPs and weight bytes of all
experts scaled by k/E and 1.
"""

from __future__ import annotations

import zlib

import numpy as np
import pandas as pd

from h3.steps import catalog

STUDY_MODEL_IDS = {"codellama-34b": 0, "llama-2-7b": 1, "llama-2-70b": 2, "mixtral-8x7b-v0-1": 3}
STUDY_BANDWIDTH_EFFICIENCY = 0.82

# name, group, unit, formula
FEATURES = (
    ("prefill_tokens", "batch", "tokens", "prefill_tokens"),
    ("decode_tokens", "batch", "tokens", "decode_tokens"),
    ("scheduled_tokens", "batch", "tokens", "prefill_tokens + decode_tokens"),
    ("num_prefill_reqs", "batch", "requests", "num_prefill_reqs"),
    ("num_decode_reqs", "batch", "requests", "num_decode_reqs"),
    ("kv_usage_ratio", "kv", "ratio", "kv_usage_ratio"),
    ("kv_blocks_used", "kv", "blocks", "kv_blocks_total - kv_blocks_free"),
    ("kv_blocks_free", "kv", "blocks", "kv_blocks_free"),
    ("running_reqs", "kv", "requests", "running_reqs"),
    ("kv_pressure", "kv", "ratio", "kv_blocks_used / kv_blocks_total"),
    ("prefill_fraction", "phase", "ratio", "prefill_tokens / scheduled_tokens"),
    ("decode_fraction", "phase", "ratio", "decode_tokens / scheduled_tokens"),
    ("is_mixed_batch", "phase", "flag", "prefill and decode requests"),
    ("is_pure_prefill", "phase", "flag", "no decode request"),
    ("total_flops", "physics", "FLOP", "2 * scheduled_tokens * weights * (k/E in the FFN) / tp"),
    ("arithmetic_intensity", "physics", "FLOP/byte", "total_flops / weight_bytes"),
    ("is_compute_bound", "physics", "flag", "arithmetic_intensity > peak FLOP/s / (0.82 * bandwidth)"),
    ("prefill_compute_intensity", "physics", "FLOP/byte", "prefill FLOPs / weight_bytes"),
    ("decode_memory_intensity", "physics", "byte/FLOP", "weight_bytes / decode FLOPs"),
    ("attention_flops_ratio", "physics", "ratio", "0 (the study had no KV lengths)"),
    ("gemm_flops_ratio", "physics", "ratio", "1"),
    ("active_param_ratio", "physics", "ratio", "experts_per_token / num_experts; 1 for dense"),
    ("model_id", "architecture", "label", "label of the model"),
    ("tensor_parallelism", "architecture", "GPUs", "tensor_parallelism"),
    ("is_moe", "architecture", "flag", "num_experts > 1"),
    ("prefill_x_decode", "interactions", "tokens^2", "prefill_tokens * decode_tokens"),
    ("kv_pressure_x_decode_reqs", "interactions", "requests", "kv_pressure * num_decode_reqs"),
    ("intensity_x_moe", "interactions", "FLOP/byte", "arithmetic_intensity * is_moe"),
    ("prefill_x_kv_usage", "interactions", "tokens", "prefill_tokens * kv_usage_ratio"),
    (
        "batch_size_x_kv_pressure",
        "interactions",
        "requests",
        "(num_prefill_reqs + num_decode_reqs) * kv_pressure",
    ),
)


def model_label(name: str) -> int:
    """The study's label of a model; a stable one above those for a model that it did not have."""
    return STUDY_MODEL_IDS.get(name, 4 + zlib.crc32(name.encode()) % 1000)


def compute(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """The thirty features as float64 arrays of shape (rows,)."""
    known = {name: table[name].to_numpy(float) for name in table.columns if table[name].dtype.kind in "if"}
    batch = _batch(known)
    kv = _kv(known)
    physics = _physics(table, known, batch)
    moe = catalog.is_moe(table).astype(float)
    requests = batch["num_prefill_reqs"] + batch["num_decode_reqs"]
    return (
        batch
        | kv
        | _phase(batch)
        | physics
        | {
            "model_id": table["model"].map(model_label).to_numpy(float),
            "tensor_parallelism": known["tensor_parallelism"],
            "is_moe": moe,
            "prefill_x_decode": batch["prefill_tokens"] * batch["decode_tokens"],
            "kv_pressure_x_decode_reqs": kv["kv_pressure"] * batch["num_decode_reqs"],
            "intensity_x_moe": physics["arithmetic_intensity"] * moe,
            "prefill_x_kv_usage": batch["prefill_tokens"] * kv["kv_usage_ratio"],
            "batch_size_x_kv_pressure": requests * kv["kv_pressure"],
        }
    )


def _batch(known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = ("prefill_tokens", "decode_tokens", "num_prefill_reqs", "num_decode_reqs")
    batch = {name: np.nan_to_num(known[name]) for name in names}
    return batch | {"scheduled_tokens": batch["prefill_tokens"] + batch["decode_tokens"]}


def _kv(known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    total, free = known["kv_blocks_total"], known["kv_blocks_free"]
    return {
        "kv_usage_ratio": known["kv_usage_ratio"],
        "kv_blocks_used": total - free,
        "kv_blocks_free": free,
        "running_reqs": known["running_reqs"],
        "kv_pressure": (total - free) / np.maximum(total, 1),
    }


def _phase(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    scheduled = np.maximum(batch["scheduled_tokens"], 1)
    decoding = batch["num_decode_reqs"] > 0
    return {
        "prefill_fraction": batch["prefill_tokens"] / scheduled,
        "decode_fraction": batch["decode_tokens"] / scheduled,
        "is_mixed_batch": ((batch["num_prefill_reqs"] > 0) & decoding).astype(float),
        "is_pure_prefill": (~decoding).astype(float),
    }


def _physics(
    table: pd.DataFrame, known: dict[str, np.ndarray], batch: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The study's roofline figures: hidden size d, KV width kv, FFN width ff; FFN FLOPs scaled by k/E."""
    d, layers, tp = known["hidden_size"], known["num_layers"], known["tensor_parallelism"]
    kv = known["num_kv_heads"] * known["head_dim"]
    ff = np.maximum(known["dense_ffn_size"], known["expert_ffn_size"])
    active = np.where(
        known["num_experts"] > 0, known["experts_per_token"] / np.maximum(known["num_experts"], 1), 1.0
    )
    flops_per_token = 2 * (2 * d * d + 2 * d * kv + 3 * d * ff * active) * layers / tp
    weight_bytes = (2 * d * d + 2 * d * kv + 3 * d * ff) * 2.0 * layers / tp
    intensity = batch["scheduled_tokens"] * flops_per_token / weight_bytes
    decode_flops = batch["decode_tokens"] * flops_per_token
    ones = np.ones(len(table))
    return {
        "total_flops": batch["scheduled_tokens"] * flops_per_token,
        "arithmetic_intensity": intensity,
        "is_compute_bound": (intensity > _machine_balance(table)).astype(float),
        "prefill_compute_intensity": batch["prefill_tokens"] * flops_per_token / weight_bytes,
        "decode_memory_intensity": np.divide(
            weight_bytes, decode_flops, out=np.zeros(len(table)), where=decode_flops > 0
        ),
        "attention_flops_ratio": 0 * ones,
        "gemm_flops_ratio": ones,
        "active_param_ratio": active,
    }


def _machine_balance(table: pd.DataFrame) -> np.ndarray:
    def balance(name: str) -> float:
        hardware = catalog.hardware(name)
        return hardware.peak_bf16_flops / (hardware.memory_bandwidth_bytes_s * STUDY_BANDWIDTH_EFFICIENCY)

    return table["hardware"].map({name: balance(name) for name in table["hardware"].unique()}).to_numpy(float)
