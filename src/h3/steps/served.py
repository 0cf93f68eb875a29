"""How a server is asked to hold weights and KV cache, and the architecture that it then serves.

>>> from h3.steps import catalog
>>> eight = Served("fp8", "fp8").of(catalog.architecture("llama-2-7b"), "exp-config.yaml")
>>> eight.bytes_per_parameter, eight.head_bytes_per_parameter, eight.kv_bytes_per_value
(1.0, 2.0, 1.0)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from h3.common.errors import InputError
from h3.steps.architecture import Architecture

AUTO = "auto"
SIXTEEN_BITS = ("float16", "half", "bfloat16")
THIRTY_TWO_BITS = ("float32", "float")
DTYPES = {AUTO: 0.0, **dict.fromkeys(SIXTEEN_BITS, 2.0), **dict.fromkeys(THIRTY_TWO_BITS, 4.0), "fp8": 1.0}
KV_DTYPES = {AUTO: 0.0, "float16": 2.0, "bfloat16": 2.0, "fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0}


@dataclass(frozen=True)
class Served:
    """vLLM's --dtype (or fp8: its quantisation of weights as it loads them) and --kv-cache-dtype."""

    dtype: str = AUTO
    kv_cache_dtype: str = AUTO

    @classmethod
    def checked(cls, dtype: str, kv_cache_dtype: str, where: str) -> Served:
        """The same, from a file or a command; raises InputError naming the key and what is known."""
        _known("dtype", dtype, DTYPES, where)
        _known("kv_cache_dtype", kv_cache_dtype, KV_DTYPES, where)
        return cls(dtype, kv_cache_dtype)

    def of(self, published: Architecture, where: str) -> Architecture:
        """The published architecture as it is served: 16 bits leave quantised weights as they are, and a
        model that runs in 32 bits keeps its KV cache in them.

        Raises InputError for an unknown word, and for 8 or 32 bits of weights that are quantised otherwise.
        """
        Served.checked(self.dtype, self.kv_cache_dtype, where)
        weights, cache = DTYPES[self.dtype], KV_DTYPES[self.kv_cache_dtype]
        if self.dtype in THIRTY_TWO_BITS:
            cache = cache or weights
        if self.dtype in (AUTO, *SIXTEEN_BITS) or weights == published.bytes_per_parameter:
            served = published
        elif published.quantised:
            raise InputError(
                f"{where}: dtype={self.dtype!r} of weights that are quantised; expected auto, float16 or"
                " bfloat16"
            )
        else:
            served = published.at(weights)
        return replace(served, kv_bytes_per_value=cache) if cache else served


def _known(key: str, value: str, known: Mapping[str, float], where: str) -> None:
    if value not in known:
        raise InputError(f"{where}: {key}={value!r}; expected one of {', '.join(known)}")
