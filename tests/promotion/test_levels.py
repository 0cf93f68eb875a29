"""A version tells the errors of what ships: not of trees that learned levels, which no bundle holds."""

from __future__ import annotations

import pandas as pd
from builders import fold_result, simulated_source

from h3.common.config import FeaturesConfig, Fold, ModelConfig, TrainConfig
from h3.evaluation.fold_table import FoldRow
from h3.promotion.recipe import Recipe
from h3.promotion.shipped import as_it_ships
from h3.promotion.trees import kept_trees

FRAME = pd.DataFrame({"experiment": ["a"], "observed_us": [1.0], "predicted_us": [1.0]})


def rows(**mape):
    return [(FoldRow(fold=fold, mape=value), FRAME) for fold, value in mape.items()]


def test_a_fold_with_levels_is_told_with_the_error_of_the_base_that_ships():
    results = [
        fold_result("lomo_a", params={"n_estimators": 8, "levels": True}),
        fold_result("lomo_b", params={"n_estimators": 0, "levels": True}),
        fold_result("lowo_c", params={"n_estimators": 16, "levels": False}),
    ]
    told = as_it_ships(
        rows(lomo_a=2.0, lomo_b=3.0, lowo_c=1.0), rows(lomo_a=2.5, lomo_b=9.0, lowo_c=9.0), results
    )
    assert [row.mape for row, _ in told] == [2.5, 3.0, 1.0]


def test_trees_that_learned_levels_are_left_out_with_the_reason():
    config = TrainConfig(
        source=simulated_source(),
        fold=Fold(name="f", kind="lomo"),
        model=ModelConfig(name="xgboost_residual"),
        features=FeaturesConfig(name="scale_free"),
    )
    kept = kept_trees(Recipe(config, {"n_estimators": 8, "levels": True}, ()), pd.DataFrame(), 1.0)
    assert "base_shares, which a bundle does not hold" in kept.why
    assert (kept.recipe.params["n_estimators"], kept.recipe.params["levels"]) == (0, False)
    assert kept_trees(Recipe(config, {"n_estimators": 0, "levels": True}, ()), pd.DataFrame(), 1.0).why == ""
