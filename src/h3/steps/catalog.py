"""What a model and an accelerator are made of. This file owns architectures, hardware and the names of
models.

    mine = from_hf_config(json.load(open("config.json")), "config.json")

>>> architecture("llama-2-70b").num_kv_heads            # one of the models that h3 knows
8
>>> hardware("H100").streaming_multiprocessors
132
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from h3.common.errors import InputError
from h3.steps.architecture import LEAST_EXPERTS, Architecture
from h3.steps.hf_config import AS_PUBLISHED, Served, from_hf_config, read_hf_config

if TYPE_CHECKING:  # scripts/measure_steps.py runs where pandas is not installed
    import pandas as pd

__all__ = [
    "LEAST_EXPERTS",
    "Architecture",
    "Hardware",
    "architecture",
    "check_tensor_parallelism",
    "comparable",
    "from_hf_config",
    "hardware",
    "is_moe",
    "model_name",
    "parse_experiment",
    "read_hf_config",
    "workload_name",
]


@dataclass(frozen=True)
class Hardware:
    """One accelerator; peaks are dense (no sparsity) figures of the vendor's data sheet, SI units.

    nvlink_bandwidth_bytes_s: of the link between the GPUs of a server, one direction, PCIe where there is no
    NVLink. kernels: whose kernel tables its efficiencies come from (steps/kernels.py); None: the nearest.
    """

    name: str
    peak_bf16_flops: float
    peak_fp8_flops: float
    memory_bandwidth_bytes_s: float
    nvlink_bandwidth_bytes_s: float
    memory_bytes: float
    streaming_multiprocessors: int
    kernels: str | None = None

    @property
    def over_pcie(self) -> bool:
        """Whether the GPUs of a server talk over PCIe, by the bandwidth of their link."""
        return self.nvlink_bandwidth_bytes_s < LEAST_NVLINK_BYTES_S


LEAST_NVLINK_BYTES_S = 128e9  # one direction: PCIe 6.0 x16 has 121 GB/s, NVLink 2 150

# Vendor data sheets, dense: NVIDIA H100 SXM5, H200 SXM, A100 80GB SXM, L40S; then GPUs whose kernels nobody
# measured here (the nearest profile). The link is NVLink, one direction; L40S, A10 and L4 have PCIe 4.0 x16.
HARDWARE = {
    entry.name: entry
    for entry in (
        Hardware("H100", 989.5e12, 1979e12, 3.35e12, 450e9, 80e9, 132, "H100"),
        Hardware("H100-vLLM-0.24", 989.5e12, 1979e12, 3.35e12, 450e9, 80e9, 132, "H100-vLLM-0.24"),
        Hardware("H200", 989.5e12, 1979e12, 4.8e12, 450e9, 141e9, 132, "H200"),
        Hardware("A100", 312e12, 312e12, 2.039e12, 300e9, 80e9, 108, "A100"),
        Hardware("L40S", 362e12, 733e12, 0.864e12, 32e9, 48e9, 142, "L40S"),
        Hardware("A100-40GB", 312e12, 312e12, 1.555e12, 300e9, 40e9, 108),
        Hardware("H100-NVL", 835e12, 1671e12, 3.9e12, 300e9, 94e9, 132),
        Hardware("B200", 2250e12, 4500e12, 8e12, 900e9, 180e9, 148),
        Hardware("A10", 125e12, 125e12, 0.6e12, 32e9, 24e9, 72),
        Hardware("L4", 121e12, 242e12, 0.3e12, 32e9, 24e9, 58),
    )
}
HARDWARE_ALIASES = {
    "h100": "H100",
    "h100-sxm": "H100",
    "h100 sxm": "H100",
    "nvidia h100 80gb hbm3": "H100",
    "h200": "H200",
    "h200-sxm": "H200",
    "nvidia h200": "H200",
    "a100": "A100",
    "a100-sxm": "A100",
    "a100-80gb": "A100",
    "a100 80gb": "A100",
    "nvidia a100-sxm4-80gb": "A100",
    "l40s": "L40S",
    "nvidia l40s": "L40S",
    "h100-vllm-0.24": "H100-vLLM-0.24",
    "a100-80": "A100",
    "a100-40gb": "A100-40GB",
    "nvidia a100-sxm4-40gb": "A100-40GB",
    "h100-nvl": "H100-NVL",
    "nvidia h100 nvl": "H100-NVL",
    "b200": "B200",
    "nvidia b200": "B200",
    "a10": "A10",
    "nvidia a10": "A10",
    "l4": "L4",
    "nvidia l4": "L4",
}
_ADDED: dict[str, Hardware] = {}  # lower-case name → one's own, for as long as the process lives

# Models of the built-in data (their published config.json): the study's four, and those of the stage means.
MODELS = {
    "llama-2-7b": Architecture(32, 4096, 32, 32, 128, 32000, 11008, 0, 0, 0, 0, 0, 2.0),
    "llama-2-70b": Architecture(80, 8192, 64, 8, 128, 32000, 28672, 0, 0, 0, 0, 0, 2.0),
    "codellama-34b": Architecture(48, 8192, 64, 8, 128, 32000, 22016, 0, 0, 0, 0, 0, 2.0),
    "mixtral-8x7b-v0-1": Architecture(32, 4096, 32, 8, 128, 32000, 0, 32, 8, 2, 14336, 0, 2.0),
    "llama-3.1-8b-instruct": Architecture(32, 4096, 32, 8, 128, 128256, 14336, 0, 0, 0, 0, 0, 2.0),
    "llama-3.1-70b-instruct": Architecture(80, 8192, 64, 8, 128, 128256, 28672, 0, 0, 0, 0, 0, 2.0),
    "qwen2.5-7b-instruct": Architecture(28, 3584, 28, 4, 128, 152064, 18944, 0, 0, 0, 0, 0, 2.0),
    "qwen3-14b": Architecture(40, 5120, 40, 8, 128, 151936, 17408, 0, 0, 0, 0, 0, 2.0),
    "mistral-nemo-instruct-2407": Architecture(40, 5120, 32, 8, 128, 131072, 14336, 0, 0, 0, 0, 0, 2.0),
    "yi-34b": Architecture(60, 7168, 56, 8, 128, 64000, 20480, 0, 0, 0, 0, 0, 2.0),
    "mixtral-8x22b-instruct-v0.1": Architecture(56, 6144, 48, 8, 128, 32768, 0, 56, 8, 2, 16384, 0, 2.0),
    # Its FP8 leaves attention and head in 16 bits (`ignore` of its quantisation); 36 layers attend in chunks.
    "llama-4-scout-17b-16e-instruct-fp8-dynamic": Architecture(
        *(48, 5120, 40, 8, 128, 202048, 0, 48, 16, 1, 8192, 8192, 1.0),
        window_tokens=8192,
        num_window_layers=36,
    ),
}
MODEL_ALIASES = {
    "llama-2-7b-hf": "llama-2-7b",
    "llama-2-70b-hf": "llama-2-70b",
    "codellama-34b-hf": "codellama-34b",
    "codellama-34b-instruct-hf": "codellama-34b",
    "mixtral-8x7b-v0.1": "mixtral-8x7b-v0-1",
}


def is_moe(table: pd.DataFrame) -> np.ndarray:
    """Whether the model of each row of a step table has experts, bool of shape (rows,)."""
    return np.asarray(table["num_experts"].to_numpy() >= LEAST_EXPERTS)


def model_name(name_or_id: str) -> str:
    """The name of a model from its name or HuggingFace id: last part, lower case, known aliases joined."""
    name = name_or_id.strip().rstrip("/").split("/")[-1].lower()
    return MODEL_ALIASES.get(name, name)


def workload_name(name: str) -> str:
    """The name of a workload: lower case, one space where there are several, no letters that only look alike
    or cannot be seen.
    """
    plain = unicodedata.normalize("NFKC", name).casefold()
    seen = (" " if char.isspace() else char for char in plain if unicodedata.category(char) != "Cf")
    return " ".join("".join(seen).split())


def comparable(group: str, name: str) -> str:
    """A model's or a workload's name as names are compared: no case, "-" for all that separates."""
    plain = model_name(workload_name(name)) if group == "model" else workload_name(name)
    return re.sub(r"[\W_]+", "-", plain).strip("-") or plain


def architecture(
    name_or_id: str, config_dir: str | Path | None = None, served: Served = AS_PUBLISHED
) -> Architecture:
    """The architecture of a model as it is served: from `<config_dir>/<model>/config.json` where given, else
    of those known.

    Raises InputError that names the option if the model is in neither.
    """
    name = model_name(name_or_id)
    if config_dir is not None:
        for path in sorted(Path(config_dir).glob("*/config.json")):
            if model_name(path.parent.name) == name:
                return read_hf_config(path, served)
    if name in MODELS:
        return served.of(MODELS[name], name_or_id)
    raise InputError(
        f"unknown model {name_or_id!r}; h3 knows {', '.join(sorted(MODELS))}: put its HuggingFace config.json"
        f" into the experiment's folder, or into DIR/{name}/config.json with source.model_configs=DIR"
    )


def check_tensor_parallelism(arch: Architecture, tensor_parallelism: int, where: str) -> None:
    """Raises InputError unless the degree divides the query heads (KV heads may be replicated)."""
    if tensor_parallelism < 1 or arch.num_heads % tensor_parallelism:
        raise InputError(
            f"{where}: tensor parallelism {tensor_parallelism} does not divide {arch.num_heads} heads"
        )


def hardware(name: str) -> Hardware:
    """The accelerator of that name (aliases as in driver and cloud names, and those added); raises InputError
    listing the known.
    """
    wanted = str(name).strip().lower()
    if wanted in _ADDED:
        return _ADDED[wanted]
    if wanted in HARDWARE_ALIASES:
        return HARDWARE[HARDWARE_ALIASES[wanted]]
    known = ", ".join([*HARDWARE, *(entry.name for entry in _ADDED.values())])
    raise InputError(
        f"unknown hardware {name!r}; expected one of {known}, or the FILE.yaml that describes it:"
        " hardware=FILE.yaml, source.assume.hardware=FILE.yaml"
    )


def knows(name: str) -> bool:
    """Whether `hardware` finds an accelerator of that name."""
    wanted = str(name).strip().lower()
    return wanted in _ADDED or wanted in HARDWARE_ALIASES


def add_hardware(entry: Hardware) -> None:
    """Make one's own accelerator known by its name, in this process; raises InputError where the name is
    taken by one with other figures.
    """
    key = entry.name.strip().lower()
    taken = HARDWARE.get(HARDWARE_ALIASES.get(key, "")) or _ADDED.get(key)
    if taken and taken != entry:
        raise InputError(
            f"hardware {entry.name!r}: the name stands for {taken.name} with other figures; expected a name"
            " of its own"
        )
    if not taken:
        _ADDED[key] = entry


def added_hardware() -> list[Hardware]:
    """The accelerators that add_hardware made known."""
    return list(_ADDED.values())


EXPERIMENT_PATTERN = re.compile(r"^\d{8}-\d{6}-(?P<model>.+)-tp(?P<tp>\d+)-(?P<workload>[^-]+)$")


def parse_experiment(name: str) -> dict[str, str] | None:
    """Model, tp and workload in a name `YYYYMMDD-HHMMSS-<model>-tp<N>-<workload>`; None for another
    pattern.
    """
    match = EXPERIMENT_PATTERN.match(name)
    return match.groupdict() if match else None
