"""The pictures of a report, drawn when a template asks for one's SVG.

    pictures = Pictures(verdict, predictions)
    pictures.errors("lomo_mixtral").svg

A format that shows none asks for none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
from matplotlib.figure import Figure

from h3.verdict.content import Verdict
from h3.verdict.report import plots


@dataclass(frozen=True)
class Picture:
    """A figure, not drawn yet."""

    draw: Callable[[], Figure]

    @cached_property
    def svg(self) -> str:
        """Its SVG."""
        return plots.svg(self.draw)

    @property
    def width_px(self) -> int:
        """Its natural width at 96 px an inch (an SVG says it in points)."""
        found = re.search(r'<svg[^>]* width="([0-9.]+)pt"', self.svg)
        return round(float(found[1]) * 96 / 72) if found else 800


@dataclass(frozen=True)
class Pictures:
    """The pictures of one verdict; predictions: of the judged predictor, by fold."""

    verdict: Verdict
    predictions: Mapping[str, pd.DataFrame]

    def folds(self) -> Picture:
        """Each fold's error, interval and threshold."""
        return Picture(lambda: plots.fold_intervals(self.verdict.folds, self.verdict.refute))

    def steps(self) -> Picture:
        """The error after each step from the study to h3."""
        steps = self.verdict.ablation.waterfall if self.verdict.ablation else []
        return Picture(lambda: plots.waterfall(steps))

    def errors(self, fold: str) -> Picture:
        """The distribution of one fold's errors."""
        return Picture(lambda: plots.error_distribution(self.predictions[fold], fold))
