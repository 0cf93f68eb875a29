"""python -m h3.compare on tracked sweeps: what it says, what it writes, and what it refuses.

Most sweeps here are written into a store directly, a run a fold and predictor with steps of known error; one
is trained.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from h3.common import cli
from h3.common.config import TrackingConfig, from_hydra
from h3.common.errors import InputError
from h3.compare import CompareConfig, compare
from h3.evaluation import one_fold as evaluate
from h3.models import zoo as registry
from h3.models.peers import roofline
from h3.tracking import store as track
from h3.tracking.sweep import PARENT_VARIABLE
from h3.train import train
from h3.verdict import ablation
from h3.verdict.hypothesis import EXPECTED, NAMES, Expected

OURS, RIVAL, INSIDE = "xgboost_residual", "roofline_layers", "ridge_per_experiment"
STEPS = 120


def predictions(error, seed=0):
    """Steps of two experiments, off by the error in % and a little noise that is the same for every
    predictor.
    """
    rng = np.random.default_rng(seed)
    observed = rng.uniform(5e3, 4e4, STEPS)
    frame = pd.DataFrame(
        {
            "experiment": np.repeat(["one", "two"], STEPS // 2),
            "model": "m",
            "workload": "w",
            "log": "l",
            "clock": "steps",
            "step_id": np.arange(STEPS),
            "start_us": 0.0,
            "num_prefill_reqs": 0.0,
            "num_decode_reqs": 16.0,
            "prefill_tokens": 0.0,
            "decode_tokens": 16.0,
            "decode_kv_tokens_sum": 4000.0,
            "observed_us": observed,
            "base_us": observed,
            "phase": "decode",
        }
    )
    frame["predicted_us"] = observed * (1 + error / 100 + rng.normal(0, 0.002, STEPS))
    return frame.assign(ape=100 * (frame["predicted_us"] / observed - 1).abs())


class Sweeps:
    """A store of its own, and sweeps written into it."""

    def __init__(self, folder):
        self.folder = folder
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.store = track.open_store(self.uri, "h3")

    def sweep(
        self,
        overrides="fold=glob([lomo_*,lowo_*]) model=glob(*)",
        folds=EXPECTED,
        digest="d1",
        errors=None,
        failed=(),
    ):
        """A sweep with a run a fold and predictor; errors: predictor → %; failed: (fold, predictor); returns
        its id.
        """
        parent = self.store.start_parent("sweep", {"overrides": overrides, "source": "simulated"})
        for fold in folds:
            for model, error in (errors or {OURS: 5.0, RIVAL: 8.0}).items():
                self.run(parent, fold, model, None if (fold.fold, model) in failed else error, digest)
        self.store.client.set_terminated(parent, "FINISHED")
        time.sleep(0.002)  # sweeps are ordered by their start, in milliseconds
        return parent

    def run(self, parent, fold, model, error, digest="d1", **changed):
        """One run; without an error it failed before it had a result."""
        client = self.store.client
        tags = {track.PARENT_TAG: parent, "h3.role": "fold", "git_commit": "c0ffee"}
        info = client.create_run(self.store.experiment_id, run_name=f"{fold.fold}-{model}", tags=tags).info
        run, artifacts = info.run_id, Path(info.artifact_uri.removeprefix("file://"))
        if error is None:
            client.set_terminated(run, "FAILED")
            return run
        frame = predictions(error)
        result = {
            "fold": fold.fold,
            "kind": fold.kind,
            "holdout": fold.holdout,
            "source": "simulated",
            "model": model,
            "seed": 0,
            "features": "scale_free",
            "drop_groups": [],
            "ablation": "none",
            "target": "period_us",
            "data_digest": digest,
            "n_train": 1000,
            "mape_train": 1.0,
            "tuning": "off",
            "left_out": [],
            "assumptions": {},
            **evaluate.summarise(frame, 0),
            **changed,
        }
        client.log_param(run, "data_digest", digest)
        artifacts.mkdir(parents=True)
        (artifacts / "result.json").write_text(json.dumps(result))
        (artifacts / "versions.json").write_text('{"h3": "0.1"}')
        frame.to_parquet(artifacts / "predictions.parquet")
        client.set_terminated(run, "FINISHED")
        return run

    def compare(self, **options):
        """Compare into the store's folder."""
        config = {"out": str(self.folder / "out"), "tracking": TrackingConfig(uri=self.uri)} | options
        return compare(CompareConfig(**config))


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A migrated store to copy: making one takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    track.open_store(f"sqlite:///{folder / 'mlflow.db'}", "other")
    return (folder / "mlflow.db").read_bytes()


