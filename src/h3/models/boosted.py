"""The trees of a fit: XGBoost's booster where they were trained, arrays where they were read from a file.

    Boosted.trained(booster).margin(matrix)              # sum of leaves, float32 of shape (rows,)
    Boosted.read(content, names, "booster.json")         # checked at once, given to XGBoost where needed

Both give the same numbers to the bit. A first answer from a bundle needs no XGBoost, whose import takes
longer than the answer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from h3.common.errors import InputError
from h3.models.trees import Trees, check_booster, rebuilt

if TYPE_CHECKING:
    import xgboost as xgb

# Above so many rows the import of XGBoost pays.
MOST_WALKED_ROWS = 20_000


@dataclass(frozen=True)
class Boosted:
    """One of the two is given: a trained booster, or the checked content of XGBoost's JSON."""

    given: xgb.Booster | None = None
    content: dict[str, Any] | None = None
    where: str = ""

    @classmethod
    def trained(cls, booster: xgb.Booster) -> Boosted:
        """The trees of a booster of our own."""
        return cls(given=booster)

    @classmethod
    def read(cls, content: object, names: list[str], where: str) -> Boosted:
        """The trees in XGBoost's JSON on exactly these features; raises InputError as trees.check_booster
        does.
        """
        check_booster(content, names, where)
        assert isinstance(content, dict)
        return cls(content=content, where=where)

    @cached_property
    def booster(self) -> xgb.Booster:
        """XGBoost's booster; raises InputError if XGBoost cannot read the content."""
        import xgboost as xgb

        if self.given is not None:
            return self.given
        loaded = xgb.Booster()
        try:
            loaded.load_model(bytearray(json.dumps(self._checked(), allow_nan=False).encode()))
        except (xgb.core.XGBoostError, ValueError) as error:
            said = str(error).splitlines()[0][:200]
            raise InputError(f"{self.where}: XGBoost {xgb.__version__} cannot read it: {said}") from None
        return loaded

    def _checked(self) -> dict[str, Any]:
        """The content without what nobody checked: XGBoost then reads what the walker reads."""
        assert self.content is not None  # no booster was given
        learner = self.content["learner"]
        trees = learner["gradient_booster"]["model"]["trees"]
        return rebuilt(trees, learner["feature_names"], self.content["version"])

    @cached_property
    def trees(self) -> Trees:
        """The trees as arrays."""
        return Trees.of(self.described()["learner"]["gradient_booster"]["model"]["trees"])

    @property
    def count(self) -> int:
        """How many trees there are."""
        return self.trees.count

    def margin(self, matrix: pd.DataFrame) -> np.ndarray:
        """Sum of the leaves that each row of features reaches, float32 of shape (rows,)."""
        if not len(matrix):
            return np.zeros(0, np.float32)
        if self.given is None and "booster" not in vars(self) and len(matrix) <= MOST_WALKED_ROWS:
            return self.trees.margin(matrix.to_numpy(np.float32))
        return self.boosted_margin(matrix)

    def boosted_margin(self, matrix: pd.DataFrame) -> np.ndarray:
        """The same by XGBoost itself."""
        import xgboost as xgb

        margin: np.ndarray = self.booster.predict(
            xgb.DMatrix(matrix.to_numpy(), feature_names=list(matrix.columns))
        )
        return margin

    def described(self) -> dict[str, Any]:
        """XGBoost's JSON, as content."""
        if self.content is not None:
            return self.content
        content: dict[str, Any] = json.loads(self.json_bytes())
        return content

    def json_bytes(self) -> bytes:
        """XGBoost's JSON, as it writes it."""
        return bytes(self.booster.save_raw("json"))


def contributions(booster: xgb.Booster, matrix: pd.DataFrame) -> pd.DataFrame:
    """Exact SHAP values of the rows of a feature matrix in units of the margin, shape (rows, features)
    (Lundberg 2018, arXiv:1802.03888).
    """
    import xgboost as xgb

    values = booster.predict(xgb.DMatrix(matrix), pred_contribs=True)
    return pd.DataFrame(values[:, :-1], columns=matrix.columns)
