"""Fast reading of events that an exporter writes again and again in one layout. This file owns the byte
layout.

>>> event = b'{"name":"step","attributes":[{"key":"step.id","value":{"intValue":"7"}}]}'
>>> layout = Layout.learn(event)                # from the bytes of one event, as JSON
>>> found = layout.match(event + b"," + event.replace(b"7", b"12") + b"]}]}]}]}")
>>> found.values["step.id"], found.starts       # columns, one entry an event
(array([ 7, 12]), array([ 0, 74]))

Trace events differ in their values only: between them every byte is the same. So events are read column by
column: the digits of one field in all events at once, then the text up to the next field compared with the
layout's. Every byte of an event that is found was compared; whatever differs is left to a JSON decoder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

VALUE = re.compile(
    rb'"(?:(?P<whole>timeUnixNano|intValue)":"?(?=-?[0-9])|(?P<real>doubleValue)":(?=-?[0-9])'
    rb'|(?P<text>stringValue)":")'
    rb'(?P<value>[^"\\},]*)'
)
KEY = re.compile(rb'"key":"([^"\\]+)","value":\{"(?:intValue|doubleValue|stringValue)":"?$')
TENS = 10 ** np.arange(9)
LONGEST_TEXT = 64
LONGEST_EVENT = 8 << 10  # of those with a layout


@dataclass(frozen=True)
class Found:
    """Events of a block: first byte, byte after the last, and a column of values by attribute name."""

    starts: np.ndarray
    ends: np.ndarray
    values: dict[str, np.ndarray]


# (block, positions) → values, positions after them, and whether there was a value at each position
Reader = Callable[[bytes, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Layout:
    """The text of an event up to its first value, and for each value (attribute or "", its reader, the text
    after it).

    `bracket` is where the first bracket stands, that of the attributes.
    """

    opening: bytes
    fields: tuple[tuple[str, Reader, bytes], ...]
    bracket: int

    @classmethod
    def learn(cls, event: bytes) -> Layout | None:
        """The layout of one event given as JSON, or None if it is long, holds no values, or attributes
        other than numbers and texts.
        """
        if len(event) > LONGEST_EVENT:
            return None
        values = list(VALUE.finditer(event))
        ends = [(value.end("value"), after.start("value")) for value, after in pairwise(values)]
        ends += [(value.end("value"), len(event)) for value in values[-1:]]
        fields = []
        for value, (begin, end) in zip(values, ends, strict=True):
            key = KEY.search(event, 0, value.start("value"))
            fields.append(
                (
                    key.group(1).decode() if key else "",
                    next(READERS[kind] for kind in READERS if value[kind]),
                    event[begin:end],
                )
            )
        if not values or event.count(b'"key":') != sum(name != "" for name, _, _ in fields):
            return None
        return cls(event[: values[0].start("value")], tuple(fields), event.find(b"["))

    @property
    def kinds(self) -> dict[str, str]:
        """Attributes whose values the layout finds: "whole", "real" or "text"."""
        named = {reader: kind for kind, reader in READERS.items()}
        return {name: named[reader] for name, reader, _ in self.fields}

    def match(self, block: bytes) -> Found:
        """All events of the block that have this layout: values are int64, float64, or the first eight bytes
        of a text.
        """
        starts = self._starts(block)
        if not len(starts):
            return Found(starts, starts, {})
        at, good, values = starts + len(self.opening), np.ones(len(starts), dtype=bool), {}
        for name, reader, text in self.fields:
            value, at, valid = reader(block, at)
            good &= valid & _equal(block, at, text)
            at = at + len(text)
            if name:
                values[name] = value
        good &= at <= len(block)
        if good.all():
            return Found(starts, at, values)
        return Found(starts[good], at[good], {name: value[good] for name, value in values.items()})

    def _starts(self, block: bytes) -> np.ndarray:
        """Where events begin: they open alike, and their first bracket, a rare byte, lies as far in as in the
        layout.
        """
        starts = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("[")) - self.bracket
        starts = starts[starts >= 0]
        return starts[_gather(block, starts, len(self.opening)) == self.opening] if len(starts) else starts


def _gather(block: bytes, at: np.ndarray, width: int) -> np.ndarray:
    """The `width` bytes from each position on, one item each; at the end of the block, its last ones."""
    windows = np.ndarray((len(block) - width + 1,), f"S{width}", block, strides=(1,))
    return windows[np.minimum(at, len(windows) - 1)]


def _equal(block: bytes, at: np.ndarray, text: bytes) -> np.ndarray:
    """True where `text` stands at the position; one comparison of memory while all is well."""
    here = _gather(block, at, len(text))
    if here.tobytes() == text * len(at):
        return np.ones(len(at), dtype=bool)
    return (here.view(np.uint8).reshape(len(at), -1) == np.frombuffer(text, np.uint8)).all(axis=1)


def _integers(block: bytes, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole numbers below 2^62 at the positions: value, position after, whether one was there."""
    value, length = _digits(_gather(block, at, 8))
    if length.max() < 8:
        return value, at + length, length > 0
    for further, more in _further_digits(block, at + length, length):
        value, length = value * TENS[more] + further, length + more
    return value, at + length, (length > 0) & (length <= 19) & (value >= 0) & (value < 1 << 62)


