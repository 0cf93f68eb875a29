"""The table of replays: the same runs for every predictor, what diverged or failed is counted."""

import pytest

from h3.common.records import LeftOut
from h3.evaluation.replay_result import ReplayedRun, ReplayResult
from h3.evaluation.result import ExperimentErrors, FoldResult
from h3.verdict import replays, report


def entry(name, e2e, ttft=0.0, itl=0.0, measured=False, predicted=False):
    return ReplayedRun(
        experiment=name,
        e2e_mean_error=e2e,
        ttft_mean_error=ttft,
        itl_mean_error=itl,
        saturated_measured=measured,
        saturated_predicted=predicted,
        saturated=measured or predicted,
    )


def fold(experiments=(), kind="lomo", replay=None):
    return FoldResult(
        fold="a",
        kind=kind,
        holdout="a",
        model="ours",
        data_digest="d1",
        n_test=1,
        mape=1.0,
        mape_interval=(1.0, 1.0),
        experiments=experiments,
        replay=replay,
    )


def result(*entries, kind="lomo", failed=()):
    names = [each.experiment for each in entries]
    experiments = [
        ExperimentErrors(experiment=name, model="llama-2-7b", workload=name.split("-")[-1]) for name in names
    ]
    return fold(tuple(experiments), kind, ReplayResult(experiments=entries, failed=failed))


def row(results, predictor="ours", kind="lomo"):
    found = replays.compared(results, "ours").rows
    return next(each for each in found if (each.predictor, each.kind) == (predictor, kind))


def test_errors_are_medians_and_worst_of_the_size_over_all_folds_of_a_kind():
    results = {
        ("a", "ours"): result(entry("one", -3.0, 8.0, 1.0), entry("two", 5.0, -2.0, 2.0)),
        ("b", "ours"): result(entry("three", 4.0, 6.0, -9.0)),
        ("c", "ours"): result(entry("one", 1.0), kind="lowo"),
    }
    found = row(results).sub_saturation
    assert (found.n, found.e2e_median, found.e2e_worst, found.e2e_mean) == (3, 4.0, 5.0, 4.0)
    assert (found.ttft_median, found.itl_median, found.itl_worst) == (6.0, 2.0, 9.0)
    assert row(results, kind="lowo").sub_saturation.e2e_worst == 1.0


def test_an_overloaded_run_counts_only_with_the_saturated_ones():
    found = row({("a", "ours"): result(entry("one", 2.0), entry("two", 80.0, measured=True, predicted=True))})
    assert (found.n_runs, found.n_diverging) == (2, 0)
    assert (found.sub_saturation.n, found.sub_saturation.e2e_worst) == (1, 2.0)
    assert (found.all.n, found.all.e2e_worst) == (2, 80.0)


def test_a_run_that_the_predictor_alone_overloads_stays_in_and_is_counted():
    found = row({("a", "ours"): result(entry("one", 2.0), entry("two", 900.0, predicted=True))})
    assert found.n_diverging == 1
    assert (found.sub_saturation.n, found.sub_saturation.e2e_worst) == (2, 900.0)
    assert (found.unsaturated.n, found.unsaturated.e2e_worst) == (1, 2.0)


def test_a_run_of_an_earlier_version_says_of_both_queues_at_once_whether_it_is_overloaded():
    one = ReplayedRun(experiment="one", e2e_mean_error=2.0)
    two = ReplayedRun(experiment="two", e2e_mean_error=80.0, saturated=True)
    found = row({("a", "ours"): result(one, two)})
    assert (found.n_runs, found.n_diverging, found.sub_saturation.n) == (2, 0, 1)


def test_an_error_that_is_not_known_is_no_zero():
    found = row({("a", "ours"): result(entry("one", float("nan"), 3.0), entry("two", None, 5.0))}).all
    assert (found.n, found.e2e_median, found.ttft_median) == (2, None, 4.0)


def test_a_predictor_without_replay_says_why():
    off, skipped = fold(), fold(replay=ReplayResult(skipped="source=steps holds no requests"))
    assert row({("a", "ours"): off}).not_replayed == ("replay was off",)
    both = row({("a", "ours"): skipped, ("b", "ours"): skipped})
    assert both.not_replayed == ("source=steps holds no requests",)
    assert row({("a", "ours"): off}, kind="lowo").not_replayed == ("no such fold in the sweep",)


def test_a_replay_that_failed_is_listed_with_its_reason():
    failed = (LeftOut(experiment="two", reason="step 9 takes -8 us"),)
    found = row({("a", "ours"): result(entry("one", 2.0), failed=failed)})
    assert found.failed == ("two: step 9 takes -8 us",)
    assert found.n_runs == 1


def test_blis_default_misses_by_14_percent_at_the_median_and_diverges_on_one_run():
    blis = replays.blis_default()
    assert (blis.n_runs, blis.n_diverging, blis.sub_saturation.n) == (10, 1, 9)
    assert blis.sub_saturation.e2e_median == pytest.approx(14.2)


@pytest.fixture
def shown(verdict_of):
    """The report's section on replays, of results by predictor."""

    def text(source="requests", **results):
        whole = report.markdown(verdict_of(results, source))
        return whole.split("## Replays: what users would feel\n")[1].split("\n## ")[0]

    return text


def test_the_report_has_a_row_a_predictor_and_both_references(shown):
    text = shown(ours=result(entry("codegen", -3.0)), other=fold(), inside=result(entry("codegen", 1.0)))
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert "| 1 | 0 of 1 | 3.0 | 3.0 |" in lines["ours"]
    assert "not replayed: replay was off" in lines["other"]
    assert lines["inside †"].endswith("| trained on steps of the runs that it replays |")
    assert "trained on steps" not in lines["ours"]
    assert "14.3 (mean)" in lines["published LOMO"]
    assert "| 10 | 1 of 9 | 14.2 | 2,096.0 |" in lines["BLIS default"]


def test_the_built_in_runs_stand_beside_blis_run_by_run_others_do_not(shown):
    known, other = "20260217-155451-llama-2-7b-tp1-codegen", "20260301-155451-llama-2-7b-tp1-codegen"
    ours = shown(ours=result(entry(known, -3.0)))
    assert f"| {known} | LOMO | -3.0 | +0.0 | +0.0 | +51.6 | +22.0 | +51.9 |" in ours
    others = shown(ours=result(entry(other, -3.0)))
    assert "+51.6" not in others
    assert "not of this sweep's data" in others


def test_a_sweep_without_replays_says_how_to_get_them(shown):
    assert "replay.enabled=true" in shown(ours=fold())
