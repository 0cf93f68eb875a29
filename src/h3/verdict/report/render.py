"""A verdict as text: templates/report.j2 says it, in one of the formats html.j2 and markdown.j2.

    html(verdict, predictions)          # predictions: fold → those of the judged predictor
    markdown(verdict)                   # the same without pictures

A template sees `verdict`, `pictures`, the format's macros as `out`, and the filters of filters.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Literal

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from h3.verdict.content import Verdict
from h3.verdict.report import filters, plots, rows
from h3.verdict.report.pictures import Pictures

Format = Literal["html", "markdown"]


def html(verdict: Verdict, predictions: Mapping[str, pd.DataFrame]) -> str:
    """The report as one HTML file that opens offline: pictures inside, nothing from the network."""
    return _rendered("report.j2", "html", verdict, Pictures(verdict, predictions))


def markdown(verdict: Verdict) -> str:
    """The report without its pictures."""
    return _tidy(_rendered("report.j2", "markdown", verdict, Pictures(verdict, {})))


def fold_table(verdict: Verdict) -> str:
    """A row a fold: error, interval, threshold, what follows from it; Markdown."""
    return _tidy(_rendered("fold_table.j2", "markdown", verdict, Pictures(verdict, {})))


def _rendered(name: str, form: Format, verdict: Verdict, pictures: Pictures) -> str:
    return environment(form).get_template(name).render(verdict=verdict, pictures=pictures)


def _tidy(text: str) -> str:
    """One blank line where tags left several, a last newline."""
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


@cache
def environment(form: Format) -> Environment:
    """The templates in one format; a name that is not there is an error."""
    made = Environment(
        loader=PackageLoader("h3.verdict.report"),
        autoescape=form == "html",
        undefined=StrictUndefined,
        extensions=["jinja2.ext.do"],
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= filters.FILTERS
    for select in (rows.ours_and_best_rival, rows.by_fold_and_difference, rows.worst_steps):
        made.filters[select.__name__] = select
    made.tests["words"] = filters.is_words
    made.globals["signed_edge"] = plots.SIGNED_EDGE
    made.globals["out"] = made.get_template(f"{form}.j2").module
    return made
