"""One measured number, and files of them. Standard library only: the process that starts the stages stays
small, since Linux counts a parent's peak memory to the child that it starts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

MACHINE, FIGURES = "machine", "figures"


@dataclass(frozen=True)
class Figure:
    """stage and name say what was measured; `unit` is `x` for a ratio. target: the bound that it should
    keep; none where there is none."""

    stage: str
    name: str
    value: float
    unit: str
    more_is_better: bool = False
    target: float | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same measurement in another run."""
        return self.stage, self.name

    def within_target(self) -> bool:
        """Whether it keeps its target; true where there is none."""
        if self.target is None:
            return True
        return self.value >= self.target if self.more_is_better else self.value <= self.target


def dump(figures: Iterable[Figure]) -> list[dict]:
    """JSON of figures."""
    return [asdict(figure) for figure in figures]


def load(content: Iterable[dict]) -> list[Figure]:
    """Figures of their JSON."""
    return [Figure(**entry) for entry in content]


def read(path: Path) -> tuple[str, list[Figure]]:
    """The machine in words and the figures of the run that was saved there; nothing where none was, or
    where another version of the benchmark saved it."""
    try:
        content = json.loads(path.read_text())
        return content[MACHINE], load(content[FIGURES])
    except (OSError, ValueError, KeyError, TypeError):
        return "", []


def write(path: Path, machine: str, figures: Iterable[Figure]) -> None:
    """Save a run, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    scratch.write_text(json.dumps({MACHINE: machine, FIGURES: dump(figures)}, indent=1) + "\n")
    os.replace(scratch, path)


def merged(last: Iterable[Figure], now: Iterable[Figure]) -> list[Figure]:
    """The newest figures of every stage: a stage that was measured now replaces all it said before."""
    fresh = list(now)
    stages = {figure.stage for figure in fresh}
    return [figure for figure in last if figure.stage not in stages] + fresh
