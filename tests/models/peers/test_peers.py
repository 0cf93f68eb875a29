"""Every predictor behind the protocol: what all promise, then each against numbers worked by hand."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from builders import Steps, simulated_source, step, steps

from h3.common.config import FeaturesConfig, Fold, TrainConfig
from h3.common.errors import InputError
from h3.common.progress import Progress
from h3.evaluation import folds, one_fold
from h3.models import zoo
from h3.models.peers import (
    blackbox,
    habitat,
    ridge_per_experiment,
    roofline_layers,
    splitwise,
    trained_roofline,
    vidur,
)
from h3.models.protocol import Context, digest
from h3.sources import simulated
from h3.sources.experiment import Ingested
from h3.steps import metrics, physics

NAMES = tuple(zoo.PREDICTORS)
HONEST = tuple(name for name in NAMES if not zoo.sees_held_out(name))
INSIDE = "ridge_per_experiment"
FOLD = Fold(name="lomo_mixtral", kind="lomo", holdout="mixtral-8x7b-v0-1")
DENSE = ["llama-2-7b", "llama-2-70b", "codellama-34b"]
COMPOSITION = (
    "prefill_tokens",
    "decode_tokens",
    "decode_kv_tokens_sum",
    "decode_kv_tokens_mean",
    "decode_kv_tokens_max",
    "prefill_kv_tokens_sum",
    "prefill_attended_tokens",
)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A two-hundredth of the built-in data."""
    config = simulated_source(0.005, workers=1, cache_dir=tmp_path_factory.mktemp("cache"))
    return simulated.load(config).table


def context_of(name):
    return Context(features=FeaturesConfig(name="raw30")) if name == "xgboost_raw" else Context()


def fit(name, split, **params):
    """The fit as evaluation makes it, and the split that it is scored on."""
    fitted, scored, _ = one_fold.fit(zoo.make(name, params), split, context_of(name))
    return fitted, scored


def run(name, table):
    config = TrainConfig.model_validate(
        {
            "source": {"name": "simulated"},
            "fold": {"name": "lomo_mixtral", "kind": "lomo", "holdout": "mixtral-8x7b-v0-1"},
            "model": {"name": name},
            "features": {"name": "scale_free"},
            "tune": {"trials": 0},
        }
    )
    return one_fold.run_fold(Ingested(table, pd.DataFrame(), {}), config, Progress("test", StringIO()))


def served(truth_us, models=DENSE, rows=200, seed=0, noise=0.0):
    built = Steps(seed)
    for model in models:
        built.run(model, rows)
    return built.timed(truth_us, noise).table()


def error(fitted, table):
    return metrics.mape(fitted.predict(folds.without_targets(table)), table["period_us"].to_numpy())


def spoil(table, held, how):
    """The table with the held-out rows' times and batches changed."""
    rng, spoiled = np.random.default_rng(1), table.copy()
    columns = ["period_us", "num_decode_reqs", *COMPOSITION]
    for column in columns:
        values = spoiled.loc[held, column].to_numpy(float)
        changed = {
            "scaled": values * 7,
            "shuffled": rng.permutation(values),
            "noise": rng.uniform(1, 9, len(values)),
        }
        spoiled.loc[held, column] = changed[how]
    return spoiled


