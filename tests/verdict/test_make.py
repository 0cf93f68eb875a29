"""Which runs of a sweep a verdict is made of, and what stands beside it."""

import pytest
from verdict.sweeps import ALONE, FOLDS, INSIDE, OURS, RIVAL, Sweeps

from h3.common.config import Fold
from h3.common.errors import InputError


@pytest.fixture
def sweeps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Sweeps(tmp_path)


def test_a_failed_and_a_missing_fold_are_listed_and_make_it_inconclusive(sweeps):
    sweeps.sweep(folds=FOLDS[1:], failed={("lomo_mixtral", OURS)})
    verdict = sweeps.compare()
    assert verdict.hypothesis == "inconclusive"
    status = {row.fold: row.status for row in verdict.folds}
    assert (status["lomo_llama2_7b"], status["lomo_mixtral"]) == ("missing", "failed")
    assert "lomo_mixtral-xgboost_residual" in {entry.what for entry in verdict.left_out}
    assert "lomo_llama2_7b (missing)" in sweeps.written("report.html")


def test_one_fold_alone_is_reported_and_inconclusive(sweeps):
    sweeps.sweep(overrides="fold=lomo_mixtral", folds=FOLDS[3:4], errors={OURS: 5.0})
    verdict = sweeps.compare()
    assert verdict.hypothesis == "inconclusive"
    assert [row.fold for row in verdict.folds if row.mape is not None] == ["lomo_mixtral"]
    assert verdict.stability[OURS]["all"].kendall_w is None


def test_a_rival_that_returned_nan_has_no_number_and_does_not_touch_the_verdict(sweeps):
    sweeps.sweep(failed={("lomo_mixtral", RIVAL)})
    verdict = sweeps.compare()
    assert verdict.hypothesis == "supported"
    (rival,) = (row for row in verdict.predictors if row.predictor == RIVAL)
    assert (rival.folds["lomo_mixtral"], rival.n_folds) == (None, 7)
    assert "roofline_layers" in {entry.what.split("-")[-1] for entry in verdict.left_out}


def test_a_fold_whose_error_is_no_number_failed_and_is_inconclusive(sweeps):
    parent = sweeps.sweep(folds=FOLDS[1:])
    run = sweeps.run(parent, FOLDS[0], OURS, 5.0, mape=float("nan"))
    verdict = sweeps.compare()
    assert verdict.hypothesis == "inconclusive"
    assert (verdict.folds[0].status, verdict.folds[0].reason) == (
        "failed",
        f"run {run} finished with mape=None",
    )
    assert f"run {run} finished with mape=None" in sweeps.written("report.html")


def test_data_of_two_digests_in_one_sweep_are_refused_with_both(sweeps):
    parent = sweeps.sweep(digest="aaaa")
    sweeps.run(parent, FOLDS[0], "vidur", 9.0, digest="bbbb")
    with pytest.raises(InputError, match="mixes data: digests aaaa and bbbb; expected one"):
        sweeps.compare()


def test_a_sweep_that_is_not_there_lists_the_newest_five(sweeps):
    ids = [sweeps.sweep(overrides=f"fold=lomo_mixtral seed={seed}", folds=()) for seed in range(6)]
    with pytest.raises(InputError) as refused:
        sweeps.compare(sweep="nope")
    said = str(refused.value)
    assert said.startswith("sweep nope is not in the tracking store; the newest are ")
    assert [run in said for run in ids] == [False, True, True, True, True, True]
    assert said.index(ids[5]) < said.index(ids[4])


def test_a_sweep_without_any_result_is_refused(sweeps):
    sweeps.sweep(folds=FOLDS[:1], errors={OURS: None})
    with pytest.raises(InputError, match="has 1 runs, none with a result"):
        sweeps.compare()


