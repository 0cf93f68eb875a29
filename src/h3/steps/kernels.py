"""How fast each GPU's kernels are beside an H100's, from tables of single kernels; physics.py scales by it.

    of(catalog.hardware("A100")).weights                # its multiple of the read time at peak over an H100's

The base's coefficients are fitted on H100 logs, so they hold what an H100's kernels reach of the data sheet's
peaks. Another GPU reaches another share; `Kernels` is the ratio of its profile (a row of
data/kernel_profiles.csv, made by scripts/fit_kernel_priors.py) to the H100's, 1 for an H100 itself.

`layers` scales all that a layer costs beside its bytes and FLOPs, also the small element-wise kernels that no
table holds. Both are latencies of kernels in a CUDA graph: launch, pipeline fill, a chain of dependent
instructions at the SM's clock. The floors of an A100's GEMMs and attention are 1.5 times an H100's, its
boost clock is 1.4 times lower (data sheets: 1.41 and 1.98 GHz). What the host does for a step or a request
is not scaled.

A GPU without tables takes the figures of the nearest one that has some: in memory bandwidth and 16-bit FLOP/s
(distance of their logarithms) for its kernels, in link bandwidth, of the same kind, for its all-reduce.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from functools import cache
from math import hypot, log

import numpy as np

from h3.common import packaged
from h3.common.errors import InputError
from h3.steps import catalog
from h3.steps.catalog import Hardware

TABLE = "kernel_profiles.csv"
REFERENCE = "H100"  # the GPU of the logs that the base is fitted on
FLOORS_A_LAYER = 4  # GEMMs: query-key-value, output, gate and up, down


@dataclass(frozen=True)
class Profile:
    """What one GPU's kernel tables show: floors and latencies in us, multiples of times at peak, shares of
    peak. gemm_bend: physics.excess_us. `fp8_`: 8-bit weights; None for a GPU that computes them as 16-bit.
    """

    gemm_floor_us: float
    gemm_multiple: float
    gemm_efficiency: float
    gemm_bend: float
    decode_attention_floor_us: float
    wave_us: float
    kv_multiple: float
    prefill_attention_efficiency: float
    experts_floor_us: float
    experts_multiple: float
    one_shot_latency_us: float
    one_shot_efficiency: float
    two_shot_latency_us: float
    two_shot_rank_us: float
    two_shot_efficiency: float
    fp8_gemm_floor_us: float | None = None
    fp8_gemm_multiple: float | None = None
    fp8_gemm_efficiency: float | None = None
    fp8_gemm_bend: float | None = None

    @property
    def has_fp8(self) -> bool:
        """Whether there are tables of 8-bit weights."""
        return self.fp8_gemm_floor_us is not None

    def gemm(self, eight_bit: bool) -> Gemm:
        """Of 16-bit or of 8-bit weights."""
        names = [f"{'fp8_' * eight_bit}gemm_{field.name}" for field in fields(Gemm)]
        return Gemm(*(getattr(self, name) for name in names))


@dataclass(frozen=True)
class Gemm:
    """GEMMs: floor, multiple of the time to read the weights, share of peak FLOP/s, bend between them."""

    floor_us: float
    multiple: float
    efficiency: float
    bend: float


@dataclass(frozen=True)
class Kernels:
    """A GPU's kernels relative to an H100's: `profile` and `link` name the tables that they come from, all
    else are factors of the terms and constants in physics.py; the bends are 0 for an H100.
    """

    profile: str
    link: str
    weights: float
    fp8_weights: float
    experts: float
    kv: float
    attention_waves: float
    layers: float
    fp8_layers: float
    moe_layers: float
    gemm_efficiency: float
    fp8_gemm_efficiency: float
    gemm_bend: float
    fp8_gemm_bend: float
    attention_efficiency: float
    one_shot_latency: float
    one_shot_efficiency: float
    two_shot_latency: float
    two_shot_rank: float
    two_shot_efficiency: float


@cache
def profiles() -> dict[str, Profile]:
    """The packaged profiles by name; raises InputError if their file is not what was packaged."""
    with open(packaged.checked(TABLE), newline="") as file:
        return {row.pop("name"): _profile(row) for row in map(dict, csv.DictReader(file))}


def _profile(row: dict[str, str]) -> Profile:
    return Profile(**{key: float(value) for key, value in row.items() if value})


@cache
def of(hardware: Hardware) -> Kernels:
    """A GPU's kernels relative to an H100's; raises InputError for `kernels` that names no profile."""
    chip = hardware.kernels or nearest(hardware)
    if chip not in profiles():
        raise InputError(f"{hardware.name}: kernels={chip!r}; expected one of {', '.join(profiles())}")
    link = nearest_link(hardware, chip)
    own, other, h100 = profiles()[chip], profiles()[link], profiles()[REFERENCE]
    return Kernels(
        profile=chip,
        link=link,
        **_of_gemms(own, h100, eight_bit=False),
        **{f"fp8_{name}": value for name, value in _of_gemms(own, h100, own.has_fp8).items()},
        experts=own.experts_multiple / h100.experts_multiple,
        kv=own.kv_multiple / h100.kv_multiple,
        attention_waves=own.wave_us / h100.wave_us,
        moe_layers=own.experts_floor_us / h100.experts_floor_us,
        attention_efficiency=own.prefill_attention_efficiency / h100.prefill_attention_efficiency,
        one_shot_latency=other.one_shot_latency_us / h100.one_shot_latency_us,
        one_shot_efficiency=other.one_shot_efficiency / h100.one_shot_efficiency,
        two_shot_latency=other.two_shot_latency_us / h100.two_shot_latency_us,
        two_shot_rank=other.two_shot_rank_us / h100.two_shot_rank_us,
        two_shot_efficiency=other.two_shot_efficiency / h100.two_shot_efficiency,
    )


def _of_gemms(own: Profile, h100: Profile, eight_bit: bool) -> dict[str, float]:
    """What GEMMs have part in; `layers`: the kernels of a dense layer that reads and computes nothing."""
    mine, its = own.gemm(eight_bit), h100.gemm(eight_bit)
    floors_us = FLOORS_A_LAYER * np.array([mine.floor_us, its.floor_us])
    floors_us += [own.decode_attention_floor_us, h100.decode_attention_floor_us]
    return {
        "weights": mine.multiple / its.multiple,
        "layers": float(floors_us[0] / floors_us[1]),
        "gemm_efficiency": mine.efficiency / its.efficiency,
        "gemm_bend": max(0.0, mine.bend - its.bend),
    }


def has_tables(hardware: Hardware) -> bool:
    """Whether the GPU's kernels themselves were measured."""
    return hardware.kernels == hardware.name and hardware.name in profiles()


