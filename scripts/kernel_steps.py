"""Whole steps added up from each GPU's kernel tables, beside what the physical base says of them.

    python scripts/kernel_steps.py DIR      # a row each GPU: base over kernels; DIR: fit_kernel_priors.py's

The base has its prior coefficients, without what no kernel table holds (host, sampler, all-reduce in a
server). Where other GPUs' ratios are as an H100's, coefficients fitted on H100 logs carry over to them. With
`without`, each GPU takes the profile of the nearest of the others: what a GPU without tables can expect.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from fit_kernel_priors import FOLDERS, read
from scipy.interpolate import RegularGridInterpolator

from h3.steps import batch, catalog, kernels, physics
from h3.steps.catalog import Architecture
from h3.steps.priors import PRIOR

MODELS = (
    "llama-2-7b",
    "llama-3.1-8b-instruct",
    "mistral-nemo-instruct-2407",
    "codellama-34b",
    "llama-2-70b",
)
DEGREES = (1, 2, 4)
# Decoding requests, context, prefill tokens.
STEPS = (
    *((1, 500, 0), (8, 700, 0), (16, 700, 0), (32, 700, 0), (64, 700, 0), (128, 700, 0), (32, 4000, 0)),
    *((8, 700, 256), (32, 700, 512), (64, 700, 1024)),
)
NOT_IN_TABLES = ("requests", "step", "sampler_us", "two_shots")
WIDEST, DEEPEST = 65536, 16384  # of the GEMM tables


class Tables:
    """One GPU's kernel latencies, us, log-linear between the sizes that were measured."""

    def __init__(self, folder: Path, dtype: str, hardware: catalog.Hardware) -> None:
        gemms = read(folder, "gemm").query(
            "gemm_dtype == @dtype and 512 <= n <= @WIDEST and 512 <= k <= @DEEPEST"
        )
        latency = gemms.groupby(["m", "n", "k"])["us"].min().map(np.log).unstack("k")
        latency = latency.interpolate(axis=1, limit_direction="both")  # sizes that are missing
        sizes = [np.unique(latency.index.get_level_values(level)) for level in ("m", "n")]
        latency = latency.reindex(pd.MultiIndex.from_product(sizes)).groupby(level=0).ffill().bfill()
        sizes.append(latency.columns.to_numpy())
        values = latency.to_numpy().reshape([len(size) for size in sizes])
        points = tuple(np.log(size.astype(float)) for size in sizes)
        self.gemms = RegularGridInterpolator(points, values, bounds_error=False, fill_value=None)
        by_heads = ["num_heads", "num_key_value_heads"]
        self.decode = dict(list(read(folder, "decode_attention").sort_values("step").groupby(by_heads)))
        prefill = read(folder, "prefill_attention").query("batch_size == 1").sort_values("isl")
        self.prefill = dict(list(prefill.groupby(by_heads)))
        reduces = read(folder, "all_reduce").query("backend == 'vllm_graph'").sort_values("message_size")
        self.reduces = dict(list(reduces.groupby("num_gpus")))
        self.bandwidth = hardware.memory_bandwidth_bytes_s / 1e6

    def gemm(self, m: float, n: float, k: float) -> float:
        """[m, k] x [k, n]."""
        beyond = max(1.0, n / WIDEST) * max(1.0, k / DEEPEST)
        wanted = np.log([float(m), min(n, WIDEST), min(k, DEEPEST)])
        return float(np.exp(self.gemms(wanted)[0]) * beyond)

    def decode_attention(self, requests: float, context: float, heads: int, kv_heads: int) -> float:
        """Not less than the memory takes: what the L2 cache held in the tables, it does not in a server."""
        rows = self.decode[heads, kv_heads]
        by_batch = [
            np.interp(np.log(context), np.log(part["step"] + 1.0), np.log(part["us"]))
            for _, part in rows.groupby("batch_size")
        ]
        sizes = np.log(np.sort(rows["batch_size"].unique()).astype(float))
        read_us = requests * context * kv_heads * 512 / self.bandwidth
        return max(float(np.exp(np.interp(np.log(requests), sizes, by_batch))), 1.1 * read_us)

    def prefill_attention(self, tokens: float, heads: int, kv_heads: int) -> float:
        """One prompt, nothing computed before."""
        rows = self.prefill[heads, kv_heads]
        return float(np.exp(np.interp(np.log(tokens), np.log(rows["isl"].astype(float)), np.log(rows["us"]))))

    def all_reduce(self, ranks: int, message_bytes: float) -> float:
        """In a CUDA graph."""
        rows = self.reduces[ranks]
        sizes = np.log(rows["message_size"] * 2.0)
        return float(np.exp(np.interp(np.log(message_bytes), sizes, np.log(rows["us"]))))

    def step_us(self, arch: Architecture, ranks: int, step: tuple[int, int, int]) -> float:
        """All kernels of one step that the tables hold."""
        requests, context, new = step
        tokens, hidden, ffn = requests + new, arch.hidden_size, arch.dense_ffn_size // ranks
        heads, kv_heads = arch.num_heads // ranks, max(1, arch.num_kv_heads // ranks)
        layer = [
            self.gemm(tokens, (heads + 2 * kv_heads) * arch.head_dim, hidden),
            self.gemm(tokens, hidden, heads * arch.head_dim),
            self.gemm(tokens, 2 * ffn, hidden),
            self.gemm(tokens, hidden, ffn),
            self.decode_attention(requests, context, heads, kv_heads),
            self.prefill_attention(new, heads, kv_heads) if new else 0.0,
            2 * self.all_reduce(ranks, tokens * hidden * 2.0) if ranks > 1 else 0.0,
        ]
        head = self.gemm(requests + (new > 0), arch.vocab_size // ranks, hidden)
        return arch.num_layers * sum(layer) + head


def base_us(arch: Architecture, ranks: int, hardware: str) -> np.ndarray:
    """The base with its prior coefficients for STEPS, without what no table holds."""
    steps = batch.uniform(*np.array(STEPS, float).T)
    terms = physics.terms_us(batch.with_deployment(steps, batch.Deployment(arch, ranks, hardware)))
    return sum(terms[name].to_numpy() * PRIOR[name][0] for name in physics.TERMS if name not in NOT_IN_TABLES)


def measurable(arch: Architecture) -> Architecture:
    """The tables of decode attention have at most 8 KV heads."""
    return replace(arch, num_kv_heads=min(8, arch.num_kv_heads))


@cache
def tables_of(folder: Path, hardware: str, dtype: str) -> Tables:
    """Read once."""
    return Tables(folder / FOLDERS[hardware], dtype, catalog.hardware(hardware))


def compared(folder: Path, hardware: str, as_hardware: str, eight_bit: bool = False) -> pd.DataFrame:
    """A row each step: base of `as_hardware` over the kernels of `hardware`, and which step it is."""
    dtype = "fp8" if eight_bit else "bfloat16"
    tables = tables_of(folder, hardware, dtype)
    rows = []
    for name in MODELS:
        arch = measurable(catalog.architecture(name)).at(1.0 if eight_bit else 2.0)
        for ranks in DEGREES:
            base = base_us(arch, ranks, as_hardware)
            for step, us in zip(STEPS, base, strict=True):
                ratio = us / tables.step_us(arch, ranks, step)
                rows.append({"model": name, "ranks": ranks, "step": step, "ratio": ratio})
    return pd.DataFrame(rows)


def without(hardware: str) -> str:
    """The GPU as if its tables were not there: its name, with the nearest of the others' profiles."""
    own = catalog.hardware(hardware)
    other = kernels.nearest(own, apart_from=hardware)
    catalog.add_hardware(replace(own, name=f"{hardware} as {other}", kernels=other))
    return f"{hardware} as {other}"


def summary(rows: pd.DataFrame) -> dict[str, float]:
    """Geometric mean of base over kernels: all, decode steps, up to two ranks; spread of its logarithm."""
    decode, logs = rows["step"].map(lambda step: step[2] == 0), np.log(rows["ratio"])
    few = rows["ranks"] <= 2
    parts = {"all": logs, "decode": logs[decode], "prefill": logs[~decode]}
    parts |= {"decode, 1-2 ranks": logs[decode & few], "decode, 4 ranks": logs[decode & ~few]}
    return {name: float(np.exp(part.mean())) for name, part in parts.items()} | {"spread": logs.std()}


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder, found = Path(sys.argv[1]), {}
    for name in FOLDERS:
        found[name] = summary(compared(folder, name, name))
        if name != "A100":
            found[f"{name} FP8"] = summary(compared(folder, name, name, eight_bit=True))
        found[f"{name}, no profile"] = summary(compared(folder, name, unscaled(name)))
        if kernels.has_tables(catalog.hardware(name)) and name in ("H200", "A100", "L40S"):
            as_other = without(name)
            found[as_other] = summary(compared(folder, name, as_other))
    print(pd.DataFrame(found).T.round(3).to_string())


def unscaled(hardware: str) -> str:
    """The GPU with an H100's kernels, as before there were profiles."""
    name = f"{hardware} as H100"
    catalog.add_hardware(replace(catalog.hardware(hardware), name=name, kernels="H100"))
    return name


if __name__ == "__main__":
    main()
