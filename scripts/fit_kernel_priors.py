"""Where the base's priors come from: least squares on measured single-kernel latencies.

    python scripts/fit_kernel_priors.py DIR

DIR holds aiconfigurator's tables (gemm.parquet, decode_attention.parquet, ...). Prints each constant of
h3/steps/physics.py and each prior of h3/models/physical_base.py that a kernel table supports. No serving log
is read.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from h3.steps import catalog, physics

H100 = catalog.hardware("H100")
BANDWIDTH_BYTES_US = H100.memory_bandwidth_bytes_s / 1e6
PEAK_FLOPS_US = H100.peak_bf16_flops / 1e6


def relative_fit(columns: list[np.ndarray], latency_us: np.ndarray) -> np.ndarray:
    """Coefficients of the columns that minimise the relative error."""
    design = np.column_stack(columns) / latency_us[:, None]
    return np.linalg.lstsq(design, np.ones(len(latency_us)), rcond=None)[0]


def read(folder: Path, name: str) -> pd.DataFrame:
    """One kernel table, latency in us."""
    table = pd.read_parquet(folder / f"{name}.parquet")
    return table.assign(us=table["latency"] * 1e3)


def gemm(folder: Path) -> None:
    """Small GEMMs (decode): floor and multiple of the weight-read time; large ones: share of peak FLOP/s."""
    table = read(folder, "gemm").query("gemm_dtype == 'bfloat16' and n >= 2048 and k >= 2048")
    small, large = table[table["m"] <= 64], table[table["m"] >= 1024]
    read_us = 2.0 * small["n"] * small["k"] / BANDWIDTH_BYTES_US
    floor, multiple = relative_fit([np.ones(len(small)), read_us.to_numpy()], small["us"].to_numpy())
    efficiency = (2.0 * large["m"] * large["n"] * large["k"] / PEAK_FLOPS_US / large["us"]).median()
    print(
        f"GEMM, up to 64 tokens: {floor:.2f} us + {multiple:.3f} x weight-read time; 1024 and more:"
        f" {efficiency:.2f} of peak"
    )


def decode_attention(folder: Path) -> None:
    """Decode attention: floor, us a wave of (request, KV head) pairs, and multiple of the KV-read time."""
    table = read(folder, "decode_attention").query(
        "kv_cache_dtype == 'bfloat16' and num_heads >= 8 and batch_size <= 256"
    )
    read_us = (
        table["batch_size"]
        * (table["isl"] + table["step"])
        * table["num_key_value_heads"]
        * 128
        * 4.0
        / BANDWIDTH_BYTES_US
    )
    waves = table["batch_size"] * table["num_key_value_heads"] / H100.streaming_multiprocessors
    columns = [np.ones(len(table)), waves.to_numpy(float), read_us.to_numpy(float)]
    floor, wave, multiple = relative_fit(columns, table["us"].to_numpy())
    print(f"decode attention: {floor:.2f} us + {wave:.2f} us a wave + {multiple:.3f} x KV-read time")


def prefill_attention(folder: Path) -> None:
    """Causal prefill attention: share of peak FLOP/s by prompt length."""
    table = read(folder, "prefill_attention").query(
        "kv_cache_dtype == 'bfloat16' and batch_size == 1 and num_heads == 32"
    )
    table = table[table["isl"].between(1024, 16384)]
    flops = 4.0 * table["num_heads"] * table["head_dim"] * table["isl"] * (table["isl"] + 1) / 2
    print(f"prefill attention, 1k-16k tokens: {(flops / PEAK_FLOPS_US / table['us']).median():.2f} of peak")


def all_reduce(folder: Path) -> None:
    """All-reduce in CUDA graphs, messages of up to 4 MB: latency and share of NVLink bandwidth of one and of
    two shots.
    """
    table = read(folder, "all_reduce").query("backend == 'vllm_graph' and message_size * 2 <= 4194304")
    # message_size counts bfloat16 elements (aiconfigurator's collector), so a message has twice as many
    # bytes.
    table = table.assign(tensor_parallelism=table["num_gpus"], message_bytes=table["message_size"] * 2.0)
    two = physics.two_shot(table, table["message_bytes"].to_numpy())
    wire = physics.all_reduce_wire_bytes(table, table["message_bytes"].to_numpy())
    ranks, us, one = table["num_gpus"].to_numpy(float), table["us"].to_numpy(), np.ones(len(table))
    latency, per_byte = relative_fit([one[~two], wire[~two]], us[~two])
    print(
        f"one-shot all-reduce: {latency:.2f} us + wire bytes at"
        f" {1e6 / per_byte / H100.nvlink_bandwidth_bytes_s:.2f} of NVLink"
    )
    latency, rank, per_byte = relative_fit([one[two], ranks[two], wire[two]], us[two])
    share = 1e6 / per_byte / H100.nvlink_bandwidth_bytes_s
    print(
        f"two-shot all-reduce: {latency:.2f} us + {rank:.2f} us a rank + wire bytes at {share:.2f} of NVLink"
    )


def experts(folder: Path) -> None:
    """Fused experts (8 experts, top 2): floor and multiple of the time to read the experts that are
    visited.
    """
    query = (
        "moe_dtype == 'bfloat16' and num_experts == 8 and inter_size == 14336 and hidden_size == 4096 and"
        " moe_ep_size == 1"
    )
    table = read(folder, "moe").query(
        query + " and distribution == 'balanced' and num_tokens <= 256 and moe_tp_size in (2, 4, 8)"
    )
    visited = 8 * (1 - (1 - 2 / 8) ** table["num_tokens"])
    read_us = visited * 3 * 4096 * 14336 / table["moe_tp_size"] * 2.0 / BANDWIDTH_BYTES_US
    floor, multiple = relative_fit([np.ones(len(table)), read_us.to_numpy()], table["us"].to_numpy())
    print(f"fused experts: {floor:.1f} us + {multiple:.3f} x time to read the experts visited")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for fit in (gemm, decode_attention, prefill_attention, all_reduce, experts):
        fit(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
