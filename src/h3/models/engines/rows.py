"""What trees are trained on, whichever engine trains them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import xgboost as xgb


@dataclass(frozen=True)
class Rows:
    """matrix: float32 (rows, features); label, weight: (rows,); weight None: all rows weigh the same."""

    matrix: pd.DataFrame
    label: np.ndarray
    weight: np.ndarray | None = None

    @cached_property
    def dmatrix(self) -> xgb.QuantileDMatrix:
        """All rows in memory, as every trial of a search trains on them: in bins, a byte a value, which gives
        the trees of xgboost.DMatrix without sorting the values once more for each.
        """
        return xgb.QuantileDMatrix(self.matrix, label=self.label, weight=self.weight)

    def __len__(self) -> int:
        return len(self.matrix)

    @property
    def columns(self) -> dict[str, Any]:
        """Names and types of the features, as XGBoost reads them off a DataFrame of float32."""
        names = list(self.matrix.columns)
        return {"feature_names": names, "feature_types": ["float"] * len(names)}

    def arrays(self, first: int = 0, last: int | None = None) -> dict[str, np.ndarray]:
        """data, label and, where rows have one, weight, of the rows from `first` to before `last`; float32,
        as XGBoost holds them.
        """
        found = {"data": self.matrix.iloc[first:last].to_numpy(np.float32), "label": self.label[first:last]}
        if self.weight is not None:
            found["weight"] = self.weight[first:last]
        return {name: np.ascontiguousarray(values, np.float32) for name, values in found.items()}
