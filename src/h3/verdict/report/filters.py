"""How a value of the verdict becomes text in a template, and a text a part of a page.

    number(1234.5, 1, sign=True)        # "+1,234.5"
    span((2.34, 2.45), 2)               # "2.34 to 2.45"

None is a dash everywhere.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from h3.common.records import Interval, Number

Shades = list[list[float | None]]
NONE = "–"
DARKEST = 65  # a shade of 1 takes so many percent off white


def number(value: Number, digits: int = 1, sign: bool = False) -> str:
    """A number, never "-0"."""
    return NONE if value is None else f"{round(value, digits) + 0.0:{'+' if sign else ''},.{digits}f}"


def span(pair: Interval | None, digits: int = 1, sign: bool = False) -> str:
    """An interval."""
    if pair is None or None in pair:
        return NONE
    return " to ".join(number(value, digits, sign) for value in pair)


def percent(share: Number) -> str:
    """A share of 1 in %."""
    return NONE if share is None else f"{100 * share:.0f} %"


def short(value: float) -> str:
    """A number with as few digits as it has."""
    return f"{value:g}"


def spoken(name: str) -> str:
    """A name as words."""
    return name.replace("_", " ")


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text, between its blank lines, each on one line."""
    kind = type(text)  # Markup stays Markup
    return [kind(re.sub(r" *\n *", " ", part)) for part in re.split(r"\n\s*\n", text.strip()) if part]


def code(text: str) -> Markup:
    """A text for HTML: what stands in backticks as code, everything escaped."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(unbroken(escape(text)))))


def unbroken(text: str) -> str:
    """A text whose % stay on the line of their numbers."""
    return text.replace(" %", "\u00a0%")


def cell(text: object) -> str:
    """A cell of a Markdown table."""
    return re.sub(r"\s*\n\s*", " ", str(text)).replace("|", "\\|")


def is_words(text: str) -> bool:
    """Whether a cell is words or names, not a number."""
    return bool(re.match(r"[A-Za-z]|\d{8}-", text))


def shades(values: Sequence[Sequence[Number]], log: bool = False) -> Shades:
    """How dark the cells of a table are: the least number 0, the largest 1; None: plain."""
    scaled = [[None if each is None else _scaled(each, log) for each in line] for line in values]
    known = [each for line in scaled for each in line if each is not None]
    low, reach = min(known, default=0.0), max(max(known, default=0.0) - min(known, default=0.0), 1e-9)
    return [[None if each is None else (each - low) / reach for each in line] for line in scaled]


def _scaled(value: float, log: bool) -> float:
    return math.log(max(value, 1e-3)) if log else float(value)


def shade_style(shade: Number) -> str:
    """CSS of a shaded cell, with black or white text, whichever is read better; empty for a plain one."""
    if shade is None:
        return ""
    light = round(100 - DARKEST * shade)
    return f"background:hsl(0 0% {light}%);color:{'#fff' if light < 55 else '#111'}"


def encoded(text: str) -> str:
    """A text in base64."""
    return base64.b64encode(text.encode()).decode()


_ALL: Sequence[Callable[..., Any]] = (
    *(number, span, percent, short, spoken),
    *(paragraphs, code, unbroken, cell),
    *(shades, shade_style),
)
FILTERS: Mapping[str, Callable[..., Any]] = {each.__name__: each for each in _ALL} | {"base64": encoded}
