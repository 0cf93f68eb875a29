"""The verdict rests on intervals, never on points alone, and never on folds that are not there."""

import math

import pytest

from h3.common.config import fold, study
from h3.common.errors import InputError
from h3.evaluation.result import FoldResult
from h3.verdict.hypothesis import judge

FOLDS = [fold(name) for name in study().folds]


def results(**changed):
    """Eight folds at 8 % [7, 9]; a fold named in `changed` gets that interval, or is left out for None."""
    intervals = {each.name: (7.0, 9.0) for each in FOLDS} | changed
    return [
        FoldResult(
            fold=each.name,
            kind=each.kind,
            holdout=each.holdout,
            model="ours",
            data_digest="d1",
            n_test=100,
            mape=sum(intervals[each.name]) / 2,
            mape_interval=intervals[each.name],
        )
        for each in FOLDS
        if intervals[each.name] is not None
    ]


def row(said, name):
    return next(each for each in said.folds if each.fold == name)


def test_all_eight_folds_below_their_threshold_support_the_hypothesis():
    said = judge(results(), study())
    assert said.hypothesis == "supported"
    assert [each.fold for each in said.folds] == [each.name for each in FOLDS]
    assert said.sentence.startswith("Supported: on all 8 folds")


@pytest.mark.parametrize(
    ("name", "interval", "expected"),
    [
        ("lomo_llama2_7b", (18.0, 19.99), "supported"),
        ("lomo_llama2_7b", (18.0, 20.0), "inconclusive"),  # at the threshold is not below it
        ("lomo_mixtral", (20.5, 24.9), "supported"),  # the MoE model may err by 25 %
        ("lomo_mixtral", (24.0, 25.0), "inconclusive"),
        ("lowo_general", (20.5, 24.9), "inconclusive"),
        ("lowo_general", (25.0, 30.0), "inconclusive"),  # the lower bound must be above 25
        ("lowo_general", (25.01, 30.0), "not_supported"),
        ("lomo_mixtral", (25.01, 30.0), "not_supported"),
    ],
)
def test_one_fold_decides_by_its_interval(name, interval, expected):
    assert judge(results(**{name: interval}), study()).hypothesis == expected


def test_a_point_below_the_threshold_with_an_upper_bound_above_it_does_not_support():
    said = judge(results(lowo_codegen=(11.0, 22.0)), study())
    assert (said.hypothesis, row(said, "lowo_codegen").status) == ("inconclusive", "between")
    assert "undecided on lowo_codegen, 16.5 % [11.0–22.0]" in said.sentence


def test_a_missing_fold_is_listed_and_never_supports():
    said = judge(results(lowo_general=None), study())
    assert (said.hypothesis, row(said, "lowo_general").status) == ("inconclusive", "missing")
    assert "no result for lowo_general (missing)" in said.sentence


def test_a_failed_fold_is_listed_with_its_reason_and_never_supports():
    said = judge(results(lomo_mixtral=None), study(), failed={"lomo_mixtral": "run abc failed"})
    assert said.hypothesis == "inconclusive"
    failed = row(said, "lomo_mixtral")
    assert (failed.status, failed.reason, failed.mape) == ("failed", "run abc failed", None)


def test_a_refuted_fold_refutes_even_if_others_are_missing():
    said = judge(results(lowo_general=None, lomo_llama2_7b=(30.0, 40.0)), study())
    assert said.hypothesis == "not_supported"


def test_one_fold_alone_or_none_is_inconclusive():
    assert judge(results()[:1], study()).hypothesis == judge([], study()).hypothesis == "inconclusive"


def test_an_error_that_is_no_number_is_a_failed_fold():
    said = judge(results(lowo_general=(math.nan, math.nan)), study())
    assert (said.hypothesis, row(said, "lowo_general").status) == ("inconclusive", "failed")
    assert row(said, "lowo_general").reason == "its error is None, no number"


def test_a_fold_is_known_by_what_it_holds_out_not_by_its_name():
    renamed = [each.model_copy(update={"fold": f"lomo_{each.holdout}"}) for each in results()]
    assert judge(renamed, study()).hypothesis == "supported"


@pytest.mark.parametrize(
    ("threshold", "refute", "expected"), [(8.5, 25, "inconclusive"), (5, 6.9, "not_supported")]
)
def test_thresholds_can_be_stricter(threshold, refute, expected):
    limits = {"threshold": threshold, "moe_threshold": threshold, "refute": refute}
    assert judge(results(), study().model_copy(update=limits)).hypothesis == expected


def test_a_study_names_folds_that_say_what_they_hold_out():
    with pytest.raises(InputError, match="fold 'lomo' names no group"):
        judge([], study().model_copy(update={"folds": ("lomo",)}))


def test_a_study_of_fewer_folds_needs_those_alone():
    short = study().model_copy(update={"folds": ("lowo_general",)})
    said = judge(results(lomo_mixtral=(30.0, 40.0)), short)
    assert (said.hypothesis, [each.fold for each in said.folds]) == ("supported", ["lowo_general"])
