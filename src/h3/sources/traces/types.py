"""The parts of an OTLP/JSON line that traces need, as types of a JSON decoder. This file owns its structure.

    for scope, span in spans_of(DECODER.decode(line)):
        span.events[0].attributes[0].value.intValue

Whatever else a line holds is skipped; whatever it lacks has a default. RAW_DECODER leaves events as bytes,
NAME_DECODER reads the name of one.
"""

from __future__ import annotations

from collections.abc import Iterator

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


class Scope(msgspec.Struct, gc=False):
    """The instrumentation scope that wrote the spans."""

    name: str = ""


def _line_type(span: type) -> type:
    """The type of a line with spans of the given type: an object, or a JSON array of such objects."""
    scope_spans = msgspec.defstruct(
        "ScopeSpans", [("scope", Scope | None, None), ("spans", list[span], [])], gc=False
    )
    resource = msgspec.defstruct("ResourceSpans", [("scopeSpans", list[scope_spans], [])], gc=False)
    line = msgspec.defstruct("Line", [("resourceSpans", list[resource], [])], gc=False)
    return line | list[line]


LINE = _line_type(Span)
DECODER, RAW_DECODER, NAME_DECODER = (
    msgspec.json.Decoder(LINE),
    msgspec.json.Decoder(_line_type(RawSpan)),
    msgspec.json.Decoder(Named),
)


def spans_of(line) -> Iterator[tuple[str, Span]]:
    """(name of the scope, span) of a decoded line, in order."""
    for part in line if isinstance(line, list) else [line]:
        for resource in part.resourceSpans:
            for scope_spans in resource.scopeSpans:
                for span in scope_spans.spans:
                    yield scope_spans.scope.name if scope_spans.scope else "", span
