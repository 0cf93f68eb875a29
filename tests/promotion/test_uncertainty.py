"""Held-out folds become intervals by what is new; with too few groups there is none, says the card."""

from __future__ import annotations

import builders
import numpy as np
import pandas as pd
import pytest

from h3.common.config import FeaturesConfig, Fold, ModelConfig, TrainConfig
from h3.evaluation.fold_table import FoldRow
from h3.promotion.card import coverage_table
from h3.promotion.recipe import Recipe
from h3.promotion.uncertainty import GPU_ERRORS, gather
from h3.steps import kernels


def fold(name: str, kind: str, off: float, moe: bool = False) -> tuple[FoldRow, pd.DataFrame]:
    """A fold whose steps are off by `off` in log, a tenth of it more or less."""
    logs = off * np.linspace(0.9, 1.1, 50)
    rows = {"experiment": name, "observed_us": 1000 * np.exp(logs), "predicted_us": 1000.0}
    return FoldRow(fold=name, kind=kind, moe=moe), pd.DataFrame(rows)


@pytest.fixture(scope="module")
def evidence():
    made = builders.Steps(seed=1)
    for model in ("llama-2-7b", "llama-2-70b", "codellama-34b"):
        made.run(model, rows=60)
    config = TrainConfig(
        source=builders.source("simulated"),
        fold=Fold(name="lowo_codegen", kind="lowo", holdout="codegen"),
        model=ModelConfig(name="xgboost_residual"),
        features=FeaturesConfig(name="scale_free"),
    )
    folds = [
        fold("lomo_a", "lomo", 0.05),
        fold("lomo_b", "lomo", -0.06),
        fold("lomo_c", "lomo", 0.04, moe=True),
        fold("lowo_a", "lowo", 0.01),
        fold("lowo_b", "lowo", -0.01),
    ]
    table = made.timed(lambda table: 5000 + 30 * table["num_decode_reqs"].to_numpy()).table()
    return gather(Recipe(config, {"n_estimators": 0}, ()), table, folds)


def test_each_kind_has_the_groups_that_speak_for_it(evidence):
    kinds = evidence.uncertainty.kinds
    counted = {name: kind.groups for name, kind in kinds.items()}
    assert counted == {"known": 3, "new_workload": 2, "new_model": 3} | {
        "new_gpu": 3,
        "new_gpu_no_kernels": 2,
    }
    assert kinds["new_model"].high[2] > kinds["new_workload"].high[2]
    assert np.exp(0.05) < kinds["new_model"].high[2] < np.exp(0.2)


def test_coverage_is_told_only_where_others_could_set_the_width(evidence):
    kinds = evidence.uncertainty.kinds
    assert kinds["new_workload"].coverage is None
    assert len(kinds["new_model"].coverage) == len(evidence.uncertainty.levels)


def test_one_held_out_moe_model_gives_no_interval_and_the_card_says_so(evidence):
    assert "new_moe" not in evidence.uncertainty.kinds
    text = coverage_table(evidence.uncertainty)
    assert "fewer than 2 held-out groups: new MoE model (1)" in text
    assert "| new workload | 2 |" in text and "not measured" in text


def test_it_knows_the_deployments_that_the_fit_was_made_on(evidence):
    assert len(evidence.trained_on.deployments) == 3
    low, high = evidence.trained_on.decode_requests
    assert 0 <= low < high


def test_a_gpu_with_tables_is_as_uncertain_as_kernels_of_the_nearest_other_and_less_than_one_without():
    with_tables, without = (np.sqrt(np.mean(np.square(GPU_ERRORS[kind]))) for kind in GPU_ERRORS)
    assert with_tables == pytest.approx(kernels.NEAREST_LOG_ERROR, abs=0.01)
    assert with_tables < without