# What every predictor promises


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_positive_and_finite_for_a_model_never_seen(name, table):
    fitted, scored = fit(name, folds.make_split(table, FOLD))
    predicted = fitted.predict(scored.inputs)
    assert predicted.shape == (len(scored.inputs),) and predicted.dtype == float
    assert np.isfinite(predicted).all() and (predicted > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_unknown_and_empty_batches_still_get_a_positive_finite_time(name, table):
    fitted, scored = fit(name, folds.make_split(table, FOLD))
    unknown = scored.inputs.assign(**dict.fromkeys(COMPOSITION, np.nan))
    for inputs in (
        unknown,
        unknown.assign(num_prefill_reqs=0.3),
        unknown.assign(num_prefill_reqs=0.0, num_decode_reqs=0.0),
    ):
        predicted = fitted.predict(inputs)
        assert np.isfinite(predicted).all() and (predicted > 0).all()


@pytest.mark.parametrize("name", HONEST)
def test_rows_with_unknown_batches_can_be_trained_on(name, table):
    split = folds.make_split(table, FOLD)
    train = split.train.copy()
    train.loc[train.index[::3], list(COMPOSITION)] = np.nan
    predicted = zoo.make(name, {}).fit(train, context_of(name)).predict(split.inputs)
    assert np.isfinite(predicted).all() and (predicted > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_data_give_the_same_digest_and_the_description_is_json(name, table):
    one, two = (fit(name, folds.make_split(table.copy(), FOLD))[0] for _ in range(2))
    assert digest(one) == digest(two)
    assert json.loads(json.dumps(one.describe(), allow_nan=False))["model"] == name


@pytest.mark.parametrize("name", [name for name in NAMES if name != "roofline"])
def test_other_training_times_give_another_digest(name, table):
    one, other = (
        fit(name, folds.make_split(changed, FOLD))[0]
        for changed in (table, table.assign(period_us=2 * table["period_us"]))
    )
    assert digest(one) != digest(other)


@pytest.mark.parametrize("how", ["scaled", "shuffled", "noise"])
@pytest.mark.parametrize("name", HONEST)
def test_nothing_done_to_held_out_rows_changes_the_fit(name, how, table):
    held = table["model"] == FOLD.holdout
    before, after = (
        fit(name, folds.make_split(changed, FOLD))[0] for changed in (table, spoil(table, held, how))
    )
    assert digest(before) == digest(after)


@pytest.mark.parametrize("name", NAMES)
def test_a_prediction_does_not_depend_on_the_rows_beside_it(name, table):
    fitted, scored = fit(name, folds.make_split(table, FOLD))
    together = fitted.predict(scored.inputs)
    backwards = fitted.predict(scored.inputs.iloc[::-1])[::-1]
    assert together == pytest.approx(backwards, rel=1e-9)
    assert len(fitted.predict(scored.inputs.head(0))) == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_predictor_has_a_config_that_names_it(name):
    path = Path(__file__).parents[3] / "conf" / "model" / f"{name}.yaml"
    assert yaml.safe_load(path.read_text()) == {"name": name, "params": {}}


def test_only_our_two_models_are_tuned_and_an_unknown_parameter_is_an_error():
    assert [name for name in NAMES if zoo.tuned(name)] == ["xgboost_residual", "xgboost_scale_free"]
    with pytest.raises(InputError, match=r"unknown parameter 'depth'; expected none"):
        zoo.make("roofline", {"depth": 3})


# The one that sees held-out truth


def test_ridge_alone_is_marked_as_having_seen_the_held_out_group(table):
    assert [name for name in NAMES if zoo.sees_held_out(name)] == [INSIDE]
    assert run(INSIDE, table).result.sees_held_out is True
    assert run("roofline", table).result.sees_held_out is False


def test_ridge_is_scored_on_the_last_fifth_of_each_experiment_in_time_order(table):
    outcome = run(INSIDE, table)
    held = table[table["model"] == FOLD.holdout]
    for experiment, rows in held.groupby("experiment"):
        scored = outcome.predictions.loc[outcome.predictions["experiment"] == experiment, "step_id"]
        assert len(scored) == pytest.approx(0.2 * len(rows), abs=1)
        assert scored.min() > rows.loc[~rows["step_id"].isin(scored), "step_id"].max()
    assert outcome.result.n_test == len(outcome.predictions) == len(outcome.split.inputs)


def test_ridge_sees_the_held_out_steps_but_never_the_ones_that_it_is_scored_on(table):
    held = (table["model"] == FOLD.holdout).to_numpy()
    last = np.zeros(len(table), dtype=bool)
    last[held] = zoo.make(INSIDE, {}).scored(folds.without_targets(table[held]))
    before = digest(fit(INSIDE, folds.make_split(table, FOLD))[0])
    assert before != digest(fit(INSIDE, folds.make_split(spoil(table, held & ~last, "scaled"), FOLD))[0])
    assert before == digest(fit(INSIDE, folds.make_split(spoil(table, last, "scaled"), FOLD))[0])


def test_ridge_learns_nothing_from_the_training_side(table):
    training = (table["model"] != FOLD.holdout).to_numpy()
    before, after = (
        fit(INSIDE, folds.make_split(changed, FOLD))[0]
        for changed in (table, spoil(table, training, "noise"))
    )
    assert digest(before) == digest(after)
    with pytest.raises(InputError, match="fit_inside"):
        zoo.make(INSIDE, {}).fit(table, Context())


def test_ridge_recovers_a_linear_truth_and_refuses_other_or_too_short_experiments():
    table = served(
        lambda rows: 9000 + 50 * rows["num_decode_reqs"] + 3 * rows["prefill_tokens"],
        ["llama-2-7b"],
        rows=500,
    )
    inputs, predictor = folds.without_targets(table), zoo.make(INSIDE, {})
    fitted = predictor.fit_inside(inputs, table, Context())
    assert error(fitted, table[predictor.scored(inputs)]) < 0.1
    with pytest.raises(InputError, match=r"not trained inside .*codellama"):
        fitted.predict(served(physics.roofline_us, ["codellama-34b"]))
    with pytest.raises(InputError, match="4 steps; expected at least 5"):
        predictor.fit_inside(inputs.head(4), table.head(4), Context())


def test_ridge_chooses_alpha_by_the_middle_fifth_alone():
    table = served(lambda rows: 9000 + 50 * rows["num_decode_reqs"], ["llama-2-7b"], rows=100)
    inputs = folds.without_targets(table)
    assert (ridge_per_experiment.parts(inputs) == np.repeat(["train", "choose", "test"], [60, 20, 20])).all()
    level = table["period_us"].to_numpy()[:60].mean()
    flat = table.assign(period_us=np.where(np.arange(100) < 60, table["period_us"], level))
    alphas = [
        next(iter(zoo.make(INSIDE, {}).fit_inside(inputs, truth, Context()).ridges.values())).alpha
        for truth in (table, flat)
    ]
    assert alphas[0] < 1 and alphas[1] == 1e5


# Each faithful to its source


def test_blackbox_recovers_known_coefficients():
    table = served(lambda rows: 7000 + 11 * rows["prefill_tokens"] + 90 * rows["decode_tokens"])
    fitted = zoo.make("blackbox", {}).fit(table, Context())
    assert fitted.coefficients == pytest.approx([7000, 11, 90], rel=1e-6)
    assert fitted.predict(step(decode=[500] * 4, prefill=[(100, 0)])) == pytest.approx([7000 + 1100 + 360])


def test_blackbox_minimises_plain_errors_in_us():
    table = steps(*(step(decode=[500] * 8, period_us=period) for period in (1000.0, 1000.0, 10_000.0)))
    assert zoo.make("blackbox", {}).fit(table, Context()).predict(table.head(1)) == pytest.approx([4000])


def test_a_coefficient_that_would_be_negative_is_zero():
    design = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    assert blackbox.nonnegative_least_squares(design, np.array([3.0, 2.0, 1.0]), np.ones(3)) == pytest.approx(
        [2, 0]
    )
    assert blackbox.nonnegative_least_squares(
        design, np.array([1.0, 2.0, 9.0]), np.array([1, 1, 0.0])
    ) == pytest.approx([1, 1])


def test_roofline_of_a_step_worked_by_hand():
    # llama-2-7b, one GPU: attention 4 x 4096^2 and FFN 3 x 4096 x 11008 weights in 32 layers, LM head 4096 x
    # 32000, 2 bytes each; KV 2 x 4096 values of 2 bytes a token and layer; decoding is memory-bound, 3.35
    # TB/s is 3.35e6 bytes/us.
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 4096 * 32000
    kv = 32 * 2 * 4096 * 2 * 1500
    predicted = zoo.make("roofline", {}).fit(step(), Context()).predict(step(decode=[700, 800]))
    assert predicted == pytest.approx([(2 * weights + kv) / 3.35e6])


def test_roofline_layers_recovers_its_two_coefficients_and_weighs_models_alike():
    table = served(lambda rows: 1.3 * physics.roofline_us(rows) + 40 * rows["num_layers"])
    assert zoo.make("roofline_layers", {}).fit(table, Context()).coefficients == pytest.approx(
        [1.3, 40], rel=1e-6
    )
    noisy = served(lambda rows: 1.3 * physics.roofline_us(rows) + 40 * rows["num_layers"], noise=0.1)
    more = pd.concat([noisy, noisy[noisy["model"] == "llama-2-7b"]], ignore_index=True)
    one, two = (zoo.make("roofline_layers", {}).fit(each, Context()).coefficients for each in (noisy, more))
    assert one == pytest.approx(two, rel=1e-6)
    assert roofline_layers.TERMS == ("roofline_us", "layers")


def test_blis_basis_functions_of_a_step_worked_by_hand():
    # llama-2-70b on 4 GPUs: d 8192, d_kv 8 x 128, d_ff 28672, 80 layers, 64 heads; 10 new tokens after 90,
    # one decode at 500.
    d, kv, ff, layers, tp, flops, bandwidth = 8192, 1024, 28672, 80, 4, 989.5e6, 3.35e6
    gemm = layers / tp * (2 * d * (2 * d + 2 * kv) + 6 * d * ff)
    row = step("llama-2-70b", 4, decode=[500], prefill=[(10, 90)])
    assert trained_roofline.terms(row)[0] == pytest.approx(
        [
            (10 * gemm + layers * 4 * 16 * 10 * (100 + 5) * 128) / flops,
            (gemm + layers * 4 * 16 * 500 * 128) / flops,
            (d * (2 * d + 2 * kv) + 3 * d * ff) * 2 * layers / tp / bandwidth,
            2 * layers * 11 * d * 2 * 1.5 / bandwidth,
            80,
            2,
            1,
            layers * 2 * 256 * 10 * 2 / bandwidth,
            layers * 2 * 256 * 2 * 501 / bandwidth,
        ]
    )


def test_blis_computes_two_experts_a_token_and_reads_all_eight():
    # mixtral on 2 GPUs: d 4096, d_kv 1024, 32 layers, 8 experts of 14336, two a token.
    terms = trained_roofline.terms(step("mixtral-8x7b-v0-1", 2, decode=[100]))[0]
    attention, expert = 4096 * (2 * 4096 + 2 * 1024), 3 * 4096 * 14336
    assert terms[2] == pytest.approx((attention + 8 * expert) * 2 * 32 / 2 / 3.35e6)
    assert terms[1] == pytest.approx(
        (32 / 2 * (2 * attention + 2 * 2 * expert) + 32 * 4 * 16 * 100 * 128) / 989.5e6
    )


def test_blis_counts_prefill_requests_of_equal_length_one_by_one():
    one, two = (trained_roofline.prefill_pairs(step(prefill=[(10, 90)] * count))[0] for count in (1, 2))
    assert (one, two) == (10 * 105, 2 * 10 * 105)
    window = step(prefill=[(10, 90)]).assign(
        num_prefill_reqs=0.2,
        prefill_tokens=2.0,
        prefill_kv_tokens_sum=18.0,
        decode_tokens=0.0,
        num_decode_reqs=0.0,
    )
    assert trained_roofline.prefill_pairs(window) == pytest.approx([0.2 * one])


def test_trained_roofline_recovers_known_betas():
    betas = np.array([0.6, 1.5, 1.3, 2.0, 30.0, 5.0, 200.0, 4.0, 1.9])
    table = served(lambda rows: trained_roofline.terms(rows) @ betas, [*DENSE, "mixtral-8x7b-v0-1"], rows=300)
    fitted = zoo.make("trained_roofline", {}).fit(table, Context())
    assert error(fitted, served(lambda rows: trained_roofline.terms(rows) @ betas, seed=7)) < 0.01
    assert fitted.coefficients[[0, 1, 2, 4, 5, 6, 8]] == pytest.approx(betas[[0, 1, 2, 4, 5, 6, 8]], rel=0.02)


def test_vidur_predicts_a_profiled_model_well_and_another_by_the_ratio_of_rooflines():
    def truth(rows):
        return 5000 + 1.4 * physics.roofline_us(rows)

    fitted = zoo.make("vidur", {"max_rows": 3000}).fit(served(truth, ["llama-2-7b"], rows=2500), Context())
    assert error(fitted, served(truth, ["llama-2-7b"], rows=300, seed=9)) < 3
    seven = step("llama-2-7b", 1, decode=[700] * 30)
    other = habitat.as_if(seven, habitat.configurations(step("codellama-34b", 2))[0][0])
    ratio = physics.roofline_us(other) / physics.roofline_us(seven)
    assert fitted.predict(other) == pytest.approx(fitted.predict(seven) * ratio)
    assert "outside the design" in fitted.describe()["note"]


def test_vidur_keeps_a_forest_of_the_size_that_it_is_given():
    fitted = vidur.Vidur(vidur.Params(n_estimators=3, max_depth=2, max_rows=50)).fit(
        served(physics.roofline_us, rows=200), Context()
    )
    for profile in fitted.describe()["profiles"]:
        assert (profile["trees"], profile["rows"]) == (3, 50) and profile["nodes"] <= 3 * 7


def test_splitwise_reproduces_a_piecewise_linear_truth():
    def truth(rows):
        decode, new = rows["decode_tokens"], rows["prefill_tokens"]
        mixed = 8000 + 10 * (decode + new)
        return np.where(
            rows["num_prefill_reqs"] > 0, 1.1 * mixed, 8000 + 20 * decode + 50 * np.maximum(decode - 64, 0)
        )

    table = served(truth, rows=800)
    fitted = splitwise.Splitwise(splitwise.Params(knots=16)).fit(table, Context())
    assert error(fitted, served(truth, seed=4)) < 0.5
    assert fitted.predict(step(prefill=[(500, 0)])) == pytest.approx([8000 + 10 * 500], rel=0.01)
    assert fitted.predict(step(decode=[300] * 20)) == pytest.approx([8000 + 20 * 20], rel=0.01)


def test_splitwise_segments_add_up_to_the_tokens_and_the_last_is_open():
    knots = splitwise.place_knots(np.array([10.0, 10, 20, 30]), 2)
    assert knots.tolist() == [0, 10, 15]
    assert splitwise.ramps(np.array([4.0, 12, 100]), knots).tolist() == [[4, 0, 0], [10, 2, 0], [10, 5, 85]]


def test_splitwise_averages_both_curves_over_a_window_with_a_prefill_in_some_steps():
    fitted = splitwise.Splitwise(splitwise.Params()).fit(
        served(lambda rows: 9000 + 9 * physics.requests(rows), rows=300), Context()
    )
    without, holding = step(decode=[500] * 40), step(decode=[500] * 40, prefill=[(100, 0)])
    window = holding.assign(num_prefill_reqs=0.25, prefill_tokens=25.0)
    expected = 0.75 * fitted.predict(without) + 0.25 * fitted.predict(holding)
    assert fitted.predict(window) == pytest.approx(expected)


def test_habitat_returns_the_measured_times_of_its_own_steps():
    table = served(lambda rows: 3000 + 1.5 * physics.roofline_us(rows), rows=100, noise=0.1)
    fitted = zoo.make("habitat", {"neighbours": 1}).fit(table, Context())
    assert fitted.predict(folds.without_targets(table)) == pytest.approx(table["period_us"].to_numpy())


def test_habitat_scales_operators_by_roofline_and_the_rest_by_layers():
    source = step("llama-2-70b", 4, decode=[700] * 30, period_us=19_000.0)
    target = habitat.as_if(source, habitat.configurations(step("codellama-34b", 2))[0][0])
    fitted = zoo.make("habitat", {}).fit(source, Context())
    rest = 19_000 - habitat.operators_us(source).sum()
    assert fitted.predict(target) == pytest.approx([habitat.operators_us(target).sum() + rest * 48 / 80])
    below = zoo.make("habitat", {}).fit(
        source.assign(period_us=0.5 * habitat.operators_us(source).sum()), Context()
    )
    assert below.predict(target) == pytest.approx([0.5 * habitat.operators_us(target).sum()])


def test_the_nearest_configuration_of_a_model_is_itself_and_of_34b_is_70b():
    found = [habitat.configurations(step(model))[0][0] for model in (*DENSE, "mixtral-8x7b-v0-1")]
    assert [habitat.nearest(found, each) for each in found] == [0, 1, 2, 3]
    assert habitat.nearest(found[:2], found[2]) == 1
    renamed = habitat.configurations(step("llama-2-7b", 2))[0][0]
    assert len(habitat.configurations(steps(step("llama-2-7b", 1), step("llama-2-7b", 2)))) == 2
    assert habitat.nearest([found[0], renamed], renamed) == 1
