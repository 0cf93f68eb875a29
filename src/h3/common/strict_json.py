"""JSON that every reader takes: numbers that are none are null.

>>> plain({"mape": float("nan"), "n": np.int64(3)})
{'mape': None, 'n': 3}
"""

from __future__ import annotations

import json
import math

import numpy as np


def plain(value: object) -> object:
    """The value for JSON: NaN and infinities are null, numpy's numbers Python's, keys and anything else
    unknown text.
    """
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def dumps(content: object) -> str:
    """JSON text, indented, with a last newline."""
    return json.dumps(plain(content), indent=2, allow_nan=False) + "\n"
