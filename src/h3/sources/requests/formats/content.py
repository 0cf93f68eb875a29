"""What a JSON log holds before anyone knows its format: one document, or a value a line.

content = load(Path("benchmarks.json"))         # also .jsonl, and either packed by gzip
content.document, content.values
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h3.common import bounded
from h3.common.bounded import Bounds
from h3.common.errors import InputError

USUAL = Bounds()


@dataclass(frozen=True)
class Content:
    """The values of a file with their lines, and the lines that are no JSON with the reason."""

    path: Path
    values: tuple[tuple[int, Any], ...]
    broken: tuple[tuple[int, str], ...] = ()

    @property
    def document(self) -> Any:
        """The only value, None where there are several."""
        return self.values[0][1] if len(self.values) == 1 and not self.broken else None


def load(path: Path, bounds: Bounds = USUAL) -> Content:
    """The JSON of a file: one document, or else a value a line, of which the first must be an object.

    Raises InputError for a file that is neither and for one beyond the bounds.
    """
    data = bounded.read(path, bounds).content
    try:
        return Content(path, ((1, json.loads(data)),))
    except (ValueError, RecursionError) as error:
        content = _lines(path, data)
        if content is None:
            said = str(error).splitlines()[0][:120]
            raise InputError(f"{path}: not JSON ({said}); expected a log of requests") from None
        return content


def _lines(path: Path, data: bytes) -> Content | None:
    """A value a line; None if the first line is no object or there is none."""
    values: list[tuple[int, Any]] = []
    broken = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            values.append((number, json.loads(line)))
        except (ValueError, RecursionError) as error:
            broken.append((number, f"line {number}: {type(error).__name__} {error}"))
        if not values or not isinstance(values[0][1], dict):
            return None
    return Content(path, tuple(values), tuple(broken)) if values else None