def test_the_newest_sweep_is_taken_and_ablation_and_within_only_beside_it(sweeps):
    sweeps.sweep(errors={OURS: 9.0})
    wanted = sweeps.sweep()
    inside = sweeps.store.start_parent(
        "sweep", {"overrides": "fold=within_mixtral fold.holdout=codegen", "source": "simulated"}
    )
    sweeps.run(inside, Fold(name="within_mixtral_codegen", kind="within", holdout="codegen"), OURS, 2.0)
    ablated = sweeps.store.start_parent("sweep", {"overrides": "experiment=ablation", "source": "simulated"})
    sweeps.run(ablated, FOLDS[0], OURS, 5.0)
    sweeps.run(ablated, FOLDS[0], OURS, 50.0, ablation="no_base")
    verdict = sweeps.compare()
    assert verdict.provenance.sweep == wanted
    assert [row.fold for row in verdict.within] == ["within_mixtral_codegen"]
    rows = {row.variant: row for row in verdict.ablation.variants}
    assert rows["no_base"].lomo_effect == pytest.approx(45, abs=0.1)
    assert rows["no_base"].lowo_mape is None


def test_an_ablation_of_other_data_is_not_taken(sweeps):
    sweeps.sweep()
    ablated = sweeps.store.start_parent("sweep", {"overrides": "experiment=ablation", "source": "simulated"})
    sweeps.run(ablated, FOLDS[0], OURS, 5.0, digest="other")
    assert sweeps.compare().ablation is None
    with pytest.raises(InputError, match="mixes data: digests d1 and other"):
        sweeps.compare(ablation=ablated)


def test_a_fold_that_was_run_twice_counts_once_the_later_one_and_says_so(sweeps):
    parent = sweeps.sweep(errors={OURS: 9.0})
    later = sweeps.run(parent, FOLDS[0], OURS, 4.0)
    verdict = sweeps.compare()
    assert verdict.folds[0].mape == pytest.approx(4, abs=0.1)
    assert any(later in entry.why for entry in verdict.left_out)


def test_a_run_on_other_features_is_not_taken_for_the_model_whichever_was_later_or_alone_finished(sweeps):
    parent = sweeps.sweep(errors={OURS: 5.0})
    raw = sweeps.run(parent, FOLDS[0], OURS, 90.0, features="raw30")
    missing = sweeps.sweep(folds=FOLDS[1:], errors={OURS: 5.0})
    alone = sweeps.run(
        missing, FOLDS[0], OURS, 90.0, features="raw30", drop_groups=["memory"], target="duration_us"
    )
    verdict = sweeps.compare(sweep=parent)
    assert verdict.folds[0].mape == pytest.approx(5, abs=0.1)
    assert [entry.why for entry in verdict.left_out] == [
        f"run {raw} has features=raw30 instead of scale_free"
    ]
    verdict = sweeps.compare(sweep=missing)
    assert (verdict.hypothesis, verdict.folds[0].mape) == ("inconclusive", None)
    (entry,) = verdict.left_out
    assert entry.why.startswith(
        f"run {alone} has features=raw30 instead of scale_free, drop_groups=['memory'] instead of []"
    )


def test_a_model_that_only_ran_on_other_features_is_judged_on_those(sweeps):
    parent = sweeps.sweep(folds=(), errors={})
    for each in FOLDS:
        sweeps.run(parent, each, OURS, 60.0, features="raw30", target="duration_us")
    assert sweeps.compare().hypothesis == "not_supported"


NEWER = (
    "drop_groups",
    "ablation",
    "target",
    "mape_train",
    "sees_held_out",
    "left_out",
    "assumptions",
    "features",
)


def test_results_of_earlier_versions_without_newer_fields_are_compared(sweeps):
    parent = sweeps.sweep(folds=(), errors={})
    for each in FOLDS:
        sweeps.run(parent, each, OURS, 5.0, without=(*NEWER, "phases", "replay", "mlflow_run_id", "seconds"))
        sweeps.run(parent, each, INSIDE, 2.0, without=NEWER)
    verdict = sweeps.compare()
    assert (verdict.hypothesis, verdict.left_out) == ("supported", [])
    assert {row.mape_train for row in verdict.folds} == {None}
    assert {row.predictor: row.sees_held_out for row in verdict.predictors} == {OURS: False, INSIDE: True}
    assert "Replay was off in this sweep" in sweeps.written("report.md")


