"""A step gets the interval of what is new about it, or the word that there is none."""

from __future__ import annotations

import numpy as np
import pytest

from h3 import bundle
from h3.bundle import golden as cases
from h3.bundle import uncertainty
from h3.bundle.uncertainty import Evidence, factors, intervals, merged, trained_on
from h3.common.errors import InputError
from h3.steps import catalog
from h3.steps.batch import Deployment, step_table


@pytest.fixture(scope="module")
def evidence(golden) -> Evidence:
    return bundle.read(golden).evidence


def steps(name: str, hardware: str = "H100", context: int = 700, tp: int = 1):
    arch = catalog.from_hf_config(cases.CONFIGS[name], name)
    return step_table(Deployment(arch, tp, hardware, False), [[(context, 1, 512)] * 8])


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (steps("llama-2-7b"), "known deployment"),
        (steps("llama-2-7b", context=30_000), "new workload"),
        (steps("llama-2-7b", tp=2), "new model"),
        (steps("small-1b"), "new model"),
        (steps("small-1b", context=30_000), "new model + new workload"),
        (steps("llama-2-7b", "L4"), "new model + new GPU without kernel measurements"),
        (steps("mixtral-8x7b"), "no interval: new MoE model"),
    ],
)
def test_the_kind_is_what_training_did_not_hold(step, kind, evidence):
    found = intervals(evidence, step, np.array([1000.0])).iloc[0]
    assert found["kind"] == kind
    if kind.startswith("no interval"):
        assert np.isnan(found["low_us"]) and np.isnan(found["high_us"])
    else:
        assert found["low_us"] < 1000 < found["high_us"]


def test_several_novelties_add_in_quadrature(evidence):
    parts = [factors(evidence.uncertainty, (name,), 0.9) for name in ("new_model", "new_workload")]
    both = factors(evidence.uncertainty, ("new_model", "new_workload"), 0.9)
    for end in (0, 1):
        assert np.log(both[end]) ** 2 == pytest.approx(sum(np.log(part[end]) ** 2 for part in parts))


def test_a_gpu_whose_kernels_were_measured_is_told_from_one_without(evidence):
    told = evidence.uncertainty.model_copy(update={"kernels_measured": ("H100", "L40S")})
    (kinds,) = uncertainty.kinds(Evidence(evidence.trained_on, told), steps("small-1b", "L40S"))
    assert kinds == ("new_model", "new_gpu")


def test_a_level_that_the_bundle_does_not_hold_is_refused(evidence):
    with pytest.raises(InputError, match="level=42 %; expected one that the bundle holds: 50, 80, 90, 95"):
        intervals(evidence, steps("small-1b"), np.array([1000.0]), 0.42)


def test_what_two_trainings_held_is_known_together(evidence):
    more = merged(evidence.trained_on, trained_on(steps("small-1b", context=5000)))
    both = Evidence(more, evidence.uncertainty)
    assert uncertainty.kinds(both, steps("small-1b")) == [("known",)]
    assert uncertainty.kinds(both, steps("llama-2-7b", context=4900)) == [("known",)]


def test_a_bundle_without_folds_has_no_interval_and_says_why(written):
    read = bundle.read(written)
    found = intervals(read.evidence, steps("small-1b"), np.array([1000.0]))
    assert found["kind"].tolist() == ["no interval: for tests"]
