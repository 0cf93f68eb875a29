"""One hypothesis profile for every run: the same examples each time, so that a failure is a change, never
luck.

`pytest --hypothesis-profile=explore` draws new ones, ten times as many where a test does not set their
number.

With two workers a file is one worker's: long ones are begun first, so that none is left over at the end.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

# Rooms whose files take longest, since their tests start processes and stores.
LONG = ("commands", "hostile", "tracking", "verdict", "promotion", "test_contributing.py")

settings.register_profile("fixed", derandomize=True, database=None)
settings.register_profile("explore", max_examples=1000, print_blob=True)
settings.load_profile("fixed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; the order is else as it was, and so is that within a file."""
    items.sort(key=lambda item: not set(LONG) & set(item.path.parts))
