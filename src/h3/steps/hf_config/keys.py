"""Values of a HuggingFace config by any of their names, checked.

>>> Config({"n_layer": 32}, {}, "config.json").positive("num_hidden_layers", "n_layer")
32
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from h3.common.errors import InputError

Mapping = dict[str, Any]
LANGUAGE_MODEL = ("text_config", "llm_config", "language_config")  # where images are read, too


@dataclass(frozen=True)
class Config:
    """The language model's part of a config, the whole of it, and the file's name for errors."""

    text: Mapping
    outer: Mapping
    where: str

    @classmethod
    def of(cls, config: Mapping, where: str) -> Config:
        """A config, or the language model's inside it."""
        whole = cls(config, config, where)
        inner = next((found for key in LANGUAGE_MODEL if (found := whole.mapping(key))), config)
        return cls(inner, config, where)

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

    def positive(self, *names: str, default: int | None = None) -> int:
        """A positive whole number; raises InputError if there is none and no default."""
        key = self.name(*names)
        value = self.text.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(f"key {key!r} is missing; expected a positive whole number")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
            raise self.error(f"{key}={value!r}; expected a positive whole number")
        return value

    def at_least_zero(self, *names: str) -> int:
        """An optional whole number; 0 where it is missing, null or false."""
        key = self.name(*names)
        return self.positive(key) if self.text.get(key) else 0

    def mapping(self, key: str, anywhere: bool = False) -> Mapping:
        """An optional mapping; empty where it is missing or null."""
        value = (self.anywhere(key) if anywhere else self.text.get(key)) or {}
        if not isinstance(value, dict):
            raise self.error(f"{key}={value!r}; expected a mapping")
        return value

    def list(self, key: str) -> list[Any]:
        """An optional list; empty where it is missing or null."""
        value = self.text.get(key)
        if value is not None and not isinstance(value, list):
            raise self.error(f"{key}={value!r}; expected a list")
        return value or []

    def layers(self, key: str) -> set[int]:
        """Numbers of layers in an optional list; what is no whole number names none."""
        return {each for each in self.list(key) if isinstance(each, int) and not isinstance(each, bool)}

    def error(self, what: str) -> InputError:
        """An error that names the file."""
        return InputError(f"{self.where}: {what}")
