"""A long table in blocks of rows, so that what is computed on the way takes the memory of one.

>>> [(rows.start, rows.stop) for rows in blocks(5, most=2)]
[(0, 2), (2, 4), (4, 5)]
"""

from __future__ import annotations

from collections.abc import Iterator

BLOCK_ROWS = 2**18


def blocks(rows: int, most: int = BLOCK_ROWS) -> Iterator[slice]:
    """Slices of at most so many rows, in order, that cover all; one empty one for no row."""
    for start in range(0, max(rows, 1), most):
        yield slice(start, min(start + most, rows))
