"""Whether a server truncates sampling, by top-p or top-k: then every step sorts the logits of its requests.

>>> truncates({"temperature": 0.6, "top_p": 0.9}, "generation_config.json")
True
>>> truncates({"temperature": 0.0, "top_p": 0.9}, "exp-config.yaml: sampling")       # greedy
False

vLLM takes the defaults of a request's sampling from the model's generation_config.json (`--generation-config
auto`); `do_sample` is not among what it reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h3.common.errors import InputError
from h3.steps import catalog

FILE = "generation_config.json"
MAX_BYTES = 1_000_000
WORDS = {"truncated": True, "plain": False}
# Models of the built-in data whose published generation_config.json sets top_p or top_k. For CodeLlama,
# Mixtral, Mistral-Nemo and Yi none is believed to be set; that is not verified.
TRUNCATED = frozenset(
    {
        *("llama-2-7b", "llama-2-70b", "llama-3.1-8b-instruct", "llama-3.1-70b-instruct"),
        *("qwen2.5-7b-instruct", "qwen3-14b", "llama-4-scout-17b-16e-instruct-fp8-dynamic"),
    }
)
GREEDY_BELOW = 1e-5  # vLLM takes a lower temperature as greedy


@dataclass(frozen=True)
class Sampling:
    """Whether sampling is truncated, and where that is known from."""

    truncated: bool
    known_from: str

    def told(self) -> str:
        """In words.

        >>> Sampling(False, "assumed").told()
        'sampling without top-p or top-k (assumed)'
        """
        return f"sampling {'with' if self.truncated else 'without'} top-p or top-k ({self.known_from})"


def truncates(settings: Mapping[str, Any], where: str) -> bool:
    """Whether these sampling settings (temperature, top_p, top_k) truncate; raises InputError for one that is
    no number.
    """
    temperature, top_p = (_number(settings, key, 1.0, where) for key in ("temperature", "top_p"))
    top_k = _number(settings, "top_k", 0.0, where)
    return temperature >= GREEDY_BELOW and (top_p < 1.0 or top_k > 0)


def _number(settings: Mapping[str, Any], key: str, default: float, where: str) -> float:
    value = settings.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where}: {key}={value!r}; expected a number")
    return float(value)


def given(value: object, where: str) -> bool:
    """What `sampling:` of an exp-config.yaml says: a word of WORDS, or settings as `truncates` reads them."""
    if isinstance(value, str) and value in WORDS:
        return WORDS[value]
    if not isinstance(value, Mapping):
        raise InputError(
            f"{where}: sampling={value!r}; expected {' or '.join(WORDS)}, or temperature, top_p and top_k"
        )
    return truncates(value, f"{where}: sampling")


def beside(config: Path) -> Sampling | None:
    """What the generation_config.json beside a config.json says; None where there is none."""
    path = config.with_name(FILE)
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read(MAX_BYTES + 1)[:MAX_BYTES])
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not JSON ({error}); expected a HuggingFace generation_config.json"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; expected a JSON object")
    return Sampling(truncates(content, str(path)), FILE)


def served(word: str, config: Path) -> Sampling:
    """Sampling of a model that is served from a config.json: `word` of WORDS, or "auto", which asks the
    generation_config.json beside it, else assumes none.
    """
    if word != "auto":
        if word not in WORDS:
            raise InputError(f"sampling={word!r}; expected auto, {', '.join(WORDS)}")
        return Sampling(WORDS[word], "as asked")
    return beside(config) or Sampling(False, f"assumed, there is no {FILE} beside {config.name}")


def of_model(name: str) -> Sampling | None:
    """What is known of one of the models of the built-in data; None for another."""
    if catalog.model_name(name) not in catalog.MODELS:
        return None
    return Sampling(catalog.model_name(name) in TRUNCATED, "the model's published defaults")
