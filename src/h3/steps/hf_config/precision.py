"""Bytes of a stored weight by part, and of a KV value: from the quantisation that a config names, wherever it
stands. How a server may be asked to hold them otherwise is in served.py.

>>> from h3.steps.hf_config.keys import Config
>>> awq = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
>>> of(Config(awq, awq, "config.json"), 32)["bytes_per_parameter"]        # 4 bits, scale, zero
0.51953125
"""

from __future__ import annotations

import re
from typing import Any

from h3.common.shown import shown
from h3.steps.hf_config.keys import Config, Mapping

DTYPES = {"float32": 2.0, "float16": 2.0, "bfloat16": 2.0, "float8_e4m3fn": 1.0, "int8": 1.0}
WIDE = 2.0  # what is not quantised is served in 16 bits
SCALE_BYTES, GROUP = 2.0, 128
GROUPED = ("awq", "gptq", "gptq_marlin", "awq_marlin", "auto-round", "auto_round", "intel/auto-round", "hqq")
Pattern = re.Pattern[str] | str  # of the modules that a quantiser leaves out
# Where a model has its layers: alone, and inside one that reads images, as it was and is written.
LAYERS = ("model.layers", "language_model.model.layers", "model.language_model.layers")
ATTENTION_MODULES = (
    "self_attn.q_proj",
    "self_attn.qkv_proj",
    "self_attn.o_proj",
    "self_attn.q_a_proj",
    "self_attn.kv_a_proj_with_mqa",
    "self_attn.W_pack",
)
FFN_MODULES = (
    "mlp.gate_proj",
    "mlp.experts.0.gate_proj",
    "feed_forward.experts.gate_up_proj",
    "block_sparse_moe.experts.0.w1",
    "mlp.experts",
)


def of(config: Config, layers: int) -> dict[str, float]:
    """Bytes of a weight of FFN, attention and LM head, and of a KV value, as fields of an Architecture."""
    quantised = config.mapping("quantization_config", anywhere=True)
    ffn, attention, head = _quantised(config, quantised, layers) if quantised else _plain(config)
    return {
        "bytes_per_parameter": ffn,
        "attention_bytes_per_parameter": attention,
        "head_bytes_per_parameter": head,
        "kv_bytes_per_value": 1.0 if _eight_bit_cache(quantised) else WIDE,
    }


def _plain(config: Config) -> tuple[float, float, float]:
    """Weights that no config quantises; vLLM casts 32-bit ones to 16 bits unless it is asked otherwise."""
    dtype = config.anywhere("torch_dtype") or config.anywhere("dtype") or "bfloat16"
    if not isinstance(dtype, str) or dtype.removeprefix("torch.") not in DTYPES:
        raise config.error(f"torch_dtype={dtype!r}; expected one of {', '.join(sorted(DTYPES))}")
    stored = DTYPES[dtype.removeprefix("torch.")]
    return stored, stored, max(stored, WIDE)


def _quantised(config: Config, quantised: Mapping, layers: int) -> tuple[float, float, float]:
    stored = _stored_bytes(config, quantised)
    left = _left_out(config, quantised)
    attention, ffn = (_most_match(left, layers, modules) for modules in (ATTENTION_MODULES, FFN_MODULES))
    head = stored if quantised.get("lm_head") is True else max(WIDE, stored)  # GPTQ says so
    return WIDE if ffn else stored, WIDE if attention else stored, head


