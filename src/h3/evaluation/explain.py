"""Why a fold predicts what it predicts: SHAP values and the ranking of features.

importance = ranking(contributions(fitted, inputs))      # feature, mean |SHAP|, rank
"""

from __future__ import annotations

import numpy as np
import pandas as pd

MAX_ROWS = 3000


def sample(inputs: pd.DataFrame) -> pd.DataFrame:
    """At most MAX_ROWS rows, evenly spaced."""
    return inputs.iloc[:: max(1, -(-len(inputs) // MAX_ROWS))].reset_index(drop=True)


def contributions(fitted: object, inputs: pd.DataFrame) -> pd.DataFrame | None:
    """SHAP values of the given steps, shape (rows, features), or None for a predictor without trees.

    XGBoost's pred_contribs are the exact Shapley values of a tree ensemble (Lundberg 2018, arXiv:1802.03888).
    """
    return fitted.contributions(inputs) if hasattr(fitted, "contributions") else None


def ranking(values: pd.DataFrame) -> pd.DataFrame:
    """Features by mean |SHAP|, most important first: feature, mean_abs_shap, rank (1 is the most important;
    ties share).
    """
    mean = values.abs().mean().to_numpy()
    frame = pd.DataFrame({"feature": values.columns, "mean_abs_shap": mean})
    frame["rank"] = frame["mean_abs_shap"].rank(ascending=False, method="average")
    return frame.sort_values(["rank", "feature"]).reset_index(drop=True)


def has_trees(values: pd.DataFrame | None) -> bool:
    """Whether any feature contributes anywhere."""
    return values is not None and bool(np.any(values.to_numpy() != 0))
