"""Places in a file, and a case for each value of a table.

A word of NAMES stands for the beginning of a path.
"""

from __future__ import annotations

from collections.abc import Iterator

from bundle_corpus.edits import Corpus, Place, Text

NAMES = {
    "MODEL": "learner/gradient_booster/model",
    "TREE": "learner/gradient_booster/model/trees/0",
    "PARAMS": "learner/learner_model_param",
    "DENSE": "models/dense",
    "KNOWN": "uncertainty/kinds/known",
    "H100": "hardware/H100",
}


def place(path: str) -> Place:
    """The path as keys and numbers."""
    first, *rest = path.split("/")
    parts = [*NAMES.get(first, first).split("/"), *rest]
    return tuple(int(part) if part.isdigit() else part for part in parts)


def rows(table: str) -> Iterator[tuple[str, str]]:
    """Path and value of each case of a table."""
    for line in table.strip().splitlines():
        path, values = line.split(maxsplit=1)
        for value in values.split(" |"):
            yield path, value.strip()


def put_all(corpus: Corpus, verdict: str, text: Text, table: str, under: str = "") -> None:
    """A case for each value of a table."""
    for path, value in rows(table):
        said = f"{under}{path}"
        corpus.add(verdict, f"{text.name}: {said} is {value[:40]}", text.put(place(said), value))
