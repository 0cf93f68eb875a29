"""The physical base: finds a known truth, and holds where the training models cannot tell its terms apart."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
from builders import Steps, step
from hypothesis import given, settings
from hypothesis import strategies as st

from h3.evaluation import folds
from h3.models import physical_base
from h3.models.protocol import digest
from h3.steps import metrics, physics
from h3.steps.blocks import BLOCK_ROWS

DENSE = ["llama-2-7b", "llama-2-70b", "codellama-34b"]
DIVERSE = ["llama-2-7b", "llama-2-70b", "codellama-34b", "mixtral-8x7b-v0-1"]
# Half a scale off the prior, up and down in turn.
TRUTH = {
    name: prior + (0.5 if index % 2 else -0.5) * scale
    for index, (name, (prior, scale)) in enumerate(physical_base.PRIOR.items())
}


# What only one of the dense models shows is as expected, where it is to be predicted from the others.
SHOWN_BY_TWO = TRUTH | {"two_shots": physical_base.PRIOR["two_shots"][0]}


def truth_us(table, truth=TRUTH):
    """Periods of a server that is a sum of the terms with known coefficients."""
    terms = physics.terms_us(table)
    return sum(terms[name].to_numpy() * truth[name] for name in physics.TERMS)


def served(models, rows=150, noise=0.0, seed=0, truth=TRUTH):
    """Steps of such a server; every other model sorts its logits."""
    built = Steps(seed)
    for number, model in enumerate(models):
        built.run(model, rows, truncated_sampling=number % 2)
    return built.timed(partial(truth_us, truth=truth), noise).table()


def error(fitted, table):
    return metrics.mape(fitted.predict(folds.without_targets(table)), table["period_us"].to_numpy())


def test_known_coefficients_are_recovered_from_four_diverse_models():
    fitted = physical_base.fit(served(DIVERSE), "period_us", strength=1e-12)
    assert dict(zip(physics.TERMS, fitted.coefficients, strict=True)) == pytest.approx(TRUTH, rel=0.01)


def test_more_rows_than_a_block_give_the_fit_and_the_predictions_of_one():
    once = served(DIVERSE, noise=0.05)
    often = pd.concat([once] * (BLOCK_ROWS // len(once) + 1), ignore_index=True)
    fitted, same = physical_base.fit(once, "period_us"), physical_base.fit(often, "period_us")
    np.testing.assert_allclose(same.coefficients, fitted.coefficients, rtol=1e-6)
    np.testing.assert_allclose(same.predict(often)[-len(once) :], fitted.predict(once), rtol=1e-6)


def test_known_coefficients_are_recovered_through_the_noise_with_the_usual_pull():
    fitted = physical_base.fit(served(DIVERSE, rows=400, noise=0.05), "period_us")
    found = dict(zip(physics.TERMS, fitted.coefficients, strict=True))
    assert found["weights_us"] == pytest.approx(TRUTH["weights_us"], rel=0.1)
    assert found["kv_us"] == pytest.approx(TRUTH["kv_us"], rel=0.1)
    assert error(fitted, served(DIVERSE, seed=5)) < 4


@pytest.mark.parametrize("held_out", DENSE)
def test_two_training_models_predict_a_third_within_a_few_percent(held_out):
    table = served(DENSE, noise=0.03, truth=SHOWN_BY_TWO)
    fitted = physical_base.fit(table[table["model"] != held_out].reset_index(drop=True), "period_us")
    assert error(fitted, table[table["model"] == held_out].reset_index(drop=True)) < 5


def held_out_errors(level, strength):
    """Errors on each model left out where physics misses one training model by `level` and the other by the
    opposite.
    """
    errors = []
    for held_out in DENSE:
        table = served(DENSE, noise=0.03)
        train, test = (
            table[side].reset_index(drop=True)
            for side in (table["model"] != held_out, table["model"] == held_out)
        )
        train["period_us"] *= np.where(train["model"] == train["model"].min(), 1 + level, 1 - level)
        errors.append(error(physical_base.fit(train, "period_us", strength=strength), test))
    return errors


def test_two_training_models_that_physics_misses_a_little_hold_only_because_of_the_pull():
    strength = physical_base.PRIOR_STRENGTH
    pulled = held_out_errors(0.05, strength) + held_out_errors(-0.05, strength)
    unpulled = held_out_errors(0.05, 1e-12) + held_out_errors(-0.05, 1e-12)
    assert max(pulled) < 8
    assert max(unpulled) > 3 * max(pulled)


def test_one_group_is_enough():
    table = served(["llama-2-7b"], noise=0.03)
    fitted = physical_base.fit(table, "period_us")
    assert error(fitted, table) < 4
    assert error(fitted, served(["llama-2-70b"])) < 15


def test_one_row_is_enough():
    table = step("llama-2-7b", decode=[500] * 10, period_us=9000.0)
    prior = physical_base.Base(np.array([physical_base.PRIOR[name][0] for name in physics.TERMS]))
    fitted = physical_base.fit(table, "period_us")
    assert abs(fitted.predict(table)[0] - 9000) < 0.8 * abs(prior.predict(table)[0] - 9000)


SMALL = [served(models, rows=10) for models in (DENSE, DIVERSE, DENSE[:2], DENSE[:1])]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.sampled_from(range(len(SMALL))))
def test_no_coefficient_is_negative_and_predictions_are_positive_whatever_the_times(seed, scale, index):
    rng = np.random.default_rng(seed)
    table = SMALL[index]
    fitted = physical_base.fit(table.assign(period_us=scale * rng.uniform(100, 1e6, len(table))), "period_us")
    assert (fitted.coefficients >= 0).all()
    predicted = fitted.predict(table)
    assert np.isfinite(predicted).all()
    assert (predicted > 0).all()


def test_a_model_with_many_rows_does_not_outvote_one_with_few():
    built = Steps().run("llama-2-7b", 300).run("llama-2-70b", 15)
    table = built.timed(truth_us).table()
    table["period_us"] *= np.where(table["model"] == "llama-2-7b", 1.1, 0.9)
    fitted = physical_base.fit(table, "period_us")
    misses = [
        abs(metrics.bias(fitted.predict(part), part["period_us"].to_numpy()))
        for _, part in table.groupby("model")
    ]
    assert misses[0] == pytest.approx(misses[1], abs=4)
    unweighted = physical_base.fit(table, "period_us", weights=np.ones(len(table)))
    few = table[table["model"] == "llama-2-70b"]
    assert error(unweighted, few) > error(fitted, few)


def test_an_error_of_ten_percent_costs_the_same_for_a_small_and_a_large_model():
    """Scaling one model's times by a factor scales what the fit says of it, not what it says of the other."""
    table = served(DIVERSE, noise=0.05)
    small = table["model"] == "llama-2-7b"
    fitted = physical_base.fit(table, "period_us")
    errors = [error(fitted, part) for part in (table[small], table[~small])]
    assert max(errors) < 1.3 * min(errors)


def test_other_targets_can_be_fitted():
    table = served(DIVERSE).assign(duration_us=lambda t: t["period_us"] / 100)
    fitted = physical_base.fit(table, "duration_us")
    assert np.median(fitted.predict(table) / table["duration_us"]) == pytest.approx(1, abs=0.7)


def test_the_parts_of_a_prediction_add_up_to_it_and_are_named():
    table = served(DIVERSE, rows=20)
    fitted = physical_base.fit(table, "period_us")
    parts = fitted.parts_us(table)
    assert tuple(parts.columns) == physics.TERMS == tuple(fitted.describe()["terms"])
    assert parts.sum(axis=1).to_numpy() == pytest.approx(fitted.predict(table))


def test_the_same_rows_give_the_same_digest_and_other_times_another():
    table = served(DIVERSE, rows=20)
    one, same = physical_base.fit(table, "period_us"), physical_base.fit(table.copy(), "period_us")
    other = physical_base.fit(table.assign(period_us=table["period_us"] * 1.01), "period_us")
    assert digest(one) == digest(same) != digest(other)
    json.dumps(one.describe())