@pytest.fixture
def sweeps(tmp_path, monkeypatch, empty_store):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    return Sweeps(tmp_path)


def written(sweeps, name):
    return (sweeps.folder / "out" / name).read_text()


def test_a_whole_sweep_with_small_errors_supports_the_hypothesis_and_leaves_three_files(sweeps):
    parent = sweeps.sweep(errors={OURS: 5.0, RIVAL: 8.0, INSIDE: 2.0})
    content = sweeps.compare()
    assert content["hypothesis"] == "supported"
    assert json.loads(written(sweeps, "verdict.json")) == content
    assert [row["fold"] for row in content["folds"]] == list(NAMES)
    assert all(row["interval"][0] <= row["mape"] <= row["interval"][1] for row in content["folds"])
    assert (content["study"]["lomo_mean_mape"], content["study"]["lowo_mean_mape"]) == (2559.7, 109.7)
    assert content["provenance"]["data_digest"] == "d1"
    assert f"python -m h3.compare sweep={parent}" in content["provenance"]["commands"]
    assert {item.path for item in sweeps.store.client.list_artifacts(parent)} >= {
        "verdict.json",
        "report.md",
        "report.html",
    }


def test_the_report_opens_with_the_verdict_and_needs_no_network(sweeps):
    sweeps.sweep()
    content = sweeps.compare()
    html = written(sweeps, "report.html")
    assert html.index(content["sentence"]) < html.index("<h2")
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)
    assert "<script" not in html
    assert "data:image/svg+xml;base64," in html
    assert written(sweeps, "report.md").startswith("**supported**: " + content["sentence"])


def test_a_predictor_that_saw_the_held_out_group_is_marked_everywhere(sweeps):
    sweeps.sweep(errors={OURS: 5.0, RIVAL: 8.0, INSIDE: 2.0})
    content = sweeps.compare()
    for key in ("predictors", "significance"):
        assert {row["predictor"] for row in content[key] if row["sees_held_out"]} == {INSIDE}
    for name in ("report.html", "report.md"):
        text = written(sweeps, name)
        assert text.count(f"{INSIDE} †") == text.count(INSIDE) > 0
    assert "No rival that has not seen the held-out group is ahead on any fold." in written(
        sweeps, "report.md"
    )


def test_a_rival_that_is_ahead_is_said_to_be(sweeps):
    sweeps.sweep(errors={OURS: 5.0, RIVAL: 3.0})
    content = sweeps.compare()
    assert {row["verdict"] for row in content["significance"]} == {"worse"}
    assert "Rivals that are ahead: roofline_layers on lomo_llama2_7b by 2.0 points" in written(
        sweeps, "report.md"
    )


def test_the_same_question_can_be_asked_of_a_rival(sweeps):
    sweeps.sweep(errors={OURS: 5.0, RIVAL: 30.0})
    assert sweeps.compare(model=RIVAL)["hypothesis"] == "not_supported"


