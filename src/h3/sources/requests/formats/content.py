"""What a JSON log holds before anyone knows its format: one document, or a value a line.

content = load(Path("benchmarks.json"))         # also .jsonl, and either packed by gzip
content.document, content.values
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h3.common.errors import InputError

MAX_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Content:
    """The values of a file with their lines, and the lines that are no JSON with the reason."""

    path: Path
    values: tuple[tuple[int, Any], ...]
    broken: tuple[tuple[int, str], ...] = ()

    @property
    def document(self) -> Any:
        """The only value, None where there are several."""
        return self.values[0][1] if len(self.values) == 1 and not self.broken else None


def read_bytes(path: Path, max_bytes: int | None = None) -> tuple[bytes, bool]:
    """The content of a file, unpacked if it ends in .gz, and whether its gzip stream is whole.

    Raises InputError for what is no gzip, and for more than `max_bytes`.
    """
    if max_bytes is not None and path.stat().st_size > max_bytes:
        raise _too_large(path, max_bytes)
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content, True
    parts, whole, size = [], True, 0
    while content:
        unpack = zlib.decompressobj(wbits=31)
        try:
            # 0 is no limit.
            parts.append(unpack.decompress(content, 0 if max_bytes is None else max_bytes - size + 1))
        except zlib.error as error:
            if not parts:
                raise InputError(f"{path}: not gzip ({error}); expected a gzip file") from None
            whole = False
            break
        size += len(parts[-1])
        if max_bytes is not None and size > max_bytes:
            raise _too_large(path, max_bytes)
        whole, content = unpack.eof, unpack.unused_data
    return b"".join(parts), whole


def _too_large(path: Path, max_bytes: int) -> InputError:
    return InputError(f"{path}: more than {max_bytes} bytes; expected a log of at most that")


def load(path: Path, max_bytes: int = MAX_BYTES) -> Content:
    """The JSON of a file: one document, or else a value a line, of which the first must be an object.

    Raises InputError for a file that is neither and for one larger than `max_bytes` when unpacked.
    """
    data, _ = read_bytes(path, max_bytes)
    try:
        return Content(path, ((1, json.loads(data)),))
    except (ValueError, RecursionError) as error:
        content = _lines(path, data)
        if content is None:
            raise InputError(f"{path}: not JSON ({error}); expected a log of requests") from None
        return content


def _lines(path: Path, data: bytes) -> Content | None:
    """A value a line; None if the first line is no object or there is none."""
    values: list[tuple[int, Any]] = []
    broken = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            values.append((number, json.loads(line)))
        except (ValueError, RecursionError) as error:
            broken.append((number, f"line {number}: {type(error).__name__} {error}"))
        if not values or not isinstance(values[0][1], dict):
            return None
    return Content(path, tuple(values), tuple(broken)) if values else None
