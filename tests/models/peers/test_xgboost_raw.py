"""The study's recipe: as it was, exported whole, and bound to fail beyond the scale of its training data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import Steps

from h3.common.config import FeaturesConfig
from h3.evaluation import folds
from h3.models.peers.xgboost_raw import Params, XGBoostRaw
from h3.models.protocol import Context, digest
from h3.steps import features, metrics

RAW30 = FeaturesConfig(name="raw30")
CONTEXT = Context(target="duration_us", features=RAW30)
SMALL = Params(n_estimators=10)


def served(models, rows=60, seed=0):
    built = Steps(seed)
    for model in models:
        built.run(model, rows)
    scale = {"llama-2-7b": 100.0, "codellama-34b": 300.0, "llama-2-70b": 20_000.0}
    table = built.table()
    return table.assign(duration_us=table["model"].map(scale) * (1 + table["num_decode_reqs"] / 100))


TRAIN = served(["llama-2-7b", "codellama-34b"])


@pytest.fixture(scope="module")
def fitted():
    return XGBoostRaw(SMALL).fit(TRAIN, CONTEXT)


def test_the_usual_parameters_are_the_studys():
    assert Params() == Params(
        n_estimators=300,
        max_depth=6,
        learning_rate=0.05,
        min_child_weight=5,
        subsample=0.8,
        colsample_bytree=0.8,
    )


def leaf(tree, row):
    node = 0
    while tree["left_children"][node] != -1:
        x, threshold = row[tree["split_indices"][node]], np.float32(tree["split_conditions"][node])
        left = bool(tree["default_left"][node]) if np.isnan(x) else bool(x < threshold)
        node = tree["left_children"][node] if left else tree["right_children"][node]
    return tree["split_conditions"][node]


def test_the_exported_json_walked_in_plain_python_is_the_prediction(fitted):
    description = json.loads(json.dumps(fitted.describe()))
    learner = description["booster"]["learner"]
    base_score = float(learner["learner_model_param"]["base_score"].strip("[]"))
    names = [entry["name"] for entry in description["features"]]
    assert len(names) == 30
    hidden = TRAIN.assign(
        kv_blocks_free=np.nan, kv_usage_ratio=np.nan
    )  # missing values take the default child
    for inputs in (TRAIN, hidden):
        matrix = features.build("raw30", inputs)
        assert list(matrix.columns) == names
        walked = [
            base_score + sum(leaf(tree, row) for tree in learner["gradient_booster"]["model"]["trees"])
            for row in matrix.to_numpy(np.float32)
        ]
        assert fitted.predict(folds.without_targets(inputs)) == pytest.approx(walked, rel=1e-4)


def test_a_prediction_is_never_below_a_microsecond():
    low = XGBoostRaw(SMALL).fit(TRAIN.assign(duration_us=1e-3), CONTEXT)
    assert (low.predict(TRAIN) == 1).all()


def test_the_number_of_threads_changes_nothing(fitted):
    other = XGBoostRaw(SMALL).fit(TRAIN, Context(target="duration_us", features=RAW30, threads=2))
    assert digest(other) == digest(fitted)
    assert digest(
        XGBoostRaw(SMALL).fit(TRAIN.assign(duration_us=TRAIN["duration_us"] * 2), CONTEXT)
    ) != digest(fitted)


def test_shap_values_add_up_to_the_prediction_but_for_one_constant(fitted):
    values = fitted.contributions(TRAIN)
    assert values.shape == (len(TRAIN), 30)
    assert np.ptp(fitted.predict(TRAIN) - values.sum(axis=1).to_numpy()) < 0.01


def test_it_fits_what_it_has_seen_and_fails_at_a_scale_that_it_has_not():
    study = XGBoostRaw(Params(n_estimators=150)).fit(TRAIN, CONTEXT)
    seen, unseen = served(["llama-2-7b", "codellama-34b"], seed=1), served(["llama-2-70b"], seed=1)
    errors = [metrics.mape(study.predict(table), table["duration_us"].to_numpy()) for table in (seen, unseen)]
    assert errors[0] < 15
    assert errors[1] > 80
    assert study.predict(unseen).max() <= 1.3 * TRAIN["duration_us"].max()
