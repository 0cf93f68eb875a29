"""The verdict rests on intervals, never on points alone, and never on folds that are not there."""

import math

import pytest

from h3.verdict.hypothesis import EXPECTED, NAMES, Thresholds, judge


def rows(**changed):
    """Eight folds at 8 % [7, 9]; a fold named in `changed` gets that interval, or is left out for None."""
    intervals = {fold.fold: (7.0, 9.0) for fold in EXPECTED} | changed
    return [
        {
            "kind": fold.kind,
            "holdout": fold.holdout,
            "mape": sum(intervals[fold.fold]) / 2,
            "interval": list(intervals[fold.fold]),
        }
        for fold in EXPECTED
        if intervals[fold.fold] is not None
    ]


def status(said, fold):
    return next(row["status"] for row in said["folds"] if row["fold"] == fold)


def test_all_eight_folds_below_their_threshold_support_the_hypothesis():
    said = judge(rows())
    assert said["hypothesis"] == "supported"
    assert [row["fold"] for row in said["folds"]] == list(NAMES)
    assert said["sentence"].startswith("Supported: on all 8 folds")


@pytest.mark.parametrize(
    ("fold", "interval", "expected"),
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
def test_one_fold_decides_by_its_interval(fold, interval, expected):
    assert judge(rows(**{fold: interval}))["hypothesis"] == expected


def test_a_point_below_the_threshold_with_an_upper_bound_above_it_does_not_support():
    said = judge(rows(lowo_codegen=(11.0, 22.0)))
    assert (said["hypothesis"], status(said, "lowo_codegen")) == ("inconclusive", "between")
    assert "undecided on lowo_codegen, 16.5 % [11.0–22.0]" in said["sentence"]


def test_a_missing_fold_is_listed_and_never_supports():
    said = judge(rows(lowo_general=None))
    assert (said["hypothesis"], status(said, "lowo_general")) == ("inconclusive", "missing")
    assert "no result for lowo_general (missing)" in said["sentence"]


def test_a_failed_fold_is_listed_with_its_reason_and_never_supports():
    said = judge(rows(lomo_mixtral=None), failed={"lomo_mixtral": "run abc failed"})
    assert said["hypothesis"] == "inconclusive"
    row = next(row for row in said["folds"] if row["fold"] == "lomo_mixtral")
    assert (row["status"], row["reason"], row["mape"]) == ("failed", "run abc failed", None)


def test_a_refuted_fold_refutes_even_if_others_are_missing():
    assert judge(rows(lowo_general=None, lomo_llama2_7b=(30.0, 40.0)))["hypothesis"] == "not_supported"


def test_one_fold_alone_or_none_is_inconclusive():
    assert judge(rows()[:1])["hypothesis"] == judge([])["hypothesis"] == "inconclusive"


def test_an_error_that_is_no_number_is_a_failed_fold():
    said = judge(rows(lowo_general=(math.nan, math.nan)))
    assert (said["hypothesis"], status(said, "lowo_general")) == ("inconclusive", "failed")
    assert (
        next(row["reason"] for row in said["folds"] if row["fold"] == "lowo_general")
        == "its error is nan, no number"
    )


def test_a_fold_is_known_by_what_it_holds_out_not_by_its_name():
    renamed = [{**row, "fold": f"lomo_{row['holdout']}"} for row in rows()]
    assert judge(renamed)["hypothesis"] == "supported"


def test_thresholds_can_be_stricter():
    assert judge(rows(), Thresholds(target=8.5, moe=8.5, refute=25))["hypothesis"] == "inconclusive"
    assert judge(rows(), Thresholds(target=5, moe=5, refute=6.9))["hypothesis"] == "not_supported"
