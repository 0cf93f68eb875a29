"""A HuggingFace config.json as an architecture: counted right, or refused with the key that says why.

    mine = from_hf_config(json.load(open("config.json")), "config.json")
    mine = read_hf_config("config.json", Served(dtype="fp8", kv_cache_dtype="fp8"))

Sizes are read by every name that the families give them (keys.py), attention with its windows and latent
vectors in attention.py, FFN and experts in ffn.py, bytes of weights in precision.py. go/h3bundle follows the
same rules; go/h3bundle/testdata/architectures.json holds both to published models, counted by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from h3.common.errors import InputError
from h3.steps.architecture import Architecture
from h3.steps.hf_config import attention, ffn, precision
from h3.steps.hf_config.keys import Config
from h3.steps.served import Served

__all__ = ["Served", "from_hf_config", "read_hf_config"]

MAX_CONFIG_BYTES = 16_000_000
AS_PUBLISHED = Served()


def read_hf_config(path: str | Path, served: Served = AS_PUBLISHED) -> Architecture:
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
    return from_hf_config(config, str(path), served)


def from_hf_config(config: dict[str, Any], where: str, served: Served = AS_PUBLISHED) -> Architecture:
    """The architecture that a HuggingFace config describes (its `text_config` where it has one), served with
    these precisions.

    Raises InputError naming the key that is missing, impossible, or of a model that is not counted.
    """
    found = Config.of(config, where)
    ffn.refuse_others(found)
    sizes = attention.sizes(found)
    layers, hidden = sizes["num_layers"], sizes["hidden_size"]
    fields: dict[str, Any] = sizes | ffn.sizes(found, layers, hidden) | precision.of(found, layers)
    return served.of(Architecture(**fields), where)