def _stored_bytes(config: Config, quantised: Mapping) -> float:
    """Bytes of a quantised weight, with its share of the scales of its group."""
    method = str(quantised.get("quant_method", "")).lower()
    told = {key: quantised[key] for key in ("bits", "w_bit") if quantised.get(key) is not None}
    algorithm = str(quantised.get("quant_algo", "")).lower()
    if method == "compressed-tensors":
        return _compressed(config, quantised)
    if method == "mxfp4":
        return 0.5 + 1 / 32
    if "nvfp4" in algorithm:
        return 0.5 + 1 / 16
    if "fp8" in method or "fp8" in algorithm:
        return 1.0
    if method == "bitsandbytes" or quantised.get("load_in_4bit") or quantised.get("load_in_8bit"):
        return _bitsandbytes(quantised)
    if not told:
        raise config.error(
            f"quantization_config: quant_method={method!r} without bits; expected bits, or one"
            " of fp8, mxfp4, compressed-tensors, modelopt, bitsandbytes"
        )
    key, value = next(iter(told.items()))
    bits = _whole(config, key, value)
    group = quantised.get("group_size", quantised.get("q_group_size", GROUP if method in GROUPED else 0))
    group = 0 if isinstance(group, bool) or not isinstance(group, int) else group
    scales = SCALE_BYTES + bits / 8 if bits < 8 else SCALE_BYTES
    return bits / 8 + (scales / group if group > 0 else 0.0)


def _whole(config: Config, key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 16:
        raise config.error(f"{key}={shown(value)}; expected a positive whole number, of bits up to 16")
    return value


def _compressed(config: Config, quantised: Mapping) -> float:
    """Bytes of the layers of a compressed-tensors config, all of one size: bits, and scales of groups."""
    found = []
    groups = quantised.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if not isinstance(weights, dict):
            continue
        bits = _whole(config, "num_bits", weights.get("num_bits"))
        given = weights.get("group_size")
        size = given if isinstance(given, int) and not isinstance(given, bool) else 0
        scale = 1.0 if bits == 4 and weights.get("type") == "float" else SCALE_BYTES
        zero = 0.0 if weights.get("symmetric", True) else bits / 8
        found.append(bits / 8 + ((scale + zero) / size if size > 0 and bits < 8 else 0.0))
    if not found:
        raise config.error("quantization_config: no config_groups with weights.num_bits; expected some")
    if min(found) < max(found):
        raise config.error(f"config_groups of {min(found):g} and {max(found):g} bytes; expected one size")
    return found[0]


def _bitsandbytes(quantised: Mapping) -> float:
    """bitsandbytes: a 32-bit scale for 64 weights of 4 bits, quantised to 8 bits itself where doubled."""
    if not quantised.get("load_in_4bit"):
        return 1.0
    scale = 1 + 4 / 256 if quantised.get("bnb_4bit_use_double_quant") else 4.0
    return 0.5 + scale / 64


def _left_out(config: Config, quantised: Mapping) -> list[Pattern]:
    """Patterns of modules that stay as they are."""
    keys = ("ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules")
    lists = (quantised.get(key) for key in keys)
    return [_pattern(config, str(each)) for found in lists if isinstance(found, list) for each in found]


def _pattern(config: Config, text: str) -> Pattern:
    """As quantisers read it: a regular expression after "re:", else a part of the name, * for anything."""
    if not text.startswith("re:") and "*" not in text:
        return f".{text}."
    parts = ".*".join(re.escape(part) for part in text.split("*"))
    expression = text[3:] if text.startswith("re:") else rf"(.*\.)?{parts}($|\.)"
    try:
        return re.compile(expression)
    except re.error as error:
        raise config.error(f"quantization_config: {text!r} is no regular expression: {error}") from None


def _most_match(patterns: list[Pattern], layers: int, modules: tuple[str, ...]) -> bool:
    """Whether the patterns name one of the modules in at least half of the layers."""
    named = sum(
        any(
            _matches(pattern, f"{place}.{layer}.{module}")
            for place in LAYERS
            for module in modules
            for pattern in patterns
        )
        for layer in range(layers)
    )
    return 2 * named >= layers


def _matches(pattern: Pattern, name: str) -> bool:
    return pattern in f".{name}." if isinstance(pattern, str) else pattern.match(name) is not None


def _eight_bit_cache(quantised: Mapping) -> bool:
    scheme = quantised.get("kv_cache_scheme")
    bits = scheme.get("num_bits") if isinstance(scheme, dict) else None
    return bits == 8 or str(quantised.get("kv_cache_quant_algo", "")).lower() == "fp8"
