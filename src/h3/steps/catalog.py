"""What a model and an accelerator are made of. This file owns architectures, hardware and the names of
models.

    mine = from_hf_config(json.load(open("config.json")), "config.json")

>>> architecture("llama-2-70b").num_kv_heads            # one of the models that h3 knows
8
>>> hardware("H100").streaming_multiprocessors
132
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from h3.common.errors import InputError

if TYPE_CHECKING:  # scripts/measure_steps.py runs where pandas is not installed
    import pandas as pd

EXPERT_COUNT_KEYS = (
    "num_experts",
    "moe_num_experts",
    "n_routed_experts",
    "num_local_experts",
    "num_routed_experts",
)
LEAST_EXPERTS = 2  # of a model that is MoE, as BLIS has it
MAX_CONFIG_BYTES = 16_000_000
BYTES_PER_PARAMETER = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "float8_e4m3fn": 1.0, "int8": 1.0}


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer; field names and units are the step table's architecture columns."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    dense_ffn_size: int
    num_moe_layers: int
    num_experts: int
    experts_per_token: int
    expert_ffn_size: int
    shared_ffn_size: int
    bytes_per_parameter: float

    @property
    def is_moe(self) -> bool:
        """Whether it has experts."""
        return self.num_experts >= LEAST_EXPERTS

    def at(self, bytes_per_parameter: float) -> Architecture:
        """The same with weights of so many bytes."""
        return replace(self, bytes_per_parameter=bytes_per_parameter)

    def columns(self) -> dict[str, float]:
        """Field name → value, as columns of a step table."""
        return asdict(self)


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
    "llama-4-scout-17b-16e-instruct-fp8-dynamic": Architecture(
        48, 5120, 40, 8, 128, 202048, 0, 48, 16, 1, 8192, 8192, 1.0
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


def architecture(name_or_id: str, config_dir: str | Path | None = None) -> Architecture:
    """The architecture of a model: from `<config_dir>/<model>/config.json` where given, else of those
    known.

    Raises InputError that names the option if the model is in neither.
    """
    name = model_name(name_or_id)
    if config_dir is not None:
        for path in sorted(Path(config_dir).glob("*/config.json")):
            if model_name(path.parent.name) == name:
                return read_hf_config(path)
    if name in MODELS:
        return MODELS[name]
    raise InputError(
        f"unknown model {name_or_id!r}; h3 knows {', '.join(sorted(MODELS))}: put its HuggingFace config.json"
        f" into the experiment's folder, or into DIR/{name}/config.json with source.model_configs=DIR"
    )


def read_hf_config(path: str | Path) -> Architecture:
    """The architecture in a HuggingFace config.json; raises InputError for a file that is none."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a HuggingFace config.json") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise InputError(f"{path}: more than {MAX_CONFIG_BYTES} bytes; expected a HuggingFace config.json")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:  # also digits without end
        raise InputError(f"{path}: not JSON ({error}); expected a HuggingFace config.json") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: holds a {type(config).__name__}; expected a JSON object")
    return from_hf_config(config, str(path))


def from_hf_config(config: dict[str, Any], where: str) -> Architecture:
    """The architecture that a HuggingFace config describes (a `text_config` inside is used where present).

    A model is MoE iff the first key >= 2 of EXPERT_COUNT_KEYS exists. Gated FFNs of three matrices are
    assumed (as in Llama, Mixtral, Qwen); latent attention (`kv_lora_rank`) is refused, its KV cache has
    another form. Raises InputError naming the key.
    """
    config = _mapping(config, where, "text_config") or config
    if config.get("kv_lora_rank"):
        raise InputError(
            f"{where}: kv_lora_rank={config['kv_lora_rank']}: multi-head latent attention is not supported"
        )
    layers = _positive(config, where, "num_hidden_layers")
    hidden = _positive(config, where, "hidden_size")
    heads = _positive(config, where, "num_attention_heads")
    ffn = _positive(config, where, "intermediate_size")
    head_dim = _positive(config, where, "head_dim", default=hidden // heads)
    moe = _experts(config, where, layers, ffn)
    return Architecture(
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=_positive(config, where, "num_key_value_heads", default=heads),
        head_dim=head_dim,
        vocab_size=_positive(config, where, "vocab_size"),
        dense_ffn_size=ffn if moe["num_moe_layers"] < layers else 0,
        bytes_per_parameter=_bytes_per_parameter(config, where),
        **moe,
    )


def _experts(config: dict[str, Any], where: str, layers: int, ffn: int) -> dict[str, int]:
    keys = ("num_moe_layers", "num_experts", "experts_per_token", "expert_ffn_size", "shared_ffn_size")
    count_key = next(
        (
            key
            for key in EXPERT_COUNT_KEYS
            if isinstance(config.get(key), int) and config[key] >= LEAST_EXPERTS
        ),
        None,
    )
    if count_key is None:
        return dict.fromkeys(keys, 0)
    experts = config[count_key]
    top_k_key = next(
        (
            key
            for key in ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k")
            if config.get(key)
        ),
        None,
    )
    if top_k_key is None:
        raise InputError(
            f"{where}: {count_key}={experts} but no num_experts_per_tok; expected the experts that a token"
            " visits"
        )
    top_k = _positive(config, where, top_k_key)
    if top_k > experts:
        raise InputError(f"{where}: {top_k_key}={top_k} exceeds {count_key}={experts}")
    expert_ffn = _positive(config, where, "moe_intermediate_size", default=ffn)
    shared = _at_least_zero(config, where, "shared_expert_intermediate_size")
    shared = shared or expert_ffn * _at_least_zero(config, where, "n_shared_experts")
    dense_first = _at_least_zero(config, where, "first_k_dense_replace")
    steps = (
        _at_least_zero(config, where, key)
        for key in ("decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step")
    )
    moe_layers = max(0, layers - dense_first) // next((step for step in steps if step), 1)
    return dict(zip(keys, (moe_layers, experts, top_k, expert_ffn, shared), strict=True))


def _positive(config: dict[str, Any], where: str, key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if value is None:
        raise InputError(f"{where}: key {key!r} is missing; expected a positive whole number")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise InputError(f"{where}: {key}={value!r}; expected a positive whole number")
    return value


def _at_least_zero(config: dict[str, Any], where: str, key: str) -> int:
    """An optional whole number; 0 where it is missing or null."""
    return _positive(config, where, key) if config.get(key) else 0


def _mapping(config: dict[str, Any], where: str, key: str) -> dict[str, Any]:
    """An optional mapping; empty where it is missing or null."""
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise InputError(f"{where}: {key}={value!r}; expected a mapping")
    return value


def _bytes_per_parameter(config: dict[str, Any], where: str) -> float:
    quantised = _mapping(config, where, "quantization_config")
    if "fp8" in str(quantised.get("quant_method", "")).lower():
        return 1.0
    if quantised:
        return _positive(quantised, where, "bits", default=4 if quantised.get("load_in_4bit") else 8) / 8
    dtype = config.get("torch_dtype") or config.get("dtype") or "bfloat16"
    if not isinstance(dtype, str) or dtype not in BYTES_PER_PARAMETER:
        raise InputError(
            f"{where}: torch_dtype={dtype!r}; expected one of {', '.join(sorted(BYTES_PER_PARAMETER))}"
        )
    return BYTES_PER_PARAMETER[dtype]


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