def _with_tables(apart_from: str | None) -> list[Hardware]:
    return [
        other
        for other in catalog.HARDWARE.values()
        if other.kernels == other.name and other.name not in (apart_from, "H100-vLLM-0.24")
    ]


def nearest(hardware: Hardware, apart_from: str | None = None) -> str:
    """The profile of the GPU whose memory bandwidth and 16-bit FLOP/s are nearest."""

    def distance(other: Hardware) -> float:
        return hypot(
            log(other.memory_bandwidth_bytes_s / hardware.memory_bandwidth_bytes_s),
            log(other.peak_bf16_flops / hardware.peak_bf16_flops),
        )

    return min(_with_tables(apart_from), key=distance).name


def nearest_link(hardware: Hardware, chip: str, apart_from: str | None = None) -> str:
    """The profile of the GPU with a link of the same kind and nearest bandwidth, `chip` first."""
    others = [catalog.HARDWARE[chip]] if chip != apart_from else []
    others = [
        other for other in [*others, *_with_tables(apart_from)] if other.over_pcie == hardware.over_pcie
    ]
    bandwidth = hardware.nvlink_bandwidth_bytes_s
    near = min(others, key=lambda other: abs(log(other.nvlink_bandwidth_bytes_s / bandwidth)), default=None)
    return near.name if near else chip


# Standard deviations of the logarithm of base over kernels between GPUs (scripts/kernel_steps.py: whole steps
# of five dense models, H200, A100 and L40S beside an H100): with the GPU's own profile, and with that of the
# nearest of the others.
TABLES_LOG_ERROR, NEAREST_LOG_ERROR = 0.01, 0.06


def told(hardware: Hardware) -> str:
    """What an answer for a GPU without tables of its own says; "" for one with."""
    if has_tables(hardware):
        return ""
    taken = of(hardware)
    why = "as its file says" if hardware.kernels else "the nearest in memory bandwidth and FLOP/s"
    return (
        f"{hardware.name}: no kernel of it was measured; its kernels are taken to reach the shares of peak of"
        f" {taken.profile}'s ({why}), its all-reduce of {taken.link}'s"
    )
