"""Other people's files, read within bounds: a small file that unpacks to gigabytes, a number of five thousand
digits or a list of itself costs one line, not the machine.

    text = bounded.read(path, Bounds())         # Unpacked: bytes, and what is wrong with its gzip stream
    content = bounded.yaml_of(path)             # a mapping of at most a megabyte

Whoever has larger files raises the bounds: source.max_file_gb, source.max_file_ratio.
"""

from __future__ import annotations

import os
import stat
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from h3.common.errors import InputError

CHUNK_BYTES = 256 << 10
# Text of numbers packs to a tenth or a fiftieth, repetitive JSON to a hundredth; small files may do better.
FREE_BYTES = 64 << 20
MOST_YAML_BYTES = 1 << 20
GZIP = b"\x1f\x8b"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Bounds:
    """How large a file may be when unpacked, and how many times its packed size beyond 64 MB."""

    max_bytes: int = 2_000_000_000
    max_ratio: float = 200.0


@dataclass(frozen=True)
class Unpacked:
    """What a file holds; `damage`: "", truncated_gzip, damaged_gzip or bytes_after_gzip, which say where the
    content ends.
    """

    content: bytes
    damage: str = ""


def read(path: Path, bounds: Bounds) -> Unpacked:
    """A regular file, unpacked if it ends in .gz, without a byte-order mark.

    A gzip stream that is cut or damaged gives what is before. Raises InputError for another kind of file, for
    what is no gzip at all, UTF-16, and for more than the bounds; OSError if it cannot be read.
    """
    size = _size(path)
    limit = _limit(size, bounds)
    if path.suffix != ".gz":
        if size > bounds.max_bytes:
            raise too_large(path, bounds.max_bytes)
        return Unpacked(text(path, path.read_bytes()))
    parts, total, damage = [], 0, ""
    for part in unpacked(path):
        if isinstance(part, str):
            damage = part
            break
        total += len(part)
        if total > limit:
            raise too_large(path, limit)
        parts.append(part)
    return Unpacked(text(path, b"".join(parts)), damage)


def _size(path: Path) -> int:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path}: no regular file; expected a log")
    return found.st_size


def _limit(size: int, bounds: Bounds) -> int:
    return min(bounds.max_bytes, max(FREE_BYTES, int(size * bounds.max_ratio)))


def limit(path: Path, bounds: Bounds) -> int:
    """Most bytes that a gzip file read as a stream may unpack to, by its size alone; none for another file.

    Raises InputError for what is no regular file, OSError if it cannot be looked at.
    """
    size = _size(path)
    return _limit(size, replace(bounds, max_bytes=sys.maxsize)) if path.suffix == ".gz" else sys.maxsize


def too_large(path: Path, limit: int) -> InputError:
    """The error for a file that is larger than its bound, bytes."""
    return InputError(
        f"{path}: more than {limit} bytes unpacked; expected less, or bounds that allow it"
        " (source.max_file_gb, source.max_file_ratio)"
    )


def text(path: Path, content: bytes) -> bytes:
    """The beginning of a file without a byte-order mark; raises InputError if it is UTF-16."""
    if content.startswith(UTF_16) or b"\0" in content[:4]:
        raise InputError(f"{path}: UTF-16; expected UTF-8")
    return content.removeprefix(BOM)


def unpacked(path: Path) -> Iterator[bytes | str]:
    """The parts of a gzip file of one stream or several; last, if it is damaged, how."""
    with path.open("rb") as file:
        unpack, fed, given = zlib.decompressobj(wbits=31), b"", False
        while True:
            fed = fed or file.read(CHUNK_BYTES)
            if not fed:
                break
            if unpack.eof:
                if not fed.startswith(GZIP[: len(fed)]):
                    yield "bytes_after_gzip"
                    return
                unpack = zlib.decompressobj(wbits=31)
            before = unpack.copy()
            try:
                part = unpack.decompress(fed, CHUNK_BYTES)
            except zlib.error as error:
                rest = _before_damage(before, fed)
                if not given and not rest:
                    raise InputError(f"{path}: not gzip ({error}); expected a gzip file") from None
                yield rest
                yield "damaged_gzip"
                return
            given = given or bool(part)
            if part:
                yield part
            fed = unpack.unconsumed_tail or unpack.unused_data
        if not unpack.eof and (rest := unpack.flush()):
            yield rest
        if not unpack.eof:
            yield "truncated_gzip"


def _before_damage(unpack: Any, fed: bytes) -> bytes:
    """What a stream gives before the byte that damages it; zlib itself gives nothing of such a piece."""
    parts = []
    try:
        for byte in fed:
            parts.append(unpack.decompress(bytes([byte])))
    except zlib.error:
        pass
    return b"".join(parts)


def yaml_of(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises InputError for a file that holds none, or none that is bounded."""
    if path.stat().st_size > MOST_YAML_BYTES:
        raise InputError(f"{path}: more than {MOST_YAML_BYTES} bytes; expected a configuration")
    decoded = text(path, path.read_bytes())
    try:
        content = yaml.safe_load(decoded.decode("utf-8"))
    except RecursionError:
        raise InputError(f"{path}: not YAML (nested too deep); expected key: value lines") from None
    except (yaml.YAMLError, ValueError) as error:  # dates and digits that are none, bytes that are no UTF-8
        said = str(error).splitlines()[0][:120]
        raise InputError(f"{path}: not YAML ({said}); expected key: value lines") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}; expected key: value lines")
    return content


def named(path: Path) -> Path:
    """The path of an experiment's folder; raises InputError for a name that is not UTF-8."""
    try:
        path.name.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{os.fsencode(path)!r}: the name is not UTF-8; expected a name that is") from None
    return path