def test_a_failed_and_a_missing_fold_are_listed_and_make_it_inconclusive(sweeps):
    sweeps.sweep(folds=EXPECTED[1:], failed={("lomo_mixtral", OURS)})
    content = sweeps.compare()
    assert content["hypothesis"] == "inconclusive"
    status = {row["fold"]: row["status"] for row in content["folds"]}
    assert (status["lomo_llama2_7b"], status["lomo_mixtral"]) == ("missing", "failed")
    assert "lomo_mixtral-xgboost_residual" in {entry["what"] for entry in content["left_out"]}
    assert "lomo_llama2_7b (missing)" in written(sweeps, "report.html")


def test_one_fold_alone_is_reported_and_inconclusive(sweeps):
    sweeps.sweep(overrides="fold=lomo_mixtral", folds=EXPECTED[3:4], errors={OURS: 5.0})
    content = sweeps.compare()
    assert content["hypothesis"] == "inconclusive"
    assert [row["fold"] for row in content["folds"] if row["mape"] is not None] == ["lomo_mixtral"]
    assert content["stability"][OURS]["all"]["kendall_w"] is None


def test_a_rival_that_returned_nan_has_no_number_and_does_not_touch_the_verdict(sweeps):
    sweeps.sweep(failed={("lomo_mixtral", RIVAL)})
    content = sweeps.compare()
    assert content["hypothesis"] == "supported"
    (rival,) = (row for row in content["predictors"] if row["predictor"] == RIVAL)
    assert (rival["folds"]["lomo_mixtral"], rival["n_folds"]) == (None, 7)
    assert "roofline_layers" in {entry["what"].split("-")[-1] for entry in content["left_out"]}


def test_a_fold_whose_error_is_no_number_failed_and_is_inconclusive(sweeps):
    parent = sweeps.sweep(folds=EXPECTED[1:])
    run = sweeps.run(parent, EXPECTED[0], OURS, 5.0, mape=float("nan"))
    content = sweeps.compare()
    assert content["hypothesis"] == "inconclusive"
    assert (content["folds"][0]["status"], content["folds"][0]["reason"]) == (
        "failed",
        f"run {run} finished with mape=nan",
    )
    assert f"run {run} finished with mape=nan" in written(sweeps, "report.html")


class Broken:
    """A predictor that has no answer for the fourth row."""

    name = "broken"

    def fit(self, train, context):
        return self

    def predict(self, inputs):
        return np.where(np.arange(len(inputs)) == 3, np.nan, 1e4)

    def describe(self):
        return {"model": self.name}


def test_a_predictor_that_returns_nan_is_named_with_fold_and_row_and_its_fold_is_failed(sweeps, monkeypatch):
    monkeypatch.setitem(registry.PREDICTORS, "broken", (roofline.Params, lambda params: Broken(), False))
    parent = sweeps.sweep(
        errors={"broken": 5.0}, folds=[fold for fold in EXPECTED if fold.fold != "lowo_general"]
    )
    monkeypatch.setenv(PARENT_VARIABLE, parent)
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        config = from_hydra(
            compose(
                "config",
                [
                    "fold=lowo_general",
                    "debug=quick",
                    "model.name=broken",
                    f"tracking.uri={sweeps.uri}",
                    "source.workers=1",
                ],
            )
        )
    with pytest.raises(
        InputError,
        match=r"^broken on lowo_general, held-out rows: predicted nan us in row 3 \(step \d+ of .*-general\)",
    ):
        train(config, sweeps.folder)
    content = sweeps.compare(model="broken")
    assert content["hypothesis"] == "inconclusive"
    assert "no result for lowo_general (failed)" in content["sentence"]
    (row,) = (row for row in content["folds"] if row["fold"] == "lowo_general")
    assert row["status"] == "failed"
    assert "InputError: broken on lowo_general, held-out rows: predicted nan us in row 3" in row["reason"]
    assert row["reason"] in {entry["why"] for entry in content["left_out"]}


def test_data_of_two_digests_in_one_sweep_are_refused_with_both(sweeps):
    parent = sweeps.sweep(digest="aaaa")
    sweeps.run(parent, EXPECTED[0], "vidur", 9.0, digest="bbbb")
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


