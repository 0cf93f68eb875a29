"""What travels between rooms and is kept as JSON: frozen records whose numbers are numbers or None.

>>> class Row(Record):
...     mape: Number = None
>>> Row(mape=float("nan"))                      # what is no number is null in every file
Row(mape=None)
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Record(BaseModel):
    """Frozen; a reader ignores keys that it does not know, so that newer files stay readable."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
Interval = tuple[Number, Number]


class LeftOut(Record):
    """An experiment that is not in the numbers, and why."""

    experiment: str
    reason: str
