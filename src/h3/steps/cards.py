"""What a step table's rows say of their GPUs: figures of the catalogue and factors of the kernels, a number a
row.

>>> figure(pd.DataFrame({"hardware": ["H100", "L40S"]}), "streaming_multiprocessors").tolist()
[132.0, 142.0]
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from h3.steps import catalog, kernels
from h3.steps.catalog import Hardware


def figure(table: pd.DataFrame, name: str) -> np.ndarray:
    """A figure of catalog.Hardware, float64 of shape (rows,)."""
    return _each(table, lambda hardware: float(getattr(hardware, name)))


def per_us(table: pd.DataFrame, name: str) -> np.ndarray:
    """A figure a second of catalog.Hardware as one a microsecond, float64 of shape (rows,)."""
    return figure(table, name) / 1e6


def kernel(table: pd.DataFrame, name: str) -> np.ndarray:
    """A factor of kernels.Kernels, float64 of shape (rows,): 1, or 0 for bends, on an H100."""
    return _each(table, lambda hardware: float(getattr(kernels.of(hardware), name)))


def _each(table: pd.DataFrame, value: Callable[[Hardware], float]) -> np.ndarray:
    names = table["hardware"]
    if isinstance(names.dtype, pd.CategoricalDtype):
        of_category = [value(catalog.hardware(name)) for name in names.cat.categories]
        return np.array([*of_category, np.nan])[names.cat.codes]  # the last: no name
    first = names.iloc[0] if len(names) else "H100"
    if (names == first).all():
        return np.full(len(names), value(catalog.hardware(first)))
    return names.map({name: value(catalog.hardware(name)) for name in names.unique()}).to_numpy(float)
