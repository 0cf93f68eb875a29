"""The parts of an OTLP/JSON line that traces need, as types of a JSON decoder. This file owns its structure.

    for scope, span in spans_of(DECODER.decode(line)):
        span.events[0].attributes[0].value.intValue

Whatever else a line holds is skipped; whatever it lacks has a default. RAW_DECODER leaves events as bytes,
NAME_DECODER reads the name of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec


class Value(msgspec.Struct, gc=False):
    """An attribute's value: one of three kinds; OTLP/JSON writes a 64-bit integer as text."""

    intValue: int | float | str | None = None
    doubleValue: int | float | str | None = None
    stringValue: str | None = None


class Attribute(msgspec.Struct, gc=False):
    """A key with its value."""

    key: str = ""
    value: Value | None = None


class Event(msgspec.Struct, gc=False):
    """An event of a span: its name and attributes."""

    name: str = ""
    attributes: list[Attribute] = []


class Named(msgspec.Struct, gc=False):
    """An event of which only the name is read."""

    name: str = ""


class Span(msgspec.Struct, gc=False):
    """A span: its attributes and events, decoded."""

    attributes: list[Attribute] = []
    events: list[Event] = []


class RawSpan(msgspec.Struct, gc=False):
    """A span whose events stay bytes."""

    events: list[msgspec.Raw] = []


AnySpan = TypeVar("AnySpan", Span, RawSpan)


class Scope(msgspec.Struct, gc=False):
    """The instrumentation scope that wrote the spans."""

    name: str = ""


class ScopeSpans(msgspec.Struct, Generic[AnySpan], gc=False):
    """The spans of one scope."""

    scope: Scope | None = None
    spans: list[AnySpan] = []


class ResourceSpans(msgspec.Struct, Generic[AnySpan], gc=False):
    """The scopes of one resource."""

    scopeSpans: list[ScopeSpans[AnySpan]] = []


class Line(msgspec.Struct, Generic[AnySpan], gc=False):
    """A line of the file: an object, or one of a JSON array of such objects."""

    resourceSpans: list[ResourceSpans[AnySpan]] = []


Lines = Line[Span] | list[Line[Span]]
RawLines = Line[RawSpan] | list[Line[RawSpan]]
DECODER: msgspec.json.Decoder[Lines] = msgspec.json.Decoder(Lines)
RAW_DECODER: msgspec.json.Decoder[RawLines] = msgspec.json.Decoder(RawLines)
NAME_DECODER = msgspec.json.Decoder(Named)
# What the decoders raise for a line that is broken, not UTF-8, or nested too deep.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def spans_of(line: Line[AnySpan] | list[Line[AnySpan]]) -> Iterator[tuple[str, AnySpan]]:
    """(name of the scope, span) of a decoded line, in order."""
    for part in line if isinstance(line, list) else [line]:
        for resource in part.resourceSpans:
            for scope_spans in resource.scopeSpans:
                for span in scope_spans.spans:
                    yield scope_spans.scope.name if scope_spans.scope else "", span
