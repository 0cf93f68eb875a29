"""What each GPU's kernels show: the profiles of h3/steps/kernels.py, and what the base's priors come from.

    python scripts/fit_kernel_priors.py DIR        # writes src/h3/data/kernel_profiles.csv

DIR holds aiconfigurator's tables: of H100 at the top (gemm.parquet, decode_attention.parquet, ...), of others
in folders (FOLDERS). The row of H100 holds what the constants of h3/steps/physics.py and the priors of
h3/models/physical_base.py were taken from. No serving log is read.

A kernel is timed again and again on the same buffers, so what fits into the L2 cache costs no memory traffic
there, while in a server each layer evicts the one before (an L40S has 96 MB of L2, and its KV cache seems to
be read at twice the memory's bandwidth). Multiples of read time are therefore taken from kernels that read
far more than the cache holds, floors from those that read next to nothing.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from h3.common import packaged
from h3.steps import catalog, kernels, physics
from h3.steps.catalog import Hardware
from h3.steps.kernels import Profile

FOLDERS = {
    "H100": ".",
    "H100-vLLM-0.24": "h100_vllm_0.24",
    "H200": "h200_sxm",
    "A100": "a100_sxm",
    "L40S": "l40s",
}
L2_BYTES = {"H100": 50e6, "H100-vLLM-0.24": 50e6, "H200": 50e6, "A100": 40e6, "L40S": 96e6}
FEW_TOKENS, MANY_TOKENS = 64, 1024
GEMM_WEIGHT_BYTES = 32e6  # and more: no cache helps, on none of these GPUs (looked up in the tables)
SMALL_WEIGHT_BYTES = (1e6, 3e6)
SIGNIFICANT = 4
BENDS = np.arange(0, 3.01, 0.05)


def read(folder: Path, name: str) -> pd.DataFrame:
    """One kernel table, latency in us."""
    table = pd.read_parquet(folder / f"{name}.parquet")
    if "window_size" in table:
        table = table[table["window_size"] == 0]
    if "head_dim" in table:
        table = table[(table["head_dim"] == 128) & (table["kv_cache_dtype"] == "bfloat16")]
    return table.assign(us=table["latency"] * 1e3)


def relative_fit(columns: list[np.ndarray], latency_us: np.ndarray) -> np.ndarray:
    """Coefficients >= 0 of the columns that minimise the relative error."""
    from scipy.optimize import nnls

    design = np.column_stack(columns) / latency_us[:, None]
    return np.asarray(nnls(design, np.ones(len(latency_us)))[0])


def gemm(table: pd.DataFrame, width: float, peak_flops: float, hardware: Hardware) -> dict[str, float]:
    """Small GEMMs: floor and multiple of the weight-read time; large ones: share of peak FLOP/s; between
    them, how round the corner of the roofline is (kernels.py has the formula).
    """
    table = table.groupby(["m", "n", "k"], as_index=False)["us"].min()  # the fastest of several kernels
    table = table.assign(weight_bytes=width * table["n"] * table["k"])
    few = table[table["m"] <= FEW_TOKENS]
    floor_us = few["us"][few["weight_bytes"].between(*SMALL_WEIGHT_BYTES)].median()
    wide = (table["n"] >= 2048) & (table["k"] >= 2048)
    read_us = table["weight_bytes"] / (hardware.memory_bandwidth_bytes_s / 1e6)
    large = wide & (table["weight_bytes"] >= GEMM_WEIGHT_BYTES)
    multiple = ((table["us"] - floor_us) / read_us)[large & (table["m"] <= FEW_TOKENS)].median()
    flops_us = 2.0 * table["m"] * table["n"] * table["k"] / (peak_flops / 1e6)
    efficiency = (flops_us / table["us"])[wide & (table["m"] >= MANY_TOKENS)].median()
    between = large & table["m"].between(FEW_TOKENS + 1, MANY_TOKENS - 1)
    memory, compute = (multiple * read_us)[between].to_numpy(), (flops_us / efficiency)[between].to_numpy()
    left = table["us"][between].to_numpy() - floor_us - memory
    error = [np.abs((physics.excess_us(memory, compute, bend) - left) / (left + memory)) for bend in BENDS]
    return {
        "floor_us": floor_us,
        "multiple": multiple,
        "efficiency": efficiency,
        "bend": float(BENDS[int(np.argmin([values.mean() for values in error]))]),
    }


def decode_attention(table: pd.DataFrame, hardware: Hardware, cache_bytes: float) -> dict[str, float]:
    """Decode attention: floor, us a wave of (request, KV head) pairs, and multiple of the KV-read time."""
    table = table[(table["num_heads"] >= 8) & (table["batch_size"] <= 256)]
    pairs = table["batch_size"] * table["num_key_value_heads"]
    kv_bytes = pairs * (table["isl"] + table["step"]) * 128 * 4.0
    cold = (kv_bytes < 4e6) | (kv_bytes > 2 * cache_bytes)
    columns = [
        np.ones(int(cold.sum())),
        (pairs / hardware.streaming_multiprocessors)[cold].to_numpy(float),
        (kv_bytes / (hardware.memory_bandwidth_bytes_s / 1e6))[cold].to_numpy(float),
    ]
    floor_us, wave_us, multiple = relative_fit(columns, table["us"][cold].to_numpy())
    return {"decode_attention_floor_us": floor_us, "wave_us": wave_us, "kv_multiple": multiple}


def prefill_attention(table: pd.DataFrame, hardware: Hardware) -> dict[str, float]:
    """Causal prefill attention of 1k-16k tokens: share of peak FLOP/s."""
    table = table[(table["batch_size"] == 1) & (table["num_heads"] == 32)]
    table = table[table["isl"].between(1024, 16384)]
    flops = 4.0 * table["num_heads"] * table["head_dim"] * table["isl"] * (table["isl"] + 1) / 2
    share = flops / (hardware.peak_bf16_flops / 1e6) / table["us"]
    return {"prefill_attention_efficiency": share.median()}


def experts(table: pd.DataFrame, hardware: Hardware) -> dict[str, float]:
    """Fused experts: floor and multiple of the time to read the experts that are visited.

    How many are visited depends on the routing, and the tables' routings (`balanced`: min(E, n k), power
    laws: fewer) are none that a trained router has. So only rows count where every routing visits the same:
    a single token (k experts) for the floor, 8 experts under 16 and more tokens (all) for the multiple.
    """
    table = table[(table["moe_dtype"] == "bfloat16") & (table["moe_ep_size"] == 1)]
    expert_bytes = 2.0 * 3 * table["hidden_size"] * table["inter_size"] / table["moe_tp_size"]
    one = (table["num_tokens"] == 1) & (expert_bytes * table["topk"]).between(4e6, 12e6)
    floor_us = table["us"][one].median()
    all_visited = (table["num_experts"] == 8) & table["num_tokens"].between(16, 128)
    read_us = 8 * expert_bytes / (hardware.memory_bandwidth_bytes_s / 1e6)
    multiple = ((table["us"] - floor_us) / read_us)[all_visited].median()
    return {"experts_floor_us": floor_us, "experts_multiple": multiple}


def all_reduce(table: pd.DataFrame, hardware: Hardware) -> dict[str, float]:
    """All-reduce in CUDA graphs, messages of up to 4 MB: latency and share of the link's bandwidth of one and
    of two shots; for GPUs on PCIe, of vLLM's one shot on two ranks and of NCCL's ring on more.
    """
    # message_size counts bfloat16 elements (aiconfigurator's collector): twice as many bytes.
    table = table[(table["backend"] == "vllm_graph") & (table["message_size"] * 2 <= 4194304)]
    table = table.assign(tensor_parallelism=table["num_gpus"], hardware=hardware.name)
    ranks, message = table["num_gpus"].to_numpy(float), table["message_size"].to_numpy() * 2.0
    two, wire = physics.two_shot(table, message), physics.all_reduce_wire_bytes(table, message)
    us = table["us"].to_numpy()
    one, link = np.ones(len(us)), hardware.nvlink_bandwidth_bytes_s / 1e6
    one_latency, one_byte = relative_fit([one[~two], wire[~two]], us[~two])
    two_latency, rank, two_byte = relative_fit([one[two], ranks[two], wire[two]], us[two])
    return {
        "one_shot_latency_us": one_latency,
        "one_shot_efficiency": 1 / one_byte / link,
        "two_shot_latency_us": two_latency,
        "two_shot_rank_us": rank,
        "two_shot_efficiency": 1 / two_byte / link,
    }


def profile(name: str, folder: Path) -> Profile:
    """The profile that the tables of one folder show."""
    hardware = catalog.hardware(name)
    gemms = read(folder, "gemm")
    shown = gemm(gemms[gemms["gemm_dtype"] == "bfloat16"], 2.0, hardware.peak_bf16_flops, hardware)
    eight = gemms[gemms["gemm_dtype"] == "fp8"]
    shown8 = gemm(eight, 1.0, hardware.peak_fp8_flops, hardware) if len(eight) else {}
    fitted = {
        **{f"gemm_{key}": value for key, value in shown.items()},
        **{f"fp8_gemm_{key}": value for key, value in shown8.items()},
        **decode_attention(read(folder, "decode_attention"), hardware, L2_BYTES[name]),
        **prefill_attention(read(folder, "prefill_attention"), hardware),
        **experts(read(folder, "moe"), hardware),
        **all_reduce(read(folder, "all_reduce"), hardware),
    }
    return Profile(**{key: float(f"{value:.{SIGNIFICANT}g}") for key, value in fitted.items()})


def profiles(folder: Path) -> pd.DataFrame:
    """A row each GPU of FOLDERS, as kernel_profiles.csv has it."""
    return pd.DataFrame(
        [{"name": name, **asdict(profile(name, folder / place))} for name, place in FOLDERS.items()]
    )


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    table = profiles(Path(sys.argv[1]))
    table.to_csv(packaged.FOLDER / kernels.TABLE, index=False)
    packaged.write_sums()
    print(table.set_index("name").T.to_string())


if __name__ == "__main__":
    main()
