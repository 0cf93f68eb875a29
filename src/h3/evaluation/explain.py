"""Why a fold predicts what it predicts: SHAP values and the ranking of features.

>>> values = pd.DataFrame({"kv_to_weights": [0.01, -0.02], "expert_coverage": [0.3, 0.1]})
>>> ranking(values)["feature"].tolist()         # values: fitted.contributions(sample(inputs))
['expert_coverage', 'kv_to_weights']

XGBoost's pred_contribs are the exact Shapley values of a tree ensemble (Lundberg 2018, arXiv:1802.03888).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from h3.models.protocol import Fitted, FittedTrees

MAX_ROWS = 3000


def sample(inputs: pd.DataFrame) -> pd.DataFrame:
    """At most MAX_ROWS rows, evenly spaced."""
    return inputs.iloc[:: max(1, -(-len(inputs) // MAX_ROWS))].reset_index(drop=True)


def with_trees(fitted: Fitted) -> FittedTrees | None:
    """The fit as one that can be explained; None for a predictor without a booster."""
    return fitted if isinstance(fitted, FittedTrees) else None


def ranking(values: pd.DataFrame) -> pd.DataFrame:
    """Features by mean |SHAP|, most important first: feature, mean_abs_shap, rank (1 is the most important;
    ties share).
    """
    mean = values.abs().mean().to_numpy()
    frame = pd.DataFrame({"feature": values.columns, "mean_abs_shap": mean})
    frame["rank"] = frame["mean_abs_shap"].rank(ascending=False, method="average")
    return frame.sort_values(["rank", "feature"]).reset_index(drop=True)


def contribute(values: pd.DataFrame) -> bool:
    """Whether any feature contributes anywhere."""
    return bool(np.any(values.to_numpy() != 0))
