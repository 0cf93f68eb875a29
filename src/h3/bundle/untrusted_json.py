"""JSON from a file that nobody vouches for: bounded in size and depth, finite numbers only, checked against a
JSON Schema.

content = read(Path("dist/blis/manifest.json"))        # or an InputError that names the file
check(content, json.load(open(SCHEMA)), "manifest.json")
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import NoReturn

from h3.common.errors import InputError

MAX_BYTES = 64_000_000
MAX_DEPTH = 32
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


def read_bytes(path: Path) -> bytes:
    """The bytes of a file of at most MAX_BYTES; raises InputError if there is none or it is larger."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path}: {size} bytes; expected at most {MAX_BYTES}")
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a file of a bundle") from None


def parse(data: bytes, where: str) -> object:
    """The JSON in `data`; raises InputError for anything else, for nesting beyond MAX_DEPTH and for NaN or
    huge numbers.
    """
    _check_depth(data, where)

    def refuse(literal: str) -> NoReturn:
        raise InputError(f"{where}: the number {literal[:40]}; expected finite numbers")

    def real(literal: str) -> float:
        value = float(literal)
        return value if abs(value) < float("inf") else refuse(literal)

    def whole(literal: str) -> int:
        return int(literal) if len(literal) <= 19 else refuse(literal)

    try:
        return json.loads(data, parse_constant=refuse, parse_float=real, parse_int=whole)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); expected a file of a bundle") from None


def _check_depth(data: bytes, where: str) -> None:
    """Counts brackets outside strings without building anything."""
    depth = 0
    for token in re.finditer(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|[\[{]|[\]}]', data, re.DOTALL):
        first = token.group()[:1]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise InputError(f"{where}: nested deeper than {MAX_DEPTH}; expected a file of a bundle")
        elif first in b"]}":
            depth -= 1


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def check(content: object, schema: dict, where: str) -> None:
    """Raises InputError naming the place where the content is not what the JSON Schema asks for.

    Knows type, const, enum, pattern, minimum, maximum, minItems, maxItems, items, properties, required,
    additionalProperties and minProperties; the schema uses nothing else.
    """
    _check_value(content, schema, where)
    if isinstance(content, dict):
        _check_object(content, schema, where)
    if isinstance(content, list):
        low, high = schema.get("minItems", 0), schema.get("maxItems", float("inf"))
        if not low <= len(content) <= high:
            raise InputError(f"{where}: {len(content)} items; expected {low} to {high}")
        for number, item in enumerate(content):
            check(item, schema.get("items", {}), f"{where}[{number}]")


def _check_value(content: object, schema: dict, where: str) -> None:
    kind = schema.get("type")
    if kind and (not isinstance(content, TYPES[kind]) or (isinstance(content, bool) and kind != "boolean")):
        raise InputError(f"{where}: holds {type(content).__name__}; expected {kind}")
    valid = [schema["const"]] if "const" in schema else schema.get("enum")
    if valid is not None and content not in valid:
        raise InputError(
            f"{where}: {str(content)[:80]!r}; expected {' or '.join(repr(value) for value in valid)}"
        )
    if "pattern" in schema and not re.search(schema["pattern"], content):
        raise InputError(f"{where}: {content[:80]!r}; expected a match of {schema['pattern']}")
    low, high = schema.get("minimum"), schema.get("maximum")
    if (low is not None and content < low) or (high is not None and content > high):
        raise InputError(f"{where}: {content}; expected {low} to {high}")


def _check_object(content: dict, schema: dict, where: str) -> None:
    missing = [key for key in schema.get("required", []) if key not in content]
    if missing:
        raise InputError(f"{where}: key {missing[0]!r} is missing")
    if len(content) < schema.get("minProperties", 0):
        raise InputError(f"{where}: is empty")
    known, rest = schema.get("properties", {}), schema.get("additionalProperties", {})
    for key, value in content.items():
        if key not in known and rest is False:
            raise InputError(f"{where}: unknown key {key[:80]!r}; expected some of {', '.join(known)}")
        check(value, known.get(key, rest), f"{where}.{key}")
