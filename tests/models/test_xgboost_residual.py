"""The residual model: its exported JSON is the whole of it, and it corrects only where it has seen training
data."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import Steps, step
from hypothesis import given, settings
from hypothesis import strategies as st

from h3.common.config import FeaturesConfig
from h3.common.errors import InputError
from h3.evaluation import folds
from h3.models import boosting, physical_base, restore, xgboost_residual, zoo
from h3.models.protocol import Context, digest
from h3.models.support import Support
from h3.models.xgboost_residual import Params, XGBoostResidual
from h3.steps import features
from h3.steps.weights import row_weights

MODELS = ["llama-2-7b", "llama-2-70b", "codellama-34b"]
PARAMS = Params(n_estimators=12, max_depth=3, learning_rate=0.2, min_child_weight=1.0, reg_lambda=1.0)


def bent_us(table):
    """A server that is slower than physics says where the batch is large."""
    physical = sum(
        physical_base.physics.terms_us(table)[name].to_numpy() * prior
        for name, (prior, _) in physical_base.PRIOR.items()
    )
    return physical * np.where(table["num_decode_reqs"] > 60, 1.25, 0.9)


def served(rows=80, seed=0, models=MODELS):
    built = Steps(seed)
    for model in models:
        built.run(model, rows)
    return built.timed(bent_us, noise=0.01).table()


TRAIN = served()


@pytest.fixture(scope="module")
def fitted():
    return XGBoostResidual(PARAMS).fit(TRAIN, Context())


def leaf(tree, row):
    """Value of the leaf that a float32 row falls into: left where x < threshold, a missing x to the default
    child.
    """
    node = 0
    while tree["left_children"][node] != -1:
        x, threshold = row[tree["split_indices"][node]], np.float32(tree["split_conditions"][node])
        left = bool(tree["default_left"][node]) if np.isnan(x) else bool(x < threshold)
        node = tree["left_children"][node] if left else tree["right_children"][node]
    return np.float32(tree["split_conditions"][node])


def walk(description, row):
    """Sum of the leaves of a described booster, in float32 as at run time."""
    total = np.float32(0)
    for tree in description["learner"]["gradient_booster"]["model"]["trees"]:
        total = np.float32(total + leaf(tree, row))
    return total


def trust_of(description, row):
    """1 inside the described ranges, falling to 0 one range width outside: feature by feature."""
    least = 1.0
    for x, low, high in zip(row, description["support"]["low"], description["support"]["high"], strict=True):
        if low <= x <= high:
            continue
        outside = low - x if x < low else x - high
        least = min(least, max(0.0, 1.0 - outside / (high - low)) if high > low else 0.0)
    return least


def test_the_exported_json_walked_in_plain_python_is_the_prediction(fitted):
    description = json.loads(json.dumps(fitted.describe()))
    inputs = folds.without_targets(served(25, seed=9, models=[*MODELS, "mixtral-8x7b-v0-1"]))
    matrix = fitted.inputs_matrix(inputs)
    assert [entry["name"] for entry in description["features"]] == list(matrix.columns)
    rows = matrix.to_numpy(np.float32)
    walked = [
        trust_of(description, row.astype(float)) * float(walk(description["booster"], row)) for row in rows
    ]
    assert fitted.margin(inputs) == pytest.approx(walked, abs=1e-6)
    assert fitted.predict(inputs) == pytest.approx(fitted.base.predict(inputs) * np.exp(walked), rel=1e-6)


def test_the_margin_is_the_sum_of_the_leaves_and_nothing_else(fitted):
    inputs = folds.without_targets(TRAIN)
    rows = fitted.inputs_matrix(inputs).to_numpy(np.float32)
    description = fitted.describe()["booster"]
    assert float(description["learner"]["learner_model_param"]["base_score"].strip("[]")) == 0
    assert fitted.margin(inputs) == pytest.approx([float(walk(description, row)) for row in rows], abs=1e-6)
    assert np.abs(fitted.margin(inputs)).max() > 0.05


def test_shap_values_add_up_to_the_margin(fitted):
    inputs = folds.without_targets(TRAIN)
    description = fitted.describe()["booster"]
    rows = fitted.inputs_matrix(inputs).to_numpy(np.float32)
    leaves = np.array([float(walk(description, row)) for row in rows])
    assert list(fitted.contributions(inputs).columns) == [
        entry["name"] for entry in features.manifest("scale_free")
    ]
    difference = leaves - fitted.contributions(inputs).sum(axis=1).to_numpy()
    assert np.ptp(difference) < 1e-5  # what is left is the mean of the trees, the same for every row


def test_trees_learn_what_physics_leaves_over(fitted):
    test = served(60, seed=4)
    observed = test["period_us"].to_numpy()
    misses = [
        np.abs(np.log(values / observed)).mean()
        for values in (fitted.predict(test), fitted.base.predict(test))
    ]
    assert misses[0] < 0.7 * misses[1]


def test_no_trees_are_the_base_alone():
    alone = XGBoostResidual(Params(n_estimators=0)).fit(TRAIN, Context())
    inputs = folds.without_targets(TRAIN)
    assert np.array_equal(alone.predict(inputs), physical_base.fit(TRAIN, "period_us").predict(inputs))
    assert (alone.margin(inputs) == 0).all()


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_nothing(fitted, threads):
    other = XGBoostResidual(PARAMS).fit(TRAIN, Context(threads=threads))
    assert (
        other.describe()["booster"]["learner"]["gradient_booster"]
        == fitted.describe()["booster"]["learner"]["gradient_booster"]
    )
    assert np.array_equal(other.predict(TRAIN), fitted.predict(TRAIN))
    assert digest(other) == digest(fitted)


def test_the_same_seed_gives_the_same_digest_and_another_seed_other_trees(fitted):
    assert digest(XGBoostResidual(PARAMS).fit(TRAIN.copy(), Context())) == digest(fitted)
    assert digest(XGBoostResidual(PARAMS).fit(TRAIN, Context(seed=1))) != digest(fitted)


def test_a_prediction_needs_no_targets_and_is_finite_and_positive(fitted):
    inputs = folds.without_targets(served(30, seed=2, models=["mixtral-8x7b-v0-1", "llama-2-7b"]))
    predicted = fitted.predict(inputs)
    assert predicted.shape == (60,)
    assert predicted.dtype == np.float64
    assert np.isfinite(predicted).all()
    assert (predicted > 0).all()
    assert fitted.predict(inputs.iloc[:0]).shape == (0,)


def test_dense_models_teach_nothing_about_a_model_with_experts(fitted):
    moe = folds.without_targets(served(20, models=["mixtral-8x7b-v0-1"]))
    assert (fitted.margin(moe) == 0).all()
    assert np.array_equal(fitted.predict(moe), fitted.base.predict(moe))


SEEN = pd.DataFrame({"varied": [1.0, 3.0, 2.0], "constant": [5.0, 5.0, 5.0]}, dtype=np.float32)


@pytest.mark.parametrize(
    ("varied", "constant", "trust"),
    [
        (1.0, 5.0, 1.0),
        (2.5, 5.0, 1.0),
        (3.0, 5.0, 1.0),
        (4.0, 5.0, 0.5),
        (0.0, 5.0, 0.5),
        (5.0, 5.0, 0.0),
        (-9.0, 5.0, 0.0),
        (2.0, 5.5, 0.0),
        (2.0, 4.0, 0.0),
    ],
)
def test_trust_is_one_inside_the_training_ranges_and_gone_a_width_outside(varied, constant, trust):
    row = pd.DataFrame({"varied": [varied], "constant": [constant]}, dtype=np.float32)
    support = Support.of(SEEN, TRAIN, known_only=False)
    assert support.trust(row, TRAIN[:1])[0] == pytest.approx(trust)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=1, max_size=10),
    st.data(),
)
def test_training_rows_are_trusted_and_trust_falls_with_distance(rows, data):
    matrix = pd.DataFrame(rows, columns=list("abc"), dtype=np.float32)
    steps = pd.concat([TRAIN[:1]] * len(matrix), ignore_index=True)
    support = Support.of(matrix, steps, known_only=data.draw(st.booleans()))
    assert (support.trust(matrix, steps) == 1).all()
    far = matrix.assign(a=matrix["a"] + np.float32(data.draw(st.floats(1, 1e5, width=32))))
    farther = far.assign(a=far["a"] + np.float32(1e5))
    assert (support.trust(farther, steps) <= support.trust(far, steps)).all()
    assert ((support.trust(far, steps) >= 0) & (support.trust(far, steps) <= 1)).all()


@pytest.mark.parametrize(
    "change",
    [{"tensor_parallelism": 8}, {"hardware": "A100"}, {"num_layers": 17}, {"bytes_per_parameter": 1.0}],
)
def test_trees_for_known_deployments_are_silent_on_another_one_and_speak_on_an_alias(change):
    fitted = XGBoostResidual(replace(PARAMS, known_only=True)).fit(TRAIN, Context(group="workload"))
    inputs = folds.without_targets(TRAIN)
    assert np.abs(fitted.margin(inputs)).max() > 0.05
    assert fitted.margin(inputs.assign(hardware="h100-sxm")) == pytest.approx(fitted.margin(inputs), abs=0)
    changed = inputs.assign(**change)
    assert np.array_equal(fitted.predict(changed), fitted.base.predict(changed))
    assert np.abs(XGBoostResidual(PARAMS).fit(TRAIN, Context()).margin(changed)).max() > 0


def test_trees_for_known_deployments_survive_writing_and_reading():
    fitted = XGBoostResidual(replace(PARAMS, known_only=True)).fit(TRAIN, Context(group="workload"))
    read = restore.from_description(json.loads(json.dumps(fitted.describe())))
    inputs = folds.without_targets(TRAIN)
    both = pd.concat([inputs, inputs.assign(tensor_parallelism=8)], ignore_index=True)
    assert np.array_equal(read.predict(both), fitted.predict(both))


def test_the_learning_curve_starts_at_the_base_alone_and_ends_where_the_full_fit_does():
    held_out = served(40, seed=6)
    curve = xgboost_residual.learning_curve(PARAMS, TRAIN, held_out, Context())(PARAMS)
    assert len(curve) == len(boosting.ROUNDS)
    weight = row_weights(held_out)
    for index in (0, 4, len(curve) - 1):
        rounds = boosting.ROUNDS[index]
        whole = XGBoostResidual(Params(**{**PARAMS.__dict__, "n_estimators": rounds})).fit(TRAIN, Context())
        miss = np.abs(np.log(whole.predict(held_out) / held_out["period_us"].to_numpy()))
        assert curve[index] == pytest.approx(np.average(miss, weights=weight), rel=1e-4)
    assert curve[4] < curve[0]


def test_more_work_never_takes_less_time_whatever_the_trees_learned():
    table = served(200, seed=9)
    shuffled = table.assign(period_us=np.random.default_rng(3).permutation(table["period_us"].to_numpy()))
    fitted = XGBoostResidual(replace(PARAMS, n_estimators=60, max_depth=4)).fit(shuffled, Context())
    assert np.abs(fitted.margin(folds.without_targets(shuffled))).max() > 0.01
    for made in (
        [step("llama-2-70b", decode=[context] * 24) for context in range(100, 4000, 100)],
        [step("llama-2-70b", decode=[600] * size) for size in range(1, 129)],
        [step("llama-2-70b", decode=[600] * 24, prefill=[(tokens, 0)]) for tokens in range(16, 2048, 64)],
    ):
        times = fitted.predict(pd.concat(made, ignore_index=True))
        assert (np.diff(times) >= 0).all()


def test_features_of_a_dropped_group_are_not_used():
    smaller = XGBoostResidual(PARAMS).fit(
        TRAIN, Context(features=FeaturesConfig(drop_groups=("communication", "experts")))
    )
    assert not {"all_reduce_to_weights", "expert_coverage"} & set(smaller.inputs_matrix(TRAIN).columns)
    assert len(smaller.describe()["features"]) == smaller.inputs_matrix(TRAIN).shape[1]


def test_predictors_are_made_by_name_with_known_parameters():
    assert zoo.make("xgboost_residual", {"max_depth": 2}) == XGBoostResidual(Params(max_depth=2))
    assert zoo.tuned("xgboost_residual")
    assert not zoo.tuned("xgboost_raw")
    with pytest.raises(InputError, match=r"unknown model 'forest'; expected one of .*xgboost_residual"):
        zoo.make("forest", {})
    with pytest.raises(
        InputError, match=r"model xgboost_residual: unknown parameter 'depth'; expected some of .*max_depth"
    ):
        zoo.make("xgboost_residual", {"depth": 2})
