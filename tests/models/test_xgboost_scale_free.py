"""XGBoost without a fitted base: its scale is the data sheet's, all else is trees."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import Steps, step

from h3.common.config import FeaturesConfig
from h3.common.errors import InputError
from h3.evaluation import folds
from h3.models import restore, xgboost_scale_free
from h3.models.protocol import Context, FittedTrees
from h3.models.xgboost_scale_free import Params, XGBoostScaleFree
from h3.steps import features, metrics, peak
from h3.steps.weights import row_weights

MODELS = ["llama-2-7b", "llama-2-70b", "codellama-34b", "qwen3-14b", "yi-34b"]
PARAMS = Params(n_estimators=60, learning_rate=0.2, min_child_weight=1.0, reg_lambda=1.0)


def roofline_us(table):
    return peak.roofline_us(peak.parts_us(table))


def served(truth_us, models=MODELS, rows=60, seed=0):
    built = Steps(seed)
    for model in models:
        built.run(model, rows)
    return built.timed(truth_us, noise=0.01).table()


def with_launches_us(table):
    """A server that takes a fifth longer than its roofline, and 50 us a layer."""
    return 1.2 * roofline_us(table) + 50 * table["num_layers"]


def error(fitted, table):
    return metrics.mape(fitted.predict(folds.without_targets(table)), table["period_us"].to_numpy())


TRAIN = served(with_launches_us)


def test_peak_roofline_of_a_step_worked_by_hand():
    # llama-2-70b on four H100: weights of 2 bytes, a quarter of them here; KV of 2 x 2 heads x 128 values of
    # 2 bytes a layer and token; 160 all-reduces of 2 x 8192 x 2 bytes, 6/4 of each on the wire at 450 GB/s.
    weights = 80 * (2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672) + 8192 * 32000
    kv = 80 * 2 * 2 * 128 * 2 * 1500
    reduced = 160 * 1.5 * 2 * 8192 * 2 / 450e3
    assert roofline_us(step("llama-2-70b", 4, decode=[700, 800])) == pytest.approx(
        [(2 * weights / 4 + kv) / 3.35e6 + reduced], rel=1e-9
    )


def test_no_trees_are_one_factor_for_all_steps_learned_in_training():
    fitted = XGBoostScaleFree(Params(n_estimators=0)).fit(
        served(lambda rows: 1.4 * roofline_us(rows)), Context()
    )
    other = folds.without_targets(served(roofline_us, ["mixtral-8x7b-v0-1"], seed=3))
    assert fitted.predict(other) / roofline_us(other) == pytest.approx(1.4, rel=0.005)


def test_trees_learn_what_a_server_adds_and_carry_it_to_a_model_never_seen():
    held_out = served(with_launches_us, ["llama-3.1-8b-instruct"], seed=5)
    trees, level = (
        XGBoostScaleFree(params).fit(TRAIN, Context()) for params in (PARAMS, Params(n_estimators=0))
    )
    assert error(trees, TRAIN) < 3 < error(level, TRAIN)
    assert error(trees, held_out) < 0.7 * error(level, held_out)


def test_more_layers_in_the_same_roofline_never_take_less_time():
    fitted = XGBoostScaleFree(PARAMS).fit(TRAIN, Context())
    rows = folds.without_targets(TRAIN)
    matrix = fitted.inputs_matrix(rows)
    more = matrix.assign(layers_per_us=matrix["layers_per_us"] * 1.5)
    assert (fitted.boosted.margin(more) >= fitted.boosted.margin(matrix) - 1e-6).all()


def test_the_features_are_ratios_that_a_model_twice_as_deep_and_wide_in_vocabulary_shares():
    rows = step("llama-2-70b", 4, decode=[500] * 30, prefill=[(300, 64)])
    doubled = rows.assign(num_layers=160, vocab_size=64000)
    ratio = features.build(peak.NAME, doubled) / features.build(peak.NAME, rows)
    grows = ["requests_per_us", "expert_coverage", "tokens_per_expert", "moe_layers_per_us"]
    assert ratio.drop(columns=grows).to_numpy() == pytest.approx(1, rel=1e-5)
    assert ratio["requests_per_us"].iloc[0] == pytest.approx(0.5)  # twice the work for the same requests


def test_it_explains_itself_by_shap_values_that_add_up_to_its_correction():
    fitted = XGBoostScaleFree(PARAMS).fit(TRAIN, Context())
    assert isinstance(fitted, FittedTrees)
    rows = folds.without_targets(TRAIN)
    values = fitted.contributions(rows)
    assert list(values.columns) == [entry["name"] for entry in fitted.describe()["features"]]
    said = np.log(fitted.predict(rows) / roofline_us(rows)) - fitted.level
    assert np.ptp(said - values.sum(axis=1).to_numpy()) < 1e-4


def test_the_learning_curve_starts_at_the_level_alone_and_ends_where_the_full_fit_does():
    held_out = served(with_launches_us, ["llama-3.1-8b-instruct"], seed=5)
    curve = xgboost_scale_free.learning_curve(PARAMS, TRAIN, held_out, Context())(PARAMS)
    for rounds, found in ((0, curve[0]), (200, curve[-1])):
        fitted = XGBoostScaleFree(Params(**(vars(PARAMS) | {"n_estimators": rounds}))).fit(TRAIN, Context())
        off = np.log(fitted.predict(held_out) / held_out["period_us"].to_numpy())
        assert found == pytest.approx(np.average(np.abs(off), weights=row_weights(held_out)), rel=1e-4)


def test_groups_of_features_can_be_left_out_and_another_set_asked_for():
    dropped = Context(features=FeaturesConfig(drop_groups=("overhead",)))
    names = list(XGBoostScaleFree(PARAMS).fit(TRAIN, dropped).inputs_matrix(TRAIN).columns)
    assert "layers_per_us" not in names and "kv_share" in names
    raw = XGBoostScaleFree(PARAMS).fit(TRAIN, Context(features=FeaturesConfig(name="raw30")))
    assert raw.inputs_matrix(TRAIN).shape[1] == 30


def test_it_cannot_be_restored_as_what_a_bundle_holds():
    described = json.loads(json.dumps(XGBoostScaleFree(PARAMS).fit(TRAIN, Context()).describe()))
    with pytest.raises(InputError, match=r"model 'xgboost_scale_free'; expected 'xgboost_residual'"):
        restore.from_description(described)