def _reals(block: bytes, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for decimal fractions without exponent, of up to 24 digits after the point, to one unit in the
    last place.
    """
    whole, point, valid = _integers(block, at)
    has_point = _gather(block, point, 1) == b"."
    part, length = _digits(_gather(block, point + 1, 8))
    part, length = part * has_point, length * has_point
    scale = TENS[length].astype(np.float64)
    value = whole + part / scale
    digits = length
    for further, more in _further_digits(block, point + 1 + length, length):
        scale, digits = scale * TENS[more], digits + more
        value += further / scale
    return value, point + has_point + digits, valid & (has_point == (digits > 0))


def _further_digits(
    block: bytes, at: np.ndarray, length: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Value and length of up to two more groups of digits, both 0 where the group before had fewer than
    eight.
    """
    for _ in range(2):
        full = length == 8
        if not full.any():
            return
        part, length = _digits(_gather(block, at, 8))
        length = length * full
        yield part * full, length
        at = at + length


def _digits(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leading decimal digits of eight bytes: their value, and how many (0 to 8).

    After D. Lemire, "Quickly parsing eight digits", by arithmetic on 64-bit words; the first byte is the
    lowest.
    """
    u = np.uint64
    digit = words.view("<u8") ^ u(0x3030303030303030)
    other = ((digit + u(0x7676767676767676)) | digit) & u(0x8080808080808080)
    bits = np.bitwise_count((other & -other) - u(1)).astype(u)  # 8 x length + 7, or 64
    digit <<= u(64) - (bits & u(0x78))  # a shift by 64 gives 0
    pairs = digit * u(10) + (digit >> u(8))
    low = u(0x000000FF000000FF)
    value = ((pairs & low) * u(0x000F424000000064) + ((pairs >> u(16)) & low) * u(0x0000271000000001)) >> u(
        32
    )
    return value.view(np.int64), (bits >> u(3)).view(np.int64)


def _texts(block: bytes, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texts of printable ASCII without escapes, of less than LONGEST_TEXT bytes: their first eight bytes."""
    if len(block) < LONGEST_TEXT:
        return at, at, at < 0
    code = _gather(block, at, LONGEST_TEXT).view(np.uint8).reshape(len(at), LONGEST_TEXT)
    stop = (code == ord('"')) | (code == ord("\\")) | (code < 32) | (code > 126)
    length = stop.argmax(axis=1)
    valid = (code[np.arange(len(at)), length] == ord('"')) & (at + LONGEST_TEXT <= len(block))
    return _gather(block, at, 8), at + length, valid


READERS: dict[str, Reader] = {"whole": _integers, "real": _reals, "text": _texts}
