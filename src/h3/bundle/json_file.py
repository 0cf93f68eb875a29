"""JSON from a file that nobody vouches for: UTF-8, bounded in size and depth, no key twice, finite numbers,
checked by a model. go/h3bundle/json.go reads the same and refuses the same.

    content = parse(read_bytes(path), str(path))                  # or an InputError that names the file
    manifest = checked(content, Manifest, str(path))              # or one that names the place as well

Every InputError is one line: where, what was found, what was expected.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from h3.common.errors import InputError

MAX_BYTES = 64_000_000
MAX_DEPTH = 32
MOST_SHOWN = 80  # characters of a value or key in a message
# Any number that may be infinite or have more than 19 characters.
LARGE = re.compile(rb"[eE][-+]?[0-9]{3}|[0-9]{19}")
HALF_A_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")  # at most: it may be a whole one, or no escape at all
NO_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))
Array = Field(strict=False)  # of a tuple: it stands as a JSON array, which Python reads as a list


def _given(value: object) -> object:
    if value is None:
        raise ValueError("holds null; expected a value, or no such key")
    return value


Given = BeforeValidator(_given)  # may be absent, but not null


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file of at most MAX_BYTES; raises InputError if there is none."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise InputError(f"{path}: no regular file; expected a file of a bundle")
            if found.st_size > MAX_BYTES:
                raise InputError(f"{path}: {found.st_size} bytes; expected at most {MAX_BYTES}")
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a file of a bundle") from None


def _without_waiting(path: str, flags: int) -> int:
    """Opens a pipe that nobody writes to at once, so that it can be refused."""
    return os.open(path, flags | os.O_NONBLOCK)


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def parse(data: bytes, where: str) -> Any:
    """The JSON in `data`; raises InputError for anything else, for nesting beyond MAX_DEPTH, a key that
    stands twice in an object, half a surrogate pair, and for NaN or huge numbers.
    """
    _check_depth(data, where)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for place, key in enumerate(keys) if key in keys[:place])
            raise InputError(f"{where}: key {twice[:MOST_SHOWN]!r} stands twice; expected it once")
        return content

    def refuse(literal: str) -> NoReturn:
        raise InputError(f"{where}: the number {literal[:40]}; expected finite numbers")

    def real(literal: str) -> float:
        value = float(literal)
        return value if abs(value) < float("inf") else refuse(literal)

    def whole(literal: str) -> int:
        return int(literal) if len(literal) <= 19 else refuse(literal)

    numbers: dict[str, Any] = {"parse_float": real, "parse_int": whole} if LARGE.search(data) else {}
    try:
        content = json.loads(data.decode(), parse_constant=refuse, object_pairs_hook=once, **numbers)
        if HALF_A_PAIR.search(data):
            json.dumps(content, ensure_ascii=False).encode()
        return content
    except (json.JSONDecodeError, UnicodeError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); expected a file of a bundle") from None


def _check_depth(data: bytes, where: str) -> None:
    """Counts brackets outside strings without building anything."""
    depth = 0
    if b"\\" not in data:  # no quote is escaped: most of the bytes say nothing
        data = inner = data.translate(None, NO_STRUCTURE).replace(b'""', b"")
        for _ in range(MAX_DEPTH // 2):  # each takes two levels at most
            inner = inner.replace(b"[]", b"").replace(b"{}", b"")
        if not inner:
            return
    for token in re.finditer(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|[\[{]|[\]}]', data, re.DOTALL):
        first = token.group()[:1]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise InputError(f"{where}: nested deeper than {MAX_DEPTH}; expected a file of a bundle")
        elif first in b"]}":
            depth -= 1


class Part(BaseModel):
    """An object in such a file: every key known, no value of another kind, numbers finite."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, content: Any) -> Any:
        """As `extra` forbids, but with the keys that are valid here in the message."""
        if cls.model_config["extra"] == "forbid" and isinstance(content, dict):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in content:
                if key not in known:
                    raise ValueError(f"unknown key {key[:MOST_SHOWN]!r}; expected some of {', '.join(known)}")
        return content


Kind = TypeVar("Kind", bound=Part)


def checked(content: object, kind: type[Kind], where: str) -> Kind:
    """The content as a model; raises InputError for the first thing that is wrong with it."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise InputError(explain(error, where)) from None


def explain(error: ValidationError, where: str) -> str:
    """The first thing that is wrong, in one line: `where`.key[3]: what was found; what was expected."""
    first = error.errors()[0]
    place = first["loc"][:-1] if first["type"] == "missing" else first["loc"]
    return f"{where}{''.join(map(_step, place))}: {_said(first)}"


def shown(value: object, most: int = MOST_SHOWN) -> str:
    """A value in a message: so many characters at most, on one line."""
    text = str(value)[:most]
    return text if text.isprintable() else repr(text)


def _step(part: int | str) -> str:
    return f"[{part}]" if isinstance(part, int) else f".{shown(part)}"


# JSON's name of what a value had to be.
KINDS = {
    "model_type": "object",
    "dict_type": "object",
    "tuple_type": "array",
    "string_type": "string",
    "int_type": "integer",
    "float_type": "number",
}
SAID = {
    "missing": "{key} is missing",
    "literal_error": "{found}; expected {expected}",
    "string_pattern_mismatch": "{found}; expected a match of {pattern}",
    "string_too_long": "{found}; expected at most {max_length} characters",
    "finite_number": "{found}; expected a finite number",
    "greater_than_equal": "{found}; expected at least {ge:.16g}",
    "less_than_equal": "{found}; expected at most {le:.16g}",
    "too_short": "{actual_length} items; expected at least {min_length}",
    "too_long": "{actual_length} items; expected at most {max_length}",
    "value_error": "{error}",
}


def _said(problem: ErrorDetails) -> str:
    kind, value, more = problem["type"], problem["input"], problem.get("ctx", {})
    if kind in KINDS:
        return f"holds {type(value).__name__}; expected {KINDS[kind]}"
    if kind == "too_short" and more["actual_length"] == 0:
        return "is empty"
    found = repr(value[:MOST_SHOWN]) if isinstance(value, str) else shown(value)
    text = SAID.get(kind, "{found}: {message}")
    last = problem["loc"][-1] if problem["loc"] else ""
    key = f"item {last}" if isinstance(last, int) else f"key {last!r}"
    return text.format(found=found, key=key, message=problem["msg"], **more)
