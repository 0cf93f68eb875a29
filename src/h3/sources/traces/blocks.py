"""Lines of a trace file in blocks of about two megabytes, compressed or not. This file owns files, gzip and
line numbers.

    for block in blocks(Path("traces.json.gz")):
        block.first_line, block.text            # whole lines; a file that is one JSON document is one line

Memory is a few blocks whatever the size of the file; the longest line, or document, may have LONGEST_LINE
bytes.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BufferedIOBase
from pathlib import Path
from typing import cast

import numpy as np
from isal import igzip, igzip_lib

from h3.common import bounded
from h3.common.bounded import Bounds
from h3.common.errors import InputError

BLOCK_BYTES = 2 << 20  # small enough that its memory is reused from block to block, without page faults
CHUNK_BYTES = 128 << 10
LONGEST_LINE = 32 << 20
USUAL = Bounds()
DAMAGED: tuple[type[Exception], ...] = (
    EOFError,
    gzip.BadGzipFile,
    cast(type[Exception], igzip_lib.IsalError),
)
SAID = {
    "truncated_gzip": "the gzip stream ends early, after",
    "damaged_gzip": "the gzip stream is damaged after",
    "bytes_after_gzip": "more bytes follow the gzip stream of",
}


@dataclass(frozen=True)
class Block:
    """A sequence of lines, the last without its line end; `damage` is (reason, detail) where the file breaks
    off after them.
    """

    first_line: int
    text: bytes
    damage: tuple[str, str] | None = None

    @cached_property
    def bounds(self) -> np.ndarray:
        """Where each line begins in the text; last, where the next line would begin."""
        ends = np.flatnonzero(np.frombuffer(self.text, dtype=np.uint8) == ord("\n"))
        return np.concatenate([[0], ends + 1, [len(self.text) + 1]])

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> bytes:
        return self.text[self.bounds[index] : self.bounds[index + 1] - 1]


def blocks(path: Path, bounds: Bounds = USUAL) -> Iterator[Block]:
    """The file's lines in order, without a byte-order mark. Raises InputError for a file that cannot be read,
    that is UTF-16, that unpacks to more than the bounds' ratio allows, or has a line that is too long.

    A gzip stream that ends early or is damaged gives the whole lines before, the last block with the damage.
    """
    pending: list[bytes] = []
    size, line, document = 0, 1, None
    for chunk in _chunks(path, bounds):
        if isinstance(chunk, tuple):
            yield _last(b"".join(pending), line, bool(document), chunk)
            return
        document = _opens_document(chunk) if document is None else document
        cut = -1 if document or size + len(chunk) < BLOCK_BYTES else chunk.rfind(b"\n")
        pending.append(chunk if cut < 0 else chunk[:cut])
        size += len(chunk)
        if cut >= 0:
            block = Block(line, b"".join(pending))
            yield block
            line += len(block)
            pending, size = [chunk[cut + 1 :]], len(chunk) - cut - 1
        elif size > LONGEST_LINE:
            raise InputError(
                f"{path}: line {line} has over {LONGEST_LINE >> 20} MB; expected one resourceSpans object a"
                " line (jq -c '.resourceSpans[] | {resourceSpans: [.]}' splits a document)"
            )
    yield _last(b"".join(pending), line, bool(document))


def _last(text: bytes, line: int, document: bool, damage: tuple[str, str] | None = None) -> Block:
    """What is left at the end; the unfinished line of a damaged file goes with the damage."""
    if document:
        text = text.replace(b"\n", b" ")
    if damage:
        text = text.rpartition(b"\n")[0]
    return Block(line, text, damage)


def _opens_document(chunk: bytes) -> bool:
    """True for pretty-printed JSON, whose first line is no more than an opening bracket."""
    return chunk.lstrip().partition(b"\n")[0].strip() in (b"{", b"[")


def _opened(path: Path) -> BufferedIOBase:
    opened: BufferedIOBase = igzip.open(path) if path.suffix == ".gz" else path.open("rb")
    return opened


def _chunks(path: Path, bounds: Bounds) -> Iterator[bytes | tuple[str, str]]:
    """Text of the file; last, if a gzip stream is cut or damaged, the reason and the detail."""
    total = 0
    try:
        limit = bounded.limit(path, bounds)
        with _opened(path) as file:
            while chunk := file.read1(CHUNK_BYTES):
                first, total = not total, total + len(chunk)
                if total > limit:
                    raise bounded.too_large(path, limit)
                yield bounded.text(path, chunk) if first else chunk
    except DAMAGED as error:
        with path.open("rb") as file:
            magic = file.read(len(bounded.GZIP))
        if magic != bounded.GZIP:
            raise InputError(
                f"{path}: not a gzip file ({error}); expected gzip-compressed OTLP/JSON"
            ) from None
        for part in _before_damage(path, total):
            total += len(part) if isinstance(part, bytes) else 0
            if total > limit:
                raise bounded.too_large(path, limit) from None
            yield part
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; expected a trace file") from None


def _before_damage(path: Path, given: int) -> Iterator[bytes | tuple[str, str]]:
    """What a damaged stream holds after `given` bytes of text, then the damage; the fast reader loses the
    piece that it is in.
    """
    total = 0
    for part in bounded.unpacked(path):
        if isinstance(part, str):
            yield part, f"{SAID[part]} {total} bytes of text"
            return
        new = part[max(0, given - total) :]
        total += len(part)
        if new:
            yield bounded.text(path, new) if total == len(part) and not given else new
