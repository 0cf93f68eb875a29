"""What a report is made of, and how it becomes Markdown or one HTML file that opens offline.

html(content, [Section("Folds", ["text"], [Table(["fold"], [["lomo"]])])])        # content: verdict.json
"""

from __future__ import annotations

import base64
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

TEMPLATE = Path(__file__).with_name("report.html.j2")
DARKEST = 65  # a shade of 1 takes so many percent off white


@dataclass(frozen=True)
class Table:
    """Cells are text, ready to print; a folded table opens on a click; shades: how dark each cell is, 0 to 1
    (None: plain).

    wordy: cells are words or names, not numbers, and are set from the left.
    """

    columns: list[str]
    rows: list[list[str]]
    caption: str = ""
    folded: bool = False
    wordy: bool = False
    shades: list[list[float | None]] = field(default_factory=list)

    def style(self, row: int, column: int) -> str:
        """CSS of a shaded cell, with black or white text, whichever is read better; empty for a plain one."""
        shade = self.shades[row][column] if self.shades else None
        if shade is None:
            return ""
        light = round(100 - DARKEST * shade)
        return f"background:hsl(0 0% {light}%);color:{'#fff' if light < 55 else '#111'}"


@dataclass(frozen=True)
class Picture:
    """An SVG and what it shows, in words; small ones stand side by side where there is room."""

    alt: str
    svg: str
    small: bool = False

    @property
    def width_px(self) -> int:
        """Its natural width at 96 px an inch (an SVG says it in points)."""
        found = re.search(r'<svg[^>]* width="([0-9.]+)pt"', self.svg)
        return round(float(found[1]) * 96 / 72) if found else 800


@dataclass(frozen=True)
class Section:
    """One heading of the report."""

    title: str
    texts: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


def shades(values: list[list[float | None]], log: bool = False) -> list[list[float | None]]:
    """Numbers as shades: the least is 0, the largest 1, on a log scale if asked for; None stays None."""
    scaled = [
        [None if each is None else math.log(max(each, 1e-3)) if log else float(each) for each in line]
        for line in values
    ]
    known = [each for line in scaled for each in line if each is not None]
    low, reach = min(known, default=0.0), max(max(known, default=0.0) - min(known, default=0.0), 1e-9)
    return [[None if each is None else (each - low) / reach for each in line] for line in scaled]


def number(value: float | None, digits: int = 1, sign: bool = False) -> str:
    """A number as text; a dash for None."""
    return "–" if value is None else f"{round(value, digits) + 0.0:{'+' if sign else ''},.{digits}f}"


def span(pair: list[float | None] | None, digits: int = 1, sign: bool = False) -> str:
    """An interval as text."""
    return "–" if pair is None or None in pair else " to ".join(number(value, digits, sign) for value in pair)


def as_markdown(table: Table) -> str:
    """A table as Markdown."""
    head, *lines = [
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |"
        for row in (table.columns, *table.rows)
    ]
    return "\n".join([head, "|" + "---|" * len(table.columns), *lines]) + "\n"


def markdown(content: dict, parts: list[Section]) -> str:
    """The report without its pictures."""
    lines = [f"**{content['hypothesis'].replace('_', ' ')}**: {content['sentence']}\n"]
    for part in parts:
        lines += [f"## {part.title}\n", *(f"{text}\n" for text in part.texts)]
        for table in part.tables:
            lines += ([f"### {table.caption}\n"] if table.caption else []) + [as_markdown(table)]
    return "\n".join(lines)


def html(content: dict, parts: list[Section]) -> str:
    """The report as one HTML file: pictures inside, nothing from the network."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["base64"] = lambda text: base64.b64encode(text.encode()).decode()
    environment.filters["code"] = _code
    environment.tests["words"] = lambda cell: bool(re.match(r"[A-Za-z]|\d{8}-", cell))
    return environment.from_string(TEMPLATE.read_text()).render(content=content, sections=parts)


def _code(text: str) -> Markup:
    """`words` as code, everything escaped; a % stays on the line of its number."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)).replace(" %", "\u00a0%")))