def test_an_empty_store_says_how_to_fill_it(sweeps):
    with pytest.raises(
        InputError,
        match=r"no sweep in the tracking store sqlite:.*mlflow.db; expected one made by python -m h3.train",
    ):
        sweeps.compare()


def test_a_store_that_is_no_database_is_refused_with_its_name(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database")
    with pytest.raises(
        InputError,
        match=r"tracking store sqlite:.*mlflow.db cannot be reached: .*file is not a database; expected",
    ):
        Sweeps(tmp_path)


def test_a_sweep_without_any_result_is_refused(sweeps):
    sweeps.sweep(folds=EXPECTED[:1], errors={OURS: None})
    with pytest.raises(InputError, match="has 1 runs, none with a result"):
        sweeps.compare()


def test_an_unknown_model_lists_the_known_ones(sweeps):
    with pytest.raises(InputError, match="model=nope: unknown; expected one of xgboost_residual"):
        sweeps.compare(model="nope")


def test_the_newest_sweep_is_taken_and_ablation_and_within_only_beside_it(sweeps):
    sweeps.sweep(errors={OURS: 9.0})
    wanted = sweeps.sweep()
    inside = sweeps.store.start_parent(
        "sweep", {"overrides": "fold=within_mixtral fold.holdout=codegen", "source": "simulated"}
    )
    sweeps.run(inside, Expected("within_mixtral_codegen", "within", "codegen"), OURS, 2.0)
    ablated = sweeps.store.start_parent("sweep", {"overrides": "experiment=ablation", "source": "simulated"})
    sweeps.run(ablated, EXPECTED[0], OURS, 5.0)
    sweeps.run(ablated, EXPECTED[0], OURS, 50.0, ablation="no_base")
    content = sweeps.compare()
    assert content["provenance"]["sweep"] == wanted
    assert [row["fold"] for row in content["within"]] == ["within_mixtral_codegen"]
    rows = {row["variant"]: row for row in content["ablation"]["variants"]}
    assert rows["no_base"]["lomo_effect"] == pytest.approx(45, abs=0.1)
    assert rows["no_base"]["lowo_mape"] is None


def test_an_ablation_of_other_data_is_not_taken(sweeps):
    sweeps.sweep()
    ablated = sweeps.store.start_parent("sweep", {"overrides": "experiment=ablation", "source": "simulated"})
    sweeps.run(ablated, EXPECTED[0], OURS, 5.0, digest="other")
    assert sweeps.compare()["ablation"] is None
    with pytest.raises(InputError, match="mixes data: digests d1 and other"):
        sweeps.compare(ablation=ablated)


def test_a_fold_that_was_run_twice_counts_once_the_later_one_and_says_so(sweeps):
    parent = sweeps.sweep(errors={OURS: 9.0})
    later = sweeps.run(parent, EXPECTED[0], OURS, 4.0)
    content = sweeps.compare()
    assert content["folds"][0]["mape"] == pytest.approx(4, abs=0.1)
    assert any(later in entry["why"] for entry in content["left_out"])


def test_a_run_on_other_features_is_not_taken_for_the_model_whichever_was_later_or_alone_finished(sweeps):
    parent = sweeps.sweep(errors={OURS: 5.0})
    raw = sweeps.run(parent, EXPECTED[0], OURS, 90.0, features="raw30")
    missing = sweeps.sweep(folds=EXPECTED[1:], errors={OURS: 5.0})
    alone = sweeps.run(
        missing, EXPECTED[0], OURS, 90.0, features="raw30", drop_groups=["memory"], target="duration_us"
    )
    content = sweeps.compare(sweep=parent)
    assert content["folds"][0]["mape"] == pytest.approx(5, abs=0.1)
    assert [entry["why"] for entry in content["left_out"]] == [
        f"run {raw} has features=raw30 instead of scale_free"
    ]
    content = sweeps.compare(sweep=missing)
    assert (content["hypothesis"], content["folds"][0]["mape"]) == ("inconclusive", None)
    (entry,) = content["left_out"]
    assert entry["why"].startswith(
        f"run {alone} has features=raw30 instead of scale_free, drop_groups=['memory'] instead of []"
    )


def test_a_model_that_only_ran_on_other_features_is_judged_on_those(sweeps):
    parent = sweeps.sweep(folds=(), errors={})
    for fold in EXPECTED:
        sweeps.run(parent, fold, OURS, 60.0, features="raw30", target="duration_us")
    assert sweeps.compare()["hypothesis"] == "not_supported"


def test_two_comparisons_of_one_sweep_write_the_same(sweeps):
    sweeps.sweep()
    sweeps.compare()
    first = [written(sweeps, name) for name in ("verdict.json", "report.md", "report.html")]
    sweeps.compare()
    assert [written(sweeps, name) for name in ("verdict.json", "report.md", "report.html")] == first


def test_the_waterfall_goes_from_the_studys_number_to_ours_on_the_folds_that_all_steps_have():
    def result(variant, fold, mape):
        return {"ablation": variant, "fold": fold, "kind": "lomo", "mape": mape, "mape_train": 1.0}

    results = [
        result(name, "a", value) for (name, _), value in zip(ablation.STEPS, (100, 40, 10, 8, 6), strict=True)
    ]
    steps = ablation.waterfall([*results, result("none", "b", 1000)])
    assert [step["mape"] for step in steps] == [2559.7, 100, 40, 10, 8, 6]
    assert ablation.waterfall(results[1:]) == []


def test_every_variant_of_the_ablation_composes_and_changes_what_it_is_named_after():
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        names = sorted(path.stem for path in (cli.CONF / "ablation").glob("*.yaml"))
        configs = {name: from_hydra(compose("config", [f"ablation={name}"])) for name in names}
    assert all(config.ablation.name == name for name, config in configs.items())
    assert not configs["no_base"].ablation.base
    assert configs["no_right_clock"].target == configs["step_0_study"].target == "duration"
    assert configs["no_scale_free"].features.name == configs["step_1_clock"].features.name == "raw30"
    assert configs["no_group_tuning"].ablation.inner == "random"
    assert not configs["no_equal_weights"].ablation.equal_weights
    assert configs["step_1_clock"].model.name == "xgboost_raw"
    assert configs["drop_memory"].features.drop_groups == ["memory"]
    assert {name for name, _ in ablation.STEPS} <= set(names)
    assert all(config.model.name in registry.PREDICTORS for config in configs.values())


def h3(folder, module, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"h3.{module}", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "MLFLOW_TRACKING_URI": ""},
    )


def test_a_trained_sweep_is_compared_from_the_command_line(tmp_path):
    done = h3(
        tmp_path,
        "train",
        "-m",
        "fold=lowo_general",
        "model=xgboost_residual,ridge_per_experiment",
        "debug=quick",
        "tune.trials=1",
        "replay.enabled=false",
    )
    assert done.returncode == 0, done.stderr
    done = h3(tmp_path, "compare", "out=report")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Inconclusive: no result for ")
    content = json.loads((tmp_path / "report" / "verdict.json").read_text())
    scored = {row["fold"]: row for row in content["folds"] if row["mape"] is not None}
    assert set(scored) == {"lowo_general"}
    assert all(row["mape_train"] > 0 for row in scored.values())
    ridge = next(
        row for row in content["significance"] if row["predictor"] == INSIDE and row["fold"] == "lowo_general"
    )
    assert 0 < ridge["n_steps"] < scored["lowo_general"]["n_test"] / 3


def test_a_store_that_cannot_be_reached_is_one_line_and_status_2(tmp_path):
    done = h3(tmp_path, "compare", "tracking.uri=http://127.0.0.1:9")
    assert done.returncode == 2, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "tracking store http://127.0.0.1:9 cannot be reached" in error
    assert "Traceback" not in done.stderr
