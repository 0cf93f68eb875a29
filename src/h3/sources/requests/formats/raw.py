"""What a reader gives: requests in one table, rejects, and how many failed.

raw = gather("20260217-...", content, enumerate(entries, 1), row)       # row: entry → Row, None: it failed
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from h3.sources.requests.formats.content import Content

COLUMNS = (
    "request",
    "line",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "arrival_us",
    "first_us",
    "last_us",
    "token_times_us",
)
Reject = tuple[str, str, int, str, str]
Raw = tuple[pd.DataFrame, list[Reject], int]  # requests that ended well, rejects, how many failed
# What reading an entry of another shape raises.
BROKEN = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class Row:
    """One request that ended well; cached_tokens NaN: not recorded, token_times_us None: not a time a
    token.
    """

    prompt_tokens: float
    output_tokens: float
    arrival_us: float
    first_us: float
    last_us: float
    cached_tokens: float = float("nan")
    token_times_us: np.ndarray | None = None


def gather(
    name: str,
    content: Content,
    entries: Iterable[tuple[int, Any]],
    row: Callable[[Any], Row | None],
) -> Raw:
    """Read the numbered entries of a log; those that cannot be read are rejected with their number."""
    rows, failed = [], 0
    rejects = [(name, str(content.path), line, "broken_line", reason) for line, reason in content.broken]
    for number, entry in entries:
        try:
            read = row(entry)
        except BROKEN as error:
            detail = f"entry {number}: {type(error).__name__} {error}"
            rejects.append((name, str(content.path), number, "broken_entry", detail))
            continue
        if read is None:
            failed += 1
        else:
            rows.append({"request": str(number), "line": number, **vars(read)})
    return pd.DataFrame(rows, columns=list(COLUMNS)), rejects, failed


def numbers(values: Any) -> np.ndarray:
    """A list of numbers, shape (n,); raises ValueError or TypeError for anything else."""
    array = np.asarray(values, dtype=float)
    if array.ndim != 1:
        raise ValueError(f"{array.ndim} dimensions; expected a list of numbers")
    return array


def exact(times_us: np.ndarray, tokens: float) -> np.ndarray | None:
    """The times if they are one a token in order, else None: then chunks held several tokens or none."""
    whole = len(times_us) == tokens and len(times_us) > 1 and bool(np.isfinite(times_us).all())
    return times_us if whole and bool((np.diff(times_us) >= 0).all()) else None


def optional(value: Any) -> float:
    """A number that a log may leave out, NaN if it does."""
    return float("nan") if value is None else float(value)
