"""Figures as a Markdown table, beside those of the run before."""

from __future__ import annotations

from collections.abc import Iterable

from bench.figures import Figure

WORSE = 1.3  # times; less is the noise of a machine that does other things too
ALIKE = 1.03
HEAD = ("stage", "what", "value", "last", "change", "target")


def worse(now: Figure, last: Figure) -> float:
    """How many times worse than before: above 1 worse, below 1 better."""
    if min(now.value, last.value) <= 0:
        return 1.0 if now.value == last.value else float("inf")
    return last.value / now.value if now.more_is_better else now.value / last.value


def flagged(now: Iterable[Figure], last: Iterable[Figure]) -> list[Figure]:
    """The figures that are more than WORSE times worse than before."""
    before = {figure.key: figure for figure in last}
    return [figure for figure in now if figure.key in before and worse(figure, before[figure.key]) > WORSE]


def number(figure: Figure) -> str:
    """Value and unit: three digits, thousands apart."""
    value = figure.value
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits}x" if figure.unit == "x" else f"{digits} {figure.unit}".rstrip()


def change(now: Figure, last: Figure | None) -> str:
    """The change in words, with a mark where it is more than WORSE times worse."""
    if last is None:
        return "new"
    times = worse(now, last)
    if times > WORSE:
        return f"**{times:.2f}x worse !**"
    if times > ALIKE:
        return f"{times:.2f}x worse"
    return f"{1 / times:.2f}x better" if times * ALIKE < 1 else "same"


def target(figure: Figure) -> str:
    """The bound, and whether it is kept."""
    if figure.target is None:
        return ""
    bound = f"{'≥' if figure.more_is_better else '≤'} {figure.target:g}"
    return bound if figure.within_target() else f"**{bound}: missed**"


def markdown(now: Iterable[Figure], last: Iterable[Figure] = ()) -> str:
    """The table; without figures of before, without their two columns."""
    before = {figure.key: figure for figure in last}
    rows = [
        (
            figure.stage,
            figure.name,
            number(figure),
            number(before[figure.key]) if figure.key in before else "",
            change(figure, before.get(figure.key)),
            target(figure),
        )
        for figure in now
    ]
    kept = [place for place, name in enumerate(HEAD) if before or name not in ("last", "change")]
    lines = [HEAD, ["---:" if HEAD[place] in ("value", "last") else "---" for place in range(6)], *rows]
    return "\n".join("| " + " | ".join(line[place] for place in kept) + " |" for line in lines) + "\n"
