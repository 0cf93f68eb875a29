"""Values of a HuggingFace config by any of their names, checked.

>>> Config({"n_layer": 32}, {}, "config.json").positive("num_hidden_layers", "n_layer")
32
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from h3.common.errors import InputError
from h3.common.shown import shown

# Sizes of models: the largest vocabulary has 2^18 rows. Windows are as long as contexts.
MOST, MOST_TOKENS = 2**24, 2**31 - 1
Mapping = dict[str, Any]
LANGUAGE_MODEL = ("text_config", "llm_config", "language_config")  # where images are read, too
# What published configs of a family leave out (transformers' Gemma3TextConfig).
GEMMA_3 = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 4096,
}
LEFT_OUT = {"gemma3": GEMMA_3, "gemma3_text": GEMMA_3}


@dataclass(frozen=True)
class Config:
    """The language model's part of a config, the whole of it, and the file's name for errors."""

    text: Mapping
    outer: Mapping
    where: str

    @classmethod
    def of(cls, config: Mapping, where: str) -> Config:
        """A config, or the language model's inside it, with what its family leaves out."""
        whole = cls(config, config, where)
        inner = next((found for key in LANGUAGE_MODEL if (found := whole.mapping(key))), config)
        family = cls(inner, config, where).model_type
        return cls(LEFT_OUT.get(family, {}) | inner, config, where)

    @property
    def model_type(self) -> str:
        """The family's name; "" where there is none."""
        return str(self.text.get("model_type") or self.outer.get("model_type") or "").lower()

    def anywhere(self, key: str) -> Any:
        """A value of the language model's part, else of the whole."""
        value = self.text.get(key)
        return self.outer.get(key) if value is None else value

    def name(self, *names: str) -> str:
        """The first of the names that has a value, else the first."""
        return next((name for name in names if self.text.get(name) is not None), names[0])

    def positive(self, *names: str, default: int | None = None, most: int = MOST) -> int:
        """A positive whole number; raises InputError if there is none and no default, and above `most`."""
        key = self.name(*names)
        value = self.text.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(f"key {key!r} is missing; expected a positive whole number")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise self.error(f"{key}={shown(value)}; expected a positive whole number, at most {most}")
        return value

    def at_least_zero(self, *names: str, most: int = MOST) -> int:
        """An optional whole number; 0 where it is missing, null or false."""
        key = self.name(*names)
        return self.positive(key, most=most) if self.text.get(key) else 0

    def mapping(self, key: str, anywhere: bool = False) -> Mapping:
        """An optional mapping; empty where it is missing or null."""
        value = (self.anywhere(key) if anywhere else self.text.get(key)) or {}
        if not isinstance(value, dict):
            raise self.error(f"{key}={shown(value)}; expected a mapping")
        return value

    def list(self, key: str) -> list[Any]:
        """An optional list; empty where it is missing or null."""
        value = self.text.get(key)
        if value is not None and not isinstance(value, list):
            raise self.error(f"{key}={shown(value)}; expected a list")
        return value or []

    def layers(self, key: str) -> set[int]:
        """Numbers of layers in an optional list; what is no whole number names none."""
        return {each for each in self.list(key) if isinstance(each, int) and not isinstance(each, bool)}

    def error(self, what: str) -> InputError:
        """An error that names the file."""
        return InputError(f"{self.where}: {what}")
