"""An accelerator of one's own from a YAML file: hardware=FILE.yaml.

    name: MyCard
    peak_bf16_tflops: 250            # dense; or peak_bf16_flops
    peak_fp8_tflops: 500             # optional: as bf16
    memory_bandwidth_gb_s: 1800      # or memory_bandwidth_bytes_s
    memory_gb: 48                    # or memory_bytes
    link_gb_s: 32                    # one direction, to the other GPUs of the server; or link_bytes_s
    streaming_multiprocessors: 120
    kernels: A100                    # optional: whose kernels' efficiencies to take; absent: the nearest

>>> named("H100")                                                          # any other word is a name
'H100'
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import yaml

from h3.common.errors import InputError
from h3.steps import catalog, kernels
from h3.steps.catalog import Hardware

SUFFIXES = (".yaml", ".yml")
# Figure: its key in SI units, a key in the unit of data sheets and that unit, and the range in SI units.
FIGURES = {
    "peak_bf16_flops": ("peak_bf16_flops", "peak_bf16_tflops", 1e12, 1e9, 1e20),
    "peak_fp8_flops": ("peak_fp8_flops", "peak_fp8_tflops", 1e12, 1e9, 1e20),
    "memory_bandwidth_bytes_s": ("memory_bandwidth_bytes_s", "memory_bandwidth_gb_s", 1e9, 1e6, 1e18),
    "nvlink_bandwidth_bytes_s": ("link_bytes_s", "link_gb_s", 1e9, 1e6, 1e18),
    "memory_bytes": ("memory_bytes", "memory_gb", 1e9, 1e6, 1e18),
}
OTHERS = ("name", "streaming_multiprocessors", "kernels")
MAX_BYTES, MAX_NAME, MAX_SMS = 100_000, 64, 10**6


def named(text: str | Path, beside: Path | None = None) -> str:
    """The name of the hardware that `text` stands for: a name, or a YAML file, whose card is then known by
    its name in this process. A relative path counts from `beside` where there is such a file.

    Raises InputError for an unknown name and for a file that describes none.
    """
    if not str(text).strip().lower().endswith(SUFFIXES):
        return catalog.hardware(str(text)).name
    path = beside / str(text) if beside and (beside / str(text)).is_file() else Path(text)
    entry = read(path)
    try:
        catalog.add_hardware(entry)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return catalog.hardware(entry.name).name


def read(path: Path) -> Hardware:
    """The accelerator that a file describes; raises InputError naming the key."""
    content = _mapping(path)
    expected = [*OTHERS, *(key for figure in FIGURES.values() for key in figure[:2])]
    unknown = next((key for key in content if key not in expected), None)
    if unknown is not None:
        raise InputError(f"{path}: unknown key {str(unknown)[:80]!r}; expected {', '.join(expected)}")
    figures = {name: _figure(path, content, name) for name in FIGURES if name != "peak_fp8_flops"}
    eight_bit = any(content.get(key) is not None for key in FIGURES["peak_fp8_flops"][:2])
    figures["peak_fp8_flops"] = (
        _figure(path, content, "peak_fp8_flops") if eight_bit else figures["peak_bf16_flops"]
    )
    return Hardware(
        name=_name(path, content),
        streaming_multiprocessors=_multiprocessors(path, content),
        kernels=_kernels(path, content),
        **figures,
    )


def _mapping(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = yaml.safe_load(file.read(MAX_BYTES))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a YAML file that describes a GPU") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        first = (str(error).splitlines() or ["bad text"])[0]
        raise InputError(f"{path}: not YAML ({first}); expected key: value lines") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}; expected key: value lines")
    return content


def _figure(path: Path, content: dict[str, Any], name: str) -> float:
    plain, scaled, unit, low, high = FIGURES[name]
    given = [key for key in (plain, scaled) if content.get(key) is not None]
    if len(given) != 1:
        found = "both are there" if given else "neither is there"
        raise InputError(f"{path}: {plain} or {scaled}: {found}; expected one of them")
    value = content[given[0]]
    if isinstance(value, str):  # YAML 1.1 reads 2.5e12 as text: it wants 2.5e+12
        with contextlib.suppress(ValueError):
            value = float(value)
    factor = unit if given[0] == scaled else 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value * factor <= high:
        raise InputError(
            f"{path}: {given[0]}={str(content[given[0]])[:80]!r}; expected a number from {low / factor:g} to"
            f" {high / factor:g}"
        )
    return float(value) * factor


def _name(path: Path, content: dict[str, Any]) -> str:
    name = content.get("name")
    if (
        not isinstance(name, str)
        or not 0 < len(name.strip()) <= MAX_NAME
        or not (name.isascii() and name.isprintable())
    ):
        raise InputError(
            f"{path}: name={str(name)[:80]!r}; expected a name of at most {MAX_NAME} ASCII characters"
        )
    return name.strip()


def _multiprocessors(path: Path, content: dict[str, Any]) -> int:
    value = content.get("streaming_multiprocessors")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_SMS:
        raise InputError(
            f"{path}: streaming_multiprocessors={str(value)[:80]!r}; expected a whole number of at"
            f" most {MAX_SMS}"
        )
    return value


def _kernels(path: Path, content: dict[str, Any]) -> str | None:
    value = content.get("kernels")
    if value is not None and value not in kernels.profiles():
        expected = ", ".join(kernels.profiles())
        raise InputError(f"{path}: kernels={str(value)[:80]!r}; expected one of {expected}")
    return value