def test_a_predictor_that_is_registered_no_more_is_an_insider_if_its_run_says_so(sweeps):
    parent = sweeps.sweep()
    sweeps.run(parent, FOLDS[0], "forgotten", 1.0, sees_held_out=True)
    assert sweeps.compare().inside == {"forgotten"}


def test_the_verdict_says_which_data_it_rests_on(sweeps):
    parent = sweeps.sweep(folds=(), errors={})
    for each in FOLDS:
        sweeps.run(parent, each, OURS, 5.0, data="simulated H100: 16 experiments")
    assert sweeps.compare().source.model_dump() == {
        "name": "simulated",
        "data": "simulated H100: 16 experiments",
    }


def test_each_learner_has_a_verdict_of_its_own_and_the_main_one_stays_that_of_the_predictor(sweeps):
    sweeps.sweep(errors={OURS: 5.0, ALONE: 30.0})
    verdict = sweeps.compare()
    assert [(each.model, each.hypothesis) for each in verdict.verdicts] == [
        (OURS, "supported"),
        (ALONE, "not_supported"),
    ]
    assert (verdict.model, verdict.hypothesis) == (OURS, "supported")
    assert [each.model for each in verdict.beside] == [ALONE]
    alone = verdict.verdicts[1]
    assert len(alone.folds) == 8 and alone.means.lomo_mean_mape == pytest.approx(30, abs=0.1)
    for name in ("report.md", "report.html"):
        assert "Not supported: even the lower bound" in sweeps.written(name).replace("\u00a0", " ")
    asked = sweeps.compare(predictor=ALONE)
    assert (asked.hypothesis, [each.model for each in asked.beside]) == ("not_supported", [OURS])
    assert asked.trees is not None  # what trees add to the base is told whoever is judged


def test_a_learner_that_was_not_run_has_no_verdict_and_one_that_failed_everywhere_has(sweeps):
    sweeps.sweep(errors={OURS: 5.0})
    assert [each.model for each in sweeps.compare().verdicts] == [OURS]
    sweeps.sweep(errors={OURS: 5.0, ALONE: None})
    verdicts = sweeps.compare().verdicts
    assert [(each.model, each.hypothesis) for each in verdicts] == [
        (OURS, "supported"),
        (ALONE, "inconclusive"),
    ]


def test_folds_that_disagree_make_the_mean_uncertain_over_models_though_every_step_agrees(sweeps):
    parent = sweeps.sweep(folds=(), errors={})
    for each, error in zip(FOLDS, [2.0, 2.0, 2.0, 10.0, 4.0, 4.0, 4.0, 4.0], strict=True):
        sweeps.run(parent, each, OURS, error)
    verdict = sweeps.compare()
    steps = max(row.interval[1] - row.interval[0] for row in verdict.folds)
    low, high = verdict.ours.lomo_over_models
    assert steps < 0.2 < 10 < high - low and low == 0
    low, high = verdict.ours.lowo_over_workloads
    assert high - low < 0.5
    assert f"[{0.0:.1f}–{verdict.ours.lomo_over_models[1]:.1f} over models]" in sweeps.written("report.md")


def test_what_trees_add_is_in_the_verdict_and_in_the_report(sweeps):
    parent = sweeps.sweep(folds=(), errors={})
    for number, each in enumerate(FOLDS):
        sweeps.run(parent, each, OURS, 3.0 + number / 10, base=5.0, params={"n_estimators": 8 * (number > 0)})
    trees = sweeps.compare().trees
    assert [row.fold for row in trees.folds] == [each.name for each in FOLDS]
    assert trees.mean_gain == pytest.approx(1.65, abs=0.02)
    assert trees.sentence.startswith("Trees improve on the base by")
    assert "physics answers alone on lomo_llama2_7b" in trees.sentence
    assert trees.sentence in sweeps.written("report.md")


def test_a_sweep_without_the_residual_model_says_nothing_of_trees(sweeps):
    sweeps.sweep(errors={RIVAL: 5.0})
    assert sweeps.compare(predictor=RIVAL).trees is None
