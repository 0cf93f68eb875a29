"""Where a fold is wrong, and how, on tables small enough to work by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from h3.verdict import diagnostics


def steps(ratio, **changed):
    """Steps of 10 ms, predicted by the given factors."""
    ratio = np.asarray(ratio, dtype=float)
    columns = {
        "experiment": "a",
        "model": "m",
        "workload": "w",
        "clock": 0,
        "step_id": np.arange(len(ratio)),
        "num_prefill_reqs": 0.0,
        "num_decode_reqs": 10.0,
        "prefill_tokens": 0.0,
        "decode_tokens": 10.0,
        "decode_kv_tokens_sum": 5000.0,
        "phase": "decode",
        "observed_us": 1e4,
        "base_us": 1e4,
    } | changed
    frame = pd.DataFrame(columns, index=range(len(ratio)))
    return frame.assign(predicted_us=ratio * frame["observed_us"], ape=100 * np.abs(ratio - 1))


def test_one_factor_would_remove_all_of_a_common_error():
    found = diagnostics.diagnose(steps([1.2] * 5)).whole
    assert found.bias_share == pytest.approx(1)
    assert (found.bias, found.mape, found.over_share) == (pytest.approx(20), pytest.approx(20), 1)
    assert found.says == "over, bias"


def test_no_factor_removes_an_error_that_goes_both_ways():
    assert diagnostics.bias_share(np.array([2.0, 0.5])) == pytest.approx(0)


def test_the_share_worked_by_hand():
    # logs 0, ln 4: mean ln 2, mean square (ln 4)^2 / 2 = 2 (ln 2)^2, share 1/2.
    assert diagnostics.bias_share(np.array([1.0, 4.0])) == pytest.approx(0.5)


def test_the_share_is_what_the_best_constant_removes():
    ratio = np.random.default_rng(0).lognormal(0.1, 0.2, 500)
    errors = [(np.log(ratio * factor) ** 2).mean() for factor in np.linspace(0.7, 1.1, 4001)]
    assert diagnostics.bias_share(ratio) == pytest.approx(
        1 - min(errors) / (np.log(ratio) ** 2).mean(), abs=1e-4
    )


def test_no_error_has_no_bias():
    assert diagnostics.bias_share(np.ones(3)) == 0


def test_underprediction_is_called_so():
    assert diagnostics.diagnose(steps([0.5, 0.9, 0.95])).whole.says.startswith("under")


@pytest.mark.parametrize("key", ["by_phase", "by_batch", "by_kv", "by_period", "by_experiment"])
def test_every_slice_holds_every_step_once(key):
    rng = np.random.default_rng(0)
    frame = steps(
        rng.lognormal(0, 0.1, 400),
        num_decode_reqs=rng.integers(0, 200, 400).astype(float),
        decode_kv_tokens_sum=rng.uniform(0, 1e5, 400),
        observed_us=rng.uniform(5e3, 5e4, 400),
        phase=rng.choice(["prefill", "decode", "mixed"], 400),
        experiment=rng.choice(["a", "b"], 400),
    )
    assert sum(row.n for row in getattr(diagnostics.diagnose(frame), key)) == 400


def test_batches_are_told_apart_with_their_own_error():
    found = diagnostics.diagnose(steps([1.1, 1.3], num_decode_reqs=[4.0, 40.0])).by_batch
    assert [(row.label, row.mape) for row in found] == [
        ("1–7", pytest.approx(10)),
        ("32–63", pytest.approx(30)),
    ]


def test_unknown_kv_is_a_slice_of_its_own():
    some = diagnostics.diagnose(steps([1.1] * 4, decode_kv_tokens_sum=[np.nan, np.nan, 100.0, 200.0])).by_kv
    assert (some[-1].label, some[-1].n) == ("unknown", 2)
    none = diagnostics.diagnose(steps([1.1] * 2, decode_kv_tokens_sum=np.nan)).by_kv
    assert none[0].label == "unknown"


def test_the_worst_twenty_come_worst_first_with_their_context():
    found = diagnostics.diagnose(steps(1 + np.arange(50) / 100)).worst
    assert [row.step_id for row in found] == list(range(49, 29, -1))
    first = found[0]
    assert (first.ape, first.observed_us, first.predicted_us) == pytest.approx((49, 1e4, 1.49e4))
    assert (first.experiment, first.phase, first.num_decode_reqs) == ("a", "decode", 10)


def test_no_steps_are_no_number_not_zero():
    found = diagnostics.diagnose(steps([]))
    assert (found.whole.n, found.whole.mape, found.worst) == (0, None, [])


def test_everything_can_be_written_as_json():
    found = diagnostics.diagnose(steps([1.1, 0.9], decode_kv_tokens_sum=[np.nan, 3.0]))
    json.dumps(found.model_dump(), allow_nan=False)
